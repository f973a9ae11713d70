"""Inputs are held to what a network takes, whatever was given before."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimmable.errors import DeploymentError
from slimmable.runtime.inputs import Input, Inputs
from slimmable.runtime.tensor_inputs import Entries, Entry

SHAPE = (2, 3, 3)
ARRAYS = st.builds(
    lambda shape, dtype, order, reverse: np.asarray(np.arange(np.prod(shape)).reshape(shape), dtype, order=order)[
        :: -1 if reverse else 1
    ],
    st.sampled_from(
        [(1, *SHAPE), (2, *SHAPE), (0, *SHAPE), (2, 3, 3, 2), (2, 3, 3), (2, 2, 1, 3), (2, 1, 4, 4), (2, 3, 1, 1)]
    ),
    st.sampled_from(["f4", "f8", ">f4", "i8"]),
    st.sampled_from("CF"),
    st.booleans(),
)


def feeds(*shapes: tuple[int, ...]) -> Inputs:
    named = enumerate(shapes)
    return Inputs([Input(name=f"x{at}", dtype=np.dtype("f4"), shape=(None, *shape)) for at, shape in named])


def entries(*shapes: tuple[int, ...], last: bool, written: bool = False) -> Entries:
    made = [Entry((2, *shape), torch.float32, written) for shape in shapes]
    return Entries(made, batch=None, last=last)


def outcome(take, arrays):
    """Numbers, type and strides of what is taken, or what is wrong with it."""
    try:
        found = take(arrays)
    except DeploymentError as error:
        return str(error)
    return [
        (
            np.asarray(value).tobytes(),
            value.dtype,
            value.shape,
            value.strides if isinstance(value, np.ndarray) else value.stride(),
        )
        for value in (found.values() if isinstance(found, dict) else found)
    ]


TAKERS = {
    "arrays": lambda *shapes: feeds(*shapes).feed,
    "tensors": lambda *shapes: entries(*shapes, last=False).tensors,
    "channels last": lambda *shapes: entries(*shapes, last=True).tensors,
}


@pytest.mark.parametrize("kind", TAKERS)
@pytest.mark.parametrize("shapes", [[SHAPE], [(1, 4, 4)], [(3, 1, 1)], [SHAPE, (1, 4, 4)]], ids=str)
@given(data=st.data())
def test_what_was_given_before_makes_no_difference(kind, shapes, data):
    used = TAKERS[kind](*shapes)

    for arrays in data.draw(st.lists(st.tuples(*[ARRAYS for _ in shapes]), min_size=2, max_size=6)):
        assert outcome(used, arrays) == outcome(TAKERS[kind](*shapes), arrays)


@pytest.mark.parametrize("kind", TAKERS)
def test_one_example_backwards_is_an_example(kind):
    image = np.arange(18, dtype=np.float32).reshape(1, *SHAPE)

    for _ in range(2):
        [(numbers, *_)] = outcome(TAKERS[kind](SHAPE), [image[::-1]])
        assert numbers == image.tobytes()


def test_tensors_are_in_the_order_that_is_asked_for_each_time():
    image = np.ones((2, 2, 3, 3), np.float32)
    plain, turned = entries(SHAPE, last=False), entries(SHAPE, last=True)

    for _ in range(3):
        assert plain.tensors([image])[0].is_contiguous()
        assert turned.tensors([image])[0].is_contiguous(memory_format=torch.channels_last)


def test_what_the_network_writes_is_copied_each_time():
    image = np.zeros((2, 2, 3, 3), np.float32)
    its = entries(SHAPE, last=False, written=True)

    for _ in range(3):
        its.tensors([image])[0].fill_(1)
    assert not image.any()
