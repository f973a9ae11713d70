r"""Which channels a narrow width keeps: the most important ones, which are sorted to the front.

A width uses the first channels of each group. In a network that was trained at one width these are not the best ones:
it has them wherever chance put them. But the channels of a group may change places without changing what the network
computes, if all weights that write, normalise and read them move alike; and the analysis of the graph says of every
axis of every parameter and buffer which positions belong to which unit. So units are scored and sorted once, before
anything else is done. Tensors are permuted, and no value changes.

Where an operator treats positions by their place (the first one is selected, a kernel slides over them), the given
order is kept and the report says so.

References:
    Cai, Gan, Wang, Zhang, Han. Once-for-All: Train One Network and Specialize it for Efficient Deployment. ICLR 2020,
    section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimmable.core.analysis import Analysis
from slimmable.core.groups import Grouping
from slimmable.core.layout import Layout
from slimmable.core.prove import tensors
from slimmable.core.report import OrderReport
from slimmable.errors import ConversionError

_FLIPS = 0.01
"""Share of whole-number outputs (predicted classes) that rounding may change."""


@dataclass(frozen=True, kw_only=True)
class Units:
    """The units of a width group and their weights: what a score is computed from.

    A unit is what a width keeps or drops as a whole: a channel or, where grouped convolutions keep as many channels in
    each of their groups, one channel of every group. Weights are as they were given, in double precision on the CPU, by
    the parameter's name and of shape ``(count, weights of a unit)``.

    Attributes:
        group: Name of the width group.
        count: Number of units.
        read: Weights of the layers whose input they are.
        written: Weights of the layers whose output they are.
        gains: Gains of the batch norms that normalise them.
        others: All other parameters that have them: shifts, depthwise kernels, parameters of no layer.
    """

    group: str
    count: int
    read: Mapping[str, Tensor] = field(default_factory=dict)
    written: Mapping[str, Tensor] = field(default_factory=dict)
    gains: Mapping[str, Tensor] = field(default_factory=dict)
    others: Mapping[str, Tensor] = field(default_factory=dict)


Score = Callable[[Units], Tensor]
"""From the units of a group to how important each is, of shape ``(count,)``."""

Importance = Literal["l1", "filters", "batch_norm"] | Score
"""How channels are scored; see :func:`l1`, :func:`filters` and :func:`batch_norm`."""


def l1(units: Units) -> Tensor:
    r"""Mean absolute weight with which the layers behind them read the units, all layers alike.

    With :math:`W_p` of shape ``(units, K_p)``, what layer :math:`p` of :math:`P` reads its input with,

    .. math:: s_u = \frac1P \sum_p \frac{a_{pu}}{\frac1n \sum_v a_{pv}}, \qquad a_{pu} = \frac1{K_p} \sum_k |W_{puk}|.

    Channels sorted by the L1 norm of their weights are what Once-for-All begins its elastic widths with. The weights
    that read a channel say what is lost with it; those that write it (:func:`filters`) say less, as a batch norm
    behind them undoes their scale. The channels of a residual group are read by many layers: each is divided by its
    mean, so that none decides by its scale.

    Args:
        units: A width group's units.

    Returns:
        Scores of shape ``(units,)``, 1 on average. Units that no layer reads are scored by what writes them, those of
        no layer by all their parameters.

    References:
        Cai, Gan, Wang, Zhang, Han. Once-for-All: Train One Network and Specialize it for Efficient Deployment. ICLR
        2020, section 3.3.

    >>> weights = {"a": torch.tensor([[1.0, 1.0], [3.0, 3.0]]), "b": torch.tensor([[-70.0], [10.0]])}
    >>> l1(Units(group="stem", count=2, read=weights))
    tensor([1.1250, 0.8750])
    """
    return _averaged(units.read or units.written or units.others)


def filters(units: Units) -> Tensor:
    r"""Mean absolute weight of the filters that write the units, all layers alike; :func:`l1` where there are none.

    The same formula, with :math:`W_p` what layer :math:`p` computes its output with. Li et al. prune the filters with
    the smallest sum of absolute weights; inside a layer sum and mean sort alike.

    Args:
        units: A width group's units.

    Returns:
        Scores of shape ``(units,)``, 1 on average.

    References:
        Li, Kadav, Durdanovic, Samet, Graf. Pruning Filters for Efficient ConvNets. ICLR 2017, section 3.1.

    >>> filters(Units(group="stem", count=2, written={"a": torch.tensor([[1.0, 1.0], [-3.0, 3.0]])}))
    tensor([0.5000, 1.5000])
    """
    return _averaged(units.written) if units.written else l1(units)


def batch_norm(units: Units) -> Tensor:
    r"""Mean absolute gain of the units in the batch norms behind them, all alike; :func:`l1` where there are none.

    .. math:: s_u = \frac1P \sum_p \frac{|\gamma_{pu}|}{\frac1n \sum_v |\gamma_{pv}|}

    Network slimming trains with a penalty on gains, so that those of dispensable channels vanish. Without it they say
    little: compare with :func:`l1` before use.

    Args:
        units: A width group's units.

    Returns:
        Scores of shape ``(units,)``, 1 on average.

    References:
        Liu, Li, Shen, Huang, Yan, Zhang. Learning Efficient Convolutional Networks through Network Slimming. ICCV
        2017, section 3.

    >>> batch_norm(Units(group="stem", count=2, gains={"norm": torch.tensor([[0.5], [-1.5]])}))
    tensor([0.5000, 1.5000])
    """
    return _averaged(units.gains) if units.gains else l1(units)


_SCORES: Mapping[str, Score] = {"l1": l1, "filters": filters, "batch_norm": batch_norm}


def _averaged(weights: Mapping[str, Tensor]) -> Tensor:
    """Mean absolute values by unit, each tensor's over their own mean."""
    sizes = [tensor.abs().mean(1) for tensor in weights.values()]
    tiny = torch.finfo(torch.float64).tiny
    return torch.stack([size / size.mean().clamp_min(tiny) for size in sizes]).mean(0)


