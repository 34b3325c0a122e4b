"""Fits, ensembles, plans and tables are printed in a few lines, and as tables in notebooks."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import cellflow as cf
from cellflow import _html
from cellflow.couplings import Exact, Independent
from cellflow.evaluate import HoldoutTable
from cellflow.fits import Ensemble
from report_cases import MODELS, table


def rows(html: str) -> dict[str, list[str]]:
    """Rows of the tables by their names."""
    found = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', html, re.S)
    return {name: re.findall(r"<td.*?>(.*?)</td>", rest, re.S) for name, rest in found}


def printed(thing: object) -> dict[str, str]:
    lines = [line.strip().partition(": ") for line in repr(thing).splitlines()]
    return {name: value for name, _, value in lines}


def test_a_fit_shows_its_cells_training_and_health(fit):
    for said in (printed(fit), {k: v[0] for k, v in rows(fit._repr_html_()).items()}):
        assert said["cells"] == f"{len(fit.course.x):,} × 3 dimensions"
        assert said["times (day)"] == "1.5, 7.5, 13.5, 19.5, 25.5"
        assert said["uotcfm"].startswith("20 steps (budget), loss ")
        assert fit.health.splitlines()[0].removeprefix("coupling: ") in said["coupling"]
    assert len(repr(fit)) < 800


def test_an_ensemble_shows_its_seeds(fit):
    both = Ensemble((fit, fit), (3, 4))
    assert printed(both)["members"] == rows(both._repr_html_())["members"][0] == "2, of seeds 3, 4"


@pytest.mark.parametrize("coupling", [Exact(), Independent()])
def test_a_plan_shows_its_cost_and_not_its_pairs(coupling):
    x = torch.arange(40.0)[:, None]
    plan = coupling(cf.Snapshot(x, 0.0), cf.Snapshot(x + 1, 1.0))
    assert printed(plan)["cells"] == rows(plan._repr_html_())["cells"][0] == "40 × 40"
    assert float(rows(plan._repr_html_())["cost"][0]) == pytest.approx(plan.cost, rel=1e-3)
    assert len(repr(plan)) < 200


def test_matched_cells_show_each_interval(cells):
    done = cf.tl.couple(cells, time_key="day", n_dims=3, progress=False)
    assert list(rows(done._repr_html_())) == list(printed(done))[1:]
    assert repr(done) == str(done)
    assert len(done.transitions.plans) == 4 == len(rows(done._repr_html_()))


def test_numbers_of_any_kind_are_short_and_texts_are_whole():
    long = "a text & more" * 9
    kinds = [1 / 3, np.float32(1 / 3), 12345, np.int64(12345), True, None, long, 1e-12]
    html = _html.table([("<name>", *kinds)], head=["", *range(8)], caption="a & b")
    third, count = "0.3333", "12,345"
    values = [third, third, count, count, "True", "None", long.replace("&", "&amp;"), "1e-12"]
    assert rows(html) == {"&lt;name&gt;": values}
    assert "<caption>a &amp; b</caption>" in html and html.count("<td class=long>") == 1


def test_a_hold_out_shows_what_it_prints():
    held_out = table()
    html = rows(held_out._repr_html_())
    assert repr(held_out) == str(held_out)
    for name, values in MODELS.items():
        assert [float(v.split(" ± ")[0]) for v in html[name][:-1]] == list(values)
        assert f"{html[name][0]}" in repr(held_out)
    assert repr(HoldoutTable(())) == "no rows"
    assert "best against previous (w1): better at 3 of 3" in held_out._repr_html_()
