"""A report of a fit: one page of HTML that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anndata import AnnData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cellflow import _checks
from cellflow._files import obstacle, whole_file
from cellflow._typing import Rng
from cellflow.evaluate import HoldoutTable
from cellflow.fits import Ensemble, Fit
from cellflow.reports import sections
from cellflow.reports.answers import answers
from cellflow.reports.cite import cite
from cellflow.reports.holdout import holdout as of_holdout
from cellflow.reports.parts import Section
from cellflow.tl._reading import states_and_times

_UNTESTED = (
    "Nothing was held out: how well the flow predicts what it has not seen is not known. Run "
    "cellflow.tl.holdout, and give its table as holdout=table."
)


def report(
    adata: AnnData,
    fit: Fit | Ensemble,
    path: str | Path = "report.html",
    *,
    holdout: HoldoutTable | None = None,
    batch_key: str | None = None,
    basis: str | None = None,
    title: str = "How these cells move",
    rng: Rng = 0,
) -> Path:
    """Write a page on a fit that opens in any browser, without a network, and prints.

    It shows the cells by time and batch, what is unequal or confounded among them, training, the
    health of the couplings, the hold-out with a verdict in words, what the other functions of
    :mod:`cellflow.tl` have left in `adata` (fates, composition, drivers, growth and others), all
    parameters, seeds, versions, and what to cite. The same input gives the same page.

    Parameters
    ----------
    adata, fit
        Cells that the fit was made of, or others with the same columns, and the fit.
    path
        File to write, whole or not at all.
    holdout
        What :func:`cellflow.tl.holdout` or :func:`cellflow.tl.holdout_conditions` returned.
    batch_key
        Column of ``obs`` with batches; ``"batch"`` if there is one and this is omitted.
    basis
        Embedding to draw on, a key of ``obsm``; when omitted, UMAP, else the principal components
        or the representation of the fit.
    title
        Heading of the page.
    rng
        Seed or generator that chooses the cells whose trajectories are drawn.

    Returns
    -------
    pathlib.Path
        The file.
    """
    path = Path(path)
    why = "a folder" if path.is_dir() else obstacle(path)
    if why is not None:
        raise ValueError(_checks.message("path", f"{str(path)!r} ({why})", "a file to write"))
    _, times, _ = states_and_times(adata, fit)
    basis = _embedding(adata, fit, basis)
    if batch_key is None and "batch" in adata.obs and not adata.obs["batch"].isna().any():
        batch_key = "batch"
    how: dict[str, Any] = {"time_key": fit.origin["time_key"], "labels": fit.origin["labels"]}
    if how["time_key"] is None:  # the control tells the times
        parts = {"var": adata.var, "uns": adata.uns, "obsm": dict(adata.obsm)}
        adata = AnnData(adata.X, adata.obs.assign(time=times), **parts)
        how = {"time_key": "time", "labels": None}
    data, pairs = sections.data(adata, fit, batch_key, **how), sections.coupling(fit)
    tested = None if holdout is None or not holdout.rows else of_holdout(holdout)
    tested = tested or Section("Hold-out", [_UNTESTED])
    about = [
        *(
            data,
            sections.training(fit),
            pairs,
            sections.flow(adata, fit, basis, rng=rng, **how),
            tested,
        ),
        *answers(adata, times, basis=basis, batch_key=batch_key),
        sections.settings(fit, rng),
        Section("How to cite", text=cite(fit)),
    ]
    short = [*tested.says, *pairs.says, *pairs.points, *data.points]
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    ).get_template("page.html")
    course, name = fit.course, fit.method.name
    lead = f"{name} on {len(course.x):,} cells, {course.unit}s {course.times[0]:g} to "
    text = page.render(title=title, lead=f"{lead}{course.times[-1]:g}", short=short, sections=about)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _embedding(adata: AnnData, fit: Fit | Ensemble, basis: str | None) -> str | None:
    """Return the name of the embedding to draw on, None if there is none."""
    known = ("X_umap", "X_pca", fit.origin["use_rep"]) if basis is None else (basis, f"X_{basis}")
    for key in known:
        if key in adata.obsm and adata.obsm[key].shape[1] > 1:
            return str(key)
    if basis is not None:
        expected = f"an embedding of two columns or more: {', '.join(adata.obsm)}"
        raise ValueError(_checks.message("basis", repr(basis), expected))
    return None
