"""Cells as coloured dots: by time, by a number or a gene, or by a category."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, Normalize, is_color_like, to_rgba_array
from matplotlib.lines import Line2D

from cellflow import _checks
from cellflow.pl import _frame
from cellflow.pp import TimeTable, parse_times
from cellflow.pp.access import checked, column_of, on_disk, row_chunks, take
from cellflow.tl.fates import OTHER
from cellflow.tl.projection import embedding

#: Colours of categories: the name of a colour map, a colour for each, or a colour by name.
Palette = str | Sequence[Any] | Mapping[Any, Any]


@dataclass(frozen=True, eq=False)
class Numbers:
    """A number for each cell, NaN where unknown, and the colours of the scale."""

    name: str
    values: np.ndarray
    norm: Normalize
    cmap: Colormap
    #: Inches below the axes: a colour bar stands beside them.
    height: ClassVar[float] = 0.0

    def draw(self, ax: Axes, xy: np.ndarray, **options) -> None:
        """Draw cells, the highest above; those without a number are grey and below."""
        known = np.isfinite(self.values)
        options = {"s": dot_size(len(xy)), "zorder": 1} | options
        _draw_unknown(ax, xy[~known], **options)
        order = np.flatnonzero(known)[np.argsort(self.values[known], kind="stable")]
        draw(ax, xy[order], c=self.values[order], cmap=self.cmap, norm=self.norm, **options)

    def explain(self, ax: Axes) -> None:
        """Add the colour bar."""
        _frame.colorbar(ax, self.norm, self.name, cmap=self.cmap)


@dataclass(frozen=True, eq=False)
class Categories:
    """A category for each cell, by its number, −1 where unknown, and the colour of each."""

    name: str
    codes: np.ndarray
    labels: tuple[Any, ...]
    colors: np.ndarray

    def draw(self, ax: Axes, xy: np.ndarray, **options) -> None:
        """Draw cells in their own order, so that none hides another; the unknown are below."""
        known = self.codes >= 0
        options = {"s": dot_size(len(xy)), "zorder": 1} | options
        _draw_unknown(ax, xy[~known], **options)
        draw(ax, xy[known], color=self.colors[self.codes[known]], **options)

    @property
    def height(self) -> float:
        """Inches that the legend takes."""
        return _frame.legend_height(len(self._entries()))

    def explain(self, ax: Axes) -> None:
        """Add the legend, with an entry for cells without a category if there are any."""
        handles = [
            Line2D([], [], marker="o", ls="", ms=4, color=color, label=label)
            for label, color in self._entries()
        ]
        _frame.legend_below(ax, handles=handles, title=self.name, title_fontsize=_frame.SMALL)

    def _entries(self) -> list[tuple[str, Any]]:
        unknown = [("NA", _frame.GREY)] if (self.codes < 0).any() else []
        return [*zip(map(str, self.labels), self.colors, strict=True), *unknown]


Coloring = Numbers | Categories


def written(adata: AnnData, where: str, key: str, *, call: str) -> Any:
    """Return what a `call` of :mod:`cellflow.tl` wrote into ``obs``, ``obsm`` or ``uns``."""
    if key not in getattr(adata, where):
        got, remedy = f"{where} without {key!r}", f"Run cellflow.tl.{call} first."
        raise ValueError(_checks.message("adata", got, f"{where}[{key!r}]", remedy))
    return getattr(adata, where)[key]


def chosen(groups: str | Sequence[str] | None, known: Sequence[str], name: str) -> list[str]:
    """Return the `groups` asked for, all the `known` ones when omitted; `name` is theirs."""
    wanted = [groups] if isinstance(groups, str) else known if groups is None else groups
    wanted = _checks.several(wanted, name)
    if not wanted:
        raise ValueError(_checks.message(name, "none", f"some of {', '.join(known)}"))
    return [_checks.choice(str(group), known, name) for group in wanted]


def draw_map(
    ax: Axes,
    adata: AnnData,
    numbers: Numbers,
    *,
    basis: str,
    dims: tuple[int, int] = (0, 1),
    size: float | None = None,
    title: str | None = None,
) -> None:
    """Draw numbers over the cells of an embedding, with their colour bar."""
    xy = embedding(adata, basis, dims=dims)
    numbers.draw(ax, xy, s=dot_size(len(xy), size))
    numbers.explain(ax)
    _frame.dress_embedding(ax, basis, dims, title=title)


def read_times(
    adata: AnnData, time_key: str, time_map: Mapping[Hashable, float] | None = None
) -> tuple[np.ndarray, TimeTable]:
    """Return the time of each cell, NaN where unknown, and the table of times."""
    column = column_of(adata, time_key, "time_key")
    table = parse_times(column, time_map=time_map, missing="drop", name=f"obs[{time_key!r}]")
    values = np.full(adata.n_obs, np.nan)
    values[table.kept] = table.cell_times
    return values, table


def time_coloring(values: np.ndarray, table: TimeTable) -> Numbers:
    """Return what colours cells by their times, as :func:`read_times` answers them."""
    norm = Normalize(table.times[0], table.times[-1])
    return Numbers(_frame.plural(table.unit), values, norm, _frame.TIME_COLORS)


def color_of(adata: AnnData, color: str, palette: Palette | None = None) -> Coloring:
    """Return what colours cells by a column of ``obs`` or by a gene.

    Categories have the colours of `palette`, else those of ``uns["<color>_colors"]`` if there is
    one for each, else those of :func:`category_colors`; numbers have the colour map `palette`.
    """
    column = column_or_gene(adata, color)
    name = str(column.name)
    if column.dtype.kind not in "fiu":
        return _categories(adata, column.astype("category"), palette)
    if palette is not None and not isinstance(palette, str):
        got = f"{type(palette).__name__} with `color={color!r}`, which is numbers"
        raise ValueError(_checks.message("palette", got, "the name of a colour map"))
    values = column.to_numpy(dtype=float, na_value=np.nan)
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
    cmap = _frame.TIME_COLORS if palette is None else _colormap(palette)
    return Numbers(name, values, Normalize(low, high if high > low else low + 1), cmap)


def label_colors(adata: AnnData, key: str, palette: Palette | None = None) -> dict[str, Any]:
    """Return the colour of each label of a column of ``obs``, which may be numbers."""
    found = _categories(adata, column_of(adata, key, "label_key").astype("category"), palette)
    return dict(zip(map(str, found.labels), found.colors, strict=True))


def named_colors(
    adata: AnnData, labels: Sequence[str], key: str | None, palette: Palette | None = None
) -> dict[str, Any]:
    """Return the colours of `labels` in the order of a column of ``obs``, ``"other"`` in grey.

    Without a `key` they are told apart by their order.
    """
    if key is None:
        return dict(zip(labels, colors_of(tuple(labels), palette), strict=True))
    colors = label_colors(adata, key, palette)
    colors.setdefault(OTHER, to_rgba_array(_frame.GREY)[0])
    for label in labels:
        if label not in colors:
            got, remedy = f"{key!r} without {label!r}", "Run the tool again."
            raise ValueError(_checks.message("label_key", got, "the column of the table", remedy))
    return {label: color for label, color in colors.items() if label in labels}


def column_or_gene(adata: AnnData, color: str) -> pd.Series:
    """Return a column of ``obs``, else a gene, of ``raw`` where it is in there, as scanpy does."""
    if color in adata.obs.columns:
        return column_of(adata, color, "color")
    raw = adata.raw is not None and color in adata.raw.var_names
    part = adata.raw if raw else adata
    if color not in part.var_names:
        _checks.choice(color, {*map(str, adata.obs.columns), *adata.var_names}, "color")
    (found,) = np.nonzero(part.var_names == color)
    if len(found) > 1:
        got, remedy = f"{color!r}, the name of {len(found)} genes", "Call var_names_make_unique()."
        raise ValueError(_checks.message("color", got, "a name that only one has", remedy))
    stored = checked(part.X, "raw" if raw else "X")
    if on_disk(stored) and getattr(stored, "format", None) == "csr":  # by columns, scipy trusts it
        parts = [part[:, found].toarray() for _, part in row_chunks(stored, memory=2**28, name="X")]
        values = np.concatenate(parts)
    else:  # in a file, anndata reads raw whole, and does not subset it
        values = take(stored[:, found] if raw else part[:, found].X, slice(None))
        values = checked(values, "X").toarray() if hasattr(values, "toarray") else values
    return pd.Series(np.ravel(np.asarray(values, dtype=float)), adata.obs_names, name=color)


def category_colors(n: int, *, ordered: bool = False) -> list:
    """Return `n` colours, all different: steps of the sequential map if `ordered`.

    Up to six are told apart by the colour-blind; more are scanpy's.
    """
    if ordered:
        return list(_frame.TIME_COLORS(np.linspace(0, 1, n)))
    if n <= len(_frame.PALETTE):
        return list(_frame.PALETTE[:n])
    from scanpy.plotting import palettes

    for known in (palettes.default_20, palettes.default_28, palettes.default_102):
        if n <= len(known):
            return list(known[:n])
    return list(colormaps["hsv"](np.linspace(0, 1, n, endpoint=False)))


def _categories(adata: AnnData, column: pd.Series, palette: Palette | None) -> Categories:
    """Return what colours cells by a categorical column of ``obs``."""
    labels, stored = tuple(column.cat.categories), adata.uns.get(f"{column.name}_colors")
    colors = colors_of(labels, palette, stored, ordered=bool(column.cat.ordered))
    return Categories(str(column.name), column.cat.codes.to_numpy(), labels, colors)


def colors_of(
    labels: tuple[Any, ...], palette: Palette | None, stored: Any = None, *, ordered: bool = False
) -> np.ndarray:
    """Colour of each of `labels`, shape (k, 4): of `palette`, else `stored` if it fits."""
    n = len(labels)
    if palette is None:
        known = (_listed(labels, stored) or [])[:n]
        fits = len(known) == n and all(map(is_color_like, known))
        return to_rgba_array(known if fits else category_colors(n, ordered=ordered))
    if isinstance(palette, str):
        cmap = _colormap(palette)
        steps = isinstance(cmap, ListedColormap) and n <= cmap.N < 256  # a list of categories
        return np.reshape(cmap(np.arange(n) if steps else np.linspace(0, 1, n)), (n, 4))
    listed = _listed(labels, palette)
    if listed is None or len(listed) < n:
        missing = [x for x in labels if isinstance(palette, Mapping) and x not in palette]
        got = f"no colour for {missing[0]!r}" if missing else f"{len(palette)} colours"
        expected = f"a colour for each of the {n} categories"
        raise ValueError(_checks.message("palette", got, expected))
    wrong = [c for c in listed[:n] if not is_color_like(c)]
    if wrong:
        raise ValueError(_checks.message("palette", repr(wrong[0]), "colours of matplotlib"))
    return to_rgba_array(listed[:n])


def _listed(labels: tuple[Any, ...], colors: Any) -> list | None:
    """Return `colors` in the order of `labels`; None if there are none or some has none."""
    if isinstance(colors, Mapping):
        return [colors[x] for x in labels] if all(x in colors for x in labels) else None
    return None if colors is None or isinstance(colors, str) else _checks.several(colors, "palette")


def _colormap(name: str) -> Colormap:
    return colormaps[_checks.choice(name, list(colormaps), "palette")]


def dot_size(n: int, size: float | None = None) -> float:
    """Area of a dot in points²: `size`, or the smaller the more there are."""
    if size is not None:
        return _checks.number(size, "size", low=0.0, open_low=True)
    return float(np.clip(8000 / max(n, 1), 0.5, 8))


def draw(ax: Axes, xy: np.ndarray, **options) -> None:
    """Draw dots as pixels, so that a vector file stays small."""
    options = {"s": dot_size(len(xy)), "linewidths": 0, "rasterized": True} | options
    ax.scatter(xy[:, 0], xy[:, 1], **options)


def _draw_unknown(ax: Axes, xy: np.ndarray, **options) -> None:
    """Draw dots in grey, below those of the same options."""
    if len(xy):
        draw(ax, xy, **options | {"color": _frame.GREY, "zorder": options["zorder"] - 0.5})
