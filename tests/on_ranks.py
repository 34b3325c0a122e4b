"""What every rank of a test does; started as torchrun would start it, by test_process_group.py."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from cellflow import TimeCourse
from cellflow._process_group import ProcessGroup, RankLost
from cellflow.batches import Batching
from cellflow.couplings import Exact
from cellflow.evaluate import HoldoutTable, holdout
from cellflow.fits import Ensemble, Fit
from cellflow.methods import OTCFM, UBSB, FlowMatching
from cellflow.networks import MLPConfig
from cellflow.several import fit_members, fit_on, join_process_group
from cellflow.training import Checkpointing, FitOptions, Trainer, Training

STEPS = 40
#: Odd numbers of pairs in a batch, so that ranks have unequal parts.
SETTINGS = {
    "net": MLPConfig(16, 2),
    "batching": Batching(batch_size=31, block_size=16, reuse=2),
    "training": Training(check_every=10),
}
#: Of couplings that take long.
QUICK = {
    "batching": Batching(batch_size=31, block_size=35, reuse=8),
    "training": Training(check_every=10, validation=0.0),
}
METHODS: dict[str, FlowMatching] = {
    "otcfm": OTCFM(**SETTINGS),
    "ubsb": UBSB(0.5, **SETTINGS | QUICK),
    "whole": OTCFM(**SETTINGS | {"batching": Batching(batch_size=31, block_size=None)}),
}


@dataclass(frozen=True)
class Deadly(Exact):
    """Ends the second rank in the midst of training, as a lack of memory would."""

    def many(self, sources, targets):
        self.calls.append(1)
        if len(self.calls) > 33 and os.environ.get("LOCAL_RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().many(sources, targets)

    calls: ClassVar[list[int]] = []


def course(dtype: torch.dtype = torch.float64) -> TimeCourse:
    """Four snapshots whose cells drift apart, one of them twice as heavy."""
    g = torch.Generator().manual_seed(1)
    xs = [k + (1 + k) * torch.randn(70, 3, generator=g, dtype=dtype) for k in range(4)]
    masses = [torch.full((70,), m, dtype=dtype) for m in (1.0, 2.0, 1.5, 3.0)]
    return TimeCourse.from_arrays(xs, masses=masses)


def fit(name: str, path: Path | None = None, dtype: torch.dtype = torch.float64) -> Fit:
    """Fit on all ranks that there are."""
    saved = Checkpointing(path, every=10)
    options = FitOptions(steps=STEPS, checkpointing=saved, progress=False)
    return fit_on(METHODS[name], course(dtype), options)


def several(group: ProcessGroup) -> tuple[Ensemble, HoldoutTable]:
    """Members of an ensemble, and a hold-out table; three and four fits."""
    method, asked = METHODS["otcfm"], {"steps": 12, "progress": False}
    options = FitOptions(**asked, group=group)
    ensemble = fit_members(method, course(), options, members=3, workers=1)
    table = holdout(course(), method, seeds=2, metrics=["w1"], ranks=group, workers=1, **asked)
    return ensemble, table


def weights(fit: Fit) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in fit.networks.parameters()])


@contextmanager
def at_step(step: int, action: Callable[[], None]):
    """Do something before a step of training."""
    original = Trainer.advance

    def advance(self: Trainer, batch) -> None:
        if self.step == step:
            action()
        original(self, batch)

    Trainer.advance = advance
    try:
        yield
    finally:
        Trainer.advance = original


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def main(folder: Path, rank: int) -> None:
    def keep(name: str, fit: Fit) -> None:
        torch.save([weights(fit), fit.history], folder / f"{name}-{rank}")

    for name in METHODS:
        keep(name, fit(name))
    keep("float32", fit("otcfm", dtype=torch.float32))
    keep("from_one", fit("otcfm", folder / "one"))
    with at_step(17, interrupt if rank == 1 else lambda: None):
        keep("interrupted", fit("ubsb", folder / "two"))
    ensemble, table = several(join_process_group())
    torch.save([list(map(weights, ensemble)), table], folder / f"several-{rank}")
    try:
        join_process_group().shared([0, 1], lambda mine: [1 / (1 - k) for k in mine])
    except ZeroDivisionError:
        (folder / f"error-{rank}").touch()
    end = (lambda: os.kill(os.getpid(), signal.SIGKILL)) if rank == 1 else (lambda: None)
    try:
        with at_step(23, end):
            fit("otcfm", folder / "killed")
    except RankLost as lost:
        (folder / "lost").write_text(str(lost))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["RANK"]))
