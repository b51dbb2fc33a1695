"""Control variates for means of functions of log-weights, with exact expectations."""

import itertools
import math
from typing import Any

import numpy as np

CONTROLS = tuple(
    powers
    for count in range(1, 6)
    for powers in itertools.combinations_with_replacement((1, 2, 3, 4), count)
    if sum(powers) <= (4, 5, 5, 5, 5)[count - 1]
)
"""The control variates: products of mean powers of the weights."""


def exact_mean(powers: tuple[int, ...], moments: Any, k: int) -> float:
    """The mean of the product of u_n = mean(w^n) - E[w^n] over the powers n, for k independent w.

    A product of sums over samples is a sum over the partitions of the powers into blocks: the powers
    of a block belong to one sample, and each block to another. A block of one power has mean zero.
    """

    def centred(block):  # E of the product of w^n - E[w^n]
        total = 0.0
        for kept in itertools.product((False, True), repeat=len(block)):
            joint = moments[sum(n for n, keep in zip(block, kept, strict=True) if keep)]
            total += joint * math.prod(
                -moments[n] for n, keep in zip(block, kept, strict=True) if not keep
            )
        return total

    total = 0.0
    for blocks in _partitions(list(powers)):
        if min(map(len, blocks)) > 1 and len(blocks) <= k:
            total += math.perm(k, len(blocks)) * math.prod(centred(block) for block in blocks)
    return total / k ** len(powers)


def _partitions(items: list[int]) -> list[list[list[int]]]:
    """All partitions of a list into blocks."""
    if not items:
        return [[]]
    found = []
    for rest in _partitions(items[1:]):
        found.append([[items[0]], *rest])
        for i, block in enumerate(rest):
            found.append([*rest[:i], [items[0], *block], *rest[i + 1 :]])
    return found


def mean_and_error(values: Any, means: Any, moments: Any, k: int) -> tuple[float, float]:
    """The mean of values minus their regression on the control variates, and its standard error.

    ``means`` has the mean of (w / p(x))^n over the k weights of each replicate, for n = 1 .. 4.
    ``moments`` has the exact expectations of these and of higher powers.
    """
    centred = {n: means[n - 1] - moments[n] for n in (1, 2, 3, 4)}
    controls = np.stack(
        [np.prod([centred[n] for n in p], axis=0) - exact_mean(p, moments, k) for p in CONTROLS],
        axis=1,
    )
    design = np.concatenate([np.ones((len(values), 1)), controls / controls.std(axis=0)], axis=1)
    fit, *_ = np.linalg.lstsq(design, values, rcond=None)
    left = values - design @ fit
    inverse = np.linalg.pinv(design.T @ design)
    # White's form of the error: the variance of the residuals depends on the weights.
    covariance = inverse @ (design.T * left**2) @ design @ inverse
    return float(fit[0]), float(np.sqrt(covariance[0, 0]))
