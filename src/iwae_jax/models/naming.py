"""Parts by name, with options: ``"student_t:df=3"``."""

import inspect
from collections.abc import Callable
from typing import Any


def known(field: str, name: Any, table: dict[str, Any]) -> Any:
    """The entry of a table, or a `ValueError` that names the field."""
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"Expected {field} to be one of {', '.join(table)}, got {name!r}.")
    return table[name]


def by_name(field: str, text: str, table: dict[str, Callable[..., Any]], *arguments: Any) -> Any:
    """Make a part from its name and options.

    Args:
      field: the name of the field, for errors.
      text: ``"name"`` or ``"name:option=value,option=value"``. A value is an int, a float or a word.
      table: from a name to a function that makes the part, whose keywords are the options.
      *arguments: the function's first arguments.

    Raises:
      ValueError: if the name or an option is not known, or its value is refused.

    Example:
      >>> from iwae_jax.models import families
      >>> from iwae_jax.models.naming import by_name
      >>> by_name("posterior", "student_t:df=3", families.REAL)
      StudentT(df=3)
    """
    name, colon, rest = text.partition(":") if isinstance(text, str) else (text, "", "")
    make = known(field, name, table)
    takes = options_of(make)
    options: dict[str, Any] = {}
    for word in rest.split(",") if colon else ():
        option, equals, value = word.partition("=")
        if not equals or option not in takes or option in options:
            wanted = ", ".join(f"{each}=.." for each in takes) or "no options"
            raise ValueError(f"Expected {field} {name!r} with {wanted}, got {text!r}.")
        options[option] = _value(value)
    try:
        return make(*arguments, **options)
    except ValueError as error:
        why = str(error).removeprefix("Expected ")
        if why.partition(" ")[0] not in options:
            raise
        # Another argument, or a flag, may have the name of the option.
        raise ValueError(f"Expected {field} {text!r} to be valid: its {why}") from error


def options_of(make: Callable[..., Any]) -> tuple[str, ...]:
    """The options of a function that makes a part: its keywords that have a default."""
    parameters = inspect.signature(make).parameters.values()
    return tuple(each.name for each in parameters if each.default is not each.empty)


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
