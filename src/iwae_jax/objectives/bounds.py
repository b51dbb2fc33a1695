"""Multi-sample objectives: pure functions of the log importance weights.

An objective is called on ``log_w``, of shape [k, *batch] in nats, and returns its value for
each datum, [*batch] in nats. It is frozen and hashable, so that it can be a static argument of
`jax.jit`; any hashable function of ``log_w`` will do. Weights are combined in log space alone.

What an objective may say of itself, beside its value:

- ``kind``: what the mean of its k-sample value is to log p(x), one of `KINDS`;
- ``for_phi``: the objective that the recognition parameters climb, where it is another;
- ``hessian_diagonal(log_w)``: its second derivatives, where they are known in closed form;
- ``smooth``: False where its first derivatives jump;
- ``randomised``: True where it is called as ``objective(log_w, uniform)``, with a uniform number
  for each datum; ``samples(uniform, k)`` then says how many of the k samples it looks at;
- ``analytic_kl``: True where ``log_w`` is to be log p(x | z_i) - KL(q(z | x) || p(z)).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import check_positive_int
from iwae_jax.objectives.logspace import jackknife, log_mean_exp, log_mean_power
from iwae_jax.typing import Array, Float, Int

Objective = Callable[..., Array]
"""A function from ``log_w``, [k, *batch], to the objective, [*batch]; nats."""

Kind = Literal["lower bound", "upper bound", "unbiased", "neither", "not said"]
KINDS: tuple[Kind, ...] = ("lower bound", "upper bound", "unbiased", "neither", "not said")
"""What the mean of an objective's value is to log p(x), at every k (of `SUMO`, but for its cap)."""


@dataclass(frozen=True)
class ELBO:
    """The evidence lower bound: the mean of k log-weights, (1/k) sum_i log w_i.

    With more samples it has the same expectation and less variance. This is the paper's "VAE".
    A lower bound of log p(x).

    Attributes:
      analytic_kl: take the mean of log p(x | z_i) - KL(q(z | x) || p(z)), with the KL divergence in
        closed form: the same expectation, and another variance (not always a smaller one). For
        models with one normal stochastic layer, and the gradient ``"reparam"``.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.ELBO()(jnp.array([-90.0, -110.0])))
      -100.0

    Reference:
      Kingma and Welling, Auto-Encoding Variational Bayes (2014), eq. 2 and 7 (analytic KL);
      Burda et al., Importance Weighted Autoencoders (2016), eq. 3.
    """

    analytic_kl: bool = False
    kind = "lower bound"

    def __post_init__(self):
        if not isinstance(self.analytic_kl, bool):
            raise ValueError(f"Expected analytic_kl to be a bool, got {self.analytic_kl!r}.")

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        return jnp.mean(log_w, axis=0)

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """Zero: the ELBO is linear in the log-weights."""
        return jnp.zeros_like(log_w)


@dataclass(frozen=True)
class IWAE:
    """The importance weighted bound: log of the mean of k weights, log (1/k) sum_i w_i.

    A lower bound of log p(x) that rises to it as k grows; for k = 1 it is the ELBO. Its
    gradient in the log-weights is their softmax (eq. 14 of the paper). Where every weight is
    zero (log-weight -inf), the value is -inf and the gradient zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.IWAE()(jnp.array([-1e4, -1e4])))
      -10000.0

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 8.
    """

    kind = "lower bound"

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        return log_mean_exp(log_w)

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """v (1 - v), with v the normalised weights."""
        return _softmax_slope(log_w)


