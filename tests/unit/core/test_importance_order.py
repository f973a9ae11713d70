"""Where channels must keep their order although they could be sorted, and the proof that finds out."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimmable
from slimmable.core.importance import Units, require_same_function, sort_units
from slimmable.core.operators import RULES, Axes, Operator
from slimmable.core.prove import run
from slimmable.errors import ConversionError
from tests.unit.core.oracle import images, shaken
from tests.unit.core.test_importance import by_chance, falling, orders_of

IMAGES = images().double()


def test_a_rule_that_hides_that_places_matter_is_found_by_the_proof(monkeypatch):
    monkeypatch.setitem(RULES, "aten.flip", lambda op: op.axes("self"))
    model = shaken(nn.Sequential(nn.Conv2d(3, 16, 1), Flipped(), nn.Conv2d(16, 2, 1))).eval()
    slimmable.convert(model, IMAGES.float(), divisor=1)
    with pytest.raises(ConversionError, match=r"importance: with its channels sorted .* op\.order_matters\(axis\)"):
        slimmable.convert(model, IMAGES.float(), divisor=1, importance=by_chance)


def test_a_rule_may_say_that_places_matter(monkeypatch):
    def rule(op: Operator) -> Axes:
        op.order_matters(op.axes("self")[1], "is turned round")
        return op.axes("self")

    monkeypatch.setitem(RULES, "aten.flip", rule)
    model = shaken(nn.Sequential(nn.Conv2d(3, 16, 1), Flipped(), nn.Conv2d(16, 2, 1))).eval()
    net = slimmable.convert(model, IMAGES.float(), divisor=1, importance=by_chance)
    (order,) = net.report.order
    assert order.reason.startswith("is turned round [aten.flip.default in 1, test_importance_order.py:")


class Flipped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


ONES = torch.ones(200)


@pytest.mark.parametrize(
    ("ours", "given"),
    [
        (ONES + 1e-5, ONES),
        (ONES.double() + 1e-9, ONES.double()),
        (ONES.bfloat16() * 1.02, ONES.bfloat16()),
        (ONES * torch.nan, ONES * torch.nan),
        (torch.arange(200).clamp(min=2), torch.arange(200)),
        (torch.zeros(0), torch.zeros(0)),
    ],
    ids=["single", "double", "half", "nan", "whole numbers", "empty"],
)
def test_rounding_passes(ours, given):
    require_same_function([ours], [given])


@pytest.mark.parametrize(
    ("ours", "given"),
    [
        (ONES + 1e-3, ONES),
        (ONES.double() + 1e-6, ONES.double()),
        (ONES.bfloat16() * 1.5, ONES.bfloat16()),
        (ONES * torch.nan, ONES),
        (torch.arange(200).clamp(min=3), torch.arange(200)),
    ],
    ids=["single", "double", "half", "nan", "whole numbers"],
)
def test_other_outputs_do_not(ours, given):
    with pytest.raises(ConversionError, match="importance"):
        require_same_function([ours], [given])


# ------------------------------------------------------------------------------------- where the order must stay


class Between(nn.Module):
    """A function between two convolutions."""

    def __init__(self, body: Callable[[Tensor], Tensor], read: int = 16) -> None:
        super().__init__()
        self.first, self.body, self.last = nn.Conv2d(3, 16, 1), body, nn.Conv2d(read, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.first(x)))


def channels_last(x: Tensor) -> Tensor:
    """``(N, H W, C)``."""
    return x.flatten(2).transpose(1, 2)


def sequence(x: Tensor) -> Tensor:
    """Channels as a sequence, pixels as their features."""
    return x.flatten(2)


def with_mean(x: Tensor) -> Tensor:
    return torch.cat([x.mean(1, keepdim=True), x], 1)


KEPT: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "first channel": (lambda x: x * x[:, 0, None], "its first position is selected", "aten.select.int"),
    "cumulative sum": (lambda x: x.cumsum(1), "are summed up in their order", "aten.cumsum.default"),
    "place of the maximum": (
        lambda x: x * x.argmax(1, keepdim=True),
        "position of an extreme value",
        "aten.argmax.default",
    ),
    "place beside the maximum": (
        lambda x: x * x.max(1, keepdim=True)[1],
        "position of an extreme value",
        "aten.max.dim",
    ),
    "neighbours": (
        lambda x: x + F.avg_pool1d(channels_last(x), 3, 1, 1).transpose(1, 2).unflatten(2, (6, 6)),
        "neighbouring positions meet",
        "aten.avg_pool1d.default",
    ),
    "regions": (
        lambda x: x * F.adaptive_avg_pool1d(channels_last(x), 4).prod(2).mean(1)[:, None, None, None],
        "neighbouring positions meet",
        "aten.adaptive_avg_pool1d.default",
    ),
    "ends": (
        lambda x: x * F.pad(channels_last(x), (1, 1), mode="replicate").sum((1, 2))[:, None, None, None],
        "is padded with positions at its ends",
        "aten.pad.default",
    ),
    "dropout": (lambda x: F.dropout(x, 0.5, training=True), "random draws", "aten.dropout.default"),
    "noise": (lambda x: x + torch.randn_like(x), "random draws", "aten.randn_like.default"),
    "causal attention": (
        lambda x: F.scaled_dot_product_attention(*[sequence(x)] * 3, is_causal=True).unflatten(2, (6, 6)),
        "positions see those before them",
        "aten.scaled_dot_product_attention.default",
    ),
    "attention with dropout": (
        lambda x: F.scaled_dot_product_attention(*[sequence(x)] * 3, dropout_p=0.5).unflatten(2, (6, 6)),
        "random draws",
        "aten.scaled_dot_product_attention.default",
    ),
}


@pytest.mark.parametrize(("body", "reason", "operator"), KEPT.values(), ids=KEPT)
def test_where_places_matter_the_given_order_stays_and_the_report_says_why(body, reason, operator):
    model = shaken(Between(body)).double().eval()

    net = slimmable.convert(model, IMAGES, divisor=1, importance=by_chance)

    (order,) = net.report.order
    assert (order.group, order.score, order.order) == ("first", "", ())
    assert reason in order.reason
    assert f"[{operator}, test_importance_order.py:" in order.reason
    assert f"first keeps the given order: {order.reason}" in str(net.report)
    assert torch.equal(net.model.first.weight, model.first.weight)
    # Sorted nevertheless, it would be another network: the reason is one.
    moved = copy.deepcopy(model)
    sort_units(moved, replace(net.analysis, ordered={}), net.grouping, by_chance)
    with torch.no_grad(), pytest.raises(ConversionError, match="importance"):
        require_same_function(run(moved, (IMAGES,)), run(model, (IMAGES,)))


SORTED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "a fixed first channel": (lambda x: with_mean(x) * with_mean(x)[:, 0, None], 17),
    "the maximum itself": (lambda x: x * x.max(1, keepdim=True)[0], 16),
    "softmax": (lambda x: x * x.softmax(1), 16),
    "sum over others": (lambda x: x.cumsum(2), 16),
    "pooled into one": (lambda x: x * F.adaptive_avg_pool1d(channels_last(x), 1).mean((1, 2))[:, None, None, None], 16),
    "neighbours in space": (lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1), 16),
    "attention": (lambda x: F.scaled_dot_product_attention(*[sequence(x)] * 3).unflatten(2, (6, 6)), 16),
    "dropout in training": (F.dropout, 16),
}


@pytest.mark.parametrize(("body", "read"), SORTED.values(), ids=SORTED)
def test_where_they_do_not_channels_are_sorted(body, read):
    model = shaken(Between(body if body is not F.dropout else nn.Dropout(), read)).double().eval()

    net = slimmable.convert(model, IMAGES, divisor=1, importance=by_chance)

    assert orders_of(net)["first"] == falling(by_chance(Units(group="first", count=16)).tolist())
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-10)


def test_draws_in_training_alone_do_not_keep_the_order():
    """The graph in training mode is read for the parameters of auxiliary heads."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head, self.auxiliary = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 2, 1), nn.Conv2d(16, 2, 1)

        def forward(self, x: Tensor) -> Any:
            x = self.first(x)
            if not self.training:
                return self.head(x)
            return self.head(F.dropout(x)), self.auxiliary(x)

    model = shaken(Auxiliary()).double()
    net = slimmable.convert(model, IMAGES, divisor=1, importance=by_chance)
    order = orders_of(net)["first"]
    assert order == falling(by_chance(Units(group="first", count=16)).tolist())
    assert torch.equal(net.model.auxiliary.weight, model.auxiliary.weight[:, order])
