"""Widths, groups and spaces as plain values."""

import copy
import itertools
import json
import pickle
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable import SlimmableError, WidthGroup, Widths, WidthSpace
from slimmable.core.space import make_divisible
from slimmable.errors import WidthError


def group(name: str = "a", base: int = 32, *, minimum: int = 8, divisor: int = 8, **options) -> WidthGroup:
    return WidthGroup(name=name, base=base, minimum=minimum, maximum=base, divisor=divisor, **options)


def space(*groups: WidthGroup, ties: tuple[tuple[str, ...], ...] = ()) -> WidthSpace:
    return WidthSpace(groups, 0.25, 1.0, ties)


@st.composite
def groups(draw: st.DrawFn) -> WidthGroup:
    minimum = draw(st.integers(1, 64))
    base = minimum + draw(st.integers(0, 64))
    maximum = base + draw(st.integers(0, 64))
    return WidthGroup(name="a", base=base, minimum=minimum, maximum=maximum, divisor=draw(st.integers(1, 16)))


@given(st.floats(0.5, 2000), st.integers(1, 32))
def test_make_divisible_is_the_least_multiple_within_half_a_step_and_a_tenth(value, divisor):
    found = make_divisible(value, divisor)
    allowed = [k * divisor for k in range(1, 4100) if k * divisor >= max(0.9 * value, value - divisor / 2 - 1e-9)]
    assert found in allowed[:2]
    assert found % divisor == 0
    assert found >= 0.9 * value


@given(groups())
def test_choices_are_the_ends_the_base_and_every_multiple_between(each):
    allowed = [
        n
        for n in range(each.minimum, each.maximum + 1)
        if n % each.divisor == 0 or n in (each.minimum, each.base, each.maximum)
    ]
    assert list(each.choices) == allowed


@given(groups(), st.integers(0, 300))
def test_snap_takes_the_nearest_choice_and_the_larger_of_two(each, channels):
    nearest = min(abs(choice - channels) for choice in each.choices)
    assert each.snap(channels) == max(choice for choice in each.choices if abs(choice - channels) == nearest)


@given(groups(), st.floats(0.01, 3), st.floats(0.01, 3))
def test_a_group_grows_with_its_ratio_and_stays_in_its_range(each, one, other):
    low, high = sorted((one, other))
    assert each.at(low) in each.choices
    assert each.at(1.0) == each.base
    if each.base % each.divisor == 0:  # otherwise the base lies between two multiples, one of which is nearer to it
        assert each.at(low) <= each.at(high)
    assert low > 1 or each.at(low) <= each.base


def test_uniform_ends_are_the_ends_of_the_space():
    found = space(group("a", 32), group("b", 64, minimum=16))
    assert found.uniform(1.0) == found.largest == found.base
    assert found.uniform(0.25) == found.smallest
    assert found.uniform(0.5).to_json() == {"a": 16, "b": 32}


@pytest.mark.parametrize("ratio", [0.0, 0.24, 1.01, -1.0, float("nan")])
def test_a_ratio_outside_the_range_is_refused_with_the_range(ratio):
    with pytest.raises(WidthError, match=r"lies outside \[0\.25, 1\.0\]"):
        space(group()).uniform(ratio)


def test_random_widths_depend_on_the_generator_alone_and_belong_to_the_space():
    found = space(*(group(name, 64) for name in "abcdef"))
    first, second = (
        [found.random(Random(3)), *(found.random_uniform(generator) for generator in [Random(3)] * 9)] for _ in range(2)
    )
    assert first == second
    for widths in first:
        found.check(widths)
    assert len({found.random(Random(seed)).channels for seed in range(20)}) > 15
    for seed in range(20):
        assert len(set(found.random_uniform(Random(seed)).channels)) == 1


def test_tied_groups_count_once_and_share_one_ratio():
    found = space(group("a", 64), group("b", 32), group("c", 32), ties=(("a", "c"),))
    assert len(found) == 2
    for seed in range(20):
        widths = found.random(Random(seed))
        found.check(widths)
        assert widths["c"] == max(8, make_divisible(32 * widths["a"] / 64, 8))
    with pytest.raises(WidthError, match="'a' and 'c' are tied to one ratio, got 64 of 64 and 16 of 32"):
        found.widths({"a": 64, "b": 32, "c": 16})
    assert found.at_ratios([0.5, 1.0]).to_json() == {"a": 32, "b": 32, "c": 16}


def test_a_follower_has_a_multiple_of_its_leaders_rounded_channels_in_uniform_widths():
    found = space(group("expand", 96, follows=("input", 6)), group("input", 16))
    assert found.uniform(0.7).to_json() == {"input": 16, "expand": 96}
    assert found.uniform(0.5).to_json() == {"input": 8, "expand": 48}
    assert len(found) == 2
    assert found.widths({"expand": 24, "input": 16})["expand"] == 24


