"""A file of platforms: what it says, and what it may not."""

import pytest

from slimmable.errors import RecipeError
from slimmable.recipes.platform_file import read_platforms
from slimmable.search import WEIGHTINGS

TWO = "platforms: [{name: watch, budget: 3M}, {name: phone, budget: 9e6}]\n"
SEVEN = "platforms: [" + ", ".join(f"{{name: p{place}, budget: {place + 1}M}}" for place in range(7)) + "]\n"


@pytest.fixture
def read(tmp_path):
    def write_and_read(text):
        (tmp_path / "mine.yaml").write_text(text)
        return read_platforms(tmp_path / "mine.yaml")

    return write_and_read


def test_paths_are_relative_to_the_file_and_everything_else_has_a_default(read, tmp_path):
    found = read(f"run: runs/mine\n{TWO}")

    assert (found.run, found.latency) == (str(tmp_path / "runs" / "mine"), None)
    assert (found.cost, found.method, found.trials) == ("macs", "ows", 200)
    assert [(each.name, str(each.budget), each.weight) for each in found.platforms] == [
        ("watch", "3M", None),
        ("phone", "9000000.0", None),
    ]
    assert read(f"run: {tmp_path / 'there'}\nlatency: l.csv\n{TWO}").latency == str(tmp_path / "l.csv")
    assert read(f"run: {tmp_path / 'there'}\n{TWO}").run == str(tmp_path / "there")


def test_weights_sum_to_one_whether_given_equal_or_the_papers(read):
    given = "run: r\nplatforms: [{name: a, budget: 1, weight: 1}, {name: b, budget: 2, weight: 3}]"

    assert read(f"run: r\n{TWO}").weights == (0.5, 0.5)
    assert read(given).weights == (0.25, 0.75)
    assert read(f"run: r\nweighting: RS\n{SEVEN}").weights == WEIGHTINGS["RS"]


def test_a_weighting_of_the_paper_is_for_platforms_from_cheapest_to_dearest(read):
    found = read(f"run: r\nweighting: S\n{SEVEN}")

    found.require_order([1.0, 2.0, 3.0, 3.0, 5.0, 6.0, 7.0])
    with pytest.raises(RecipeError, match=r"from the cheapest to the dearest, found budgets of 2, 1; put"):
        found.require_order([2.0, 1.0])
    read(f"run: r\n{TWO}").require_order([2.0, 1.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO, "run is missing; give it a value$"),
        ("run: r", "platforms is missing; give it a value$"),
        ("run: r\nplatforms: []", "platforms is "),
        ("run: r\nplatforms: [{name: a}]", r"platforms\.0\.budget is missing"),
        ("run: r\nplatforms: [{name: '', budget: 1}]", r"platforms\.0\.name is ''"),
        ("run: r\nplatforms: [{name: a, budget: [1]}]", r"platforms\.0\.budget is \[1\]; expected text or a number"),
        ("run: r\nplatforms: [{name: a, budget: 1, weight: -1}]", r"platforms\.0\.weight is -1"),
        ("run: r\nplatforms: [{name: a, budget: 1, weight: .inf}]", "value of no known kind"),
        ("run: r\nplatforms: [{name: a, budget: 1, weight: '1'}]", r"platforms\.0\.weight is '1'; expected a number"),
        (
            "run: r\nplatforms: [{name: a, budget: 1, wieght: 1}]",
            r"unknown key platforms\.0\.wieght = 1; the nearest valid key is platforms\.0\.weight",
        ),
        (f"run: r\nmetod: ows\n{TWO}", "unknown key metod = 'ows'; the nearest valid key is method$"),
        (f"run: r\nzzz: 1\n{TWO}", "unknown key zzz = 1; expected one of run, cost, latency, method"),
        (f"run: r\nmethod: awos\n{TWO}", "method is 'awos'; expected .*'greedy'.*; did you mean aows"),
        (f"run: r\ntrials: 0\n{TWO}", "trials is 0; expected greater than or equal to 1"),
        (f"run: r\nrun: s\n{TWO}", "key 'run' stands twice"),
        ("run: r\nplatforms: [{name: a, budget: 1}, {name: a, budget: 2}]", "two platforms have one name: a, a"),
        (
            "run: r\nplatforms: [{name: a, budget: 1, weight: 1}, {name: b, budget: 2}]",
            "give every platform a weight, not all of them 0, or none of them",
        ),
        ("run: r\nplatforms: [{name: a, budget: 1, weight: 0}]", "not all of them 0"),
        (f"run: r\nweighting: X\n{SEVEN}", "there is no weighting 'X'; expected one of S, RS, U, M, L, RL"),
        (f"run: r\nweighting: S\n{TWO}", "weighting S is for 7 platforms .* found 2 with 0"),
        (f"run: r\nweighting: S\n{SEVEN.replace('1M', '1M, weight: 1')}", "found 7 with 1"),
        ("{", "is not YAML"),
        ("- 1", r"holds \[1\]; expected platforms: keys and values"),
        ("", "holds None; expected platforms"),
    ],
)
def test_what_does_not_belong_is_named_with_its_cure(read, text, message):
    with pytest.raises(RecipeError, match=message):
        read(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"absent\.yaml cannot be read as platforms: No such file"):
        read_platforms(tmp_path / "absent.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(RecipeError, match=r"picture\.yaml cannot be read as platforms"):
        read_platforms(tmp_path / "picture.yaml")
