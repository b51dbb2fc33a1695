"""`ModelConfig`: a model composed of a likelihood, a prior, a posterior and networks."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_data_mean, check_positive_int
from iwae_jax.models import families
from iwae_jax.models.families import Family
from iwae_jax.models.likelihoods import LIKELIHOODS, Likelihood, Outputs
from iwae_jax.models.missing import SeenLikelihood, SeenPosterior
from iwae_jax.models.naming import by_name, known
from iwae_jax.models.networks import (
    ACTIVATIONS,
    NETWORKS,
    Bias,
    InPrecision,
    Network,
    emit,
    in_role,
)
from iwae_jax.models.posteriors import POSTERIORS, Posterior
from iwae_jax.models.priors import PRIORS, Prior
from iwae_jax.models.products import PRECISIONS
from iwae_jax.protocol import Params
from iwae_jax.typing import Array, ArrayLike, Float, Int, Key, Latents, PyTree


class Parts(NamedTuple):
    """The parts of a `ModelConfig`, as objects."""

    likelihood: Likelihood
    prior: Prior
    posterior: Posterior


@dataclass(frozen=True)
class ModelConfig:
    """A deep latent-variable model with L >= 1 stochastic layers.

    p(x, z) = p(z) p(x | z[0]) and q(z | x), put together from parts: a likelihood, a prior, a posterior,
    and the network that each uses. A part is given by name or as an object. A name may carry options:
    ``"student_t:df=3"``, ``"semi_implicit:draws=10,noise=5"``. The defaults are the paper's one-layer MNIST
    network: fully connected, with normal layers and Bernoulli pixels.

    The parameters are ``params.generative["likelihood"]``, ``params.generative["prior"]`` and
    ``params.recognition``. Networks' variables are whole Flax variable dicts.

    Args:
      data_shape: the shape of one datum.
      latent_sizes: the size of each stochastic layer, from the one next to x to the top.
      hidden_sizes: for each stochastic layer, the widths of the hidden layers between it and the layer
        below, on the way up; the way down is reversed.
      activation: the hidden layers' activation, a name in `models.ACTIVATIONS`.
      latents: the kind of each layer's latents, a name in `models.LATENTS`, or one name for all layers:
        ``"normal"`` (real numbers), ``"bernoulli"``, ``"categorical"``, ``"concrete"`` or
        ``"concrete_categorical"``.
      likelihood: a name in `models.LIKELIHOODS` (``"bernoulli"`` for x in [0, 1], ``"normal"`` for real
        x), or a `models.Likelihood`.
      prior: a name in `models.PRIORS`, or a `models.Prior`.
      posterior: a name in `models.POSTERIORS`, the family of the layers of real latents, or a
        `models.Posterior`.
      network: a name in `models.NETWORKS`, ``"mlp"`` or ``"conv"`` (`models.ConvNet`, whose hidden sizes are
        channels), or a function that makes a Flax module, as `models.MLP` does.
      precision: the precision of the networks' products, forward and backward, on every device:
        ``"float32"``; ``"tensorfloat32"``, which is float32 where a device has no such format; or
        ``"bfloat16"``, which rounds both operands to bfloat16 and adds in float32. Parameters, log-weights
        and all sums stay float32. For another precision than float32, ``network`` must take it.

      missing: NaN in x means a missing value. The likelihood is that of the values that are seen, and the
        posterior's network reads 0 for the others.

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
    latents: str | tuple[str, ...] = "normal"
    likelihood: str | Likelihood = "bernoulli"
    prior: str | Prior = "standard"
    posterior: str | Posterior = "normal"
    network: str | Network = "mlp"
    precision: str = "float32"
    missing: bool = False
    # Names are resolved once. The parts take part in comparisons, so that a name that is registered
    # again makes another config, which is compiled again.
    parts: Parts = field(init=False, repr=False)
    latent_families: tuple[Family, ...] = field(init=False, repr=False)
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
        known("activation", self.activation, ACTIVATIONS)
        make: Network = self._part("network", NETWORKS)
        known("precision", self.precision, PRECISIONS)
        if self.precision != "float32":
            make = InPrecision(make, self.precision)
        set_field("make_network", make)
        kinds = self.latents
        if not isinstance(kinds, str):
            kinds = tuple(kinds) if isinstance(kinds, (tuple, list)) else (kinds,)
            set_field("latents", kinds)
            if len(kinds) != len(self.latent_sizes):
                raise ValueError(
                    f"Expected latents to be one name, or one for each of {len(self.latent_sizes)} layers, "
                    f"got {kinds!r}."
                )
        if not isinstance(self.missing, bool):
            raise ValueError(f"Expected missing to be True or False, got {self.missing!r}.")
        each = (kinds,) * len(self.latent_sizes) if isinstance(kinds, str) else kinds
        set_field(
            "latent_families", tuple(by_name("latents", kind, families.LATENTS) for kind in each)
        )
        # The likelihood first: it says the range of x, which another part may read.
        likelihood = self._part("likelihood", LIKELIHOODS)
        set_field("parts", Parts(likelihood, None, None))  # type: ignore[arg-type]
        prior, posterior = self._part("prior", PRIORS), self._part("posterior", POSTERIORS)
        if self.missing:
            likelihood, posterior = SeenLikelihood(likelihood), SeenPosterior(posterior)
        set_field("parts", Parts(likelihood, prior, posterior))
        if getattr(prior, "needs_density", False) and not self.has_density:
            raise ValueError(
                f"Expected a posterior with a density at a given z for prior {self.prior!r}; that of "
                f"{self.posterior!r} has none."
            )

    @classmethod
    def two_layer(cls, data_shape: tuple[int, ...] = (784,)) -> "ModelConfig":
        """The paper's network with two stochastic layers, of 100 and 50 units."""
        return cls(data_shape, (100, 50), ((200, 200), (100, 100)))

    @property
    def data_range(self) -> tuple[float, float]:
        return self.parts.likelihood.data_range

    @property
    def levels(self) -> int | None:
        """The number of values that a number in x may have; None if x is continuous."""
        return getattr(self.parts.likelihood, "levels", 2)

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
        read = families.zeros_read(self.latent_families[0], self.latent_sizes[0])
        decoder = dict(self.decoder(bias).init(likelihood_key, read))
        own = self._own_parameters
        generative = {
            "likelihood": decoder | ({_OWN: own} if own else {}),
            "prior": prior.init(prior_key),
        }
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
    def described(self) -> str:
        """The model in an error about what its parts lack."""
        return f"ModelConfig of latents {self.latents!r}, prior {self.prior!r} and posterior {self.posterior!r}"

    @property
    def is_discrete(self) -> bool:
        """Whether a layer's latents are discrete, so that no gradient flows through them."""
        return any(hasattr(family, "number_of_values") for family in self.latent_families)

    @property
    def number_of_latent_values(self) -> int:
        """The number of values of z, if every layer is discrete."""
        each: Any = zip(self.latent_families, self.latent_sizes, strict=True)
        return math.prod(family.number_of_values(size) for family, size in each)

    def latent_value(self, number: Int[Array, ""]) -> Latents:
        """The value of z of a number from 0 to `number_of_latent_values` - 1."""
        z = []
        each: Any = zip(self.latent_families, self.latent_sizes, strict=True)
        for family, size in each:
            count = family.number_of_values(size)
            z.append(family.value(number % count, size))
            number = number // count
        return tuple(z)

    @property
    def strata(self) -> int:
        """The number of strata of a draw from q(z | x), if its draws are stratified."""
        return self.parts.posterior.strata  # type: ignore[attr-defined]

    @property
    def sample_posterior_stratum(self) -> Callable[..., tuple[Latents, Array]]:
        """``sample_posterior_stratum(params, x, key, stratum)``: z and log q, nats, from a stratum."""
        return self.parts.posterior.from_stratum  # type: ignore[attr-defined]

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

    def decoder(self, bias: Bias = 0.0) -> Any:
        """The network of p(x | z[0]), a Flax module.

        Its variables are ``params.generative["likelihood"]``. ``bias`` is the initial one of its first head.
        """
        return in_role(self.make_network, "decoder")(
            hidden_sizes=self.hidden_sizes[0][::-1],
            heads=self.parts.likelihood.heads(self.data_shape),
            activation=self.activation,
            bias=bias,
        )

    def _outputs(self, params: Any, z: Latents) -> Outputs:
        variables = dict(params.generative["likelihood"])
        own = variables.pop(_OWN, {})
        return emit(self.decoder(), variables, self._features(z[0])) | own

    def _features(self, z: Array) -> Array:
        """The features of z[0], the input of the likelihood's network."""
        return families.features(self.latent_families[0], z)

    @property
    def _own_parameters(self) -> Outputs:
        """The likelihood's parameters that do not depend on z."""
        own: Any = getattr(self.parts.likelihood, "parameters", None)
        return {} if own is None else own(self.data_shape)

    def _part(self, name: str, table: dict[str, Callable[..., Any]]) -> Any:
        part = getattr(self, name)
        return by_name(name, part, table, self) if isinstance(part, str) else part


_OWN = "own"
"""The likelihood's own parameters, beside the variables of its network."""


def in_precision(params: Params, precision: str) -> Params:
    """The same parameters of a `ModelConfig` whose products have another precision.

    Args:
      params: parameters of a `ModelConfig`.
      precision: a name in `models.PRECISIONS`.

    Returns:
      The same arrays, with another model.

    Raises:
      ValueError: if the precision is not known, or the parameters are not those of a `ModelConfig`.

    Example:
      >>> import jax, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig(precision="bfloat16"))
      >>> iwae_jax.models.in_precision(params, "float32").model == iwae_jax.ModelConfig()
      True
    """
    if not isinstance(params, Params) or not isinstance(params.model, ModelConfig):
        found = type(getattr(params, "model", params)).__name__
        raise ValueError(f"Expected params of a ModelConfig, got {found}.")
    return replace(params, model=replace(params.model, precision=precision))


def _sizes(name: str, sizes: Any) -> tuple[int, ...]:
    try:
        return tuple(check_positive_int(name, size) for size in sizes)
    except (TypeError, ValueError):
        raise ValueError(f"Expected {name} to hold positive ints, got {sizes!r}.") from None
