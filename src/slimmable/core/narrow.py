"""The proof of a conversion at widths other than the given one: what runs there, and which widths tell groups apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction
from math import prod
from random import Random
from typing import Any

import torch
from torch import nn

from slimmable.core.analysis import Analysis
from slimmable.core.assemble import assemble
from slimmable.core.foreseen import Foreseen
from slimmable.core.groups import Grouping
from slimmable.core.model import SlimmableModel
from slimmable.core.prove import (
    NarrowFailure,
    compare_shapes,
    rehearse,
    require_close,
    run_narrow,
    run_switched,
    run_training,
)
from slimmable.core.space import Widths, WidthSpace
from slimmable.core.steps import reference
from slimmable.core.twins import copied, hollow, hollow_inputs

_HEAVY = 10**7
"""Multiply-accumulates for each operator from which a run takes longer with data than without."""


class Watched:
    """The steps of the original network, and whether to watch without data."""

    def __init__(self, original: nn.Module, analysis: Analysis) -> None:
        positions: dict[int | None, int] = {None: 1, **analysis.variables}
        macs = sum(
            term.constant * prod(sum(positions[b.var] * b.repeat for b in layout) for layout in term.layouts)
            for _, term in analysis.macs
        )
        self.hollow = macs > _HEAVY * len(analysis.trace.calls)
        self.steps = reference(analysis.trace, original, hollow=self.hollow)


def prove_narrow(
    original: nn.Module,
    inputs: tuple[Any, ...],
    analysis: Analysis,
    grouping: Grouping,
    watched: Watched,
    cause: str,
    *,
    averaged: bool,
) -> None:
    """Run the narrowest width, compare every operator's shape at random ones, and run widths that tell groups apart.

    Only the first needs data: shapes of heavy networks are looked at without, where they run so.

    Args:
        original: The network.
        inputs: The example.
        analysis: Of its graph.
        grouping: Its groups.
        watched: The steps of the network as it was given.
        cause: What explains outputs that differ.
        averaged: Whether layers scale their outputs.

    Raises:
        NarrowFailure: A module does not do what was foreseen.
        ConversionError: The network computes something else than the one that is extracted from it.
    """
    space = grouping.space
    net = _naive(copied(original, {id(each): each for each in original.parameters()}), analysis, grouping, averaged)
    shown, given = (
        (_naive(hollow(original), analysis, grouping, averaged), hollow_inputs(inputs))
        if watched.hollow
        else (net, inputs)
    )
    narrow = run_narrow(net.extract(space.smallest), inputs, Foreseen(analysis, grouping, space.smallest))
    drawn = _drawn(space)
    wider = [space.largest] if space.largest != space.base else []
    for widths in (drawn, *wider, *_telling_apart(space, drawn)):
        foreseen, seen = Foreseen(analysis, grouping, widths), None
        if watched.hollow or widths == drawn:
            expected = watched.steps if widths == drawn else None
            seen = rehearse(shown.extract(widths), given, foreseen, expected, hollow=watched.hollow)
        if seen is None:
            run_narrow(net.extract(widths), inputs, foreseen)
        if widths == drawn and not seen:
            compare_shapes(net.extract(widths), inputs, foreseen)
    switched = [run_switched(net, inputs, widths) for widths in (space.base, space.smallest)]
    if averaged:
        cause = (
            f"a layer computes with its weight otherwise than in proportion: convert without averaged (if not, {cause})"
        )
    require_close(switched[-1], narrow, "the narrowest width against its extracted network", cause)
    if not _proved_training(shown, given, hollow=watched.hollow):
        _proved_training(net, inputs, hollow=False)


def _proved_training(net: SlimmableModel, inputs: tuple[Any, ...], *, hollow: bool) -> bool:
    """Run the narrowest width in training mode, with data or without.

    Where the given width does not run so either (batch norm refuses a single value, losses want targets), nothing can
    be told.

    Returns:
        False where neither width runs without data: a run with data has to tell.

    Raises:
        NarrowFailure: The given width runs so, and the narrowest does not.
    """
    with torch.device("meta") if hollow else nullcontext():
        try:
            run_training(net.extract(net.space.smallest), inputs)
        except NarrowFailure as failure:
            try:
                run_training(net.extract(net.space.base), inputs)
            except NarrowFailure:
                return not hollow
            raise failure from None
    return True


def _naive(plain: nn.Module, analysis: Analysis, grouping: Grouping, averaged: bool) -> SlimmableModel:
    """The elastic network without tables of batch norm."""
    return assemble(plain, analysis, grouping, batch_norm="naive", switches=(), averaged=averaged)


def _drawn(space: WidthSpace) -> Widths:
    """Random widths, all of them narrower than given where that is possible."""
    generator = Random(0)
    ratios = [generator.uniform(space.min_ratio, 1.0) for _ in space.dimensions]
    drawn = space.at_ratios(ratios)
    leaders = [leader for leader, *_ in space.dimensions]
    return space.at_ratios(
        [
            ratio if drawn[leader.name] < leader.base else space.min_ratio
            for leader, ratio in zip(leaders, ratios, strict=True)
        ]
    )


def _telling_apart(space: WidthSpace, drawn: Widths) -> Iterator[Widths]:
    """Widths such that any two groups differ in one of them or in those that were drawn.

    Groups that were drawn at one ratio are numbered; a group is narrow where its number has the bit.
    """
    counts: Counter[Fraction] = Counter()
    numbers: list[int] = []
    for leader, *_ in space.dimensions:
        ratio = Fraction(drawn[leader.name], leader.base)
        numbers.append(counts[ratio])
        counts[ratio] += 1
    for bit in range(max(numbers, default=0).bit_length()):
        yield space.at_ratios([space.min_ratio if number >> bit & 1 else 1.0 for number in numbers])
