"""Annealed importance sampling with Hamiltonian Monte Carlo (HMC), and bidirectional Monte Carlo.

The HMC transitions come from blackjax, which the extra iwae_jax[annealing] installs.
"""

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from iwae_jax.checks import check_key, check_positive_int
from iwae_jax.devices import cut_over, each_on_its_own
from iwae_jax.objectives.logspace import log_mean_exp
from iwae_jax.protocol import (
    Params,
    Use,
    check_density,
    datum_keys,
    flatten_batch,
    model_of,
    other_key,
)
from iwae_jax.typing import Array, Float, Key, Observations

Start = Literal["posterior", "prior"]
"""The start of the path: q(z | x) or p(z)."""

TARGET = 0.65
"""The acceptance rate to which step sizes are adapted (Wu et al.)."""

_PILOTS = 8  # chains that adapt the step sizes
_WARM = 50  # transitions of the pilot chains before the path begins
_GAIN = 0.2  # change of the log step size for each unit of acceptance above the target
_DRAWS = 64  # draws from the start that give HMC its scales
_FIRST_STEP = 0.5  # the first step size, in these scales


def annealed_log_weights(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    chains: int,
    *,
    steps: int = 1000,
    leapfrog: int = 10,
    start: Start = "posterior",
    batch_size: int = 20,
) -> Float[Array, "chains *batch"]:
    """Log-weights of annealed importance sampling: like `log_weights`, with far less variance.

    Each chain moves from the start distribution to p(z | x) along the geometric path
    p_start^(1 - beta) p(x, z)^beta. It takes one HMC transition at each of ``steps`` values of beta, and
    collects a weight whose mean is p(x). Therefore ``objectives.IWAE()`` of the result is a lower bound
    of log p(x) in expectation, and `evaluation.diagnose` measures how far to trust it. With one step
    from the posterior, the result is ``log_weights(params, x, key, chains)``.

    A step size that follows its own chain would bias the weights. Pilot chains therefore adapt the step
    sizes along the path first, and the chains proper run with these step sizes fixed.

    The promise is a distribution, not a number. An HMC transition accepts or rejects, and rounding can turn
    the decision. Another ``batch_size``, device or kind of CPU may therefore change a weight; the
    distribution of the weights stays the same. The random numbers of a chain depend on its key alone.

    Args:
      params: parameters that carry their model; its latents must be continuous.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum (see `datum_keys`).
      chains: the number of chains for each datum.
      steps: the number of values of beta; they lie closer together near 0 and 1. More steps lower the
        variance and tighten the bound.
      leapfrog: the number of integrator steps in a transition; each computes one gradient of the
        joint density.
      start: ``"posterior"``, q(z | x), or ``"prior"``, p(z). For the prior, the model must offer
        ``sample_prior`` and ``log_conditional``; the estimate then does not depend on q.
      batch_size: the number of data that are annealed at a time; on each device of a mesh.

    Returns:
      Log-weights in nats.

    Raises:
      ValueError: on input that `iwae_jax.log_weights` refuses, on an invalid argument, or if the
        latents are discrete.
      ImportError: if blackjax is not installed.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> from iwae_jax import annealing
      >>> config = iwae_jax.ModelConfig((4,), (2,), ((8,),))
      >>> params, x = iwae_jax.init(jax.random.key(0), config), jnp.zeros((3, 4))
      >>> annealing.annealed_log_weights(params, x, jax.random.key(1), chains=5, steps=10).shape
      (5, 3)

    Reference:
      Neal, Annealed Importance Sampling (2001); Wu et al., On the Quantitative Analysis of
      Decoder-Based Generative Models (2017).
    """
    chains = check_positive_int("chains", chains)
    numbers = _check_path(params, steps, leapfrog, start, batch_size)
    data, keys, batch_shape = flatten_batch(params, x, key)
    return _annealed(params, data, keys, chains, start, *numbers).reshape(chains, *batch_shape)


class Sandwich(NamedTuple):
    """A lower and an upper bound of log p(x), for data drawn from the model.

    Attributes:
      x: the data, [n, *data].
      lower: a lower bound of log p(x) in expectation, [n], nats. Its chains run from the start to the
        posterior.
      upper: an upper bound in expectation, [n], nats. Its chains run back to the start, from the z that
        x was drawn from.
    """

    x: Float[Array, "n *data"]
    lower: Float[Array, " n"]
    upper: Float[Array, " n"]


