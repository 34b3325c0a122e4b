"""The time parser: what each label means, in which order, and what is refused."""

from __future__ import annotations

import datetime
import re

import numpy as np
import pandas as pd
import pytest
import torch

from cellflow.pp import parse_times

LABELS = [
    ("7", 7.0, "day"),
    ("-2", -2.0, "day"),
    (".5", 0.5, "day"),
    ("1e-3", 0.001, "day"),
    ("day 10", 10.0, "day"),
    ("Day10", 10.0, "day"),
    ("day_7", 7.0, "day"),
    ("  day 3 ", 3.0, "day"),
    ("day -2", -2.0, "day"),
    ("D10", 10.0, "day"),
    ("D.5", 0.5, "day"),
    ("3.5d", 3.5, "day"),
    ("E8.5", 8.5, "day"),
    ("P14", 14.0, "day"),
    ("5dpf", 5.0, "day"),
    ("T3", 3.0, "day"),
    ("t=12h", 12.0, "hour"),
    ("12h", 12.0, "hour"),
    ("48 hours", 48.0, "hour"),
    ("24hpf", 24.0, "hour"),
    ("10 min", 10.0, "minute"),
    ("week 2", 2.0, "week"),
    ("GW12", 12.0, "week"),
    ("3 months", 3.0, "month"),
    ("day 12-15", 13.5, "day"),
    ("0–3 d", 1.5, "day"),
    ("3 to 6 days", 4.5, "day"),
    ("day0-day3", 1.5, "day"),
    ("0h-12h", 6.0, "hour"),
    ("E8.5-E9.5", 9.0, "day"),
]


@pytest.mark.parametrize(("label", "time", "unit"), LABELS, ids=[row[0] for row in LABELS])
def test_parse_times_reads_one_label_with_its_unit(label, time, unit):
    table = parse_times([label])
    assert table.times == (time,)
    assert table.unit == unit


@pytest.mark.parametrize(
    "label",
    [
        "early",
        "day",
        "8,5",
        "12m",  # minutes or months
        "day-2",  # dash or minus
        "1-2",  # no unit: an interval, or a replicate
        "day 15-12",
        "E8.5-P9",
        "d10h",
        "10E",
        "Day 10 rep1",
        "2020-01-15",
        "6:30",
        "1e999",
        "inf",
    ],
)
def test_label_that_says_no_single_time_is_refused(label):
    with pytest.raises(ValueError, match=re.escape(f"got label(s) {label!r}, expected")) as error:
        parse_times(["day 1", label], name="obs['day']")
    assert str(error.value).startswith("`obs['day']`")
    assert f"time_map={{{label!r}: 0.0, ...}}" in str(error.value)


NUMBERS = [
    [2, 0, 10],
    [2.0, 0.0, 10.0],
    np.array([2, 0, 10], dtype=np.int8),
    np.array([2, 0, 10], dtype=np.float32),
    np.array(["2", "0", "10"]),
    np.array(["2", "0", "10"], dtype=object),
    torch.tensor([2, 0, 10]),
    pd.Series([2, 0, 10], index=list("abc"), dtype="Int64"),
    pd.Categorical([2, 0, 10]),
    pd.Categorical(["2", "0", "10"], categories=["10", "0", "2", "99"]),
    pd.to_timedelta([2, 0, 10], unit="D"),
    np.array([2, 0, 10], dtype="timedelta64[D]"),
    [datetime.timedelta(days=2), datetime.timedelta(0), np.timedelta64(240, "h")],
    pd.arrays.IntervalArray.from_tuples([(1, 3), (-1, 1), (5, 15)]),
    ["day 2", "0", "week 1.42857142857142857"],
]


@pytest.mark.parametrize("values", NUMBERS, ids=lambda v: f"{type(v).__name__}")
def test_parse_times_reads_equal_times_from_every_type(values):
    table = parse_times(values)
    np.testing.assert_allclose(table.cell_times, [2.0, 0.0, 10.0], rtol=1e-15)
    assert table.cell_times.dtype == np.float64
    assert table.unit == "day"
    assert table.counts == (1, 1, 1)
    np.testing.assert_array_equal(table.kept, [0, 1, 2])


def test_labels_are_ordered_by_time_not_by_letter():
    values = pd.Categorical(["day 10", "day 2", "day 1", "day 10"])
    assert list(values.categories) == ["day 1", "day 10", "day 2"]
    table = parse_times(values)
    assert table.labels == ("day 1", "day 2", "day 10")
    assert table.times == (1.0, 2.0, 10.0)
    assert table.counts == (1, 1, 2)
    np.testing.assert_array_equal(table.cell_times, [10.0, 2.0, 1.0, 10.0])


def test_units_that_differ_become_days_exactly():
    table = parse_times(["24h", "day 1", "week 1", "1440 min", "0"])
    np.testing.assert_array_equal(table.cell_times, [1.0, 1.0, 7.0, 1.0, 0.0])
    assert table.unit == "day"
    assert table.time_points == (0.0, 1.0, 7.0)
    assert len(table.labels) == 5


