"""The affine map of a layer: its derivatives under every order of transformations, and its precision."""

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from iwae_jax import ModelConfig, gradients, models
from iwae_jax.models.products import PRECISIONS, affine
from tests.test_importance import KEY, SMALL, binary

X = jax.random.normal(jax.random.key(1), (4, 3, 5))
KERNEL = jax.random.normal(jax.random.key(2), (5, 7))
BIAS = jax.random.normal(jax.random.key(3), (7,))
KERNELS, BIASES = jnp.stack([KERNEL, 2 * KERNEL]), jnp.stack([BIAS, -BIAS])

# Each entry of a product of float32 is a sum of few terms of size 1: its rounding is a few 2**-24, and a
# second derivative sums tens of them.
FLOAT32 = 2e-5


def plain(x, kernel, bias):
    return x @ kernel + jnp.expand_dims(bias, range(x.ndim - 1))


def rounded(x, kernel, bias):
    """The product of operands that are rounded to bfloat16, in float32."""
    x, kernel = (a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, kernel))
    return plain(x, kernel, bias)


def loss(function):
    """A function that is not linear in any argument."""
    return lambda *arguments: jnp.sum(jnp.sin(function(*arguments)))


def over_rows(function):
    inner = jax.vmap(function, in_axes=(0, None, None))
    return jax.vmap(inner, in_axes=(0, None, None))


ORDERS = {
    "value": lambda f: f(X, KERNEL, BIAS),
    "value over rows": lambda f: over_rows(f)(X, KERNEL, BIAS),
    "gradient": lambda f: jax.grad(loss(f), (0, 1, 2))(X, KERNEL, BIAS),
    "gradient of rows": lambda f: jax.grad(loss(over_rows(f)), (0, 1, 2))(X, KERNEL, BIAS),
    "rows of gradients": lambda f: over_rows(jax.grad(loss(f), (0, 1, 2)))(X, KERNEL, BIAS),
    "forward": lambda f: jax.jvp(f, (X, KERNEL, BIAS), (2 * X, KERNEL, 3 * BIAS)),
    "remat": lambda f: jax.grad(jax.checkpoint(loss(f)), (1, 2))(X, KERNEL, BIAS),
    "hessian": lambda f: jax.hessian(loss(over_rows(f)), (0, 1, 2))(X[:2], KERNEL, BIAS),
    "reverse twice": lambda f: jax.jacrev(jax.grad(loss(f), (1, 2)), (0, 1))(X[:2], KERNEL, BIAS),
    "kernels": lambda f: jax.vmap(f, (None, 0, 0))(X, KERNELS, BIASES),
    "kernels alone": lambda f: jax.vmap(f, (0, 0, None))(X[:2], KERNELS, BIAS),
    "biases alone": lambda f: jax.vmap(f, (None, None, 0))(X, KERNEL, BIASES),
    "gradients of kernels": lambda f: jax.vmap(
        jax.grad(loss(over_rows(f)), (0, 1, 2)), (None, 0, 0)
    )(X, KERNELS, BIASES),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("precision", ["float32", "tensorfloat32"])
def test_every_order_of_transformations_is_that_of_a_plain_product(order, precision):
    def mapped(x, kernel, bias):
        return affine(x, kernel, bias, precision)

    for transform in (ORDERS[order], jax.jit(ORDERS[order], static_argnums=0)):
        found, expected = transform(mapped), ORDERS[order](plain)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=FLOAT32, atol=FLOAT32),
            found,
            expected,
        )


@pytest.mark.parametrize(
    "order", ["value", "value over rows", "kernels", "kernels alone", "biases alone"]
)
def test_bfloat16_rounds_the_operands_and_nothing_else(order):
    def mapped(x, kernel, bias):
        return affine(x, kernel, bias, "bfloat16")

    found, expected = ORDERS[order](mapped), ORDERS[order](rounded)
    np.testing.assert_allclose(found, expected, rtol=FLOAT32, atol=FLOAT32)
    assert np.abs(found - ORDERS[order](plain)).max() > 1e-3
    assert found.dtype == jnp.float32


@pytest.mark.parametrize(
    "order", ["gradient", "gradient of rows", "rows of gradients", "gradients of kernels"]
)
def test_the_backward_products_take_bfloat16_too(order):
    # The cotangent of a sum of y * weight is the weight: choose one that bfloat16 must round.
    def weighed(function):
        def one(x, kernel, bias):
            y = function(x, kernel, bias)
            return jnp.sum(y * (1 + 0.37 * jnp.arange(float(y.size)).reshape(y.shape)))

        return one

    round_ = lambda a: a.astype(jnp.bfloat16).astype(jnp.float32)  # noqa: E731
    transform = {
        "gradient": lambda f: jax.grad(weighed(f), (0, 1, 2))(X, KERNEL, BIAS),
        "gradient of rows": lambda f: jax.grad(weighed(over_rows(f)), (0, 1, 2))(X, KERNEL, BIAS),
        "rows of gradients": lambda f: over_rows(jax.grad(weighed(f), (0, 1, 2)))(X, KERNEL, BIAS),
        "gradients of kernels": lambda f: jax.vmap(
            jax.grad(weighed(over_rows(f)), (0, 1, 2)), (None, 0, 0)
        )(X, KERNELS, BIASES),
    }[order]

    @jax.custom_vjp
    def reference(x, kernel, bias):
        return rounded(x, kernel, bias)

    def backward(kept, y_bar):
        x, kernel = map(round_, kept)
        y_bar = round_(y_bar)
        flat = y_bar.reshape(-1, y_bar.shape[-1])
        return y_bar @ kernel.T, x.reshape(-1, x.shape[-1]).T @ flat, flat.sum(0)

    reference.defvjp(lambda x, kernel, bias: (rounded(x, kernel, bias), (x, kernel)), backward)
    found = transform(lambda x, kernel, bias: affine(x, kernel, bias, "bfloat16"))
    # Sums of up to 12 terms of size 30, in another order.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4),
        found,
        transform(reference),
    )
    exact = transform(plain)
    assert max(np.abs(a - b).max() for a, b in zip(found, exact, strict=True)) > 1e-2


