"""Figures of conditions: mean changes of genes, and what was left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.collections import PathCollection

from cellflow import pl
from cellflow.evaluate import CONDITION_YARDSTICKS, HoldoutTable, Row

GENES = ["g0", "g1", "g2", "g3"]
BEFORE = np.array([1.0, 2.0, 3.0, 4.0])
CHANGE = np.array([2.0, -1.0, 0.5, 0.0])


def cells(mean: np.ndarray, genes=GENES, mass: bool = False) -> AnnData:
    """Three cells of this mean, and one far away that weighs nothing where cells have masses."""
    x = mean + np.array([[-1.0], [0.0], [1.0], *([[50.0]] if mass else [])])
    obs = pd.DataFrame({"mass": [1.0, 1.0, 1.0, 0.0]} if mass else {"other": [0.0] * 3})
    obs.index = [f"c{k}" for k in range(len(x))]
    return AnnData(x, obs, pd.DataFrame(index=genes))


def test_genes_lie_at_their_mean_changes_and_the_largest_are_named() -> None:
    guess = 0.5 * CHANGE
    ax = pl.mean_changes(
        cells(BEFORE + guess, mass=True), cells(BEFORE + CHANGE), cells(BEFORE), n_genes=2
    )
    (drawn,) = (c for c in ax.collections if isinstance(c, PathCollection))
    np.testing.assert_allclose(drawn.get_offsets(), np.stack([CHANGE, guess], 1), atol=1e-6)
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["g0", "g1", "explained 0.75"]
    assert ax.texts[0].xy == pytest.approx((2.0, 1.0))
    assert ax.get_xlabel() == "observed mean change"
    both, zero = ax.lines
    assert list(both.get_xdata()) == list(both.get_ydata()) == [-1.0, 2.0]
    assert set(zero.get_ydata()) == {0.0}


def test_names_of_genes_at_one_place_keep_apart() -> None:
    same = cells(BEFORE + 1.0)
    ax = pl.mean_changes(same, same, cells(BEFORE - [0, 0, 0, 1.0]), n_genes=4)
    heights = sorted(text.xy[1] for text in ax.texts[:4])
    np.testing.assert_allclose(np.diff(heights)[:2], 0.06)
    assert np.mean(heights[:3]) == pytest.approx(1.0)


def test_genes_that_all_three_have_are_drawn_on_given_axes() -> None:
    _, given = plt.subplots()
    few = cells((BEFORE + CHANGE)[[2, 0]], ["g2", "g0"])
    ax = pl.mean_changes(few, cells(BEFORE + CHANGE), cells(BEFORE), ax=given)
    assert ax is given
    assert [t.get_text() for t in ax.texts] == ["g0", "g2", "explained 1.00"]
    still = pl.mean_changes(cells(BEFORE), cells(BEFORE), cells(BEFORE), n_genes=0)
    assert not still.texts  # nothing changed: no share of it
    with pytest.raises(ValueError, match="predicted.*no gene of all three"):
        pl.mean_changes(cells(BEFORE, ["a", "b", "c", "d"]), cells(BEFORE), cells(BEFORE))


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("w1", "$W_1$ to the held-out cells"),
        ("r2", "explained share of mean changes"),
        ("rank", "place of the condition among all"),
    ],
)
def test_holdouts_of_conditions_have_names_and_their_own_yardsticks(metric, label) -> None:
    names = [n for n in CONDITION_YARDSTICKS if n != "floor"]
    known = [("A+B", "flow", 0.2), *(("A+B", n, k + 1.0) for k, n in enumerate(names))]
    known += [("a long name", "flow", -0.5), ("a long name", "control", 0.0)]
    rows = [Row(c, m, 0, metric, value, 9, 9) for c, m, value in known]
    rows += [Row(c, "floor", 0, "w1", 0.1, 4, 4) for c in ("A+B", "a long name")]
    ax = pl.holdout(HoldoutTable(tuple(rows), "condition"), metric=metric)
    assert ax.get_ylabel() == label
    assert ax.get_xlabel() == "held-out condition"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["A+B", "a long name"]
    told = [t.get_text() for t in ax.get_legend().get_texts()]
    single = ["mean shift of the nearest", "sum of single effects", "mean shift of all conditions"]
    assert told == ["flow", "control", *single, *(["noise floor"] if metric == "w1" else [])]
    flow, _, nearest, *_ = ax.containers
    assert list(flow.lines[0].get_ydata()) == [0.2, -0.5]
    assert list(nearest.lines[0].get_ydata()) == [2.0]  # of one of the two
