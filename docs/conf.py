"""Sphinx configuration. Pages of the API, tutorials and news are written when the build starts."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

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
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # equations without a network
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinx_copybutton",
]
# Links to others' pages need a network: a build without one goes without them.
if "READTHEDOCS" in os.environ or "CELLFLOW_INTERSPHINX" in os.environ:
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
copybutton_exclude = ".linenos, .gp, .go"  # prompts and what they print
bibtex_bibfiles = [str(Path(cellflow.__file__).with_name("references.bib"))]
bibtex_reference_style = "author_year"
exclude_patterns = [
    "_build",
    "_templates",
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

templates_path = ["_templates"]
autosummary_ignore_module_all = False
autosummary_context = {
    "pictures": {
        f"cellflow.pl.{path.stem}": path.relative_to(DOCS).as_posix()
        for path in (DOCS / "figures" / "pl").glob("*.png")
    }
}
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


def public(module: ModuleType) -> list[str]:
    """Names that `module` makes public: its `__all__`, else what it defines without underscore."""
    own = (n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__)
    return getattr(module, "__all__", None) or [name for name in own if name[0] != "_"]


def api_pages() -> None:
    """One page per public module, with a table and a page of each of what it makes public."""
    for name in (*cellflow._MODULES, "saving", "estimator", "strata"):
        title, module = f"cellflow.{name}", import_module(f"cellflow.{name}")
        members = "\n   ".join(public(module))
        table = f".. autosummary::\n   :toctree: {name}\n\n   {members}\n"
        about = f".. automodule:: {title}\n   :no-members:\n"
        write(f"api/{name}.rst", f"{title}\n{'=' * len(title)}\n\n{about}\n{table}")


def tutorial_pages() -> None:
    """Copy the text notebooks of `tutorials/`, which Sphinx reads only inside its folder."""
    folder = GENERATED / "tutorials"
    folder.mkdir(parents=True, exist_ok=True)
    found = (DOCS.parent / "tutorials").glob("*.md")
    found = sorted(found, key=lambda path: path.stem.partition("_")[0].zfill(2))  # 10 after 9
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
write("recipes.txt", members.recipes())
for page in members.ENTRIES:
    if missing := members.unwritten(page, (DOCS / page).read_text(encoding="utf8")):
        raise ValueError(f"docs/{page} has no entry for {', '.join(missing)}")
tutorial_pages()
news_page()