def score_of(importance: Importance) -> Score:
    """The function behind a choice.

    Raises:
        ConversionError: There is none.
    """
    if isinstance(importance, str) and importance in _SCORES:
        return _SCORES[importance]
    if not callable(importance):
        raise ConversionError(
            f"importance must be None, {', '.join(map(repr, _SCORES))} or a function from "
            f"slimmable.core.importance.Units to a score for each unit; got {importance!r}"
        )
    return importance


def sort_units(
    model: nn.Module, analysis: Analysis, grouping: Grouping, score: Score
) -> tuple[dict[int, Tensor], tuple[OrderReport, ...]]:
    """Sort the units of every width group of ``model`` by falling score, in place; of equal ones the first stays first.

    Returns:
        Of every variable that was sorted the numbers that its units had before, best first; and the same as a report.

    Raises:
        ConversionError: A score is no number for each unit.
    """
    orders: dict[int, Tensor] = {}
    reports: list[OrderReport] = []
    for var, place in grouping.index.items():
        group = grouping.space.groups[place]
        if len(group.choices) == 1:
            continue
        if var in analysis.ordered:
            reports.append(OrderReport.kept(group.name, analysis.ordered[var]))
            continue
        units = _units(model, analysis, var, group.name)
        scores = _checked(score(units), units, score)
        orders[var] = scores.argsort(descending=True, stable=True)
        reports.append(OrderReport(group=group.name, score=_used(score, units), order=tuple(orders[var].tolist())))
    permute(model, analysis, orders)
    return orders, tuple(reports)


def permute(model: nn.Module, analysis: Analysis, orders: Mapping[int, Tensor]) -> None:
    """Put the units of some variables into another order, in every parameter and buffer of ``model``, in place.

    Args:
        model: The network that was analysed.
        analysis: The layouts of its tensors.
        orders: By variable the numbers that its units have now, in the order in which they are to stand.
    """
    named = _named(model)
    for name, layouts in analysis.parameters.items():
        tensor = named[name].detach()
        moved = tensor
        for axis, layout in enumerate(layouts):
            if any(block.var in orders for block in layout):
                places = _places(layout, analysis.variables, orders)
                moved = moved.index_select(axis, places.to(tensor.device))
        if moved is not tensor:
            named[name].data = torch.empty_like(tensor).copy_(moved)  # the same object: whoever shares it sees it too


