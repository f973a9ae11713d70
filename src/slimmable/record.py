"""What a run writes down, and how a file is written so that no crash can leave half of it.

Reports read records; nothing else is needed to know how a figure came about. This module imports no torch.
"""

import json
import math
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from slimmable.errors import DataError

SCHEMA_VERSION = 1

Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
Status: TypeAlias = Literal["running", "interrupted", "failed", "finished"]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    The new file is flushed to disk before it is renamed, so a reader, a crash or a power cut meets the old file or the
    new one, never a part. If the block raises, ``path`` stays as it was and nothing is left behind.

    Args:
        path: The file to replace or create; missing folders are made.

    Yields:
        The temporary path.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "note.txt") as temporary:
        ...     _ = temporary.write_text("done")
        >>> [file.name for file in folder.iterdir()]
        ['note.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all; see :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all; see :func:`atomic_path`."""
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: str | Path, value: object) -> None:
    """Write ``value`` to ``path`` as indented JSON, whole or not at all; see :func:`jsonable`."""
    atomic_write_text(path, json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n")


def jsonable(value: object) -> Json:
    """``value`` in the types of JSON: a plain copy that ``json.dumps`` takes.

    Dataclasses become objects, mappings keep their order, other sequences become arrays, paths become text. JSON has
    no infinities: a float that is not finite becomes ``null``.

    Raises:
        TypeError: A value of another kind.

    Example:
        >>> jsonable({"lr": 0.1, "milestones": (30, 60), "metric": float("nan")})
        {'lr': 0.1, 'milestones': [30, 60], 'metric': None}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: jsonable(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [jsonable(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"{type(value).__name__} has no JSON form; expected numbers, text, mappings, sequences, dataclasses"
    )


def environment(
    *, packages: Sequence[str] = ("torch", "torchvision", "timm", "numpy"), **extra: Json
) -> dict[str, Json]:
    """Where a figure was measured: versions, processor, cores.

    Args:
        packages: Distributions whose versions to state; those not installed are left out.
        **extra: Further entries, such as ``device="cpu"`` or ``threads=2``.

    Returns:
        A JSON object with ``slimmable``, ``python``, ``system``, ``processor``, ``cores`` (usable by this process),
        ``packages`` and the extra entries.

    Example:
        >>> environment(threads=1)["threads"]
        1
    """
    versions = {name: version for name in packages if (version := _version(name)) is not None}
    return {
        "slimmable": _version("slimmable"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "packages": dict(versions),
        **extra,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor(root: Path = Path("/")) -> str:
    """The processor's name; of many boards with ARM, whose processor has none, the board's.

    Args:
        root: Where the system's files are.
    """
    # platform.processor() is empty on most Linux systems.
    lines = _text(root / "proc" / "cpuinfo").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    board = _text(root / "proc" / "device-tree" / "model").strip("\0 \n")
    return next(names, board or platform.processor())


def cpu_quota(root: Path = Path("/")) -> float | None:
    """How many cores' time the control groups (version 2) leave to this process; None where they set no limit.

    Args:
        root: Where the system's files are.
    """
    top = root / "sys" / "fs" / "cgroup"
    lines = _text(root / "proc" / "self" / "cgroup").splitlines()
    own = top / next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    limits: list[float] = []
    for group in (own, *own.parents):
        quota, _, period = _text(group / "cpu.max").strip().partition(" ")
        if quota.isdigit() and period.isdigit():
            limits.append(int(quota) / int(period))
        if group == top:
            break
    return min(limits, default=None)


def _text(path: Path) -> str:
    """What a file of the system says; nothing if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(kw_only=True)
class RunRecord:
    """One training run, as its ``record.json`` tells it.

    Attributes:
        task: Name of the task.
        metric: Its figure of merit.
        higher_is_better: Whether a larger figure is the better one.
        settings: The complete settings of the loop.
        sampler: The sampler's description.
        environment: Where it ran; see :func:`environment`.
        history: One entry per finished epoch, oldest first.
        status: ``running`` until the loop ends in one way or another.
        created: When the run was first started.
        updated: When this record was last written.
        schema: Version of this layout.
    """

    task: str
    metric: str
    higher_is_better: bool
    settings: dict[str, Json]
    sampler: dict[str, Json]
    environment: dict[str, Json]
    history: list[dict[str, Json]] = field(default_factory=list)
    status: Status = "running"
    created: str = field(default_factory=now)
    updated: str = field(default_factory=now)
    schema: int = SCHEMA_VERSION

    def save(self, path: str | Path) -> None:
        """Write the record as JSON, whole or not at all."""
        self.updated = now()
        atomic_write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record.

        Raises:
            DataError: The file is missing, is not a record, or has another schema version.
        """
        try:
            found: Any = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not a readable run record: {error}") from error
        schema = found.get("schema") if isinstance(found, dict) else None
        if schema != SCHEMA_VERSION:
            raise DataError(
                f"{path} has schema version {schema!r}; expected {SCHEMA_VERSION} (written by another release)"
            )
        expected = {item.name for item in fields(cls)}
        if set(found) != expected:
            names = ", ".join(sorted(set(found) ^ expected))
            raise DataError(f"{path} is not a run record: missing or unknown entries: {names}")
        return cls(**found)