def test_unit_may_be_chosen():
    assert parse_times(["12h", "36h"], unit="day").times == (0.5, 1.5)
    table = parse_times([0, 6, 12], unit="hour")
    assert (table.times, table.unit) == ((0.0, 6.0, 12.0), "hour")
    with pytest.raises(ValueError, match="Did you mean 'hour'"):
        parse_times([0, 1], unit="hours")


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("hour", "hour"), ("Hours", "hour"), ("h", "hour"), ("time_h", "hour"), ("hpf", "hour"),
        ("hours_post_infection", "hour"), ("day", "day"), ("days", "day"), ("Age (weeks)", "week"),
        ("min", "minute"), ("time", "day"), ("time_y", "day"), ("s", "day"), ("shower", "day"),
        ("week_or_month", "day"), (0, "day"), (None, "day"),
    ],
)  # fmt: skip
def test_unit_of_plain_numbers_is_in_the_name_of_the_column(name, unit):
    values = [0.0, 6.0, 24.0]
    for given in (values, list(map(str, values)), pd.Categorical(values)):
        table = parse_times(pd.Series(given, name=name))
        assert (table.unit, table.times) == (unit, (0.0, 6.0, 24.0))
    assert parse_times(pd.Series(values, name=name), unit="month").times == (0.0, 6.0, 24.0)


def test_labels_that_say_their_unit_do_not_take_that_of_the_column():
    table = parse_times(pd.Series(["day 1", "day 2"], name="hour"))
    assert (table.unit, table.times) == ("day", (1.0, 2.0))
    mixed = parse_times(pd.Series(["12h", "day 2"], name="hour"))
    assert (mixed.unit, mixed.times) == ("day", (0.5, 2.0))


def test_number_without_unit_beside_labels_with_one_is_refused():
    with pytest.raises(ValueError, match=r"without a unit beside labels with one: '3'"):
        parse_times(["12h", "0", "3"])


def test_different_origins_are_refused():
    with pytest.raises(ValueError, match=r"different origins: 'E18', 'P2'.*time_map"):
        parse_times(["E18", "P2"])


def test_printed_table():
    assert str(parse_times(["day 10", "day 2", "day 2", "36h"])) == (
        "label   time (day)  cells\n"
        "36h            1.5      1\n"
        "day 2            2      2\n"
        "day 10          10      1"
    )


def test_long_table_is_shortened():
    lines = str(parse_times(np.arange(100))).splitlines()
    assert len(lines) == 42
    assert "60 more" in lines[21]
    assert lines[-1].split() == ["99", "99", "1"]


@pytest.mark.parametrize(
    "values",
    [
        [1.0, np.nan, 2.0, np.nan],
        ["day 1", None, "day 2", np.nan],
        ["1", "nan", "2", " NA "],
        pd.Categorical(["day 1", None, "day 2", None], categories=["day 2", "day 1", "day 3"]),
        pd.Series([1, pd.NA, 2, pd.NA], dtype="Int64"),
        pd.to_timedelta([1, None, 2, None], unit="D"),
    ],
    ids=["float", "object", "spelled", "categorical", "nullable", "timedelta"],
)
def test_missing_labels_are_an_error_or_dropped_and_counted(values):
    with pytest.raises(ValueError, match=r"2 of 4 cells without a time label.*missing='drop'"):
        parse_times(values)
    table = parse_times(values, missing="drop")
    np.testing.assert_array_equal(table.kept, [0, 2])
    np.testing.assert_array_equal(table.cell_times, [1.0, 2.0])
    assert table.n_missing == 2
    assert sum(table.counts) == 2
    assert str(table).endswith("(2 cells without a time label were dropped)")


def test_all_missing_is_an_error_even_when_dropping():
    with pytest.raises(ValueError, match="no time label in 3 cells"):
        parse_times([None, None, "NA"], missing="drop")
    with pytest.raises(ValueError, match="Did you mean 'drop'"):
        parse_times([1, 2], missing="dropp")


def test_time_map_replaces_reading():
    table = parse_times(
        ["late", "early", "day 2", "early"], time_map={"early": 0, "late": 3.5, "day 2": 1, "x": 9}
    )
    np.testing.assert_array_equal(table.cell_times, [3.5, 0.0, 1.0, 0.0])
    assert table.labels == ("early", "day 2", "late")


def test_time_map_may_merge_labels_and_knows_numbers_and_missing_words():
    table = parse_times(pd.Categorical([1, 2, 3]), time_map={1: 0.0, "2": 0.0, 3: 5.0})
    assert table.time_points == (0.0, 5.0)
    assert parse_times(["none", "6h"], time_map={"none": 0.0, "6h": 6.0}).times == (0.0, 6.0)


def test_time_map_must_be_complete_and_finite():
    with pytest.raises(ValueError, match=r"without a time in `time_map`: 'day 2', 'late'\D"):
        parse_times(["early", "day 2", "late"], time_map={"early": 0.0})
    with pytest.raises(ValueError, match=r"`time_map\['a'\]`: got nan"):
        parse_times(["a"], time_map={"a": np.nan})


def test_many_unreadable_labels_are_counted():
    with pytest.raises(ValueError, match=r"'w7' and 12 more"):
        parse_times([f"w{k}" if k < 8 else f"x{k}" for k in range(20)], time_map={})


def test_parse_times_refuses_dates_and_booleans():
    with pytest.raises(TypeError, match=r"dates such as 2020-01-02.*to get timedeltas"):
        parse_times(pd.to_datetime(["2020-01-02", "2020-01-05"]))
    with pytest.raises(TypeError, match="dates such as 2020-01-02"):
        parse_times([datetime.date(2020, 1, 2)])
    with pytest.raises(TypeError, match="booleans"):
        parse_times([True, False])
    with pytest.raises(ValueError, match="got inf"):
        parse_times([0.0, np.inf])
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        parse_times(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"label\(s\) '\(1, 2\)'"):
        parse_times(pd.Series([(1, 2), (3, 4)]))


def test_values_are_left_as_they_are():
    values = pd.Categorical(["day 2", None, "day 1"], categories=["day 2", "day 1", "day 9"])
    before = values.copy()
    parse_times(values, missing="drop")
    assert values.equals(before)
    assert list(values.categories) == ["day 2", "day 1", "day 9"]
