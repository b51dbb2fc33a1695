"""Models whose answers are known exactly. They meet the protocol and subclass nothing."""

import itertools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from iwae_jax import Params


def _log_normal(x, mean, scale):
    return jnp.sum(-0.5 * ((x - mean) / scale) ** 2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi))


@dataclass(frozen=True)
class LinearGaussian:
    """A chain of L linear-Gaussian layers, each unit on its own.

    z[L-1] ~ N(0, 1); z[l-1] ~ N(a[l] z[l], s[l]^2); x ~ N(a[0] z[0], s[0]^2), and a recognition
    model of the same form, upwards: z[0] ~ N(m[0] x + b[0], t[0]^2), z[l] ~ N(m[l] z[l-1] + b[l],
    t[l]^2). The posterior is of that form, so that q can equal it.
    """

    size: int = 3
    layers: int = 1

    @property
    def data_shape(self):
        return (self.size,)

    @property
    def data_range(self):
        return (-math.inf, math.inf)

    def init(self, key):
        keys = jax.random.split(key, 2 * self.layers)

        def layer(key, **centres):
            draws = jax.random.normal(key, (len(centres), self.size))
            return {name: c + 0.1 * d for (name, c), d in zip(centres.items(), draws, strict=True)}

        generative = tuple(layer(key, weight=0.9, log_scale=0.1) for key in keys[: self.layers])
        recognition = tuple(
            layer(key, weight=0.5, bias=0.1, log_scale=-0.2) for key in keys[self.layers :]
        )
        return generative, recognition

    @property
    def noise_size(self):
        return self.layers * self.size

    def sample_posterior(self, params, x, key):
        keys = jax.random.split(key, self.layers)
        noise = [jax.random.normal(layer_key, (self.size,)) for layer_key in keys]
        return self.sample_posterior_from(params, x, jnp.concatenate(noise))

    def sample_posterior_from(self, params, x, noise):
        z, below, log_q = [], x, jnp.zeros(())
        for layer_noise, p in zip(jnp.split(noise, self.layers), params.recognition, strict=True):
            mean, scale = p["weight"] * below + p["bias"], jnp.exp(p["log_scale"])
            below = mean + scale * layer_noise
            log_q += _log_normal(below, mean, scale)
            z.append(below)
        return tuple(z), log_q

    def sample_prior(self, params, key):
        keys = jax.random.split(key, self.layers)
        z = [jax.random.normal(keys[0], (self.size,))]
        for layer_key, p in zip(keys[1:], reversed(params.generative[1:]), strict=True):
            noise = jax.random.normal(layer_key, (self.size,))
            z.insert(0, p["weight"] * z[0] + jnp.exp(p["log_scale"]) * noise)
        return tuple(z)

    def sample_x(self, params, z, key):
        p = params.generative[0]
        noise = jax.random.normal(key, (self.size,))
        return p["weight"] * z[0] + jnp.exp(p["log_scale"]) * noise

    def log_posterior(self, params, x, z):
        log_q = jnp.zeros(())
        for below, latent, p in zip((x, *z[:-1]), z, params.recognition, strict=True):
            mean = p["weight"] * below + p["bias"]
            log_q += _log_normal(latent, mean, jnp.exp(p["log_scale"]))
        return log_q

    def log_joint(self, params, x, z):
        log_p = _log_normal(z[-1], jnp.zeros(self.size), jnp.ones(self.size))
        for below, latent, p in zip((x, *z[:-1]), z, params.generative, strict=True):
            log_p += _log_normal(below, p["weight"] * latent, jnp.exp(p["log_scale"]))
        return log_p

    def prior_moments(self, params, z):
        below = [
            (p["weight"] * above, jnp.exp(p["log_scale"]))
            for p, above in zip(params.generative[1:], z[1:], strict=True)
        ]
        return (*below, (jnp.zeros(self.size), jnp.ones(self.size)))

    def log_conditional(self, params, x, z):
        p = params.generative[0]
        return _log_normal(x, p["weight"] * z[0], jnp.exp(p["log_scale"]))

    def analytic_kl(self, params, x):
        assert self.layers == 1
        (p,) = params.recognition
        mean, log_scale = p["weight"] * x + p["bias"], p["log_scale"]
        return 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_scale) - 1 - 2 * log_scale)

    def posterior_moments(self, params, x, z):
        belows = (x, *z[:-1])
        return tuple(
            (p["weight"] * below + p["bias"], jnp.exp(p["log_scale"]))
            for below, p in zip(belows, params.recognition, strict=True)
        )

    def encode(self, params, x, key):
        if key is not None:
            return self.posterior_moments(params, x, self.sample_posterior(params, x, key)[0])
        moments, below = [], x
        for p in params.recognition:
            below = p["weight"] * below + p["bias"]
            moments.append((below, jnp.exp(p["log_scale"])))
        return tuple(moments)

    # What is known exactly, in float64.

    def variances(self, params: Params) -> list[np.ndarray]:
        """Variances of x, z[0], .., z[L-1] under the model."""
        variance = [np.ones(self.size)]
        for p in reversed(params.generative):
            weight, scale = (np.asarray(p[n], np.float64) for n in ("weight", "log_scale"))
            variance.insert(0, weight**2 * variance[0] + np.exp(2 * scale))
        return variance

    def log_evidence(self, params: Params, x) -> np.ndarray:
        """log p(x), [*batch]."""
        variance = self.variances(params)[0]
        x = np.asarray(x, np.float64)
        return np.sum(-0.5 * x**2 / variance - 0.5 * np.log(2 * np.pi * variance), axis=-1)

    def with_exact_posterior(self, params: Params) -> Params:
        """The same model with q equal to its posterior."""
        variance = self.variances(params)
        recognition = []
        for layer, p in enumerate(params.generative):
            weight = np.asarray(p["weight"], np.float64)
            slope = weight * variance[layer + 1] / variance[layer]
            left = variance[layer + 1] * (1 - weight * slope)
            recognition.append(
                {"weight": slope, "bias": np.zeros(self.size), "log_scale": 0.5 * np.log(left)}
            )
        recognition = jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(float)), recognition)
        return Params(params.generative, tuple(recognition), params.model)

    def relative_variance(self, params: Params, x) -> np.ndarray:
        """Var_q(w) / p(x)^2 of a single weight, [*batch], for one layer: exp of a Gaussian integral."""
        assert self.layers == 1
        x = np.asarray(x, np.float64)
        exact = self.with_exact_posterior(params).recognition[0]
        p_mean = np.asarray(exact["weight"], np.float64) * x
        p_precision = np.exp(-2 * np.asarray(exact["log_scale"], np.float64))
        q = {name: np.asarray(v, np.float64) for name, v in params.recognition[0].items()}
        q_mean, q_precision = q["weight"] * x + q["bias"], np.exp(-2 * q["log_scale"])
        # E_q[(p/q)^2] = integral p^2 / q, with p and q normal densities of z.
        precision = 2 * p_precision - q_precision
        assert (precision > 0).all(), "the weights have no variance"
        mean = (2 * p_precision * p_mean - q_precision * q_mean) / precision
        exponent = -0.5 * (2 * p_precision * p_mean**2 - q_precision * q_mean**2)
        log_second = exponent + 0.5 * precision * mean**2
        log_second += np.log(p_precision) - 0.5 * np.log(q_precision) - 0.5 * np.log(precision)
        return np.expm1(np.sum(log_second, axis=-1))


