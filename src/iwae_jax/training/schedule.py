"""The paper's schedule of learning rates."""

import math

import numpy as np
import optax

from iwae_jax.checks import check_number, check_positive_int
from iwae_jax.typing import ArrayLike, Float


def stage_rates(
    count: int = 8, *, first: float = 1e-3, last: float = 1e-4, total: int = 8
) -> tuple[float, ...]:
    """The learning rates of the first ``count`` of ``total`` stages.

    Geometric from ``first`` to ``last``, rounded to two digits as in the authors' code.

    Example:
      >>> from iwae_jax import training
      >>> training.stage_rates()
      (0.001, 0.00072, 0.00052, 0.00037, 0.00027, 0.00019, 0.00014, 0.0001)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), sec. 5.
    """
    count, total = check_positive_int("count", count), check_positive_int("total", total)
    if count > total:
        raise ValueError(f"Expected count to be at most total = {total}, got {count}.")
    first, last = _rate("first", first), _rate("last", last)
    ratio = last / first
    return tuple(
        float(f"{first * ratio ** (i / (total - 1)):.1e}") if total > 1 else first
        for i in range(count)
    )


def stage_passes(stages: int, *, base: int = 3) -> int:
    """The passes over the data in the first ``stages`` stages: the sum of ``base**i``.

    Example:
      >>> from iwae_jax import training
      >>> training.stage_passes(8)
      3280
    """
    if stages != 0 or isinstance(stages, bool):
        check_positive_int("stages", stages)
    base = check_positive_int("base", base)
    return sum(base**i for i in range(stages))


def stage_schedule(
    steps_per_pass: int, rates: tuple[float, ...], *, base: int = 3
) -> optax.Schedule:
    """The paper's schedule: stage i lasts ``base**i`` passes at ``rates[i]``.

    Args:
      steps_per_pass: optimizer steps in one pass over the data.
      rates: the learning rate of each stage, see `stage_rates`. The last rate has no end.
      base: the ratio of the lengths of two successive stages.

    Returns:
      An optax schedule: from the step to the learning rate.

    Example:
      >>> from iwae_jax import training
      >>> schedule = training.stage_schedule(2980, training.stage_rates())
      >>> float(schedule(2979)), float(schedule(2980))
      (0.0010000000474974513, 0.0007200000109151006)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), sec. 5.
    """
    check_positive_int("steps_per_pass", steps_per_pass)
    rates = tuple(_rate("rates", rate) for rate in rates)
    if not rates:
        raise ValueError("Expected rates to hold at least one learning rate, got none.")
    ends = [steps_per_pass * stage_passes(i + 1, base=base) for i in range(len(rates) - 1)]
    return optax.join_schedules([optax.constant_schedule(rate) for rate in rates], ends)


def _rate(name: str, value: float) -> float:
    return check_number(name, value, 0.0, math.inf, open_low=True, open_high=True)


def mean_of_pass(bounds: Float[ArrayLike, " steps"], images: int, batch_size: int) -> float:
    """The mean bound over the data of a pass, of whose batches the last may be smaller.

    Args:
      bounds: what `train_epoch` returned, nats.
      images: the number of training data.
      batch_size: data in a step.

    Returns:
      The mean, nats, in float64.

    Example:
      >>> from iwae_jax import training
      >>> training.mean_of_pass([-1.0, -4.0], images=30, batch_size=20)
      -2.0
    """
    values = np.asarray(bounds, np.float64)
    counts = np.full(len(values), batch_size)
    counts[-1] = images - batch_size * (len(values) - 1)
    return float(np.average(values, weights=counts))
