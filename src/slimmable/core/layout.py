"""The algebra of channel axes: what an axis is made of, and which parts of different axes must agree.

An axis is a **layout**: a tuple of :class:`Block`, each a variable number of units that span ``repeat`` positions, or
a constant run of positions. A convolution's output is one block; a concatenation is the blocks of its parts;
flattening ``(C, H, W)`` turns the block of ``C`` into one whose units span ``H * W`` positions; a channel shuffle
does the same with the number of groups; the channels of a grouped convolution are as many blocks *of one variable* as
it has groups.

Two axes that must agree are **unified**: their blocks are matched from the left, and a variable that meets finer
blocks is replaced by them everywhere (first-order unification over sequences; it ends, because every replacement
makes variables smaller).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Block(NamedTuple):
    """``repeat`` positions for each unit of variable ``var``; ``repeat`` constant positions if ``var`` is None."""

    var: int | None
    repeat: int


Layout = tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Why channels cannot vary."""

    reason: str
    operator: str = ""
    module: str = ""
    line: str = ""


def constant(size: int) -> Layout:
    """An axis of fixed size."""
    return (Block(None, size),)


class Variables:
    """All variables of one analysis, and what became of them."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._bindings: dict[int, Layout] = {}
        self._pins: dict[int, Pin | None] = {}

    def fresh(self, size: int) -> Layout:
        """An axis whose ``size`` units may vary (a single one cannot)."""
        if size <= 1:
            return constant(size)
        self._sizes.append(size)
        return (Block(len(self._sizes) - 1, 1),)

    def resolve(self, layout: Layout) -> Layout:
        """``layout`` in terms of free variables, with neighbouring constants merged."""
        blocks: list[Block] = []
        for block in self._leaves(layout):
            if block.var is None or block.var in self._pins:
                run = self._span(block)
                if blocks and blocks[-1].var is None:
                    run += blocks.pop().repeat
                blocks.append(Block(None, run))
            else:
                blocks.append(block)
        return tuple(blocks)

    def size(self, layout: Layout) -> int:
        """Positions at full width."""
        return sum(self._span(block) for block in layout)

    def units(self, var: int) -> int:
        """Units of a variable at full width."""
        return self._sizes[var]

    def free(self, layout: Layout) -> list[int]:
        """Free variables of an axis, each once, in order."""
        return list(dict.fromkeys(block.var for block in self.resolve(layout) if block.var is not None))

    def pins(self, layout: Layout) -> Iterator[tuple[int, Pin | None]]:
        """Positions of each pinned part of an axis, with the reason (None where the axis was never meant to vary)."""
        for block in self._leaves(layout):
            if block.var is not None and block.var in self._pins:
                yield self._span(block), self._pins[block.var]

    def pin(self, layout: Layout, why: Pin | None) -> None:
        """Hold every variable of an axis at full width. The first reason given stays."""
        for var in self.free(layout):
            self._pins[var] = why

    def scale(self, layout: Layout, factor: int) -> Layout:
        """Every position repeated ``factor`` times in place."""
        return tuple(Block(block.var, block.repeat * factor) for block in self.resolve(layout))

    def unscale(self, layout: Layout, factor: int) -> Layout | None:
        """The inverse of :meth:`scale`; None if some block is not a multiple of ``factor``."""
        blocks = self.resolve(layout)
        if any(block.repeat % factor for block in blocks):
            return None
        return tuple(Block(block.var, block.repeat // factor) for block in blocks)

    def coarsen(self, layout: Layout, factor: int) -> bool:
        """Make every block a multiple of ``factor``, by variables that count runs; False if sizes do not allow it."""
        for block in self.resolve(layout):
            if block.repeat % factor == 0:
                continue
            if block.var is None:
                return False
            run = factor // math.gcd(factor, block.repeat)
            if block.var in self._bindings:
                return self.coarsen(layout, factor)
            if self._sizes[block.var] % run:
                return False
            self._bindings[block.var] = self._scaled_fresh(self._sizes[block.var] // run, run)
        return True

    def cut(self, layout: Layout, position: int, why: Pin) -> tuple[Layout, Layout]:
        """The axis before and from ``position``; a block that cannot be cut there is pinned."""
        before: list[Block] = []
        rest = list(self.resolve(layout))
        left = position
        while left > 0:
            block = rest.pop(0)
            span = self._span(block)
            if span > left:
                first, second = self._split(block, left, why)
                before += first
                rest = [*second, *rest]
                break
            before.append(block)
            left -= span
        return self.resolve(tuple(before)), self.resolve(tuple(rest))

    def segments(self, layout: Layout, count: int, why: Pin) -> list[Layout]:
        """The axis cut into ``count`` equal parts."""
        size = self.size(layout) // count
        parts = []
        rest = layout
        for _ in range(count - 1):
            part, rest = self.cut(rest, size, why)
            parts.append(part)
        return [self.resolve(part) for part in [*parts, rest]]

    def periodic(self, layout: Layout, count: int, why: Pin) -> Layout:
        """The one layout of all ``count`` equal parts of an axis, after they have been made to agree."""
        blocks = self.resolve(layout)
        if len(blocks) == 1 and blocks[0].var is not None and blocks[0].repeat == 1 and count > 1:
            units = self._sizes[blocks[0].var]
            if units % count == 0 and units > count:  # the common case, without a chain of cuts
                part = self.fresh(units // count)
                self._bindings[blocks[0].var] = part * count
                return part
        first, *others = self.segments(layout, count, why)
        for other in others:
            self.unify(first, other, why)
        return self.resolve(first)

    def unify(self, one: Layout, other: Layout, why: Pin) -> None:
        """Make two axes of the same size agree; where they cannot, pin what meets."""
        a, b = self.resolve(one), self.resolve(other)
        assert self.size(a) == self.size(b), (a, b)
        while a != b:
            skip = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
            a, b = a[skip:], b[skip:]
            if a[0].var is None and b[0].var is None:
                run = min(a[0].repeat, b[0].repeat)
                a, b = _without_first(a, run), _without_first(b, run)
            elif not (self._absorb(a, b) or self._absorb(b, a)):
                self._meet(a[0], b[0], why)
            a, b = self.resolve(a), self.resolve(b)

    def _absorb(self, a: Layout, b: Layout) -> bool:
        """Bind the first variable of ``a`` to the blocks of ``b`` that cover it exactly, if there are such."""
        var, repeat = a[0]
        if var is None or repeat != 1:
            return False
        left, taken = self._sizes[var], 0
        while left > 0:
            left -= self._span(b[taken])
            taken += 1
        prefix = b[:taken]
        if left < 0 or taken == 1 or any(block.var == var for block in prefix):
            return False
        self._bindings[var] = prefix
        return True

    def _meet(self, a: Block, b: Block, why: Pin) -> None:
        """One step of unification of two axes that begin with different blocks."""
        span_a, span_b = self._span(a), self._span(b)
        if span_a != span_b:
            larger, size = (a, span_b) if span_a > span_b else (b, span_a)
            if larger.var is not None:
                self._split(larger, size, why)
            else:
                self.pin((a, b), why)
        elif a.var is None or b.var is None:
            self.pin((a, b), why)
        elif a.repeat % b.repeat == 0:  # (v, r) meets (w, s), r = s m: units of w come in runs of m
            older, younger = (a.var, b.var) if a.var < b.var or a.repeat != b.repeat else (b.var, a.var)
            self._bindings[younger] = (Block(older, a.repeat // b.repeat),)
        elif b.repeat % a.repeat == 0:
            self._bindings[a.var] = (Block(b.var, b.repeat // a.repeat),)
        else:
            run = math.lcm(a.repeat, b.repeat)
            if span_a % run or a.var == b.var:
                self.pin((a, b), why)
            else:
                shared = self.fresh(span_a // run)
                self._bindings[a.var] = self.scale(shared, run // a.repeat)
                self._bindings[b.var] = self.scale(shared, run // b.repeat)

    def _split(self, block: Block, position: int, why: Pin) -> tuple[Layout, Layout]:
        """Two parts of one block; its variable becomes two variables, or is pinned if a unit would be cut."""
        span = self._span(block)
        if block.var is not None and position % block.repeat == 0:
            units = position // block.repeat
            first, second = self.fresh(units), self.fresh(self._sizes[block.var] - units)
            self._bindings[block.var] = first + second
            return self.scale(first, block.repeat), self.scale(second, block.repeat)
        if block.var is not None:
            self._pins[block.var] = why
        return constant(position), constant(span - position)

    def _scaled_fresh(self, units: int, repeat: int) -> Layout:
        return tuple(Block(block.var, block.repeat * repeat) for block in self.fresh(units))

    def _span(self, block: Block) -> int:
        return block.repeat if block.var is None else self._sizes[block.var] * block.repeat

    def _leaves(self, layout: Iterable[Block]) -> Iterator[Block]:
        for block in layout:
            binding = self._bindings.get(block.var) if block.var is not None else None
            if binding is None:
                yield block
            else:
                yield from self._leaves(Block(part.var, part.repeat * block.repeat) for part in binding)


def _without_first(layout: Layout, positions: int) -> Layout:
    """A layout that begins with a constant run, without ``positions`` of that run."""
    run = layout[0].repeat - positions
    return (Block(None, run), *layout[1:]) if run else layout[1:]
