"""Means of the weights: of their logs, of the weights, of their powers."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_number
from iwae_jax.objectives.base import Kind, Objective, softmax_slope
from iwae_jax.objectives.logspace import log_mean_exp, log_mean_power
from iwae_jax.typing import Array, Float


@dataclass(frozen=True)
class ELBO(Objective):
    """The evidence lower bound: the mean of k log-weights, (1/k) sum_i log w_i.

    A lower bound of log p(x), and the paper's "VAE". More samples leave the expectation and lower the
    variance.

    Attributes:
      analytic_kl: take the mean of log p(x | z_i) - KL(q(z | x) || p(z)), with the KL divergence in
        closed form. The expectation is the same; the variance may be smaller or larger. The model
        must have one normal stochastic layer. Only gradients that follow the value itself are defined.

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
class IWAE(Objective):
    """The importance weighted bound: log of the mean of k weights, log (1/k) sum_i w_i.

    A lower bound of log p(x) that rises to log p(x) as k grows. For k = 1 it is the ELBO. Its
    gradient in the log-weights is their softmax (eq. 14 of the paper). If every weight is zero
    (log-weight -inf), the value is -inf and the gradient is zero.

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
        return softmax_slope(log_w)


@dataclass(frozen=True)
class Renyi(Objective):
    """The variational Renyi bound: (1 / (1 - alpha)) log (1/k) sum_i w_i^(1 - alpha).

    The bound falls as alpha rises. alpha = 0 is the IWAE, alpha = 1 exactly the ELBO, alpha = -inf
    the largest log-weight (VR-max), alpha = inf the smallest. For alpha >= 0 it is a lower bound of
    log p(x). For alpha < 0 it is neither: its limit in k is an upper bound, and k samples
    underestimate this limit. Training climbs the value in theta and phi at any alpha, as the paper's
    VR-alpha does. Above log p(x), climbing pulls q away from the posterior.

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
        object.__setattr__(self, "alpha", check_number("alpha", self.alpha, -math.inf, math.inf))

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
class CUBO(Objective):
    """The chi upper bound: (1/n) log (1/k) sum_i w_i^n, which is `Renyi` of order 1 - n.

    Its limit in k is an upper bound of log p(x). The k-sample value is neither: it is biased low, and
    may lie under log p(x) at any n. Use it for evaluation, or descend it in phi. `iwae_jax.train_step`
    climbs its objective; for large k, climbing pulls q away from the posterior.

    Attributes:
      n: the power, above 1.

    Raises:
      ValueError: if n is not above 1.

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
        object.__setattr__(self, "n", check_number("n", self.n, 1.0, math.inf, open_low=True))

    def __call__(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "*batch"]:
        return Renyi(1.0 - self.n)(log_w)

    def hessian_diagonal(self, log_w: Float[Array, "k *batch"]) -> Float[Array, "k *batch"]:
        """n v (1 - v), with v the normalised w^n."""
        return Renyi(1.0 - self.n).hessian_diagonal(log_w)

    @property
    def smooth(self) -> bool:
        return not math.isinf(self.n)