@dataclass(frozen=True)
class Renyi:
    """The variational Renyi bound: (1 / (1 - alpha)) log (1/k) sum_i w_i^(1 - alpha).

    It falls as alpha rises. alpha = 0 is the IWAE, alpha = 1 exactly the ELBO, alpha = -inf the
    largest log-weight (VR-max), alpha = inf the smallest. For alpha >= 0 it is a lower bound of
    log p(x); for alpha < 0 neither: its limit in k is an upper bound, but k samples estimate that
    with a bias downwards. To train on, it is climbed in theta and phi alike at any alpha, as in the
    paper's VR-alpha; where it is above log p(x), that pulls q away from the posterior.

    Attributes:
      alpha: the order.

    Raises:
      ValueError: if alpha is not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.Renyi(-jnp.inf)(jnp.array([-90.0, -110.0])))
      -90.0

    Reference:
      Li and Turner, Renyi Divergence Variational Inference (2016).
    """

    alpha: float = 0.5

    def __post_init__(self):
        _check_number("alpha", self.alpha, -math.inf, math.inf)

    @property
    def kind(self) -> Kind:
        return "lower bound" if self.alpha >= 0 else "neither"

    @property
    def smooth(self) -> bool:
        return not math.isinf(self.alpha)

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        return log_mean_power(log_w, 1.0 - float(self.alpha))

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """(1 - alpha) v (1 - v), with v the normalised w^(1 - alpha)."""
        order = 1.0 - float(self.alpha)
        if order == 0 or math.isinf(order):
            return jnp.zeros_like(log_w)
        c = jax.grad(lambda l: jnp.sum(log_mean_power(l, order)))(log_w)  # noqa: E741
        return order * c * (1.0 - c)


@dataclass(frozen=True)
class CUBO:
    """The chi upper bound: (1/n) log (1/k) sum_i w_i^n, which is `Renyi` of order 1 - n.

    Its exact value (k to infinity) is an upper bound of log p(x). What k samples give is neither:
    it is biased low, and may lie under log p(x) however large n. As an upper bound it is for
    evaluation, or to be descended in phi (the negative of its gradient); `iwae_jax.train_step` climbs what it
    is given, which for large k pulls q away from the posterior.

    Attributes:
      n: the power, over 1.

    Raises:
      ValueError: if n is not over 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.CUBO(2)(jnp.array([-100.0, -100.0])))
      -100.0

    Reference:
      Dieng et al., Variational Inference via chi Upper Bound Minimization (2017).
    """

    n: float = 2.0
    kind = "neither"

    def __post_init__(self):
        _check_number("n", self.n, 1.0, math.inf, open_low=True)

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        return Renyi(1.0 - self.n)(log_w)

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """n v (1 - v), with v the normalised w^n."""
        return Renyi(1.0 - self.n).hessian_diagonal(log_w)

    @property
    def smooth(self) -> bool:
        return not math.isinf(self.n)


