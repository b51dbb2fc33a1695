"""A dataclass becomes a command line; a bad command line becomes one sentence."""

import contextlib
import difflib
import inspect
import io
import shutil
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from experiments.shared.flags.checks import flag
from experiments.shared.system.errors import UsageError

Reader = Callable[[list[str]], Any]


def parse(
    kind: Any,
    program: str,
    description: str,
    default: Any = MISSING,
    words: list[str] | None = None,
) -> Any:
    """Parse a command line into a dataclass.

    Args:
      kind: the dataclass; its dataclass fields are groups of flags.
      program: the command, for --help.
      description: the text above the flags, for --help.
      default: an instance that holds other defaults.
      words: the command line (default: that of the process).

    Raises:
      UsageError: on a bad command line. --help raises `SystemExit` with status 0.
    """
    given = {} if default is MISSING else {"default": default}
    if {"-h", "--help"} & set(sys.argv[1:] if words is None else words):
        print(f"{_filled(description)}\n")
    drawn = io.StringIO()  # a box, which nobody sees
    try:
        with contextlib.redirect_stderr(drawn), _errors_as_sentences(_flags(kind)):
            return tyro.cli(
                kind,
                args=words,
                prog=program,
                description="",  # printed above: tyro would break its lines elsewhere
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
                registry=_registry,
                **given,
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        raise UsageError(f"Invalid arguments. See {program} --help.") from None


def _filled(text: str) -> str:
    """A docstring with its paragraphs filled to the terminal; indented lines and lists stay."""
    width = min(shutil.get_terminal_size((80, 24)).columns, 100)
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        paragraph if paragraph.startswith((" ", "-")) else textwrap.fill(paragraph, width)
        for paragraph in paragraphs
    )


@contextlib.contextmanager
def _errors_as_sentences(known: list[str]) -> Iterator[None]:
    """Raise a `UsageError` where tyro would draw a box and exit.

    tyro has no public way to learn which flag was wrong. `tyro._errors.on_parse_error` is private, so this is
    the only place that uses it. Where a version of tyro lacks it, `parse` names no flag.
    """

    def raise_sentence(event: Any) -> None:
        sentence = _sentence(event, known)
        if sentence is not None:
            raise UsageError(sentence)

    try:
        from tyro._errors import on_parse_error
    except ImportError:
        yield
        return
    with on_parse_error(raise_sentence):
        yield


def _sentence(event: Any, known: list[str]) -> str | None:
    """The error in one sentence; None for a kind of error that is not known here."""
    argument = getattr(event, "argument", None)
    name = None if argument is None else _name(argument)
    match type(event).__name__:
        case "InstantiationFailure" if name is not None:
            return f"Expected {name} to be {' '.join(event.message.split())}."
        case "InvalidChoice":
            return f"Expected {name} in {{{', '.join(event.choices)}}}, got {event.value!r}."
        case "BadValue":
            return f"Expected a value after {name}, got none."
        case "MissingArgs":
            missing = ", ".join(_name(each.arg) for each in event.missing_arguments)
            return f"Expected {missing}, got none."
        case "UnrecognizedArgs":
            return _unknown(event.tokens, known)
    return None


def _name(argument: Any) -> str:
    """The flag of an argument, or RUN_DIR and the like for an argument without a flag."""
    return str(argument.lowered.metavar) if argument.is_positional() else argument.display_name()


def _unknown(words: list[str], known: list[str]) -> str:
    """A sentence about words that are no flags, with the flag that is nearest."""
    word = next((word for word in words if word.startswith("-")), words[0])
    if not word.startswith("-"):
        return f"Expected no further argument, got {word!r}."
    name = word.partition("=")[0]
    bare = {flag.strip("-"): flag for flag in known}
    near = difflib.get_close_matches(name.strip("-").replace("_", "-"), bare, 1)
    hint = f"did you mean {bare[near[0]]}?" if near else "--help lists the flags."
    return f"Unknown flag {name}: {hint}"


def _flags(kind: Any) -> list[str]:
    """The flags of a dataclass and of the groups in it."""
    found = []
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        annotation = hints[field.name]
        bare, *extras = (
            get_args(annotation) if hasattr(annotation, "__metadata__") else (annotation,)
        )
        group = bare if is_dataclass(bare) else field.default_factory
        if is_dataclass(group):
            found += _flags(group)
        elif tyro.conf.Positional not in extras:
            found.append(flag(field.name))
    return found


# How words become values. tyro's own rules say "invalid literal for int() with base 10" or "Could not find
# valid parse"; these say what was expected and which word came.

_registry = ConstructorRegistry()

SCALARS: dict[Any, tuple[str, str]] = {
    int: ("INT", "an int"),
    float: ("FLOAT", "a number"),
    str: ("TEXT", "a text that is not empty"),
    Path: ("PATH", "a path that is not empty"),
}
"""Metavar, and name in sentences, of each type that one word gives."""


def read_one(kind: Any) -> Reader:
    """A reader of one word."""

    def read(words: list[str]) -> Any:
        (word,) = words
        try:
            if not word or "\0" in word:  # "" would stand for the current folder
                raise ValueError
            return kind(word)
        except ValueError:
            raise ValueError(f"{SCALARS[kind][1]}, got {word!r}") from None

    return read


def read_many(kind: Any) -> Reader:
    """A reader of any number of words."""
    one = read_one(kind)
    return lambda words: tuple(one([word]) for word in words)


def read_widths(words: list[str]) -> tuple[tuple[int, ...], ...]:
    """Read one comma-separated word a layer: ``200,200 100,100``."""
    try:
        return tuple(tuple(int(width) for width in word.split(",")) for word in words)
    except ValueError:
        expected = "ints with commas between them, one word for each layer"
        raise ValueError(f"{expected}, got {' '.join(words)!r}") from None


def write_widths(widths: tuple[tuple[int, ...], ...]) -> list[str]:
    """The words that `read_widths` reads."""
    return [",".join(map(str, layer)) for layer in widths]


def spec(nargs: Any, metavar: str, read: Reader, write: Any = None) -> Any:
    """How a field is read from words and shown as a default."""
    return PrimitiveConstructorSpec(
        nargs=nargs,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda _: True,
        str_from_instance=write or _words,
    )


def _words(value: Any) -> list[str]:
    return [str(each) for each in (value if isinstance(value, tuple) else (value,))]


@_registry.primitive_rule
def _rule(info: PrimitiveTypeInfo) -> Any:
    """int, float, str, Path; each of them or None; any number of each; one int or several numbers."""
    kinds = (info.type,)
    if get_origin(info.type) in (Union, types.UnionType):
        kinds = tuple(kind for kind in get_args(info.type) if kind is not type(None))
    if set(kinds) == {int, tuple[float, ...]}:
        return spec("*", "INT | FLOAT ..", _int_or_numbers)
    if len(kinds) != 1:
        return None
    (kind,) = kinds
    if kind in SCALARS:
        return spec(1, SCALARS[kind][0], read_one(kind))
    inner = get_args(kind)
    if get_origin(kind) is tuple and inner[1:] == (...,) and inner[0] in SCALARS:
        metavar = SCALARS[inner[0]][0]
        return spec("*", f"{metavar} ..", read_many(inner[0]))
    return None


def _int_or_numbers(words: list[str]) -> int | tuple[float, ...]:
    try:
        (word,) = words
        return int(word)
    except ValueError:
        return read_many(float)(words)
