"""The public bound, whose gradient is the paper's eq. 14."""

from functools import partial

import jax
import jax.numpy as jnp

from iwae_jax.importance import sampled_log_weights
from iwae_jax.objectives import IWAE, Objective
from iwae_jax.protocol import Params, flatten_batch
from iwae_jax.typing import Array, Float, Key, Observations, check_positive_int


def bound(
    params: Params,
    x: Observations,
    key: Key[Array, "*batch"],
    k: int,
    *,
    objective: Objective = IWAE(),
) -> Float[Array, "*batch"]:
    r"""A k-sample bound on log p(x), for each datum.

    The value is the objective of ``log_weights(params, x, key, k)``. Its gradient in ``params`` is
    the reparameterised one, for `IWAE` the paper's eq. 14: the gradients of the log-weights,
    weighted by the normalised weights.

    Args:
      params: parameters that carry their model, from `iwae_jax.init`.
      x: observations, with any number of batch axes; bool, 0/1 or in [0, 1] for a Bernoulli
        likelihood.
      key: a typed JAX key, or one for each datum.
      k: the number of importance samples; static.
      objective: a hashable function from log-weights, [k, *batch], to values, [*batch].

    Returns:
      The bound, nats.

    Raises:
      ValueError: if x has another shape or range than the model's, key or k is not what it
        should be, or the objective returns another shape.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> x = jnp.zeros((3, 784))
      >>> iwae_jax.bound(params, x, jax.random.key(1), k=50).shape
      (3,)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), eq. 8 and 14.
    """
    k = check_positive_int("k", k)
    if not callable(objective) or isinstance(objective, type):
        raise ValueError(
            f"Expected objective to be a function of log_w, such as IWAE(), got {objective!r}."
        )
    data, keys, batch_shape = flatten_batch(params, x, key)
    return _bound(params, data, keys, k, objective).reshape(batch_shape)


@partial(jax.jit, static_argnames=("k", "objective"))
def _bound(params, data, keys, k, objective):
    values = objective(sampled_log_weights(params, data, keys, jnp.arange(k)))
    if values.shape != data.shape[:1]:
        raise ValueError(
            f"Expected objective to return shape {data.shape[:1]} for log_w of shape "
            f"{(k, *data.shape[:1])}, got {values.shape}."
        )
    return values