def test_the_products_of_a_step_have_bfloat16_operands_and_float32_sums():
    model = dataclasses.replace(SMALL[2], precision="bfloat16")
    params = iwae_jax.init(KEY, model)
    x = binary(4)

    def mean(params):
        return iwae_jax.bound(params, x, KEY, 3, gradient="dreg").mean()

    text = jax.jit(jax.grad(mean)).trace(params).lower(lowering_platforms=("cuda",)).as_text()
    products = re.findall(r"stablehlo\.dot_general.*: \((.*?), (.*?)\) -> (.*)", text)
    assert len(products) >= 12
    for left, right, result in products:
        if "x1xf32" in left:  # the sum of a bias, a product with ones
            continue
        assert "bf16" in left and "bf16" in right, (left, right)
        assert "xf32" in result
    leaves = jax.tree.leaves((jax.grad(mean)(params), iwae_jax.log_weights(params, x, KEY, 3)))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("gradient", ["reparam", "dreg", gradients.resampled(2)])
def test_bfloat16_is_near_float32(gradient):
    x = binary(6)
    values, slopes = [], []
    for precision in PRECISIONS:
        params = iwae_jax.init(KEY, dataclasses.replace(SMALL[2], precision=precision))

        def mean(params):
            return iwae_jax.bound(params, x, KEY, 5, gradient=gradient).mean()

        value, slope = jax.value_and_grad(mean)(params)
        values.append(value)
        slopes.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(slope)]))
    np.testing.assert_allclose(values[1], values[0], rtol=1e-6)
    # bfloat16 keeps 8 bits: products are off by 2**-9 of their size, at random.
    np.testing.assert_allclose(values[2], values[0], rtol=2**-9)
    assert values[2] != values[0]
    if isinstance(gradient, str):  # resampling may choose other samples
        size = np.linalg.norm(slopes[0])
        assert 0 < np.linalg.norm(slopes[2] - slopes[0]) < 0.03 * size


def test_precision_is_part_of_the_model():
    model = ModelConfig(precision="bfloat16")
    assert model == ModelConfig(precision="bfloat16") != ModelConfig()
    assert hash(model) == hash(ModelConfig(precision="bfloat16"))
    with pytest.raises(ValueError, match="Expected precision to be one of float32, .*got 'half'"):
        ModelConfig(precision="half")


class Own(nn.Module):
    """A network of one's own that knows nothing of precision."""

    hidden_sizes: tuple[int, ...]
    heads: tuple
    activation: str = "tanh"
    bias: float | tuple[float, ...] = 0.0


def test_a_network_without_precision_is_refused_for_another_than_float32():
    ModelConfig(network=Own)
    with pytest.raises(ValueError, match="Expected a network that takes precision.*Own"):
        ModelConfig(network=Own, precision="bfloat16")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_float64_stays_float64(precision):
    with jax.enable_x64(True):
        x, kernel = (jnp.asarray(np.asarray(a, np.float64)) for a in (X, KERNEL))
        y, pull = jax.vjp(lambda kernel: affine(x, kernel, jnp.zeros(7), precision), kernel)
        (slope,) = pull(jnp.ones_like(y))
        assert (y.dtype, slope.dtype) == (jnp.float64, jnp.float64)
        error = np.abs(y - np.asarray(x) @ np.asarray(kernel)).max()
        assert error > 1e-4 if precision == "bfloat16" else error < 1e-13


@pytest.mark.parametrize("posterior", models.POSTERIORS)
def test_no_product_of_a_step_is_rounded_by_the_device(posterior):
    """GPUs and TPUs round the operands of a product whose precision is not said."""
    config = iwae_jax.ModelConfig((6,), (3,), ((4,),), posterior=posterior)
    params = iwae_jax.init(KEY, config)
    recipe = iwae_jax.training.Recipe(passes=2, algorithm="soap", gradient="reparam")
    state = iwae_jax.TrainState.create(params, recipe.optimizer(3))
    x = jnp.zeros((5, 6))
    traced = jax.make_jaxpr(lambda state: iwae_jax.train_step(state, x, KEY, 2, gradient="reparam"))
    found = list(products_of(traced(state).jaxpr))
    assert len(found) > 5
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert [product for product in found if product.params["precision"] != highest] == []


def products_of(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                yield from products_of(getattr(inner, "jaxpr", inner))


def is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
