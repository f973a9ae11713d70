"""Nested state comes back as it was, whatever its shape."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimmable.errors import CheckpointError
from slimmable.train.packing import pack, unpack

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
STATES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.integers() | st.text(), inner),
)


@given(STATES)
def test_anything_survives_json(state):
    tensors, rest = pack(state, prefix="x")
    assert tensors == {}
    assert unpack(json.loads(json.dumps(rest)), tensors) == state


def test_tensors_are_taken_out_by_name():
    state = {"state": {0: {"momentum": torch.ones(2), "step": 3}}, "tensor": {"tensor": "not a reference"}}
    tensors, rest = pack(state, prefix="optimizer")
    assert list(tensors) == ["optimizer.0"]
    found = unpack(json.loads(json.dumps(rest)), tensors)
    assert torch.equal(found["state"][0].pop("momentum"), torch.ones(2))
    assert found == {"state": {0: {"step": 3}}, "tensor": {"tensor": "not a reference"}}


def test_what_only_pickle_could_write_is_refused():
    with pytest.raises(CheckpointError, match="holds a function"):
        pack({"hook": pack}, prefix="optimizer")


@pytest.mark.parametrize(("rest", "message"), [({"tensor": "x.0"}, "lacks the tensor 'x.0'"), ({"a": 1}, "keys")])
def test_damage_is_named(rest, message):
    with pytest.raises(CheckpointError, match=message):
        unpack(rest, {})
