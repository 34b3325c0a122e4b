"""Sparse matrices whose indices point outside of them: one line in every door, never a signal.

What gives way here ends the process: the cases run in another one.
"""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cli_files import cellflow_

DAMAGES = {
    "column beyond": ("indices", 5, 10**7),
    "column just beyond": ("indices", 5, 20),
    "negative column": ("indices", 5, -3),
    "row beyond": ("indptr", 7, 10**6),
    "rows that turn back": ("indptr", 7, 0),
}
#: What anndata itself does not read into memory, in other lengths or types.
UNREADABLE = {
    "rows that are missing": ("indptr", slice(0, 60), np.int32),
    "values of half precision": ("data", slice(None), np.float16),
}
#: Doors beside the command line, given `adata`: what is damaged, and how it is read.
DOORS = {
    "course of X": ("X", "cf.pp.course(adata, time_key='day', use_rep='X')"),
    "course of obsm": ("obsm/X_s", "cf.pp.course(adata, time_key='day', use_rep='X_s')"),
    "components": ("X", "cf.pp.pca(adata, n_components=2)"),
    "components of some genes": ("X", "cf.pp.pca(adata, n_components=2, genes='some')"),
    "scores of genes": (
        "X",
        "cf.pp.growth_rates(adata, proliferation=list(adata.var_names[:3]),"
        " apoptosis=list(adata.var_names[3:6]))",
    ),
    "trends of a layer": ("layers/l", "cf.tl._genes.expression_of(adata, 'l')"),
    "colour of a gene": ("X", "cf.pl._cells.column_or_gene(adata, 'g1')"),
    "arrays": ("X", "cf.TimeCourse.from_arrays([adata.X, adata.X])"),
    "a plan": ("X", "cf.couplings.Given(adata.X)"),
}


def write(path: Path, where: str, damage: str) -> Path:
    x = sp.random(60, 20, 0.3, format="csr", random_state=0, dtype=np.float32)
    days = pd.DataFrame({"day": np.repeat([0.0, 1.0, 2.0], 20)}, [f"c{k}" for k in range(60)])
    var = pd.DataFrame({"some": [True] * 15 + [False] * 5}, [f"g{k}" for k in range(20)])
    adata = anndata.AnnData(x.copy(), days, var, layers={"l": x.copy()}, obsm={"X_s": x.copy()})
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as stored:
        part, row, value = (DAMAGES | UNREADABLE)[damage]
        if isinstance(row, slice):  # all of it, in another length or type
            whole = stored[where][part][row].astype(value)
            del stored[where][part]
            stored[where][part] = whole
        else:
            stored[where][part][row] = value
    return path


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_fit_at_the_command_line_is_refused_in_one_line(tmp_path) -> None:
    words = []
    for k, (rep, damage) in enumerate(product(("X", "X_s"), DAMAGES | UNREADABLE)):
        file = write(tmp_path / f"{k}.h5ad", "X" if rep == "X" else f"obsm/{rep}", damage)
        line = f"fit {file} --time-key day --use-rep {rep} --steps 3 -q --out {tmp_path}/fit"
        words += [line.split(), [*line.split(), "--dims", "3"]]
    done = python(f"""
from cellflow.cli import main
for words in {words!r}:
    try:
        main(words)
    except SystemExit as end:
        print(end.code)
""")
    assert (done.returncode, done.stdout) == (0, "2\n" * len(words)), done.stderr[-500:]
    lines = done.stderr.splitlines()
    assert len(lines) == len(words)
    assert sum("damaged sparse matrix" in line for line in lines) >= 4 * len(DAMAGES)
    assert not (tmp_path / "fit").exists()


def test_every_door_refuses_it(tmp_path) -> None:
    calls = []
    for where in ("X", "obsm/X_s", "layers/l"):
        for damage in DAMAGES:
            file = write(tmp_path / f"{damage} {where[0]}.h5ad", where, damage)
            for door, (of, call) in DOORS.items():
                memory = [None] if "adata.X" in call else [None, "r"]
                calls += [(door, str(file), backed, call) for backed in memory if of == where]
    done = python(f"""
import anndata, cellflow as cf, cellflow.pl._cells, cellflow.tl._genes
for door, file, backed, call in {calls!r}:
    print(door, file, backed, flush=True)
    adata = anndata.read_h5ad(file, backed=backed)
    try:
        eval(call)
    except ValueError as error:
        assert "damaged sparse matrix" in str(error), error
    else:
        raise AssertionError("accepted")
""")
    assert done.returncode == 0, done.stdout.splitlines()[-1] + done.stderr[-500:]


def test_what_is_not_read_does_not_count(tmp_path) -> None:
    file = write(tmp_path / "a.h5ad", "layers/l", "column beyond")
    words = f"fit {file} --time-key day --use-rep X --dims 3 --steps 3 -q --out {tmp_path}/fit"
    assert cellflow_(*words.split()).exit_code == 0
