"""Launch of a fit on several processes, one for each device: Lightning Fabric or torchrun."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.multiprocessing.spawn import ProcessException

from cellflow import _checks
from cellflow._process_group import ProcessGroup, RankLost, here
from cellflow.fits.fit import Fit
from cellflow.methods.method import Method
from cellflow.preprocessing import Preprocessing
from cellflow.timecourse import TimeCourse
from cellflow.training.loop import deferred_interrupt, resumption
from cellflow.training.networks import assemble
from cellflow.training.options import FitOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

#: How long a process may be silent. One that ends is noticed at once.
_PATIENCE = timedelta(minutes=30)


def join_process_group(devices: int | None = None, *, kind: str = "cpu") -> ProcessGroup:
    """Return this process's place among those that ``torchrun`` has started, or alone.

    There must be as many as `devices`, of the type `kind` (``"cpu"`` or ``"cuda"``), if that is
    given; 1 is this process alone.
    """
    if devices is not None:
        # So many processes of this machine could gain by one another; on a CPU, a few more.
        most = torch.cuda.device_count() if kind == "cuda" else max(8, 2 * (os.cpu_count() or 1))
        most = max(1, most, int(os.environ.get("WORLD_SIZE", "1")))
        if _checks.count(devices, "devices", high=most) == 1:
            return ProcessGroup()
    group = here()
    # WORLD_SIZE is a variable that others use as well.
    started = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    world = max(group.world, started)
    if world == 1 or (group.world > 1 and devices in (None, world)):
        return group
    if devices not in (None, world):
        remedy = "Leave it out: what has started the processes knows."
        raise ValueError(_checks.message("devices", devices, f"{world} processes in all", remedy))
    backend = "gloo"
    if kind == "cuda":
        backend = "nccl"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        atexit.register(torch.distributed.destroy_process_group)
    torch.distributed.init_process_group(backend, timeout=_PATIENCE)
    return here()


def fit_on(
    method: Method,
    course: TimeCourse,
    options: FitOptions | None = None,
    *,
    devices: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> Fit:
    """Fit a method with one process for each device.

    All processes take the same steps: each trains on its share of every batch, gradients are
    averaged, and each block of cells is coupled by one of them. The result is that of one process
    up to the order of sums, whatever their number. A step sends the gradient once: networks of a
    few ten thousand weights gain by it only with large batches.

    Parameters
    ----------
    method, course, preprocessing
        What to fit, and to what: as in :meth:`Method.fit`.
    options
        As in :meth:`Method.fit`; its device is the type, ``"cpu"`` or ``"cuda"``. The number of
        processes may change where a fit is resumed.
    devices
        Processes on this machine, one for each GPU or for each part of the cores. When omitted, as
        many as ``torchrun`` has started, or one.

    Raises
    ------
    RankLost
        If a process ended early. The checkpoint, if one was asked for, holds the last step.
    """
    options = options or FitOptions(steps=method.default_steps)
    place = course.snapshots[0].x.device if options.device is None else torch.device(options.device)
    options = replace(options, device=place)  # that of the cells, which travel on the CPU
    group = join_process_group(devices, kind=place.type)
    if group.world > 1:
        return _fit_as_one_of(group, method, course, options, preprocessing)
    if devices is None or devices == 1:
        return method.fit_with(course, options, preprocessing)
    if place.type not in ("cpu", "cuda"):
        got = f"several of {place.type!r}"
        raise ValueError(_checks.message("devices", got, "1, or those of 'cpu' or 'cuda'"))
    try:
        from cellflow.several.fabric import make_fabric
    except ImportError as error:
        raise ImportError(
            f"Several devices need Lightning Fabric ({error}): pip install 'cellflow-sb[devices]'."
        ) from error
    fabric = make_fabric(devices, place.type, _PATIENCE)
    with tempfile.TemporaryDirectory(prefix="cellflow-") as name:
        folder = Path(name)
        # Through a file that the processes map: shared memory is scarce in containers.
        _send((method, course, options, preprocessing), folder / "arguments")
        _launch(fabric, folder, options)
        learned = torch.load(folder / "fit", map_location=place, weights_only=False)
    method, networks, history, clock = learned
    model = course if clock is None else clock.retime(course)
    dynamics = assemble(method.parts, networks, model.times)
    return Fit(dynamics, method, course, networks, preprocessing, history, clock=clock)


def _fit_as_one_of(
    group: ProcessGroup,
    method: Method,
    course: TimeCourse,
    options: FitOptions,
    preprocessing: Preprocessing | None,
) -> Fit:
    """Fit as one process of a group, of which the main one says what is random."""
    seed, progress = group.broadcast(lambda: options.seed), options.progress and group.is_main
    device = torch.device(options.device or "cpu")
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    own = replace(options, seed=seed, device=device, progress=progress, group=group)
    return method.fit_with(course, own, group.broadcast(lambda: preprocessing))


def _send(arguments: object, path: Path) -> None:
    try:
        torch.save(arguments, path)
    except Exception as error:  # whatever an object of the user's own raises
        got = f"one that cannot be sent to other processes ({error})"
        expected = "functions and classes of a module"
        remedy = "Or start the script with torchrun, where each process makes its own."
        raise ValueError(_checks.message("method", got, expected, remedy)) from error


def _launch(fabric: Fabric, folder: Path, options: FitOptions) -> None:
    """Start the processes, and wait until they have left a fit in `folder`."""
    with deferred_interrupt() as interrupted:
        try:
            fabric.launch(partial(_work, folder=folder))
        except ProcessException as ended:
            if interrupted():  # before or after the training
                raise KeyboardInterrupt from None
            raise _reason(ended, folder, options, fabric.world_size) from None
        finally:
            os.environ.pop("MASTER_PORT", None)  # Fabric's, for this launch alone


def _work(fabric: Fabric, folder: Path) -> None:
    """Fit as one of several processes, and leave what came of it in `folder`."""
    os.environ["LOCAL_WORLD_SIZE"] = str(fabric.world_size)  # as torchrun would
    try:
        path, options = folder / "arguments", {"mmap": True, "weights_only": False}
        fit = _fit_as_one_of(here(), *torch.load(path, map_location="cpu", **options))
    except Exception as error:
        path = folder / f"error-{fabric.global_rank}"
        try:
            torch.save(error, path)
        except Exception:  # it cannot be pickled
            torch.save(RuntimeError(repr(error)), path)
        sys.exit(1)
    if fabric.global_rank == 0:
        torch.save((fit.method, fit.networks, fit.history, fit.clock), folder / "fit")
    # A process that ends with its connections open may be aborted by their threads.
    torch.distributed.destroy_process_group()


def _reason(ended: ProcessException, folder: Path, options: FitOptions, world: int) -> Exception:
    """Return what to raise when a process has ended early."""
    told = [torch.load(p, weights_only=False) for p in sorted(folder.glob("error-*"))]
    for error in told:
        if not isinstance(error, RankLost):  # the others then lost the rank that raised it
            return error
    signal = getattr(ended, "signal_name", None)
    how = f"by {signal}" if signal else f"with exit code {getattr(ended, 'exit_code', '?')}"
    rest = told[0].resumption if told else resumption(options.checkpointing.path)
    return RankLost(f"Rank {ended.error_index} of {world} was ended {how}. {rest}")
