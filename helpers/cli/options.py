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
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.DisallowNone)
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


def _spec(read: Callable[[list[str]], Any], show: Callable[[Any], list[str]], **words: Any) -> PrimitiveConstructorSpec:
    return PrimitiveConstructorSpec(instance_from_str=read, is_instance=lambda _: True, str_from_instance=show, **words)


@REGISTRY.primitive_rule
def _json_objects(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    kind = get_origin(info.type) or info.type
    if not (isinstance(kind, type) and issubclass(kind, Mapping)):
        return None
    return _spec(lambda words: mapping(words[0]), lambda value: [json.dumps(value)], nargs=1, metavar="JSON")


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

    return _spec(read, lambda value: [*map(str, value)], nargs="*", metavar="N [N N]")


def mapping(text: str) -> dict:
    """Read a JSON object."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{text!r} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f'{text!r} is not a JSON object such as {{"feature_size": 24}}')
    return value
