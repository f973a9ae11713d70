"""An artifact of one vector, and a backend that adds it up."""

import hashlib
import time
from dataclasses import dataclass, field

import numpy as np

from slimmable.core.axes import Axis, Segment
from slimmable.core.space import WidthGroup, WidthSpace
from slimmable.export.artifact import save
from slimmable.runtime.artifact import deflated
from slimmable.runtime.base import Layout
from slimmable.runtime.manifest import Cost, Graphs, Manifest, Part, StoredWidths, Tensor

COUNTS = (2, 4, 6, 8)
SCALES = (1.0, 3.0, 5.0, 7.0)
OUTPUTS = tuple(count * scale for count, scale in zip(COUNTS, SCALES, strict=True))


@dataclass
class FakeSession:
    """Adds up its weight; says when it is run after it was closed, or while it is being closed."""

    weight: np.ndarray
    backend: "FakeBackend"
    running: int = 0
    closed: bool = False

    def run(self, inputs):
        assert not self.closed
        self.running += 1
        self.backend.pause()
        assert not self.closed
        self.running -= 1
        return [inputs[0] + self.weight.sum()]

    def close(self):
        assert not self.closed
        assert not self.running
        self.closed = True


@dataclass
class FakeBackend:
    layout: Layout = field(default_factory=Layout)
    keeps_arrays: bool = True
    seconds: float = 0.0
    building: float = 0.0
    built: list[int] = field(default_factory=list)
    prepared: list[bytes] = field(default_factory=list)
    sessions: list[FakeSession] = field(default_factory=list)

    def prepare(self, graph):
        self.prepared.append(graph)

    def tidy(self):
        pass

    def pause(self):
        time.sleep(self.seconds)

    def bind(self, graph, arrays, signature):
        return lambda: self.build(arrays, signature)

    def build(self, arrays, signature):
        time.sleep(self.building)
        assert signature.inputs == ("input",)
        self.built.append(len(arrays["weight"]))
        self.sessions.append(FakeSession(arrays["weight"], self))
        return self.sessions[-1]


def write(path):
    """Four widths of one vector of ones, each with a scale: the output is the input plus count times scale.

    No mixture of two widths' numbers has the sum of a third.
    """
    space = WidthSpace((WidthGroup(name="only", base=8, minimum=2, maximum=8, divisor=2),), 0.25, 1.0)
    part = Part(name="weight", source="weight", moving=((0, Axis((Segment(0, 1),))),), scale=0, shape=(8,))
    tensors = {"weight/weight": np.ones(8, np.float32)}
    for at, (count, scale) in enumerate(zip(COUNTS, SCALES, strict=True)):
        tensors[f"table/{at}"] = np.full(count, scale, np.float32)
    tensors |= {f"graph/onnx/{at}": np.frombuffer(deflated(b"g", b"g" if at else b""), np.uint8) for at in range(4)}
    manifest = Manifest(
        name="only",
        space=space,
        parts=(part,),
        widths=tuple(
            StoredWidths(
                name=f"{count / 8}",
                widths=space.widths([count]),
                costs={"macs": Cost(value=float(count), unit="multiply-accumulates")},
            )
            for count in COUNTS
        ),
        inputs=(Tensor(name="input", shape=(None,), dtype="float32"),),
        outputs=(Tensor(name="output", shape=(None,), dtype="float32"),),
        graphs={"onnx": Graphs(parts=(("weight",),) * 4, extra=((),) * 4)},
        checksums={name: hashlib.sha256(each.data).hexdigest() for name, each in tensors.items()},
    )
    save(path, manifest, tensors)
