"""One phrasing for every argument error: what, got, expected, do this."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from cellflow import _guard
from cellflow._typing import ArrayLike, Rng, Tensor

# Also here, on the lowest floor: where another distribution's `cellflow/__init__.py` has replaced
# ours, every module of ours that is left still passes through this file.
_guard.refuse_rivals()

#: Largest seed.
MAX_SEED = 2**63 - 1
#: Options that an error names, and characters of what it got, at most.
NAMED, LONGEST = 50, 300

T = TypeVar("T")
M = TypeVar("M")


def message(name: str, got: object, expected: str, remedy: str = "") -> str:
    """Phrase an argument error."""
    told = str(got)
    if len(told) > LONGEST:
        told = f"{told[:LONGEST]}…"
    text = f"`{name}`: got {told}, expected {expected}."
    return f"{text} {remedy}" if remedy else text


def choice(value: str, options: Mapping[str, T] | Iterable[str], name: str) -> str:
    """Return `value` if it is one of `options`, else suggest the nearest one."""
    known = sorted(options)
    if isinstance(value, str) and value in known:
        return value
    if hasattr(value, "tocsr"):  # one that is damaged has no text
        raise TypeError(message(name, type(value).__name__, "a name"))
    plain = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(value).lower(), plain, n=1, cutoff=0.5)
    hint = f"Did you mean {plain[near[0]]!r}?" if near else "Choose one of them."
    if callable(value):  # a recipe or a class, where what it makes was meant
        hint = f"Call it: {getattr(value, '__name__', 'f')}()."
    listed = ", ".join(map(repr, known[:NAMED]))
    more = f", … ({len(known):,} in all)" if len(known) > NAMED else ""
    raise ValueError(message(name, repr(value), f"one of {listed}{more}", hint))


#: Modules that call the package as others do.
_OUTSIDE = ("cellflow.cli", "cellflow._processes")


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn as of the line that called the package, however deep in it this is."""
    frame, level, at = sys._getframe(1), 2, 2
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] == "cellflow" and not name.startswith(_OUTSIDE):
            at = level + 1  # its caller
        frame, level = frame.f_back, level + 1  # type: ignore[assignment]
    warnings.warn(text, category, stacklevel=at)


@contextmanager
def by_function(name: str) -> Iterator[None]:
    """Note on errors of a function of the user's own which argument it came as: `name`."""
    try:
        yield
    except Exception as error:
        error.add_note(f"What was given as `{name}` raised this.")
        raise


def number(
    value: float, name: str, *, low: float = -np.inf, high: float = np.inf, open_low: bool = False
) -> float:
    """Return `value` as a finite float inside ``[low, high]`` (``(low, high]`` if `open_low`)."""
    bounds = f"a finite number in {'(' if open_low else '['}{low:g}, {high:g}]"
    try:
        # Text would pass here and fail in the first sum; of a complex number, half is lost.
        if isinstance(value, str) or _is_complex(value):
            raise TypeError
        out = float(value)
    except (TypeError, ValueError, RuntimeError):  # the last of a tensor without values
        raise TypeError(message(name, repr(value), bounds)) from None
    except OverflowError:  # a whole number, of which the text may be too long as well
        raise ValueError(message(name, "a number beyond 1e308", bounds)) from None
    if not np.isfinite(out) or out < low or out > high or (open_low and out == low):
        raise ValueError(message(name, repr(value), bounds))
    return out


def count(value: int, name: str, *, low: int = 1, high: int = MAX_SEED) -> int:
    """Return `value` as an integer from `low` to `high`, the largest that arrays can hold."""
    bounds = f"an integer of at least {low}" + (f" and at most {high}" if high < MAX_SEED else "")
    if isinstance(value, (bool, np.timedelta64)) or not isinstance(value, (int, np.integer)):
        raise TypeError(message(name, repr(value), bounds))
    if abs(int(value)) > 10**20:  # its text may be too long
        raise ValueError(message(name, "a number of more than 20 digits", bounds))
    if value < low or value > high:
        raise ValueError(message(name, repr(value), bounds))
    return int(value)


def distinct(values: Sequence[int], name: str) -> None:
    """Refuse `values` that repeat: copies have no spread, and pass for certain."""
    if len(set(values)) < len(values):
        got = f"{max(values, key=values.count)} more than once"
        raise ValueError(message(name, got, "each once"))


def as_numbers(
    x: ArrayLike | Sequence[float] | float, name: str, expected: str = "numbers"
) -> Tensor:
    """Return `x` as a tensor, whatever its strides, byte order and permissions.

    That numbers are finite is not yet checked. Of complex numbers or masked ones, something would
    be lost: they are errors.
    """
    if _is_complex(x):
        remedy = "Take the real part yourself, if that is what is meant."
        raise TypeError(message(name, "complex numbers", expected, remedy))
    if np.ma.is_masked(x):
        remedy = "Drop these cells, or fill them in: x.filled(...)."
        raise ValueError(message(name, "masked values", expected, remedy))
    if isinstance(x, torch.Tensor):
        if x.layout != torch.strided or x.is_meta:
            raise TypeError(message(name, f"a tensor on {x.device}, {x.layout}", expected))
        return x
    try:
        array = np.asarray(x)
        # Tensors share memory only with what is writable (pandas 3 hands out read-only views),
        # of native byte order (files may have the other), and not read backwards.
        native = array.dtype.newbyteorder("=")
        return torch.from_numpy(np.require(array, native, ["C_CONTIGUOUS", "WRITEABLE"]))
    except (TypeError, ValueError) as error:
        raise TypeError(message(name, type(x).__name__, expected)) from error


