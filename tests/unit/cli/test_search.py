"""Searches from the command line: what is shown, what is kept, and how it is taken up by other commands."""

import json

import pytest

from slimmable import CostModel
from slimmable.cli.main import main
from slimmable.cost.latency import LatencyModel
from slimmable.cost.timing import Timing
from slimmable.recipes import open_run, read_recipe, run

SMALL = ("task.data.train_samples=128", "task.data.batch_size=32", "train.epochs=1")
QUICK = ["--method", "random", "--trials", "5", "--samples", "32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of any width, its latency measured: a millisecond for a million multiply-accumulates."""
    folder = tmp_path_factory.mktemp("search") / "run"
    run(read_recipe("digits/us-net", [*SMALL, "evaluation.widths=0.5"]), folder, device="cpu", progress=False)
    net = open_run(folder).net
    widths_list = [net.space.uniform(0.25 + 0.05 * step) for step in range(16)]
    times = (CostModel(net).macs(widths_list) / 1e6).tolist()
    timings = [Timing(widths=w, milliseconds=t, low=t, high=t) for w, t in zip(widths_list, times, strict=True)]
    LatencyModel.fit(net, timings).save(folder / "latency.json")
    return folder


def rows(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_what_was_found_is_shown_kept_evaluated_and_trained_again(folder, tmp_path, capsys):
    path = tmp_path / "found.json"
    budgets = ["--budget", "macs<=0.6M", "--budget", "parameters<=150k"]

    assert main(["search", str(folder), *budgets, *QUICK, "--seed", "3", "--json", str(path)]) == 0

    header, row, said, where = rows(capsys)
    assert header[:2] == ["width", "accuracy"]
    assert row[0] == "best"
    assert said[:2] == ["held-out", "loss"]
    assert where[-1] == str(path)
    kept = json.loads(path.read_text())
    assert (kept["method"], kept["trials"], kept["samples"], kept["seed"]) == ("random", 5, 32, 3)
    assert kept["budgets"] == ["macs<=0.6M", "parameters<=150k"]
    costs = kept["points"]["best"]["costs"]
    assert costs["macs"] <= 6e5
    assert costs["parameters"] <= 150e3
    assert kept["figures"][0]["macs"] == costs["macs"]
    assert kept["evaluations"] <= 5

    widths = tmp_path / "found-widths.json"
    assert main(["eval", str(folder), "--widths", str(widths)]) == 2
    assert "no batch-norm statistics at widths best" in capsys.readouterr().err
    assert main(["eval", str(folder), "--widths", str(widths), "--calibrate", "--json", str(tmp_path / "e.json")]) == 0
    capsys.readouterr()
    [again] = json.loads((tmp_path / "e.json").read_text())["widths"]
    assert again == kept["figures"][0]

    changes = ["method.kind=platforms", f"method.widths={widths}", "calibration=null"]
    assert main(["train", "digits/us-net", *SMALL, *changes, "--folder", str(tmp_path / "one")]) == 0
    assert rows(capsys)[1][0] == "best"
    assert main(["eval", str(tmp_path / "one")]) == 0
    assert [row[0] for row in rows(capsys)] == ["width", "best"]
    assert main(["search", str(tmp_path / "one"), "--budget", "macs<=1M"]) == 2
    assert "was trained by platforms at fixed widths; a search needs a network of any width" in capsys.readouterr().err


def test_a_latency_is_that_of_the_run_and_results_lie_in_it(folder, capsys):
    assert main(["search", str(folder), "--budget", "latency<=700us", *QUICK]) == 0

    assert "latency 0." in capsys.readouterr().out
    kept = json.loads((folder / "search-random.json").read_text())
    assert 0 < kept["points"]["best"]["costs"]["latency"] <= 0.7
    assert (folder / "search-random-widths.json").exists()
    assert main(["search", str(folder), "--budget", "latency<=1ms", "--latency", "absent.csv", *QUICK]) == 2
    assert "absent.csv does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "macs=3M"], "'macs=3M' is no budget"),
        (["--budget", "flops<=3M"], "there is no cost called 'flops'"),
        (["--budget", "macs<=3ms"], "'3ms' is no amount of MACs"),
        (["--budget", "macs<=100k", *QUICK], "the smallest need 119616 MACs; raise the budget"),
        (["--budget", "macs<=100k", "--method", "ows", "--trials", "3"], "the least cost is 119616; raise the budget"),
        (["--budget", "macs<=1M", "--trials", "0"], "trials is 0; expected at least 1"),
        (["--budget", "macs<=1M", "--method", "pareco-posterior", "--trials", "5"], "expected 2 <= warm-up <= trials"),
        (["--budget", "macs<=1M", "--budget", "macs<=2M", *QUICK], "costs of different names"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(folder, capsys, options, message):
    before = {path.name for path in folder.iterdir()}

    assert main(["search", str(folder), *options]) == 2

    found = capsys.readouterr().err
    assert found.startswith("error: ")
    assert message in found
    assert {path.name for path in folder.iterdir()} == before


def platforms(folder, path, text, *, budgets=("0.4M", 1.2e6)):
    entries = ", ".join(f"{{name: p{place}, budget: {budget}}}" for place, budget in enumerate(budgets))
    path.write_text(f"run: {folder}\n{text}\nplatforms: [{entries}]\n")
    return ["platforms", str(path)]


def test_platforms_get_their_widths_and_a_weighted_average(folder, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"run: {folder}\ntrials: 4\nmethod: ows\n"
        "platforms:\n- {name: watch, budget: 0.4M, weight: 1}\n- {name: phone, budget: 1200000, weight: 3}\n"
    )

    assert main(["platforms", str(path)]) == 0

    header, watch, phone, average, where = rows(capsys)
    assert header == ["platform", "weight", "budget", "macs", "accuracy"]
    assert (watch[:3], phone[:3]) == (["watch", "0.25", "400000"], ["phone", "0.75", "1.2e+06"])
    kept = json.loads((tmp_path / "mine.json").read_text())
    values = [row["figures"]["accuracy"] for row in kept["figures"]]
    assert [float(watch[-1]), float(phone[-1])] == pytest.approx(values, abs=1e-4)
    assert kept["average"]["accuracy"] == pytest.approx(0.25 * values[0] + 0.75 * values[1])
    assert average[-1] == f"{kept['average']['accuracy']:.4f}"
    assert kept["weights"] == {"watch": 0.25, "phone": 0.75}
    assert (kept["method"], kept["trials"]) == ("ows", 4)
    assert kept["points"]["watch"]["costs"]["macs"] <= 0.4e6 < kept["points"]["phone"]["costs"]["macs"] <= 1.2e6
    assert list(json.loads((tmp_path / "mine-widths.json").read_text())) == ["watch", "phone"]
    assert where[-1] == str(tmp_path / "mine.json")


def test_platforms_in_milliseconds_read_the_latency_of_the_run(folder, tmp_path, capsys):
    text = "cost: latency\nmethod: random\ntrials: 3"
    command = platforms(folder, tmp_path / "ms.yaml", text, budgets=("400us", 1.5))

    assert main([*command, "--json", str(tmp_path / "out.json")]) == 0

    table = rows(capsys)
    assert table[0][3] == "latency"
    assert [row[2] for row in table[1:3]] == ["0.4", "1.5"]
    points = json.loads((tmp_path / "out.json").read_text())["points"]
    assert points["p0"]["costs"]["latency"] <= 0.4
    assert points["p1"]["costs"]["latency"] <= 1.5


@pytest.mark.parametrize(
    ("text", "budgets", "message"),
    [
        ("cost: flops", ("1M",), "there is no cost called 'flops'; expected one of macs"),
        ("", ("1ms",), "'1ms' is no amount of MACs"),
        ("", ("100k",), "the least cost is 119616"),
        ("cost: latency\nlatency: absent.json", ("1ms",), "absent.json does not exist"),
        ("weighting: S", ("1M",), "weighting S is for 7 platforms"),
        ("weighting: S", ("2M", "1M", "3M", "4M", "5M", "6M", "7M"), "from the cheapest to the dearest"),
        ("methd: ows", ("1M",), "unknown key methd = 'ows'; the nearest valid key is method"),
    ],
)
def test_an_error_in_a_file_of_platforms_is_one_line(folder, tmp_path, capsys, text, budgets, message):
    command = platforms(folder, tmp_path / "mine.yaml", f"trials: 2\n{text}", budgets=budgets)

    assert main(command) == 2

    found = capsys.readouterr().err
    assert found.startswith("error: ")
    assert message in found
    assert found.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_file_of_platforms_names_a_finished_run(tmp_path, capsys):
    assert main(platforms(tmp_path / "nowhere", tmp_path / "mine.yaml", "")) == 2
    assert "nowhere holds no run" in capsys.readouterr().err