def bidirectional(
    params: Params,
    key: Key[Array, ""],
    n: int,
    chains: int,
    *,
    steps: int = 1000,
    leapfrog: int = 10,
    start: Start = "posterior",
    batch_size: int = 20,
) -> Sandwich:
    """Draw n data from the model, and enclose their log p(x) between two bounds.

    The z that a simulated datum was drawn from is an exact draw from its posterior. Annealing run
    backwards from this z gives the upper bound. The mean gap between the bounds limits the error of
    `annealed_log_weights` with the same settings, for data like those of the model.

    Args:
      params: parameters that carry a model with ``sample_prior`` and ``sample_x``.
      key: a typed JAX key.
      n: the number of data.
      chains: the number of chains in each direction.
      steps: the number of values of beta, as for `annealed_log_weights`.
      leapfrog: the number of integrator steps in a transition.
      start: ``"posterior"`` or ``"prior"``, as for `annealed_log_weights`.
      batch_size: the number of data that are annealed at a time; on each device of a mesh.

    Returns:
      A `Sandwich`.

    Raises:
      ValueError: if an argument is invalid, or the model lacks a member.
      ImportError: if blackjax is not installed.

    Example:
      >>> import jax, iwae_jax
      >>> from iwae_jax import annealing
      >>> config = iwae_jax.ModelConfig((4,), (2,), ((8,),))
      >>> params = iwae_jax.init(jax.random.key(0), config)
      >>> bounds = annealing.bidirectional(params, jax.random.key(1), 3, chains=5, steps=10)
      >>> bounds.upper.shape
      (3,)

    Reference:
      Grosse, Ghahramani and Adams, Sandwiching the marginal likelihood using bidirectional Monte
      Carlo (2015).
    """
    n, chains = check_positive_int("n", n), check_positive_int("chains", chains)
    model_of(params, "sample_prior", "sample_x")
    numbers = _check_path(params, steps, leapfrog, start, batch_size)
    draw_key, forward_key, back_key = jax.random.split(check_key(key), 3)
    z, x = _simulate(params, datum_keys(draw_key, n))
    forward = _annealed(params, x, datum_keys(forward_key, n), chains, start, *numbers)
    back = _annealed_back(params, x, z, datum_keys(back_key, n), chains, start, *numbers)
    return Sandwich(x, log_mean_exp(forward), -log_mean_exp(-back))


def _check_path(
    params: Params, steps: int, leapfrog: int, start: str, batch_size: int
) -> tuple[int, int, int]:
    _hmc()
    if start not in get_args(Start):
        raise ValueError(f"Expected start to be one of {get_args(Start)}, got {start!r}.")
    if start == "prior":
        model_of(params, "sample_prior", "log_conditional")
    else:
        check_density(
            model_of(params), f"annealing from start={start!r} (start='prior' needs none)"
        )
    return (
        check_positive_int("steps", steps),
        check_positive_int("leapfrog", leapfrog),
        check_positive_int("batch_size", batch_size),
    )


def _hmc() -> Any:
    try:
        from blackjax.mcmc import hmc
    except ImportError:
        raise ImportError(
            "Expected blackjax for annealed importance sampling: pip install 'iwae_jax[annealing]'."
        ) from None
    return hmc


def _betas(steps: int) -> Array:
    """The values 0 = beta_0 < .. < beta_steps = 1, spaced by a sigmoid."""
    raw = jax.nn.sigmoid(4.0 * jnp.linspace(-1.0, 1.0, steps + 1))
    betas = (raw - raw[0]) / (raw[-1] - raw[0])
    return betas.at[-1].set(1.0)


