"""Inputs are held to what a network takes, whatever was given before."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimmable.errors import DeploymentError
from slimmable.runtime.inputs import Input, Inputs
from slimmable.runtime.tensor_inputs import Entries, Entry

ARRAYS = st.builds(
    lambda shape, dtype, order, reverse: np.asarray(np.arange(np.prod(shape)).reshape(shape), dtype, order=order)[
        :: -1 if reverse else 1
    ],
    st.sampled_from([(1, 2, 3, 3), (2, 2, 3, 3), (2, 3, 3, 2), (2, 3, 3), (0, 2, 3, 3), (2, 2, 1, 3)]),
    st.sampled_from(["f4", "f8", ">f4", "i8"]),
    st.sampled_from("CF"),
    st.booleans(),
)


def feeds() -> Inputs:
    return Inputs([Input(name="x", dtype=np.dtype("f4"), shape=(None, 2, 3, 3))])


def entries(*, last: bool, written: bool = False) -> Entries:
    return Entries([Entry((2, 2, 3, 3), torch.float32, written)], batch=None, last=last)


def outcome(take, array):
    """Numbers, type and strides of what is taken, or what is wrong with it."""
    try:
        found = take([array])
    except DeploymentError as error:
        return str(error)
    value = found["x"] if isinstance(found, dict) else found[0]
    strides = value.strides if isinstance(value, np.ndarray) else value.stride()
    numbers = np.asarray(value)
    return numbers.tobytes(), numbers.dtype, numbers.shape, strides


@pytest.mark.parametrize(
    "take",
    [lambda: feeds().feed, lambda: entries(last=False).tensors, lambda: entries(last=True).tensors],
    ids=["arrays", "tensors", "channels last"],
)
@given(arrays=st.lists(ARRAYS, min_size=2, max_size=6))
def test_what_was_given_before_makes_no_difference(take, arrays):
    used = take()

    for array in arrays:
        assert outcome(used, array) == outcome(take(), array)


def test_tensors_are_in_the_order_that_is_asked_for_each_time():
    image = np.ones((2, 2, 3, 3), np.float32)
    plain, turned = entries(last=False), entries(last=True)

    for _ in range(3):
        assert plain.tensors([image])[0].is_contiguous()
        assert turned.tensors([image])[0].is_contiguous(memory_format=torch.channels_last)


def test_what_the_network_writes_is_copied_each_time():
    image = np.zeros((2, 2, 3, 3), np.float32)
    its = entries(last=False, written=True)

    for _ in range(3):
        its.tensors([image])[0].fill_(1)
    assert not image.any()
