"""Packages of machine code that AOTInductor makes for the processor of this machine."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimmable.errors import ExtractionError, MissingDependencyError
from slimmable.export.standalone.torch_export import exported
from slimmable.export.standalone.writing import Run
from slimmable.runtime.base import Signature

_COMPILERS = ("g++", "clang++", "c++")


def written(module: nn.Module, example: tuple[Tensor, ...], path: Path, signature: Signature) -> Run:
    """Write ``path``; what runs it in PyTorch."""
    _require_compiler()
    program = exported(module, example)
    level = logging.getLogger("torch._inductor").level
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
            _shrink(path)
            package: Any = torch._inductor.aoti_load_package(str(path))
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise ExtractionError(f"AOTInductor cannot compile {type(module).__name__}: {reason}") from error
    finally:
        logging.getLogger("torch._inductor").setLevel(level)

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            outputs = package(*inputs)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return run


def _shrink(package: Path) -> None:
    """Compress a package, and leave the sources out of it, which name files of this machine.

    Their empty files stay: the loader finds the others by their names.
    """
    smaller = package.with_suffix(".smaller")
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as new:
        for each in old.infolist():
            new.writestr(each.filename, b"" if each.filename.endswith(".cpp") else old.read(each))
    smaller.replace(package)


def _require_compiler() -> None:
    named = os.environ.get("CXX")
    if not any(map(shutil.which, (named,) if named else _COMPILERS)):
        raise MissingDependencyError(
            f"AOTInductor needs a C++ compiler; none of {named or ', '.join(_COMPILERS)} was found on the path; "
            "install one (on Debian: apt-get install g++), or write the format torch-export, which needs none",
            name="g++",
        )
