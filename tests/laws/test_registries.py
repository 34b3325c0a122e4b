"""Families whose members register themselves."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

import pytest

from cellflow import couplings, metrics, paths
from cellflow.couplings import COUPLINGS, Coupling
from cellflow.couplings.coupling import FunctionCoupling
from cellflow.metrics import METRICS
from cellflow.paths import PATHS, Path


def members(package, base):
    """Classes of a family, wherever they are defined in its package."""
    modules = [
        import_module(f"{package.__name__}.{m.name}")
        for m in pkgutil.iter_modules(package.__path__)
    ]
    return {
        kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, base) and kind is not base
    }


@pytest.mark.parametrize(
    ("package", "base", "registry"), [(couplings, Coupling, COUPLINGS), (paths, Path, PATHS)]
)
def test_every_member_is_registered_once_and_in_a_file_of_its_own(package, base, registry):
    kinds = list(registry.values())
    assert set(kinds) == members(package, base) - {FunctionCoupling}
    assert len({kind.__module__ for kind in kinds}) == len(kinds)
    assert all(kind.__dataclass_params__.frozen for kind in kinds)


def test_every_metric_is_registered():
    exported = {getattr(metrics, name) for name in metrics.__all__}
    assert {metric.function for metric in METRICS.values()} <= exported
    assert {"w1", "w2", "energy"} == {name for name, m in METRICS.items() if m.of_holdouts}


def test_a_registry_refuses_a_second_member_of_one_name():
    with pytest.raises(ValueError, match="two members named 'exact'"):
        COUPLINGS.register("exact")(FunctionCoupling)
