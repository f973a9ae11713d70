"""Files in safetensors format whose large tensors begin where cache lines do.

The format says nothing of alignment, and its own writer sorts by type and name. A runtime that multiplies with a tensor
where it stands in the file is as fast there as with one of its own, and gives the same bits, only if it begins at a
multiple of 16 bytes or more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from slimmable.runtime.artifact import DTYPES
from slimmable.runtime.parts import ALIGNMENT

_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def save_aligned(tensors: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a file; every tensor whose size is a multiple of 64 bytes begins at one.

    Args:
        tensors: By name; of the types that artifacts hold.
        path: Where.
        metadata: Texts by name.

    >>> import tempfile
    >>> from safetensors.numpy import load_file
    >>> path = Path(tempfile.mkdtemp(), "tensors.safetensors")
    >>> save_aligned({"a": np.float32([1]), "b": np.zeros(16, np.float32)}, path, {"format": "none"})
    >>> load_file(path)["a"], path.read_bytes()[-4:] == np.float32(1).tobytes()
    (array([1.], dtype=float32), True)
    """
    names = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name in names:
        tensor = tensors[name]
        place = [at, at := at + tensor.nbytes]
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(np.ascontiguousarray(tensors[name]).data)
