"""Tables of HTML: what notebooks show of a fit or a plan, and reports of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from numbers import Integral, Real
from typing import TypeVar

T = TypeVar("T")
#: Letters from which on a value is a text that may take several lines.
_LONG = 30


def shown(rows: Callable[..., Iterable[Sequence[object]]]) -> Callable[[type[T]], type[T]]:
    """Return a decorator by which a class is printed, and shown in notebooks, as its `rows`."""

    def printed(self: T) -> str:
        lines = (f"\n{name}: {_text(value)}" for name, value in rows(self))
        return (type(self).__name__ + "".join(lines)).replace("\n", "\n  ")

    def decorate(made: type[T]) -> type[T]:
        made.__repr__ = printed  # type: ignore[assignment,method-assign]
        made._repr_html_ = lambda self: table(rows(self), caption=type(self).__name__)  # type: ignore[attr-defined]
        return made

    return decorate


def table(
    rows: Iterable[Sequence[object]], *, head: Sequence[object] = (), caption: str = ""
) -> str:
    """Return a table whose every row begins with its name, under the names `head` of columns.

    The `caption`, names and values may be any text; numbers are written with four digits.
    """
    top = "".join(f'<th scope="col">{escape(_text(name))}</th>' for name in head)
    body = []
    for name, *values in rows:
        cells = [f'<th scope="row">{escape(_text(name))}</th>']
        for text in map(_text, values):
            cells.append(f"<td{' class=long' * (len(text) > _LONG)}>{escape(text)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    titled = f"<caption>{escape(caption)}</caption>" if caption else ""
    titled += f"<thead><tr>{top}</tr></thead>" if head else ""
    return f"<table>{titled}<tbody>{''.join(body)}</tbody></table>"


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, Real):  # numpy's numbers are real, too
        return str(value)
    return f"{value:,}" if isinstance(value, Integral) else f"{value:.4g}"
