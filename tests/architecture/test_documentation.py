"""The documentation shows each figure, and its links are looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cellflow import pl

ROOT = Path(__file__).parents[2]


def test_each_figure_has_a_picture():
    sizes = {file.stem: file.stat().st_size for file in (ROOT / "docs/figures/pl").iterdir()}
    assert set(sizes) == set(pl.__all__), "run docs/figures/pl.py"
    assert max(sizes.values()) <= 200_000


def test_links_that_lead_nowhere_are_told(tmp_path):
    (tmp_path / "a").mkdir()
    good = '<p id="x y"><a href="../b.html#x%20y"><a href="#x%20y"><a href="https://no.where/#z">'
    (tmp_path / "a/index.html").write_text(good, encoding="utf8")
    (tmp_path / "b.html").write_text(good.replace("../b.html", "a/"), encoding="utf8")
    command = [sys.executable, str(ROOT / ".ci/links.py"), str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == 0
    bad = '<a href="lost.html"><img src="b.html"><a href="b.html#lost"><a href="#y">'
    (tmp_path / "c.html").write_text(bad, encoding="utf8")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = ["c.html: #y", "c.html: b.html#lost", "c.html: lost.html"]
    assert done.returncode == 1 and done.stderr.splitlines()[1:] == told
