"""The commands and options are a promise: whoever changes one changes this list."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from slimmable.cli.main import _PACKAGES, main

ROOT = Path(__file__).parents[3]
TRAINING = ("torch", "torchvision", "timm", "sklearn", "tensorboard")

OPTIONS = {
    "inspect": [
        *("--all", "--divisor", "--exclude", "--input-size", "--json", "--match", "--max-ratio", "--min-ratio"),
        *("--output", "--resume", "-o", "MODEL"),
    ],
    "train": ["--device", "--folder", "--resume", "RECIPE", "key=value"],
    "calibrate": ["--device", "--root", "--samples", "--widths", "RUN"],
    "eval": ["--calibrate", "--csv", "--device", "--json", "--root", "--widths", "RUN"],
    "extract": ["--fold-batch-norm", "--output", "--width", "-o", "RUN"],
    "upscale": ["--device", "--output", "--tile", "--width", "-o", "RUN", "IMAGE"],
    "export": [
        *("--bench", "--output", "--root", "--runtime", "--samples", "--standalone", "--store", "--tables"),
        *("--widths", "-o", "RUN"),
    ],
    "bench": ["--batch", "--json", "--memory", "--plot", "--rounds", "--runtime", "--threads", "FILE"],
    "profile": [
        *("--batch", "--bench", "--clock", "--count", "--device", "--divisor", "--held-out", "--input-size"),
        *("--max-ratio", "--min-ratio", "--output", "--resume", "--rounds", "--runtime", "--threads", "--widths"),
        *("-o", "MODEL"),
    ],
    "search": [
        *("--budget", "--device", "--json", "--latency", "--method", "--root", "--samples", "--seed", "--trials"),
        "RUN",
    ],
    "platforms": ["--device", "--json", "--root", "FILE"],
    "serve": [
        *("--backend", "--host", "--latency", "--lenient", "--max-batch", "--max-body", "--max-wait", "--memory"),
        *("--percentile", "--port", "--profile", "--queue", "--sessions", "--threads", "--top", "--width", "MODEL"),
    ],
    "recipes": ["RECIPE"],
}


def help_of(capsys, *arguments):
    assert main([*arguments, "--help"]) == 0
    return capsys.readouterr().out


def test_commands(capsys):
    listed = re.findall(r"^    (\w+) {2,}\S", help_of(capsys), flags=re.MULTILINE)

    assert listed == list(OPTIONS)


@pytest.mark.parametrize("command", OPTIONS)
def test_options(capsys, command):
    text = help_of(capsys, command)

    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text)) - {"-h", "--help"}
    positional = re.findall(r"^  ([\w=]+)(?: {2,}|\n)", text.partition("\noptions:")[0], flags=re.MULTILINE)
    assert sorted(named) + positional == OPTIONS[command]


def test_help_comes_without_torch_and_other_heavy_packages():
    code = (
        "import json, sys\nfrom slimmable.cli.main import main\n"
        "main(['--help']), main(['train', '--help'])\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)

    heavy = {"torch", "torchvision", "timm", "sklearn", "pydantic", "numpy", "tensorboard"}
    assert not heavy & set(json.loads(done.stderr))


@pytest.mark.parametrize(
    ("command", "absent"), [("bench", (*TRAINING, "pydantic", "PIL", "fastapi", "uvicorn")), ("serve", TRAINING)]
)
def test_commands_for_a_device_need_no_package_of_training(command, absent, tmp_path):
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n"
        f"from slimmable.cli.main import main\nprint(main([{command!r}, {str(tmp_path / 'no.slim')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)

    assert done.stdout.strip() == "2", done.stderr
    assert re.fullmatch(r"error: .*no\.slim.*\n", done.stderr)


def brought_by(extra):
    """Names of the packages that an extra brings, those of the extras within it too."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found = set()
    for requirement in extras[extra]:
        name, inner = re.fullmatch(r"([\w-]+)(?:\[([\w,-]+)\])?.*", requirement).groups()
        found |= set().union(*map(brought_by, inner.split(","))) if name == "slimmable" else {name}
    return found


def test_a_missing_package_comes_with_the_extra_that_is_told():
    named = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}

    for package, extra in _PACKAGES.items():
        assert named.get(package, package) in brought_by(extra), (package, extra)


@pytest.mark.parametrize("extra", ["runtime", "cli", "serve"])
def test_extras_for_a_device_bring_no_torch(extra):
    assert "torch" not in brought_by(extra)
    assert "torch" in brought_by("train")


def test_no_command_shows_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "inspect" in capsys.readouterr().err


def test_the_version_is_the_package_s(capsys):
    from slimmable import __version__

    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "trian"),
        (["train", "digits/us-net", "--fodler", "x"], "--fodler"),
        (["calibrate", "run"], "widths"),
        (["inspect", "digits_cnn", "--divisor", "eight"], "eight"),
    ],
)
def test_wrong_arguments_are_named(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
