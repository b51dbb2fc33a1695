"""`ModelConfig`: a model composed of a likelihood, a prior, a posterior and networks."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_data_mean, check_number, check_positive_int
from iwae_jax.models.likelihoods import LIKELIHOODS, Likelihood, Outputs
from iwae_jax.models.networks import ACTIVATIONS, NETWORKS, Bias, InPrecision, Network, emit
from iwae_jax.models.posteriors import POSTERIORS, Posterior
from iwae_jax.models.priors import PRIORS, Prior
from iwae_jax.models.products import PRECISIONS
from iwae_jax.protocol import Params
from iwae_jax.typing import Array, ArrayLike, Float, Key, Latents, PyTree


class Parts(NamedTuple):
    """The parts of a `ModelConfig`, as objects."""

    likelihood: Likelihood
    prior: Prior
    posterior: Posterior


@dataclass(frozen=True)
class ModelConfig:
    """A deep latent-variable model with L >= 1 stochastic layers.

    p(x, z) = p(z) p(x | z[0]) and q(z | x), put together from parts: a likelihood, a prior, a posterior,
    and the network that each uses. A part is given by name or as an object. The defaults are the paper's
    one-layer MNIST network: fully connected, with normal layers and Bernoulli pixels.

    The parameters are ``params.generative["likelihood"]``, ``params.generative["prior"]`` and
    ``params.recognition``. Networks' variables are whole Flax variable dicts.

    Args:
      data_shape: the shape of one datum.
      latent_sizes: the size of each stochastic layer, from the one next to x to the top.
      hidden_sizes: for each stochastic layer, the widths of the hidden layers between it and the layer
        below, on the way up; the way down is reversed.
      activation: the hidden layers' activation, a name in `models.ACTIVATIONS`.
      likelihood: a name in `models.LIKELIHOODS` (``"bernoulli"`` for x in [0, 1], ``"normal"`` for real
        x), or a `models.Likelihood`.
      likelihood_scale: the fixed scale (standard deviation) of the likelihood ``"normal"``; None learns
        one for each pixel as a function of z.
      prior: a name in `models.PRIORS`, or a `models.Prior`.
      posterior: a name in `models.POSTERIORS`, or a `models.Posterior`.
      network: a name in `models.NETWORKS`, or a function that makes a Flax module, as `models.MLP` does.
      precision: the precision of the networks' products, forward and backward, on every device:
        ``"float32"``; ``"tensorfloat32"``, which is float32 where a device has no such format; or
        ``"bfloat16"``, which rounds both operands to bfloat16 and adds in float32. Parameters, log-weights
        and all sums stay float32. For another precision than float32, ``network`` must take it.

    Raises:
      ValueError: if a field is invalid.

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
    likelihood: str | Likelihood = "bernoulli"
    likelihood_scale: float | None = None
    prior: str | Prior = "normal"
    posterior: str | Posterior = "normal"
    network: str | Network = "mlp"
    precision: str = "float32"
    # Names are resolved once. The parts take part in comparisons, so that a name that is registered
    # again makes another config, which is compiled again.
    parts: Parts = field(init=False, repr=False)
    make_network: Network = field(init=False, repr=False)

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
        _known("activation", self.activation, ACTIVATIONS)
        if self.likelihood_scale is not None and self.likelihood != "normal":
            raise ValueError(
                "Expected likelihood_scale to be None, or likelihood to be 'normal', got "
                f"{self.likelihood_scale!r} for {self.likelihood!r}."
            )
        if self.likelihood_scale is not None:
            scale = check_number(
                "likelihood_scale",
                self.likelihood_scale,
                0.0,
                math.inf,
                open_low=True,
                open_high=True,
            )
            set_field("likelihood_scale", scale)
        network = self.network
        known = _known("network", network, NETWORKS) if isinstance(network, str) else network
        _known("precision", self.precision, PRECISIONS)
        if self.precision != "float32":
            known = InPrecision(known, self.precision)
        set_field("make_network", known)
        parts = (
            _part("likelihood", self.likelihood, LIKELIHOODS, self),
            _part("prior", self.prior, PRIORS, self),
            _part("posterior", self.posterior, POSTERIORS, self),
        )
        set_field("parts", Parts(*parts))

    @classmethod
    def two_layer(cls, data_shape: tuple[int, ...] = (784,)) -> "ModelConfig":
        """The paper's network with two stochastic layers, of 100 and 50 units."""
        return cls(data_shape, (100, 50), ((200, 200), (100, 100)))

    @property
    def data_range(self) -> tuple[float, float]:
        return self.parts.likelihood.data_range

    @property
    def has_density(self) -> bool:
        posterior = self.parts.posterior
        return getattr(posterior, "has_density", hasattr(posterior, "log_prob"))

    def init(
        self, key: Key[Array, ""], data_mean: ArrayLike | None = None
    ) -> tuple[PyTree, PyTree]:
        """Draw the initial parameters; see `iwae_jax.init`."""
        likelihood, prior, posterior = self.parts
        bias: Bias = 0.0
        if data_mean is not None:
            mean = check_data_mean(data_mean, self.data_shape)
            bias = tuple(likelihood.first_bias(mean).ravel().tolist())
        recognition_key, likelihood_key, prior_key = jax.random.split(key, 3)
        decoder = self._decoder(bias).init(likelihood_key, jnp.zeros(self.latent_sizes[0]))
        generative = {"likelihood": dict(decoder), "prior": prior.init(prior_key)}
        x = jnp.zeros(self.data_shape)
        recognition = posterior.init(recognition_key, x)
        params = Params(generative, recognition, self)
        from_prior = jax.eval_shape(prior.sample, params, key)
        from_posterior, _ = jax.eval_shape(posterior.sample_and_log_prob, params, x, key)
        shapes = [jax.tree.map(lambda leaf: leaf.shape, z) for z in (from_prior, from_posterior)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"Expected prior and posterior to have the same latents, got shapes {shapes[0]} of "
                f"{prior!r} and {shapes[1]} of {posterior!r}."
            )
        return generative, recognition

    def log_joint(self, params: Any, x: Float[Array, "*data"], z: Latents) -> Float[Array, ""]:
        """log p(x, z), nats: the paper's eq. 1."""
        return self.parts.prior.log_prob(params, z) + self.log_conditional(params, x, z)

    def log_conditional(
        self, params: Any, x: Float[Array, "*data"], z: Latents
    ) -> Float[Array, ""]:
        """log p(x | z), nats."""
        return self.parts.likelihood.log_prob(self._outputs(params, z), x)

    def mean_x(self, params: Any, z: Latents) -> Float[Array, "*data"]:
        """E[x | z]: for a Bernoulli likelihood, the probabilities of ones."""
        return self.parts.likelihood.mean(self._outputs(params, z))

    def sample_x(self, params: Any, z: Latents, key: Key[Array, ""]) -> Float[Array, "*data"]:
        """Draw x from p(x | z)."""
        return self.parts.likelihood.sample(self._outputs(params, z), key)

    def sample_prior(self, params: Any, key: Key[Array, ""]) -> Latents:
        """Draw z from p(z)."""
        return self.parts.prior.sample(params, key)

    def sample_posterior(
        self, params: Any, x: Float[Array, "*data"], key: Key[Array, ""]
    ) -> tuple[Latents, Float[Array, ""]]:
        """Draw z from q(z | x); return z and log q(z | x) in nats."""
        return self.parts.posterior.sample_and_log_prob(params, x, key)

    def log_posterior(self, params: Any, x: Float[Array, "*data"], z: Latents) -> Float[Array, ""]:
        """log q(z | x) at a given z, nats, if `has_density`."""
        return self.parts.posterior.log_prob(params, x, z)

    # The model has each of these members if its part has: a property whose part lacks the member
    # raises AttributeError, so that hasattr is False.

    @property
    def prior_moments(self) -> Callable[..., tuple[tuple[Array, Array], ...]]:
        """``prior_moments(params, z)``: (mean, scale) of each layer's normal p(z[l] | z[l+1])."""
        return self.parts.prior.moments  # type: ignore[attr-defined]

    @property
    def posterior_moments(self) -> Callable[..., tuple[tuple[Array, Array], ...]]:
        """``posterior_moments(params, x, z)``: (mean, scale) of each layer's normal, given z below it."""
        return self.parts.posterior.moments  # type: ignore[attr-defined]

    @property
    def encode(self) -> Callable[..., tuple[tuple[Array, Array], ...]]:
        """``encode(params, x, key)``: (mean, scale) of each layer; see `iwae_jax.encode`."""
        return self.parts.posterior.encode  # type: ignore[attr-defined]

    @property
    def noise_size(self) -> int:
        """The number of standard normal numbers behind one draw from q(z | x)."""
        return self.parts.posterior.noise_size  # type: ignore[attr-defined]

    @property
    def sample_posterior_from(self) -> Callable[..., tuple[Latents, Array]]:
        """``sample_posterior_from(params, x, noise)``: z and log q, nats, from [noise_size] noise."""
        return self.parts.posterior.from_noise  # type: ignore[attr-defined]

    @property
    def analytic_kl(self) -> Callable[..., Array]:
        """``analytic_kl(params, x)``: KL(q(z | x) || p(z)) of two normals, nats; for one layer."""
        posterior, prior = self.posterior_moments, self.prior_moments
        if len(self.latent_sizes) != 1:
            raise ValueError(
                f"Expected one stochastic layer for an analytic KL divergence, got "
                f"{len(self.latent_sizes)}."
            )

        def divergence(params: Any, x: Array) -> Array:
            any_z = (jnp.zeros(self.latent_sizes),)  # moments of a single layer do not depend on z
            ((mean, scale),), ((prior_mean, prior_scale),) = (
                posterior(params, x, any_z), prior(params, any_z),
            )  # fmt: skip
            log_ratio = jnp.log(scale / prior_scale)
            distance = jnp.square((mean - prior_mean) / prior_scale)
            return 0.5 * jnp.sum(distance + jnp.expm1(2 * log_ratio) - 2 * log_ratio)

        return divergence

    def _decoder(self, bias: Bias = 0.0) -> Any:
        """The network of p(x | z[0]); ``bias`` is that of its first head."""
        return self.make_network(
            hidden_sizes=self.hidden_sizes[0][::-1],
            heads=self.parts.likelihood.heads(self.data_shape),
            activation=self.activation,
            bias=bias,
        )

    def _outputs(self, params: Any, z: Latents) -> Outputs:
        return emit(self._decoder(), params.generative["likelihood"], z[0])


