"""Published files that a user has on disk: known by checksum, read into AnnData.

Nothing is downloaded. A file is known by its SHA-256 alone, so its name on disk does not matter;
one that is not known is read as well, and results say so.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellflow import _checks
from cellflow.datasets.embryoid import EMBRYOID_WINDOWS
from cellflow.datasets.published import CITESEQ_FILE, EMBRYOID_FILE, MULTIOME_FILE

if TYPE_CHECKING:
    from anndata import AnnData

_MENDELEY = "Mendeley Data, data set hhny5ff7yj (doi:10.17632/hhny5ff7yj)"
_SIBLING = "github.com/ngushchin/LightSB at 70aa4ee, data/full_cite_pcas_100_day_*.npy, as one .npz"


@dataclass(frozen=True)
class PublishedFile:
    """One known file of a data set of the OT-CFM paper."""

    dataset: str
    file_name: str  # under which it was published
    sha256: str
    source: str  # where to get it
    note: str  # for readers of results
    #: Cells and their times: arrays of an ``.npz``, or ``obsm`` and ``obs`` keys of an ``.h5ad``.
    keys: tuple[str, str] = ("X_pca", "day")
    #: Sampling windows in days, if the file stores 0, 1, 2, … instead of days.
    windows: tuple[tuple[int, int], ...] | None = None


KNOWN_FILES = (
    PublishedFile(
        "cite",
        CITESEQ_FILE.name,
        CITESEQ_FILE.sha256,
        _MENDELEY,
        "The OT-CFM paper's own CITE-seq file.",
    ),
    PublishedFile(
        "cite",
        "cite13176_pca100.npz",
        "4e55d95ac09e407d4faeea7eb385533471b5e4e50a9fd2eba8438ea794690f9d",
        _SIBLING,
        "29,394 cells of a sibling donor of the paper's 31,240: a twin of its file, not the "
        "same cells.",
        ("X", "t"),
    ),
    PublishedFile(
        "eb",
        EMBRYOID_FILE.name,
        EMBRYOID_FILE.sha256,
        "github.com/KrishnaswamyLab/TrajectoryNet, data/eb_velocity_v5.npz",
        "The OT-CFM paper's own embryoid-body file.",
        ("pcs", "sample_labels"),
        EMBRYOID_WINDOWS,
    ),
    PublishedFile(
        "eb",
        "eb_sub2750_pca100.npz",
        "9cbaeb77bc9da28802b41c0a6b78ec783ad5112ea0c95547c8a83901a873a7ec",
        "bundled: cellflow/datasets/embryoid.npz",
        "2,750 of the paper's 16,819 cells: too few for its published distances to compare with.",
        ("X", "t"),
        EMBRYOID_WINDOWS,
    ),
    PublishedFile(
        "multi",
        MULTIOME_FILE.name,
        MULTIOME_FILE.sha256,
        _MENDELEY,
        "The OT-CFM paper's own Multiome file.",
    ),
)


def load_paper_dataset(name: str, path: str | Path) -> tuple[AnnData, str]:
    """Load one of the OT-CFM paper's data sets from a file that you have, or a file of your own.

    Names are those of the single-cell table of Tong et al. (2024), Improving and generalizing
    flow-based generative models, TMLR. The file is the paper's, or a smaller public relative of
    it, under any file name; only times and principal components are read. A file of your own holds
    what one of those holds. Returns cells with ``obs["day"]`` and ``obsm["X_pca"]``, and what a
    reader of results must know about the file.
    """
    _checks.choice(name, {file.dataset for file in KNOWN_FILES}, "dataset")
    candidates = [file for file in KNOWN_FILES if file.dataset == name]
    wanted = "; or ".join(f"{f.file_name} (sha256 {f.sha256}) from {f.source}" for f in candidates)
    got = _sha256(path, wanted)
    file = next((file for file in candidates if file.sha256 == got), None)
    if file is None:
        other = next((file for file in KNOWN_FILES if file.sha256 == got), None)
        if other is None:
            return _own(path, got)
        remedy = f"This file belongs to data set {other.dataset!r}."
        raise ValueError(_checks.message("path", f"{path} with sha256 {got}", wanted, remedy))
    if file.file_name.endswith(".npz"):
        days = None if file.windows is None else [sum(window) / 2 for window in file.windows]
        x, time = _read_npz(path, file.keys)
        adata = _as_anndata(x, time if days is None else np.asarray(days)[time.astype(int)])
    else:
        adata = _as_anndata(*_read_h5ad(path, file.keys))
    adata.uns["sources"] = {"files": f"{file.file_name}, {file.source}", "note": file.note}
    return adata, file.note


def _own(path: str | Path, sha256: str) -> tuple[AnnData, str]:
    """Read a file that is none of the published ones, with times as it has them."""
    import h5py

    if zipfile.is_zipfile(path):
        with np.load(path, allow_pickle=False) as stored:
            held = set(stored.files)
        known = [f.keys for f in KNOWN_FILES if f.file_name.endswith(".npz")]
        cells = _read_npz(path, next((keys for keys in known if set(keys) <= held), known[0]))
    elif h5py.is_hdf5(path):
        cells = _read_h5ad(path, ("X_pca", "day"))
    else:
        raise ValueError(_checks.message("path", path, "an .npz or .h5ad file"))
    note = f"a file of your own, {Path(path).name} with sha256 {sha256}, which is none of the "
    return _as_anndata(*cells), note + "published ones: their figures are of other cells."


def _sha256(path: str | Path, wanted: str) -> str:
    """Return the SHA-256 of a file, read piecewise; `wanted` says what was expected there."""
    if not Path(path).is_file():
        raise FileNotFoundError(_checks.message("path", f"no file at {path}", wanted))
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_npz(path: str | Path, keys: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Return cells and times stored in an ``.npz`` without unpickling anything."""
    try:
        stored = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ValueError(_checks.message("path", path, "a readable .npz file")) from error
    if not isinstance(stored, np.lib.npyio.NpzFile):
        raise ValueError(_checks.message("path", f"a single array in {path}", "an .npz file"))
    with stored:
        for key in keys:
            if key not in stored:
                have = ", ".join(map(repr, stored.files))
                raise KeyError(_checks.message("path", f"arrays {have}", f"an array {key!r}"))
        return stored[keys[0]], stored[keys[1]]


