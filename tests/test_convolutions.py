"""Convolutional networks: the layers against JAX's own convolutions, and the models made of them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import iwae_jax
from experiments.shared.flags.config import Config
from iwae_jax.models import ConvNet, Convolutional
from iwae_jax.models.networks import image_of
from iwae_jax.models.networks.convolutional import fractionally_strided, strided

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def jaxs_convolution(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    found = lax.conv_general_dilated(
        x[None], kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )  # fmt: skip
    return found[0] + bias[None, None]


@pytest.mark.parametrize(("rows", "columns"), [(8, 6), (7, 8), (5, 5), (2, 1), (1, 1)])
def test_a_strided_convolution_is_jaxs(rows, columns):
    """Value and both gradients; sums of 16 x 3 products of numbers of size 1, in float32."""
    x, kernel, bias = draw(rows, columns, 3), draw(4, 4, 3, 5), draw(5)
    ours, theirs = strided(x, kernel, bias), jaxs_convolution(x, kernel, bias)
    assert ours.shape == (-(-rows // 2), -(-columns // 2), 5)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    slopes = [
        jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), (0, 1, 2))(x, kernel, bias)
        for f in (strided, jaxs_convolution)
    ]
    for one, other in zip(*slopes, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-5)


@pytest.mark.parametrize(("rows", "columns"), [(4, 3), (1, 1), (1, 5)])
def test_a_fractionally_strided_convolution_is_the_transpose(rows, columns):
    """Its kernel has the two axes of channels in the other order."""
    kernel = draw(4, 4, 2, 3)
    x, small = draw(2 * rows, 2 * columns, 2), draw(rows, columns, 3)
    _, transpose = jax.vjp(lambda x: jaxs_convolution(x, kernel, jnp.zeros(3)), x)
    (theirs,) = transpose(small)
    ours = fractionally_strided(small, kernel.swapaxes(2, 3))
    assert ours.shape == x.shape
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_products_have_the_stated_precision():
    x, kernel = draw(6, 6, 3), draw(4, 4, 3, 5)
    narrow = strided(x, kernel, jnp.zeros(5), "bfloat16")
    rounded_x, rounded_kernel = (a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, kernel))
    wanted = jaxs_convolution(rounded_x, rounded_kernel, jnp.zeros(5))
    np.testing.assert_allclose(narrow, wanted, atol=2e-5)
    assert np.abs(narrow - strided(x, kernel, jnp.zeros(5))).max() > 1e-3
    up = fractionally_strided(draw(2, 2, 3), kernel, "bfloat16")
    assert up.dtype == jnp.float32


def layers_of(module: nn.Module, shape: tuple[int, ...]) -> dict:
    variables: Any = module.init(KEY, jnp.zeros(shape))
    return jax.tree.map(jnp.shape, variables["params"])


def test_an_encoder_and_a_decoder_mirror_each_other():
    """9 x 6 pixels, to 5 x 3, to 3 x 2, and back."""
    network = Convolutional((9, 6, 1))
    encoder = network(hidden_sizes=(4, 8), heads=(("mean", (2,)), ("log_scale", (2,))))
    found = layers_of(encoder, (54,))
    assert found["hidden_0"]["kernel"] == (4, 4, 1, 4)
    assert found["hidden_1"]["kernel"] == (4, 4, 4, 8)
    assert found["mean"]["kernel"] == found["log_scale"]["kernel"] == (3 * 2 * 8, 2)
    decoder: Any = network.in_role("decoder")(hidden_sizes=(8, 4), heads=(("logits", (9, 6)),))
    found = layers_of(decoder, (2,))
    assert found["hidden_0"]["kernel"] == (2, 3 * 2 * 8)
    assert found["hidden_1"]["kernel"] == (4, 4, 8, 4)
    assert found["logits"]["kernel"] == (4, 4, 4, 1) and found["logits_bias"] == (9, 6)
    between = network.in_role("between")(hidden_sizes=(7,), heads=(("mean", (3,)),))
    assert layers_of(between, (2,))["hidden_0"]["kernel"] == (2, 7)


def test_an_image_moves_with_the_smallest():
    """By four pixels for one, through two layers, away from the edges: what makes it a convolution."""
    decoder = ConvNet((16, 16, 1), (3, 2), (("logits", (16, 16)),), up=True)
    variables: Any = decoder.init(KEY, jnp.zeros(2))
    spot = jnp.abs(draw(3)) + 1.0
    places = jnp.zeros((2, 4, 4, 3)).at[0, 1, 1].set(spot).at[1, 2, 1].set(spot)
    variables["params"]["hidden_0"]["kernel"] = places.reshape(2, -1)
    draw_one: Any = decoder.apply
    one, moved = (draw_one(variables, z)["logits"] for z in jnp.eye(2))
    np.testing.assert_allclose(moved[4:], one[:-4], atol=1e-5)
    assert np.abs(moved - one).max() > 0.1


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("flat", [False, True])
def test_a_model_starts_at_the_mean_image(layers, flat):
    """Without z: the last bias is the logit of the mean, pixel by pixel, as in a fully connected network."""
    mean = np.linspace(0.1, 0.9, 48).reshape((48,) if flat else (8, 6))
    options = "conv:rows=8" if flat else "conv"
    config = iwae_jax.ModelConfig(
        mean.shape, (5, 3)[:layers], ((4, 6), (7,))[:layers], "leaky_relu", network=options
    )
    params = iwae_jax.init(KEY, config, data_mean=mean)
    dark = jax.tree.map(jnp.zeros_like, params.generative["likelihood"])
    own = params.generative["likelihood"]["params"]["logits_bias"]
    dark["params"]["logits_bias"] = own
    params = iwae_jax.Params(
        {**params.generative, "likelihood": dark}, params.recognition, params.model
    )
    z = tuple(jnp.zeros(size) for size in config.latent_sizes)
    np.testing.assert_allclose(config.mean_x(params, z), mean, rtol=1e-5)
    values = iwae_jax.bound(params, jnp.zeros((3, *mean.shape)), KEY, k=4, gradient="dreg")
    assert values.shape == (3,) and np.isfinite(values).all()


def test_a_datum_alone_and_in_a_batch_have_the_same_weights():
    """Group normalisation is of each datum: no statistic of the batch reaches the waist."""
    config = iwae_jax.ModelConfig((8, 8), (3,), ((4, 8),), network="conv:norm=group")
    params = iwae_jax.init(KEY, config)
    x = (draw(5, 8, 8) > 0).astype(jnp.float32)
    keys = iwae_jax.datum_keys(KEY, 5)
    whole = iwae_jax.log_weights(params, x, keys, 6)
    for i in (0, 4):
        alone = iwae_jax.log_weights(params, x[i], keys[i], 6)
        np.testing.assert_allclose(whole[:, i], alone, rtol=1e-5)


def test_batch_normalisation_is_of_the_batch_in_training_alone():
    """With train, a hidden layer has mean 0 and variance 1 over data, rows and columns. Without, nothing of
    one datum depends on another, and the running statistics move by a tenth.
    """
    decoder = ConvNet((8, 8, 1), (6, 4), (("logits", (8, 8)),), "relu", norm="batch", up=True)
    variables: Any = decoder.init(KEY, jnp.zeros(3))
    apply: Any = decoder.apply
    z = 3.0 * draw(50, 3) + 2.0

    def one(z):
        return apply(
            variables, z, train=True, mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, nn.BatchNorm),
        )  # fmt: skip

    batched = jax.vmap(
        one, axis_name="batch", out_axes=(0, {"batch_stats": None, "intermediates": 0})
    )
    _, changed = batched(z)
    (normalised,) = changed["intermediates"]["norm_0"]["__call__"]
    np.testing.assert_allclose(normalised.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(normalised.var((0, 1, 2)), 1.0, atol=1e-3)
    kernel, bias = (variables["params"]["hidden_0"][name] for name in ("kernel", "bias"))
    hidden = (z @ kernel + bias[None]).reshape(50, 2, 2, 6)
    moved = changed["batch_stats"]["norm_0"]
    np.testing.assert_allclose(moved["mean"], 0.1 * hidden.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * hidden.var((0, 1, 2)), rtol=1e-4)
    plain = jax.vmap(lambda z: apply(variables, z)["logits"])
    np.testing.assert_allclose(plain(z)[0], apply(variables, z[0])["logits"], atol=1e-5)


def test_training_leaves_the_statistics_of_a_batch_as_they_are():
    config = iwae_jax.ModelConfig((8, 8), (3,), ((4, 8),), network="conv:norm=batch")
    state = iwae_jax.TrainState.create(iwae_jax.init(KEY, config), optax.adam(1e-2))
    before = jax.tree.map(np.array, state.params.generative["likelihood"])
    x = jnp.ones((4, 8, 8))
    state, _ = iwae_jax.train_step(state, x, KEY, 3)
    after = state.params.generative["likelihood"]
    kept, trained = (
        [
            np.array_equal(a, b)
            for a, b in zip(*(jax.tree.leaves(tree[name]) for tree in (before, after)), strict=True)
        ]
        for name in ("batch_stats", "params")
    )
    assert all(kept) and not any(trained)


def test_a_convolutional_model_learns():
    """Images of one bar each: L_5 rises above that of independent pixels of the right mean."""
    images = np.zeros((64, 8, 8), np.uint8)
    for n in range(64):
        images[n, :, n % 8] = 255
    config = iwae_jax.ModelConfig((8, 8), (4,), ((8, 8),), "leaky_relu", network="conv")
    params = iwae_jax.init(KEY, config, data_mean=images.mean(0) / 255)
    state = iwae_jax.TrainState.create(params, optax.adam(1e-2))
    for _ in range(30):
        state, bounds = iwae_jax.train_epoch(state, images, KEY, 5, batch_size=16)
    independent = 64 * (np.log(1 / 8) / 8 + np.log(7 / 8) * 7 / 8)
    assert independent < -20 and float(bounds.mean()) > -8


def test_the_command_line_takes_the_image_from_the_data():
    config = Config.of(network="conv:norm=group", hidden_sizes=((4, 8),))
    assert config.model(54, (9, 6)).make_network == Convolutional((9, 6, 1), "group")
    assert config.model(162, (9, 6, 3)).make_network == Convolutional((9, 6, 3), "group")
    plain = Config.of(network="conv", layers=2)
    assert plain.model(784).hidden_sizes == ((32, 64), (100, 100))
    assert plain.model(784).make_network == Convolutional((28, 28, 1))
    assert plain.replace(hidden_sizes=((32, 64), (100, 100))).name == plain.name


@pytest.mark.parametrize(
    ("shape", "options", "image"),
    [
        ((28, 28), {}, (28, 28, 1)),
        ((4, 6, 3), {}, (4, 6, 3)),
        ((64,), {}, (8, 8, 1)),
        ((3072,), {}, (32, 32, 3)),
        ((24,), {"rows": 4}, (4, 6, 1)),
        ((24,), {"rows": 4, "channels": 2}, (4, 3, 2)),
    ],
)
def test_the_image_of_a_shape(shape, options, image):
    assert image_of(shape, **options) == image


@pytest.mark.parametrize(
    ("shape", "options"),
    [((10,), {}), ((24,), {"rows": 5}), ((2, 2, 2, 2), {}), ((4, 4), {"rows": 2})],
)
def test_what_is_no_image_is_refused(shape, options):
    with pytest.raises(ValueError, match="Expected data_shape to be that of images"):
        image_of(shape, **options)


def kernels(tree: Any) -> list[tuple[int, ...]]:
    """The shapes of all kernels with four axes."""
    return [leaf.shape for leaf in jax.tree.leaves(tree) if leaf.ndim == 4]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((64,), {"likelihood": "categorical:levels=4"}),
        ((8, 8, 3), {"likelihood": "discretised_logistic:levels=16"}),
        ((64,), {"latent_sizes": (64,)}),  # as many latents as pixels
        ((64,), {"latent_sizes": (8,), "latents": "categorical:classes=8"}),  # read as 64 numbers
        (
            (64,),
            {"latent_sizes": (64, 64), "hidden_sizes": ((4, 6), (5,)), "posterior": "full_normal"},
        ),
        ((8, 8), {"prior": "vamp:inputs=3", "precision": "bfloat16"}),
    ],
)
def test_networks_next_to_x_are_convolutional_and_no_others(shape, options):
    """Whatever the sizes of latents and heads are."""
    values = {"latent_sizes": (5,), "hidden_sizes": ((4, 6),)} | options
    config = iwae_jax.ModelConfig(shape, network="conv", **values)
    params = iwae_jax.init(KEY, config)
    colours = shape[2] if len(shape) == 3 else 1
    assert set(kernels(params.recognition[0])) == {(4, 4, colours, 4), (4, 4, 4, 6)}
    assert kernels(params.recognition[1:]) == kernels(params.generative["prior"]) == []
    drawn = kernels(params.generative["likelihood"])
    assert (4, 4, 6, 4) in drawn and {k[:3] for k in drawn} == {(4, 4, 6), (4, 4, 4)}
    levels = getattr(config.parts.likelihood, "levels", 2)
    x = jnp.zeros((2, *shape)) if levels == 2 else jnp.full((2, *shape), 1 / (levels - 1))
    estimator = "vimco" if config.is_discrete else "reparam"
    assert np.isfinite(iwae_jax.bound(params, x, KEY, 3, gradient=estimator)).all()


def test_bad_networks_are_refused():
    for image in [(4, 4), (4, 4, 0)]:
        with pytest.raises(ValueError, match="Expected image to be"):
            Convolutional(image)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Expected norm to be one of"):
        Convolutional((4, 4, 1), "layer")
    with pytest.raises(ValueError, match="Expected role to be one of"):
        Convolutional((4, 4, 1), role="middle")
    with pytest.raises(ValueError, match="to have hidden layers, got none"):
        iwae_jax.init(KEY, iwae_jax.ModelConfig((16,), (2,), ((),), network="conv"))
    decoder: Any = Convolutional((4, 4, 1), role="decoder")
    with pytest.raises(ValueError, match="Expected heads of images"):
        decoder(hidden_sizes=(3,), heads=(("logits", (15,)),))


def test_a_normal_likelihood_with_a_logit_link():
    """Its mean is in (0, 1), and starts at the data's."""
    config = iwae_jax.ModelConfig((6,), (2,), ((),), likelihood="normal:scale=0.1,link=logit")
    mean = np.linspace(0.0, 1.0, 6)
    params = iwae_jax.init(KEY, config, data_mean=mean)
    at_zero = config.mean_x(params, (jnp.zeros(2),))
    np.testing.assert_allclose(at_zero, np.clip(mean, 0.001, 0.999), rtol=1e-4)
    x = jnp.full(6, 0.3)
    wanted = -0.5 * np.sum(((0.3 - at_zero) / 0.1) ** 2) - 6 * np.log(0.1 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(
        config.log_conditional(params, x, (jnp.zeros(2),)), wanted, rtol=1e-5
    )
    with pytest.raises(ValueError, match="its link to be one of"):
        iwae_jax.ModelConfig((6,), likelihood="normal:link=probit")
