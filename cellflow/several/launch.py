"""Fit with one process for each device: what is sent to them, and what comes back."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cellflow import _checks
from cellflow._process_group import ProcessGroup, RankLost, here
from cellflow._random import draw_seed
from cellflow._typing import Rng, Tensor
from cellflow.fits.fit import Fit
from cellflow.methods.method import Method
from cellflow.preprocessing import Preprocessing
from cellflow.several.devices import Devices, choose_strategy, fabric_for, join
from cellflow.timecourse import TimeCourse
from cellflow.training.loop import Checkpointing, deferred_interrupt, resumption
from cellflow.training.networks import assemble

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: What starting processes leaves in the environment.
_TRACES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


@dataclass(frozen=True, eq=False)
class _Job:
    """What every rank does."""

    method: Method
    course: TimeCourse
    steps: int
    random_state: Tensor
    random_device: torch.device
    preprocessing: Preprocessing | None
    place: torch.device
    dtype: torch.dtype | None
    checkpointing: Checkpointing | None
    progress: bool

    def __call__(self, ranks: ProcessGroup) -> Fit:
        place = self.place
        if place.type == "cuda" and ranks.world > 1:
            place = torch.device("cuda", torch.cuda.current_device())
        generator = torch.Generator(self.random_device)
        generator.set_state(self.random_state)
        options = {} if ranks.world == 1 else {"ranks": ranks}
        return self.method.fit(
            self.course,
            steps=self.steps,
            generator=generator,
            preprocessing=ranks.broadcast(lambda: self.preprocessing),
            device=place,
            dtype=self.dtype,
            checkpointing=self.checkpointing,
            progress=self.progress and ranks.is_main,
            **options,
        )


def fit_on(
    devices: Devices,
    method: Method,
    course: TimeCourse,
    *,
    steps: int = 3000,
    generator: Rng = 0,
    preprocessing: Preprocessing | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    checkpointing: Checkpointing | None = None,
    progress: bool = True,
) -> Fit:
    """Fit a method with one process for each device.

    All ranks take the same steps: each trains on its share of every batch, gradients are averaged,
    and blocks of cells are coupled by one rank each. The result is that of one process up to the
    order of sums, whatever the number of ranks. A step sends the gradient once: networks of a few
    ten thousand weights gain by it only with large batches.

    Parameters
    ----------
    devices
        How many, and who starts them.
    method
        What to fit.
    course, steps, generator, preprocessing, dtype, checkpointing, progress
        As in :meth:`FlowMatching.fit`. The number of ranks may change where a fit is resumed.
    device
        Type of the devices: ``"cpu"`` or ``"cuda"``; that of the course when omitted.

    Returns
    -------
    The fit: in every process that was there before, the same.

    Raises
    ------
    ValueError
        If `devices` do not fit the processes that there are, or an argument is out of its range.
    RankLost
        If a process ended early. The checkpoint, if one was asked for, holds the last step.
    """
    place = _checks.as_device(device, course.x.device)
    rng = _checks.as_generator(generator)
    job = _Job(
        method,
        course,
        steps,
        rng.get_state().clone(),
        rng.device,
        preprocessing,
        place,
        dtype,
        checkpointing,
        progress,
    )
    draw_seed(rng)  # as a fit in this process would
    ranks = join(devices, kind=place.type)
    if ranks.world > 1 or devices.total == 1:
        return job(ranks)
    if place.type not in ("cpu", "cuda"):
        got = f"several of {place.type!r}"
        raise ValueError(_checks.message("devices", got, "1, or those of 'cpu' or 'cuda'"))
    strategy = choose_strategy(devices)
    fabric = fabric_for(devices, strategy, place.type)
    if strategy == "ddp":
        return fabric.launch(lambda _: job(here()))
    return _in_children(fabric, job)


def _in_children(fabric: Fabric, job: _Job) -> Fit:
    """Start processes for the ranks, and build the fit of what they learned."""
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    with tempfile.TemporaryDirectory(prefix="cellflow-") as name:
        folder = Path(name)
        # Through a file that the ranks map: shared memory is scarce in containers.
        _send(job, folder / "job")
        with _unchanged_environment(), deferred_interrupt() as interrupted:
            try:
                fabric.launch(_rank, name)
            except (ProcessExitedException, ProcessRaisedException) as ended:
                if interrupted():  # before or after the training
                    raise KeyboardInterrupt from None
                raise _reason(ended, folder, job, fabric.world_size) from None
        learned = torch.load(folder / "fit", map_location=job.place, weights_only=False)
    method, networks = learned["method"], learned["networks"]
    dynamics = assemble(method, networks, job.course.times)
    history = learned["history"]
    return Fit(dynamics, method, job.course, networks, job.preprocessing, history)


def _send(job: _Job, path: Path) -> None:
    try:
        torch.save(job, path)
    except Exception as error:  # whatever an object of the user's own raises
        got = f"one that cannot be sent to other processes ({error})"
        expected = "functions and classes of a module"
        remedy = "Or start the script with torchrun, where each process makes its own."
        raise ValueError(_checks.message("method", got, expected, remedy)) from error


def _rank(fabric: Fabric, folder: str) -> None:
    """Do the job as one of several processes, and leave what came of it in `folder`."""
    path = Path(folder)
    os.environ["LOCAL_WORLD_SIZE"] = str(fabric.world_size)  # as torchrun would
    try:
        job = torch.load(path / "job", map_location="cpu", mmap=True, weights_only=False)
        fit = job(here())
    except Exception as error:
        try:
            torch.save(error, path / f"error-{fabric.global_rank}")
        except Exception:  # it cannot be pickled
            torch.save(RuntimeError(repr(error)), path / f"error-{fabric.global_rank}")
        sys.exit(1)
    if fabric.global_rank == 0:
        learned = {"method": fit.method, "networks": fit.networks, "history": fit.history}
        torch.save(learned, path / "fit")
    # A process that ends with its connections open may be aborted by their threads.
    torch.distributed.destroy_process_group()


def _reason(ended: Any, folder: Path, job: _Job, world: int) -> Exception:
    """Return what to raise when a process has ended early."""
    told = [torch.load(p, weights_only=False) for p in sorted(folder.glob("error-*"))]
    for error in told:
        if not isinstance(error, RankLost):  # the others then lost the rank that raised it
            return error
    signal = getattr(ended, "signal_name", None)
    how = f"by {signal}" if signal else f"with exit code {getattr(ended, 'exit_code', '?')}"
    path = None if job.checkpointing is None else job.checkpointing.path
    rest = getattr(told[0], "resumption", None) if told else None
    text = rest or resumption(path)
    return RankLost(f"Rank {ended.error_index} of {world} was ended {how}. {text}")


@contextmanager
def _unchanged_environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _TRACES}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
