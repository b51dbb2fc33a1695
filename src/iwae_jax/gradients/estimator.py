"""The base class of gradient estimators: coefficients of each sample by route, and needs."""

import abc
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, Literal

import jax

from iwae_jax.objectives import Objective
from iwae_jax.protocol import Params
from iwae_jax.typing import Array, Float, Key, PyTree


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["p", "z", "q", "more"],
    meta_fields=["along"],
)
@dataclass(frozen=True)
class Coefficients:
    """The weight of each of m samples of n data on each route from the parameters to a log-weight.

    The parameters reach l_i = log p(x, z_i) - log q(z_i | x) directly through log p, through z_i, and
    directly through log q. The gradient is the sum over i of

        p[i] d log p(x, z_i) + z[i] (dl_i / dz_i) dz_i + q[i] d log q(z_i | x)

    where d is the derivative in the parameters along the one route.

    Attributes:
      p: directly through log p(x, z), [m, n].
      z: through z, into log p and log q, [m, n]; None if no gradient flows there.
      q: directly through log q(z | x), [m, n]; None if no gradient flows there.
      more: a further array, [m, n], for `Estimator.per_sample`.
      along: a property of the coefficients that saves work. ``"log_w"``: z is p and q is -p, so the
        gradient is that of the log-weights themselves. ``"draw"``: q is -z, so routes z and q follow the
        log q of the draw. ``"path"``: q is None and z is p times a bounded factor, so one pass serves p
        and z. None: no such property; each route has a pass of its own.
    """

    p: Float[Array, "m n"]
    z: Float[Array, "m n"] | None = None
    q: Float[Array, "m n"] | None = None
    more: Float[Array, "m n"] | None = None
    along: Literal["log_w", "draw", "path"] | None = None


@dataclass(frozen=True)
class Needs:
    """The needs of an estimator: of the model and of the objective.

    Attributes:
      reparameterised: z is made of floats, and gradients flow through its draw.
      density: log q(z | x) is known at a given z.
      smooth: the objective has second derivatives.
      members: members that the model must have beyond the protocol.
      objective: the only objective for which the estimator is defined.
    """

    reparameterised: bool = False
    density: bool = False
    smooth: bool = False
    members: tuple[str, ...] = ()
    objective: Objective | None = None


class Estimator(abc.ABC):
    """A gradient estimator: three arrays of per-sample coefficients, one a route.

    A subclass is a frozen dataclass. It needs `coefficients` alone; the other members have defaults. The
    value of the bound is the objective, whatever the estimator.

    Attributes:
      name: its name in tables and run folders. Default: that of the class, in lower case.
      needs: its needs of the model and of the objective.
      plain: True if the gradient is the derivative of the objective's value, by automatic
        differentiation alone. `coefficients` must say the same.
      common_p: True if route p has the coefficients c = dV/dl and no further term, as for most
        estimators. `gradients.ByRoute` then takes route p from the default estimator alone.
      tempered: True if the coefficients also hold where the KL term of the model has a weight.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp, iwae_jax
      >>> from iwae_jax import gradients
      >>> @dataclasses.dataclass(frozen=True)
      ... class Best(gradients.Estimator):
      ...     needs = gradients.Needs(reparameterised=True)
      ...
      ...     def coefficients(self, objective, log_w):
      ...         one = (log_w == jnp.max(log_w, axis=0)).astype(log_w.dtype)
      ...         return gradients.Coefficients(one, one, -one, along="log_w")
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> x, key = jnp.zeros((3, 784)), jax.random.key(1)
      >>> iwae_jax.bound(params, x, key, k=5, gradient=Best()).shape
      (3,)
    """

    name: Any = "estimator"
    needs: Any = Needs()
    plain: bool = False
    common_p: bool = False
    tempered: Any = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()
        if {"coefficients", "per_sample", "per_datum"} & vars(cls).keys():
            for name in ("plain", "common_p", "tempered"):  # they speak of those of the base class
                setattr(cls, name, vars(cls).get(name, False))

    @abc.abstractmethod
    def coefficients(self, objective: Objective, log_w: Float[Array, "k n"]) -> Coefficients:
        """The coefficients of every sample of each datum, from the objective and the log-weights."""

    def refuse(self, objective: Objective, k: int) -> str | None:
        """The reason why the estimator is not defined for the objective and k, if it is not."""
        del objective, k
        return None

    def per_sample(self, params: Params, data: Float[Array, "n *data"], z: PyTree) -> Any:
        """A term that needs more than the three routes: a function of `Coefficients`, or None.

        Args:
          params: parameters that carry their model.
          data: observations.
          z: the samples of each datum, [n, m, ..].

        Returns:
          None, or a `jax.tree_util.Partial` from the `Coefficients` of these samples to a gradient in
          ``params``, which is added to that of the three routes.
        """
        del params, data, z
        return None

    @property
    def has_term(self) -> bool:
        """Whether `per_sample` gives a term of its own."""
        return type(self).per_sample is not Estimator.per_sample

    def per_datum(
        self, params: Params, keys: Key[Array, " n"], cotangents: Float[Array, " n"]
    ) -> PyTree:
        """A term that does not depend on the samples: a gradient in ``params`` to be added, or None."""
        del params, keys, cotangents
        return None

    def __str__(self) -> str:
        return repr(self) if is_dataclass(self) and fields(self) else self.name


def join(p: Coefficients, zq: Coefficients) -> Coefficients:
    """Route p of one, routes z and q of another."""
    along = "draw" if zq.along in ("log_w", "draw") else None
    return replace(zq, p=p.p, more=p.more, along=along)


def coefficients_of(
    estimator: Estimator, objective: Objective, log_w: Float[Array, "k n"]
) -> Coefficients:
    """The coefficients of an estimator; routes z and q take those of ``objective.for_phi``."""
    found = _checked(estimator, objective, log_w)
    if objective.for_phi == objective:
        return found
    return join(found, _checked(estimator, objective.for_phi, log_w))


def _checked(estimator: Estimator, objective: Objective, log_w: Array) -> Coefficients:
    found = estimator.coefficients(objective, log_w)
    shapes = {leaf.shape for leaf in jax.tree.leaves(found)}
    if not isinstance(found, Coefficients) or shapes != {log_w.shape}:
        raise ValueError(
            f"Expected gradient {str(estimator)!r} to give Coefficients of shape {log_w.shape}, got "
            f"{type(found).__name__} of {', '.join(map(str, sorted(shapes)))}."
        )
    both = found.z is not None and found.q is not None
    path = found.z is not None and found.q is None
    if (found.along in ("log_w", "draw") and not both) or (found.along == "path" and not path):
        raise ValueError(
            f"Expected gradient {str(estimator)!r} with along={found.along!r} to give "
            f"{'z and no q' if found.along == 'path' else 'z and q'}."
        )
    return found
