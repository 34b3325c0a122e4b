"""Options of commands, made from signatures and docstrings of :mod:`cellflow.tl` and of ``match``.

Sources are parsed, not imported: ``--help`` does not wait for torch.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cellflow.cli import files

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
PATH = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**63 - 1)


def _word(value: str) -> float | str:
    """Return a number, or else the word."""
    try:
        return float(value)
    except ValueError:
        return value


WORD = click.types.FuncParamType(_word)
#: Type and placeholder of an option, by the first word of the argument's annotation. Arguments of
#: other types are set from Python alone.
TYPES = {
    "str": (click.STRING, "TEXT"),
    "int": (POSITIVE, "N"),
    "float": (click.FLOAT, "X"),
    "bool": (click.BOOL, None),
    "Rng": (SEED, "S"),
    "Fit": (FOLDER, "DIR"),
}
#: Options that are not called as their argument.
SPELLED = {"n_dims": "--dims", "rng": "--seed", "generator": "--seed"}
_PACKAGE = Path(__file__).parents[1]


def registered(folder: str, family: str) -> list[str]:
    """Return the names under which files of `folder` enter members into the registry `family`."""
    names: list[Any] = []
    for file in sorted((_PACKAGE / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=name), attr="register"),
                    args=[ast.Constant(value=key), *_],
                ) if name == family:
                    names.append(key)
    return names


#: Names that an argument may have; "auto" chooses one.
NAMES = {
    "method": [*registered("methods", "METHODS"), "auto"],
    "cost": registered("costs", "COSTS"),
    "network": [*registered("networks", "NETWORKS"), "auto"],
    "solver": registered("simulate", "SOLVERS"),
}
DENSITIES = registered("densities", "DENSITIES")
FLOWS = [name for name in DENSITIES if name != "gmm"]  # it has no map
#: Those of the method of two clouds.
MATCHES = [*NAMES["method"][:-1], *registered("methods", "GENERATIVE"), *FLOWS]


@dataclass(frozen=True)
class Argument:
    """Keyword of a function of :mod:`cellflow.tl`: its annotation, default and first sentence."""

    name: str
    annotation: str
    required: bool
    default: Any
    text: str

    def option(self, *, as_text: bool) -> Callable | None:
        """Return the option that sets it, `as_text` if wanted; None if no option can."""
        first, *rest = self.annotation.split(" | ")
        spelled = SPELLED.get(self.name, "--" + self.name.replace("_", "-"))
        if self.name == "progress":
            return quiet
        if not as_text and {"float", "str"} <= {first, *rest}:
            kind: tuple[click.ParamType, str | None] = WORD, "TEXT"
        elif "Path" in rest:
            kind = PATH, "FILE"
        elif first in TYPES:
            kind = TYPES["str" if as_text else first]
        else:
            return None
        if first == "bool":
            if self.default:  # a flag can then only take it back
                spelled = f"{spelled}/{spelled.replace('--', '--no-', 1)}"
            return click.option(
                spelled, self.name, is_flag=True, default=self.default, help=self.text
            )
        if self.annotation.startswith("str | Sequence[str]"):
            several: Any = {"multiple": True, "callback": lambda _, __, value: list(value) or None}
            several |= {"required": self.required, "metavar": "TEXT"}
            text = f"{self.text.rstrip('.')}; may be repeated."
            return click.option(spelled, self.name, help=text, **several)
        names = NAMES.get(self.name)
        if "Density" in rest:
            names = MATCHES if "Method" in rest else DENSITIES if self.default else FLOWS
        names = names if names and (self.default is None or self.default in names) else None
        # click takes a None that is given for a default, even of what is required
        given = {"required": True} if self.required else {"default": self.default}
        return click.option(
            spelled,
            self.name,
            type=kind[0],
            metavar=kind[1],
            show_default=self.default is not None,
            help=f"One of {', '.join(names)}." if names else self.text,
            **given,
        )


@functools.cache
def _parsed(function: str) -> ast.FunctionDef:
    """Return the source of a `function` of :mod:`cellflow.tl`, or of ``match`` or ``report``."""
    others = (_PACKAGE / "methods" / "match.py", _PACKAGE / "reports" / "report.py")
    sources = (f.read_text(encoding="utf-8") for f in (*(_PACKAGE / "tl").glob("*.py"), *others))
    (source,) = (text for text in sources if f"\ndef {function}(" in text)
    functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    (found,) = (node for node in functions if node.name == function)
    return found


def positional(function: str) -> list[str]:
    """Return the names of the arguments of a `function` that are not keywords."""
    return [argument.arg for argument in _parsed(function).args.args]


def summary(function: str) -> str:
    """Return the first sentence of the docstring of a `function`."""
    return (ast.get_docstring(_parsed(function)) or "").partition("\n\n")[0]


@functools.cache
def arguments(function: str) -> dict[str, Argument]:
    """Return the arguments of a `function` that are options, in order."""
    node = _parsed(function)
    texts = _parameters(ast.get_docstring(node) or "")
    out = {}
    last = len(node.args.args) - len(node.args.defaults)  # positional ones with a default
    given = [*node.args.args[last:], *node.args.kwonlyargs]
    for argument, default in zip(given, [*node.args.defaults, *node.args.kw_defaults], strict=True):
        text = texts.get(argument.arg, "")
        elsewhere = re.match(r"As in :func:`(?:cellflow\.tl\.)?(\w+)`", text)
        if elsewhere:
            text = arguments(elsewhere[1])[argument.arg].text
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        value = default.value if isinstance(default, ast.Constant) else None
        out[argument.arg] = Argument(argument.arg, annotation, default is None, value, _plain(text))
    return out


def _parameters(docstring: str) -> dict[str, str]:
    """Return the text of each entry under "Parameters" of a docstring in numpy's style."""
    section = re.search(r"Parameters\n-+\n(.*?)(?:\n\n\S|\Z)", docstring, re.DOTALL)
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else ():
        if line and not line.startswith(" "):
            names = line.split(", ")
            continue
        texts |= {name: f"{texts.get(name, '')} {line.strip()}".strip() for name in names}
    return texts


