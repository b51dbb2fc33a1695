"""The affine map of a layer, with a stated precision of its products, and a backward pass to match.

`affine` is a JAX primitive, for two reasons. JAX's own rules multiply a float32 cotangent even where the
forward pass multiplied bfloat16; and under two `jax.vmap` they leave products with two row axes, for which
XLA copies and transposes the largest arrays of a step. Here all rows are one axis, and the cotangent, from
which three results are made, is written once.
"""

from functools import partial
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType

from iwae_jax.typing import Array, Float

PRECISIONS: dict[str, lax.Precision | None] = {
    "float32": lax.Precision.HIGHEST,
    "tensorfloat32": lax.Precision.HIGH,
    "bfloat16": None,
}
"""The precision of products by name. The last rounds both operands to bfloat16 and adds in float32."""


matmul = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
"""A product in float32 on every device: GPUs and TPUs round the operands unless told otherwise."""


def affine(
    x: Float[Array, "... i"],
    kernel: Float[Array, "i o"],
    bias: Float[Array, " o"],
    precision: str = "float32",
) -> Float[Array, "... o"]:
    """``x @ kernel + bias``, differentiable any number of times.

    Args:
      x: inputs, with any axes before the last.
      kernel: the matrix.
      bias: added to each row.
      precision: a name in `PRECISIONS`. It holds for the products of the backward pass too. Inputs,
        results, gradients and all sums keep the type of the operands, usually float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from iwae_jax.models.products import affine
      >>> affine(jnp.ones((3, 2)), jnp.ones((2, 1)), jnp.zeros(1), "bfloat16").tolist()
      [[2.0], [2.0], [2.0]]
    """
    mesh = jax.sharding.get_abstract_mesh()
    cut = {
        (name, kind)
        for (name, size), kind in zip(mesh.shape.items(), mesh.axis_types, strict=True)
        if size > 1 and kind != AxisType.Manual
    }
    if any(kind == AxisType.Explicit for _, kind in cut):
        # Only JAX's own rules know how the results of a product are cut.
        return _affine(x, kernel, bias, precision=precision, one_axis=False)
    # Where samples are cut as well as data, one axis of rows would move data between devices.
    one_axis = all(name == "data" for name, _ in cut)
    return _affine_p.bind(x, kernel, bias, precision=precision, one_axis=one_axis)


# Inside, a kernel [*b, i, o] and a bias [*b, o] may have batch axes b, which x [*b, *rows, i] shares.


def _affine(x, kernel, bias, *, precision, one_axis):
    y = _forward(x, kernel, precision, one_axis)
    return y + _along_rows(bias, y)


def _tangent(x, kernel, x_dot, kernel_dot, bias_dot, *, precision, one_axis):
    """The tangent of `_affine`: linear in its last three arguments."""
    y_dot = _forward(x_dot, kernel, precision, one_axis)
    y_dot += _forward(x, kernel_dot, precision, one_axis)
    return y_dot + _along_rows(bias_dot, y_dot)


def _forward(x, kernel, precision, one_axis):
    b = kernel.ndim - 2
    rows = _rows(x, b, one_axis)
    y = _product(rows, kernel, (rows.ndim - 1,), (b,), b, precision)
    return y.reshape(*x.shape[:-1], kernel.shape[-1]).astype(x.dtype)


def _pull_back(y_bar, x, kernel, x_dot, kernel_dot, bias_dot, *, precision, one_axis):
    """The transpose of `_tangent`: cotangents of the tangents that are not known."""
    wanted = [ad.is_undefined_primal(dot) for dot in (x_dot, kernel_dot, bias_dot)]
    if type(y_bar) is ad.Zero:
        dots = zip((x_dot, kernel_dot, bias_dot), wanted, strict=True)
        return (None, None, *(ad.Zero(dot.aval) if want else None for dot, want in dots))
    b = kernel.ndim - 2
    rows = _rows(y_bar, b, one_axis)
    # Without the barrier XLA computes the cotangent again for each product, and writes each copy.
    narrow = lax.optimization_barrier(_narrow(rows, precision))
    axes = tuple(range(b, rows.ndim - 1))
    x_bar = None
    if wanted[0]:
        x_bar = _product(narrow, kernel, (rows.ndim - 1,), (b + 1,), b, precision)
        x_bar = x_bar.reshape(*y_bar.shape[:-1], kernel.shape[-2]).astype(x.dtype)
    others = _rows(x, b, one_axis)
    if precision == "bfloat16" and rows.ndim == 2:
        kernel_bar, bias_bar = lax.platform_dependent(
            others, narrow, cpu=_transposed_products, default=_rows_products
        )
    else:
        kernel_bar = _product(others, narrow, axes, axes, b, precision)
        bias_bar = _sum_of_rows(narrow, b, y_bar.dtype)
    kernel_bar = kernel_bar.astype(x.dtype) if wanted[1] else None
    bias_bar = bias_bar.astype(y_bar.dtype) if wanted[2] else None
    return None, None, x_bar, kernel_bar, bias_bar


