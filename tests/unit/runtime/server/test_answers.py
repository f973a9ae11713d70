"""Answers are what JSON of nested lists is, written piece by piece, and off the event loop where it takes long."""

import json
import threading
import time

import numpy as np
import pytest

from slimmable.runtime.server import answers, app
from slimmable.runtime.server.answers import answer
from tests.unit.runtime.fakes import image
from tests.unit.runtime.server.conftest import npy, send, serving

SHAPES = [(), (0,), (3, 0, 2), (1,), (4097,), (1, 1, 9000), (5000, 2), (3, 5000), (2, 21, 30, 30)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool"])
def test_arrays_in_pieces_are_arrays_in_one(shape, dtype):
    array = (7 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)

    found = answer([array, array], None, 5)

    assert found == json.dumps({"outputs": [array.tolist()] * 2}, separators=(",", ":")).encode()


def test_what_is_not_finite_is_null_in_every_piece():
    array = np.random.default_rng(0).standard_normal((3, 5000))
    array[0, 0], array[1, 4999], array[2, 7] = np.nan, np.inf, -np.inf

    [found] = json.loads(answer([array], None, 5))["outputs"]

    assert (found[0][0], found[1][4999], found[2][7]) == (None, None, None)
    finite = np.isfinite(array)
    assert (np.array(found, np.float64)[finite] == array[finite]).all()


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if np.prod(shape) > 4096], ids=str)
def test_no_piece_takes_long(shape, monkeypatch):
    sizes = []
    monkeypatch.setattr(answers, "_plain", lambda array: sizes.append(array.size) or array.tolist())

    answer([np.zeros(shape)], None, 5)

    assert sum(sizes) == np.prod(shape)
    assert max(sizes) <= 4096
    assert len(sizes) <= 4 * np.prod(shape) / 4096 + 1


@pytest.mark.parametrize(("most", "apart"), [(5, False), (4, True)])
def test_long_answers_are_written_by_a_thread_and_their_time_counts(most, apart, monkeypatch):
    threads = []

    def slowly(*given):
        threads.append(threading.current_thread().name)
        time.sleep(0.05)
        return answer(*given)

    monkeypatch.setattr(answers, "_AT_ONCE", most)
    monkeypatch.setattr(app, "answer", slowly)
    with serving(labels=None) as client:
        found = send(client, npy(image())).json()
        state = client.get("/width").json()

    assert threads[0].startswith("slimmable-work") == apart
    assert found["milliseconds"] >= 50
    assert state["p50_ms"] >= 50
    assert len(found["outputs"][0][0]) == 5


def test_the_time_that_a_client_takes_to_send_does_not_count():
    body = npy(image())

    def slowly():
        yield body[:100]
        time.sleep(0.3)
        yield body[100:]

    with serving() as client:
        assert send(client, slowly()).json()["milliseconds"] < 300