class _Path:
    """The distributions between the start and p(z | x) for one datum, over flat vectors z."""

    def __init__(self, params: Params, x: Array, key: Array, start: str, leapfrog: int):
        self.params, self.x, self.start, self.leapfrog = params, x, start, leapfrog
        template = self.draw_tree(key)
        leaves = jax.tree.leaves(template)
        if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
            kinds = getattr(params.model, "latents", tuple(leaf.dtype.name for leaf in leaves))
            raise ValueError(
                f"Expected latents to be continuous for annealing, got discrete ones: {kinds!r}."
            )
        _, self.unravel = ravel_pytree(template)
        hmc = _hmc()
        self._init, self._kernel = hmc.init, hmc.build_kernel()
        draws = jax.vmap(self.draw)(jax.random.split(other_key(key, Use.SCALES), _DRAWS))
        self.variances = jnp.maximum(jnp.var(draws, axis=0), 1e-12)

    def draw_tree(self, key: Array) -> Any:
        model = self.params.model
        if self.start == "prior":
            return model.sample_prior(self.params, key)
        return model.sample_posterior(self.params, self.x, key)[0]

    def draw(self, key: Array) -> Array:
        return ravel_pytree(self.draw_tree(key))[0]

    def log_ratio(self, z: Array) -> Array:
        """log p(x, z) - log p_start(z). A step of beta adds its size times this to the log-weight."""
        model, latents = self.params.model, self.unravel(z)
        if self.start == "prior":
            return model.log_conditional(self.params, self.x, latents)
        log_q = model.log_posterior(self.params, self.x, latents)
        return model.log_joint(self.params, self.x, latents) - log_q

    def log_density(self, beta: Array, z: Array) -> Array:
        joint = self.params.model.log_joint(self.params, self.x, self.unravel(z))
        return joint - (1.0 - beta) * self.log_ratio(z)

    def move(self, z: Array, key: Array, beta: Array, step_size: Array) -> tuple[Array, Array]:
        """Take an HMC transition under which p_beta is invariant; return z and the acceptance rate."""
        log_density = partial(self.log_density, beta)
        state = self._init(z, log_density)
        state, info = self._kernel(
            key, state, log_density, step_size, self.variances, self.leapfrog
        )
        return state.position, info.acceptance_rate

    def step_sizes(self, key: Array, betas: Array) -> Array:
        """Adapt a step size for each of beta_1 .. beta_steps with pilot chains."""
        draw_key, key = jax.random.split(key)
        z = jax.vmap(self.draw)(jax.random.split(draw_key, _PILOTS))

        def step(carry, t_and_beta):
            z, log_step = carry
            t, beta = t_and_beta
            keys = jax.random.split(jax.random.fold_in(key, t), _PILOTS)
            move = jax.vmap(self.move, (0, 0, None, None))
            z, accepted = move(z, keys, beta, jnp.exp(log_step))
            after = log_step + _GAIN * (jnp.mean(accepted) - TARGET)
            return (z, after), jnp.exp(log_step)

        schedule = jnp.concatenate([jnp.full(_WARM, betas[0]), betas[1:]])
        first = jnp.log(jnp.asarray(_FIRST_STEP, betas.dtype))
        _, sizes = jax.lax.scan(step, (z, first), (jnp.arange(len(schedule)), schedule))
        return sizes[_WARM:]


def _over_data(
    one: Any, params: Params, data: Any, chains: int, betas: Array, batch_size: int
) -> Array:
    """``one(params, betas, numbers, datum)``, [chains], for each datum: [chains, n]."""

    def work(whole, data, numbers, total):
        del total  # chains do not meet
        return jax.lax.map(partial(one, *whole, numbers), data, batch_size=batch_size).T

    devices = cut_over("sample")
    numbers = jnp.arange(-(-chains // devices) * devices)
    return each_on_its_own(work, ("sample", "data"), (params, betas), data, numbers)[:chains]


@partial(jax.jit, static_argnums=(3, 4, 5, 6, 7))
def _annealed(params, data, keys, chains, start, steps, leapfrog, batch_size):
    def one(params, betas, numbers, datum):
        x, key = datum
        path = _Path(params, x, key, start, leapfrog)
        sizes = path.step_sizes(other_key(key, Use.PILOT), betas)

        def chain(number):
            z = path.draw(jax.random.fold_in(key, number))
            move_key = jax.random.fold_in(other_key(key, Use.TRANSITIONS), number)

            def step(carry, inputs):
                z, log_w = carry
                t, before, beta, size = inputs
                log_w += (beta - before) * path.log_ratio(z)
                z, _ = path.move(z, jax.random.fold_in(move_key, t), beta, size)
                return (z, log_w), None

            inputs = (jnp.arange(steps), betas[:-1], betas[1:], sizes)
            (_, log_w), _ = jax.lax.scan(step, (z, jnp.zeros_like(betas[0])), inputs)
            return log_w

        return jax.vmap(chain)(numbers)

    return _over_data(one, params, (data, keys), chains, _betas(steps), batch_size)


@partial(jax.jit, static_argnums=(4, 5, 6, 7, 8))
def _annealed_back(params, data, z, keys, chains, start, steps, leapfrog, batch_size):
    def one(params, betas, numbers, datum):
        x, z, key = datum
        path = _Path(params, x, key, start, leapfrog)
        sizes = path.step_sizes(other_key(key, Use.PILOT), betas)
        z = ravel_pytree(z)[0]

        def chain(number):
            move_key = jax.random.fold_in(other_key(key, Use.TRANSITIONS), number)

            def step(carry, inputs):
                z, log_w = carry
                t, before, beta, size = inputs
                z, _ = path.move(z, jax.random.fold_in(move_key, t), beta, size)
                return (z, log_w + (beta - before) * path.log_ratio(z)), None

            inputs = (jnp.arange(steps), betas[:-1], betas[1:], sizes)
            start_of = (z, jnp.zeros_like(betas[0]))
            (_, log_w), _ = jax.lax.scan(step, start_of, inputs, reverse=True)
            return log_w

        return jax.vmap(chain)(numbers)

    return _over_data(one, params, (data, z, keys), chains, _betas(steps), batch_size)


@jax.jit
def _simulate(params, keys):
    model = params.model

    def one(key):
        z_key, x_key = jax.random.split(key)
        z = model.sample_prior(params, z_key)
        return z, model.sample_x(params, z, x_key)

    return jax.vmap(one)(keys)