def require_same_function(ours: Any, given: Any) -> None:
    """Pass if a sorted network's outputs are those of the given one, but for the order in which sums are rounded.

    They may differ by the root of the precision, relative to the largest output.

    Raises:
        ConversionError: They differ by more.
    """
    for a, b in zip(tensors(ours), tensors(given), strict=True):
        if b.is_floating_point() or b.is_complex():
            scale = b.abs().nan_to_num(0.0, 0.0).max().item() if b.numel() else 0.0
            limit = torch.finfo(b.dtype).eps ** 0.5
            same = torch.allclose(a, b, rtol=0.0, atol=limit * scale, equal_nan=True)
        else:
            same = not b.numel() or (a != b).double().mean().item() <= _FLIPS
        if not same:
            raise ConversionError(
                "importance: with its channels sorted the network gives another output, so some operator treats "
                "channels by their place; if it has a rule of yours, say op.order_matters(axis) there; "
                "else convert with importance=None and report the network, please"
            )


def _units(model: nn.Module, analysis: Analysis, var: int, group: str) -> Units:
    named = _named(model)
    roles: dict[str, dict[str, Tensor]] = {"read": {}, "written": {}, "gains": {}, "others": {}}
    role_of = _roles(analysis)
    for name, layouts in analysis.parameters.items():
        for axis, layout in enumerate(layouts):
            if name not in analysis.buffers and any(block.var == var for block in layout):
                role = roles[role_of(name, axis)]
                part = _unit_first(named[name], axis, layout, analysis.variables, var)
                role[name] = torch.cat([role[name], part], 1) if name in role else part
    return Units(group=group, count=analysis.variables[var], **roles)


def _roles(analysis: Analysis) -> Callable[[str, int], str]:
    """What an axis of a parameter is to the units on it."""
    opened = {(each.parameter, each.axis) for each in analysis.opened}
    weights = {each.parameter for each in analysis.opened}
    normalising = {mean.rpartition(".")[0] for _, mean, _ in analysis.norms}

    def role(name: str, axis: int) -> str:
        if name in weights:
            return "written" if (name, axis) in opened else "read"
        return "gains" if name in analysis.gains and name.rpartition(".")[0] in normalising else "others"

    return role


def _unit_first(tensor: Tensor, axis: int, layout: Layout, units: Mapping[int, int], var: int) -> Tensor:
    """What of a tensor belongs to each unit of a variable."""
    exact = tensor.detach().to("cpu", torch.promote_types(tensor.dtype, torch.float64)).movedim(axis, 0)
    parts = []
    for start, owner, count, repeat in _blocks(layout, units):
        if owner == var:
            parts.append(exact.narrow(0, start, count * repeat).reshape(count, -1))
    return torch.cat(parts, 1)


def _places(layout: Layout, units: Mapping[int, int], orders: Mapping[int, Tensor]) -> Tensor:
    """Positions of an axis in the order in which they are to stand."""
    parts = []
    for start, var, count, repeat in _blocks(layout, units):
        order = torch.arange(count) if var is None else orders.get(var, torch.arange(count))
        parts.append((start + order[:, None] * repeat + torch.arange(repeat)).flatten())
    return torch.cat(parts)


def _blocks(layout: Layout, units: Mapping[int, int]) -> Iterator[tuple[int, int | None, int, int]]:
    """Where each block begins, its variable, its units, and the positions of one."""
    start = 0
    for var, repeat in layout:
        count = 1 if var is None else units[var]
        yield start, var, count, repeat
        start += count * repeat


def _named(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def _checked(scores: Any, units: Units, score: Score) -> Tensor:
    if not isinstance(scores, Tensor) or scores.shape != (units.count,):
        found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else repr(scores)
        raise ConversionError(
            f"importance: {_name(score)} gave {found} for group {units.group!r}; expected a tensor of shape "
            f"({units.count},), a score for each of its units"
        )
    if scores.is_complex() or not scores.isfinite().all():
        raise ConversionError(
            f"importance: {_name(score)} gave scores for group {units.group!r} that are no finite numbers; "
            "check its weights"
        )
    return scores.detach().cpu()


def _used(score: Score, units: Units) -> str:
    """The name of a score, or of the one that stands in for it."""
    lacking = (score is batch_norm and not units.gains) or (score is filters and not units.written)
    return _name(l1 if lacking else score)


def _name(score: Score) -> str:
    return getattr(score, "__name__", type(score).__name__)
