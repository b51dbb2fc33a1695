"""The model of Burda et al. with L stochastic layers, and what is drawn from it."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax.checks import check_data_mean, check_key, check_positive_int
from iwae_jax.models.distributions import (
    bernoulli_log_prob,
    normal_log_prob,
    standard_normal_log_prob,
)
from iwae_jax.models.networks import ACTIVATIONS, NORMAL, Block, emit
from iwae_jax.models.posteriors import NormalPosterior
from iwae_jax.protocol import Params, check_members, datum_keys, flatten_batch
from iwae_jax.typing import Array, ArrayLike, Float, Key, Latents, Observations, PyTree


@dataclass(frozen=True)
class ModelConfig:
    """A deep latent-variable model with L >= 1 stochastic layers, fully connected.

    p(x, z) = p(z[L-1]) p(z[L-2] | z[L-1]) .. p(x | z[0]) with a standard normal at the top and
    diagonal normals below; q(z | x) runs the other way. The defaults are the paper's one-layer
    MNIST network.

    Args:
      data_shape: the shape of one datum.
      latent_sizes: the size of each stochastic layer, from the one next to x upwards.
      hidden_sizes: for each stochastic layer, the widths of the hidden layers between it and the
        layer below, on the way up and (reversed) on the way down.
      activation: of the hidden layers; a name in `iwae_jax.models.networks.ACTIVATIONS`.
      likelihood: ``"bernoulli"`` for x in [0, 1], ``"normal"`` for real x.
      likelihood_scale: for a normal likelihood, its fixed scale (standard deviation); None
        learns one for each pixel as a function of z.

    Raises:
      ValueError: if a field has a value that makes no model.

    Example:
      >>> import jax, iwae_jax
      >>> config = iwae_jax.ModelConfig(data_shape=(8, 8), latent_sizes=(5,), hidden_sizes=((20,),))
      >>> params = iwae_jax.init(jax.random.key(0), config)
      >>> iwae_jax.sample(params, jax.random.key(1), 3).shape
      (3, 8, 8)

    Reference:
      Burda et al., Importance Weighted Autoencoders (2016), sec. 5 and eq. 1, 2.
    """

    data_shape: tuple[int, ...] = (784,)
    latent_sizes: tuple[int, ...] = (50,)
    hidden_sizes: tuple[tuple[int, ...], ...] = ((200, 200),)
    activation: str = "tanh"
    likelihood: Literal["bernoulli", "normal"] = "bernoulli"
    likelihood_scale: float | None = None

    def __post_init__(self):
        # Lists, as JSON has them, become tuples, so that the config stays hashable.
        set_field = partial(object.__setattr__, self)
        set_field("data_shape", _sizes("data_shape", self.data_shape))
        set_field("latent_sizes", _sizes("latent_sizes", self.latent_sizes))
        try:
            blocks = tuple(self.hidden_sizes)
        except TypeError:
            blocks = (self.hidden_sizes,)
        set_field("hidden_sizes", tuple(_sizes("hidden_sizes", block) for block in blocks))
        if not self.latent_sizes or len(self.latent_sizes) != len(self.hidden_sizes):
            raise ValueError(
                "Expected latent_sizes and hidden_sizes to have one entry for each stochastic "
                f"layer, at least one, got {self.latent_sizes} and {self.hidden_sizes}."
            )
        if self.activation not in list(ACTIVATIONS):
            raise ValueError(
                f"Expected activation to be one of {sorted(ACTIVATIONS)}, got {self.activation!r}."
            )
        if self.likelihood not in ("bernoulli", "normal"):
            raise ValueError(
                f"Expected likelihood to be 'bernoulli' or 'normal', got {self.likelihood!r}."
            )
        scale = self.likelihood_scale
        if scale is not None and not (
            self.likelihood == "normal"
            and isinstance(scale, (int, float))
            and 0 < scale < float("inf")
        ):
            raise ValueError(
                "Expected likelihood_scale to be None or, for a normal likelihood, a positive "
                f"number, got {self.likelihood_scale!r} for {self.likelihood!r}."
            )

    @classmethod
    def two_layer(cls, data_shape: tuple[int, ...] = (784,)) -> "ModelConfig":
        """The paper's network with two stochastic layers, of 100 and 50 units."""
        return cls(data_shape, (100, 50), ((200, 200), (100, 100)))

    @property
    def data_range(self) -> tuple[float, float]:
        return (0.0, 1.0) if self.likelihood == "bernoulli" else (-float("inf"), float("inf"))

    @property
    def posterior(self) -> NormalPosterior:
        """The recognition model q(z | x)."""
        return NormalPosterior(self.latent_sizes, self.hidden_sizes, self.activation)

    def _decoders(self, bias: float | tuple[float, ...] = 0.0) -> tuple[Block, ...]:
        """Networks of p(x | z[0]), p(z[0] | z[1]), ..; `bias` is that of the first head of x."""
        if self.likelihood == "bernoulli":
            heads = ("logits",)
        else:
            heads = NORMAL if self.likelihood_scale is None else ("mean",)
        to_x = Block(
            self.hidden_sizes[0][::-1], int(np.prod(self.data_shape)), heads, self.activation, bias
        )
        return to_x, *(
            Block(hidden[::-1], size, NORMAL, self.activation)
            for hidden, size in zip(self.hidden_sizes[1:], self.latent_sizes, strict=False)
        )

    def init(
        self, key: Key[Array, ""], data_mean: ArrayLike | None = None
    ) -> tuple[PyTree, PyTree]:
        """Draw the initial parameters; see `iwae_jax.init`."""
        bias: float | tuple[float, ...] = 0.0
        if data_mean is not None:
            mean = check_data_mean(data_mean, self.data_shape)
            if self.likelihood == "bernoulli":
                if mean.min() < 0 or mean.max() > 1:
                    raise ValueError(
                        f"Expected data_mean in [0, 1], got values from {mean.min()} to "
                        f"{mean.max()}."
                    )
                mean = np.clip(mean, 0.001, 0.999)
                mean = np.log(mean) - np.log1p(-mean)  # the logit, not log(1 - mean)
            bias = tuple(mean.ravel().tolist())
        recognition_key, *decoder_keys = jax.random.split(key, 1 + len(self.latent_sizes))
        generative = tuple(
            block.init(decoder_key, jnp.zeros(size))["params"]
            for decoder_key, block, size in zip(
                decoder_keys, self._decoders(bias), self.latent_sizes, strict=True
            )
        )
        return generative, self.posterior.init(recognition_key, jnp.zeros(self.data_shape))

    def sample_posterior(
        self, recognition: PyTree, x: Float[Array, "*data"], key: Key[Array, ""]
    ) -> tuple[Latents, Float[Array, ""]]:
        """Draw z from q(z | x), reparameterised; return z and log q(z | x) in nats."""
        return self.posterior.sample(recognition, x, key)

    @property
    def noise_size(self) -> int:
        """Standard normal numbers behind one draw from q(z | x)."""
        return sum(self.latent_sizes)

    def sample_posterior_from(
        self, recognition: PyTree, x: Float[Array, "*data"], noise: Float[Array, " noise"]
    ) -> tuple[Latents, Float[Array, ""]]:
        """z and log q(z | x) in nats of given noise, standard normal, [noise_size]."""
        layers = jnp.split(noise, np.cumsum(self.latent_sizes)[:-1])
        return self.posterior.transform(recognition, x, layers)

    def log_posterior(
        self, recognition: PyTree, x: Float[Array, "*data"], z: Latents
    ) -> Float[Array, ""]:
        """log q(z | x) at a given z, nats."""
        return self.posterior.log_prob(recognition, x, z)

    def log_joint(
        self, generative: PyTree, x: Float[Array, "*data"], z: Latents
    ) -> Float[Array, ""]:
        """log p(x, z), nats: the paper's eq. 1."""
        log_p = standard_normal_log_prob(z[-1])
        for layer in range(len(z) - 1):
            mean, log_scale = self._decode(generative, layer + 1, z[layer + 1])
            log_p += normal_log_prob(z[layer], mean, log_scale)
        return log_p + self.log_conditional(generative, x, z)

    def log_conditional(
        self, generative: PyTree, x: Float[Array, "*data"], z: Latents
    ) -> Float[Array, ""]:
        """log p(x | z), nats."""
        outputs = self._decode(generative, 0, z[0])
        if self.likelihood == "bernoulli":
            return bernoulli_log_prob(outputs[0], x.reshape(-1))
        return normal_log_prob(x.reshape(-1), *self._x_moments(outputs))

    def analytic_kl(
        self, generative: PyTree, recognition: PyTree, x: Float[Array, "*data"]
    ) -> Float[Array, ""]:
        """KL(q(z | x) || p(z)) in closed form, nats; for one stochastic layer."""
        del generative  # the prior has no parameters
        if len(self.latent_sizes) != 1:
            raise ValueError(
                f"Expected one stochastic layer for an analytic KL divergence, got "
                f"{len(self.latent_sizes)}."
            )
        _, ((mean, log_scale),) = self.posterior.conditionals(
            recognition, x, lambda _, mean, __: mean
        )
        return 0.5 * jnp.sum(mean**2 + jnp.expm1(2 * log_scale) - 2 * log_scale)

    def prior_moments(self, generative: PyTree, z: Latents) -> tuple[tuple[Array, Array], ...]:
        """(mean, scale) of each layer's normal p(z[l] | z[l+1]), from the layer next to x upwards."""
        moments = [(jnp.zeros_like(z[-1]), jnp.ones_like(z[-1]))]
        for layer in reversed(range(len(z) - 1)):
            mean, log_scale = self._decode(generative, layer + 1, z[layer + 1])
            moments.insert(0, (mean, jnp.exp(log_scale)))
        return tuple(moments)

    def sample_prior(self, generative: PyTree, key: Key[Array, ""]) -> Latents:
        """Draw z from p(z), from the top layer down."""
        keys = jax.random.split(key, len(self.latent_sizes))
        z = [jax.random.normal(keys[-1], (self.latent_sizes[-1],))]
        for layer in reversed(range(len(self.latent_sizes) - 1)):
            mean, log_scale = self._decode(generative, layer + 1, z[0])
            noise = jax.random.normal(keys[layer], mean.shape)
            z.insert(0, mean + jnp.exp(log_scale) * noise)
        return tuple(z)

    def mean_x(self, generative: PyTree, z: Latents) -> Float[Array, "*data"]:
        """E[x | z]: the probabilities of ones, or the mean."""
        outputs = self._decode(generative, 0, z[0])
        mean = jax.nn.sigmoid(outputs[0]) if self.likelihood == "bernoulli" else outputs[0]
        return mean.reshape(self.data_shape)

    def sample_x(
        self, generative: PyTree, z: Latents, key: Key[Array, ""]
    ) -> Float[Array, "*data"]:
        """Draw x from p(x | z)."""
        outputs = self._decode(generative, 0, z[0])
        if self.likelihood == "bernoulli":
            x = jax.random.bernoulli(key, jax.nn.sigmoid(outputs[0])).astype(outputs[0].dtype)
        else:
            mean, log_scale = self._x_moments(outputs)
            x = mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)
        return x.reshape(self.data_shape)

    def encode(
        self, recognition: PyTree, x: Float[Array, "*data"], key: Key[Array, ""] | None
    ) -> tuple[tuple[Array, Array], ...]:
        """(mean, scale) of each layer's conditional; see `iwae_jax.encode`."""
        if key is None:
            _, moments = self.posterior.conditionals(recognition, x, lambda _, mean, __: mean)
        else:
            z, _ = self.posterior.sample(recognition, x, key)
            _, moments = self.posterior.conditionals(recognition, x, lambda layer, *_: z[layer])
        return tuple((mean, jnp.exp(log_scale)) for mean, log_scale in moments)

    def _decode(self, generative: PyTree, layer: int, above: Array) -> tuple[Array, ...]:
        """Raw outputs of the network of p(x | z[0]) (layer 0) or p(z[layer-1] | z[layer])."""
        return emit(self._decoders()[layer], generative[layer], above)

    def _x_moments(self, outputs: tuple[Array, ...]) -> tuple[Array, Array]:
        if self.likelihood_scale is None:
            return outputs[0], outputs[1]
        return outputs[0], jnp.full_like(outputs[0], np.log(self.likelihood_scale))


