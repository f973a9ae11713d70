"""Every Python example of the README and the documentation runs as it stands."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from slimmable.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if f"```{language}\n" in page.read_text(encoding="utf-8")]


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Every code block of a language, with the number of lines before it."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start(1)), block[1]) for block in found]


def files(page: Path) -> list[tuple[str, str]]:
    """The files that a page shows under their names, which its commands read."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r'^```yaml title="([\w.-]+)"\n(.*?)^```', text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"__name__": "example"}

    # The blocks of a page are one program; a block keeps its line numbers, so that a traceback points into the page.
    for lines_before, code in blocks(page, "python"):
        exec(compile("\n" * lines_before + code, str(page), "exec"), names)


@pytest.mark.parametrize("page", pages_with("console"), ids=lambda page: page.name)
def test_commands_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)

    for name, content in files(page):
        Path(name).write_text(content, encoding="utf-8")
    for _, block in blocks(page, "console"):
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program in ("make", "slimmable")
            if program == "slimmable":
                assert main(arguments) == 0, line


def test_readme_shows_code_early_and_names_the_commands():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

    assert any("convert(" in line for line in lines[:35])
    assert {"make demo", "make test"} <= {line[:9] for line in lines}
