import pytest

from slimmable.runtime import backends
from tests.unit.runtime.fake_backend import FakeBackend, write


@pytest.fixture
def backend(monkeypatch) -> FakeBackend:
    fake = FakeBackend()
    monkeypatch.setitem(backends._BACKENDS, "onnx", lambda options: fake)
    return fake


@pytest.fixture
def path(tmp_path):
    """An artifact of four widths, for the fake backend."""
    write(tmp_path / "only.slim")
    return tmp_path / "only.slim"
