"""Thousands of damaged artifacts: each is refused with an error of ours, or is the network that it was.

Bits flip, bytes are changed, inserted, taken out, the end is missing, two tensors change places; in a further part the
description itself is changed and its checksum made to fit, as only somebody who means it would: then the file may
describe another network, but nothing else than our errors may come of it. ``wrong`` counts everything else.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from common import conclude, parser
from torch import nn

import slimmable
from slimmable.errors import SlimmableError
from slimmable.export.artifact import write_artifact
from slimmable.runtime import Artifact, Runtime


def network(folder: Path) -> Path:
    """A small artifact with convolutions, batch norm, a concatenation and a linear layer."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 16, 1)
            self.norm, self.head = nn.BatchNorm2d(24), nn.Linear(24, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    net = slimmable.convert(Joined(), x, divisor=2).eval()
    widths = {"0.5": net.space.uniform(0.5), "1.0": net.space.largest, "drawn": net.space.random(Random(0))}
    slimmable.calibrate(net, [x], list(widths.values()))
    return write_artifact(net, folder / "small.slim", widths, example_inputs=x, backends=["onnx"]).path


def damaged(content: bytes, random: Random) -> bytes:
    """A copy with some damage; half of it meets the header."""
    mutated = bytearray(content)
    header = int.from_bytes(content[:8], "little") + 8
    end = header if random.random() < 0.5 else len(content)
    start, length = random.randrange(end), random.randrange(1, 64)
    match random.randrange(6):
        case 0:
            mutated[start] ^= 1 << random.randrange(8)
        case 1:
            mutated[start : start + length] = random.randbytes(length)
        case 2:
            mutated[start:start] = random.randbytes(length)
        case 3:
            del mutated[start : start + length]
        case 4:
            del mutated[start:]
        case _:
            other = random.randrange(len(content) - length)
            mutated[start : start + length], mutated[other : other + length] = (
                mutated[other : other + length],
                mutated[start : start + length],
            )
    return bytes(mutated)


def forged(content: bytes, random: Random) -> bytes:
    """A copy whose description says something else, with a checksum that fits."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    manifest = json.loads(header["__metadata__"]["manifest"])
    for _ in range(random.randrange(1, 4)):
        _change(manifest, random)
    text = json.dumps(manifest, separators=(",", ":"))
    header["__metadata__"] |= {"manifest": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)
    return len(packed).to_bytes(8, "little") + packed + content[8 + length :]


def _change(value: Any, random: Random) -> None:
    """Change something somewhere in nested lists and dictionaries."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = random.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and random.random() < 0.9:
            value = value[key]
            continue
        match random.randrange(4):
            case 0:
                value[key] = random.choice(
                    [None, -1, 0, 1, 2, 7, 1 << 33, 1 << 70, 0.5, True, "", "a", [], {}, [0], [[1]]]
                )
            case 1 if isinstance(value[key], int):
                value[key] += random.choice([-1, 1, 2])
            case 2:
                value[key] = random.choice([value[other] for other in keys])
            case _:
                del value[key]
        return


def outputs(artifact: Artifact, x: np.ndarray) -> list[np.ndarray]:
    """What the network gives at every width."""
    with Runtime(artifact) as runtime:
        return [runtime.run(x, at=at)[0] for at in range(len(artifact.widths))]


def main() -> None:
    """Run; see ``--help``."""
    command = parser(__doc__, rounds=10_000)
    options = command.parse_args()
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    counts = {"refused": 0, "same": 0, "forged_refused": 0, "forged_accepted": 0, "wrong": 0}
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = network(Path(folder))
        content, original = path.read_bytes(), Artifact(path)
        x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
        expected = outputs(original, x)
        for seed in range(options.rounds):
            random = Random(seed)
            forging = seed % 5 == 4
            other = Path(folder) / f"{seed}.slim"
            other.write_bytes(forged(content, random) if forging else damaged(content, random))
            try:
                found = Artifact(other)
                made = outputs(found, x)
                same = found.manifest == original.manifest and all(map(np.array_equal, made, expected))
                counts["forged_accepted" if forging else "same" if same else "wrong"] += 1
                if not same and not forging:
                    failures.append(f"{seed}: another network")
            except SlimmableError:
                counts["forged_refused" if forging else "refused"] += 1
            except Exception as error:
                counts["wrong"] += 1
                failures.append(f"{seed}: {type(error).__name__}: {error}")
            other.unlink()
    for failure in failures[:20]:
        print(failure)
    figures = {"mutated": options.rounds, **counts, "seconds": time.perf_counter() - began}
    conclude("fuzz", options, figures=figures, measured={"failures": list(failures)})


if __name__ == "__main__":
    main()
