"""Slopes of measured curves."""

import numpy as np


def slope_of(points: dict[int, float], first: int = 8) -> float:
    """The slope of log values against log k, fitted from k = first on; NaN under two points."""
    k = [k for k in points if k >= first]
    if len(k) < 2:
        return float("nan")
    return float(np.polyfit(np.log(k), np.log([points[value] for value in k]), 1)[0])
