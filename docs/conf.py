"""Sphinx configuration. Pages of the API, tutorials and news are written when the build starts."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import cellflow

sys.path.insert(0, str(Path(__file__).parent))
import members

DOCS = Path(__file__).parent
GENERATED = DOCS / "_generated"

project = "cellflow"
author = "The cellflow developers"
copyright = "The cellflow developers, BSD-3-Clause"
version = release = cellflow.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinx_copybutton",
]
if {"READTHEDOCS", "CELLFLOW_INTERSPHINX"} & set(
    os.environ
):  # without a network, a build has no links
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        name: (f"https://{place}/", None)
        for name, place in {
            "python": "docs.python.org/3",
            "numpy": "numpy.org/doc/stable",
            "scipy": "docs.scipy.org/doc/scipy",
            "pandas": "pandas.pydata.org/docs",
            "matplotlib": "matplotlib.org/stable",
            "sklearn": "scikit-learn.org/stable",
            "torch": "docs.pytorch.org/docs/stable",
            "anndata": "anndata.readthedocs.io/en/stable",
            "scanpy": "scanpy.readthedocs.io/en/stable",
        }.items()
    }
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output stay
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
exclude_patterns = [
    "_build",
    "changes",
    "jupyter_execute",
    "**/jupyter_execute",
    "**.ipynb_checkpoints",
]
html_theme = "furo"
html_title = f"cellflow {release}"
default_role = "code"  # `x` in a docstring is a name

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "auto"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True

autodoc_typehints = "none"  # the docstrings state types as shapes and units
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False


def write(name: str, text: str) -> None:
    """Write a generated page only if it changed, so that Sphinx need not read it again."""
    path = GENERATED / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf8") != text:
        path.write_text(text, encoding="utf8")


def api_pages() -> None:
    """One page per public module, with what its `__all__` (or its text) makes public."""
    for name in (*cellflow._MODULES, "saving", "estimator", "strata"):
        title = f"cellflow.{name}"
        members = f".. automodule:: {title}\n   :members:\n   :show-inheritance:\n"
        write(f"api/{name}.rst", f"{title}\n{'=' * len(title)}\n\n{members}")


def tutorial_pages() -> None:
    """Copy the text notebooks of `tutorials/`, which Sphinx reads only inside its folder."""
    folder = GENERATED / "tutorials"
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted((DOCS.parent / "tutorials").glob("*.md"))
    for path in found:
        shutil.copy2(path, folder / path.name)
    for stale in {p.name for p in folder.glob("*.md")} - {p.name for p in found} - {"index.md"}:
        (folder / stale).unlink()
    entries = "\n".join(path.stem for path in found)
    body = f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n" if found else "In preparation.\n"
    write("tutorials/index.md", f"# Tutorials\n\nText notebooks, run at every build.\n\n{body}")


def news_page() -> None:
    """Collect the change fragments that no release has collected yet."""
    fragments = sorted((DOCS / "changes").glob("*.*.md"))
    items = [" ".join(f.read_text(encoding="utf8").split()) for f in fragments]
    text = "\n".join(f"- {item}" for item in items) or "Nothing yet."
    write("unreleased.md", f"---\norphan: true\n---\n\n{text}\n")


api_pages()
write("members.md", members.tables())
tutorial_pages()
news_page()
