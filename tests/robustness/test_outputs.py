"""Outputs that cannot be, are asked for too often, or would destroy what is read."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

import cellflow as cf
from cellflow.several import join_process_group
from cli_files import cellflow_, write_cells

#: A command, and what is said; `{fit}` is a fit, `{cells}` a file, `{tmp}` a folder.
REFUSED = [
    ("interpolate {fit} --time 3 --out {fit}/fit.json", "is that of a fit"),
    ("interpolate --out {fit}/fit.json --time 3 {fit}", "is that of a fit"),
    ("interpolate {fit} --time 3 --out {other}/tensors.safetensors", "is that of a fit"),
    ("simulate {fit} --out {fit}/paths.zarr", "is read"),
    ("simulate {fit} --out {fit}", "is read"),
    ("fates {fit} {cells} --label-key word --out {cells}", "is read"),
    ("holdout {cells} --time-key day --json {cells}", "is read"),
    ("holdout {cells} --time-key day --csv {link}", "is read"),
    ("holdout {cells} --time-key day --csv {tmp}/a --json {tmp}/a", "is that of"),
    ("fit {cells} --time-key day --checkpoint {cells} --out {tmp}/new", "is read"),
    ("fit {cells} --time-key day --checkpoint {cells}/a -q --out {tmp}/new", "--checkpoint: got"),
    ("suggest-sigma {cells} --time-key day --figure {tmp}/f.xyz", "should end with one of"),
    ("suggest-sigma {cells} --time-key day --figure {tmp}/f", "should end with one of"),
    ("simulate {fit} --out {tmp}/new --n-times 1000000000", "is not in the range"),
    ("fit {cells} --time-key day --devices 1000000 --out {tmp}/new", "--devices: got 1000000"),
    ("fit {cells} --time-key day --members 1000000 -q --out {tmp}/new", "--members: got 1000000"),
]


@pytest.fixture(scope="module")
def places(cells, tmp_path_factory) -> dict[str, Path]:
    tmp = tmp_path_factory.mktemp("outputs")
    out = {"cells": cells, "fit": tmp / "fit", "other": tmp / "other", "link": tmp / "link"}
    out["link"].symlink_to(cells)
    for name in ("fit", "other"):
        words = f"fit {cells} --time-key day --dims 3 --steps 5 --quiet --out {out[name]}"
        assert cellflow_(*words.split()).exit_code == 0
    return out | {"tmp": tmp}


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    return write_cells(tmp_path_factory.mktemp("cells") / "cells.h5ad")


def content(places) -> dict[Path, bytes]:
    files = [places["cells"], *(f for f in places["tmp"].rglob("*") if f.is_file())]
    return {file: file.read_bytes() for file in files}


@pytest.mark.parametrize(("line", "said"), REFUSED)
def test_it_is_refused_before_the_work(line, said, places) -> None:
    before = content(places)
    result = cellflow_(*line.format(**places).split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert content(places) == before


def test_a_figure_of_a_known_kind_is_drawn_whole(places) -> None:
    words = f"suggest-sigma {places['cells']} --time-key day --dims 2 --steps 2 --quiet"
    file = places["tmp"] / "f.PDF"
    assert cellflow_(*words.split(), "--figure", file).exit_code == 0
    assert file.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("devices", [10**6, 10**400])
def test_devices_are_bounded(devices) -> None:
    with pytest.raises(ValueError, match="`devices`: got .* and at most"):
        join_process_group(devices)


@pytest.mark.parametrize("key", ["a/b", "/", "", None, 3])
def test_keys_that_a_file_cannot_hold_are_refused(key, places) -> None:
    adata, fit = anndata.read_h5ad(places["cells"]), cf.load(places["fit"])
    doors = [
        lambda: cf.tl.velocity(adata, fit, key_added=key),
        lambda: cf.tl.growth(adata, fit, key_added=key),
        lambda: cf.pp.pca(adata, n_components=2, key_added=key),
        lambda: cf.pp.growth_rates(adata, proliferation="day", key_added=key),
    ]
    before = adata.copy()
    for door in doors:
        with pytest.raises((TypeError, ValueError), match="`key_added`: got .*, expected "):
            door()
    assert list(adata.obsm) == list(before.obsm)
    assert list(adata.uns) == list(before.uns)
    assert np.array_equal(adata.obs.columns, before.obs.columns)