@dataclass(frozen=True)
class MIWAE:
    """The mean of m IWAE bounds, each of k/m samples: (1/m) sum_g log (m/k) sum_j w_gj.

    A lower bound of log p(x). m = 1 is the IWAE of k samples, m = k the ELBO.

    Attributes:
      m: the number of groups; it must divide k.

    Raises:
      ValueError: if m is not a positive int, or does not divide k.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.MIWAE(2)(jnp.array([-90.0, -90.0, -110.0, -110.0])))
      -100.0

    Reference:
      Rainforth et al., Tighter Variational Bounds Are Not Necessarily Better (2018).
    """

    m: int = 2
    kind = "lower bound"

    def __post_init__(self):
        check_positive_int("m", self.m)

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        return jnp.mean(log_mean_exp(self._groups(log_w)), axis=0)

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """v (1 - v) / m, with v the weights normalised within their group."""
        slope = _softmax_slope(self._groups(log_w)) / self.m
        return jnp.moveaxis(slope, 0, 1).reshape(log_w.shape)

    def _groups(self, log_w: Array) -> Array:
        """[k/m, m, *batch]."""
        k = log_w.shape[0]
        if k % self.m:
            raise ValueError(f"Expected m to divide k, got m = {self.m} and k = {k}.")
        return jnp.moveaxis(log_w.reshape(self.m, k // self.m, *log_w.shape[1:]), 1, 0)


@dataclass(frozen=True)
class CIWAE:
    """A mixture of the two bounds: beta ELBO + (1 - beta) IWAE.

    A lower bound of log p(x).

    Attributes:
      beta: the ELBO's share, in [0, 1].

    Raises:
      ValueError: if beta is not in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.CIWAE(1.0)(jnp.array([-90.0, -110.0])))
      -100.0

    Reference:
      Rainforth et al., Tighter Variational Bounds Are Not Necessarily Better (2018).
    """

    beta: float = 0.5
    kind = "lower bound"

    def __post_init__(self):
        _check_number("beta", self.beta, 0.0, 1.0)

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        if self.beta in (0, 1):  # not 0 times minus infinity
            return ELBO()(log_w) if self.beta else IWAE()(log_w)
        return self.beta * ELBO()(log_w) + (1 - self.beta) * IWAE()(log_w)

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """(1 - beta) v (1 - v), with v the normalised weights."""
        return (1 - self.beta) * _softmax_slope(log_w)


@dataclass(frozen=True)
class PIWAE:
    """The IWAE for theta, log (1/k) sum_i w_i, and the `MIWAE` of m groups for phi.

    Its value is the IWAE's, a lower bound of log p(x).

    Attributes:
      m: the number of groups for phi; it must divide k.

    Raises:
      ValueError: if m is not a positive int, or does not divide k.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.PIWAE(2)(jnp.array([-90.0, -90.0])), objectives.PIWAE(2).for_phi)
      -90.0 MIWAE(m=2)

    Reference:
      Rainforth et al., Tighter Variational Bounds Are Not Necessarily Better (2018).
    """

    m: int = 2
    kind = "lower bound"

    def __post_init__(self):
        check_positive_int("m", self.m)

    @property
    def for_phi(self) -> MIWAE:
        return MIWAE(self.m)

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        self.for_phi(log_w)  # refuses an m that does not divide k
        return IWAE()(log_w)

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """The IWAE's."""
        return _softmax_slope(log_w)


@dataclass(frozen=True)
class Jackknife:
    """The jackknife of the IWAE: its bias is of order k^-(order + 1) in place of 1/k.

    The sum over j = 0 .. order of (-1)^j (k-j)^order / ((order-j)! j!) L_{k-j}, with L_s the mean of
    the IWAE over all subsets of s of the k samples. Neither a lower nor an upper bound of log p(x);
    its variance grows with the order. It takes O(k order^2) operations, and is accurate to
    rounding at any order (see `objectives.logspace.jackknife`). NaN where no more than ``order`` of the
    weights are above zero: the log of an empty subset's weight is not finite.

    Attributes:
      order: from 0 (the IWAE) to k - 1.

    Raises:
      ValueError: if order is not such an int.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.Jackknife(1)(jnp.array([-100.0, -100.0, -100.0])))
      -100.0

    Reference:
      Nowozin, Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife
      Variational Inference (2018).
    """

    order: int = 1
    kind = "neither"

    def __post_init__(self):
        if self.order != 0 or isinstance(self.order, bool):
            check_positive_int("order", self.order)

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        k = log_w.shape[0]
        if self.order >= k:
            raise ValueError(f"Expected order to be under k, got order = {self.order} and k = {k}.")
        return jackknife(log_w, self.order) if self.order else IWAE()(log_w)


@dataclass(frozen=True)
class TVO:
    """The thermodynamic variational objective: a left Riemann sum along the path from q to p.

    The sum over i of (beta_i - beta_{i-1}) E_i, with E_i the mean of log w under the samples'
    normalised w^beta_{i-1}. One partition is the ELBO; more and finer ones rise towards the IWAE of
    the same k samples and never pass it, whence a lower bound of log p(x) at every k.

    Attributes:
      partitions: the number of partitions, with beta = 0, then log-spaced from ``first`` to 1; or
        the betas themselves, rising from 0 to 1.
      first: the first beta over 0, where there are two or more log-spaced partitions.

    Raises:
      ValueError: if partitions is neither, or first not between 0 and 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> print(objectives.TVO(1)(jnp.array([-90.0, -110.0])))
      -100.0
      >>> objectives.TVO(2).betas
      (0.0, 0.1, 1.0)

    Reference:
      Masrani et al., The Thermodynamic Variational Objective (2019).
    """

    partitions: int | tuple[float, ...] = 5
    first: float = 0.1
    kind = "lower bound"

    def __post_init__(self):
        _check_number("first", self.first, 0.0, 1.0, open_low=True)
        if self.first == 1.0:
            raise ValueError("Expected first to be a number in (0.0, 1.0), got 1.0.")
        if isinstance(self.partitions, (tuple, list)):
            betas = tuple(self.partitions)
            for beta in betas:
                _check_number("partitions", beta, 0.0, 1.0)
            if len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or np.any(np.diff(betas) <= 0):
                raise ValueError(f"Expected partitions to rise from 0 to 1, got {betas}.")
            object.__setattr__(self, "partitions", betas)  # hashable
        else:
            check_positive_int("partitions", self.partitions)

    @property
    def betas(self) -> tuple[float, ...]:
        """The ends of the partitions, from 0 to 1."""
        if isinstance(self.partitions, tuple):
            return self.partitions
        if self.partitions == 1:
            return (0.0, 1.0)
        return 0.0, *np.geomspace(self.first, 1.0, self.partitions).tolist()

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        betas = self.betas
        # Relative to the largest weight, so that an offset of all weights costs no digits.
        peak = jax.lax.stop_gradient(jnp.max(log_w, axis=0, keepdims=True))
        peak = jnp.where(jnp.isfinite(peak), peak, 0.0)
        log_w = log_w - peak
        value = betas[1] * jnp.mean(log_w, axis=0)
        for low, high in itertools.pairwise(betas[1:]):
            weights = jax.nn.softmax(low * log_w, axis=0)
            # A weight of zero adds nothing here, where 0 times minus infinity would be NaN.
            terms = weights * jnp.where(weights > 0, log_w, 0.0)
            value += (high - low) * jnp.sum(terms, axis=0)
        return peak[0] + value


@dataclass(frozen=True)
class SUMO:
    """Unbiased by randomised truncation: L_1 + sum_{j=1}^T (L_{j+1} - L_j) / P(T >= j).

    L_j is the IWAE of the first j samples and T a random number: P(T >= j) is 1/j up to j =
    ``tail`` and falls by the factor ``decay`` from there, so that a datum takes 6 samples on average.
    k caps the cost: T is at most k - 1, and the mean is exactly that of L_k, so that what is left of
    the bias is L_k's, of order 1/k. A term that is reached with a probability under 2^-23 would never
    be seen, and is left out: with the default tail those beyond j = 189, whatever k. ``tail`` = k
    leaves out none, at a mean cost of 1 + sum_{j<k} 1/j samples, near 1.6 + log k. The variance is that
    of a heavy tail.

    It is called as ``objective(log_w, uniform)``, with a uniform number in [0, 1) for each datum
    that says where to stop; `iwae_jax.bound` draws it, and computes no sample that is not looked at.

    Attributes:
      tail: where the geometric tail begins.
      decay: its ratio, in (0, 1).

    Raises:
      ValueError: if tail is not a positive int or decay not in (0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax import objectives
      >>> log_w = jnp.array([-100.0, -100.0, -100.0])
      >>> print(objectives.SUMO()(log_w, jnp.array(0.2)))
      -100.0
      >>> print(objectives.SUMO().samples(jnp.array([0.9, 0.2, 0.001]), k=50))
      [ 2  5 50]

    Reference:
      Luo et al., SUMO: Unbiased Estimation of Log Marginal Probability for Latent Variable Models
      (2020).
    """

    tail: int = 80
    decay: float = 0.9
    kind = "unbiased"
    randomised = True

    def __post_init__(self):
        check_positive_int("tail", self.tail)
        _check_number("decay", self.decay, 0.0, 1.0, open_low=True)
        if self.decay == 1.0:
            raise ValueError("Expected decay to be a number in (0.0, 1.0), got 1.0.")

    def reach(self, k: int) -> np.ndarray:
        """P(T >= j) for j = 1 .. k - 1, in steps that a uniform number of 23 bits has too."""
        j = np.arange(1, k)
        geometric = self.decay ** np.maximum(j - self.tail, 0) / self.tail
        return np.floor(np.where(j <= self.tail, 1 / j, geometric) * 2**23) / 2**23

    def samples(self, uniform: Float[Array, "*batch"], k: int) -> Int[Array, "*batch"]:
        """The samples that are looked at: one more than the terms, at most k."""
        shape = (-1,) + (1,) * uniform.ndim
        reach = jnp.asarray(self.reach(k), uniform.dtype).reshape(shape)
        return 1 + jnp.sum(uniform[None] < reach, axis=0)

    def __call__(
        self, log_w: Float[Array, "k *batch"], uniform: Float[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        k = log_w.shape[0]
        if k == 1:
            return log_w[0]
        shape = (-1,) + (1,) * (log_w.ndim - 1)
        looked_at = jnp.arange(k).reshape(shape) < self.samples(uniform, k)[None]
        # Relative to the largest weight, so that an offset of all weights costs no digits.
        peak = jnp.max(jnp.where(looked_at, log_w, -jnp.inf), axis=0, keepdims=True)
        peak = jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0.0))
        log_w = jnp.where(looked_at, log_w - peak, 0.0)  # what is not looked at counts for nothing
        counts = jnp.asarray(np.log(np.arange(1, k + 1)), log_w.dtype).reshape(shape)
        bounds = jax.lax.cumlogsumexp(log_w, axis=0) - counts
        # The first term is always there, so that the sum starts from L_2.
        terms = looked_at[2:]
        rises = jnp.where(terms, bounds[2:], 0.0) - jnp.where(terms, bounds[1:-1], 0.0)
        reach = self.reach(k)[1:]
        weights = jnp.asarray(1 / np.where(reach > 0, reach, np.inf), log_w.dtype)
        return peak[0] + bounds[1] + jnp.sum(rises * weights.reshape(shape), axis=0)


OBJECTIVES: tuple[type, ...] = (
    ELBO, IWAE, Renyi, CUBO, MIWAE, CIWAE, PIWAE, Jackknife, TVO, SUMO,
)  # fmt: skip
NAMES: dict[str, type] = {cls.__name__.lower(): cls for cls in OBJECTIVES}
"""Every objective by its name in lower case; what is here is on the command line too."""


def named(objective: Objective | str) -> Any:
    """The objective of that name, with its default parameters; or the objective itself.

    Raises:
      ValueError: if it is neither a known name nor a function.

    Example:
      >>> from iwae_jax import objectives
      >>> objectives.named("renyi")
      Renyi(alpha=0.5)
    """
    if isinstance(objective, str):
        if objective not in NAMES:
            raise ValueError(f"Expected objective to be one of {list(NAMES)}, got {objective!r}.")
        return NAMES[objective]()
    if not callable(objective) or isinstance(objective, type):
        raise ValueError(
            f"Expected objective to be a function of log_w, such as IWAE(), got {objective!r}."
        )
    return objective


def kind(objective: Objective | str) -> Kind:
    """What the mean of an objective's value is to log p(x): one of `KINDS`.

    Example:
      >>> from iwae_jax import objectives
      >>> objectives.kind(objectives.Renyi(0.5)), objectives.kind(objectives.Renyi(-1.0))
      ('lower bound', 'neither')
    """
    return getattr(named(objective), "kind", "not said")


def _softmax_slope(log_w: Array) -> Array:
    """v (1 - v), with v the softmax over the first axis; zero where every weight is zero."""
    v = jax.grad(lambda l: jnp.sum(log_mean_exp(l)))(log_w)  # noqa: E741
    return v * (1.0 - v)


def _check_number(
    name: str, value: float, low: float, high: float, *, open_low: bool = False
) -> None:
    inside = isinstance(value, (int, float)) and low <= value <= high
    if not inside or isinstance(value, bool) or (open_low and value == low):
        bracket = "(" if open_low else "["
        raise ValueError(
            f"Expected {name} to be a number in {bracket}{low}, {high}], got {value!r}."
        )