def in_precision(params: Params, precision: str) -> Params:
    """The same parameters of a `ModelConfig` whose products have another precision.

    Example:
      >>> import jax, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig(precision="bfloat16"))
      >>> iwae_jax.models.in_precision(params, "float32").model == iwae_jax.ModelConfig()
      True

    Raises:
      ValueError: if the precision is not known, or the parameters are not those of a `ModelConfig`.
    """
    if not isinstance(params, Params) or not isinstance(params.model, ModelConfig):
        found = type(getattr(params, "model", params)).__name__
        raise ValueError(f"Expected params of a ModelConfig, got {found}.")
    return replace(params, model=replace(params.model, precision=precision))


def _part(name: str, part: Any, table: dict[str, Callable[[Any], Any]], config: ModelConfig) -> Any:
    return _known(name, part, table)(config) if isinstance(part, str) else part


def _known(name: str, value: Any, table: dict[str, Any]) -> Any:
    if not isinstance(value, str) or value not in table:
        raise ValueError(f"Expected {name} to be one of {', '.join(table)}, got {value!r}.")
    return table[value]


def _sizes(name: str, sizes: Any) -> tuple[int, ...]:
    try:
        return tuple(check_positive_int(name, size) for size in sizes)
    except (TypeError, ValueError):
        raise ValueError(f"Expected {name} to hold positive ints, got {sizes!r}.") from None
