"""The only training loop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath

from tqdm import tqdm

from cellflow import _checks
from cellflow.paths import PathPoint
from cellflow.training import History, Trainer


@dataclass(frozen=True)
class Checkpointing:
    """Where and how often a run is written down.

    Parameters
    ----------
    path
        File to write, and to resume from if it exists; None for no checkpoints.
    every
        Steps between two writes; it is also written when the run ends, in whatever way.

    Raises
    ------
    ValueError
        If `every` is not positive, or `path` is a folder.
    """

    path: str | FilePath | None = None
    every: int = 1000

    def __post_init__(self) -> None:
        _checks.count(self.every, "every")
        if self.path is not None and FilePath(self.path).is_dir():
            got = f"{str(self.path)!r}, a folder"
            raise ValueError(_checks.message("checkpoint", got, "a file to write"))


def train(
    trainer: Trainer,
    draw: Callable[[int], PathPoint],
    validation: PathPoint | None,
    *,
    checkpointing: Checkpointing,
    fingerprint: dict,
    progress: bool = True,
) -> History:
    """Train until the budget is spent, patience has run out, or Ctrl-C; keep the best weights.

    Parameters
    ----------
    trainer
        The run to advance.
    draw
        Batch number ``k`` as a pure function of ``k``.
    validation
        A fixed batch to measure the loss on, or None for the training loss.
    checkpointing
        Where the run is written, and resumed from.
    fingerprint
        Facts that a checkpoint must agree on.
    progress
        Whether to show a bar on standard error.

    Returns
    -------
    The history, also kept by `trainer`.

    Raises
    ------
    FloatingPointError
        If the loss stops being finite.
    ValueError
        If the checkpoint belongs to another fit.
    """
    path = None if checkpointing.path is None else FilePath(checkpointing.path)
    if path is not None and path.exists():
        trainer.restore(path, fingerprint)
    history = trainer.history
    watch = _Stopwatch(history)
    stopped = "patience" if trainer.out_of_patience else "budget"
    every = trainer.training.check_every
    bar = tqdm(total=trainer.steps, initial=trainer.step, disable=not progress, unit="step")
    with bar, deferred_interrupt() as interrupted:
        while trainer.step < trainer.steps and stopped == "budget":
            batch = draw(trainer.step)
            watch.lap("data")
            trainer.advance(batch)
            watch.lap("network")
            bar.update()
            if trainer.step % every == 0 or trainer.step == trainer.steps:
                if trainer.check(validation):
                    stopped = "patience"
                bar.set_postfix(loss=f"{history.validation_loss[-1]:.4g}", refresh=False)
            if interrupted():
                stopped = "interrupted"
            last = stopped != "budget" or trainer.step == trainer.steps
            if path is not None and (last or trainer.step % checkpointing.every == 0):
                trainer.save(path, fingerprint)
            watch.lap("checks")
    history.stopped = stopped
    trainer.keep_best()
    return history


class _Stopwatch:
    """Adds up, in a history, where the time goes."""

    def __init__(self, history: History) -> None:
        self.history, self.last = history, time.perf_counter()

    def lap(self, what: str) -> None:
        """Count the time since the last lap as spent on `what`."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self.history.seconds += seconds
        self.history.timing[what] = self.history.timing.get(what, 0.0) + seconds


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a question to ask between steps; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []

    def handle(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, previous)
