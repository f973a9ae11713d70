"""Every Python example of the README and the documentation runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if "```python" in path.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    text = page.read_text(encoding="utf-8")
    names = {"__name__": "example"}

    # The blocks of a page are one program; a block keeps its line numbers, so that a traceback points into the page.
    for block in re.finditer(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        lines_before = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_before + block[1], str(page), "exec"), names)


def test_readme_shows_code_early_and_names_the_commands():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

    assert any("convert(" in line for line in lines[:35])
    assert {"make demo", "make test"} <= {line[:9] for line in lines}