def _plain(text: str) -> str:
    """Return the first sentence of a docstring's `text`, without markup."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("`", "")
    return re.split(r"(?<=[a-z\")\d])\. ", text)[0].rstrip(".") + "." if text else ""


def of(
    function: str, *, without: Collection[str] = (), as_text: Collection[str] = ()
) -> Callable[[Callable], Callable]:
    """Return a decorator that adds the options of a `function` of :mod:`cellflow.tl`.

    The command gets them as one argument `keywords`, to be handed on. Those in `without` are left
    out, those in `as_text` are handed on as they were written.
    """
    made = {
        name: argument.option(as_text=name in as_text)
        for name, argument in arguments(function).items()
        if name not in without
    }
    chosen = {name: option for name, option in made.items() if option is not None}

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def bundled(**given: Any) -> Any:
            if "progress" in chosen:
                given["progress"] = not given.pop("quiet")
            return command(keywords={name: given.pop(name) for name in chosen}, **given)

        for option in reversed(chosen.values()):
            bundled = option(bundled)
        return bundled

    return decorate


quiet = click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")


def file(name: str, check: Callable, text: str) -> Callable[[Callable], Callable]:
    """Return the option `name` of a file to write, which `check` accepts and `text` explains."""
    return click.option(name, type=PATH, metavar="FILE", callback=check, help=text)


json = file("--json", files.check_new_file, "Write the rows here.")
cells = click.argument("file", type=FILE, metavar="FILE.h5ad")
#: Arguments of functions that are not options.
ARGUMENTS = {
    "adata": cells,
    "fit": click.argument("fit", type=FOLDER, metavar="DIR"),
    "fate": click.argument("fate", metavar="FATE"),
    "genes": click.argument("genes", nargs=-1, required=True, metavar="GENE..."),
}


def given(command: Callable) -> Callable:
    """Add the options of the condition that the fit of a `command` is given."""
    example = "Condition to answer for, such as 'drug=A+B,dose=3'."
    strength = "Strength of the condition; 1 as learned, 0 for all together [default: evidence]."
    command = click.option("--guidance", type=click.FLOAT, metavar="X", help=strength)(command)
    return click.option("--condition", metavar="TEXT", help=example)(command)


def conditions(text: str, *, required: bool = False) -> Callable[[Callable], Callable]:
    """Return the option ``--condition``, which `text` explains and may be repeated."""
    several: Any = {"multiple": True, "callback": lambda _, __, value: list(value) or None}
    text = f"{text}; may be repeated."
    return click.option("--condition", metavar="TEXT", required=required, help=text, **several)


fitted = click.argument("folder", type=FOLDER, metavar="DIR")
sigma = click.option(
    "--sigma",
    type=click.FloatRange(min=0.0),
    metavar="S",
    help="Noise of the method, in data units (bridges: per root of time).",
)


def output(metavar: str, check: Callable, text: str) -> Callable[[Callable], Callable]:
    """Return the option ``--out``, which `check` accepts and `text` explains."""
    return click.option(
        "--out", type=PATH, required=True, metavar=metavar, callback=check, help=text
    )
