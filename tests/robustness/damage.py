"""Damaged files of cells, edited folders of fits, and odd words at the command line."""

from __future__ import annotations

import functools
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import cellflow as cf
from cellflow.cli import main
from robustness.doors import WORLD
from robustness.fuzz import judge

Verdict = tuple[str, str]
#: Commands that read cells, and what else they need.
OF_CELLS = (
    "fit {} --time-key day --steps 2 --out out --quiet",
    "fit {} --time-key day --method sf2m --use-rep X --dims 2 --steps 2 --out out --quiet",
    "couple {} --time-key day --out out --quiet",
    "couple {} --time-key day --use-rep X --label-key label --out out --quiet",
    "holdout {} --time-key day --steps 2 --seeds 2 --csv out --quiet",
    "suggest-sigma {} --time-key day --quiet",
    "velocity FIT {} --out out.h5ad",
    "growth FIT {} --out out.h5ad",
    "composition FIT {} --label-key label --out out.csv --quiet",
    "fates FIT {} --label-key label --n-futures 2 --out out.csv",
    "ancestors FIT {} --label-key label --n-futures 2 --out out.h5ad",
    "perturb FIT {} g0 --label-key label --n-null 3 --n-futures 2 --out out.csv",
)
OF_FITS = (
    "interpolate {} --time 1.5 --out out.h5ad",
    "simulate {} --n-times 3 --out out.zarr --quiet",
    "velocity {} CELLS --out out.h5ad",
    "fates {} CELLS --label-key label --n-futures 2 --out out.csv",
    "composition {} CELLS --label-key label --out out.csv --quiet",
)
WORDS = (
    *("", "x", "-1", "0", "nan", "inf", "-inf", "1e400", "9" * 400, "1e308", "a/b", "../x", "/"),
    *("day 1", "é", "\udcff", "--help", "-", ".", "/dev/null", "/proc/x", "None", "[]", "2", "1.5"),
    *("X", "X_pca", "label", "day", "mass", "g0", "euler", "otcfm", "cpu", "meta", "cuda:9", "64"),
)