def sample(
    params: Params, key: Key[Array, ""], n: int, *, mean: bool = False
) -> Float[Array, "n *data"]:
    """Draw n data from the model: z from the prior, then x from p(x | z).

    Args:
      params: parameters that carry their model.
      key: a typed JAX key.
      n: the number of draws.
      mean: give E[x | z] of each z (for a Bernoulli, the probabilities of ones: what figures
        show) in place of a draw of x.

    Raises:
      ValueError: if key or n is not what it should be, or the model can't be sampled.

    Example:
      >>> import jax, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> iwae_jax.sample(params, jax.random.key(1), 100).shape
      (100, 784)
    """
    n = check_positive_int("n", n)
    return _sample(
        check_members(params, "sample_prior", "sample_x", "mean_x"), check_key(key), n, mean
    )


@partial(jax.jit, static_argnames=("n", "mean"))
def _sample(params, key, n, mean):
    model, theta = params.model, params.generative

    def one(key):
        z_key, x_key = jax.random.split(key)
        z = model.sample_prior(theta, z_key)
        return model.mean_x(theta, z) if mean else model.sample_x(theta, z, x_key)

    return jax.vmap(one)(datum_keys(key, n))


def reconstruct(params: Params, x: Observations, key: Key[Array, "*batch"]) -> Array:
    """E[x | z] for one z drawn from q(z | x), for each datum.

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum.

    Returns:
      Means of p(x | z), [*batch, *data]: for a Bernoulli, the probabilities of ones.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> iwae_jax.reconstruct(params, jnp.zeros((3, 784)), jax.random.key(1)).shape
      (3, 784)
    """
    data, keys, batch_shape = flatten_batch(check_members(params, "mean_x"), x, key)
    return _reconstruct(params, data, keys).reshape(*batch_shape, *params.model.data_shape)


