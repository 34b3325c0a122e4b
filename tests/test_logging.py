"""What is said at which verbosity, and the versions that a report names."""

from __future__ import annotations

import io
import logging
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

import cellflow as cf
from cellflow.logging import Verbosity, say

LEVELS = ["error", "warning", "info", "hint", "debug"]
SOURCE = Path(cf.__file__).parent


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What a test sets is taken back."""
    monkeypatch.setattr(cf.settings, "verbosity", "info")


@pytest.mark.parametrize("number", range(5))
def test_names_numbers_and_members_say_the_same(number):
    for value in (LEVELS[number], number, np.int64(number), Verbosity(number)):
        cf.settings.verbosity = "debug" if number < 4 else "error"
        cf.settings.verbosity = value
        assert cf.settings.verbosity == number
        assert cf.settings.verbosity.name == LEVELS[number]
    assert repr(cf.settings) == f"Settings(verbosity={LEVELS[number]!r})"


@pytest.mark.parametrize("value", ["inof", 5, -1, True, 1.0, None])
def test_what_is_no_verbosity_is_refused_and_changes_nothing(value):
    with pytest.raises((ValueError, TypeError), match="`verbosity`: got"):
        cf.settings.verbosity = value
    assert cf.settings.verbosity == Verbosity.info


def test_a_misspelled_setting_is_an_error():
    with pytest.raises(AttributeError):
        cf.settings.verbose = 0


@pytest.mark.parametrize("number", range(5))
def test_each_level_says_what_those_before_it_do(number, capsys):
    cf.settings.verbosity = number
    for level in Verbosity:
        say(level.name, at=level)
    assert capsys.readouterr().err.split() == LEVELS[: number + 1]


def test_the_level_is_that_of_the_logger_and_its_handlers_hear_each_line_once(capsys):
    logger, heard, root = logging.getLogger("cellflow"), io.StringIO(), io.StringIO()
    ours, theirs = logging.StreamHandler(heard), logging.StreamHandler(root)
    logger.addHandler(ours)
    logging.getLogger().addHandler(theirs)
    try:
        logger.setLevel(logging.DEBUG)
        assert cf.settings.verbosity == Verbosity.debug
        say("once")
    finally:
        logger.removeHandler(ours)
        logging.getLogger().removeHandler(theirs)
    assert (heard.getvalue(), root.getvalue()) == ("once\n", "")
    assert capsys.readouterr().err == "once\n"


#: Whether there is a bar, and words beside it, by verbosity and what `progress` says.
SHOWN = {
    ("error", None): "",
    ("error", True): "bar",
    ("warning", None): "bar",
    ("info", None): "bar words",
    ("info", True): "bar words",
    ("info", False): "",
    ("debug", False): "",
    ("debug", None): "bar words",
}


@pytest.mark.parametrize(("verbosity", "progress"), SHOWN)
def test_progress_is_shown_as_said_and_else_by_verbosity(verbosity, progress, capsys):
    cf.settings.verbosity = verbosity
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    course = cf.TimeCourse.from_arrays([x, x + 1], times=[0, 1])
    said = {} if progress is None else {"progress": progress}
    cf.ICFM(sigma=0.1).fit(course, steps=2, **said)
    out = capsys.readouterr()
    found = [
        name for name, mark in {"bar": "2/2", "words": "training on cpu"}.items() if mark in out.err
    ]
    assert (" ".join(found), out.out) == (SHOWN[verbosity, progress], "")


def test_bars_are_those_that_notebooks_draw():
    lines = [s.strip() for p in SOURCE.rglob("*.py") for s in p.read_text("utf8").splitlines()]
    imports = {s.partition("  #")[0] for s in lines if s.startswith(("import tqdm", "from tqdm"))}
    assert imports == {"from tqdm.auto import tqdm"}


def test_versions_are_those_of_the_modules(capsys):
    found = cf.logging.versions()
    assert list(found)[:3] == ["cellflow", "python", "torch"]
    assert found["cellflow"] == cf.__version__
    assert found["python"] == platform.python_version()
    assert (found["torch"], found["numpy"]) == (torch.__version__, np.__version__)
    assert found["threads"].startswith(f"{torch.get_num_threads()} of ")
    cf.logging.print_versions()
    printed, file = capsys.readouterr().out, io.StringIO()
    cf.logging.print_versions(file=file)
    assert file.getvalue() == printed
    assert dict(line.split(None, 1) for line in printed.splitlines()) == found


def test_where_work_is_done_is_said_for_debugging_alone(capsys):
    course = cf.TimeCourse.from_arrays([torch.zeros(8, 2), torch.ones(8, 2)], times=[0, 1])
    options = cf.training.FitOptions(steps=1)
    for verbosity, lines in (("debug", 1), ("hint", 0)):
        cf.settings.verbosity = verbosity
        cf.several.fit_members(cf.ICFM(sigma=0.1), course, options, members=2, workers=1)
        assert capsys.readouterr().err.count("2 jobs (fit) in 1 process\n") == lines
