"""The public front: light, complete, and clear where torch is missing."""

import json
import subprocess
import sys
import time

import pytest

import slimmable

HEAVY = ("torch", "torchvision", "timm", "sklearn", "pydantic", "jsonargparse", "rich")


def run(code: str) -> str:
    """What ``code`` prints in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_torch(code: str) -> str:
    """The same where no torch can be imported."""
    return run(f"import sys; sys.modules['torch'] = None\n{code}")


@pytest.mark.parametrize(
    "statement",
    [
        "import slimmable",
        "import slimmable; dir(slimmable); slimmable.Widths; slimmable.WidthSpace; slimmable.SlimmableError",
        "import slimmable.record",
        "from slimmable.core.space import WidthGroup, WidthSpace, Widths",
        "import slimmable.runtime",
        "from slimmable.runtime import AdaptiveModel, Artifact, Runtime",
        "import slimmable.runtime.onnx, slimmable.runtime.openvino, slimmable.runtime.bench",
    ],
)
def test_what_needs_no_torch_imports_none(statement):
    loaded = run(f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))")

    assert not set(HEAVY) & set(json.loads(loaded))


@pytest.mark.parametrize(("name", "most"), [("slimmable", 0.2), ("slimmable.runtime", 0.3)])
def test_import_is_fast(name, most):
    began = time.perf_counter()
    run("pass")
    bare = time.perf_counter() - began
    seconds = float(run(f"import time; b = time.perf_counter(); import {name}; print(time.perf_counter() - b)"))

    # On a loaded machine both are slow alike; importing torch takes seconds.
    assert seconds < max(most, 3 * bare)


@pytest.mark.parametrize("name", slimmable.__all__)
def test_public_name_resolves_and_is_documented(name):
    value = getattr(slimmable, name)

    assert value.__doc__, f"slimmable.{name} has no docstring"
    assert name in dir(slimmable)
    assert getattr(slimmable, name) is value


def test_table_of_contents_is_complete():
    assert sorted(slimmable._HOMES) == sorted(slimmable.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"no attribute 'slim'; it has .*convert"):
        _ = slimmable.slim


def test_missing_torch_is_named_with_its_cure():
    code = """
import slimmable
try:
    slimmable.convert
except slimmable.SlimmableError as error:
    print(type(error).__name__, error)
"""
    assert without_torch(code).startswith("MissingDependencyError slimmable.convert needs PyTorch")
    assert "pip install 'slimmable[torch]'" in without_torch(code)


def test_widths_work_without_torch():
    code = """
import slimmable
group = slimmable.WidthGroup(name="stem", base=32, minimum=8, maximum=32, divisor=8)
print(slimmable.WidthSpace((group,), min_ratio=0.25, max_ratio=1.0).uniform(0.5))
"""
    assert without_torch(code).strip() == "Widths(stem=16)"


def test_version_is_the_distribution_s():
    from importlib.metadata import version

    assert slimmable.__version__ == version("slimmable")
