"""Discrete layers: Bernoulli and categorical latents, and the Concrete relaxation of each."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_number, check_positive_int
from iwae_jax.models.distributions import bernoulli_log_prob
from iwae_jax.models.families.base import Outputs, Plain
from iwae_jax.models.networks.base import Heads
from iwae_jax.typing import Array, Float, Int, Key, PyTree


class _LogOdds(Plain):
    """A family of coins, each with its log-odds."""

    def heads(self, size: int) -> Heads:
        """The log-odds of a one."""
        return (("logits", (size,)),)

    def standard(self, size: int) -> Outputs:
        """The outputs of fair coins."""
        return {"logits": jnp.zeros(size)}


class _Logits(Plain):
    """A family of dice with so many ``classes``, each with its unnormalised log-probabilities."""

    classes: int

    def heads(self, size: int) -> Heads:
        """The unnormalised log-probability of each value."""
        return (("logits", (size, self.classes)),)

    def standard(self, size: int) -> Outputs:
        """The outputs of equal probabilities."""
        return {"logits": jnp.zeros((size, self.classes))}


@dataclass(frozen=True)
class BernoulliLatents(_LogOdds):
    """Independent latents of 0 and 1, as int32, which no gradient passes.

    Example:
      >>> from iwae_jax.models import families
      >>> families.BernoulliLatents().heads(3)
      (('logits', (3,)),)

    Reference:
      Mnih and Rezende, Variational inference for Monte Carlo objectives (2016).
    """

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z; return z and its log-probability in nats."""
        z = jax.random.bernoulli(key, jax.nn.sigmoid(outputs["logits"])).astype(jnp.int32)
        return z, self.log_prob(own, outputs, z)

    def log_prob(self, own: PyTree, outputs: Outputs, z: Array) -> Float[Array, ""]:
        """log P(z), nats."""
        logits = outputs["logits"]
        return bernoulli_log_prob(logits, z.astype(logits.dtype))

    def features(self, z: Array) -> Array:
        """-1 and 1, as floats."""
        return 2.0 * z.astype(jnp.result_type(float)) - 1.0

    def number_of_values(self, size: int) -> int:
        """2**size."""
        return 2**size

    def value(self, number: Int[Array, ""], size: int) -> Int[Array, " size"]:
        """The value of z of a number: its binary digits."""
        return (number >> jnp.arange(size)) & 1


@dataclass(frozen=True)
class CategoricalLatents(_Logits):
    """Independent latents of 0 .. classes - 1, as int32, which no gradient passes.

    Attributes:
      classes: the number of values of a latent.

    Raises:
      ValueError: if classes is not a positive int.

    Example:
      >>> from iwae_jax.models import families
      >>> families.CategoricalLatents(classes=10).heads(3)
      (('logits', (3, 10)),)
    """

    classes: int = 10

    def __post_init__(self):
        object.__setattr__(self, "classes", check_positive_int("classes", self.classes))

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z; return z and its log-probability in nats."""
        z = jax.random.categorical(key, outputs["logits"]).astype(jnp.int32)
        return z, self.log_prob(own, outputs, z)

    def log_prob(self, own: PyTree, outputs: Outputs, z: Array) -> Float[Array, ""]:
        """log P(z), nats."""
        log_p = jax.nn.log_softmax(outputs["logits"])
        return jnp.sum(jnp.take_along_axis(log_p, z[:, None], axis=1))

    def features(self, z: Array) -> Array:
        """One-hot, as floats, [size * classes]."""
        return jax.nn.one_hot(z, self.classes, dtype=jnp.result_type(float)).reshape(-1)

    def number_of_values(self, size: int) -> int:
        """classes**size."""
        return self.classes**size

    def value(self, number: Int[Array, ""], size: int) -> Int[Array, " size"]:
        """The value of z of a number: its digits to the base of classes."""
        return (number // self.classes ** jnp.arange(size)) % self.classes


@dataclass(frozen=True)
class Concrete(_LogOdds):
    """The relaxation of Bernoulli latents, reparameterised: z is a log-odds, near 0 and 1 once squashed.

    z = (logits + logistic noise) / temperature. Networks read 2 sigmoid(z) - 1. The model is one of its own,
    with continuous latents, and its likelihood is its own: at the same parameters it differs from that of
    `BernoulliLatents`.

    Attributes:
      temperature: near 0, z is nearly discrete and gradients are noisy.

    Raises:
      ValueError: if temperature is not a positive number.

    Example:
      >>> from iwae_jax.models import families
      >>> families.Concrete(temperature=0.5).heads(3)
      (('logits', (3,)),)

    Reference:
      Maddison, Mnih and Teh, The Concrete distribution (2017), appendix B and C.3.2.
    """

    temperature: float = 0.5

    def __post_init__(self):
        value = check_number(
            "temperature", self.temperature, 0.0, math.inf, open_low=True, open_high=True
        )
        object.__setattr__(self, "temperature", value)

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z, reparameterised; return z and its log-density in nats."""
        noise = jax.random.logistic(key, outputs["logits"].shape)
        z = (outputs["logits"] + noise) / self.temperature
        return z, self._log_prob(-noise)

    def log_prob(self, own: PyTree, outputs: Outputs, z: Array) -> Float[Array, ""]:
        """The log-density of z, nats."""
        return self._log_prob(outputs["logits"] - self.temperature * z)

    def _log_prob(self, minus_noise: Array) -> Float[Array, ""]:
        each = minus_noise - 2.0 * jax.nn.softplus(minus_noise)
        return jnp.sum(each + math.log(self.temperature))

    def features(self, z: Array) -> Array:
        """Between -1 and 1."""
        return jnp.tanh(0.5 * z)


