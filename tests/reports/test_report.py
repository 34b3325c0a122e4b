"""A page says what is so, in words that anybody can read, and needs nothing but itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import anndata
import numpy as np
import pandas as pd
import pytest

import cellflow as cf
from cellflow.evaluate import HoldoutTable
from cellflow.fits import Ensemble
from report_cases import BATCHES, MODELS, TITLE, TYPES, table

VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """Elements with their attributes, whether they are closed in order, and the text by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if data.strip():
            self.text.append((self.open[-1], data))

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.elements if name == tag]

    def words(self, *tags: str) -> str:
        return " ".join(text for tag, text in self.text if not tags or tag in tags)


@pytest.fixture(scope="module")
def read(page) -> Page:
    return Page(page.read_text(encoding="utf-8"))


def test_elements_are_closed_in_order_and_have_names_of_their_own(read):
    assert read.open == []
    names = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(names) == len(set(names))
    pointed = [attrs["href"] for attrs in read.all("a")] + [
        value for attrs in read.all("use") for key, value in attrs.items() if key.endswith("href")
    ]
    assert {target.removeprefix("#") for target in pointed} <= set(names)


def test_nothing_is_asked_of_a_network(page, read):
    text = page.read_text(encoding="utf-8")
    given = [item for _, attrs in read.elements for item in attrs.items()]
    assert not [k for k, value in given if "xmlns" not in k and "://" in (value or "")]
    assert not re.search(r"url\((?!#)|@import", text)
    (policy,) = [a["content"] for a in read.all("meta") if "http-equiv" in a]
    assert "default-src 'none'" in policy and not read.all("script")


def test_the_page_can_be_read_without_seeing_it(read):
    assert read.all("html") == [{"lang": "en"}]
    headings = [tag for tag, _ in read.elements if re.fullmatch(r"h\d", tag)]
    assert headings == ["h1"] + ["h2"] * (len(headings) - 1)
    figures = read.all("svg")
    assert len(figures) == len(read.all("figure")) == 6  # loss, flow, velocity, hold-out, two maps
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in figures)
    assert {a["scope"] for a in read.all("th")} == {"row", "col"}


def test_sections_are_those_of_what_there_is(read):
    titles = [text for tag, text in read.text if tag == "h2"]
    assert titles == [
        *("In short", "Data", "Training", "Coupling", "Flow", "Hold-out", "Fates", "Growth"),
        *("Settings", "How to cite"),
    ]


def test_what_a_user_has_named_is_no_markup(page, read):
    text, words = page.read_text(encoding="utf-8"), read.words()
    for name in (*BATCHES, *TYPES, TITLE):
        assert name in words
        assert name not in text


def test_the_cells_are_counted(cells, read):
    numbers = [text for tag, text in read.text if tag == "td"]
    for batch in BATCHES:
        rows = cells.obs[cells.obs["batch"] == batch]
        at = [text for _, text in read.text].index(batch)
        row = [text for _, text in read.text][at + 1 : at + 6]
        assert [int(n) for n in row] == rows.groupby("day").size().tolist()
    assert {str(n) for n in cells.obs.groupby("day").size()} <= set(numbers)
    few, many = (f(cells.obs.groupby("day").size()) for f in (min, max))
    assert f"Sampling is unequal: {few} cells at day 7.5, {many} at" in read.words("li")
    assert "Intervals are unequal" not in read.words()  # six days each


def test_seeds_and_versions_are_told(read):
    cells = [text for tag, text in read.text if tag in ("th", "td")]
    told = dict(pairwise(cells))
    assert (told["seed of the fit"], told["seed of this page"]) == ("5", "0")
    assert told["cellflow"] == cf.__version__ and told["numpy"] == np.__version__
    assert told["net.width"] == "8"


SURE, UNSURE = "has been tested, and holds.", "is no surer than what learns nothing."
WORDS = {
    "best": ("on 3 of 3 days, by w1.", SURE),
    "worst": ("on none of 3 days, loses on 3, by w1.", UNSURE),
    "even": ("on 1 of 3 days, loses on 1, and cannot be told apart from it on 1, by w1.", UNSURE),
    "mostly": ("on 2 of 3 days, loses on 1, by w1.", "in some places than in others"),
    "same": ("on none of 3 days, and cannot be told apart from it on 3, by w1.", UNSURE),
}


