"""The coverage table of two small networks, from the command line."""

import json

import pytest

from slimmable.cli.main import main
from slimmable.models.families import zoo
from slimmable.recipes.coverage import CoverageRow, cover

TWO = ["inspect", "--all", "--match", "unet,squeezenet*"]


@pytest.fixture
def measured(monkeypatch):
    """Names of the networks that were measured, in order."""
    names = []

    def watched(family, model, **options):
        names.append(model)
        return cover(family, model, **options)

    monkeypatch.setattr("slimmable.cli.coverage.cover", watched)
    return names


def test_the_table_of_two_networks_written_and_taken_up(capsys, tmp_path, measured):
    found, table = tmp_path / "found.json", tmp_path / "coverage.md"
    command = [*TWO, "--json", str(found), "--output", str(table)]

    assert main(command) == 0

    shown = capsys.readouterr()
    assert shown.out.startswith("2 models of 2 families; every layer is elastic in 2; ")
    assert shown.out.endswith(f"The table is in {table}.\n")
    assert "slimmable.models.unet:unet: 18 of 18 layers elastic" in shown.err
    text = table.read_text()
    assert "| SqueezeNet | `torchvision:squeezenet1_1` | 3×224×224 | 26 / 26 | 25 | 47.2 M – 349 M |" in text
    assert "| U-Net | `slimmable.models.unet:unet` | 3×128×128 | 18 / 18 | 17 |" in text
    assert text.count("| exact |") == 2
    assert [row["model"] for row in json.loads(found.read_text())["rows"]] == measured

    before = [*measured]
    assert main([*command, "--resume"]) == 0
    assert measured == before, "what is known is not measured again"
    assert table.read_text() == text

    assert main([*command, "--resume", "--match", "unet", "--divisor", "16"]) == 0
    assert measured == [*before, "slimmable.models.unet:unet"]
    assert f"{found} was made with other options: every model is measured anew" in capsys.readouterr().err


def test_a_failing_network_has_its_row_stops_no_other_and_fails_the_command(capsys, monkeypatch):
    def failing(family, model, **_options):
        faults = ("ConversionError: odd",) if "squeezenet" in model else ()
        return CoverageRow(family=family, model=model, faults=faults)

    monkeypatch.setattr("slimmable.cli.coverage.cover", failing)

    assert main(TWO) == 1

    shown = capsys.readouterr()
    assert "2 models of 2 families; 1 fails: torchvision:squeezenet1_1." in shown.out
    assert "| **fails**: ConversionError: odd |" in shown.out
    assert "`slimmable.models.unet:unet`" in shown.out
    assert "torchvision:squeezenet1_1: fails: ConversionError: odd" in shown.err


def test_networks_of_a_package_that_is_not_installed_are_left_out(capsys, monkeypatch):
    monkeypatch.setattr("slimmable.cli.coverage.find_spec", lambda package: package != "torchvision")
    monkeypatch.setattr(
        "slimmable.cli.coverage.cover", lambda family, model, **_: CoverageRow(family=family, model=model)
    )

    assert main(TWO) == 0

    shown = capsys.readouterr()
    assert "left out: 1 of 2 networks, of packages not installed (torchvision)" in shown.err
    assert shown.out.count("| `") == 1


def test_ctrl_c_keeps_the_rows_and_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    found = tmp_path / "found.json"
    measured = []

    def interrupted_at_the_second(family, model, **_options):
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(model)
        return CoverageRow(family=family, model=model)

    monkeypatch.setattr("slimmable.cli.coverage.cover", interrupted_at_the_second)
    command = [*TWO, "--json", str(found)]

    assert main(command) == 130
    assert "interrupted; to go on: the same command with --resume" in capsys.readouterr().err
    assert len(json.loads(found.read_text())["rows"]) == 1

    first = [*measured]
    measured.clear()
    monkeypatch.setattr(
        "slimmable.cli.coverage.cover",
        lambda family, model, **_: measured.append(model) or CoverageRow(family=family, model=model),
    )
    assert main([*command, "--resume"]) == 0
    assert sorted(first + measured) == sorted(model.name for model in zoo(["unet", "squeezenet*"]))
