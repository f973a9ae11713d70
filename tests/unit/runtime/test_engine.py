import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from slimmable.errors import ArtifactError, DeploymentError
from slimmable.runtime import AdaptiveModel, Artifact, Runtime
from slimmable.runtime.buffers import Buffer
from slimmable.runtime.manifest import Manifest
from slimmable.runtime.metrics import PrometheusMetrics
from tests.unit.runtime.fake_backend import OUTPUTS


def output(runtime: Runtime, **how) -> float:
    return runtime.run(np.zeros(1, np.float32), **how)[0].item()


def wait_for(happened):
    until = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_it_begins_at_the_widest_and_runs_where_it_is_set(path, backend):
    with Runtime(path) as runtime:
        assert (runtime.active, output(runtime)) == (3, OUTPUTS[3])
        for width, at in (("0.5", 1), (0.25, 0), (2, 2), (runtime.artifact.widths[3].widths, 3)):
            runtime.set(width)
            assert output(runtime) == OUTPUTS[at]
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


def test_the_next_switch_drops_what_a_single_request_left_though_it_builds_nothing(path, backend):
    with Runtime(path, cache=1) as runtime:
        output(runtime, at=0)
        assert runtime.ready == (3, 0)
        runtime.set(3)
        assert runtime.ready == (3,)
        wait_for(lambda: backend.sessions[1].closed)


def test_a_width_that_single_requests_use_is_kept_for_them(path, backend):
    with Runtime(path, cache=3) as runtime:
        for at in (0, 1, 0, 2):
            output(runtime, at=at)
        assert set(runtime.ready) == {3, 0, 2}
        assert backend.built == [8, 2, 4, 6]


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
            assert output(runtime) == OUTPUTS[at]
    assert len(made) == 2  # of the width that serves, and of the one that is built


def test_one_request_may_run_at_another_width(path, backend):
    with Runtime(path) as runtime:
        assert output(runtime, at="0.25") == OUTPUTS[0]
        assert (runtime.active, output(runtime)) == (3, OUTPUTS[3])


def test_the_old_width_serves_until_the_new_one_is_ready(path, backend):
    with Runtime(path) as runtime:
        backend.building = 0.3
        runtime.set(0, wait=False)
        assert output(runtime) == OUTPUTS[3]
        wait_for(lambda: runtime.active == 0)
        assert output(runtime) == OUTPUTS[0]


def test_of_several_switches_the_last_one_counts(path, backend):
    with Runtime(path) as runtime:
        backend.building = 0.05
        for index in (0, 1, 2, 0, 1):
            runtime.set(index, wait=False)
        wait_for(lambda: runtime.active == 1)
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
                    served.add(output(runtime))
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
    assert served == {*OUTPUTS}
    assert all(session.closed for session in backend.sessions)


@pytest.mark.parametrize("cache", [1, 2, 4])
def test_a_request_gets_the_numbers_of_its_width_whatever_is_built_meanwhile(path, backend, monkeypatch, cache):
    begun, over, here = threading.Semaphore(0), threading.Event(), threading.current_thread()

    def pause():
        """The others read their weights only when all widths have been built and run."""
        if threading.current_thread() is not here:
            begun.release()
            over.wait(10)

    monkeypatch.setattr(backend, "pause", pause)
    with Runtime(path, cache=cache) as runtime, ThreadPoolExecutor(2) as pool:
        for asked in (3, 0, 1, 2, 1, 3):
            over.clear()
            runtime.set(asked)
            requests = [pool.submit(output, runtime) for _ in range(2)]
            for _ in requests:
                begun.acquire(timeout=10)
            for at in (0, 3, 1, 2):
                assert output(runtime, at=at) == OUTPUTS[at]
                runtime.set(3 - at)
                assert output(runtime) == OUTPUTS[3 - at]
            over.set()
            assert [request.result() for request in requests] == [OUTPUTS[asked]] * 2


def test_a_build_that_fails_leaves_the_old_width_serving(path, backend, monkeypatch):
    with Runtime(path) as runtime:
        monkeypatch.setattr(backend, "build", lambda *a: (_ for _ in ()).throw(DeploymentError("no memory")))
        with pytest.raises(DeploymentError, match="no memory"):
            runtime.set(0)
        assert (runtime.active, output(runtime)) == (3, OUTPUTS[3])


def test_a_background_build_that_fails_is_told_and_tried_again_when_asked_for(path, backend, monkeypatch, caplog):
    def fail(*arguments):
        raise DeploymentError("no memory")

    with Runtime(path) as runtime:
        with monkeypatch.context() as patch:
            patch.setattr(backend, "build", fail)
            runtime.set(0, wait=False)
            wait_for(lambda: runtime.failures)
            assert runtime.failures == {0: "DeploymentError: no memory"}
            assert "width 0.25 cannot be built; 1.0 serves on" in caplog.text
            assert output(runtime) == OUTPUTS[3]
        runtime.set(0, wait=False)
        assert not runtime.failures
        wait_for(lambda: runtime.active == 0)
        assert output(runtime) == OUTPUTS[0]


