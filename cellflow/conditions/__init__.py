"""Conditions of an experiment: drugs, doses, donors, and what a network is told of them."""

from cellflow import _doors
from cellflow.conditions.conditions import Condition, Conditions, Context
from cellflow.conditions.covariates import COVARIATES, Categorical, Continuous, Covariate

__all__ = [
    "COVARIATES",
    "Categorical",
    "Condition",
    "Conditions",
    "Context",
    "Continuous",
    "Covariate",
]

_doors.guard(__name__)
