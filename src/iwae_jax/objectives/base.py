"""The base class of objectives: functions of the log importance weights."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from iwae_jax.objectives.logspace import log_mean_exp
from iwae_jax.typing import Array, Float

Kind = Literal["lower bound", "upper bound", "neither", "not said"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Relations of the mean of an objective's value to log p(x), at every k."""


class Objective(abc.ABC):
    """A multi-sample objective: a function from ``log_w``, [k, *batch], to values, [*batch]; nats.

    A subclass is frozen and hashable, so that `jax.jit` can take it as a static argument. It combines
    weights in log space and treats each datum on its own. It needs `__call__` alone; the other
    members have defaults.

    Attributes:
      kind: how the mean of the k-sample value relates to log p(x), one of `KINDS`.
      smooth: False if the first derivatives jump. Some gradient estimators need second derivatives.
      randomised: True if the objective is called as ``objective(log_w, uniform)``, with a uniform
        number in [0, 1) for each datum. Its method ``samples(uniform, k)`` then gives the number of
        samples that it looks at.
      analytic_kl: True if ``log_w`` must be log p(x | z_i) - KL(q(z | x) || p(z)).
      for_phi: the objective whose derivatives the routes through z and through log q take. Default:
        the objective itself.

    Example:
      >>> import dataclasses, jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> @dataclasses.dataclass(frozen=True)
      ... class Largest(objectives.Objective):
      ...     smooth = False
      ...
      ...     def __call__(self, log_w):
      ...         return jnp.max(log_w, axis=0)
      >>> print(Largest()(jnp.array([-90.0, -110.0])))
      -90.0
    """

    kind: Any = "not said"
    smooth: Any = True
    randomised: Any = False
    analytic_kl: Any = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A subclass with another value has another Hessian: it does not inherit a closed form.
        if "__call__" in vars(cls) and "hessian_diagonal" not in vars(cls):
            cls.hessian_diagonal = Objective.hessian_diagonal  # type: ignore[method-assign]
        if "__call__" in vars(cls) and "kind" not in vars(cls):
            cls.kind = "not said"

    @abc.abstractmethod
    def __call__(
        self, log_w: Float[Array, "k *batch"], *uniform: Float[Array, "*batch"]
    ) -> Float[Array, "*batch"]: ...

    @property
    def for_phi(self) -> "Objective":
        return self

    def gradient(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """c = dV/dl: the derivative of each datum's value in each of its log-weights."""
        values, pull = jax.vjp(self, log_w)
        return pull(jnp.ones_like(values))[0]

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """h = d2V/dl2: the diagonal of each datum's Hessian, by k passes of forward differentiation."""

        def row(i):
            direction = jnp.zeros_like(log_w).at[i].set(1.0)
            return jax.jvp(self.gradient, (log_w,), (direction,))[1][i]

        return jax.lax.map(row, jnp.arange(log_w.shape[0]), batch_size=8)

    def at(self, uniform: Float[Array, "*batch"]) -> "Objective":
        """A randomised objective at given uniform numbers: a function of ``log_w`` alone."""
        return AtUniform(self, uniform)


class AtUniform(Objective):
    """A randomised objective at given uniform numbers."""

    def __init__(self, objective: Objective, uniform: Array):
        self.objective, self.uniform = objective, uniform

    def __call__(self, log_w: Array, *uniform: Array) -> Array:
        del uniform
        return self.objective(log_w, self.uniform)

    @property
    def for_phi(self) -> Objective:
        other = self.objective.for_phi
        if other == self.objective:
            return self
        return other.at(self.uniform) if other.randomised else other


@dataclass(frozen=True)
class Function(Objective):
    """A plain function of ``log_w`` as an objective.

    Attributes:
      function: hashable, from [k, *batch] to [*batch].
    """

    function: Callable[..., Array]

    def __call__(self, log_w: Array, *uniform: Array) -> Array:
        return self.function(log_w, *uniform)

    def __repr__(self) -> str:
        # The name of a module's function is the same in any process. One made in another function may differ
        # between two calls, so it keeps its address.
        name = getattr(self.function, "__qualname__", "<none>")
        local = "<" in name
        return repr(self.function) if local else f"{self.function.__module__}.{name}"


MEMBERS = ("kind", "smooth", "randomised", "analytic_kl", "for_phi", "hessian_diagonal")
"""The members that an `Objective` may override, and that a plain function does not have."""


def softmax_slope(log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
    """v (1 - v), with v the softmax over the first axis; zero if every weight is zero."""
    v = jax.grad(lambda l: jnp.sum(log_mean_exp(l)))(log_w)  # noqa: E741
    return v * (1.0 - v)
