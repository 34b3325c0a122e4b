"""Files of papers, too large to ship: downloaded once, and known by their checksums."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellflow import _checks
from cellflow.datasets.embryoid import EMBRYOID_SOURCES, EMBRYOID_WINDOWS

if TYPE_CHECKING:
    from anndata import AnnData

_MENDELEY = "https://data.mendeley.com/public-files/datasets/hhny5ff7yj/files/{}/file_downloaded"


@dataclass(frozen=True)
class PublishedFile:
    """A file that a paper published: its name, its SHA-256, and where it lies."""

    name: str
    sha256: str
    url: str


EMBRYOID_FILE = PublishedFile(
    "eb_velocity_v5.npz",
    "17623d16dd4fe7b679aad80916d130cb2863a4cd4ee742f139a3c2eed91ba230",
    "https://raw.githubusercontent.com/KrishnaswamyLab/TrajectoryNet/master/data/eb_velocity_v5.npz",
)
CITESEQ_FILE = PublishedFile(
    "op_cite_inputs_0.h5ad",
    "fa1d117df3d6c23e0b80a997a259bcac3a79ad27d581e1a6654e107c39885e4c",
    _MENDELEY.format("1862acf5-6294-4eb1-8644-d1c6d25e4126"),
)
MULTIOME_FILE = PublishedFile(
    "op_train_multi_targets_0.h5ad",
    "a16c28ef861503111bb2f4c6ab6b1d5ed3df07d49eb0baa7378515fc098af4d2",
    _MENDELEY.format("5f4b6e5b-f122-4f5a-8ede-0d188c5cf00c"),
)


def embryoid_full(folder: str | Path | None = None) -> AnnData:
    """Load all 16,819 embryoid-body cells, of which `embryoid` has a subset.

    The file of the OT-CFM paper's and TrajectoryNet's tables (Moon et al. 2019; Tong et al. 2020):
    published distances compare with those on these cells. They have no expression, but
    ``obs["day"]`` and ``obsm["X_pca"]`` (100 components). The file lies in `folder`, or is put
    there, once; pooch's cache by default.

    Raises
    ------
    ImportError, ConnectionError, ValueError
        If it has to be downloaded without pooch, cannot be downloaded, or is another one.
    """
    import pandas as pd
    from anndata import AnnData

    with np.load(_fetch(EMBRYOID_FILE, folder), allow_pickle=False) as stored:
        x, window = stored["pcs"], stored["sample_labels"].astype(int)
    day = np.array(EMBRYOID_WINDOWS).mean(1)[window]
    obs = pd.DataFrame({"day": day}, index=[f"EB-{row}" for row in range(len(day))])
    return AnnData(obs=obs, obsm={"X_pca": x}, uns={"sources": dict(EMBRYOID_SOURCES)})


def citeseq(folder: str | Path | None = None) -> AnnData:
    """Load the CITE-seq time course of the OT-CFM paper: 31,240 blood stem cells, four days.

    Donor 0 of the Open Problems multimodal experiment, as Tong et al. (2024) published it, with
    ``obs["day"]`` (2, 3, 4, 7) and ``obsm["X_pca"]``; with the `folder` and the errors of
    `embryoid_full`.
    """
    from anndata import read_h5ad

    return read_h5ad(_fetch(CITESEQ_FILE, folder))


def multiome(folder: str | Path | None = None) -> AnnData:
    """Load the Multiome time course of the OT-CFM paper: blood stem cells, four days.

    As `citeseq`, with the same `folder`.
    """
    from anndata import read_h5ad

    return read_h5ad(_fetch(MULTIOME_FILE, folder))


def _fetch(file: PublishedFile, folder: str | Path | None) -> Path:
    """Return the path of `file`, downloaded unless it is there already, its checksum verified."""
    try:
        import pooch
    except ImportError as error:
        remedy = "Install it: pip install 'cellflow-sb[datasets]'."
        raise ImportError(f"Published files are downloaded by pooch. {remedy}") from error
    folder = Path(pooch.os_cache("cellflow") if folder is None else folder)
    there = folder / file.name
    if there.exists() and pooch.file_hash(str(there)) != file.sha256:
        remedy = "Move it away, or name another folder."
        got = f"{there}, another file of that name"
        raise ValueError(_checks.message("folder", got, f"sha256 {file.sha256}", remedy))
    try:
        return Path(pooch.retrieve(file.url, file.sha256, file.name, folder, progressbar=False))
    except (OSError, ValueError) as error:
        remedy = f"Download it by hand, as {there}."
        raise ConnectionError(f"{file.url} cannot be downloaded ({error}). {remedy}") from error
