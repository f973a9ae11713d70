"""Gradients shared between widths: those of plain slicing bit for bit, and no trace afterwards."""

import copy
import gc
import weakref
from collections.abc import Iterator, Sequence
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import slimmable
from slimmable import SlimmableModel, Widths
from tests.unit.core.oracle import images, shaken

IMAGES = images(size=8, batch=6)


class Mixed(nn.Module):
    """Batch norm, a residual sum, segments of a concatenation, a depthwise convolution, one module called twice."""

    def __init__(self, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.mix, self.side = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(3, 24, 1, bias=False)
        self.deep, self.norm2 = nn.Conv2d(40, 40, 3, groups=40), nn.BatchNorm2d(40)
        self.hidden, self.head = nn.Linear(40, 32), nn.Linear(32, 5)
        self.checkpointed = checkpointed

    def body(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = x + F.relu(self.norm(self.mix(x)))
        return x

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = checkpoint(self.body, y, use_reentrant=False) if self.checkpointed else self.body(y)
        y = F.relu(self.norm2(self.deep(torch.cat([y, self.side(x)], 1))))
        return self.head(F.relu(self.hidden(y.mean((2, 3)))))


@cache
def converted(seed: int) -> SlimmableModel:
    return slimmable.convert(shaken(Mixed(), seed), IMAGES).train()


def mixed(seed: int = 0, *, checkpointed: bool = False) -> SlimmableModel:
    """A copy of its own; the checkpoint is put in after the conversion, since no graph needs it."""
    net = copy.deepcopy(converted(seed))
    net.model.checkpointed = checkpointed
    return net


def widths_of(net: SlimmableModel) -> list[Widths]:
    """Widest, two with a width of their own in every group, narrowest."""
    choices = [
        {group.name: group.choices[(place * step + step) % len(group.choices)] for place, group in enumerate(groups)}
        for step, groups in ((1, net.space.groups), (2, net.space.groups))
    ]
    return [net.space.largest, *map(net.space.widths, choices), net.space.smallest]


def loss(outputs: Tensor) -> Tensor:
    return F.cross_entropy(outputs, torch.arange(len(outputs)) % 5)


def gradients(net: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}


def sliced(net: SlimmableModel, widths_list: Sequence[Widths], x: Tensor = IMAGES) -> dict[str, Tensor | None]:
    """Gradients by slicing under autograd, one backward pass for each width."""
    net.zero_grad()
    for widths in widths_list:
        with net.at(widths):
            loss(net(x)).backward()
    return gradients(net)


def shared(net: SlimmableModel, widths_list: Sequence[Widths], x: Tensor = IMAGES) -> dict[str, Tensor | None]:
    """Gradients by the shared mode, committed after each width."""
    net.zero_grad()
    with net.shared_gradients() as commit:
        for widths in widths_list:
            with net.at(widths):
                loss(net(x)).backward()
            commit()
    return gradients(net)


def assert_equal(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None]) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        found = ours[name]
        assert (found is None) == (expected is None), name
        if found is not None and expected is not None:
            assert torch.equal(found, expected), f"{name} differs by up to {(found - expected).abs().max()}"


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_shared_gradients_equal_slicing_bit_for_bit():
    net = mixed()
    expected = sliced(net, widths_of(net))
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in expected.values())
    assert_equal(shared(net, widths_of(net)), expected)


@pytest.mark.parametrize("pick", [slice(0, 1), slice(1, 3), slice(3, 4), slice(None, None, -1)], ids=str)
def test_any_widths_in_any_order(pick):
    net = mixed()
    assert_equal(shared(net, widths_of(net)[pick]), sliced(net, widths_of(net)[pick]))


def test_deterministic_algorithms_change_nothing(deterministic):
    net = mixed()
    assert_equal(shared(net, widths_of(net)), sliced(net, widths_of(net)))


@pytest.mark.parametrize("batch_norm", [{"switches": (1.0, 0.5, 0.25)}, {"batch_norm": "naive"}], ids=str)
def test_with_private_and_naive_batch_norm(batch_norm):
    net = slimmable.convert(shaken(Mixed()), IMAGES, **batch_norm).train()
    widths_list = net.switches or tuple(widths_of(net))
    assert_equal(shared(net, widths_list), sliced(net, widths_list))


def test_channels_last_and_back():
    net = mixed().to(memory_format=torch.channels_last)
    x = IMAGES.to(memory_format=torch.channels_last)
    assert_equal(shared(net, widths_of(net), x), sliced(net, widths_of(net), x))
    kernel = dict(net.named_parameters())["model.mix.weight"]
    assert kernel.grad is not None
    assert kernel.grad.is_contiguous(memory_format=torch.channels_last)
    net.to(memory_format=torch.contiguous_format)
    assert_equal(shared(net, widths_of(net)), sliced(net, widths_of(net)))


def test_checkpointed_activations():
    """Not re-entrant: the block runs a second time in the backward pass, still at its width."""
    net, again = mixed(), mixed(checkpointed=True)
    expected = sliced(net, widths_of(net))
    assert_equal(sliced(again, widths_of(again)), expected)
    assert_equal(shared(again, widths_of(again)), expected)


