"""Entries of a comparison: an objective, its parameters and a gradient in one word."""

import json
import math
import re
from typing import Any

from experiments.shared.bound import OBJECTIVES
from experiments.shared.errors import UsageError
from iwae_jax import gradients, objectives


def expand(entries: tuple[str, ...]) -> tuple[str, ...]:
    """The entries, with "gradients" and "objectives" written out; none twice."""
    words = {
        "gradients": [
            f"iwae/{name}" if name != "reparam" else "iwae" for name in gradients.GRADIENTS
        ],
        "objectives": ["iwae", *(name for name in objectives.NAMES if name != "iwae")],
    }
    return tuple(dict.fromkeys(name for entry in entries for name in words.get(entry, [entry])))


def parse_entry(text: str, k: int) -> tuple[Any, Any]:
    """The objective and the gradient of an entry; a `UsageError` for other text."""
    name, _, gradient = text.partition("/")
    name, _, given = name.partition(":")
    gradient, _, m = (gradient or "reparam").partition("@")
    if name not in OBJECTIVES:
        raise UsageError(f"Expected an objective in {list(OBJECTIVES)}, got {name!r} in {text!r}.")
    try:
        values = {}
        for pair in filter(None, re.split(r",(?![^\[]*\])", given)):  # not within brackets
            parameter, _, value = pair.partition("=")
            values[parameter] = {"inf": math.inf, "-inf": -math.inf}.get(value) or json.loads(value)
        objective = OBJECTIVES[name](**values)
        theta, _, phi = gradient.rpartition("+")
        estimator = gradients.Gradient(theta or phi, phi)
        if m:
            estimator = gradients.resampled(json.loads(m), estimator)
        gradients.check_pair(objective, estimator, k)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"Expected an entry such as renyi:alpha=0.5/dreg@8, got {text!r}: {error}"
        ) from error
    return objective, estimator