def _read_h5ad(path: str | Path, keys: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Return a representation and a time column of an ``.h5ad``, leaving its expression unread."""
    import h5py
    from anndata.io import read_elem

    rep, time_key = keys
    with h5py.File(path, "r") as stored:
        if f"obsm/{rep}" not in stored or "obs" not in stored:
            raise KeyError(_checks.message("path", f"{path}", f"obsm[{rep!r}] and obs"))
        obs = read_elem(stored["obs"])
        x = stored[f"obsm/{rep}"][:]
    if time_key not in obs:
        raise KeyError(_checks.message("path", f"obs columns {list(obs)}", f"obs[{time_key!r}]"))
    return x, np.asarray(obs[time_key])


def _as_anndata(x: np.ndarray, day: np.ndarray) -> AnnData:
    """Wrap cells (n, d) and their days (n,) in an AnnData without expression."""
    import pandas as pd
    from anndata import AnnData

    if x.ndim != 2 or day.shape != x.shape[:1]:
        got = f"cells of shape {x.shape} and times of shape {day.shape}"
        raise ValueError(_checks.message("path", got, "(n, d) cells and (n,) times"))
    try:
        day = day.astype(float)
    except ValueError as error:
        raise ValueError(_checks.message("path", f"times {error}", "numbers, in days")) from error
    names = [f"cell-{row}" for row in range(len(day))]
    obs = pd.DataFrame({"day": day}, index=names)
    return AnnData(obs=obs, obsm={"X_pca": x})
