"""From an AnnData to a running fit: memory at a million and at three million cells."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

_STATUS, _MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")

#: Prints processor seconds, bytes held before and at the peak, and how many cells were fitted.
_SCRIPT = """
import json, re, sys, time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch

import cellflow as cf
from cellflow.batches import Batching

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

def cells(n, d):
    rng = np.random.default_rng(0)
    day = rng.integers(0, 4, n)
    obs = pd.DataFrame({"day": pd.Categorical.from_codes(day, ["0", "2", "3", "7"])})
    obs.index = obs.index.astype(str)
    return anndata.AnnData(obs=obs, obsm={"X_pca": rng.standard_normal((n, d), dtype=np.float32)})

def fit(adata):
    method = cf.ICFM(batching=Batching(prefetch=False))
    return cf.tl.fit(adata, time_key="day", method=method, steps=1, progress=False)

torch.set_num_threads(1)
n, d = int(sys.argv[1]), int(sys.argv[2])
fit(cells(1000, d))
adata = cells(n, d)
before, start = peak(), time.process_time()
fitted = sum(map(len, fit(adata).course.snapshots))
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "before": before, "peak": peak(), "cells": fitted}))
"""

needs_proc = pytest.mark.skipif(not _STATUS.exists(), reason="peaks are read from /proc")


def measured(n: int, d: int) -> dict[str, float]:
    """What the script printed, and the bytes that it took beyond the AnnData, per byte of cells."""
    command = [sys.executable, "-c", _SCRIPT, str(n), str(d)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"times": (found["peak"] - found["before"]) / (4 * n * d)}


def available() -> float:
    """Memory that is free, in bytes; 0 where it is not known."""
    if not _MEMINFO.exists():
        return 0.0
    return 1024.0 * int(re.search(r"MemAvailable:\s+(\d+) kB", _MEMINFO.read_text())[1])


@needs_proc
def test_fit_of_a_million_cells_needs_little_more_than_two_copies() -> None:
    """One in the fit, one that is trained on; what does not grow counts here, too."""
    found = measured(1_000_000, 50)
    assert found["cells"] == 1_000_000
    assert found["times"] < 3.5


@needs_proc
@pytest.mark.slow
@pytest.mark.skipif(available() < 4e9, reason="needs 4 GB of free memory")
def test_fit_of_three_million_cells_in_fifty_dimensions() -> None:
    """Measured: 2.4 times the cells beyond the AnnData, also of ten million; a copy is red."""
    found = measured(3_000_000, 50)
    assert found["cells"] == 3_000_000
    assert found["times"] < 2.8
