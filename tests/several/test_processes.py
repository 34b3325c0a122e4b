"""Jobs in other processes: the same answers, nothing left behind. Most tests share two workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

import parallel_work
from cellflow import OTCFM, SF2M, TimeCourse
from cellflow._processes import side_by_side
from cellflow.batches import Batching
from cellflow.couplings import Exact
from cellflow.evaluate import YARDSTICKS, HoldoutProtocol, holdout, sigma_sweep
from cellflow.methods import FlowMatching
from cellflow.networks import MLPConfig
from cellflow.paths import Straight

SMALL = {"net": MLPConfig(16, 2), "batching": Batching(32, 32)}


def course(n: int = 40) -> TimeCourse:
    g = torch.Generator().manual_seed(0)
    xs = [torch.randn(n + k, 2, generator=g, dtype=torch.float64) + k for k in range(4)]
    return TimeCourse.from_arrays(xs, (0.0, 1.0, 2.5, 3.0))


def test_holdout_is_the_same_to_the_bit_for_any_workers() -> None:
    """Also with a coupling that only this file has, and scales without the held-out day."""
    own = FlowMatching(lambda a, b: Exact()(a, b), Straight(0.1), name="own", **SMALL)
    methods = [OTCFM(**SMALL), own]
    options = {"steps": 15, "seeds": 2, "progress": False}
    options |= {"protocol": HoldoutProtocol(whiten=True, preprocess_on="train")}
    one, two = (holdout(course(), methods, workers=w, **options) for w in (1, 2))
    assert one == two
    assert [r.method for r in one.rows[::3]] == 2 * (
        [*YARDSTICKS, "floor", "otcfm", "otcfm", "own", "own"]
    )


def test_sigma_sweep_is_the_same_to_the_bit_for_any_workers() -> None:
    def method(sigma: float) -> FlowMatching:
        return SF2M(sigma, **SMALL)

    options = {"sigmas": [0.3, 1.0], "steps": 10, "seeds": 2, "progress": False}
    one, two = (sigma_sweep(course(), method, workers=w, **options) for w in (1, 2))
    assert one == two
    assert [r.sigma for r in one.rows[::2]] == [0.3, 1.0] * 4


def test_side_by_side_returns_answers_in_the_order_of_jobs() -> None:
    here = side_by_side(partial(parallel_work.report, 2.0), range(7), workers=1)
    there = side_by_side(partial(parallel_work.report, 2.0), range(7), workers=2)
    assert [a for a, *_ in there] == [a for a, *_ in here] == [2.0 * k for k in range(7)]
    assert {pid for _, pid, _ in here} == {os.getpid()}
    pids = {pid for _, pid, _ in there}
    assert os.getpid() not in pids
    assert len(pids) <= 2
    assert {threads for *_, threads in (*here, *there)} == {1}
    again = side_by_side(partial(parallel_work.report, 2.0), range(7), workers=2)
    # Workers stay for the next call, though one may have done all jobs of the first.
    assert len({pid for _, pid, _ in again} | pids) <= 2


def test_side_by_side_starts_no_workers_in_a_worker() -> None:
    for pids in side_by_side(partial(parallel_work.nested, 1.0), range(2), workers=2):
        assert len(set(pids)) == 1
        assert pids[0] != os.getpid()


def test_workers_have_no_spare_cores() -> None:
    assert parallel_work.background(None, 0) == (1, True)
    assert (
        side_by_side(partial(parallel_work.background, None), range(2), workers=2)
        == [(0, True)] * 2
    )


def test_side_by_side_keeps_light_or_single_work_here() -> None:
    for options in ({"heavy": False}, {"here": True}):
        for _, pid, _ in side_by_side(partial(parallel_work.report, 1.0), range(3), **options):
            assert pid == os.getpid()
    ((_, pid, _),) = side_by_side(partial(parallel_work.report, 1.0), [1], workers=2)
    assert pid == os.getpid()
    with pytest.raises(ValueError, match="`workers`: got 2, expected 1 or None. Jobs on a GPU"):
        side_by_side(partial(parallel_work.report, 1.0), range(3), workers=2, here=True)


def test_side_by_side_repeats_warnings_of_workers_once() -> None:
    with pytest.warns(UserWarning, match="few cells") as caught:
        side_by_side(partial(parallel_work.warn, "few cells"), range(4), workers=2)
    assert len(caught) == 1
    assert caught[0].filename == parallel_work.__file__


def test_side_by_side_keeps_or_refuses_work_that_cannot_be_sent() -> None:
    context = (threading.Lock(), 3.0)
    assert side_by_side(partial(len_of, context), [0, 1]) == [2, 2]
    with pytest.raises(ValueError, match="`workers`: got several, for what cannot be sent"):
        side_by_side(partial(len_of, context), [0, 1], workers=2)


def len_of(context, job):
    return len(context)


def test_side_by_side_raises_the_first_error_as_it_is() -> None:
    start = time.perf_counter()
    with pytest.raises(FloatingPointError, match="^lower the rate$"):
        side_by_side(partial(parallel_work.fail, "lower the rate"), range(4), workers=2)
    assert time.perf_counter() - start < 50  # the others would have slept for a minute


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_side_by_side_that_is_ended_leaves_no_process(name, tmp_path) -> None:
    """Nor anything of its own in the folder of temporary files."""
    marks, scratch = tmp_path / "marks", tmp_path / "scratch"
    marks.mkdir()
    scratch.mkdir()
    command = [sys.executable, parallel_work.__file__, str(marks)]
    options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    run = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(scratch)}, **options)
    deadline = time.monotonic() + 120
    while len(list(marks.iterdir())) < 2:
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = [int(path.name) for path in marks.iterdir()]
    run.send_signal(getattr(signal, name))
    _, said = run.communicate(timeout=50)  # until the last process has closed it
    assert ("KeyboardInterrupt" in said) == (name == "SIGINT")
    assert not any(alive(pid) for pid in workers)
    assert list(scratch.glob("cellflow-*")) == []


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet collected does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_side_by_side_names_a_worker_that_died() -> None:
    with pytest.raises(RuntimeError, match="ended early.*Use fewer `workers`"):
        side_by_side(partial(parallel_work.die, None), range(3), workers=2)
