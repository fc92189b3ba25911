"""Options of a command: tyro reads them from the signature and the NumPy docstring of its function ``run``.

Positional-only parameters are arguments, keyword-only ones options, and a parameter whose type is a dataclass stands for all of
its fields. Only what tyro does not know is added here: JSON objects and cubes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin

import tyro
from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

from brats_cohort.command import REGISTRY


def call(run: Callable[..., int], words: Sequence[str], *, prog: str) -> int:
    """Read the options of `run` from words, call it and return what it returns: the exit status.

    Settings may also be spelt as hyperparameters of a SageMaker job are: ``--learning_rate 0.1 --augment false``.
    """
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    return tyro.cli(run, prog=prog, args=_as_flags(words), config=config, registry=REGISTRY)


def _as_flags(words: Sequence[str]) -> list[str]:
    """``--augment true`` and ``--augment false`` as ``--augment`` and ``--no-augment``."""
    flags: list[str] = []
    for word in words:
        if word.lower() not in ("true", "false") or not flags or not flags[-1].startswith("--"):
            flags.append(word)
        elif word.lower() == "false":
            flags[-1] = f"--no-{flags[-1][2:]}"
    return flags


def _one(read: Callable[[str], Any], metavar: str, show: Callable[[Any], str] = str) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [show(value)],
    )


@REGISTRY.primitive_rule
def _json_objects(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    kind = get_origin(info.type) or info.type
    return _one(mapping, "JSON", json.dumps) if isinstance(kind, type) and issubclass(kind, Mapping) else None


@REGISTRY.primitive_rule
def _edges(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Three numbers as ``64``, ``64 64 32`` or ``64,64,32``."""
    kinds = get_args(info.type)
    if get_origin(info.type) is not tuple or kinds not in ((int,) * 3, (float,) * 3):
        return None

    def read(words: list[str]) -> tuple:
        found = tuple(kinds[0](word) for text in words for word in text.strip("[]()").split(",") if word.strip())
        if len(found) not in (1, 3):
            raise ValueError(f"it takes one number or three, not {len(found)}")
        return found * 3 if len(found) == 1 else found

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="N [N N]",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [str(number) for number in value],
    )


def mapping(text: str) -> dict:
    """Read a JSON object."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{text!r} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f'{text!r} is not a JSON object such as {{"feature_size": 24}}')
    return value
