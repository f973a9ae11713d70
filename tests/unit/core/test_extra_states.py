"""What modules keep beside their tensors comes back with a checkpoint, or is refused by name when it is written."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel
from slimmable.core.checkpoint import network_metadata, network_tensors, restore_network
from slimmable.errors import CheckpointError
from slimmable.train import load_trained
from tests.unit.train.test_loop import SETTINGS, Watcher, train
from tests.unit.train.toy import CLASSES, ToyTask, toy_network

INPUTS = torch.zeros(2, 1, 8, 8)


class Kept(nn.Linear):
    """A layer that keeps something beside its weights."""

    kept: Any = None

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state


class WrittenOnly(nn.Linear):
    def get_extra_state(self) -> Any:
        return 1


def network(kept: Any = None, head: type[nn.Linear] = Kept, **options: Any) -> SlimmableModel:
    plain = toy_network()
    plain.head = head(32, CLASSES)
    net = slimmable.convert(plain, INPUTS, min_ratio=0.5, **options)
    net.model.head.kept = kept
    return net


STATES = {
    "json": {"scale": 0.25, "names": ["a", "b"], "nothing": None},
    "nothing": None,
    "a number": 3,
    "tensor": torch.arange(5.0).reshape(5, 1).mT,
    "empty tensor": torch.zeros(0, dtype=torch.uint8),
}


def same(found: Any, expected: Any) -> bool:
    return torch.equal(found, expected) if isinstance(expected, Tensor) else found == expected


@pytest.mark.parametrize("name", STATES)
def test_extra_states_come_back(name, tmp_path):
    slimmable.save(network(STATES[name]), tmp_path / "net")
    for before in (None, "another", torch.zeros(3)):
        net = network(before)

        slimmable.load(net, tmp_path / "net")

        assert same(net.model.head.kept, STATES[name])


def test_a_tensor_that_is_a_weight_too_comes_back(tmp_path):
    net, other = network(), network()
    net.model.head.kept = net.model.head.weight.detach()
    slimmable.save(net, tmp_path / "net")
    slimmable.load(other, tmp_path / "net")
    assert torch.equal(other.model.head.kept, net.model.head.weight)
    assert torch.equal(other.model.head.weight, net.model.head.weight)


@pytest.mark.parametrize("name", STATES)
def test_a_network_without_its_code_keeps_them_for_its_next_file(name, tmp_path):
    slimmable.save(network(STATES[name]), tmp_path / "first")
    slimmable.save(slimmable.load(tmp_path / "first"), tmp_path / "second")
    alone, net = slimmable.load(tmp_path / "first"), network("another")
    slimmable.load(alone, tmp_path / "second")
    restore_network(net, network_tensors(alone), network_metadata(alone))

    assert same(net.model.head.kept, STATES[name])


@pytest.mark.parametrize("name", ["json", "tensor"])
def test_extra_states_come_back_with_a_run(name, tmp_path):
    net, other, trained = network(STATES[name]), network(), network()
    with pytest.raises(KeyboardInterrupt):
        train(net, folder=tmp_path, observers=[Watcher(at=7)])

    load_trained(trained, tmp_path / "last.safetensors")
    train(other, folder=tmp_path, resume=True)

    assert same(trained.model.head.kept, STATES[name])
    assert same(other.model.head.kept, STATES[name])


@pytest.mark.parametrize(
    ("kept", "kind"),
    [(io.BytesIO(b"1"), "BytesIO"), ((1, 2), "tuple"), ({1: "a"}, "dict"), ({"a": torch.zeros(1)}, "dict")],
    ids=["bytes", "tuple", "keys", "tensor inside"],
)
def test_what_json_does_not_give_back_is_refused_when_it_is_written(kept, kind, tmp_path):
    net = network(kept)
    message = rf"module 'head' \(.*Kept\) has an extra state of type {kind}; expected a tensor, or"
    with pytest.raises(CheckpointError, match=message):
        slimmable.save(net, tmp_path / "net")
    steps = Watcher()
    with pytest.raises(CheckpointError, match=message):
        train(net, folder=tmp_path, observers=[steps])
    assert not steps.steps
    assert not any(tmp_path.iterdir())
    train(net, settings=SETTINGS, task=ToyTask(steps=1))


def test_what_is_only_written_is_refused(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"module 'head' \(.*\) has get_extra_state only; write its set_extra_state"
    ):
        slimmable.save(network(head=WrittenOnly), tmp_path / "net")


def test_a_network_that_keeps_something_else_is_refused_by_name(tmp_path):
    with_state, without = network({"a": 1}), network(head=nn.Linear)
    slimmable.save(with_state, tmp_path / "with")
    slimmable.save(without, tmp_path / "without")
    with pytest.raises(
        CheckpointError, match="the checkpoint has an extra state of module 'head', this network has none"
    ):
        slimmable.load(without, tmp_path / "with")
    with pytest.raises(
        CheckpointError, match="this network has an extra state of module 'head', the checkpoint has none"
    ):
        slimmable.load(with_state, tmp_path / "without")
    assert with_state.model.head.kept == {"a": 1}
