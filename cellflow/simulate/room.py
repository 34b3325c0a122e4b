"""How much memory is left, before it is asked for."""

from __future__ import annotations

from pathlib import Path

import torch

from cellflow import _checks

#: Fraction of what is left that a result may take.
SHARE = 0.8
_CGROUP = Path("/sys/fs/cgroup")


def require_room(size: int, what: str, *, device: torch.device) -> None:
    """Refuse a result that would not fit in memory.

    Parameters
    ----------
    size
        Its bytes.
    what
        What it is, in words.
    device
        Where it would be.

    Raises
    ------
    ValueError
        If it is more than four fifths of what is left; where that is not known, nothing is
        refused.
    """
    left = available(device)
    if left is not None and size > SHARE * left:
        got = f"{what}: {size / 2**30:,.3g} GiB in memory"
        expected = f"at most {SHARE * left / 2**30:,.3g} GiB, {SHARE:.0%} of what is left"
        remedy = "Pass store='trajectories.zarr' to write them to disk, or ask for fewer times."
        raise ValueError(_checks.message("times", got, expected, remedy))


def available(device: torch.device) -> int | None:
    """Return the bytes left on `device`, or None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    left = [n for n in (_of_machine(), _of_group()) if n is not None]
    return min(left, default=None)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) << 10
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    try:
        import psutil  # where the system has no such file; comes with scanpy
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def _of_group() -> int | None:
    """What is left to a container: its limit less what it uses, but for files it could drop."""
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        rows = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        facts = dict(row.split() for row in rows)
        return max(0, limit - used + int(facts.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None
