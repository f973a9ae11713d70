"""Conversion: from a network somebody has to one that runs at any width."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any, get_args

from torch import Tensor, nn

from slimmable.core.analysis import Analysis, Holds, analyse
from slimmable.core.assemble import assemble
from slimmable.core.conversion import Conversion, Options
from slimmable.core.examples import count_examples
from slimmable.core.groups import Grouping, Ranges, group
from slimmable.core.importance import Importance, require_same_function, score_of, sort_units
from slimmable.core.model import SlimmableModel
from slimmable.core.narrow import Watched, prove_narrow
from slimmable.core.prove import NarrowFailure, cause_of, module_classes, require_equal, run, run_noting
from slimmable.core.space import Widths
from slimmable.core.state import BatchNorm
from slimmable.core.trace import Trace, trace
from slimmable.core.twins import copied, hollow, hollow_inputs, twin
from slimmable.errors import ConversionError

_MAXIMUM_TRIES = 40


def convert(
    model: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    *,
    min_ratio: float = 0.25,
    max_ratio: float = 1.0,
    divisor: int = 8,
    exclude: Sequence[str] = (),
    tie: Sequence[Sequence[str]] = (),
    follow: Mapping[str, tuple[str, float]] | None = None,
    switches: Sequence[float | Widths] | None = None,
    batch_norm: BatchNorm | None = None,
    averaged: bool = False,
    importance: Importance | None = None,
) -> SlimmableModel:
    """A network that runs at any width, from one that runs at its own.

    The graph of ``model`` on ``example_inputs`` says which channel counts can vary and which must vary together. What
    cannot is held at full width, and ``net.report`` names the operator and the line that hold it. Nothing is ever
    frozen silently, and no code of the network is changed: its modules go on running their own ``forward`` on
    parameters of the active size.

    The conversion proves itself on the example: at the width of the given network the output equals the original's
    bit for bit; at the narrowest and at a random width every operator yields what the analysis foresaw; where the given
    network runs on the example in training mode too, so does the narrowest width. A module whose code fixes a size is
    held and reported. With ``importance`` the network of sorted channels takes the place of
    the original, to whose output its own must be equal but for rounding.

    Args:
        model: Any network that ``torch.export`` can trace. It is copied; its weights are kept.
        example_inputs: A tensor, or the tuple of the forward's positional arguments; batch first, where there is one.
        min_ratio: Smallest multiple of each group's channels.
        max_ratio: Largest multiple; above 1 the network is widened, and new weights are drawn at random.
        divisor: Channels are multiples of it (of 8: unrounded counts cost up to 2.5 times the time per multiplication
            on CPUs).
        exclude: Patterns of module paths (``"features.18"``, ``"head.*"``) whose outputs stay at full width.
        tie: Sets of patterns of group names; the groups of a set share one ratio.
        follow: Groups that uniform widths derive from another: ``{"block.expand": ("block.input", 6)}``. A fraction of
            it is rounded.
        switches: The fixed list of ratios or widths of S-Net, each with private batch norm [1].
        batch_norm: ``"calibrated"`` (shared gain and shift, statistics calibrated for any width [2]; the default
            without switches), ``"private"`` (the default with switches), or ``"naive"`` (everything shared: the
            baseline that fails [1]).
        averaged: Multiply a layer's output by its full over its active input channels [2].
        importance: Sort the channels of each group once, most important first, so that narrow widths of a trained
            network keep the best: by ``"l1"`` of the weights that read them [3], of the ``"filters"`` that write them
            [4], by ``"batch_norm"`` gains [5], or by a function of :class:`slimmable.core.importance.Units`.

    Returns:
        The converted network, in the mode (training or evaluation) of the given one and at its width, or at the widest
        switch if that width is none.

    Raises:
        ConversionError: The network cannot be traced or copied, an option names nothing, or the proof fails.

    References:
        [1] Yu, Yang, Xu, Yang, Huang. Slimmable Neural Networks. ICLR 2019.
        [2] Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019.
        [3] Cai, Gan, Wang, Zhang, Han. Once-for-All: Train One Network and Specialize it for Efficient Deployment.
            ICLR 2020.
        [4] Li, Kadav, Durdanovic, Samet, Graf. Pruning Filters for Efficient ConvNets. ICLR 2017.
        [5] Liu, Li, Shen, Huang, Yan, Zhang. Learning Efficient Convolutional Networks through Network Slimming. ICCV
            2017.

    Example:
        >>> import torch, slimmable
        >>> plain = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
        >>> net = slimmable.convert(plain, torch.zeros(1, 4))
        >>> len(net.space), net.space.uniform(0.5)
        (1, Widths(0=32))
    """
    _require_network(model)
    ranges = Ranges(min_ratio=min_ratio, max_ratio=max_ratio, divisor=divisor)
    if isinstance(example_inputs, list):
        raise ConversionError("example_inputs is a tensor, or a tuple of the forward's arguments; got a list")
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    kind = _kind(batch_norm, switches)
    score = None if importance is None else score_of(importance)
    original = _copied(model, share=True).eval()
    graph = replace(trace(original, inputs), examples=count_examples(original, inputs))
    aliases = _aliases(original)
    training = _training_graph(original, inputs, graph, aliases)
    excluded = _excluded(original, exclude)
    holds = Holds(outputs={path: f"excluded by {each!r}" for each, paths in excluded.items() for path in paths})
    expected, buffers = run_noting(original, inputs)
    cause, watched = cause_of(buffers), None
    for _ in range(_MAXIMUM_TRIES):
        analysis = analyse(graph, holds=holds, aliases=aliases, training=training)
        _require_effect(original, analysis, excluded)
        grouping = group(analysis, ranges, tie=tie, follow=follow or {})
        try:
            watched = watched or Watched(original, analysis)
            prove_narrow(original, inputs, analysis, grouping, watched, cause, averaged=averaged)
        except NarrowFailure as failure:
            if failure.training and training is None and (found := _traced_in_training(original, inputs)):
                training = found
            else:
                _hold(original, analysis, failure, holds)
            continue
        plain, order = _copied(original), ()
        if score is not None:
            _, order = sort_units(plain, analysis, grouping, score)
            given, expected = expected, run(copy.deepcopy(plain), inputs)
            require_same_function(expected, given)
        net = assemble(
            plain,
            analysis,
            grouping,
            batch_norm=kind,
            switches=_switches(grouping, switches),
            averaged=averaged,
        )
        _prove_full(net, inputs, expected, cause)
        net.report = replace(net.report, order=order)
        options = Options(
            ranges=ranges, tie=tuple(map(tuple, tie)), follow=dict(follow or {}), holds=holds, aliases=aliases
        )
        net.origin = Conversion(
            skeleton=hollow(original),
            inputs=hollow_inputs(inputs),
            analysis=analysis,
            grouping=grouping,
            training=training,
            options=options,
            averaged=averaged,
        )
        net.train(model.training)
        for path, module in model.named_modules():
            net.model.get_submodule(path).training = module.training
        return net
    raise ConversionError(
        f"{type(model).__name__} could not be proved within {_MAXIMUM_TRIES} tries; "
        f"held by then: {', '.join([*holds.outputs, *holds.sizes, *holds.everything])}"
    )


def _require_network(model: nn.Module) -> None:
    if isinstance(model, SlimmableModel):
        raise ConversionError("the network is converted already; convert the plain one, or net.extract(widths)")
    if not isinstance(model, nn.Module):
        raise ConversionError(f"convert takes a network, a torch.nn.Module; got {type(model).__name__}")
    dynamo = sys.modules.get("torch._dynamo")  # where nobody has imported it, nothing is compiled
    for path, module in model.named_modules():
        if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
            raise ConversionError(
                f"{f'module {path!r}' if path else 'the network'} is the result of torch.compile; convert the network "
                "that was compiled (compiled._orig_mod), and compile the converted one: torch.compile(net.model)"
            )
    if any(tensor.is_meta for tensor in model.parameters()):
        raise ConversionError("the network is on the meta device; the proof of a conversion runs it, on real weights")


def _kind(batch_norm: BatchNorm | None, switches: Sequence[float | Widths] | None) -> BatchNorm:
    if switches is not None and (isinstance(switches, str | Widths) or not isinstance(switches, Sequence)):
        raise ConversionError(f"switches takes a list of ratios or widths, such as [1.0, 0.5, 0.25]; got {switches!r}")
    kinds = get_args(BatchNorm)
    if batch_norm is not None and batch_norm not in kinds:
        raise ConversionError(f"batch_norm must be one of {', '.join(kinds)}; got {batch_norm!r}")
    kind: BatchNorm = batch_norm or ("private" if switches else "calibrated")
    if (kind == "private") != bool(switches):
        raise ConversionError(
            f"batch_norm={kind!r} with switches={switches!r}: "
            "private batch norm needs a list of switches, and only it does"
        )
    return kind


def _copied(model: nn.Module, *, share: bool = False) -> nn.Module:
    """A copy; its parameters, which no forward pass changes, may be those of ``model``."""
    try:
        return copied(model, {id(each): each for each in model.parameters()} if share else {})
    except Exception as error:
        raise ConversionError(
            f"{type(model).__name__} cannot be copied: {error}; copy.deepcopy(model) must work"
        ) from error


def _training_graph(
    model: nn.Module, inputs: tuple[Any, ...], graph: Trace, aliases: Mapping[str, str]
) -> Trace | None:
    """The graph in training mode if evaluation leaves parameters unread, as auxiliary heads do.

    None where it cannot be traced: the report lists what was not reached.
    """
    read = {aliases.get(name, name) for node, name in graph.parameters.items() if node.users}
    if all(name in read for name, _ in model.named_parameters()):
        return None
    return _traced_in_training(model, inputs)


def _traced_in_training(model: nn.Module, inputs: tuple[Any, ...]) -> Trace | None:
    try:
        return trace(twin(model).train(), inputs)
    except ConversionError:
        return None


def _aliases(model: nn.Module) -> dict[str, str]:
    """First name of every tensor that has several, by the others."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        if first.setdefault(id(tensor), name) != name:
            aliases[name] = first[id(tensor)]
    return aliases


