"""Files and folders that are written whole or not at all; tensors without pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellflow._typing import Tensor


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`, which takes its place if all goes well.

    What a link points to is replaced, not the link; a device or a pipe is written to directly.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
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


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder beside `folder`, which takes its place, and is complete, if all goes well.

    Whether what is at `folder` may be replaced, the caller decides.
    """
    folder = folder.resolve()
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(temporary, folder)
        except OSError:
            if old.exists():
                os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_state(path: str | Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Write `tensors` and JSON-able `facts` to `path` (safetensors), atomically."""
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        save_file(flat, temporary, metadata={"facts": json.dumps(facts)})


def read_state(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read what :func:`write_state` wrote, on the CPU."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path`: no file {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as handle:
            facts = json.loads((handle.metadata() or {})["facts"])
            return {name: handle.get_tensor(name) for name in handle.keys()}, facts  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"`path`: {str(path)!r} was not written by cellflow ({error}).") from None