def test_a_checkpoint_recomputed_at_another_width_is_an_error_and_no_wrong_gradient():
    net = mixed(checkpointed=True)
    with net.at(net.space.smallest):
        postponed = loss(net(IMAGES))
    with pytest.raises(RuntimeError, match="expected input"):
        postponed.backward()


def test_autocast_to_bfloat16():
    net = mixed()
    with torch.autocast("cpu", torch.bfloat16):
        expected = sliced(net, widths_of(net))
        found = shared(net, widths_of(net))
    assert_equal(found, expected)


def test_two_batches_accumulate():
    net = mixed()
    expected = sliced(net, widths_of(net) * 2)
    net.zero_grad()
    for _ in range(2):
        with net.shared_gradients() as commit:
            for widths in widths_of(net):
                with net.at(widths):
                    loss(net(IMAGES)).backward()
                commit()
    for name, gradient in gradients(net).items():
        torch.testing.assert_close(gradient, expected[name])


def test_without_commit_the_end_of_the_context_commits():
    net = mixed()
    expected = sliced(net, widths_of(net))
    net.zero_grad()
    with net.shared_gradients():
        for widths in widths_of(net):
            with net.at(widths):
                loss(net(IMAGES)).backward()
    for name, gradient in gradients(net).items():
        torch.testing.assert_close(gradient, expected[name])


def test_backward_passes_may_wait_until_all_widths_have_run():
    net = mixed()
    expected = sliced(net, widths_of(net))
    net.zero_grad()
    losses = []
    with net.shared_gradients() as commit:
        for widths in widths_of(net):
            with net.at(widths):
                losses.append(loss(net(IMAGES)))
        for each in losses:
            each.backward()
            commit()
    assert_equal(gradients(net), expected)


def test_one_backward_pass_of_the_sum_of_all_losses():
    net = mixed()
    expected = sliced(net, widths_of(net))
    net.zero_grad()
    losses = []
    with net.shared_gradients():
        for widths in widths_of(net):
            with net.at(widths):
                losses.append(loss(net(IMAGES)))
        torch.stack(losses).sum().backward()
    for name, gradient in gradients(net).items():
        torch.testing.assert_close(gradient, expected[name])


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_between_steps_in_both_ways(to_none):
    net = mixed()
    expected = shared(net, widths_of(net))
    net.zero_grad(set_to_none=to_none)
    with net.shared_gradients() as commit:
        for widths in widths_of(net):
            with net.at(widths):
                loss(net(IMAGES)).backward()
            commit()
    assert_equal(gradients(net), expected)


def test_zero_grad_inside_the_context():
    net = mixed()
    expected = sliced(net, [net.space.smallest])
    net.zero_grad()
    with net.shared_gradients() as commit:
        with net.at(net.space.largest):
            loss(net(IMAGES)).backward()
        commit()
        net.zero_grad(set_to_none=True)
        with net.at(net.space.smallest):
            loss(net(IMAGES)).backward()
        commit()
    for name, gradient in gradients(net).items():
        if gradient is not None:
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0)


def test_an_error_inside_the_context_leaves_no_trace():
    net = mixed()
    expected = sliced(net, widths_of(net))
    net.zero_grad()

    def step() -> None:
        with net.shared_gradients(), net.at(net.space.smallest):
            loss(net(IMAGES)).backward()
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        step()
    assert net.widths == net.space.largest
    assert_equal(sliced(net, widths_of(net)), expected)
    assert_equal(shared(net, widths_of(net)), expected)


def test_a_frozen_parameter_stays_without_gradient_and_learns_when_thawed():
    net = mixed()
    kernel = dict(net.named_parameters())["model.mix.weight"]
    kernel.requires_grad_(False)
    found = shared(net, widths_of(net))
    assert found["model.mix.weight"] is None
    assert_equal(found, sliced(net, widths_of(net)))
    kernel.requires_grad_(True)
    assert_equal(shared(net, widths_of(net)), sliced(net, widths_of(net)))
    assert kernel.grad is not None


@torch.no_grad()
def scale_in_place(net: nn.Module) -> None:
    for parameter in net.parameters():
        parameter.mul_(1.5)


CHANGES = {
    "in place": lambda net: scale_in_place(net),
    "by the optimizer": lambda net: (sliced(net, [net.space.base]), torch.optim.SGD(net.parameters(), 0.1).step()),
    "by a fused optimizer": lambda net: (
        sliced(net, [net.space.base]),
        torch.optim.SGD(net.parameters(), 0.1, fused=True).step(),
    ),
    "load_state_dict": lambda net: net.load_state_dict(_scaled(net)),
    "load_state_dict with assign": lambda net: net.load_state_dict(_scaled(net), assign=True),
    "channels last": lambda net: net.to(memory_format=torch.channels_last),
    "to double and back": lambda net: net.double().float(),
    "a new parameter": lambda net: net.model.mix._parameters.update(weight=nn.Parameter(torch.randn(16, 16, 3, 3))),
    "a copy": lambda net: copy.deepcopy(net),
}