def _excluded(model: nn.Module, exclude: Sequence[str]) -> dict[str, list[str]]:
    """Paths of the modules that each pattern matches."""
    if isinstance(exclude, str):
        raise ConversionError(f"exclude takes a list of module paths, such as [{exclude!r}]; got a text")
    paths = [path for path, _ in model.named_modules() if path]
    found = {str(pattern): [path for path in paths if fnmatchcase(path, str(pattern))] for pattern in exclude}
    for pattern, matched in found.items():
        if not matched:
            raise ConversionError(f"exclude: no module matches {pattern!r}; print(model) shows their names")
    return found


def _require_effect(model: nn.Module, analysis: Analysis, excluded: Mapping[str, Sequence[str]]) -> None:
    """Pass if every pattern matches a layer that opens a width: what follows others' widths cannot keep its own."""
    writing = {each.module for each in (*analysis.opened, *analysis.fixed)}
    for pattern, paths in excluded.items():
        if any(f"{layer}.".startswith(f"{path}.") for path in paths for layer in writing):
            continue
        inside = [call for call in analysis.trace.calls if any(f"{call.module}.".startswith(f"{p}.") for p in paths)]
        met = {node for call in inside for node in call.node.all_input_nodes}
        followed = {block.var for node in met for axes in analysis.tensors[node] for axis in axes for block in axis}
        openers = [
            each.module
            for each in analysis.opened
            if any(b.var in followed - {None} for b in analysis.parameters[each.parameter][each.axis])
        ]
        cure = f"exclude what opens it: {', '.join(dict.fromkeys(openers))}" if openers else "leave the pattern out"
        raise ConversionError(
            f"exclude: {pattern!r} matches {paths[0]} ({type(model.get_submodule(paths[0])).__name__}), "
            f"which opens no width and follows that of its inputs; {cure}"
        )


