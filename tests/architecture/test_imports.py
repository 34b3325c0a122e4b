"""Imports go down the floors only, `import cellflow` is light, and rivals are refused."""

from __future__ import annotations

import ast
import json
import logging.config
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

import cellflow
from cellflow import _guard

ROOT = Path(__file__).parents[2]
SOURCE = sorted((ROOT / "cellflow").rglob("*.py"))
HEAVY = {"anndata", "scanpy", "matplotlib", "torchdyn", "numba", "pandas", "sklearn"}
#: Below the AnnData door: what a researcher with two tensors uses.
SCIENCE = ("TimeCourse", "OTCFM", "couplings", "paths", "metrics", "toys", "simulate", "evaluate")


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=env or None, timeout=120)


def loaded_by(code: str) -> set[str]:
    """Return the top-level packages loaded by `code` in a fresh interpreter."""
    result = run(f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))")
    assert result.returncode == 0, result.stderr
    return {name.split(".")[0] for name in json.loads(result.stdout)}


def test_floors(monkeypatch):
    # import-linter's own configuration would disable the logger of this package
    monkeypatch.setattr(logging.config, "dictConfig", lambda config: None)
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_leaves_do_not_import_from_the_root():
    """Names come from the module that defines them, or there will be cycles."""
    graph = grimp.build_graph("cellflow", cache_dir=None)
    assert graph.find_modules_that_directly_import("cellflow") == set()


def test_import_is_light():
    heavy = loaded_by("import cellflow") & (HEAVY | {"torch", "scipy", "ot", "click"})
    assert heavy == set()


def test_science_is_free_of_anndata():
    code = "import cellflow as cf\n" + "\n".join(f"cf.{name}" for name in SCIENCE)
    assert loaded_by(code) & {"anndata", "scanpy", "matplotlib", "pandas", "torchdyn"} == set()


@pytest.mark.parametrize("path", SOURCE, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_torchdyns_numerics_are_used_and_only_to_simulate(path):
    """`torchdyn.core` pulls Lightning and torchvision; the decision record says more."""
    tree = ast.parse(path.read_text(encoding="utf8"))
    modules = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    modules += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    torchdyn = [m for m in modules if m.split(".")[0] == "torchdyn"]
    assert all(m.startswith("torchdyn.numerics") for m in torchdyn)
    assert not torchdyn or "simulate" in path.parts


@pytest.mark.parametrize("name", cellflow.__all__)
def test_every_public_name_resolves(name):
    assert getattr(cellflow, name) is not None
    assert name in dir(cellflow)


@pytest.mark.parametrize("name", ["pp", "datasets"])
def test_readers_load_no_anndata_before_they_read(name):
    assert loaded_by(f"import cellflow.{name}") & {"anndata", "scanpy", "pandas"} == set()


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'flows'"):
        cellflow.flows  # noqa: B018


@pytest.mark.parametrize("rival", _guard.RIVALS)
@pytest.mark.parametrize("module", ["cellflow", "cellflow._checks"])
def test_a_rival_distribution_is_refused(rival, module, tmp_path):
    """A distribution of that name on the path is enough: files of both would mix."""
    info = tmp_path / f"{rival.replace('-', '_')}-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {rival}\nVersion: 9.9\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {module}"
    result = run(code)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"ImportError: `{rival}` 9.9")
    assert f"pip uninstall {rival} cellflow-sb" in result.stderr


def test_leftovers_under_a_rivals_front_page_are_refused(tmp_path):
    """Theirs came last: its `__init__` answers, and our remaining modules must not."""
    package = tmp_path / "cellflow"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for path in SOURCE:
        if path.parent.name == "cellflow" and path.name != "__init__.py":
            (package / path.name).write_text(path.read_text(encoding="utf8"), encoding="utf8")
    info = tmp_path / "cellflow_tools-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cellflow-tools\nVersion: 9.9\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import cellflow.timecourse"
    result = run(code)
    assert "ImportError: `cellflow-tools` 9.9" in result.stderr
