"""What every door shares: arrays become cells, and seeds become generators."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from cellflow import _checks


def test_read_only_arrays_are_copied_and_others_shared():
    """pandas 3 hands out read-only views, which torch must not alias."""
    x = np.ones((3, 2))
    assert _checks.as_cells(x, "x").data_ptr() == x.ctypes.data
    x.flags.writeable = False
    cells = _checks.as_cells(x, "x")
    cells.add_(1.0)
    assert (x == 1.0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_keeps_its_type(dtype):
    x = torch.ones(3, 2, dtype=dtype)
    assert _checks.as_cells(x, "x") is x


def test_nearest_option_is_suggested():
    with pytest.raises(ValueError, match=r"got 'eaxct'.*Did you mean 'exact'\?"):
        _checks.choice("eaxct", ["exact", "entropic"], "coupling")
    genes = [f"Gene{k}" for k in range(20_000)]
    with pytest.raises(ValueError, match=r"… \(20,000 in all\)\. Did you mean 'Gene5'") as error:
        _checks.choice("gene5", genes, "genes")
    assert len(str(error.value)) < 1_000
    with pytest.raises(ValueError, match=r"Did you mean 'otcfm'\?"):
        _checks.choice("OT-CFM", ["icfm", "otcfm", "sf2m"], "method")
    with pytest.raises(ValueError, match=r"Call it: fullmatch\(\)"):
        _checks.choice(re.fullmatch, ["icfm", "otcfm"], "method")


def test_a_seed_and_its_generator_agree_and_the_global_one_is_left_alone():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    a = torch.rand(4, generator=_checks.as_generator(3))
    b = torch.rand(4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(a, b)
    one, other = (torch.rand(4, generator=_checks.as_generator(None)) for _ in range(2))
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
