"""Process group: the processes (ranks) that train one model together, and their messages."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from cellflow import _checks
from cellflow._typing import Tensor

T = TypeVar("T")
R = TypeVar("R")
#: On an accelerator, steps between two looks at whether a rank asked to stop: each look waits.
_LOOK_EVERY = 16


class RankLost(RuntimeError):  # noqa: N818 - it says what happened
    """Another process of a training has ended, or cannot be reached."""

    resumption = ""  # from where the training can go on


@dataclass(eq=False)
class ProcessGroup:
    """Rank of this process among `world`, and its messages to the others; alone by default.

    Every method but :meth:`share` is to be called by all ranks in the same order, and by one
    thread: messages of two threads would be taken for one another. Of torch's process groups,
    `on_cpu` carries what is not on the accelerator; None is the one of all messages.
    """

    rank: int = 0
    world: int = 1
    on_cpu: torch.distributed.ProcessGroup | None = None
    _asking: bool = field(default=False, init=False)
    _asked: Tensor | None = field(default=None, init=False)
    _steps: int = field(default=0, init=False)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and shows progress."""
        return self.rank == 0

    def share(self, jobs: Sequence[T]) -> list[T]:
        """Return the `jobs` of this rank: every ``world``-th."""
        return list(jobs[self.rank :: self.world])

    def mean_(self, *tensors: Tensor, share: Tensor | float = 1.0) -> None:
        """Replace `tensors` by their means over ranks, all in one message.

        They are of one dtype and device, and of the same shapes on all ranks; `share` is the
        weight of this rank's values, of mean one over ranks. If a rank is lost, they stay.
        """
        if self.world == 1:
            return
        own = [t.detach().reshape(-1) * share for t in tensors]
        message = torch.cat([*own, own[0].new_full((1,), float(self._asking))])
        with self._together():
            torch.distributed.all_reduce(message)
        self._asked = message[-1] if self._asked is None else self._asked + message[-1]
        sizes = [t.numel() for t in tensors]
        for tensor, part in zip(tensors, (message[:-1] / self.world).split(sizes), strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    def agree_to_stop(self, asking: bool) -> bool:
        """Return whether any rank was `asking` to stop, as the last mean has told."""
        if self.world == 1:
            return asking
        self._asking = self._asking or asking
        self._steps += 1
        heard = self._asked
        if heard is None or (heard.device.type != "cpu" and self._steps % _LOOK_EVERY):
            return False
        return bool(heard > 0)

    def start(self) -> None:
        """Begin a run, in which no rank has asked to stop."""
        self._asking, self._asked, self._steps = False, None, 0

    def gather(self, value: T, device: torch.device | str = "cpu") -> list[T]:
        """Return the `value` of every rank, in their order, with its tensors on `device`."""
        if self.world == 1:
            return [value]
        mine, theirs = io.BytesIO(), [b""] * self.world
        torch.save(value, mine)
        with self._together():
            torch.distributed.all_gather_object(theirs, mine.getvalue(), group=self.on_cpu)
        return [
            value
            if k == self.rank
            else torch.load(io.BytesIO(told), map_location=device, weights_only=False)
            for k, told in enumerate(theirs)
        ]

    def interleave(self, results: list[T], device: torch.device | str = "cpu") -> list[T]:
        """Return the results of all jobs from those of each rank's share, in their order."""
        parts = self.gather(results, device)
        return [parts[k % self.world][k // self.world] for k in range(sum(map(len, parts)))]

    def shared(self, jobs: Sequence[T], work: Callable[[list[T]], list[R]]) -> list[R]:
        """Give each rank its share of `jobs` to `work` on; return all results on all ranks.

        The first error on any rank is raised on all of them.
        """
        own: list[R] = []
        mine: Exception | None = None
        try:
            own = work(self.share(jobs))
        except Exception as error:
            mine = error
        for raised in filter(None, self.gather(mine)):
            raise raised
        return self.interleave(own)

    def require_same(self, facts: dict[str, Any], name: str) -> None:
        """Raise a ValueError on all ranks unless all have the same `facts`."""
        theirs = self.gather(facts)
        differ = [key for key in facts if any(other[key] != theirs[0][key] for other in theirs)]
        if differ:
            got = f"ranks that differ in {', '.join(differ)}"
            raise ValueError(_checks.message(name, got, "the same on all ranks"))

    def broadcast(self, make: Callable[[], T]) -> T:
        """Call `make` on the main rank alone, and return its result, or raise its error, on all."""
        if self.world == 1:
            return make()
        return self.shared([None], lambda own: [make() for _ in own])[0]

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            # Without the file and line of torch's sources in front, and the advice behind.
            reason = str(error).strip().splitlines()[0].split(". ")[0].split("] ", 1)[-1]
            text = f"Rank {self.rank} of {self.world} lost another one: {reason}."
            raise RankLost(text) from error


_here: ProcessGroup | None = None


def here() -> ProcessGroup:
    """Return the process group of torch, or this process alone if there is none."""
    global _here
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return ProcessGroup()
    if _here is None or _here.world != distributed.get_world_size():
        gloo = distributed.get_backend() == "gloo"
        on_cpu = None if gloo else distributed.new_group(backend="gloo")
        _here = ProcessGroup(distributed.get_rank(), distributed.get_world_size(), on_cpu)
    return _here