def test_a_model_does_without_a_width_that_cannot_be_built(path, backend, monkeypatch, caplog):
    def fail(arrays, signature):
        raise MemoryError("no room for it")

    with AdaptiveModel(path, cache=False, interval=0.0, metrics=PrometheusMetrics()) as model:
        monkeypatch.setattr(backend, "build", fail)
        model.pin("0.25", wait=False)
        wait_for(lambda: model(np.zeros(1, np.float32)) and model.state.pinned is None)

        assert model.state.active == "1.0"
        assert model.state.switches[-1].reason == "no 0.25: MemoryError: no room for it"
        assert 'slimmable_active_width{width="1.0"} 1.0' in model.metrics.page()[0].decode()


def test_a_closed_runtime_says_so_whatever_is_asked_of_it(path, backend):
    runtime = Runtime(path)
    runtime.close()

    asks = (runtime.run, lambda: runtime.set(0), lambda: runtime.set(0, wait=False), lambda: runtime.build(0))
    for ask in asks:
        with pytest.raises(DeploymentError, match="has been closed"):
            ask()


def test_a_session_that_is_ready_after_the_end_is_closed_too(path, backend, monkeypatch):
    begun, ended, build = threading.Event(), threading.Event(), backend.build
    raised: list[str] = []

    def held(*arguments):
        begun.set()
        ended.wait(5)
        return build(*arguments)

    def ask():
        try:
            output(runtime, at=0)
        except DeploymentError as error:
            raised.append(str(error))

    runtime = Runtime(path)
    monkeypatch.setattr(backend, "build", held)
    asking = threading.Thread(target=ask)
    asking.start()
    begun.wait(5)
    runtime.close()
    ended.set()
    asking.join()

    assert raised == ["the runtime has been closed; open the artifact again"]
    assert [session.closed for session in backend.sessions] == [True, True]


def test_an_error_that_somebody_keeps_keeps_no_session_open(path, backend, monkeypatch):
    def fail():
        raise DeploymentError("no numbers")

    with Runtime(path, cache=1) as runtime:
        with monkeypatch.context() as patch:
            patch.setattr(backend, "pause", fail)
            with pytest.raises(DeploymentError, match="no numbers") as kept:
                output(runtime)
        backend.sessions[0].running = 0
        runtime.set(0)
        assert [session.closed for session in backend.sessions] == [True, False]
    assert kept.value.__traceback__ is not None


def test_a_runtime_that_nobody_has_any_more_closes_its_sessions(path, backend):
    runtime = Runtime(path)
    runtime.set(0)

    del runtime

    # The thread that tidies up behind switches knows it for a second yet.
    wait_for(lambda: gc.collect() + 1 and all(session.closed for session in backend.sessions))


def test_an_artifact_that_is_open_adapts_as_its_path_does(path, backend):
    for given in (Artifact(path), path, str(path)):
        with AdaptiveModel(given, cache=False) as model:
            assert model.state.active == "1.0"
            assert model(np.zeros(1, np.float32))[0].item() == OUTPUTS[3]
        assert all(session.closed for session in backend.sessions)


@pytest.fixture
def sizes(monkeypatch):
    """100 bytes for the narrowest width, 400 for the widest: here all fit into one cache line."""
    monkeypatch.setattr(Artifact, "nbytes", lambda self, graphs, index: 100 * (index + 1))


@pytest.mark.parametrize(("most", "built"), [(100, {2}), (200, {2, 4}), (399, {2, 4, 6}), (400, {2, 4, 6, 8})])
def test_a_width_that_the_memory_excludes_is_not_built_even_once(path, backend, sizes, most, built):
    with AdaptiveModel(path, memory_mb=most / 1e6, cache=False) as model:
        assert set(backend.built) == built
        assert model.state.active == model.name(len(built) - 1)


def test_a_memory_that_no_width_fits_into_is_refused_without_the_widest(path, backend, sizes):
    with pytest.raises(DeploymentError, match=r"9e-05 MB was asked for; the least is 0\.0001 MB"):
        AdaptiveModel(path, memory_mb=9e-5, cache=False)
    assert backend.built == [2]


@pytest.mark.parametrize("sessions", [1, 3])
def test_an_adaptive_model_keeps_so_many_sessions(path, backend, sessions):
    with AdaptiveModel(path, sessions=sessions, cache=False) as model:
        wait_for(lambda: sum(not session.closed for session in backend.sessions) == sessions)
        for width in ("0.25", "0.5", "0.75"):
            model.pin(width)
            assert sum(not session.closed for session in backend.sessions) == sessions
    with pytest.raises(DeploymentError, match="cache is 0"):
        AdaptiveModel(path, sessions=0, cache=False)
    with pytest.raises(DeploymentError, match="no backend 'tpu'"):
        AdaptiveModel(path, backend="tpu", cache=False)


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
        output(runtime)


def test_a_group_of_absurd_width_is_refused_before_its_choices_are_listed(path):
    text = Artifact(path).manifest.to_text()
    with pytest.raises(ArtifactError, match="a group has the maximum 8589934592"):
        Manifest.from_text(text.replace('"maximum":8', f'"maximum":{1 << 33}'))
