"""The command writes the page that the function writes."""

from __future__ import annotations

import anndata

import cellflow as cf
from cli_files import cellflow_
from report_cases import table


def test_report_is_that_of_the_function(cells, tmp_path):
    adata = anndata.read_h5ad(cells)
    fit = cf.tl.fit(adata, time_key="day", n_dims=3, method="otcfm", steps=5, progress=False)
    fit.save(tmp_path / "fit")
    table().to_json(tmp_path / "rows.json")
    asked = ("--batch-key", "word", "--title", "Mine", "--holdout", tmp_path / "rows.json")
    done = cellflow_("report", tmp_path / "fit", cells, *asked, "--out", tmp_path / "a.html")
    assert done.exit_code == 0, done.output
    how = {"batch_key": "word", "title": "Mine", "holdout": table()}
    same = cf.report(adata, cf.load(tmp_path / "fit"), tmp_path / "b.html", **how)
    assert (tmp_path / "a.html").read_bytes() == same.read_bytes()


def test_rows_that_are_none_are_one_line(cells, tmp_path):
    fit = cf.tl.fit(
        anndata.read_h5ad(cells), time_key="day", method="otcfm", steps=5, progress=False
    )
    fit.save(tmp_path / "fit")
    (tmp_path / "rows.json").write_text("[1]")
    asked = ("--holdout", tmp_path / "rows.json", "--out", tmp_path / "a.html")
    done = cellflow_("report", tmp_path / "fit", cells, *asked)
    assert done.exit_code == 2 and "holds no rows of a hold-out" in done.output
    assert not (tmp_path / "a.html").exists()
