"""Which notebooks there are, which parameters they have, and the values a user gives them."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nbformat

from helpers.workspace import DataError


def find_notebooks(names: Sequence[str], folder: Path, *, extras: bool = False) -> list[Path]:
    """Notebooks in the order in which they are to run.

    Parameters
    ----------
    names : sequence of str
        Each the start of a notebook's name ("03") or the path of an .ipynb file; empty for every notebook.
    folder : Path
        Where the notebooks are; further ones in ``extras`` below it.
    extras : bool
        Whether an empty `names` also means those in ``extras``.

    Returns
    -------
    list of Path
        Numbered notebooks first, in their order; paths in the order given.

    Raises
    ------
    DataError
        If a name fits no notebook, or there is none at all.
    """
    numbered, further = sorted(folder.glob("*.ipynb")), sorted(folder.glob("extras/*.ipynb"))
    if not names:
        chosen = numbered + (further if extras else [])
        if not chosen:
            raise DataError(f"{folder} holds no notebook", "run this from a complete copy of the repository")
        return chosen
    paths = []
    for name in names:
        path = Path(name)
        fitting = [path.absolute()] if path.suffix == ".ipynb" else [p for p in numbered + further if p.stem.startswith(name)]
        if not fitting or not fitting[0].is_file():
            known = ", ".join(p.stem for p in numbered + further)
            raise DataError(f"there is no notebook {name!r}", f"choose among {known or 'none: ' + str(folder) + ' is empty'}")
        paths.extend(fitting)
    order = {path: number for number, path in enumerate(numbered + further)}
    return sorted(dict.fromkeys(paths), key=lambda path: order.get(path, -1))


def read_parameters(path: Path) -> dict[str, object]:
    """Names and defaults in the cell tagged ``parameters`` of a notebook; empty where it has no such cell.

    papermill's own inspection reads line by line and loses a parameter whose comment holds an equals sign, so the cell
    is parsed as Python here.

    Raises
    ------
    DataError
        If the cell holds anything but literals: a value derived there would keep its default when a parameter changes.
    """
    cells = nbformat.read(path, as_version=4).cells
    source = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), "")
    found = {}
    for statement in ast.parse(source).body:
        try:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            found[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:
            line = ast.unparse(statement)
            raise DataError(
                f"{path.name}: the parameters cell may hold literals only, not `{line}`", "move it below"
            ) from error
    return found


def parse_assignments(words: Iterable[str]) -> dict[str, str]:
    """Split words such as ``CASES=8`` at the first equals sign; raises `DataError` for a word without one."""
    given = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.strip().isidentifier():
            raise DataError(f"{word!r} is not a parameter", "write NAME=value")
        given[name.strip()] = text.strip()
    return given


def assign(notebooks: Sequence[Path], given: Mapping[str, str]) -> dict[Path, dict[str, object]]:
    """Hand every parameter to the notebooks that have it.

    Parameters
    ----------
    notebooks : sequence of Path
        Those that are to run.
    given : mapping from str to str
        Names and values as typed.

    Returns
    -------
    dict from Path to dict
        For every notebook the values that differ from its defaults, in the type of the default.

    Raises
    ------
    DataError
        If no notebook has the parameter, or its value does not fit the type of the default.
    """
    defaults = {path: read_parameters(path) for path in notebooks}
    known = dict.fromkeys(name for values in defaults.values() for name in values)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {close[0]}" if close else ""
            raise DataError(f"no notebook has a parameter {name}{hint}", f"known ones are {', '.join(sorted(known)) or 'none'}")
    return {
        path: {
            name: value
            for name, text in given.items()
            if name in values and (value := parse_value(name, text, values[name])) != values[name]
        }
        for path, values in defaults.items()
    }


def for_papermill(parameters: Mapping[str, object]) -> dict[str, object]:
    """The same values as papermill can write them into a notebook: it knows lists, and would write a tuple as text."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in parameters.items()}


def parse_value(name: str, text: str, default: object) -> object:
    """Read `text` as a value of the kind that `default` is.

    Text stays text where the default is text. Otherwise Python and JSON literals are read (``True`` and ``true``,
    ``None`` and ``null``), a whole number also serves where the default has a fraction, and anything may replace None.
    Raises `DataError` where the kinds differ.
    """
    if isinstance(default, str):
        return text
    spelled = {"true": "True", "false": "False", "null": "None"}.get(text.lower(), text)
    try:
        value = ast.literal_eval(spelled)
    except (ValueError, SyntaxError):
        value = text
    if default is None or value is None:
        return value
    if type(default) is float and type(value) is int:
        return float(value)
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(default)(value)
    if type(value) is not type(default):
        raise DataError(f"parameter {name} is {text!r}", f"give {_kind(default)} such as {default!r}")
    return value


def _kind(value: object) -> str:
    names = {bool: "True or False", int: "a whole number", float: "a number", list: "a list", tuple: "a tuple", dict: "a dict"}
    return names.get(type(value), type(value).__name__)