@dataclass(frozen=True)
class LearntPrior(LinearGaussian):
    """One layer of `LinearGaussian`, with a prior N(mean, scale^2) that has parameters."""

    def init(self, key):
        (likelihood,), recognition = super().init(key)
        prior = {"mean": jnp.full(self.size, 0.3), "log_scale": jnp.full(self.size, -0.1)}
        return (likelihood, prior), recognition

    def prior_moments(self, params, z):
        del z
        prior = params.generative[1]
        return ((prior["mean"], jnp.exp(prior["log_scale"])),)

    def log_joint(self, params, x, z):
        ((mean, scale),) = self.prior_moments(params, z)
        return _log_normal(z[0], mean, scale) + self.log_conditional(params, x, z)


@dataclass(frozen=True)
class Discrete:
    """A latent with few values and binary data, small enough to be enumerated.

    z is a whole number, drawn from a table; x has independent pixels given z; q(z | x) is a softmax
    of a linear function of x.
    """

    values: int = 3
    size: int = 2

    @property
    def data_shape(self):
        return (self.size,)

    @property
    def data_range(self):
        return (0.0, 1.0)

    def init(self, key):
        keys = jax.random.split(key, 4)
        generative = {
            "prior": 0.7 * jax.random.normal(keys[0], (self.values,)),
            "logits": 1.5 * jax.random.normal(keys[1], (self.values, self.size)),
        }
        recognition = {
            "weight": 0.7 * jax.random.normal(keys[2], (self.values, self.size)),
            "bias": 0.3 * jax.random.normal(keys[3], (self.values,)),
        }
        return generative, recognition

    def table(self, recognition, x):
        """log q(z | x) of every z."""
        return jax.nn.log_softmax(recognition["weight"] @ x + recognition["bias"])

    def sample_posterior(self, params, x, key):
        table = self.table(params.recognition, x)
        z = jax.random.categorical(key, table)
        return z, table[z]

    def log_posterior(self, params, x, z):
        return self.table(params.recognition, x)[z]

    def log_joint(self, params, x, z):
        generative = params.generative
        logits = generative["logits"][z]
        pixels = x * jax.nn.log_sigmoid(logits) + (1 - x) * jax.nn.log_sigmoid(-logits)
        return jax.nn.log_softmax(generative["prior"])[z] + jnp.sum(pixels)

    def sample_prior(self, params, key):
        return jax.random.categorical(key, params.generative["prior"])

    def sample_x(self, params, z, key):
        ones = jax.random.bernoulli(key, jax.nn.sigmoid(params.generative["logits"][z]))
        return ones.astype(jnp.result_type(float))

    # What is known exactly.

    def all_log_w(self, params: Params, x):
        """The log-weight and log q of every value of z."""
        z = jnp.arange(self.values)
        log_p = jax.vmap(self.log_joint, (None, None, 0))(params, x, z)
        log_q = self.table(params.recognition, x)
        return log_p - log_q, log_q

    def over_draws(self, params: Params, x, k, function):
        """The mean over all draws of k samples of function(log_w, log_q), each [k]; exact."""
        log_w, log_q = self.all_log_w(params, x)
        draws = np.stack(np.meshgrid(*[np.arange(self.values)] * k, indexing="ij"), -1)
        draws = draws.reshape(-1, k)
        each = jax.vmap(function)(log_w[draws], log_q[draws])
        return jnp.sum(jnp.exp(jnp.sum(log_q[draws], axis=1)) * each)

    def log_evidence(self, params: Params, x):
        return jax.nn.logsumexp(sum(self.all_log_w(params, x)))

    def dreamt(self, params: Params):
        """E[log q(z | x)] over all (x, z) of the model."""
        total = jnp.zeros(())
        for pixels in itertools.product([0.0, 1.0], repeat=self.size):
            x = jnp.array(pixels)
            log_w, log_q = self.all_log_w(params, x)
            total += jnp.sum(jax.lax.stop_gradient(jnp.exp(log_w + log_q)) * log_q)
        return total


@dataclass(frozen=True)
class Tally:
    """A model without latents: log p(x) = weight * sum(x), whatever the key. It counts data."""

    size: int = 4

    @property
    def data_shape(self):
        return (self.size,)

    @property
    def data_range(self):
        return (0.0, 1.0)

    def init(self, key):
        del key
        return jnp.ones(()), ()

    def sample_posterior(self, params, x, key):
        del params, x, key
        return (), jnp.zeros(())

    def log_posterior(self, params, x, z):
        del params, x, z
        return jnp.zeros(())

    def log_joint(self, params, x, z):
        del z
        return params.generative * jnp.sum(x)
