"""Commands that need no training, and how errors are shown."""

import json
import re
import sys

import pytest
import yaml

from slimmable.cli.main import main
from slimmable.cli.parser import parse
from slimmable.cost.latency import LatencyModel
from slimmable.recipes import RECIPES, read_recipe, recipe
from slimmable.recipes.facts import NetworkFacts
from slimmable.recipes.folder import FACTS, begin
from slimmable.recipes.profiling import LATENCY, network_of_run


def test_inspect_says_what_varies_what_does_not_and_what_it_costs(capsys, tmp_path):
    assert main(["inspect", "digits_cnn", "--json", str(tmp_path / "found.json")]) == 0

    text = capsys.readouterr().out
    assert "digits_cnn, input 1x8x8: 8 of 8 layers are elastic, in 5 groups" in text
    assert "fc: all 10 channels stay: is the network's output" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert rows["conv1"].split()[-3:] == ["8", "32", "8"]
    assert "119.6 k" in rows["smallest"]
    assert "1.855 M" in rows["largest"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["costs"]["largest"]["macs"] == 1_854_720
    assert len(found["elastic"]) == 8


def test_inspect_takes_its_options(capsys):
    options = ["--input-size", "1x16x16", "--min-ratio", "0.5", "--max-ratio", "2", "--divisor", "16"]
    assert main(["inspect", "digits_cnn", *options, "--exclude", "blocks.0.conv1,blocks.1.conv1"]) == 0

    text = capsys.readouterr().out
    assert "input 1x16x16: 8 of 8 layers are elastic, in 3 groups" in text
    assert "excluded by 'blocks.0.conv1'" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert rows["conv1"].split()[-3:] == ["16", "64", "16"]
    assert "given" in rows


def test_inspect_tells_a_reason_of_many_layers_once(capsys):
    assert main(["inspect", "digits_cnn", "--exclude", "blocks.*"]) == 0

    text = capsys.readouterr().out
    assert text.count("excluded by 'blocks.*'") == 1
    assert re.search(r"  \d layers: excluded by 'blocks\.\*': blocks\.0\.\w+, .* and \d more\n", text)


def test_inspect_takes_a_function_of_the_user(capsys, tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n\n"
        "def tiny():\n    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)), (8,)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)

    assert main(["inspect", "my_networks:tiny"]) == 0
    assert "2 of 2 layers are elastic, in 1 groups" in capsys.readouterr().out


def test_profile_shows_uniform_widths_and_the_error_and_keeps_the_model(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--count", "10", "--held-out", "3", "--rounds", "1", "--threads", "1", "--clock", "cpu", "--batch", "2"]

    assert main(["profile", "digits_cnn", *options, "--divisor", "16"]) == 0

    text = capsys.readouterr().out
    assert "threads: 1, cpu time, inputs [[2, 1, 8, 8]], channels_last" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert {"0.25", "0.625", "1.0"} <= set(rows)
    assert rows["1.0"][-2:] == ["1.855", "M"]
    assert "error on 3 held-out widths: " in text
    assert "the model and all timings are in latency.json" in text
    assert json.loads((tmp_path / "latency.json").read_text())["cost"] == "latency"


def test_profile_of_a_run_fits_given_widths_and_writes_beside_it(capsys, tmp_path):
    recipe = read_recipe("digits/us-net")
    begin(tmp_path / "run", recipe, resume=False)
    NetworkFacts(classes=tuple("0123456789"), input_size=(1, 8, 8)).save(tmp_path / "run" / FACTS)
    options = ["--widths", "0.3,0.5,0.9", "--held-out", "3", "--rounds", "1"]

    assert main(["profile", str(tmp_path / "run"), *options]) == 0

    assert "0.3 " in capsys.readouterr().out
    space = network_of_run(tmp_path / "run")[0].space
    assert LatencyModel.load(tmp_path / "run" / LATENCY, space).error >= 0
    assert main(["profile", str(tmp_path / "run"), "--divisor", "4"]) == 2
    assert "--divisor: the run in" in capsys.readouterr().err


def test_profile_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("slimmable.recipes.profiling.measure_latency", interrupted)

    assert main(["profile", "digits_cnn", "-o", str(tmp_path / "mine.json")]) == 130
    assert "the same command with --resume (timings are in " in capsys.readouterr().err


def test_recipes_are_listed_and_shown(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in RECIPES)

    assert main(["recipes", "digits/s-net"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == recipe("digits/s-net").model_dump(mode="json")


def test_changes_may_stand_anywhere():
    command, options = parse(
        ["train", "train.lr=1", "digits/us-net", "method.n=3", "--folder", "x", "train.epochs=2", "--resume", "a=b"]
    )

    assert command == "train"
    assert options.recipe == "digits/us-net"
    assert options.changes == ["train.lr=1", "method.n=3", "train.epochs=2", "a=b"]
    assert (options.folder, options.resume) == ("x", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "digits/us-net", "train.epoch=3"],
            "unknown key train.epoch = 3; the nearest valid key is train.epochs",
        ),
        (["train", "digits/us-net", "oops"], "'oops' is no change of a recipe"),
        (["train", "digits/usnet"], "there is no recipe 'digits/usnet'"),
        (["train", "digits/us-net", "--device", "gpu"], "device 'gpu' cannot be used"),
        (["inspect", "mobilnet_v2"], "Nearest names: mobilenet_v2"),
        (["inspect", "digits_cnn", "--input-size", "big"], "--input-size big is no size"),
        (["inspect", "digits_cnn", "--exclude", "neck"], "no module matches 'neck'"),
        (["inspect"], "the name of a MODEL, or --all"),
        (["inspect", "digits_cnn", "--match", "x"], "--match goes with --all"),
        (["inspect", "digits_cnn", "--all"], "digits_cnn and --all: name one network, or all"),
        (["inspect", "--all", "--exclude", "x"], "--exclude is for one network"),
        (["inspect", "--all", "--input-size", "3,8,8"], "--input-size is for one network"),
        (["inspect", "--all", "--resume"], "--resume takes up the rows of --json FILE"),
        (["inspect", "--all", "--match", "resent18"], "'resent18' matches none"),
        (["eval", "nowhere"], "nowhere holds no run"),
        (["calibrate", "nowhere", "--widths", "0.5"], "nowhere holds no run"),
        (["extract", "nowhere", "--width", "0.5", "-o", "x"], "nowhere holds no run"),
        (["profile", "mobilnet_v2"], "Nearest names: mobilenet_v2"),
        (["profile", "digits_cnn", "--rounds", "0"], "at least one width held out, one round and a batch of one"),
        (["profile", "digits_cnn", "--clock", "cpu", "--threads", "2"], "use threads=1, or the wall clock"),
        (["profile", "digits_cnn", "--divisor", "4096"], "too few to fit a model"),
        (["recipes", "digits"], "there is no recipe 'digits'"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)

    assert main(arguments) == 2

    found = capsys.readouterr().err
    assert found.startswith("error: ")
    assert message in found
    assert found.count("\n") == 1


def test_a_missing_package_is_named_with_its_cure(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "slimmable.cli.commands.recipes", None)
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "slimmable.cli.commands.recipes")
    for name in [name for name in sys.modules if name.startswith("slimmable.recipes")]:
        monkeypatch.delitem(sys.modules, name)

    assert main(["recipes"]) == 2
    assert "error: this needs yaml, which is not installed: pip install 'slimmable[train]'" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    folder, before = tmp_path / "my run", tmp_path / "not begun"

    def interrupted(recipe, place, **_options):
        if place == folder:
            begin(folder, recipe, resume=False)
        raise KeyboardInterrupt

    monkeypatch.setattr("slimmable.cli.commands.train.run", interrupted)

    assert main(["train", "digits/us-net", "--folder", str(folder)]) == 130
    assert f"slimmable train '{folder}/recipe.yaml' --folder '{folder}' --resume" in capsys.readouterr().err
    assert main(["train", "digits/us-net", "--folder", str(before)]) == 130
    assert "interrupted; nothing was written yet: start it again" in capsys.readouterr().err


def test_ctrl_c_elsewhere_is_no_traceback(capsys, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("slimmable.cli.commands.inspect.convert", interrupted)

    assert main(["inspect", "digits_cnn"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
