"""What is published is what lies here, whole, and works where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import cellflow

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]


def run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=120, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The archive of sources, and the wheel that is built from what it holds alone."""
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    (sources,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return {"sdist": sources, "wheel": wheel}


def test_the_index_would_take_both(built):
    assert run("-m", "twine", "check", "--strict", *built.values()).count("PASSED") == 2


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = set(archive.namelist())
    info = f"cellflow_sb-{cellflow.__version__}.dist-info"
    found = (
        p for p in (ROOT / "cellflow").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    )
    expected = {str(path.relative_to(ROOT)) for path in found}
    assert {"cellflow/py.typed", "cellflow/datasets/embryoid.npz"} <= expected
    about = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    assert names == expected | about | {f"{info}/licenses/LICENSE"}


def test_the_sources_hold_what_tests_read_and_nothing_that_git_ignores(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    read = {"pyproject.toml", "cellflow/references.bib", "README.md", "lean.txt", ".ci/run"}
    assert read | {"tests/test_readme.py", "CITATION.cff", "LICENSE"} <= names
    assert not [
        n
        for n in names
        if "__pycache__" in n or n.startswith((".venv", "docs/_build", "docs/_generated"))
    ]


def test_what_is_installed_from_the_wheel_works_alone(built, tmp_path):
    """Without dependencies, into a folder of its own; those that are here serve it."""
    place = tmp_path / "site"
    options = ("--no-deps", "--no-index", "--no-compile", "--quiet")
    run("-m", "pip", "install", *options, "--target", place, built["wheel"])
    code = (
        "import cellflow as cf, importlib.metadata as m\n"
        "cells = cf.datasets.embryoid()\n"
        "print(cf.__file__, m.version('cellflow-sb'), *cells.obs['day'].unique(), sep='\\n')"
    )
    said = run("-c", code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(place)})
    path, version, *days = said.splitlines()
    assert Path(path) == place / "cellflow" / "__init__.py"
    assert version == cellflow.__version__
    assert days == ["1.5", "7.5", "13.5", "19.5", "25.5"]
    assert (place / "bin" / "cellflow").exists()


def test_the_metadata_are_those_of_the_project(built):
    with zipfile.ZipFile(built["wheel"]) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        told = message_from_bytes(archive.read(name))
    assert (told["Name"], told["Version"]) == (PROJECT["name"], cellflow.__version__)
    assert told["Requires-Python"] == PROJECT["requires-python"]
    assert set(told.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf8")
    assert f"version: {cellflow.__version__}\n" in citation
