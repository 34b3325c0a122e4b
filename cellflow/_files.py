"""Files and folders that are written whole or not at all; tensors without pickle."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import platform
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line checks files without waiting for torch
    from cellflow._typing import Tensor

#: What the system says where a folder is in the way.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`, which takes its place if all goes well.

    What a link points to is replaced, not the link; a device or a pipe is written to directly.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    recover(path)
    temporary = _beside(path, "tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def beside(path: str | Path | None, name: str) -> Path | None:
    """Return the file beside `path` with `name` before its ending; None for none."""
    if path is None:
        return None
    path = Path(path)
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


def obstacle(path: str | Path) -> str | None:
    """Return why the file or folder `path` cannot be written, None if it can; nothing is left."""
    path = there = Path(path).absolute()
    try:
        path.exists()  # raises for a name that is too long
        there = next(parent for parent in (*path.parents, path) if parent.exists())
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError as error:
        return f"{error.strerror}: {str(there)!r}"


@contextmanager
def whole_folder(folder: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a new folder beside `folder`, which takes its place, and is complete, if all goes well.

    Whether what is at `folder` may be replaced, the caller decides; without `replace`, what has
    appeared there in the meantime stays. Of several writers the last one wins.
    """
    folder = folder.resolve()
    if folder == Path.cwd():  # a shell would be left in a folder that is no more
        got = f"got {str(folder)!r}, the working directory, expected a folder inside it"
        raise FileExistsError(f"`folder`: {got}.")
    recover(folder)
    temporary, old = _beside(folder, "tmp"), _beside(folder, "old")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for tries_left in reversed(range(100)):
            try:
                os.replace(temporary, folder)  # of which none, or an empty one, is there
                break
            except OSError as error:
                if error.errno not in _TAKEN or not tries_left:
                    raise
            if not replace or _exchanged(temporary, folder):
                break
            shutil.rmtree(old, ignore_errors=True)
            with suppress(FileNotFoundError):  # another writer has just moved it
                os.replace(folder, old)
    finally:
        if old.exists() and not folder.exists():
            with suppress(OSError):  # another writer was faster
                os.replace(old, folder)
        for rest in (temporary, old):
            shutil.rmtree(rest, ignore_errors=True)


def _beside(path: Path, ending: str) -> Path:
    """Return a new name beside `path`, which nobody can foresee and :func:`recover` finds."""
    mark = f"{os.getpid()}.{secrets.token_hex(8)}.{ending}{path.suffix}"
    return path.with_name(_hidden(path) + mark)


def _hidden(path: Path) -> str:
    """Return how the names begin that this machine writes beside `path`."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    return f".{path.stem[:30]}.{digest}.{platform.node()}."


def recover(path: Path) -> None:
    """Remove what processes of this machine that were killed have left beside `path`.

    Where one was killed while a folder was neither old nor new, the old one takes its place again.
    """
    path = path.resolve()
    start = _hidden(path)
    for rest in path.parent.glob(f"{glob.escape(start)}*"):
        pid, _, ending = rest.name.removeprefix(start).split(".")[:3]
        if not _has_ended(int(pid)):
            continue
        with suppress(OSError):  # another process may be at it, or may not let us
            if ending == "old" and not path.exists():
                os.replace(rest, path)
            elif rest.is_dir():
                shutil.rmtree(rest)
            else:
                rest.unlink()


def _has_ended(pid: int) -> bool:
    """Whether a process of this machine is known to be no more."""
    if os.name == "nt":  # asking would end it
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two folders in one step, and return whether the system could."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    ends = os.fsencode(one), os.fsencode(other)
    return swap is not None and swap(here, ends[0], here, ends[1], exchange) == 0


def write_state(path: str | Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Write `tensors` and JSON-able `facts` to `path` (safetensors), atomically; or OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(flat, temporary, metadata={"facts": json.dumps(facts)})
        except SafetensorError as error:  # such as a disk that is full
            raise OSError(errno.EIO, str(error), str(path)) from error


def read_state(path: str | Path, name: str = "path") -> tuple[dict[str, Tensor], dict]:
    """Read what :func:`write_state` wrote, on the CPU; `name` is what messages call `path`."""
    from safetensors import SafetensorError, safe_open

    path, expected = Path(path), "expected a file that cellflow has written"
    if not path.is_file():
        raise FileNotFoundError(f"`{name}`: got {str(path)!r}, which is no file, {expected}.")
    try:
        with safe_open(path, framework="pt") as handle:
            facts = dict(json.loads((handle.metadata() or {})["facts"]))
            return {name: handle.get_tensor(name) for name in handle.keys()}, facts  # noqa: SIM118
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        why = f"`{name}`: got {str(path)!r}, which is damaged or something else ({error})"
        raise ValueError(f"{why}, {expected}. Name another file, or remove this one.") from None