def _scaled(net: nn.Module) -> dict[str, object]:
    return {
        name: 1.5 * value if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in net.state_dict().items()
    }


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_plans_made_before_a_change_of_the_weights_are_not_stale_after_it(change):
    """Every width ran before, in both ways of differentiating and in none; then the weights change."""
    net = mixed()
    shared(net, widths_of(net))
    with torch.no_grad():
        for widths in widths_of(net):
            with net.at(widths):
                net(IMAGES)
    net.zero_grad()
    change(net)
    fresh = mixed(seed=1)
    fresh.load_state_dict(net.state_dict())
    if next(net.model.mix.parameters()).is_contiguous(memory_format=torch.channels_last):
        fresh.to(memory_format=torch.channels_last)
    for widths in widths_of(net):
        with torch.no_grad(), net.at(widths), fresh.at(widths):
            assert torch.equal(net(IMAGES), fresh(IMAGES))
    assert_equal(shared(net, widths_of(net)), sliced(fresh, widths_of(fresh)))


def test_a_change_between_forward_and_backward_is_detected():
    net = mixed()
    with net.shared_gradients():
        outputs = net(IMAGES)
        with torch.no_grad():
            dict(net.named_parameters())["model.hidden.weight"].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss(outputs).backward()


def test_second_derivatives_outside_the_shared_mode():
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    net = slimmable.convert(model, torch.randn(2, 3).double())
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    with net.at(net.space.smallest):
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        slope.square().sum().backward()
    plain = net.extract(net.space.smallest)
    (expected,) = torch.autograd.grad(plain(x).sum(), x, create_graph=True)
    expected.square().sum().backward()
    kept = net.space.smallest.channels[0]
    for name, parameter in plain.named_parameters():
        full = dict(net.model.named_parameters())[name]
        if parameter.grad is None:
            assert full.grad is None
            continue
        assert full.grad is not None
        found = full.grad[:, :kept] if name == "2.weight" else full.grad[:kept]
        torch.testing.assert_close(found, parameter.grad)


def test_full_parameters_can_be_differentiated_directly():
    net = mixed()
    parameters = list(net.parameters())
    with net.at(net.space.smallest):
        found = torch.autograd.grad(loss(net(IMAGES)), parameters, create_graph=True)
    names = [name for name, _ in net.named_parameters()]
    assert_equal(dict(zip(names, found, strict=True)), sliced(net, [net.space.smallest]))
    second = torch.autograd.grad(sum(each.square().sum() for each in found), parameters, allow_unused=True)
    assert any(each is not None and each.abs().max() > 0 for each in second)


def test_functional_calls_see_the_given_weights():
    net = slimmable.convert(nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(2, 3))
    x = torch.randn(4, 3)
    doubled = {name: 2 * tensor.detach() for name, tensor in net.named_parameters()}
    with net.at(net.space.smallest):
        found = torch.func.functional_call(net, doubled, x)
        other = copy.deepcopy(net)
        other.load_state_dict(doubled | {"_extra_state": net.get_extra_state()})
        assert torch.equal(found, other(x))
        assert not torch.equal(net(x), found)


def test_hooks_of_parameters_fire_in_the_ordinary_mode():
    net = mixed()
    fired: dict[str, int] = {}
    for name, parameter in net.named_parameters():
        parameter.register_hook(lambda _grad, name=name: fired.update({name: fired.get(name, 0) + 1}))
    with net.at(net.space.smallest):
        loss(net(IMAGES)).backward()
    assert fired == dict.fromkeys(dict(net.named_parameters()), 1)


def test_hooks_of_modules_fire_in_both_modes():
    net = mixed()
    seen: list[tuple[int, ...]] = []
    net.model.hidden.register_forward_hook(
        lambda module, _inputs, output: seen.append((module.out_features, output.shape[1]))
    )
    sliced(net, widths_of(net))
    shared(net, widths_of(net))
    hidden = [widths["hidden"] for widths in widths_of(net)]
    assert seen == [(width, width) for width in hidden] * 2


def test_memory_of_a_width_is_freed_after_its_backward_pass():
    net = mixed()
    alive: list[weakref.ref[Tensor]] = []
    net.model.stem.register_forward_hook(lambda _module, _inputs, output: alive.append(weakref.ref(output)))
    with net.shared_gradients() as commit:
        for widths in widths_of(net):
            with net.at(widths):
                loss(net(IMAGES)).backward()
            commit()
            gc.collect()
            assert all(reference() is None for reference in alive)
            assert all(leaf.grad is None for leaf, _ in net._state.plan.leaves)


def test_inference_mode_before_training_does_no_harm():
    net = mixed()
    for widths in widths_of(net):
        with torch.inference_mode(), net.at(widths):
            net(IMAGES)
    assert_equal(shared(net, widths_of(net)), sliced(net, widths_of(net)))
