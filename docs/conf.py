"""Sphinx configuration. Pages of the API, tutorials and news are written when the build starts."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from docutils import nodes

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
html_static_path = ["_static"]
html_css_files = ["tables.css"]
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
autosummary_context = {"pictures": {}}  # of a name: file, where it leads, what it shows
autodoc_typehints_format = "short"
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "Rng": "Rng"}
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False


def write(name: str, text: str) -> None:
    """Write a generated page only if it changed, so that Sphinx need not read it again."""
    path = GENERATED / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf8") != text:
        path.write_text(text, encoding="utf8")


#: Full name of each public class, ours and others', by its last part.
CLASSES = {"AnnData": "anndata.AnnData", "Axes": "matplotlib.axes.Axes", "Tensor": "torch.Tensor"}
CLASSES |= {"DataFrame": "pandas.DataFrame"}


def public(module: ModuleType) -> dict[str, list[str]]:
    """Names that `module` makes public, under the comments that part its `__all__`.

    Without one: what it defines without underscore.
    """
    if not hasattr(module, "__all__"):
        own = (
            n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
        )
        return {"": [name for name in own if name[0] != "_"]}
    listed = inspect.getsource(module).partition("\n__all__ = [")[2].partition("]")[0]
    groups: dict[str, list[str]] = {"": []}
    for title, name in re.findall(r'^    # (.+)|"(\w+)"', listed, re.MULTILINE):
        groups.setdefault(title or [*groups][-1], []).extend([name] if name else [])
    return {title: names for title, names in groups.items() if names}


def api_pages() -> None:
    """One page per public module, with tables and a page of each of what it makes public."""
    titles = [f"cellflow.{name}" for name in (*cellflow._MODULES, "saving", "estimator", "strata")]
    for title in titles:
        name, module = title.removeprefix("cellflow."), import_module(title)
        others = {*titles} - {title}  # whose names have pages there
        text = f"{title}\n{'=' * len(title)}\n\n.. automodule:: {title}\n   :no-members:\n\n"
        for heading, listed in public(module).items():
            names = [
                n for n in listed if getattr(getattr(module, n), "__module__", "") not in others
            ]
            CLASSES.update(
                {n: f"{title}.{n}" for n in names if inspect.isclass(getattr(module, n))}
            )
            text += f".. rubric:: {heading}\n\n" if heading else ""
            members = "\n   ".join(names)
            text += f".. autosummary::\n   :toctree: {name}\n\n   {members}\n\n"
        write(f"api/{name}.rst", text)


def picture_of_each() -> None:
    """Show the picture of a figure on its page, and on those of the functions that it names."""
    pl = import_module("cellflow.pl")
    found = {path.stem: path for path in (DOCS / "figures" / "pl").iterdir()}
    for path in (found[name] for name in pl.__all__ if name in found):
        about = inspect.getdoc(getattr(pl, path.stem))
        figure = f"cellflow.pl.{path.stem}"
        shown = [path.relative_to(DOCS).as_posix(), figure, about.partition("\n")[0]]
        for name in {figure, *re.findall(r"`(cellflow\.[tp][lp]\.\w+)`", about)}:
            autosummary_context["pictures"].setdefault(name, []).append(shown)


def public_name(app, env, node, contnode):
    """Resolve a class by where it is made public: annotations say where it is defined."""
    target = node["reftarget"]
    name = CLASSES.get(target.rpartition(".")[2]) if node["reftype"] == "class" else None
    if name is None or target == "Path" or target.startswith("pathlib."):
        return None
    node["reftarget"] = name  # intersphinx, which is asked next, reads it
    py = env.domains["py"]
    return py.resolve_xref(env, node["refdoc"], app.builder, "class", name, node, contnode)


def llms_txt(app, error) -> None:
    """List the pages, in the order of the table of contents, each with its first sentence."""
    if error or app.builder.name != "html":
        return
    lines = ["# cellflow\n"]
    for name in app.env.collect_relations():
        paragraphs = app.env.get_doctree(name).findall(nodes.paragraph)
        said = (" ".join(paragraph.astext().split()) for paragraph in paragraphs)
        first = next((text for text in said if not text.startswith("Bases: ")), "")
        title, place = app.env.titles[name].astext(), app.builder.get_target_uri(name)
        lines.append(f"- [{title}]({place}): {first.partition('. ')[0]}")
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf8")


def setup(app) -> None:
    """Ask `public_name` before intersphinx, add `llms.txt`, and equations without a network."""
    # Called here, because it does not say of itself that it may run in parallel.
    import_module("sphinx-mathjax-offline").setup(app)
    app.connect("missing-reference", public_name, priority=400)
    app.connect("build-finished", llms_txt)


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
picture_of_each()
write("members.md", members.tables())
write("recipes.txt", members.recipes())
for page in members.ENTRIES:
    if missing := members.unwritten(page, (DOCS / page).read_text(encoding="utf8")):
        raise ValueError(f"docs/{page} has no entry for {', '.join(missing)}")
tutorial_pages()
news_page()
