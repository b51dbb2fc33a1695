"""Entries of a comparison: an objective, its parameters and a gradient in one word."""

import json
import math
import re
from typing import Any

from experiments.shared.flags.bound import known_objectives
from experiments.shared.system.errors import UsageError
from iwae_jax import gradients, objectives


def expand(entries: tuple[str, ...]) -> tuple[str, ...]:
    """The entries, with "gradients" and "objectives" written out; none twice."""
    words = {
        "gradients": [
            "iwae" if name == gradients.DEFAULT.name else f"iwae/{name}" for name in gradients.NAMES
        ],
        "objectives": ["iwae", *(name for name in objectives.NAMES if name != "iwae")],
    }
    return tuple(dict.fromkeys(name for entry in entries for name in words.get(entry, [entry])))


def parse_entry(text: str, k: int) -> tuple[Any, Any]:
    """The objective and the gradient of an entry; a `UsageError` for other text."""
    name, _, gradient = text.partition("/")
    name, _, given = name.partition(":")
    gradient, _, m = gradient.partition("@")
    known = known_objectives()
    if name not in known:
        raise UsageError(f"Expected an objective in {list(known)}, got {name!r} in {text!r}.")
    try:
        values = {}
        for pair in filter(None, re.split(r",(?![^\[]*\])", given)):  # not within brackets
            parameter, _, value = pair.partition("=")
            if parameter in values:
                raise ValueError(f"Expected {parameter} once, got it twice.")
            values[parameter] = {"inf": math.inf, "-inf": -math.inf}.get(value) or json.loads(value)
        objective = known[name](**values)
        p, _, zq = gradient.rpartition("+")
        estimator = gradients.named(zq or None)
        if p:
            estimator = gradients.ByRoute(p=p, zq=estimator)
        if m:
            estimator = gradients.resampled(json.loads(m), estimator)
        gradients.check_pair(objective, estimator, k)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"Expected an entry such as renyi:alpha=0.5/dreg@8, got {text!r}: {error}"
        ) from error
    return objective, estimator
