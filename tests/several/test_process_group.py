"""ProcessGroup: several processes that train one model do what one process does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anndata import AnnData

import cellflow as cf
import on_ranks
from cellflow._process_group import ProcessGroup, RankLost
from cellflow.methods import OTCFM, Shooting
from cellflow.paths import Pairs, PathPoint, Straight
from cellflow.several import fit_on, join_process_group
from cellflow.several.launch import _reason
from cellflow.training import Checkpointing, FitOptions, History

F64 = torch.float64


def start(folder: Path) -> list[subprocess.Popen]:
    """Start two ranks as `torchrun` does."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, on_ranks.__file__, str(folder)]
    ranks = []
    for k in range(2):
        own = os.environ | world | {"RANK": str(k), "LOCAL_RANK": str(k)}
        with (folder / f"stderr-{k}").open("w") as said:
            ranks.append(subprocess.Popen(command, env=own, stderr=said))
    return ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two ranks have left, having been given the checkpoint of one process at step 17."""
    folder = tmp_path_factory.mktemp("ranks")
    with on_ranks.at_step(17, on_ranks.interrupt):
        assert on_ranks.fit("otcfm", folder / "one").history.stopped == "interrupted"
    ranks = start(folder)
    try:
        codes = [rank.wait(timeout=120) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert codes == [0, -9], (folder / "stderr-0").read_text() + (folder / "stderr-1").read_text()
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[str, tuple[torch.Tensor, History]]:
    """The same fits by this process."""
    fits = {name: on_ranks.fit(name) for name in on_ranks.METHODS}
    fits["float32"] = on_ranks.fit("otcfm", dtype=torch.float32)
    return {name: (on_ranks.weights(fit), fit.history) for name, fit in fits.items()}


def left(folder: Path, name: str) -> tuple[torch.Tensor, History]:
    """Return weights and history, the same on both ranks."""
    (first, told), (second, heard) = (
        torch.load(folder / f"{name}-{k}", weights_only=False) for k in range(2)
    )
    assert torch.equal(first, second)
    assert told == heard
    return first, told


@pytest.mark.parametrize("name", on_ranks.METHODS)
def test_two_ranks_learn_what_one_process_learns(name, folder, alone) -> None:
    """Batches of 93 pairs, dealt into 47 and 46, weighted by their masses where these grow."""
    weights, history = left(folder, name)
    torch.testing.assert_close(weights, alone[name][0], rtol=0, atol=1e-9)
    expected = alone[name][1]
    assert history.train_loss == pytest.approx(expected.train_loss, rel=1e-9)
    assert history.validation_loss == pytest.approx(expected.validation_loss, rel=1e-9)
    assert (history.step, history.best_step) == (expected.step, expected.best_step)
    for key in ("plans", "mean_cost", "mean_partners", "marginal_error"):
        assert history.coupling[key] == pytest.approx(expected.coupling[key], rel=1e-9)


def test_in_single_precision_they_differ_by_rounding(folder, alone) -> None:
    weights, _ = left(folder, "float32")
    torch.testing.assert_close(weights, alone["float32"][0], rtol=0, atol=2e-5)


def test_ranks_share_the_members_of_an_ensemble_and_the_fits_of_a_table(folder) -> None:
    ensemble, table = on_ranks.several(ProcessGroup())
    for k in range(2):
        members, rows = torch.load(folder / f"several-{k}", weights_only=False)
        assert all(map(torch.equal, members, map(on_ranks.weights, ensemble)))
        assert rows.rows == table.rows


def test_an_error_of_one_rank_is_raised_by_all(folder) -> None:
    assert (folder / "error-0").exists() and (folder / "error-1").exists()


def test_a_checkpoint_of_one_process_goes_on_with_two(folder, alone) -> None:
    weights, history = left(folder, "from_one")
    torch.testing.assert_close(weights, alone["otcfm"][0], rtol=0, atol=1e-9)
    assert history.step == alone["otcfm"][1].step


def test_one_interrupted_rank_stops_all_and_one_process_goes_on(folder, alone) -> None:
    _, history = left(folder, "interrupted")
    assert history.stopped == "interrupted"
    resumed = on_ranks.fit("ubsb", folder / "two")
    assert resumed.history.step == [10, 20, 30, 40]
    torch.testing.assert_close(on_ranks.weights(resumed), alone["ubsb"][0], rtol=0, atol=1e-9)


def test_a_killed_rank_ends_the_others_and_leaves_the_last_step(folder, alone) -> None:
    path = folder / "killed"
    said = (folder / "lost").read_text()
    assert "Rank 0 of 2 lost another one" in said
    assert f"The checkpoint {str(path)!r} holds step 23: the same call goes on from there." in said
    weights = on_ranks.weights(on_ranks.fit("otcfm", path))
    torch.testing.assert_close(weights, alone["otcfm"][0], rtol=0, atol=1e-9)


class Lossy(ProcessGroup):
    """One rank, which loses another at a message."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def mean_(self, *tensors, share=1.0) -> None:
        self.left -= 1
        if self.left < 0:
            raise RankLost("Rank 0 of 2 lost another one.")


