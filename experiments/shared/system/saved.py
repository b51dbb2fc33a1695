"""Saved JSON: does each value have the type that the code expects?"""

import json
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np

from experiments.shared.system.errors import UsageError

Number = float | None
"""A number, or None for a number that is not known."""


def read_json(file: Path) -> Any:
    """The content of a JSON file; a `UsageError` that names the file if it cannot be read."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"Expected {file} to be JSON, got: {error}.") from error


def read_arrays(file: Path, *names: str, optional: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an npz file, or the one of an npy file under its only name.

    A `UsageError` names the file if it cannot be read, or lacks an array that is not optional.
    """
    try:
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return dict.fromkeys(names, content)
        with content:
            return {n: content[n] for n in names if n in content.files or n not in optional}
    except Exception as error:  # on damaged files NumPy raises errors of many types
        text = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"Expected {file} to hold {', '.join(names)}, got: {text}.") from error


def check_values(
    file: Any, values: Any, kinds: dict[str, Any], required: Iterable[str] = ()
) -> None:
    """Raise a `UsageError` that names the file if a value is missing or has another type.

    Args:
      file: the file, for the message.
      values: its content.
      kinds: the type of each value, as an annotation. Other values pass.
      required: the names that may not be missing.
    """
    if not isinstance(values, dict):
        raise UsageError(f"Expected {file} to hold a JSON object, got {type(values).__name__}.")
    missing = [name for name in required if name not in values]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UsageError(f"Expected {file} to hold {', '.join(missing[:3])}{more}, got none.")
    for name, value in values.items():
        if name in kinds and not is_of(kinds[name], value):
            got = json.dumps(value)
            got = got if len(got) <= 60 else f"{got[:60]} .."
            raise UsageError(f"Expected {name} in {file} to be {words(kinds[name])}, got {got}.")


def is_of(kind: Any, value: Any) -> bool:
    """Whether a value of JSON has the type of an annotation. A list stands for a tuple."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if kind is None or kind is types.NoneType:
        return value is None
    if origin is Annotated:
        return is_of(inner[0], value)
    if origin in (Union, types.UnionType):
        return any(is_of(each, value) for each in inner)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if origin in (tuple, list):
        return isinstance(value, list | tuple) and all(is_of(inner[0], each) for each in value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)


def words(kind: Any) -> str:
    """An annotation in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return words(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(words(each) for each in inner))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (tuple, list):
        return f"a list, each {words(inner[0])}"
    names = {
        int: "an int",
        float: "a number",
        str: "a text",
        bool: "true or false",
        dict: "an object",
    }
    return names.get(kind, "null")
