"""A coverage table in the making: rows written one by one, and taken up again if nothing that made them has changed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from slimmable.errors import DataError
from slimmable.recipes.coverage import CoverageRow
from slimmable.record import Json, atomic_write_json, environment, now

SCHEMA_VERSION = 1

_DECIDING = ("core", "cost", "measure", "models", "recipes/coverage.py")
"""What of this package decides what a row says."""

_PACKAGES = ("torch", "torchvision", "timm", "transformers", "numpy")


@cache
def sources_digest() -> str:
    """Digest of the sources that decide what a row says: other code may find something else.

    >>> len(sources_digest())
    16
    """
    root = Path(__file__).parents[1]
    parts = [root / part for part in _DECIDING]
    files = sorted(file for part in parts for file in ([part] if part.is_file() else part.rglob("*.py")))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(kw_only=True)
class CoverageRecord:
    """Rows by model, and what made them.

    Attributes:
        options: Keywords of the conversion.
        rows: By name of the model, in the order in which they were measured.
        environment: Versions, processor, threads; see :func:`slimmable.record.environment`.
        code: Digest of this package's sources.
        updated: When the last row was added.
    """

    options: dict[str, Json]
    rows: dict[str, CoverageRow] = field(default_factory=dict)
    environment: dict[str, Json] = field(
        default_factory=lambda: environment(packages=_PACKAGES, threads=torch.get_num_threads())
    )
    code: str = field(default_factory=sources_digest)
    updated: str = field(default_factory=now)

    def add(self, row: CoverageRow) -> None:
        """One more row, in the place of an older one of the model."""
        self.rows[row.model] = row
        self.updated = now()

    def take_up(self, path: str | Path) -> str | None:
        """Take the sound rows of the record in ``path``, if there is one and the same code made it.

        Rows with faults are left out: whoever goes on wants them measured again.

        Returns:
            What has changed since, if that is why nothing was taken.

        Raises:
            DataError: The file holds something else.
        """
        path = Path(path)
        if not path.exists():
            return None
        found = _read(path)
        changed = [name for name, own in self._made_by().items() if found.get(name) != own]
        if changed:
            return ", ".join(changed)
        try:
            rows = [CoverageRow.from_json(row) for row in found["rows"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} holds a row of another form ({error!r}); name another file") from error
        self.rows |= {row.model: row for row in rows if not row.faults}
        return None

    def save(self, path: str | Path) -> None:
        """Write all rows as JSON, whole or not at all."""
        written = {"schema": SCHEMA_VERSION, "updated": self.updated, "environment": self.environment}
        atomic_write_json(path, written | self._made_by() | {"rows": list(self.rows.values())})

    def _made_by(self) -> dict[str, Json]:
        """What decides the rows: they hold again as long as it stays."""
        return {"code": self.code, "packages": self.environment["packages"], "options": self.options}


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable as JSON: {error}; name another file") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA_VERSION or not isinstance(found.get("rows"), list):
        raise DataError(f"{path} is no coverage record of schema version {SCHEMA_VERSION}; name another file")
    return found
