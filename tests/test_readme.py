"""README.md and how-tos run: every python block as it is written; what CI extracts is there."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from cellflow.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf8")
HOWTO = [f"docs/howto/{path.name}" for path in sorted((ROOT / "docs/howto").glob("*.md"))]
PAGES = ("README.md", "docs/matching.md", *HOWTO)
FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str, text: str = README) -> list[tuple[int, str]]:
    """Line number and code of each fenced block in `language`."""
    return [
        (text.count("\n", 0, m.start("code")) + 1, m["code"])
        for m in FENCE.finditer(text)
        if m["language"] == language
    ]


PYTHON = [
    pytest.param(page, line, code, id=f"{page}-line{line}")
    for page in PAGES
    for line, code in blocks("python", (ROOT / page).read_text(encoding="utf8"))
]


@pytest.mark.parametrize(("page", "line", "code"), PYTHON)
def test_python_block_runs(page, line, code, tmp_path, monkeypatch):
    """As a reader would run it: a folder of its own, nothing imported before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    source = "\n" * (line - 1) + code  # so that a traceback shows the page's line
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        exec(compile(source, str(ROOT / page), "exec"), {"__name__": "__main__"})


def test_commands_of_how_tos_run(tmp_path, monkeypatch):
    """Line by line; those that are not ``cellflow …`` are ``python -c …``."""
    monkeypatch.chdir(tmp_path)
    pages = [(ROOT / page).read_text(encoding="utf8") for page in HOWTO]
    lines = "".join(code for text in pages for _, code in blocks("bash", text)).splitlines()
    assert lines
    for line in lines:
        program, *words = shlex.split(line)
        if program == "cellflow":
            result = CliRunner().invoke(main, words)
            assert result.exit_code == 0, result.output
        else:
            exec(words[1], {})


@pytest.mark.parametrize("mark", ["demo", "test"])
def test_commands_that_ci_extracts_are_there(mark):
    _, _, rest = README.partition(f"<!-- ci: {mark} -->\n")
    assert rest.startswith("```bash\npython3 -m venv .venv && ")


def test_blocks_are_found():
    text = "# A\n\n```python\nx = 1\n```\n\n```bash\nls\n```\n\n```python\ny = 2\n```\n"
    assert blocks("python", text) == [(4, "x = 1\n"), (12, "y = 2\n")]
