"""Fit dynamics to an AnnData."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from anndata import AnnData

from cellflow import _checks
from cellflow._process_group import ProcessGroup
from cellflow._typing import Rng
from cellflow.costs import CostLike
from cellflow.evaluate import Chooser, HoldoutProtocol
from cellflow.fits import Ensemble, Fit
from cellflow.logging import say, shown
from cellflow.methods import Method, with_network
from cellflow.networks import NetworkLike, suggested
from cellflow.pp.conditions import ConditionKeys
from cellflow.pp.reading import Reading
from cellflow.preprocessing import Preprocessing
from cellflow.several import fit_members, fit_on, join_process_group
from cellflow.timecourse import TimeCourse
from cellflow.tl import _reading
from cellflow.training import Checkpointing, FitOptions, StepReport


def fit(
    adata: AnnData,
    *,
    time_key: str | None = None,
    use_rep: str = "X_pca",
    n_dims: int | None = None,
    method: str | Method = "reach",
    cost: str | CostLike | None = None,
    network: str | NetworkLike | None = None,
    steps: int | None = None,
    whiten: bool = False,
    mass_key: str | None = None,
    growth_key: str | None = None,
    label_key: str | None = None,
    condition_key: str | Sequence[str] | None = None,
    covariates: Mapping[str, object] | None = None,
    control: str | Mapping[str, Any] | None = None,
    across: str | Sequence[str] | None = None,
    nuisance: str | Sequence[str] | None = None,
    reference: str | None = None,
    time_map: Mapping[Hashable, float] | None = None,
    missing: str = "error",
    unit: str | None = None,
    rng: Rng = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    checkpoint: str | Path | None = None,
    members: int = 1,
    bootstrap: bool = False,
    workers: int | None = None,
    devices: int | None = None,
    progress: bool | None = None,
    on_step: Callable[[StepReport], object] | None = None,
) -> Fit | Ensemble:
    """Learn how the cells of an AnnData move from each time point to the next.

    Parameters
    ----------
    adata
        Cells of all time points; it is not changed.
    time_key
        Column of ``obs`` with times: numbers, or labels such as ``"day 10"`` or ``"12h"``. The
        table of what was read as what is printed to standard error. When omitted, the cells of the
        `control` are at time 0, and all others at 1.
    use_rep
        Cells' states: a key of ``obsm``, or ``"X"`` for expression. Of principal components by
        scanpy or :func:`cellflow.pp.pca`, ``varm["PCs"]`` and the mean of each gene are kept, so
        that answers are in genes, too; unless ``X`` is no longer what they were made from, which
        is said. A mean that ``uns`` does not have takes one pass over the expression.
    n_dims
        Use the first `n_dims` dimensions of a representation; of expression, that many principal
        components, fitted here and undone in every answer. Of expression on disk (a backed or
        lazily read AnnData), which is never read whole, states are these components: the course,
        velocities and trajectories have `n_dims` dimensions, :func:`cellflow.tl.expression` turns
        them into genes, and :func:`cellflow.tl.interpolate` does so by itself.
    method
        A name in :data:`cellflow.methods.METHODS`: ``"reach"`` (cells move within a measured
        reach and grow), ``"otcfm"`` (deterministic, without growth),
        ``"sf2m"`` (a Schrödinger bridge), ``"dsbm"`` (the same, refitted in rounds), ``"uotcfm"``
        or ``"ubsb"`` (the first two with growth), ``"wfrfm"`` (least action of movement and
        growth), ``"curly"`` (relative to measured velocities), or a method
        such as ``OTCFM(sigma=0.2)``.
        ``"auto"`` first chooses by predicting time points left out, on the CPU and with seeds of
        its own: see :func:`cellflow.evaluate.choose`. ``fit.origin["choice"]`` says why.
    cost
        Ground cost by which cells are paired, instead of the half squared distance: a name in
        :data:`cellflow.costs.COSTS` such as ``"cosine"`` or ``"spectral"``, or as in
        :func:`cellflow.costs.as_cost`.
    network
        Instead of the method's: a name in :data:`cellflow.networks.NETWORKS`, ``"auto"`` for one of
        the size that :func:`cellflow.networks.suggested` says, or networks as a method takes them.
        A method that is chosen by ``"auto"`` is chosen with the networks of its candidates.
    steps
        Budget of training steps; 3000 when omitted, or what is suggested with ``network="auto"``.
    whiten
        Scale each dimension to unit standard deviation for training.
    mass_key
        Column of ``obs`` with a positive mass for each cell. Only their ratios matter but for
        the methods with growth, for which the sum over a time point is the population's size: a
        column of ones where the number of cells is, and without it each time point has the same.
    growth_key
        Column of ``obs`` with what is known beforehand of each cell's growth rate per unit of
        time, for the methods with growth; see :func:`cellflow.pp.growth_rates`.
    label_key
        Column of ``obs`` with a label that predicted cells inherit from their origin; not that
        of times, and not ``"mass"``, which predicted cells have as well.
    condition_key
        Column or columns of ``obs`` with the condition of each cell: a drug, a dose, a donor. One
        flow learns all of them, and predicts others: combinations, doses. Numbers are taken as
        such, all else as categories, of which ``"A+B"`` is a set. Cells are coupled within their
        condition only.
    covariates
        What columns hold where their values do not say it: ``{"dose": "log"}`` numbers by their
        logarithm, ``"linear"`` numbers, ``"categories"``; ``"doses"`` texts as ``"A:1+B:0.3"``; the
        name of another column with the doses of the levels; or features of each level, so that
        levels that no cell had can be predicted: a key of ``uns``, a mapping or a frame.
    control
        Condition of the cells that others start from where they have none of their own: a value
        of the first column, or values by column.
    across
        Columns that couplings cross: cells that differ in these alone may be paired.
    nuisance
        Columns that predictions need not tell, such as a donor or a batch.
    reference
        Key of ``obsm`` with the velocity of each cell for ``"curly"``, such as
        ``"velocity_pca"``: in the coordinates of `use_rep`, per unit of time. RNA velocity is in a
        unit of its own, so scale it.
    time_map
        Time of each label, where labels do not say it themselves.
    missing
        ``"error"`` or ``"drop"``, for cells without a time.
    unit
        Unit of time of the fit and its answers, such as ``"hour"``. Labels are converted to it,
        plain numbers are in it. When omitted, that of the labels, or the one that the name of a
        column of plain numbers says (``"hour"``, ``"day"``), else days.
    rng
        Seed or generator; it decides everything that is random.
    device, dtype
        Where, and in which floating type, to train; the CPU and that of the data when omitted.
    checkpoint
        File to write while training, and to resume from if it exists; of several members, each
        has one beside it.
    members
        How many times to fit, each with a seed of its own: with 8, the other functions of
        :mod:`cellflow.tl` say how sure their answers are.
    bootstrap
        Whether each member is trained on cells drawn with replacement, so that its answers vary
        with the sampling of cells too, not with the training alone.
    workers
        Processes for the members and the fits of a choice, each with one thread; as many as there
        are cores when omitted.
    devices
        Processes that train one fit together on this machine, one for each GPU or part of the
        cores: see :func:`cellflow.several.fit_on`. Under ``torchrun`` leave it out: all processes
        take part, or share the members, and get the same.
    progress
        Whether to tell the table of times and the device, and to show a progress bar, on standard
        error; by default as ``cf.settings.verbosity`` says.
    on_step
        Called with a :class:`~cellflow.training.StepReport` after every step, for a logger.
        Several members are then fitted one after the other, since they report to this process.

    Returns
    -------
    Fit or Ensemble
        Learned dynamics in the coordinates of `use_rep`, an ensemble of them for several
        `members`; give it to the other functions of :mod:`cellflow.tl`, or save it.

    Raises
    ------
    FloatingPointError
        If training diverges.
    """
    keys = Reading(time_key, use_rep, n_dims, whiten, mass_key=mass_key, growth_key=growth_key)
    keys = replace(keys, label_key=label_key, time_map=time_map, missing=missing, unit=unit)
    told = ConditionKeys(condition_key, covariates, control, across, nuisance)
    keys = replace(keys, reference=reference, conditions=told)
    recipe = _reading.resolve_method(method, cost=cost)
    group = _join(devices, device, members=members, bootstrap=bootstrap)
    progress = shown(progress) and group.is_main
    cells, n_components, prep, facts = _read(adata, keys, show=progress)
    found = suggested(cells, n_components) if network == "auto" else None
    options = FitOptions(
        steps=(found.steps if found else Method.default_steps) if steps is None else steps,
        generator=_checks.as_generator(rng, "rng"),
        device=device,
        dtype=dtype,
        checkpointing=Checkpointing(checkpoint),
        progress=progress,
        on_step=on_step,
        group=group,
    )
    recipe, choice = _chosen(recipe, cells, keys, n_components, options=options, workers=workers)
    recipe = recipe if network is None else with_network(recipe, found or network)
    fit_all = _fitter(devices, members=members, bootstrap=bootstrap, workers=workers)
    out = fit_all(recipe, cells, options, preprocessing=prep)
    for one in out if isinstance(out, Ensemble) else (out,):
        one.origin.update(facts | choice | ({"seed": rng} if isinstance(rng, int) else {}))
    return out


def _join(
    devices: int | None, device: torch.device | str | None, *, members: int, bootstrap: bool
) -> ProcessGroup:
    """Return the processes that fit together, once they and the members agree."""
    group = join_process_group(devices, kind=_checks.as_device(device, torch.device("cpu")).type)
    if _checks.count(members, "members") == 1 and bootstrap:
        raise ValueError(_checks.message("bootstrap", "True for one fit", "several `members`"))
    if members > 1 and devices not in (None, 1, group.world):
        expected = "1 from here for several members, which share processes by `workers`"
        remedy = "Or start the script with torchrun."
        raise ValueError(_checks.message("devices", devices, expected, remedy))
    return group


def _fitter(
    devices: int | None, *, members: int, bootstrap: bool, workers: int | None
) -> Callable[..., Fit | Ensemble]:
    """Return what fits a method to a course with these options."""
    if members == 1:
        return partial(fit_on, devices=devices)
    return partial(fit_members, members=members, bootstrap=bootstrap, workers=workers)


def _chosen(
    recipe: Method,
    course: TimeCourse,
    keys: Reading,
    n_components: int | None,
    *,
    options: FitOptions,
    workers: int | None,
) -> tuple[Method, dict[str, str]]:
    """Return the method to fit, and the reason as a fact where it had to be chosen."""
    _reading.check_reference([recipe], keys.reference)
    if keys.growth_key is not None:
        _reading.warn_of_unused_growth([recipe])
    if not isinstance(recipe, Chooser):
        return recipe, {}
    method, reason = recipe.chosen(
        course,
        HoldoutProtocol(n_components=n_components, whiten=keys.whiten),
        steps=options.steps,
        workers=workers,
        progress=options.progress,
        ranks=options.group,
    )
    say(reason, show=options.progress)
    return method, {"choice": reason}


def _read(
    adata: AnnData, keys: Reading, *, show: bool
) -> tuple[TimeCourse, int | None, Preprocessing | None, dict[str, Any]]:
    """Return the course, how many components to fit, these, and facts that predictions need.

    Its index is not kept: of millions of cells, it is a sixth of what they take.
    """
    cells, index, n_components = _reading.read_course(adata, keys, show=show)
    facts = _reading.origin_of(adata, keys, cells, index)
    if adata.n_vars and "no_genes" in facts:
        say(f"answers stay without genes: {facts['no_genes']}", show=show)
    prep = _reading.preprocessing_of([s.x for s in cells.snapshots], n_components, keys.whiten)
    return cells, n_components, prep, facts
