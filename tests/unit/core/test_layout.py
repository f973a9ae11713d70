"""The algebra of axes in small cases with known answers: as much varies as may."""

import pytest

from slimmable.core.layout import Block, Layout, Pin, Variables, constant

WHY = Pin(reason="a test")


def fresh(variables: Variables, *sizes: int) -> list[Layout]:
    return [variables.fresh(size) for size in sizes]


def free_units(variables: Variables, layout: Layout) -> list[int]:
    return [variables.units(var) for var in variables.free(layout)]


def test_two_widths_that_meet_become_one():
    variables = Variables()
    one, other = fresh(variables, 8, 8)
    variables.unify(one, other, WHY)
    assert variables.resolve(one) == variables.resolve(other)
    assert free_units(variables, one) == [8]


def test_a_width_that_meets_a_concatenation_is_cut_into_its_segments():
    variables = Variables()
    a, b, whole = fresh(variables, 3, 5, 8)
    variables.unify(whole, a + b, WHY)
    assert variables.resolve(whole) == variables.resolve(a + b)
    assert free_units(variables, whole) == [3, 5]


def test_concatenations_cut_at_different_places_share_the_finest_segments():
    variables = Variables()
    a, b, c, d = fresh(variables, 3, 5, 6, 2)
    variables.unify(a + b, c + d, WHY)
    assert free_units(variables, a + b) == [3, 3, 2]
    assert free_units(variables, c) == [3, 3]


def test_a_constant_holds_only_what_meets_it():
    variables = Variables()
    a, whole = fresh(variables, 3, 8)
    variables.unify(whole, a + constant(5), WHY)
    assert variables.resolve(whole) == (*variables.resolve(a), Block(None, 5))
    assert free_units(variables, whole) == [3]


def test_units_of_flattened_channels_stay_whole():
    variables = Variables()
    channels, features = fresh(variables, 4, 36)
    variables.unify(features, variables.scale(channels, 9), WHY)
    (block,) = variables.resolve(features)
    assert (variables.units(block.var or 0), block.repeat) == (4, 9)


def test_runs_of_two_and_three_meet_in_runs_of_six():
    variables = Variables()
    twos, threes = fresh(variables, 12, 8)
    variables.unify(variables.scale(twos, 2), variables.scale(threes, 3), WHY)
    assert free_units(variables, twos) == free_units(variables, threes) == [4]
    assert variables.resolve(twos)[0].repeat == 3
    assert variables.resolve(threes)[0].repeat == 2


def test_runs_whose_common_run_does_not_fit_are_held():
    variables = Variables()
    twos, threes = fresh(variables, 9, 6)
    variables.unify(variables.scale(twos, 2), variables.scale(threes, 3), WHY)
    assert free_units(variables, twos) == [3]
    twos, threes = fresh(variables, 3, 2)
    variables.unify(variables.scale(twos, 2), variables.scale(threes, 3), WHY)
    assert free_units(variables, variables.scale(twos, 2) + variables.scale(threes, 3)) in ([1], [])


@pytest.mark.parametrize(("size", "count", "units"), [(12, 3, [4]), (12, 1, [12]), (12, 12, []), (12, 4, [3])])
def test_equal_parts_of_a_width_vary_together(size, count, units):
    variables = Variables()
    (axis,) = fresh(variables, size)
    part = variables.periodic(axis, count, WHY)
    assert variables.size(part) == size // count
    assert free_units(variables, part) == units
    assert variables.resolve(axis) == variables.resolve(part * count)


def test_a_swapped_axis_cannot_vary_unit_by_unit():
    variables = Variables()
    (axis,) = fresh(variables, 8)
    first, second = variables.cut(axis, 4, WHY)
    variables.unify(axis, second + first, WHY)
    assert variables.resolve(first) == variables.resolve(second)
    assert free_units(variables, axis) == [4]


def test_a_shifted_axis_equal_to_itself_has_one_width_for_all_pieces():
    variables = Variables()
    (axis,) = fresh(variables, 6)
    first, second = variables.cut(axis, 2, WHY)
    variables.unify(axis, second + first, WHY)
    mask_parts = [variables.resolve(part) for part in variables.segments(axis, 3, WHY)]
    assert mask_parts[0] == mask_parts[1] == mask_parts[2]


def test_the_first_reason_of_a_pin_stays_and_is_told_with_its_extent():
    variables = Variables()
    a, b = fresh(variables, 3, 5)
    variables.pin(a, WHY)
    variables.pin(a + b, Pin(reason="later"))
    assert list(variables.pins(a + b)) == [(3, WHY), (5, Pin(reason="later"))]
    assert variables.resolve(a + b) == (Block(None, 8),)


def test_an_axis_of_one_position_is_no_width():
    assert Variables().fresh(1) == constant(1)


def test_unscale_inverts_scale_and_refuses_what_has_no_such_runs():
    variables = Variables()
    (axis,) = fresh(variables, 5)
    assert variables.unscale(variables.scale(axis, 4), 4) == axis
    assert variables.unscale(axis, 4) is None
    assert not variables.coarsen(axis, 4)
    (axis,) = fresh(variables, 12)
    assert variables.coarsen(axis, 4)
    assert variables.unscale(axis, 4) is not None
    assert free_units(variables, axis) == [3]
