"""Standard errors of means, and intervals over few seeds."""

from collections.abc import Sequence

import numpy as np


def standard_error(values: Sequence[float] | np.ndarray) -> float:
    """The standard error of a mean of independent values, at least two."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def half_width(values: Sequence[float] | np.ndarray) -> float | None:
    """Half the width of the 95% t interval of a mean; None for fewer than two values.

    With three values it is 4.3 standard errors, not 1.96: few values determine their spread badly.
    """
    from scipy.stats import t

    count = len(values)
    if count < 2:
        return None
    return float(t.ppf(0.975, count - 1)) * standard_error(values)