@jax.jit
def _reconstruct(params, data, keys):
    def one(x, key):
        z, _ = params.model.sample_posterior(params.recognition, x, key)
        return params.model.mean_x(params.generative, z)

    return jax.vmap(one)(data, keys)


def encode(
    params: Params, x: Observations, key: Key[Array, "*batch"] | None = None
) -> tuple[tuple[Array, Array], ...]:
    """Mean and scale of each layer's conditional in q(z | x), for each datum.

    q(z[0] | x) depends on x alone. A higher layer's conditional depends on the layer below:
    on one draw of it if a key is given, on its mean if not.

    Args:
      params: parameters that carry their model.
      x: observations, [*batch, *data].
      key: a typed JAX key, or one for each datum; or None.

    Returns:
      For each layer, from the one next to x upwards, (mean, scale), each [*batch, latent]. The
      scale is a standard deviation.

    Raises:
      ValueError: on input that `iwae_jax.bound` refuses.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig.two_layer())
      >>> moments = iwae_jax.encode(params, jnp.zeros((3, 784)))
      >>> [(mean.shape, scale.shape) for mean, scale in moments]
      [((3, 100), (3, 100)), ((3, 50), (3, 50))]
    """
    stand_in = jax.random.key(0) if key is None else key
    data, keys, batch_shape = flatten_batch(check_members(params, "encode"), x, stand_in)
    moments = _encode(params, data, None if key is None else keys)
    return jax.tree.map(lambda array: array.reshape(*batch_shape, *array.shape[1:]), moments)


@jax.jit
def _encode(params, data, keys):
    return jax.vmap(partial(params.model.encode, params.recognition))(data, keys)


def _sizes(name: str, sizes: Any) -> tuple[int, ...]:
    try:
        return tuple(check_positive_int(name, size) for size in sizes)
    except (TypeError, ValueError):
        raise ValueError(f"Expected {name} to hold positive ints, got {sizes!r}.") from None
