"""The held-out benchmark: what is scored, in which coordinates, and what is done again."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from accuracy import heldout, heldout_scores, heldout_table, sets
from cellflow.metrics import wasserstein1
from cellflow.timecourse import Snapshot, TimeCourse

UNEVEN, EVEN = (0, 1, 4), (0, 1, 2, 3)


@pytest.fixture
def folder(tmp_path):
    """Six genes at uneven times, and eight components at even ones."""
    rng = np.random.default_rng(0)
    for name, times, dim in (("uneven", UNEVEN, 6), ("even_pca", EVEN, 8)):
        t = np.repeat(times, [30 + 5 * k for k in range(len(times))])
        x = rng.normal(size=(len(t), dim)) * np.arange(1, dim + 1) + t[:, None]
        np.savez(tmp_path / f"{name}.npz", X=x.astype(np.float32), t=t)
    return tmp_path


def run(folder, *extra: str) -> str:
    out = folder / "rows.jsonl"
    asked = ["--steps", "20", "--seeds", "2", "--workers", "1", "--methods", "otcfm", *extra]
    result = CliRunner().invoke(heldout.main, [str(folder), "--out", str(out), *asked])
    assert result.exit_code == 0, result.output
    return result.output


def test_two_sets_are_run_once_and_printed(folder):
    """Each unlearned prediction and fit for two seeds but ``previous``; a lost row is made again.

    Even time points are predicted once, for both clocks; no set has 50 components.
    """
    text, path = run(folder), folder / "rows.jsonl"
    lines = path.read_text().splitlines()
    per_day = 2 * len(("otcfm", *(name for name in heldout.UNLEARNED if name != "previous"))) + 1
    assert len(lines) == per_day * (2 * 1 + 2)  # one day in two clocks, two days in one
    assert not any("error" in json.loads(line) for line in lines)
    assert "uneven, 5 components, physical time" in text
    assert "even_pca, 5 components, physical time" not in text
    assert "Ratio to ot_midpoint, 5 components, physical time" in text
    path.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])
    assert f"{len(lines)} jobs, {len(lines) - 1} done already" in run(folder)
    again = json.loads(path.read_text().splitlines()[-1])
    assert again | {"seconds": 0} == json.loads(lines[-1]) | {"seconds": 0}
    assert f"{len(lines)} jobs, {len(lines)} done already" in run(folder)
    assert run(folder, "--print") in run(folder)


def test_other_settings_are_run_again(folder):
    few = ("--sets", "uneven", "--time", "index")
    run(folder, *few)
    assert "15 jobs, 13 done already" in run(folder, *few, "--steps", "10")  # the fits alone


def test_torchcfm_is_scored_on_the_same_days(folder):
    run(folder, "--sets", "uneven", "--time", "index", "--methods", "otcfm,torchcfm")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    ours, peer = ({r["fold"]: r for r in rows if r["method"] == m} for m in ("otcfm", "torchcfm"))
    assert ours.keys() == peer.keys()
    for fold in ours:  # after 20 steps both have hardly moved the cells of the day before
        assert peer[fold]["n_pred"] == ours[fold]["n_pred"]
        assert peer[fold]["w1"] == pytest.approx(ours[fold]["w1"], rel=0.5)


def test_scores_are_those_of_whitened_components(folder):
    """W1 does not see the signs of components, so numpy's serve as well."""
    run(folder, "--sets", "uneven")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    with np.load(folder / "uneven.npz") as stored:
        x, t = stored["X"].astype(float), stored["t"]
    x = x - x.mean(0)
    white = np.linalg.svd(x, full_matrices=False)[0][:, :5]
    white /= white.std(0)
    expected = wasserstein1(white[t == 0], white[t == 1])
    (previous,) = (r for r in rows if (r["method"], r["time"]) == ("previous", "physical"))
    assert previous["w1"] == pytest.approx(expected, rel=0.02)  # n or n - 1 in the deviation
    assert {r["n_pred"] for r in rows if r["method"] != "floor"} == {30}


def test_few_dimensions_keep_their_units(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    np.savez(tmp_path / "small.npz", X=x, t=np.repeat([0, 1, 2], 10))
    assert torch.equal(sets.read(tmp_path / "small.npz", 5).x, torch.from_numpy(x))
    assert sets.read(tmp_path / "small.npz", 50) is None


def test_cells_of_a_time_point_are_capped(folder):
    course = sets.read(folder / "even_pca.npz", 5, 7)
    assert [len(s) for s in course.snapshots] == [7] * len(EVEN)
    assert course.times == EVEN
    assert sets.is_even(course)
    assert sets.read(folder / "even_pca.npz", 50) is None
    with pytest.raises(ValueError, match="`sets`: got 'odd'"):
        sets.chosen(folder, ["odd"])


def test_composition_by_mass():
    """Half of the mass here and there, against a quarter and three quarters."""
    ends = torch.tensor([[0.0], [10.0]])
    kinds = heldout_scores.clusters(TimeCourse.from_arrays([ends, ends + 0.1]))
    truth = Snapshot(ends, 1.0)
    cells = Snapshot(ends, 1.0, torch.tensor([1.0, 3.0]))
    assert heldout_scores.composition_error(cells, truth, kinds) == pytest.approx(0.25)
    found = heldout_scores.scores(cells, truth, kinds, 4)
    assert found["w1_equal"] == pytest.approx(found["w1"])  # of four cells, three are there
    assert found["w1"] == found["shift"] == pytest.approx(2.5)
    assert found["nearest"] == 0
    assert found["effective"] == pytest.approx(1.6)


def test_geometric_mean_over_sets():
    assert heldout_table.geometric_mean([0.9] * 5) == pytest.approx((0.9, 0.9, 0.9))
    mean, low, high = heldout_table.geometric_mean([0.5, 2.0])
    assert (mean, low, high) == pytest.approx((1.0, 0.5, 2.0))


def test_seeds_without_all_days_do_not_count():
    rows = [
        {"fold": fold, "folds": 2, "method": "m", "seed": seed, "w1": float(fold)}
        for fold, seed in ((1, 0), (2, 0), (1, 1))
    ]
    assert heldout_table.per_seed(rows, "m", "w1") == [1.5]


def test_failure_is_told_and_tried_again(folder, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("blown up")

    few = ("--sets", "uneven", "--time", "index")
    with monkeypatch.context() as patch:
        patch.setattr(heldout, "predicted", fail)
        text = run(folder, *few)
    assert "failed: uneven, 5, index, fold 1, otcfm, seed 0: RuntimeError: blown up" in text
    assert re.search(r"^otcfm +incomplete", text, re.MULTILINE)
    again = run(folder, *few)
    assert "15 jobs, 13 done already" in again
    assert "failed" not in again


def test_unknown_method(folder):
    result = CliRunner().invoke(heldout.main, [str(folder), "--methods", "otcmf"])
    assert "unknown otcmf; there are" in result.output