@functools.cache
def kept() -> Path:
    """A folder with sound cells and sound fits."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    WORLD.cells.write_h5ad(folder / "cells.h5ad")
    sparse = WORLD.cells.copy()
    import scipy.sparse as sp

    sparse.X = sp.csr_matrix(sparse.X)
    sparse.write_h5ad(folder / "sparse.h5ad")
    for name in ("fit", "bridge", "ensemble"):
        getattr(WORLD, name).save(folder / name)
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def command(line: str) -> Verdict:
    """Run a command; it ends with 0, 1, 2, and says one line if it is not the first."""
    words = line if isinstance(line, list) else line.split()
    sound = {"FIT": str(kept() / "fit"), "CELLS": str(kept() / "cells.h5ad")}
    done = CliRunner().invoke(main, [sound.get(word, word) for word in words])
    error = done.exception
    if error is not None and not isinstance(error, SystemExit):
        if not isinstance(error, Exception):
            raise error
        return "traceback", judge(lambda: (_ for _ in ()).throw(error))[1]
    lines = [k for k in done.stderr.splitlines() if k and not k.startswith("Warning: ")]
    if done.exit_code == 0:
        return "ok", ""
    said = [k for k in lines if k.startswith("Error: ")]
    if done.exit_code not in (1, 2) or len(said) != 1:
        return "unclear exit", f"{done.exit_code} {lines[-3:]}"
    return "refused", said[0]


# --- files of cells --------------------------------------------------------------------------
def _pick(file: h5py.File, rng: random.Random, kind: type = h5py.Dataset) -> str:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, kind) else None)
    return rng.choice(sorted(names))


def _drop(file: h5py.File, rng: random.Random) -> None:
    del file[_pick(file, rng, rng.choice([h5py.Dataset, h5py.Group]))]


def _replaced(file: h5py.File, rng: random.Random) -> None:
    name = _pick(file, rng)
    attrs, old = dict(file[name].attrs), file[name][()]
    del file[name]
    size = np.shape(old)
    options: tuple[Callable[[], Any], ...] = (
        lambda: np.full(size, np.nan),
        lambda: np.full(size, 1e308),
        lambda: np.full(size, -1),
        lambda: np.full(size, 10**9),
        lambda: np.full(size, b"x"),
        lambda: np.full(size, True),
        lambda: np.full(size, 1j),
        lambda: np.zeros(size, np.float16),
        lambda: np.zeros(size, np.int64),
        lambda: np.asarray(old)[:-1] if size else np.zeros(2),
        lambda: np.zeros((*size, 2)),
        lambda: np.zeros(0),
        lambda: 7,
        lambda: "text",
        lambda: np.concatenate([old, old]) if size else [1, 2],
        lambda: np.asarray(old)[::-1] if size else 0,
    )
    made = file.create_dataset(name, data=rng.choice(options)())
    if rng.random() < 0.8:
        for key, value in attrs.items():
            made.attrs[key] = value


def _one_entry(file: h5py.File, rng: random.Random) -> None:
    item = file[_pick(file, rng)]
    if item.shape and item.size and item.dtype.kind in "fiu":
        flat = item[()].reshape(-1)
        low, high = -(2**7) if item.dtype.kind == "i" else 0, 2**7 - 1
        if item.dtype.kind == "f":
            flat[rng.randrange(flat.size)] = rng.choice([np.nan, np.inf, -1, 1e30, 0])
        else:
            flat[rng.randrange(flat.size)] = rng.choice([low, high, 0, 1, 3])
        item[...] = flat.reshape(item.shape)


def _attribute(file: h5py.File, rng: random.Random) -> None:
    item = file[_pick(file, rng, rng.choice([h5py.Dataset, h5py.Group]))]
    for key in rng.sample(sorted(item.attrs), min(1, len(item.attrs))):
        value = rng.choice(["x", 7, "csr_matrix", "csc_matrix", "array", "dict", [1, 1], None])
        del item.attrs[key]
        if value is not None:
            item.attrs[key] = value


HURT = (_drop, _replaced, _replaced, _replaced, _one_entry, _attribute)


def file_case(rng: random.Random) -> tuple[str, Callable[[], Verdict]]:
    """A command on a damaged file of cells."""
    line, name = rng.choice(OF_CELLS), rng.choice(["cells.h5ad", "sparse.h5ad"])
    seed, bytewise = rng.random(), rng.random() < 0.15
    times = rng.choice([1, 1, 1, 2, 4])

    def run() -> Verdict:
        again = random.Random(seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(shutil.copy(kept() / name, folder))
            if bytewise:
                _hurt_bytes(path, again)
            else:
                with h5py.File(path, "r+") as file:
                    for _ in range(times):
                        again.choice(HURT)(file, again)
            return command([str(path) if word == "{}" else word for word in line.split()])

    return f"{line} of a damaged {name}", run


def _hurt_bytes(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        data = data[: rng.randrange(len(data))]
    else:
        for _ in range(rng.choice([1, 8, 64])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


# --- folders of fits -------------------------------------------------------------------------
VALUES = (None, True, -1, 0, 1e308, 10**400, float("nan"), "", "x", "../x", [], {}, [None])


def _edit_json(path: Path, rng: random.Random) -> None:
    facts = json.loads(path.read_text())
    at, above = facts, None
    while isinstance(at, (dict, list)) and at and (above is None or rng.random() < 0.75):
        key = rng.choice(sorted(at)) if isinstance(at, dict) else rng.randrange(len(at))
        above, at = (at, key), at[key]
    if above is not None:
        holder, key = above
        if rng.random() < 0.3:
            del holder[key]
        else:
            holder[key] = rng.choice(VALUES)
    path.write_text(json.dumps(facts))


def _edit_tensors(path: Path, rng: random.Random) -> None:
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    old = tensors[name]
    change = rng.choice(
        [
            lambda: tensors.pop(name),
            lambda: old.fill_(rng.choice([float("nan"), float("inf"), 0, -1, 1e30])),
            lambda: tensors.update({name: old[:-1].clone() if old.ndim else old[None].clone()}),
            lambda: tensors.update({name: old.double()}),
            lambda: tensors.update({name: old.half()}),
            lambda: tensors.update({name: old.long()}),
            lambda: tensors.update({name: old[..., None].clone()}),
            lambda: tensors.update({rng.choice(["x/7", "../a", "velocity/x"]): old.clone()}),
            lambda: tensors.update({name: old[:0].clone() if old.ndim else old}),
        ]
    )
    change()
    save_file(tensors, path, {"facts": "{}"})


def hurt_folder(folder: Path, rng: random.Random) -> None:
    """Edit, cut or remove one file of a folder."""
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    draw = rng.random()
    if draw < 0.1:
        path.unlink()
    elif draw < 0.25:
        _hurt_bytes(path, rng)
    elif path.suffix == ".json":
        _edit_json(path, rng)
    elif path.suffix == ".safetensors":
        _edit_tensors(path, rng)


def folder_case(rng: random.Random) -> tuple[str, Callable[[], Verdict]]:
    """A saved fit that was edited, through Python or a command."""
    line, name = rng.choice([None, *OF_FITS]), rng.choice(["fit", "bridge", "ensemble"])
    seed, times = rng.random(), rng.choice([1, 1, 2])

    def run() -> Verdict:
        with tempfile.TemporaryDirectory() as outside:
            folder = shutil.copytree(kept() / name, Path(outside) / name)
            again = random.Random(seed)
            for _ in range(times):
                hurt_folder(folder, again)
            if line is not None:
                return command([str(folder) if w == "{}" else w for w in line.split()])
            return judge(lambda: _use(cf.load(folder)))

    return f"{line or 'load'} of an edited {name}", run


def _use(fit: Any) -> Any:
    x = fit.course.snapshots[0].x
    start, end = fit.course.times[0], fit.course.times[-1]
    out = fit.velocity(start, x), fit.interpolate((start + end) / 2, n_cells=3)
    return out, fit.summary, fit.health


def words_case(rng: random.Random) -> tuple[str, Callable[[], Verdict]]:
    """A command with an option, or a word, that is odd."""
    line = [*rng.choice([*OF_CELLS, *OF_FITS]).split()]
    name = line[0]
    sound = {"CELLS": "CELLS", "FIT": "FIT"}
    line = [sound.get(w, w) for w in line]
    holder = "CELLS" if any(line == o.split() for o in OF_CELLS) else "FIT"
    line = [holder if w == "{}" else w for w in line]
    for _ in range(rng.choice([1, 1, 2])):
        options = [p.opts[-1] for p in main.commands[name].params if p.opts[-1].startswith("-")]
        if rng.random() < 0.3:
            line[rng.randrange(1, len(line))] = rng.choice(WORDS)
        else:
            line += [rng.choice(options), rng.choice(WORDS)]
    if any(w in ("1e308", "9" * 400) for w in line):
        line += ["--steps", "2"] if "--steps" in line else []
    return " ".join(w[:40] for w in line), lambda: command(line)
