"""Independent jobs side by side on the cores of this machine, with one answer however many."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from cellflow import _checks, _threads
from cellflow.logging import Verbosity, say, shown

J = TypeVar("J")
R = TypeVar("R")
#: Seconds that idle workers stay, so that the next call need not start them again.
_IDLE = 60
#: Joblib's remark that it replaced a worker, which is its business.
_REPLACED = "A worker stopped while some jobs were given to the executor"

_inside = False  # whether this process is a worker
_read: tuple[str, Callable[[Any], Any]] | None = None  # what this worker read last


def side_by_side(
    work: Callable[[J], R],
    jobs: Sequence[J],
    *,
    workers: int | None = None,
    heavy: bool = True,
    here: bool = False,
    progress: bool | None = False,
    unit: str = "fit",
) -> list[R]:
    """Return ``work(job)`` for each of `jobs`, in their order.

    Every job runs on one thread of torch, here or in a worker, so that results are the same bits
    however many `workers` there are: one for each core when omitted, if the work is `heavy` enough
    to start them. Jobs start in the order given, so that the longest come first. A worker reads
    `work`, and the cells that it holds, once. The first exception ends all jobs and is raised as it
    is; Ctrl-C ends the workers at once. Warnings of workers are given again in this process. `here`
    keeps all jobs in it, such as work on a GPU; a bar of `progress` counts in this `unit`.
    """
    if workers is not None:
        _checks.count(workers, "workers")
    if here and (workers or 1) > 1:
        remedy = "Jobs on a GPU share this process."
        raise ValueError(_checks.message("workers", workers, "1 or None", remedy))
    lone = here or _inside or len(jobs) < 2 or multiprocessing.current_process().daemon
    n = min(len(jobs), 1 if lone else workers or (_cores() if heavy else 1))

    text = f"{len(jobs)} jobs ({unit}) in {n} process{'es' if n > 1 else ''}"
    say(text, at=Verbosity.debug)

    def collect(done: Iterable[tuple[int, R]]) -> list[R]:
        out = dict(tqdm(done, total=len(jobs), disable=not shown(progress), unit=unit))
        return [out[k] for k in range(len(jobs))]

    if n > 1:
        with tempfile.TemporaryDirectory(prefix="cellflow-") as folder, warnings.catch_warnings():
            # In joblib's own thread, where an error would leave us waiting for ever.
            warnings.filterwarnings("ignore", _REPLACED)
            path = Path(folder) / "work"
            if _sent(path, work, asked=workers is not None):
                return collect(_in_processes(path, jobs, n))
    with _threads.one_thread():
        return collect((k, work(job)) for k, job in enumerate(jobs))


def _cores() -> int:
    """Cores that this process may use, by affinity and quotas; its part, if ranks share them."""
    from joblib import cpu_count

    return max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _sent(path: Path, work: object, *, asked: bool) -> bool:
    """Write `work` for the workers; return whether that is possible, fail if it was asked."""
    import cloudpickle

    try:
        with path.open("wb") as file:
            cloudpickle.dump(work, file)
    except (pickle.PicklingError, TypeError, AttributeError, RuntimeError) as error:
        if not asked:
            return False
        got = f"several, for what cannot be sent to another process ({error})"
        raise ValueError(_checks.message("workers", got, "1 or None for that")) from error
    return True


def _in_processes(path: Path, jobs: Sequence[Any], n: int) -> Iterator[tuple[int, Any]]:
    """Yield numbers and results of jobs as they end."""
    import cloudpickle
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    parent, place = os.getpid(), str(path)
    sent = (cloudpickle.dumps(job) for job in jobs)
    calls = (delayed(_work)(place, k, job, parent) for k, job in enumerate(sent))
    with parallel_config("loky", inner_max_num_threads=1, idle_worker_timeout=_IDLE):
        pool = Parallel(n, batch_size=1, pre_dispatch=2 * n, return_as="generator_unordered")
        answers = pool(calls)
    said: set[tuple[Any, ...]] = set()
    try:
        for k, answer in answers:
            result, told = pickle.loads(answer)
            for warning in told:
                if warning not in said:
                    said.add(warning)
                    warnings.warn_explicit(*warning)
            yield k, result
    except TerminatedWorkerError as error:
        raise RuntimeError(
            "A worker process ended early, most likely for want of memory. "
            "Use fewer `workers`; 1 works in this process."
        ) from error


def _work(path: str, k: int, job: bytes, parent: int) -> tuple[int, bytes]:
    """Do one job in a worker; bytes, because tensors would travel through shared memory."""
    import cloudpickle

    global _inside, _read
    if not _inside:
        threading.Thread(target=_outlive, args=(parent,), daemon=True).start()
    _inside = True
    torch.set_num_threads(1)
    _threads.MOST_SPARE = 0  # the cores are the other workers'
    if _read is None or _read[0] != path:
        _read = None  # the one before makes room
        with open(path, "rb") as file:
            _read = (path, pickle.load(file))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        result = _read[1](pickle.loads(job))
    told = [(str(w.message), w.category, w.filename, w.lineno) for w in caught]
    return k, cloudpickle.dumps((result, told))


def _outlive(parent: int) -> None:
    """End this worker, and remove what it read, once the `parent` is no more: nobody else would."""
    while os.getppid() == parent:
        time.sleep(0.5)
    if _read is not None:
        shutil.rmtree(Path(_read[0]).parent, ignore_errors=True)
    os._exit(1)
