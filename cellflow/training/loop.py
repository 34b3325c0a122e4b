"""Training loop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any, Protocol, TypeVar

from tqdm.auto import tqdm

from cellflow import _checks
from cellflow._files import read_state
from cellflow._process_group import ProcessGroup, RankLost
from cellflow._random import seeded_draws, stream_seed
from cellflow.training.options import FitOptions, StepReport
from cellflow.training.trainer import History, Training

B = TypeVar("B", contravariant=True)
H = TypeVar("H", contravariant=True)


class _Run(Protocol[B, H]):
    """Training run as the loop sees it: a :class:`Trainer`, or one of several members."""

    training: Training
    steps: int
    group: ProcessGroup
    history: History

    @property
    def step(self) -> int: ...
    @property
    def out_of_patience(self) -> bool: ...
    def advance(self, batch: B) -> None: ...
    def check(self, batch: H) -> bool: ...
    def report(self) -> StepReport: ...
    def keep_best(self) -> None: ...
    def save(self, path: str | FilePath, fingerprint: dict[str, Any]) -> None: ...
    def restore(self, path: str | FilePath, fingerprint: dict[str, Any]) -> None: ...


def run(
    trainer: _Run[B, H],
    draw: Callable[[int], B],
    validation: H,
    *,
    fingerprint: dict[str, Any],
    options: FitOptions,
) -> History:
    """Train until the budget is spent, patience has run out, or Ctrl-C; keep the best weights.

    `draw` gives batch number ``k`` as a pure function of ``k``; `validation` is a fixed batch to
    measure the loss on, or None for the training loss. The checkpoint of `options` must agree on
    `fingerprint`; if another process is lost, it holds the last step. Networks that draw from
    torch's own generators do so by the seed and the step.
    """
    checkpointing, on_step = options.checkpointing, options.on_step
    path = None if checkpointing.path is None else FilePath(checkpointing.path)
    group, every = trainer.group, trainer.training.check_every
    group.start()
    if path is not None and group.broadcast(path.exists):
        trainer.restore(path, fingerprint)
    history, last = trainer.history, time.perf_counter()

    def lap(what: str) -> None:
        """Count the time since the last lap as spent on `what`."""
        nonlocal last
        now = time.perf_counter()
        history.seconds += now - last
        history.spend({what: now - last})
        last = now

    if trainer.step and trainer.step % every == 0 and history.step[-1:] != [trainer.step]:
        trainer.check(validation)  # on the way to which a rank was lost
    stopped, begun = "patience" if trainer.out_of_patience else "budget", trainer.step
    bar = tqdm(total=trainer.steps, initial=trainer.step, disable=not options.progress, unit="step")
    with bar, deferred_interrupt(terminable=group.world > 1) as interrupted:
        while trainer.step < trainer.steps and stopped == "budget":
            try:
                batch = draw(trainer.step)
                if trainer.step == begun:
                    bar.unpause()  # kernels are compiled once, plans of whole snapshots made once
                lap("data")
                draw_number = trainer.step * group.world + group.rank
                with seeded_draws(stream_seed(options.seed, draw_number, 18)):
                    trainer.advance(batch)
                lap("network")
                bar.update()
                if trainer.step % every == 0 or trainer.step == trainer.steps:
                    if trainer.check(validation):
                        stopped = "patience"
                    bar.set_postfix(loss=f"{history.validation_loss[-1]:.4g}", refresh=False)
                if on_step is not None and group.is_main:
                    on_step(trainer.report())
            except RankLost as lost:  # the main rank, which writes files, may be the one
                _save(trainer, path, fingerprint)
                lost.resumption = resumption(path)
                lost.args = (f"Step {trainer.step + 1}: {lost} {lost.resumption}",)
                raise
            if group.agree_to_stop(interrupted()):
                stopped = "interrupted"
            ends = stopped != "budget" or trainer.step == trainer.steps
            if group.is_main and (ends or trainer.step % checkpointing.every == 0):
                _save(trainer, path, fingerprint)
            lap("checks")
    history.stopped = stopped
    trainer.keep_best()
    return history


def _save(trainer: _Run[B, H], path: FilePath | None, fingerprint: dict[str, Any]) -> None:
    """Write the checkpoint, if there is one; what is learned is worth more than that."""
    try:
        if path is not None:
            trainer.save(path, fingerprint)
    except OSError as error:
        text = f"checkpoint: {str(path)!r} could not be written ({error}). The fit goes on."
        _checks.warn(" ".join(text.split()))


def resumption(path: str | FilePath | None) -> str:
    """Say from where a fit with the checkpoint `path`, or with none, can go on."""
    if path is None:
        return "Give `checkpoint` a file, and a fit that ends early goes on from there."
    if not FilePath(path).is_file():
        return f"It had no time to write the checkpoint {str(path)!r}."
    step = read_state(path)[1]["step"]
    return f"The checkpoint {str(path)!r} holds step {step}: the same call goes on from there."


@contextmanager
def deferred_interrupt(*, terminable: bool = False) -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a question to ask between steps; a second one interrupts at once.

    If `terminable`, so is the request to end (SIGTERM) that the remaining ones of several
    processes are sent.
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
