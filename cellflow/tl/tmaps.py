"""Couplings as files and objects that trajectory tools read."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING

from cellflow import _checks
from cellflow._files import whole_file

if TYPE_CHECKING:
    from anndata import AnnData

    from cellflow.tl.coupled import Coupled


def tmaps(coupled: Coupled) -> dict[tuple[Hashable, Hashable], AnnData]:
    """Return the plans of `coupled` as :meth:`cellflow.tl.Coupled.tmaps` says."""
    import pandas as pd
    from anndata import AnnData

    keys, out = [_label(coupled, k) for k in range(len(coupled.labels))], {}
    for k, plan in enumerate(coupled.transitions.plans):
        start, end = coupled.transitions.times[k : k + 2]
        forward = coupled.transitions.matrix(start, end)
        ends = forward.multiply(plan.row_mass.cpu().numpy()[:, None]).tocsr()
        names = (coupled.index.obs_names[j].astype(str) for j in (k, k + 1))
        obs, var = (pd.DataFrame(index=name) for name in names)
        out[keys[k], keys[k + 1]] = AnnData(ends, obs=obs, var=var)
    return out


def save(coupled: Coupled, folder: Path) -> list[Path]:
    """Write the plans of `coupled` to `folder` as :meth:`cellflow.tl.Coupled.save` says."""
    found = tmaps(coupled)
    for label in {label for key in found for label in key}:
        if set("_/\\") & set(str(label)):
            expected, remedy = "labels without '_' and '/'", "Rename them, or use tmaps()."
            raise ValueError(_checks.message("labels", repr(label), expected, remedy))
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for (start, end), tmap in found.items():
        files.append(folder / f"tmaps_{start}_{end}.h5ad")
        with whole_file(files[-1]) as file:
            tmap.write_h5ad(file)
    return files


def _label(coupled: Coupled, k: int) -> Hashable:
    """What the column of times calls time point `k`."""
    if len(coupled.labels[k]) > 1:
        time = coupled.transitions.times[k]
        got = f"{', '.join(map(repr, coupled.labels[k]))} for time {time:g}"
        remedy = "Merge them in the column of times."
        raise ValueError(_checks.message("labels", got, "one label for each time", remedy))
    return coupled.labels[k][0]