@dataclass(frozen=True)
class ConcreteCategorical(_Logits):
    """The relaxation of categorical latents, reparameterised; also known as Gumbel-softmax.

    z has the log-odds of each value against the last one, real numbers [size * (classes - 1)]: with Gumbel
    noise g, (logits + g) / temperature minus that of the last value. A network reads the softmax of z, which is
    near one-hot. As for `Concrete`, which is the same for two classes, the model is one of its own.

    Attributes:
      classes: the number of values of a latent, at least 2.
      temperature: near 0, z is nearly discrete and gradients are noisy.

    Raises:
      ValueError: if classes is not an int of at least 2, or temperature not a positive number.

    Example:
      >>> from iwae_jax.models import families
      >>> families.ConcreteCategorical(classes=10).heads(3)
      (('logits', (3, 10)),)

    Reference:
      Maddison, Mnih and Teh, The Concrete distribution (2017), sec. 3; Jang, Gu and Poole, Categorical
      reparameterization with Gumbel-softmax (2017).
    """

    classes: int = 10
    temperature: float = 0.5

    def __post_init__(self):
        object.__setattr__(self, "classes", check_positive_int("classes", self.classes))
        if self.classes < 2:
            raise ValueError(f"Expected classes to be at least 2, got {self.classes}.")
        value = check_number(
            "temperature", self.temperature, 0.0, math.inf, open_low=True, open_high=True
        )
        object.__setattr__(self, "temperature", value)

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z, reparameterised; return z and its log-density in nats."""
        noise = _against_last(jax.random.gumbel(key, outputs["logits"].shape))
        z = (_against_last(outputs["logits"]) + noise) / self.temperature
        return z.reshape(-1), self._log_prob(noise)

    def log_prob(self, own: PyTree, outputs: Outputs, z: Array) -> Float[Array, ""]:
        """The log-density of z, nats."""
        odds = _against_last(outputs["logits"])
        return self._log_prob(self.temperature * z.reshape(odds.shape) - odds)

    def _log_prob(self, noise: Array) -> Float[Array, ""]:
        """Of differences of Gumbel noise, (n - 1)! exp(-sum v) / (1 + sum exp(-v))^n, scaled."""
        n = self.classes
        last = jnp.zeros((len(noise), 1), noise.dtype)
        total = jax.nn.logsumexp(jnp.concatenate([-noise, last], axis=1), axis=1)
        constant = math.lgamma(n) + (n - 1) * math.log(self.temperature)
        return jnp.sum(constant - jnp.sum(noise, axis=1) - n * total)

    def features(self, z: Array) -> Array:
        """The probabilities that z stands for, [size * classes]."""
        odds = z.reshape(-1, self.classes - 1)
        return jax.nn.softmax(jnp.pad(odds, ((0, 0), (0, 1))), axis=1).reshape(-1)


def _against_last(values: Array) -> Array:
    """Each value of the last axis but the last one, less the last."""
    return values[..., :-1] - values[..., -1:]
