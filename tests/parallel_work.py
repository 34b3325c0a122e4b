"""Work that other processes do in tests, and a process that is interrupted."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import torch

from cellflow._processes import side_by_side
from cellflow._threads import spare_cores
from cellflow.batches import Batching, PairSampler
from cellflow.couplings import Exact
from cellflow.timecourse import TimeCourse


def report(context: float, job: int):
    """Which process did it, on how many threads."""
    return job * context, os.getpid(), torch.get_num_threads()


def background(context, job):
    """How many threads coupled beside a fit, where it could have them."""
    course = TimeCourse.from_arrays([torch.randn(8, 2) + k for k in range(2)])
    sampler = PairSampler(course, Exact(), Batching(4, 4), job, workers=spare_cores())
    rows = sampler.batch(0).x0.sum()
    running = [t.name for t in threading.enumerate() if t.name.startswith("cellflow")]
    sampler.close()
    return len(running), bool(torch.isfinite(rows))


def nested(context, job):
    """Work that would start workers of its own."""
    return [pid for _, pid, _ in side_by_side(partial(report, context), range(3), workers=2)]


def warn(context, job):
    warnings.warn(context, UserWarning, stacklevel=1)


def fail(context, job):
    if job == 1:
        raise FloatingPointError(context)
    time.sleep(60)


def die(context, job):
    if job == 1:
        os._exit(1)
    time.sleep(0.5)


def wait(context, job):
    Path(context, str(os.getpid())).touch()
    time.sleep(60)


if __name__ == "__main__":
    # Whoever was started in the background of a shell ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    side_by_side(partial(wait, sys.argv[1]), range(4), workers=2)