def test_a_follower_of_a_fraction_is_rounded_as_networks_round_it():
    found = space(group("squeeze", 24, follows=("expand", 0.25)), group("expand", 72, minimum=24))
    for ratio in (0.35, 0.5, 0.6, 0.75, 0.9, 1.0):
        widths = found.uniform(ratio)
        assert widths["expand"] == make_divisible(72 * ratio, 8)
        assert widths["squeeze"] == make_divisible(widths["expand"] / 4, 8)
    assert WidthSpace.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_follower_keeps_its_own_width_where_that_is_no_multiple():
    expand = WidthGroup(name="expand", base=60, minimum=24, maximum=96, divisor=8, follows=("input", 6))
    narrow = WidthGroup(name="input", base=10, minimum=4, maximum=16, divisor=2)
    assert WidthSpace((narrow, expand), 0.4, 1.6).uniform(1.0).to_json() == {"input": 10, "expand": 60}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: space(group("a"), group("a")), "two groups of one name"),
        (lambda: space(group("a"), ties=(("a", "x"),)), "no width group 'x'"),
        (lambda: space(group("a"), group("b"), ties=(("a", "b"), ("b",))), "stands in two ties"),
        (lambda: space(group("a", follows=("x", 2))), "no width group 'x'"),
        (
            lambda: space(group("a", follows=("b", 2)), group("b", follows=("a", 2))),
            "follow each other in a circle: a, b",
        ),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(build, message):
    with pytest.raises(WidthError, match=message):
        build()


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"a": 12, "b": 32}, "'a' cannot keep 12 channels; it takes 8, 16, 24, 32; the nearest is 16"),
        ({"a": 40, "b": 32}, "the nearest is 32"),
        ({"a": 8}, r"unknown groups \[\], missing groups \['b'\]"),
        ({"a": 8, "b": 8, "x": 1}, r"unknown groups \['x'\]"),
        ([8], "expected channels for 2 groups, got 1"),
        ([8, 8.5], "'b' cannot keep 8.5 channels"),
    ],
)
def test_widths_that_do_not_fit_are_refused_with_the_nearest_that_do(channels, message):
    with pytest.raises(WidthError, match=message):
        space(group("a"), group("b")).widths(channels)


def test_numbers_of_numpy_are_taken_for_what_they_are():
    found = space(group("a"), group("b"))
    half = found.uniform(0.5)
    for kept in (np.int64(16), np.uint8(16)):
        each = [
            found.widths({"a": kept, "b": kept}),
            found.widths(np.array([kept, kept])),  # pyright: ignore[reportArgumentType]
            found.led([kept, kept]),
            Widths.of({"a": kept, "b": kept}),
            Widths.from_json({"a": kept, "b": kept}),
            Widths(("a", "b"), (kept, kept)),
        ]
        for widths in each:
            found.check(widths)
            assert widths == half
            assert json.dumps(widths.to_json()) == '{"a": 16, "b": 16}'
    for ratio in (np.float32(0.5), np.float16(0.5), Fraction(1, 2)):
        assert found.uniform(ratio) == found.at_ratios([ratio, ratio]) == half  # pyright: ignore[reportArgumentType]
    with pytest.raises(WidthError, match=r"cannot keep 16\.0 channels"):
        found.widths([np.float64(16), 16])  # pyright: ignore[reportArgumentType]
    with pytest.raises(WidthError, match=r"ratio of 1\.5 lies outside"):
        found.at_ratios([0.5, np.float32(1.5)])  # pyright: ignore[reportArgumentType]


def test_what_is_no_widths_or_of_another_space_is_refused():
    found = space(group("a"))
    with pytest.raises(WidthError, match=r"expected Widths, such as net.space.uniform"):
        found.check({"a": 8})  # pyright: ignore[reportArgumentType]
    with pytest.raises(WidthError, match=r"another space: unknown groups \['b'\], missing groups \['a'\]"):
        found.check(Widths.of({"b": 8}))
    with pytest.raises(WidthError, match="expected 1 ratios"):
        found.at_ratios([0.5, 0.5])
    with pytest.raises(WidthError, match="no width group 'b'; the groups are a"):
        found["b"]
    assert issubclass(WidthError, SlimmableError)
    assert issubclass(WidthError, ValueError)


def test_widths_are_an_immutable_hashable_mapping_in_order():
    widths = Widths.of({"stem": 16, "head": 32})
    assert list(widths.items()) == [("stem", 16), ("head", 32)]
    assert {widths: 1}[Widths.of({"stem": 16, "head": 32})] == 1
    assert widths != Widths.of({"head": 32, "stem": 16})
    with pytest.raises(AttributeError):
        widths.channels = (1, 2)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(KeyError, match="tail"):
        widths["tail"]
    assert repr(Widths.of({str(i): i for i in range(9)})) == "Widths(0=0, 1=1, 2=2, 3=3, ... 5 more)"
    for other in (copy.deepcopy(widths), pickle.loads(pickle.dumps(widths))):
        assert other == widths


def test_values_pass_through_json_unchanged():
    found = space(group("a", 64), group("b", 96, follows=("a", 6)), group("c", 32), ties=(("a", "c"),))
    assert WidthSpace.from_json(json.loads(json.dumps(found.to_json()))) == found
    widths = found.uniform(0.5)
    assert Widths.from_json(json.loads(json.dumps(widths.to_json()))) == widths
    for wrong in (8.0, "8", True, None):
        with pytest.raises(WidthError, match=r"group 'a' has .* expected a whole number"):
            Widths.from_json({"a": wrong})


def test_led_gives_every_choice_of_the_leading_groups_and_ties_follow():
    found = space(group("a", 64), group("b", 96), group("c", 8), group("d", 32), ties=(("a", "d"),))
    assert [leader.name for leader, *_ in found.dimensions] == ["a", "b"]
    for first, second in itertools.product(found["a"].choices, found["b"].choices):
        widths = found.led([first, second])
        found.check(widths)
        assert (widths["a"], widths["b"], widths["c"]) == (first, second, 8)
        assert widths["d"] == found["d"].at(first / 64) or first == found["a"].minimum
    assert found.led([64, 96]) == found.largest
    assert found.led([8, 8]) == found.smallest
    with pytest.raises(WidthError, match="expected 2 choices, one for each independent width, got 1"):
        found.led([64])
    with pytest.raises(WidthError, match="group 'b' cannot keep 12 channels"):
        found.led([64, 12])
