"""SOAP, an optax transformation: Adam in the basis of Shampoo's preconditioner.

optax (0.2.8) has no SOAP or Shampoo. docs/recipes.md has what it wins for these models: half of Adam's passes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from iwae_jax.checks import check_number, check_positive_int
from iwae_jax.models.products import matmul
from iwae_jax.typing import Array, PyTree

Sides = tuple[Array | None, Array | None]
"""A matrix for each side of a kernel; None for a side that is not rotated."""


class SoapState(NamedTuple):
    """The state of `soap`: one entry for each leaf of the parameters, in order.

    Attributes:
      count: the number of steps taken.
      mean: the mean gradient, in the basis.
      square: the mean square gradient, in the basis.
      gram: the mean of G G^T and of G^T G.
      basis: orthogonal matrices, near the eigenvectors of gram.
    """

    count: Array
    mean: list[Array]
    square: list[Array]
    gram: list[Sides]
    basis: list[Sides]


def soap(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    gram_decay: float = 0.95,
    gram_every: int = 5,
    basis_every: int = 50,
    largest: int = 256,
) -> optax.GradientTransformation:
    """Adam in a slowly turning basis: the eigenvectors of the mean of G G^T and of G^T G, for each matrix G.

    Leaves that are no matrices, and sides longer than ``largest``, are not rotated: with ``largest=0`` this is
    Adam.

    Args:
      learning_rate: a number or an optax schedule.
      b1: the decay of the mean gradient.
      b2: the decay of the mean square gradient.
      eps: added to the root of the mean square.
      gram_decay: the decay of the means of G G^T and G^T G.
      gram_every: the number of steps from one update of these means to the next.
      basis_every: the number of steps from one turn of the basis to the next: a step of orthogonal
        iteration.
      largest: the longest side of a matrix that is rotated.

    Raises:
      ValueError: if a number is out of range.

    Example:
      >>> import jax, optax, iwae_jax
      >>> from iwae_jax import training
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig((6,), (2,), ((4,),)))
      >>> state = iwae_jax.TrainState.create(params, training.soap(3e-3))
      >>> state, bounds = iwae_jax.train_step(state, jax.numpy.ones((5, 6)), jax.random.key(1), k=3)
      >>> bounds.shape
      (5,)

    Reference:
      Vyas et al., SOAP: improving and stabilizing Shampoo using Adam (2025), algorithm 3.
    """
    for name, decay in (("b1", b1), ("b2", b2), ("gram_decay", gram_decay)):
        check_number(name, decay, 0.0, 1.0, open_high=True)
    check_number("eps", eps, 0.0, float("inf"), open_low=True, open_high=True)
    gram_every = check_positive_int("gram_every", gram_every)
    basis_every = check_positive_int("basis_every", basis_every)

    def sides(leaf: Array, make: Any) -> Sides:
        lengths = leaf.shape if leaf.ndim == 2 else (largest + 1,) * 2
        rows, columns = (make(n, dtype=leaf.dtype) if n <= largest else None for n in lengths)
        return rows, columns

    def init(params: PyTree) -> SoapState:
        leaves = jax.tree.leaves(params)
        return SoapState(
            jnp.zeros((), jnp.int32),
            [jnp.zeros_like(leaf) for leaf in leaves],
            [jnp.zeros_like(leaf) for leaf in leaves],
            [sides(leaf, lambda n, dtype: jnp.zeros((n, n), dtype)) for leaf in leaves],
            [sides(leaf, jnp.eye) for leaf in leaves],
        )

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, SoapState]:
        del params
        slopes, structure = jax.tree.flatten(updates)
        count = state.count + 1

        def means(gram: list[Sides]) -> list[Sides]:
            kept = jnp.where(count == 1, 0.0, gram_decay)
            return [
                _each(lambda old, new: kept * old + (1.0 - kept) * new, own, _grams(slope, own))
                for slope, own in zip(slopes, gram, strict=True)
            ]

        def turn(held: Any) -> Any:
            gram, basis, mean = held
            turned = [_each(_next_basis, *pair) for pair in zip(gram, basis, strict=True)]
            moved = [
                _into(_out_of(m, old), new) for m, old, new in zip(mean, basis, turned, strict=True)
            ]
            return turned, moved

        due = (count == 1) | (count % gram_every == 0)
        gram = jax.lax.cond(due, means, lambda gram: gram, state.gram)
        # More often at first, while the means are of few gradients.
        due = (count % basis_every == 0) | (count == 1) | (count == gram_every)
        held = (gram, state.basis, state.mean)
        basis, mean = jax.lax.cond(due, turn, lambda held: held[1:], held)
        inside = [_into(slope, own) for slope, own in zip(slopes, basis, strict=True)]
        mean = [b1 * m + (1.0 - b1) * g for m, g in zip(mean, inside, strict=True)]
        square = [
            b2 * s + (1.0 - b2) * jnp.square(g) for s, g in zip(state.square, inside, strict=True)
        ]
        steps = count.astype(jnp.result_type(float))
        first, second = 1.0 - b1**steps, 1.0 - b2**steps
        steepest = [
            _out_of((m / first) / (jnp.sqrt(s / second) + eps), own)
            for m, s, own in zip(mean, square, basis, strict=True)
        ]
        new = SoapState(count, mean, square, gram, basis)
        return jax.tree.unflatten(structure, steepest), new

    rotated: Any = optax.GradientTransformation(init, update)  # type: ignore[arg-type]
    return optax.chain(rotated, optax.scale_by_learning_rate(learning_rate))


def _each(function: Any, *sides: Sides) -> Sides:
    """A function of the matrices of each side that is rotated."""
    rows, columns = (
        None if any(matrix is None for matrix in side) else function(*side)
        for side in zip(*sides, strict=True)
    )
    return rows, columns


def _grams(slope: Array, own: Sides) -> Sides:
    rows, columns = own
    return (
        None if rows is None else matmul(slope, slope.T),
        None if columns is None else matmul(slope.T, slope),
    )


def _next_basis(gram: Array, basis: Array) -> Array:
    """A step of orthogonal iteration towards the eigenvectors."""
    return jnp.linalg.qr(matmul(gram, basis))[0]


def _into(slope: Array, basis: Sides) -> Array:
    rows, columns = basis
    slope = slope if rows is None else matmul(rows.T, slope)
    return slope if columns is None else matmul(slope, columns)


def _out_of(slope: Array, basis: Sides) -> Array:
    rows, columns = basis
    slope = slope if rows is None else matmul(rows, slope)
    return slope if columns is None else matmul(slope, columns.T)
