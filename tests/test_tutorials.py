"""The text notebooks of `tutorials/` run, and say what is true of what they print."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.md"))
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def cells(text: str) -> list[tuple[int, str]]:
    """Line number and code of each cell."""
    return [(text.count("\n", 0, m.start("code")) + 1, m["code"]) for m in CELL.finditer(text)]


def run(path: Path) -> dict:
    """Run the cells in order, in one namespace, and return it."""
    import matplotlib.pyplot as plt

    namespace: dict = {"__name__": "__main__"}
    try:
        for line, code in cells(path.read_text(encoding="utf8")):
            source = "\n" * (line - 1) + code  # so that a traceback shows the tutorial's line
            with warnings.catch_warnings():
                # Those that scanpy and others give for reasons of their own are not our concern.
                warnings.simplefilter("default")
                warnings.filterwarnings("error", module=r"cellflow\.")
                exec(compile(source, str(path), "exec"), namespace)
    finally:
        plt.close("all")
    return namespace


@pytest.fixture
def away(tmp_path, monkeypatch):
    """A folder of one's own, and no display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")


def test_there_are_tutorials():
    known = ["first_flow", "noise_and_growth", "several_drugs"]  # and a test below for each
    assert [path.stem for path in TUTORIALS] == known


def test_cells_are_found():
    text = "# A\n\n```{code-cell} ipython3\nx = 1\n```\n\n```python\nno = 1\n```\n"
    assert cells(text) == [(4, "x = 1\n")]


@pytest.mark.slow
def test_first_flow(away):
    """What the prose says about the hold-out table and the neighbours is what they show."""
    names = run(ROOT / "tutorials" / "first_flow.md")
    found = {(v.yardstick, v.held_out): v.verdict for v in names["table"].verdicts("w1")}
    assert [found["previous", day] for day in (7.5, 13.5)] == ["better", "better"]
    assert found["previous", 19.5] != "better"
    assert found["next", 13.5] == "worse"
    gap = [v.difference for v in names["table"].verdicts("w1") if v.yardstick == "ot_midpoint"]
    assert gap[0] < -0.1  # "more than a tenth"
    assert max(map(abs, gap[1:])) < 0.1  # "a few hundredths"
    for day in names["table"].held_out:
        model, floor = (
            min(names["table"].values(day, name, "energy")) for name in ("reach", "floor")
        )
        assert model > 3 * floor
    share = names["share"] / names["share"].sum()
    assert share[7.5] + share[13.5] > 0.6
    assert names["same"].obsm["X_pca"].shape == (1100, 5)
    assert (names["same"].obsm["X_pca"] == names["new"].obsm["X_pca"]).all()


@pytest.mark.slow
def test_noise_and_growth(away):
    """What the prose says about noise, futures and relaxation is what its cells print."""
    names = run(ROOT / "tutorials" / "noise_and_growth.md")
    sweep = names["sweep"]
    assert sweep.best < max(sweep.sigmas)  # "what they rule out is too much of it"
    assert "coupling: good" in names["bridge"].health
    assert "sigma is too large" in names["careless"].health
    spread = [float(cloud.std(0, correction=0).norm()) for cloud in names["futures"].x]
    assert spread == sorted(spread)  # "a future spreads with time"
    assert spread[-1] < 0.6 * names["whole"]  # "stays narrower than the population"
    first = names["bridge"].course.snapshots[0].x
    gap = (names["ancestors"].final.mean(0) - first.mean(0)).norm()
    assert gap < first.std(0).norm()  # "lie among the cells that were seen on that day"
    course = names["fit"].course
    free = names["growing"].growth(1.5, course.snapshots[0].x).std()
    held = names["fit"].growth(1.5, course.snapshots[0].x).std()
    assert held < free  # "a lower relaxation explains more by growth"


@pytest.mark.slow
def test_several_drugs(away):
    """What the prose says about unseen pairs, three drugs and shuffled labels is what it shows."""
    names = run(ROOT / "tutorials" / "several_drugs.md")
    over = names["means"]["a"] - names["means"]["a, truth"]
    assert over[["A+B", "A+D"]].abs().max() < 0.4 < over["A+B+C"]  # "near", and "too much of a"
    table = names["table"]
    found = {(v.yardstick, v.held_out): v for v in table.verdicts("w1")}
    for yardstick in ("control", "nearest", "additive", "all_conditions"):
        assert [found[yardstick, pair].verdict for pair in ("A+B", "A+D")] == ["better"] * 2
    assert found["additive", "A+C"].verdict == "undecided"
    model, summed = (table.values("A+B", name, "r2") for name in ("otcfm", "additive"))
    assert min(summed) > sum(model) / len(model) - 0.05  # "the sum is as good as the model"
    assert max(table.values("A+D", "additive", "r2")) < 0.3
    null = {v.yardstick: v.verdict for v in names["null"].verdicts("w1")}
    assert null["control"] == "worse" and "better" not in null.values()
