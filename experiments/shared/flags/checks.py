"""Checks of command-line arguments. Each raises a `UsageError` of one line."""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.shared.system.errors import UsageError


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def in_flags(message: str, names: Iterable[str], other: Mapping[str, str] = {}) -> str:
    """An error message of the library, with the flags that a person typed in place of its arguments.

    Args:
      message: the message.
      names: the arguments whose flags have the same names.
      other: the flags of further arguments.
    """
    flags = {name: flag(name) for name in names} | dict(other)
    argument = "|".join(map(re.escape, sorted(flags, key=len, reverse=True)))
    before = "".join(f"(?<!{c})" for c in (r"\w", "-", r"\.", "/", "'"))
    start = "|".join(
        f"(?<={word} )" for word in ("Expected", "divide", "under", "got", "and", "for")
    )
    start += "|(?<=Neither )|(?<=with )"
    pattern = rf"{before}(?:{start})({argument})(?= (?:to|in|=|nor|instead|than|')|,)"
    return re.sub(pattern, lambda found: flags[found[1]], message)


def check_least(arguments: Any, **least: int) -> None:
    """Check that integer fields have at least these values, and fit in 32 bits.

    A field may hold one number, several, or None, which passes.
    """
    for name, bound in least.items():
        value = getattr(arguments, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            if number < bound:
                raise UsageError(f"Expected {flag(name)} to be at least {bound}, got {number}.")
            if number >= 2**31:
                raise UsageError(f"Expected {flag(name)} to be under 2**31, got {number}.")


def check_positive(arguments: Any, *names: str) -> None:
    """Check that fields hold positive, finite numbers."""
    for name in names:
        value = getattr(arguments, name)
        if not 0 < value < math.inf:
            raise UsageError(f"Expected {flag(name)} to be a positive number, got {value}.")


def check_fractions(arguments: Any, *names: str) -> None:
    """Check that fields hold numbers in [0, 1)."""
    for name in names:
        value = getattr(arguments, name)
        if not 0 <= value < 1:
            raise UsageError(f"Expected {flag(name)} in [0, 1), got {value}.")


def check_given(arguments: Any, *names: str) -> None:
    """Check that fields hold at least one value each."""
    for name in names:
        if not getattr(arguments, name):
            raise UsageError(f"Expected at least one value for {flag(name)}, got none.")


def check_rising(name: str, values: Sequence[int], *, first: int = 0, text: str = "") -> None:
    """Check that values rise, and that at least two are ``first`` or more if it is given."""
    rising = list(values) == sorted(set(values))
    if not values or not rising or (first and sum(value >= first for value in values) < 2):
        raise UsageError(f"Expected {flag(name)} to rise{text}, got {tuple(values)}.")


def check_seeds(*seeds: int | None) -> None:
    """Check that seeds are in [0, 2**32): `jax.random.key` takes the lower 32 bits."""
    for seed in seeds:
        if seed is not None and not 0 <= seed < 2**32:
            raise UsageError(f"Expected --seed in [0, 2**32), got {seed}.")


def check_folder(name: str, path: str | None) -> None:
    """Check that a path, if it is given, is a folder."""
    if path is not None and not os.path.isdir(os.path.expanduser(path)):
        raise UsageError(f"Expected {flag(name)} to be a folder, got {path!r}.")
