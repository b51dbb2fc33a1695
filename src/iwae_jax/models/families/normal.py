"""Normal layers: diagonal, of full covariance, and of low rank plus a diagonal."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from iwae_jax.checks import check_positive_int
from iwae_jax.models.distributions import normal_log_prob, standard_normal_log_prob
from iwae_jax.models.families.base import Outputs, Plain
from iwae_jax.models.networks.base import Heads, normal_heads
from iwae_jax.models.products import matmul
from iwae_jax.typing import Array, Float, Key, PyTree


class _Noise(Plain):
    """A family whose z is a function of standard normal noise."""

    def sample_and_log_prob(
        self, own: PyTree, outputs: Outputs, key: Key[Array, ""]
    ) -> tuple[Array, Float[Array, ""]]:
        """Draw z, reparameterised; return z and its log-density in nats."""
        size = self.noise_size(outputs["mean"].shape[0])  # type: ignore[attr-defined]
        return self.from_noise(own, outputs, jax.random.normal(key, (size,)))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class DiagonalNormal(_Noise):
    """Independent normal latents.

    Example:
      >>> from iwae_jax.models import families
      >>> families.DiagonalNormal().heads(3)
      (('mean', (3,)), ('log_scale', (3,)))
    """

    def heads(self, size: int) -> Heads:
        """The mean and the log-scale."""
        return normal_heads(size)

    def standard(self, size: int) -> Outputs:
        """The outputs of N(0, I)."""
        return {"mean": jnp.zeros(size), "log_scale": jnp.zeros(size)}

    def moments(self, outputs: Outputs) -> tuple[Array, Array]:
        """Mean and log-scale."""
        return outputs["mean"], outputs["log_scale"]

    def noise_size(self, size: int) -> int:
        """The number of standard normal numbers behind one draw."""
        return size

    def from_noise(
        self, own: PyTree, outputs: Outputs, noise: Array
    ) -> tuple[Array, Float[Array, ""]]:
        """z and its log-density, nats: that of the noise minus the log-scales, exact at any scale."""
        mean, log_scale = self.moments(outputs)
        log_q = standard_normal_log_prob(noise) - jnp.sum(log_scale)
        return mean + jnp.exp(log_scale) * noise, log_q

    def log_prob(self, own: PyTree, outputs: Outputs, z: Array) -> Float[Array, ""]:
        """log N(z), nats."""
        return normal_log_prob(z, *self.moments(outputs))


@dataclass(frozen=True)
class FullNormal(_Noise):
    """A normal of full covariance C C^T, with a lower triangular C.

    The diagonal of C is the exponential of a head. The triangle below it is a head of size (size - 1) / 2
    for each latent.

    Example:
      >>> from iwae_jax.models import families
      >>> families.FullNormal().heads(4)[-1]
      ('lower', (6,))
    """

    def heads(self, size: int) -> Heads:
        """The mean, the log of the diagonal of C, and what is below it."""
        return (*normal_heads(size), ("lower", (size * (size - 1) // 2,)))

    def noise_size(self, size: int) -> int:
        """The number of standard normal numbers behind one draw."""
        return size

    def from_noise(
        self, own: PyTree, outputs: Outputs, noise: Array
    ) -> tuple[Array, Float[Array, ""]]:
        """z and its log-density, nats."""
        z = outputs["mean"] + matmul(_triangle(outputs), noise)
        return z, standard_normal_log_prob(noise) - jnp.sum(outputs["log_scale"])

    def log_prob(self, own: PyTree, outputs: Outputs, z: Array) -> Float[Array, ""]:
        """log N(z), nats."""
        noise = _solve(_triangle(outputs), z - outputs["mean"])
        return standard_normal_log_prob(noise) - jnp.sum(outputs["log_scale"])


# LAPACK is not used here: on CPUs jaxlib 0.10.2 solves a batch in a thread of XLA's pool, and waits there for
# work that it gives to the same pool. With two cores, two such calls can wait for ever.


def _solve(lower: Array, right: Array) -> Array:
    """x with lower @ x = right, for a lower triangular matrix, row by row."""
    rows = jnp.arange(len(right))

    def by_rows(matrix: Array, right: Array, rows: Array) -> Array:
        def row(x: Array, i: Array) -> tuple[Array, None]:
            return x.at[i].set((right[i] - matmul(matrix[i], x)) / matrix[i, i]), None

        return jax.lax.scan(row, jnp.zeros_like(right), rows)[0]

    # The gradient is another solution, and needs none of the steps of this one.
    return jax.lax.custom_linear_solve(
        lambda x: matmul(lower, x),
        right,
        solve=lambda _, right: by_rows(lower, right, rows),
        transpose_solve=lambda _, right: by_rows(lower.T, right, rows[::-1]),
    )


def _cholesky(matrix: Array) -> Array:
    """The lower triangular C with C C^T = matrix, column by column."""
    rows = jnp.arange(len(matrix))

    def column(lower: Array, j: Array) -> tuple[Array, None]:
        rest = matrix[:, j] - matmul(lower, lower[j])
        return lower.at[:, j].set(jnp.where(rows >= j, rest / jnp.sqrt(rest[j]), 0.0)), None

    return jax.lax.scan(column, jnp.zeros_like(matrix), rows)[0]


def _triangle(outputs: Outputs) -> Array:
    size = outputs["mean"].shape[0]
    rows, columns = jnp.tril_indices(size, -1)
    diagonal = jnp.diag(jnp.exp(outputs["log_scale"]))
    return diagonal.at[rows, columns].set(outputs["lower"])


@dataclass(frozen=True)
class LowRankNormal(_Noise):
    """A normal of covariance S^2 + U U^T: a diagonal, and ``rank`` columns U.

    Attributes:
      rank: the number of columns.

    Raises:
      ValueError: if rank is not a positive int.

    Example:
      >>> from iwae_jax.models import families
      >>> families.LowRankNormal(rank=2).heads(4)[-1]
      ('columns', (4, 2))
    """

    rank: int = 2

    def __post_init__(self):
        object.__setattr__(self, "rank", check_positive_int("rank", self.rank))

    def heads(self, size: int) -> Heads:
        """The mean, the log of S, and U."""
        return (*normal_heads(size), ("columns", (size, self.rank)))

    def noise_size(self, size: int) -> int:
        """The number of standard normal numbers behind one draw."""
        return size + self.rank

    def from_noise(
        self, own: PyTree, outputs: Outputs, noise: Array
    ) -> tuple[Array, Float[Array, ""]]:
        """z and its log-density, nats."""
        size, scale = outputs["mean"].shape[0], jnp.exp(outputs["log_scale"])
        along = matmul(outputs["columns"], noise[size:])
        z = outputs["mean"] + scale * noise[:size] + along
        # Of the noise: z minus the mean would lose digits where a scale is small relative to its mean.
        return z, self._log_prob(outputs, noise[:size] + along / scale)

    def log_prob(self, own: PyTree, outputs: Outputs, z: Array) -> Float[Array, ""]:
        """log N(z), nats, by the matrix inversion and determinant lemmas."""
        return self._log_prob(outputs, (z - outputs["mean"]) * jnp.exp(-outputs["log_scale"]))

    def _log_prob(self, outputs: Outputs, distance: Array) -> Float[Array, ""]:
        columns = outputs["columns"] * jnp.exp(-outputs["log_scale"])[:, None]
        capacity = _cholesky(jnp.eye(self.rank) + matmul(columns.T, columns))
        along = _solve(capacity, matmul(columns.T, distance))
        log_determinant = jnp.sum(outputs["log_scale"]) + jnp.sum(jnp.log(jnp.diag(capacity)))
        return (
            standard_normal_log_prob(distance) + 0.5 * jnp.sum(jnp.square(along)) - log_determinant
        )
