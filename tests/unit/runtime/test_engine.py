import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from slimmable.core.axes import Axis, Segment
from slimmable.core.space import WidthGroup, WidthSpace
from slimmable.errors import ArtifactError, DeploymentError
from slimmable.export.artifact import save
from slimmable.runtime import Artifact, Runtime, backends
from slimmable.runtime.artifact import deflated
from slimmable.runtime.base import Layout
from slimmable.runtime.buffers import Buffer
from slimmable.runtime.manifest import Cost, Graphs, Manifest, Part, StoredWidths, Tensor


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
        time.sleep(self.backend.seconds)
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

    def bind(self, graph, arrays, signature):
        return lambda: self.build(arrays, signature)

    def build(self, arrays, signature):
        time.sleep(self.building)
        assert signature.inputs == ("input",)
        self.built.append(len(arrays["weight"]))
        self.sessions.append(FakeSession(arrays["weight"], self))
        return self.sessions[-1]


@pytest.fixture
def backend(monkeypatch) -> FakeBackend:
    fake = FakeBackend()
    monkeypatch.setitem(backends._BACKENDS, "onnx", lambda options: fake)
    return fake


@pytest.fixture
def path(tmp_path):
    """Four widths of one vector of ones: the output is the input plus the number of channels."""
    space = WidthSpace((WidthGroup(name="only", base=8, minimum=2, maximum=8, divisor=2),), 0.25, 1.0)
    part = Part(name="weight", source="weight", moving=((0, Axis((Segment(0, 1),))),), shape=(8,))
    counts = (2, 4, 6, 8)
    tensors = {"weight/weight": np.ones(8, np.float32)}
    tensors |= {f"table/{at}": np.empty(0, np.float32) for at in range(4)}
    tensors |= {f"graph/onnx/{at}": np.frombuffer(deflated(b"g", b"g" if at else b""), np.uint8) for at in range(4)}
    import hashlib

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
            for count in counts
        ),
        inputs=(Tensor(name="input", shape=(None,), dtype="float32"),),
        outputs=(Tensor(name="output", shape=(None,), dtype="float32"),),
        graphs={"onnx": Graphs(parts=(("weight",),) * 4, extra=((),) * 4)},
        checksums={name: hashlib.sha256(each.data).hexdigest() for name, each in tensors.items()},
    )
    save(tmp_path / "only.slim", manifest, tensors)
    return tmp_path / "only.slim"


def channels(runtime: Runtime, **how) -> float:
    return runtime.run(np.zeros(1, np.float32), **how)[0].item()


def test_it_begins_at_the_widest_and_runs_where_it_is_set(path, backend):
    with Runtime(path) as runtime:
        assert (runtime.active, channels(runtime)) == (3, 8)
        for width, expected in (("0.5", 4), (0.25, 2), (2, 6), (runtime.artifact.widths[3].widths, 8)):
            runtime.set(width)
            assert channels(runtime) == expected
        assert len(backend.prepared) == 4


def test_sessions_used_last_are_kept_and_no_others(path, backend):
    with Runtime(path, cache=2) as runtime:
        runtime.set(0)
        runtime.set(3)
        assert backend.built == [8, 2]
        assert set(runtime.ready) == {0, 3}
        runtime.set(1)
        assert set(runtime.ready) == {3, 1}
        assert [session.closed for session in backend.sessions] == [False, True, False]
    assert all(session.closed for session in backend.sessions)


def test_switches_in_quick_succession_share_two_buffers(path, backend, monkeypatch):
    made = []

    class Counted(Buffer):
        def __init__(self, nbytes):
            super().__init__(nbytes)
            made.append(self)

    monkeypatch.setattr("slimmable.runtime.buffers.Buffer", Counted)
    with Runtime(path, cache=1) as runtime:
        for at in (0, 1, 2, 3) * 5:
            runtime.set(at)
            assert channels(runtime) == (2, 4, 6, 8)[at]
    assert len(made) == 2  # of the width that serves, and of the one that is built


def test_one_request_may_run_at_another_width(path, backend):
    with Runtime(path) as runtime:
        assert channels(runtime, at="0.25") == 2
        assert (runtime.active, channels(runtime)) == (3, 8)


def test_the_old_width_serves_until_the_new_one_is_ready(path, backend):
    with Runtime(path) as runtime:
        backend.building = 0.3
        runtime.set(0, wait=False)
        assert channels(runtime) == 8
        until = time.monotonic() + 5
        while runtime.active != 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert channels(runtime) == 2


def test_of_several_switches_the_last_one_counts(path, backend):
    with Runtime(path) as runtime:
        backend.building = 0.05
        for index in (0, 1, 2, 0, 1):
            runtime.set(index, wait=False)
        until = time.monotonic() + 5
        while runtime.active != 1 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)
        assert runtime.active == 1
        assert len(backend.built) <= 3  # the first may have begun before the others were asked for


def test_no_request_fails_while_widths_switch(path, backend):
    backend.seconds = 0.001
    failures: list[BaseException] = []
    served: set[float] = set()
    with Runtime(path, cache=1) as runtime:
        stop = threading.Event()

        def ask():
            while not stop.is_set():
                try:
                    served.add(channels(runtime))
                except BaseException as error:
                    failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for index in range(100):
            runtime.set(index % 4, wait=index % 3 == 0)
            time.sleep(0.002)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert served == {2, 4, 6, 8}
    assert all(session.closed for session in backend.sessions)


def test_a_build_that_fails_leaves_the_old_width_serving(path, backend, monkeypatch):
    with Runtime(path) as runtime:
        monkeypatch.setattr(backend, "build", lambda *a: (_ for _ in ()).throw(DeploymentError("no memory")))
        with pytest.raises(DeploymentError, match="no memory"):
            runtime.set(0)
        assert (runtime.active, channels(runtime)) == (3, 8)


def test_wrong_uses_say_what_is_wrong(path, backend):
    with pytest.raises(DeploymentError, match="cache is 0"):
        Runtime(path, cache=0)
    with pytest.raises(DeploymentError, match="no backend 'tpu'"):
        Runtime(path, backend="tpu")
    with pytest.raises(ArtifactError, match="has no graphs for torch"):
        Runtime(path, backend="torch")
    with pytest.raises(ArtifactError, match="cannot be read"):
        Artifact(path.with_name("missing.slim"))
    runtime = Runtime(path)
    with pytest.raises(ArtifactError, match="does not hold the width"):
        runtime.set("0.3")
    runtime.close()
    with pytest.raises(DeploymentError, match="has been closed"):
        channels(runtime)


def test_a_group_of_absurd_width_is_refused_before_its_choices_are_listed(path):
    text = Artifact(path).manifest.to_text()
    with pytest.raises(ArtifactError, match="a group has the maximum 8589934592"):
        Manifest.from_text(text.replace('"maximum":8', f'"maximum":{1 << 33}'))
