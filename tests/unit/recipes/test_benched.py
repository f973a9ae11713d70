import json
from random import Random

import pytest
import torch
from torch import nn

import slimmable
from slimmable.errors import CostError, DataError
from slimmable.recipes.benched import from_bench


def network(width: int = 64):
    plain = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 4))
    return slimmable.convert(plain, torch.ones(2, 8))


def milliseconds(widths, factor):
    first, second = widths.channels
    return factor * (0.01 + 1e-5 * (8 * first + first * second + 4 * second))


@pytest.fixture
def path(tmp_path):
    net, random = network(), Random(0)
    found = dict.fromkeys(net.space.random(random) for _ in range(30))
    rows = [
        {"backend": backend, "width": str(at), "widths": widths.to_json(), "batch": batch}
        | dict.fromkeys(("milliseconds", "low", "high"), milliseconds(widths, factor * batch))
        for backend, factor in (("onnx", 1.0), ("torch", 2.0))
        for at, widths in enumerate(found)
        for batch in (1, 8)
    ]
    (tmp_path / "bench.json").write_text(json.dumps({"environment": {"device": "a board"}, "rows": rows}))
    return tmp_path / "bench.json"


@pytest.mark.parametrize(("backend", "factor"), [("onnx", 1.0), ("torch", 2.0)])
def test_the_model_tells_the_times_of_one_runtime_and_the_smallest_batch(path, backend, factor):
    net = network()
    model = from_bench(path, net, backend=backend)
    for widths in (net.space.largest, net.space.smallest, net.space.uniform(0.6)):
        assert model([widths])[0] == pytest.approx(milliseconds(widths, factor), rel=1e-3)
    assert model.device["runtime"] == backend
    assert model.error < 0.5


def test_what_does_not_fit_is_refused(path, tmp_path):
    with pytest.raises(DataError, match="holds times of onnx, torch; choose one"):
        from_bench(path, network())
    with pytest.raises(DataError, match="choose one"):
        from_bench(path, network(), backend="openvino")
    with pytest.raises(CostError, match="times of another network"):
        from_bench(path, network(width=16), backend="onnx")
    (tmp_path / "broken").write_text("{}")
    with pytest.raises(DataError, match="cannot be read as figures"):
        from_bench(tmp_path / "broken", network())