@pytest.mark.parametrize("model", MODELS)
def test_the_verdict_is_that_of_the_numbers(model, read):
    best = "the best prediction that learns nothing (chosen for each with hindsight)"
    (said,) = [text for tag, text in read.text if tag == "p" and f"flow ({model})" in text]
    counted, judged = WORDS[model]
    assert said.startswith(f"The flow ({model}) beats {best} {counted}") and judged in said
    assert f"The flow ({model}) beats “next time point” on 3 of 3 days." in read.words("li")
    cells = [text for tag, text in read.text if tag in ("th", "td")]
    at = cells.index(model)
    assert [float(c.split(" ± ")[0]) for c in cells[at + 1 : at + 4]] == list(MODELS[model])


def test_without_a_hold_out_the_page_says_so(cells, fit, tmp_path):
    both, bare = Ensemble((fit, fit), (3, 4)), cells.copy()
    del bare.obsm["fates"], bare.uns["fates"], bare.uns["growth_fit"], bare.obsm["velocity_pca"]
    out = cf.report(bare, both, tmp_path / "r.html", holdout=HoldoutTable(()), batch_key="kind")
    read = Page(out.read_text(encoding="utf-8"))
    assert "how well the flow predicts what it has not seen is not known" in read.words("li")
    assert len(read.all("svg")) == 2 and "3, 4" in read.words("td")


def test_the_same_input_gives_the_same_page(cells, fit, page, tmp_path):
    again = cf.report(cells, fit, tmp_path / "again.html", holdout=table(), title=TITLE)
    assert again.read_bytes() == page.read_bytes()


def test_a_page_is_written_whole_or_not_at_all(cells, fit, tmp_path):
    place = tmp_path / "r.html"
    place.write_text("an earlier page")
    strange = cells.copy()
    strange.obs["day"] = strange.obs["day"] + 1
    with pytest.raises(ValueError, match="label"):
        cf.report(strange, fit, place)
    with pytest.raises(ValueError, match="`path`: got .* expected a file"):
        cf.report(cells, fit, tmp_path)
    with pytest.raises(ValueError, match="`basis`"):
        cf.report(cells, fit, place, basis="tsne")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["an earlier page"]


def test_a_fit_whose_control_tells_the_times_has_a_page_of_one_condition_too(tmp_path):
    rng = np.random.default_rng(0)
    drugs = np.repeat(["none", "A", "B"], 20)
    cells = anndata.AnnData(obs=pd.DataFrame({"drug": drugs}, index=[f"c{k}" for k in range(60)]))
    cells.obsm["X_pca"] = rng.normal(size=(60, 3)) + (drugs == "A")[:, None]
    how = {"condition_key": "drug", "control": "none", "method": "otcfm"}
    fit = cf.tl.fit(cells, steps=5, progress=False, **how)
    cells.uns["composition"] = {"a": 1}  # of another's making
    text = cf.report(cells, fit, tmp_path / "all.html").read_text("utf8")
    assert "60 cells in 3 dimensions" in text and "Not drawn" in text
    text = cf.report(cells, fit.given("A", guidance=1), tmp_path / "one.html").read_text("utf8")
    assert "20 cells of day 0, carried to 1" in text and "40 cells; these are 60" in text
    treated = cells[cells.obs["drug"] != "none"].copy()
    cf.tl.velocity(treated, fit)  # without any of the control
    assert np.isfinite(treated.obsm["velocity_pca"]).all()


def test_a_paper_that_is_not_known_is_left_out():
    class Mine(cf.paths.Straight):
        """Mine :cite:p:`me2030`."""

    cells = cf.TimeCourse.from_arrays([np.zeros((9, 2)), np.ones((9, 2))])
    method = cf.methods.FlowMatching(cf.couplings.Exact(), Mine(0.1), name="mine")
    assert "me2030" not in cf.cite(method.fit(cells, steps=1, progress=False))


@pytest.mark.parametrize("control", ["A+B", "B+A"])
def test_a_control_of_two_is_the_same_in_any_order(control):
    drugs = np.repeat(["A+B", "B+A", "A"], 5)
    cells = anndata.AnnData(obs=pd.DataFrame({"drug": drugs}, index=[f"c{k}" for k in range(15)]))
    cells.obsm["X_pca"] = np.random.default_rng(0).normal(size=(15, 2))
    course, _ = cf.pp.course(cells, condition_key="drug", control=control)
    assert [len(s) for s in course.snapshots] == [10, 5]
