"""A server in this process, with a runtime that computes next to nothing."""

import io
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from slimmable.runtime.controller import AdaptiveModel
from slimmable.runtime.metrics import PrometheusMetrics
from slimmable.runtime.server.app import create_app
from tests.unit.runtime.fakes import FakeRuntime, RealClock

with warnings.catch_warnings():
    # Which client it likes best is of no interest here.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

LABELS = ("ant", "bee", "cat", "dog", "eel")
PREPROCESSING = {"size": [8, 8], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25], "resize": 10}
FAST = (0.0, 0.0, 0.0, 0.0)


@contextmanager
def serving(settings=None, *, model=None, **options):
    """A client, and what it talks to."""
    options = {"seconds": FAST, "labels": LABELS, "preprocessing": PREPROCESSING, **options}
    runtime = FakeRuntime(RealClock(), **options)
    model = AdaptiveModel(runtime, **{"cache": False, "metrics": PrometheusMetrics(), **(model or {})})
    with TestClient(create_app(model, settings=settings), raise_server_exceptions=False) as client:
        client.runtime, client.model = runtime, model
        yield client


@pytest.fixture
def client():
    with serving() as client:
        yield client


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype.kind == "O")
    return file.getvalue()


def picture(size=(20, 14), kind="PNG", mode="RGB", seed=0):
    shape = (size[1], size[0], *((len(mode),) if len(mode) > 1 else ()))
    pixels = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels, mode if mode != "RGBA" else None).save(file, kind)
    return file.getvalue()


def send(client, body, kind="application/octet-stream", **query):
    return client.post("/predict", content=body, headers={"content-type": kind}, params=query)