@pytest.mark.parametrize("number", [7, 10, 11])
def test_a_rank_that_is_lost_at_any_message_changes_nothing(number, tmp_path) -> None:
    """The eleventh message is that of the first check."""
    cells, path = on_ranks.course(), tmp_path / "run"
    method, options = on_ranks.METHODS["otcfm"], {"steps": 20, "progress": False}
    whole = method.fit(cells, **options)
    lossy = FitOptions(checkpointing=Checkpointing(path), group=Lossy(number), **options)
    with pytest.raises(RankLost, match=f"holds step {number - (number > 10)}:"):
        method.fit_with(cells, lossy)
    fit = method.fit(cells, checkpointing=Checkpointing(path), **options)
    assert torch.equal(on_ranks.weights(fit), on_ranks.weights(whole))
    assert fit.history.step == [10, 20]
    assert fit.history.validation_loss == whole.history.validation_loss
    assert fit.history.train_loss == whole.history.train_loss


def test_processes_started_from_here_return_the_same_fit(folder) -> None:
    """As many processes do the same to the last bit, however they were started."""
    method, cells = on_ranks.METHODS["otcfm"], on_ranks.course()
    before = {k: v for k, v in os.environ.items() if "MASTER" in k or "RANK" in k}
    fit = fit_on(method, cells, FitOptions(steps=on_ranks.STEPS, progress=False), devices=2)
    assert before == {k: v for k, v in os.environ.items() if "MASTER" in k or "RANK" in k}
    weights, history = left(folder, "otcfm")
    assert torch.equal(on_ranks.weights(fit), weights)
    assert fit.history.validation_loss == history.validation_loss
    assert fit.course is cells
    assert fit.velocity(0.5, cells.snapshots[0].x).shape == (70, 3)


@pytest.mark.slow
def test_a_process_started_from_here_that_is_killed_is_named(tmp_path, alone) -> None:
    path = tmp_path / "run"
    method = replace(on_ranks.METHODS["otcfm"], coupling=on_ranks.Deadly())
    options = FitOptions(steps=on_ranks.STEPS, progress=False, checkpointing=Checkpointing(path))
    with pytest.raises(RankLost, match=r"Rank 1 of 2 was ended by SIGKILL. .* holds step") as lost:
        fit_on(method, on_ranks.course(), options, devices=2)
    assert "the same call goes on from there" in str(lost.value)
    fit = method.fit_with(on_ranks.course(), options)
    torch.testing.assert_close(on_ranks.weights(fit), alone["otcfm"][0], rtol=0, atol=1e-9)


def test_the_error_of_a_rank_is_raised_as_it_is(tmp_path) -> None:
    torch.save(RankLost("Rank 0 of 2 lost another one"), tmp_path / "error-0")
    torch.save(ValueError("bad cells"), tmp_path / "error-1")
    ended = SimpleNamespace(error_index=0, exit_code=1)
    found = _reason(ended, tmp_path, FitOptions(), 2)
    assert isinstance(found, ValueError)
    assert str(found) == "bad cells"


@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize("growing", [False, True])
def test_means_of_parts_by_their_shares_are_the_mean_of_all(n, growing) -> None:
    g = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 11, 2, generator=g, dtype=F64)
    growth = torch.randn(11, 1, generator=g, dtype=F64) if growing else None
    t = torch.zeros(11, 1, dtype=F64)
    pairs = Pairs(x0, x1, t, t + 2, growth)

    def draw(part: tuple[int, int]) -> PathPoint:
        return Straight(0.3).draw(pairs, torch.Generator().manual_seed(1), part=part)

    def mean(p: PathPoint) -> torch.Tensor:
        w = torch.ones(len(p.t), dtype=F64) if p.weight is None else p.weight
        return (w[:, None] * p.x).sum(0) / w.sum()

    whole, parts = draw((0, 1)), [draw((k, n)) for k in range(n)]
    for k, p in enumerate(parts):
        for name in ("t", "x", "velocity", "noise", "mean_velocity"):
            assert torch.equal(getattr(p, name), getattr(whole, name)[k::n])
    torch.testing.assert_close(sum(p.share * mean(p) for p in parts) / n, mean(whole))


def test_a_process_by_itself_tells_itself_nothing() -> None:
    ranks, grad = ProcessGroup(), torch.ones(3)
    ranks.mean_(grad)
    assert torch.equal(grad, torch.ones(3))
    assert ranks.share([1, 2, 3]) == ranks.interleave([1, 2, 3]) == [1, 2, 3]
    assert ranks.agree_to_stop(True)
    with pytest.raises(KeyError):
        ranks.broadcast({}.popitem)


def test_join_process_group_refuses_other_devices_than_there_are(monkeypatch) -> None:
    with pytest.raises(ValueError, match="`devices`: got 0"):
        join_process_group(0)
    monkeypatch.setenv("WORLD_SIZE", "4")  # a variable that others use as well
    assert join_process_group().world == 1
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert join_process_group(1).world == 1
    with pytest.raises(ValueError, match="`devices`: got 3, expected 4 processes in all"):
        join_process_group(3)


def test_several_members_are_not_started_from_here() -> None:
    adata = AnnData(np.zeros((4, 2)), obs={"day": [0, 0, 1, 1]})
    with pytest.raises(ValueError, match=r"`devices`: got 2, .* which share processes by `wor"):
        cf.tl.fit(adata, time_key="day", use_rep="X", members=3, devices=2)


def test_methods_that_cannot_be_dealt_out_say_so() -> None:
    options = FitOptions(steps=1, progress=False)
    with pytest.raises(ValueError, match="`group`: got 2, expected 1"):
        Shooting().fit_with(on_ranks.course(), replace(options, group=ProcessGroup(0, 2)))
    method = OTCFM()
    object.__setattr__(method, "coupling", lambda a, b: None)
    with pytest.raises(ValueError, match="`method`: got one that cannot be sent"):
        fit_on(method, on_ranks.course(), options, devices=2)