def several(values: Iterable[T], name: str) -> list[T]:
    """Return `values` as a list."""
    try:
        return list(values)
    except (TypeError, ValueError):  # sparse matrices say that they can be iterated
        raise TypeError(message(name, f"a {type(values).__name__}", "several values")) from None


def rows(index: Tensor, n: int, name: str) -> None:
    """Refuse an `index` that is no long tensor of rows of `n`."""
    found = index if isinstance(index, torch.Tensor) else torch.tensor(0.0)
    whole = found.ndim == 1 and found.dtype == torch.long
    if not whole or bool((found < -n).any() | (found >= n).any()):
        got = f"{found.dtype} of shape {tuple(found.shape)}" if found is index else f"{type(index)}"
        raise ValueError(message(name, got, f"a long tensor of rows from 0 to {n - 1}"))


def key(value: str, name: str) -> str:
    """Return `value` if it can be a key of what is written: files take "/" for a folder."""
    if not isinstance(value, str) or not value or "/" in value or "\0" in value:
        raise ValueError(message(name, repr(value), "a name without '/'"))
    return value


def sound(matrix: M, name: str) -> M:
    """Return a scipy `matrix` unless it points outside of itself: compiled code trusts it."""
    if hasattr(matrix, "check_format"):  # compressed
        try:
            matrix.check_format(full_check=True)
        except ValueError as error:
            raise unsound(name, str(error)) from error
    return matrix


def unsound(name: str, why: str) -> ValueError:
    """Return the error of a sparse matrix with wrong indices."""
    got, remedy = f"a damaged sparse matrix ({why})", "Write the file anew."
    return ValueError(message(name, got, "indices inside the matrix", remedy))


def _is_complex(x: Any) -> bool:
    try:
        return x.is_complex() if isinstance(x, torch.Tensor) else np.iscomplexobj(x)
    except (TypeError, ValueError):  # rows of unequal length are no numbers at all
        return False


def as_floats(x: Tensor, name: str) -> Tensor:
    """Return numbers `x` in a floating type that tells them apart; one that they have is kept."""
    if x.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return x
    out = x.to(torch.get_default_dtype())
    if x.numel() == 0 or bool((out.abs() < 2**24).all()):  # float32 holds all of these
        return out
    out = x.double()
    if not bool((out.abs() <= 2**53).all()):
        got, remedy = "integers beyond 2^53", "Convert them to floating numbers."
        raise ValueError(message(name, got, "numbers that float64 can tell apart", remedy))
    return out


def as_cells(x: ArrayLike, name: str, *, dim: int | None = None, min_cells: int = 1) -> Tensor:
    """Return `x` as a finite floating ``(n, d)`` tensor; dtype and device of a tensor are kept."""
    if hasattr(x, "toarray"):  # scipy.sparse: representations are small enough to be dense
        x = sound(x, name).toarray()
    cells = as_floats(as_numbers(x, name, "an (n, d) array of numbers"), name)
    if cells.ndim != 2 or cells.shape[1] == 0:
        shape = tuple(cells.shape)
        expected = "shape (n, d): cells × dimensions"
        raise ValueError(message(name, f"shape {shape}", expected, "Reshape it."))
    if len(cells) < min_cells:
        expected, remedy = f"at least {min_cells}", "Give more, or merge time points."
        raise ValueError(message(name, f"{len(cells)} cells", expected, remedy))
    if dim is not None and cells.shape[1] != dim:
        got, expected = f"{cells.shape[1]} dimensions", f"{dim}, as the other cells have"
        raise ValueError(message(name, got, expected))
    if bool(torch.isfinite(cells.sum())):  # then all are; if not, a sum may have overflowed
        return cells
    bad = ~torch.isfinite(cells).all(dim=1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        got = f"NaN or infinite values in {int(bad.sum())} cells (first: row {first})"
        raise ValueError(message(name, got, "finite numbers", "Remove or impute these cells."))
    return cells


def time_dtype(device: torch.device) -> torch.dtype:
    """Return the type of times: float64 where the device has it, for gaps far from zero."""
    return torch.float32 if device.type == "mps" else torch.float64


def as_generator(rng: Rng, name: str = "generator") -> torch.Generator:
    """Return a CPU :class:`torch.Generator` from a seed, a generator, or fresh entropy (None).

    A torch generator is used as is (and advanced); a numpy generator is advanced by one draw.
    """
    if isinstance(rng, torch.Generator):
        return rng
    if rng is None:
        return torch.Generator().manual_seed(int(np.random.SeedSequence().generate_state(1)[0]))
    if isinstance(rng, np.random.Generator):
        return torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
    return torch.Generator().manual_seed(count(rng, name, low=0, high=MAX_SEED))


def as_device(device: torch.device | str | None, default: torch.device) -> torch.device:
    """Return an available device, `default` for None."""
    if device is None:
        return default
    try:
        place = torch.empty(0, device=device).device
        if place.type == "meta":
            raise TypeError("a device without numbers")
        return place
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        backends = {"cuda": torch.cuda, "mps": torch.backends.mps}
        known = ["cpu", *(name for name, backend in backends.items() if backend.is_available())]
        expected = f"an available device: {', '.join(known)}"
        known_kind = isinstance(device, str | int | float | torch.device)
        got = repr(str(device)) if known_kind else type(device).__name__
        raise ValueError(message("device", got, expected)) from error
