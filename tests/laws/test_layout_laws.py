"""Laws of the algebra of axes, held to a mask of single positions.

A random program makes axes and relates them. Each relation is also written down as one between masks: lists that say
of every position whether it is active. Whatever is done later, for any number of active units of every free
variable, all relations hold.
"""

import itertools
from collections.abc import Callable
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from slimmable.core.layout import Layout, Pin, Variables, constant

WHY = Pin(reason="a law")
SIZES = (1, 2, 3, 4, 6, 8, 12, 24)

Mask = list[bool]
Relation = Callable[[Callable[[Layout], Mask]], bool]


def positions(variables: Variables, layout: Layout) -> list[tuple[int, int] | None]:
    """Every position of an axis as (variable, unit), or None where it is constant."""
    found: list[tuple[int, int] | None] = []
    for var, repeat in variables.resolve(layout):
        for unit in range(1 if var is None else variables.units(var)):
            found += [None if var is None else (var, unit)] * repeat
    return found


class Program:
    """Axes, and what must hold between them."""

    def __init__(self, draw: Callable[[st.SearchStrategy], object]) -> None:
        self.variables = Variables()
        self.draw = draw
        self.pool: list[Layout] = []
        self.constants: list[Layout] = []
        self.relations: list[tuple[str, Relation]] = []

    def pick(self) -> Layout:
        return self.draw(st.sampled_from(self.pool))

    def add(self, *layouts: Layout) -> None:
        self.pool += [layout for layout in layouts if 0 < self.variables.size(layout) <= 96]

    def law(self, name: str, relation: Relation) -> None:
        self.relations.append((name, relation))

    def divisor(self, size: int) -> int:
        return self.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))

    def fresh(self) -> None:
        self.add(self.variables.fresh(self.draw(st.sampled_from(SIZES))))

    def fixed(self) -> None:
        layout = constant(self.draw(st.sampled_from(SIZES)))
        self.constants.append(layout)
        self.add(layout)

    def join(self) -> None:
        a, b = self.pick(), self.pick()
        self.law("join", lambda mask: mask(a + b) == mask(a) + mask(b))
        self.add(a + b)

    def unify(self) -> None:
        a = self.pick()
        b = self.draw(st.sampled_from([b for b in self.pool if self.variables.size(b) == self.variables.size(a)]))
        self.variables.unify(a, b, WHY)
        assert self.variables.resolve(a) == self.variables.resolve(b)
        self.law("unify", lambda mask: mask(a) == mask(b))

    def scale(self) -> None:
        a, factor = self.pick(), self.draw(st.integers(1, 4))
        scaled = self.variables.scale(a, factor)
        assert self.variables.unscale(scaled, factor) == self.variables.resolve(a)
        self.law("scale", lambda mask: mask(scaled) == [x for x in mask(a) for _ in range(factor)])
        self.add(scaled)

    def coarsen(self) -> None:
        a = self.pick()
        factor = self.divisor(self.variables.size(a))
        if self.variables.coarsen(a, factor):
            units = self.variables.unscale(a, factor)
            assert units is not None
            self.law("coarsen", lambda mask: mask(a) == [x for x in mask(units) for _ in range(factor)])
            self.add(units)

    def cut(self) -> None:
        a = self.pick()
        position = self.draw(st.integers(0, self.variables.size(a)))
        before, rest = self.variables.cut(a, position, WHY)
        self.law("cut", lambda mask: mask(before) + mask(rest) == mask(a) and len(mask(before)) == position)
        self.add(before, rest)

    def segments(self) -> None:
        a = self.pick()
        count = self.divisor(self.variables.size(a))
        parts = self.variables.segments(a, count, WHY)
        assert len({self.variables.size(part) for part in parts}) == 1
        self.law("segments", lambda mask: mask(a) == [x for part in parts for x in mask(part)])
        self.add(*parts)

    def periodic(self) -> None:
        a = self.pick()
        count = self.divisor(self.variables.size(a))
        part = self.variables.periodic(a, count, WHY)
        self.law("periodic", lambda mask: mask(a) == mask(part) * count)
        self.add(part)

    def pin(self) -> None:
        a = self.pick()
        self.variables.pin(a, WHY)
        self.constants.append(a)


STEPS = st.sampled_from(
    [
        *[Program.unify] * 4,
        *[Program.fresh, Program.join, Program.periodic, Program.cut, Program.scale] * 2,
        Program.segments,
        Program.coarsen,
        Program.fixed,
        Program.pin,
    ]
)


@settings(max_examples=300)
@given(st.data(), st.lists(STEPS, max_size=14), st.integers(0, 2**32))
def test_relations_hold_whatever_units_are_active(data, steps, seed):
    program = Program(data.draw)
    for _ in range(4):
        program.fresh()
    sizes = {}
    for step in steps:
        step(program)
        for layout in program.pool:
            sizes.setdefault(layout, program.variables.size(layout))
    variables = program.variables
    assert all(variables.size(layout) == size for layout, size in sizes.items())
    generator = Random(seed)
    free = sorted({var for layout in program.pool for var in variables.free(layout)})
    for _ in range(5):
        kept = {var: generator.randint(1, variables.units(var)) for var in free}

        def mask(layout: Layout, kept: dict[int, int] = kept) -> Mask:
            return [place is None or place[1] < kept[place[0]] for place in positions(variables, layout)]

        for name, relation in program.relations:
            assert relation(mask), name
        assert all(all(mask(layout)) for layout in program.constants)


@settings(max_examples=100)
@given(st.data(), st.lists(STEPS, max_size=10))
def test_resolving_is_final_and_every_variable_left_is_free(data, steps):
    program = Program(data.draw)
    program.fresh()
    for step in steps:
        step(program)
    variables = program.variables
    for layout in program.pool:
        resolved = variables.resolve(layout)
        assert variables.resolve(resolved) == resolved
        assert [block.var for block in resolved if block.var is not None] or all(
            place is None for place in positions(variables, layout)
        )
        assert not any(one.var is None and other.var is None for one, other in itertools.pairwise(resolved))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.data())
def test_axes_of_fresh_variables_cut_anywhere_keep_every_unit(parts, data):
    """Unification pins nothing that could vary: two ways of cutting one axis have the union of their cuts."""
    total = sum(parts)
    others: list[int] = []
    while sum(others) < total:
        others.append(data.draw(st.integers(1, total - sum(others))))
    variables = Variables()
    one, other = (tuple(block for size in sizes for block in variables.fresh(size)) for sizes in (parts, others))
    variables.unify(one, other, WHY)
    cuts = sorted({sum(sizes[: i + 1]) for sizes in (parts, others) for i in range(len(sizes))})
    pieces = [end - start for start, end in zip([0, *cuts], cuts, strict=False)]
    ones = [size for size in parts + others if size == 1]
    found = [variables.units(var) for var in variables.free(one)]
    assert found == [piece for piece in pieces if piece > 1] or ones
