"""Pins in few words."""

from slimmable.core.report import PinReport, summarise


def pin(layer, reason, operator="aten.add.Tensor", line="net.py:3"):
    return PinReport(layer=layer, channels=8, of=16, reason=reason, operator=operator, line=line)


def test_equal_reasons_are_one_line_and_the_most_frequent_comes_first():
    pins = [pin("a", "odd"), pin("b.0", "is even"), pin("b.1", "is even"), pin("b.1", "is even")]

    first, second = summarise(pins)

    assert (first.layers, first.reason) == (("b.0", "b.1"), "is even")
    assert str(first) == "2 layers: is even [aten.add.Tensor, net.py:3]"
    assert str(second) == "1 layer: odd [aten.add.Tensor, net.py:3]"
    assert [pin for summary in (first, second) for pin in summary.pins] == [*pins[1:], pins[0]]


def test_numbers_that_differ_are_left_out_and_those_that_agree_stay():
    different, same = summarise(
        [pin("a", "of 8"), pin("b", "of 16"), pin("c", "of 24"), pin("d", "by 2"), pin("e", "by 2")]
    )

    assert different.reason == "of …"
    assert same.reason == "by 2"


def test_another_operator_or_line_is_another_reason():
    pins = [pin("a", "odd"), pin("b", "odd", line="net.py:4"), pin("c", "odd", operator="aten.mul.Tensor")]

    assert len(summarise(pins)) == 3


def test_a_reason_that_no_operator_gave_is_the_same_at_all_lines():
    one = pin("a", "excluded by '*'", operator="")
    other = pin("b", "excluded by '*'", operator="", line="net.py:4")

    assert [str(found) for found in summarise([one, other])] == ["2 layers: excluded by '*'"]
    assert [str(found) for found in summarise([one])] == ["1 layer: excluded by '*' [net.py:3]"]