def _sum_of_rows(y_bar, b, dtype):
    """The sum over all axes between the first b and the last, as a product with ones.

    XLA's CPU backend may cut a sum otherwise in another process.
    """
    wide = y_bar.astype(dtype)
    ones, axes = jnp.ones((*wide.shape[:-1], 1), wide.dtype), tuple(range(b, wide.ndim - 1))
    return _product(ones, wide, axes, axes, b, "float32").reshape(*wide.shape[:b], wide.shape[-1])


def _rows_products(x, y_bar):
    """The cotangents of a kernel and a bias, from products of bfloat16."""
    return _product(x, y_bar, (0,), (0,), 0, "bfloat16"), _sum_of_rows(y_bar, 0, x.dtype)


def _transposed_products(x, y_bar):
    """The same, in the only order of axes in which XLA multiplies bfloat16 on CPUs.

    The bias is one more row of the kernel, since a product with ones alone would copy y_bar in float32.
    """
    transposed = jnp.concatenate([_narrow(x, "bfloat16").T, jnp.ones((1, len(x)), jnp.bfloat16)])
    transposed = with_layout_constraint(transposed, Layout((0, 1)))
    both = _product(transposed, y_bar, (1,), (0,), 0, "bfloat16")
    return both[:-1], both[-1].astype(x.dtype)


def _product(left, right, left_axes, right_axes, b, precision):
    """The product of two arrays, summed over one axis or more of each; the first b axes are batch axes."""
    batch = tuple(range(b))
    dimensions = ((left_axes, right_axes), (batch, batch))
    if precision != "bfloat16":
        return lax.dot_general(left, right, dimensions, precision=PRECISIONS[precision])
    narrow = partial(
        lax.dot_general, dimension_numbers=dimensions, preferred_element_type=jnp.float32
    )
    left, right = _narrow(left, precision), _narrow(right, precision)
    if max(left.ndim, right.ndim) - b == 2:
        return narrow(left, right)
    # XLA's CPU backend has no product of bfloat16 with several row axes. In float32, the products of
    # rounded numbers are the same: they are exact.
    return lax.platform_dependent(
        left,
        right,
        cpu=lambda *both: narrow(*(a.astype(jnp.float32) for a in both)),
        default=narrow,
    )


def _narrow(array, precision):
    return array.astype(jnp.bfloat16) if precision == "bfloat16" else array


def _rows(array, b, one_axis):
    """The same with all axes between the first b and the last as one."""
    return array.reshape(*array.shape[:b], -1, array.shape[-1]) if one_axis else array


def _along_rows(bias, y):
    b = bias.ndim - 1
    return bias.reshape(*bias.shape[:b], *(1,) * (y.ndim - 1 - b), bias.shape[-1])


def _jvp(primals, tangents, **options):
    x, kernel, _ = primals
    tangents = map(ad.instantiate_zeros, tangents)
    return _affine_p.bind(*primals, **options), _tangent_p.bind(x, kernel, *tangents, **options)


def _jvp_of_tangent(primals, tangents, **options):
    tangents = tuple(map(ad.instantiate_zeros, tangents))
    return jax.jvp(partial(_tangent, **options), primals, tangents)


def _batched(primitive, roles, arguments, axes, **options):
    """The primitive over one more axis: a row axis, or a batch axis if it is one of the kernels'."""
    size = next(a.shape[axis] for a, axis in zip(arguments, axes, strict=True) if axis is not None)
    each = list(zip(roles, arguments, axes, strict=True))
    kernels = any(axis is not None for role, _, axis in each if role != "x")
    b = 0 if kernels else arguments[1].ndim - 2

    def placed(array, axis):
        if axis is not None:
            return jnp.moveaxis(array, axis, b)
        return jnp.broadcast_to(
            jnp.expand_dims(array, b), (*array.shape[:b], size, *array.shape[b:])
        )

    moved = [placed(a, axis) if kernels or role == "x" else a for role, a, axis in each]
    return primitive.bind(*moved, **options), b


def _define(name: str, roles: str, function: Any, jvp: Any) -> Primitive:
    primitive = Primitive(name)
    static = ("precision", "one_axis")
    primitive.def_impl(jax.jit(function, static_argnames=static))

    def abstract(*arguments, **options):
        shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for a in arguments]
        y = jax.eval_shape(partial(function, **options), *shapes)
        return jax.core.ShapedArray(y.shape, y.dtype, sharding=y.sharding)

    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = partial(_batched, primitive, roles)
    return primitive


_affine_p = _define("affine", "xkb", _affine, _jvp)
_tangent_p = _define("affine_tangent", "xkxkb", _tangent, _jvp_of_tangent)
ad.primitive_transposes[_tangent_p] = _pull_back