def _switches(grouping: Grouping, switches: Sequence[float | Widths] | None) -> tuple[Widths, ...]:
    space = grouping.space
    for switch in switches or ():
        if not isinstance(switch, Real | Widths):
            raise ConversionError(f"a switch is a ratio or Widths; got {switch!r}")
    found = [switch if isinstance(switch, Widths) else space.uniform(switch) for switch in switches or ()]
    for widths in found:
        space.check(widths)
    return tuple(dict.fromkeys(found))


def _hold(original: nn.Module, analysis: Analysis, failure: NarrowFailure, holds: Holds) -> None:
    """Take from a failure which modules run at one width only, and hold no more of them than has to be.

    Raises:
        ConversionError: Everything that could be held is held already.
    """
    alike = module_classes(original, failure.module)
    called = {call.module for call in analysis.trace.calls}
    if any(path not in holds.joined | holds.inner | {*holds.sizes} and path in called for path in alike):
        holds.joined.update(alike)
    elif any(path in analysis.outer and path not in holds.sizes for path in alike):
        holds.joined.difference_update(alike)
        holds.inner.update(alike)
    elif any(path not in holds.sizes and path in called for path in alike):
        holds.joined.difference_update(alike)
        holds.sizes.update(dict.fromkeys(alike, failure.reason))
    elif failure.module not in holds.outputs:
        holds.outputs.update(dict.fromkeys(alike, failure.reason))
    elif failure.module not in holds.everything:
        holds.everything.update(dict.fromkeys(alike, failure.reason))
    else:
        raise ConversionError(
            f"module {failure.module!r} ({type(original.get_submodule(failure.module)).__name__}) "
            f"does not run at narrow widths: {failure.reason}; "
            "exclude it or the module that feeds it: convert(..., exclude=[...])"
        ) from failure


def _prove_full(net: SlimmableModel, inputs: tuple[Any, ...], expected: Any, cause: str) -> None:
    """The given width equals the original bit for bit."""
    space = net.space
    if net.batch_norm == "private" and net.has_batch_norm and space.base not in net.switches:
        return
    with net.at(space.base):
        require_equal(run(net.eval(), inputs), expected, "the given width against the original network", cause)
