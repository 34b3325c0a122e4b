"""Covariates and conditions: one text for equal values, tokens that tell others apart."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.testing import assert_close

from cellflow.conditions import COVARIATES, Categorical, Conditions, Continuous

DRUG = Categorical("drug", ("A", "B", "C"), none="control")
DOSED = Categorical("drug", ("A", "B"), doses=True, none="control")
KNOWN = {
    "plain": Conditions((DRUG,), ("control", "A", "A+B"), 0),
    "doses": Conditions((DOSED,), ({"A": 0.5}, "B:2", "control"), 2),
    "several": Conditions(
        (
            Categorical("drug", ("A", "B"), ((1.0, 0.5), (0.0, 2.0))),
            Continuous.of("dose", (0.1, 1.0, 10.0), log=True),
            Categorical("donor", ("1", "2")),
        ),
        tuple({"drug": "A", "dose": d, "donor": n} for d in (0.1, 10.0) for n in "12"),
        across=("donor",),
        nuisance=("donor",),
    ),
}


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
def test_facts_make_the_conditions_again(known: Conditions) -> None:
    twin = Conditions.from_facts(json.loads(json.dumps(known.facts())))
    assert twin.texts == known.texts
    assert twin.facts() == known.facts()
    assert (twin.control, twin.strata()) == (known.control, known.strata())
    for a, b in ((twin.context(), known.context()),):
        assert torch.equal(a.tokens, b.tokens)
        assert torch.equal(a.present, b.present)
    assert {type(c) for c in twin.covariates} <= set(COVARIATES.values())


@pytest.mark.parametrize(
    "same",
    [("A+B", "B+A", ["B", "A"], {"A": 1.0, "B": 1.0}), ("control", [], None, {"A": 0.0})],
    ids=str,
)
def test_a_set_has_no_order(same) -> None:
    tokens = [DRUG.tokens(value) for value in same]
    assert len({DRUG.text(value) for value in same}) == 1
    assert all(torch.equal(t, tokens[0]) for t in tokens)


def test_doses_are_told_as_text_or_numbers() -> None:
    assert torch.equal(DOSED.tokens("A:0.5+B"), DOSED.tokens({"B": 1.0, "A": 0.5}))
    assert DOSED.text(DOSED.text({"A": 0.5})) == "A:0.5"
    assert_close(DOSED.tokens("A:0.5")[0, 2].item(), math.log1p(0.5))
    assert DOSED.text("A:0") == "control"
    for wrong in ("A:x", "A:-1", "D:1"):
        with pytest.raises(ValueError, match="drug"):
            DOSED.text(wrong)


def test_doses_of_each_level_are_told_apart() -> None:
    """So the sum of the tokens of a combination says which drug has which dose."""
    sums = DOSED.tokens({"A": 0.5, "B": 3.0}).sum(0)
    assert_close(sums, sums.new_tensor([1.0, 1.0, math.log1p(0.5), math.log1p(3.0), 0.0]))


def test_numbers_are_centred_and_scaled() -> None:
    dose = Continuous.of("dose", (1.0, 10.0, 100.0), log=True)
    z = torch.stack([dose.tokens(v)[0, 0] for v in (1.0, 10.0, 100.0)])
    assert_close(z.mean(), torch.zeros(()).double())
    assert_close(z.std(correction=0), torch.ones(()).double())
    with pytest.raises(ValueError, match="dose"):
        dose.tokens(0.0)


def test_a_condition_of_which_nothing_is_said_has_no_token() -> None:
    known = KNOWN["several"]
    context = known.context({}, {"drug": "B"}, {"drug": "A", "dose": 1.0, "donor": "2"})
    assert context.present.sum(1).tolist() == [0, 1, 3]
    assert context.tokens.shape == (3, 3, known.features)


def test_codes_strata_and_controls() -> None:
    known = KNOWN["several"]
    assert [known.code(v) for v in known.values] == [0, 1, 2, 3]
    assert known.code({"drug": "B", "dose": 0.1, "donor": "1"}) is None
    assert known.strata() == ((0, 1), (2, 3))
    assert KNOWN["plain"].strata() == ((1,), (2,), (0,))
    drug, _, donor = known.covariates
    values = [{"drug": d, "donor": n} for d in "AB" for n in "12"]
    mine = Conditions((drug, donor), tuple(values), 0, nuisance=("donor",))
    assert [mine.control_of(v) for v in values] == [0, 1, 0, 1]
    assert mine.control_of({"drug": "B"}) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Conditions((DRUG,), ("A", "A")),
        lambda: Conditions((), ("A",)),
        lambda: Conditions((DRUG,), ("D",)),
        lambda: Conditions((DRUG,), ("A",), 1),
        lambda: Conditions((DRUG,), ("A",), across=("donor",)),
        lambda: Categorical("drug", ("A", "A")),
        lambda: Categorical("drug", ("A",), ((1.0,), (2.0,))),
        lambda: KNOWN["several"].text("A"),
    ],
)
def test_what_makes_no_sense_is_an_error(make) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()
