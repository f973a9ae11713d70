"""Tensors of a width from a store in eight bits: within half a step of the folded ones."""

import numpy as np
import pytest

from slimmable.models import mobilenet_v2
from slimmable.runtime.quantised import QuantisedLayer, layer_tensors, quantise

RANDOM = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def restored(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    """What a graph makes of integers, with output channels first."""
    integers, scales, zeros = (tensors[f"{name}{suffix}"] for suffix in ("", "#scale", "#zero"))
    assert not zeros.any()
    assert zeros.dtype == integers.dtype
    assert scales.dtype == np.float32
    return integers.astype(np.float64) * scales.astype(np.float64).reshape(-1, *(1 for _ in integers.shape[1:]))


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (7, 1, 5, 5), (4, 9), (3, 2, 4)], ids=str)
def test_every_number_is_within_half_a_step(shape):
    weight = draw(*shape) * draw(shape[0], *(1 for _ in shape[1:])) ** 4

    integers, scales = quantise(weight)

    assert integers.dtype == np.int8
    assert integers.shape == shape
    steps = scales.reshape(-1, *(1 for _ in shape[1:]))
    assert (np.abs(weight - integers * steps.astype(np.float64)) <= steps * 0.50001).all()
    np.testing.assert_array_equal(np.abs(integers.reshape(shape[0], -1).astype(int)).max(1), 127)


def test_channels_of_zeros_stay_zero():
    weight = draw(3, 4)
    weight[1] = 0

    integers, scales = quantise(weight)

    assert not integers[1].any()
    assert (scales > 0).all()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kept", [(6, 4), (3, 2), (1, 1)], ids=str)
def test_tensors_of_a_width_are_the_folded_ones(kept, turned):
    """Scales of either sign, a slice of both dimensions."""
    full, scale, bias = draw(6, 4), draw(6), draw(6)
    integers, scales = quantise(full)
    layer = QuantisedLayer(weight="w", bias="b", input_scale=0.03, turned=turned)
    out, into = kept

    found = layer_tensors(layer, integers[:out, :into], scales[:out], scale=scale[:out], bias=bias[:out])

    assert tuple(found) == layer.names
    if turned:
        found["w"] = found["w"].T
    folded, half = full[:out, :into] * scale[:out, None], np.abs(scale[:out] * scales[:out])[:, None] * 0.5001
    assert (np.abs(restored(found, "w") - folded) <= half).all()
    assert found["b"].dtype == np.int32
    np.testing.assert_array_equal(found["b#scale"], np.float32(0.03) * found["w#scale"])
    assert (np.abs(restored(found, "b") - bias[:out]) <= found["b#scale"] * 0.5001).all()


def test_a_layer_without_batch_norm_or_bias_takes_the_store_as_it_is():
    integers, scales = quantise(draw(4, 3, 3, 3))
    layer = QuantisedLayer(weight="w", bias=None, input_scale=1.0)

    found = layer_tensors(layer, integers, scales, scale=None, bias=None)

    assert found["w"] is integers
    np.testing.assert_array_equal(found["w#scale"], scales)
    assert set(found) == {"w", "w#scale", "w#zero"}


def test_a_bias_that_is_huge_beside_its_weights_still_fits():
    integers, scales = quantise(draw(5, 8))
    scale = np.array([0, 1e-12, 1e-6, 1, -1e-9], np.float32)
    bias = np.array([3.0, -7.0, 1e4, 0.5, 0.0], np.float32)
    layer = QuantisedLayer(weight="w", bias="b", input_scale=0.01)

    found = layer_tensors(layer, integers, scales, scale=scale, bias=bias)

    assert np.isfinite(found["w#scale"]).all()
    assert (found["w#scale"] > 0).all()
    np.testing.assert_allclose(restored(found, "b"), bias, rtol=1e-6, atol=1e-3)
    wanted = integers * (scale * scales)[:, None]
    assert (np.abs(restored(found, "w") - wanted) <= found["w#scale"][:, None]).all()
    assert (np.abs(found["b"].astype(np.int64)) <= 2**30 + 2**8).all()


def test_the_store_of_mobilenet_v2_is_almost_four_times_smaller():
    weights = [each.detach().numpy() for each in mobilenet_v2().parameters() if each.ndim > 1]

    stored = sum(array.nbytes for each in weights for array in quantise(each))

    assert sum(each.nbytes for each in weights) / stored >= 3.9
