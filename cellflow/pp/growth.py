"""Prior growth rates, from scores of proliferation and apoptosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cellflow import _checks
from cellflow._typing import Rng
from cellflow.pp.access import checked, numbers_of, take
from cellflow.pp.times import SECONDS, listed

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class RateCurve:
    r"""A rate per day as a logistic function of a score.

    .. math:: r(s) = \text{low} + \frac{\text{high} - \text{low}}
              {1 + \exp(-4 (s - \text{centre}) / \text{width})}

    as in Waddington-OT (Schiebinger et al. 2019, methods, "Estimating growth and death rates"). At
    the `centre` the rate is half-way, and over the `width`, a positive range of scores, the tangent
    there would climb from `low` to `high`: rates far below and far above, per day, not negative.
    """

    centre: float
    width: float
    low: float = 0.3
    high: float = 1.7

    def __post_init__(self) -> None:
        _checks.number(self.centre, "centre")
        _checks.number(self.width, "width", low=0.0, open_low=True)
        _checks.number(self.low, "low", low=0.0)
        _checks.number(self.high, "high", low=self.low)

    def __call__(self, score: np.ndarray) -> np.ndarray:
        """Rate of each `score`, per day."""
        slope = 4.0 * (np.asarray(score, dtype=float) - self.centre) / self.width
        return self.low + (self.high - self.low) * 0.5 * (1.0 + np.tanh(0.5 * slope))


#: Divisions and deaths: half-way at scores of 0.25 and 0.1.
BIRTH, DEATH = RateCurve(centre=0.25, width=0.5), RateCurve(centre=0.1, width=0.2)


def growth_rates(
    adata: AnnData,
    *,
    proliferation: str | Sequence[str],
    apoptosis: str | Sequence[str] | None = None,
    key_added: str = "growth_rate",
    birth: RateCurve = BIRTH,
    death: RateCurve = DEATH,
    unit: str = "day",
    missing: str = "error",
    layer: str | None = None,
    rng: Rng = 0,
) -> None:
    """Write a prior growth rate for each cell: births less deaths per unit of time.

    Scores of proliferation and apoptosis become birth and death rates through logistic functions,
    as in Waddington-OT (Schiebinger et al. 2019), whose constants are the defaults: between 0.3
    and 1.7 per day. They suit scores of log-normalised expression in cells of a fast culture; for
    others give `birth` and `death` curves of your own. The result is a ``growth_key`` of
    :func:`cellflow.tl.fit`, where only differences between cells of one time point count: how much
    the population grows as a whole is told by masses.

    It writes ``obs[key_added]``; where genes were given, ``obs[f"{key_added}_proliferation"]`` and
    ``obs[f"{key_added}_apoptosis"]``, their scores; and ``uns[key_added]``, the curves, the unit
    and the genes. All of it, or nothing if there is an error.

    Parameters
    ----------
    adata
        Cells; expression should be normalised and logarithmic where genes are given.
    proliferation, apoptosis
        Names of genes, scored by :func:`scanpy.tl.score_genes` (mean expression less that of random
        genes of similar expression); or one column of ``obs`` with scores. Without `apoptosis`
        every cell dies at the rate ``death.low``.
    key_added
        Column of ``obs`` for the rates.
    birth, death
        From scores to rates per day.
    unit
        Unit of time of the course, in which rates are written: ``"day"``, ``"hour"``, …, as in
        :func:`parse_times`.
    missing, layer
        ``"error"``, or ``"drop"`` to do without genes that are not in ``var_names``; and the layer
        with the expression, ``X`` when omitted.
    rng
        Seed or generator of the choice of random genes. Scanpy seeds numpy's global generator
        with a number drawn from it; the state from before is put back.

    Examples
    --------
    >>> from cellflow import datasets, pp
    >>> cells = datasets.embryoid()
    >>> cells.obs["cycling"] = 0.25
    >>> pp.growth_rates(cells, proliferation="cycling")
    >>> float(cells.obs["growth_rate"].iloc[0])  # half-way between 0.3 and 1.7, less 0.3 per day
    0.7
    """
    _checks.key(key_added, "key_added")
    _checks.choice(missing, ("error", "drop"), "missing")
    days = SECONDS["day"] / SECONDS[_checks.choice(unit, SECONDS, "unit")]
    generator = _checks.as_generator(rng, "rng")
    written: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {"unit": f"per {unit}"}
    rate = -np.full(adata.n_obs, death.low)
    sources = [("proliferation", proliferation, birth, 1.0)]
    if apoptosis is not None:
        rate[:] = 0.0
        sources.append(("apoptosis", apoptosis, death, -1.0))
    for name, given, curve, sign in sources:
        if isinstance(given, str):
            score, facts[name] = _column(adata, given, name), given
        else:
            score, facts[name] = _score(
                adata, given, name=name, missing=missing, layer=layer, generator=generator
            )
            written[f"{key_added}_{name}"] = score
        rate += sign * curve(score)
        facts[f"{name}_curve"] = [curve.centre, curve.width, curve.low, curve.high]
    written[key_added] = rate / days
    for key, values in written.items():
        adata.obs[key] = values
    adata.uns[key_added] = facts


def _column(adata: AnnData, key: str, name: str) -> np.ndarray:
    """Return a column of ``obs`` with scores, shape (n,)."""
    if key not in adata.obs.columns and key in adata.var_names:
        remedy = f"A single gene is a list: {name}=[{key!r}]."
        raise ValueError(_checks.message(name, f"{key!r}, a gene", "a column of obs", remedy))
    score = numbers_of(adata, key, name)
    bad = ~np.isfinite(score)
    if bad.any():
        got = f"{int(bad.sum())} cells without a score (first: {adata.obs_names[bad][0]!r})"
        raise ValueError(_checks.message(f"obs[{key!r}]", got, "a number in every cell"))
    return score


def _score(
    adata: AnnData,
    genes: Sequence[str],
    *,
    name: str,
    missing: str,
    layer: str | None,
    generator: torch.Generator,
) -> tuple[np.ndarray, list[str]]:
    """Return the score of each cell, shape (n,), and the genes that it is made of."""
    import scanpy as sc
    from anndata import AnnData

    used = _present(list(map(str, _checks.several(genes, name))), adata, name=name, missing=missing)
    if layer is not None:
        _checks.choice(layer, list(adata.layers.keys()), "layer")
    expression = adata.X if layer is None else adata.layers[layer]
    if expression is None:
        raise ValueError(_checks.message(name, "genes, but no expression", "an AnnData with X"))
    expression = checked(expression, layer or "X")
    expression = take(expression, slice(None)) if adata.isbacked else expression
    # A frame of its own for the answer: nothing is written before everything is known.
    aside = AnnData(X=expression, obs=adata.obs[[]].copy(), var=adata.var[[]].copy())
    seed = int(torch.randint(2**32, (), generator=generator, device=generator.device))
    state = np.random.get_state()  # noqa: NPY002 - scanpy knows no other generator
    try:
        sc.tl.score_genes(aside, used, score_name="score", random_state=seed, use_raw=False)
    except RuntimeError as error:
        got = f"{len(used)} of {adata.n_vars} genes, which leave none to compare with"
        remedy = "Score on all genes, or pass a column of obs."
        raise ValueError(_checks.message(name, got, "more genes besides", remedy)) from error
    finally:
        np.random.set_state(state)  # noqa: NPY002 - as above
    score = aside.obs["score"].to_numpy(dtype=float)
    if not np.isfinite(score).all():
        got = f"no finite score in {int((~np.isfinite(score)).sum())} cells"
        raise ValueError(_checks.message(name, got, "finite expression of these genes"))
    return score, used


def _present(genes: list[str], adata: AnnData, *, name: str, missing: str) -> list[str]:
    """Return the genes that are there, once each."""
    genes = list(dict.fromkeys(genes))
    known = set(adata.var_names)
    absent = [gene for gene in genes if gene not in known]
    if not genes or len(absent) == len(genes) or (absent and missing == "error"):
        got = f"no genes {listed(absent)} in the data" if absent else "no genes"
        spelled = {gene.upper(): gene for gene in known}
        near = [spelled[gene.upper()] for gene in absent if gene.upper() in spelled]
        remedy = "Pass missing='drop' to do without them." if len(absent) < len(genes) else ""
        if near:
            remedy = f"The data have {near[0]!r}: names differ between human and mouse."
        raise ValueError(_checks.message(name, got, "names in adata.var_names", remedy))
    return [gene for gene in genes if gene in known]
