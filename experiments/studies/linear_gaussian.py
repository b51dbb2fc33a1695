"""The linear-Gaussian model of Rainforth et al. (2018). Its evidence has a closed form."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax


@dataclass(frozen=True)
class Gaussian:
    """z ~ N(mu, I), x | z ~ N(z, I); q(z | x) = N(A x + b, variance I). theta is mu, phi is (A, b).

    The posterior is N((x + mu) / 2, I / 2), so q can equal it if ``variance`` is 1/2.
    """

    size: int = 20
    variance: float = 2 / 3

    @property
    def data_shape(self) -> tuple[int, ...]:
        return (self.size,)

    @property
    def data_range(self) -> tuple[float, float]:
        return (-math.inf, math.inf)

    def init(self, key):
        """The best parameters for data around zero, plus normal noise of scale 0.01."""
        keys = jax.random.split(key, 3)
        mu = 0.01 * jax.random.normal(keys[0], (self.size,))
        slope = 0.5 * jnp.eye(self.size) + 0.01 * jax.random.normal(keys[1], (self.size, self.size))
        return mu, {"A": slope, "b": 0.01 * jax.random.normal(keys[2], (self.size,))}

    def sample_posterior(self, params, x, key):
        """Draw z from q(z | x); return z and log q(z | x)."""
        noise = jax.random.normal(key, (self.size,))
        mean = self._mean(params, x)
        z = mean + math.sqrt(self.variance) * noise
        return (z,), _log_normal(noise, 0.0, 1.0) - 0.5 * self.size * math.log(self.variance)

    def log_posterior(self, params, x, z):
        """log q(z | x)."""
        return _log_normal(z[0], self._mean(params, x), self.variance)

    def log_joint(self, params, x, z):
        """log p(x, z)."""
        return _log_normal(z[0], params.generative, 1.0) + _log_normal(x, z[0], 1.0)

    def prior_moments(self, params, z):
        """(mean, scale) of p(z)."""
        return ((params.generative, jnp.ones_like(z[0])),)

    def _mean(self, params, x):
        return params.recognition["A"] @ x + params.recognition["b"]

    def log_evidence(self, params: iwae_jax.Params, x: jax.Array) -> jax.Array:
        """log p(x), exactly."""
        return jax.vmap(lambda x: _log_normal(x, params.generative, 2.0))(x)

    def moments(self, params: iwae_jax.Params, x: jax.Array) -> np.ndarray:
        """E[(w / p(x))^n] for n = 0 .. 8 at one x, exactly: integrals of p(z | x)^n / q(z | x)^(n-1)."""
        p_mean = (np.asarray(x, np.float64) + np.asarray(params.generative, np.float64)) / 2
        phi = {name: np.asarray(value, np.float64) for name, value in params.recognition.items()}
        q_mean = phi["A"] @ np.asarray(x, np.float64) + phi["b"]
        found = []
        for n in range(9):
            # 2.0 and 1 / variance are the precisions of the posterior and of q.
            precision = 2.0 * n - (n - 1) / self.variance
            if precision <= 0:
                raise ValueError(f"Expected weights with a moment of order {n}, got none.")
            linear = 2.0 * n * p_mean - (n - 1) * q_mean / self.variance
            square = 2.0 * n * p_mean**2 - (n - 1) * q_mean**2 / self.variance
            logs = 0.5 * (linear**2 / precision - square) + 0.5 * n * math.log(2.0)
            logs += 0.5 * (n - 1) * math.log(self.variance) - 0.5 * math.log(precision)
            found.append(math.exp(np.sum(logs)))
        return np.array(found)


def _log_normal(x, mean, variance):
    return jnp.sum(-0.5 * (x - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance))
