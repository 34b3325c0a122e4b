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
from cellflow._files import read_state
from cellflow._process_group import RankLost
from cellflow.paths import PathPoint
from cellflow.training.trainer import History, Trainer


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
    RankLost
        If another rank has ended. The checkpoint then holds the last step.
    """
    path = None if checkpointing.path is None else FilePath(checkpointing.path)
    ranks, every = trainer.ranks, trainer.training.check_every
    ranks.start()
    if path is not None and ranks.broadcast(path.exists):
        trainer.restore(path, fingerprint)
    history = trainer.history
    watch = _Stopwatch(history)
    if trainer.step and trainer.step % every == 0 and history.step[-1:] != [trainer.step]:
        trainer.check(validation)  # on the way to which a rank was lost
    stopped = "patience" if trainer.out_of_patience else "budget"
    bar = tqdm(total=trainer.steps, initial=trainer.step, disable=not progress, unit="step")
    with bar, deferred_interrupt(terminable=ranks.world > 1) as interrupted:
        while trainer.step < trainer.steps and stopped == "budget":
            try:
                batch = draw(trainer.step)
                watch.lap("data")
                trainer.advance(batch)
                watch.lap("network")
                bar.update()
                if trainer.step % every == 0 or trainer.step == trainer.steps:
                    if trainer.check(validation):
                        stopped = "patience"
                    bar.set_postfix(loss=f"{history.validation_loss[-1]:.4g}", refresh=False)
            except RankLost as lost:
                raise _left_alone(lost, trainer, path, fingerprint) from lost
            if ranks.agree_to_stop(interrupted()):
                stopped = "interrupted"
            last = stopped != "budget" or trainer.step == trainer.steps
            due = last or trainer.step % checkpointing.every == 0
            if path is not None and due and ranks.is_main:
                trainer.save(path, fingerprint)
            watch.lap("checks")
    history.stopped = stopped
    trainer.keep_best()
    return history


def _left_alone(
    lost: RankLost, trainer: Trainer, path: FilePath | None, fingerprint: dict
) -> RankLost:
    """Write the last step down, as the main rank may be the one that was lost, and say where."""
    if path is not None:
        trainer.save(path, fingerprint)
    out = RankLost(f"Step {trainer.step + 1}: {lost} {resumption(path)}")
    out.resumption = resumption(path)
    return out


def resumption(path: str | FilePath | None) -> str:
    """Say from where a fit that has ended can go on.

    Parameters
    ----------
    path
        Its checkpoint, or None.
    """
    if path is None:
        return "Give `checkpoint` a file, and a fit that ends early goes on from there."
    if not FilePath(path).is_file():
        return f"It had no time to write the checkpoint {str(path)!r}."
    step = read_state(path)[1]["step"]
    return f"The checkpoint {str(path)!r} holds step {step}: the same call goes on from there."


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
def deferred_interrupt(*, terminable: bool = False) -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a question to ask between steps; a second one interrupts at once.

    Parameters
    ----------
    terminable
        Whether to take in the same way the polite request to end (SIGTERM) that what started
        several processes sends to those that are left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []

    def handle(number: int, frame: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    numbers = [signal.SIGINT, *([signal.SIGTERM] if terminable else [])]
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
