import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from iwae_jax import ModelConfig, models
from iwae_jax.models import networks
from tests.oracles import Tally
from tests.test_importance import KEY, SMALL, binary, small


def shapes(tree):
    return jax.tree.map(lambda a: a.shape, tree)


def blocks(params):
    """The weights of each network: upwards, then of the likelihood, then of the prior's layers."""
    variables = [
        *params.recognition, params.generative["likelihood"], *params.generative["prior"]
    ]  # fmt: skip
    assert all(set(v) == {"params"} for v in variables)
    return [v["params"] for v in variables]


def test_the_papers_one_layer_network():
    params = iwae_jax.init(KEY, ModelConfig())

    def dense(*sizes):
        return {"kernel": sizes, "bias": sizes[1:]}

    assert shapes(blocks(params)) == [
        {
            "hidden_0": dense(784, 200),
            "hidden_1": dense(200, 200),
            "mean": dense(200, 50),
            "log_scale": dense(200, 50),
        },
        {"hidden_0": dense(50, 200), "hidden_1": dense(200, 200), "logits": dense(200, 784)},
    ]


def test_the_papers_two_layer_network():
    config = ModelConfig.two_layer()
    assert (config.latent_sizes, config.hidden_sizes) == ((100, 50), ((200, 200), (100, 100)))
    params = iwae_jax.init(KEY, config)
    widths = [[block[name]["kernel"].shape for name in block] for block in blocks(params)]
    assert widths == [
        [(784, 200), (200, 200), (200, 100), (200, 100)],
        [(100, 100), (100, 100), (100, 50), (100, 50)],
        [(100, 200), (200, 200), (200, 784)],
        [(50, 100), (100, 100), (100, 100), (100, 100)],
    ]


def test_hidden_layers_are_mirrored_on_the_way_down():
    params = small(2)
    up, _, to_x, _ = blocks(params)
    assert up["hidden_1"]["kernel"].shape == (13, 7)
    assert to_x["hidden_0"]["kernel"].shape == (3, 7)
    assert to_x["logits"]["kernel"].shape == (13, 11)


def test_initial_weights_are_glorot_uniform_and_biases_zero():
    params = iwae_jax.init(KEY, ModelConfig.two_layer())
    for block in blocks(params):
        for layer in block.values():
            fan_in, fan_out = layer["kernel"].shape
            limit = np.sqrt(6 / (fan_in + fan_out))
            kernel = np.asarray(layer["kernel"])
            assert 0.97 * limit < np.abs(kernel).max() <= limit
            # The standard deviation of a uniform is limit / sqrt(3); its relative error is small.
            np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.05)
            assert not layer["bias"].any()


def test_the_output_bias_is_the_logit_of_the_clipped_mean():
    mean = np.full(784, 0.25)
    mean[0], mean[1] = 0.0, 1.0
    params = iwae_jax.init(KEY, ModelConfig(), data_mean=mean)
    bias = blocks(params)[1]["logits"]["bias"]
    expected = [np.log(0.001 / 0.999), np.log(0.999 / 0.001), np.log(0.25 / 0.75)]
    np.testing.assert_allclose(bias[:3], expected, rtol=1e-5)
    # The wrong one, log(1 - mean), would be -0.29 here.
    assert abs(float(bias[2]) - np.log(0.75)) > 0.5
    others = iwae_jax.init(KEY, ModelConfig())
    for a, b in zip(
        jax.tree.leaves(params.recognition), jax.tree.leaves(others.recognition), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_normal_likelihood_starts_at_the_mean():
    config = ModelConfig((3,), (2,), ((4,),), likelihood="normal")
    params = iwae_jax.init(KEY, config, data_mean=np.array([-1.0, 0.0, 7.0]))
    np.testing.assert_array_equal(blocks(params)[1]["mean"]["bias"], [-1, 0, 7])
    np.testing.assert_array_equal(blocks(params)[1]["log_scale"]["bias"], [0, 0, 0])


@pytest.mark.parametrize("scale", [None, 0.5])
def test_a_normal_likelihood_is_normal(scale):
    from scipy import stats

    config = ModelConfig((3,), (2,), ((4,),), likelihood=models.Normal(scale))
    params = iwae_jax.init(KEY, config)
    assert ("log_scale" in blocks(params)[1]) == (scale is None)
    x, z = jnp.array([0.5, -2.0, 30.0]), (jnp.array([0.3, -0.7]),)
    mean = config.mean_x(params, z)
    if scale is None:
        hidden = jnp.tanh(z[0] @ blocks(params)[1]["hidden_0"]["kernel"])
        expected_scale = np.exp(hidden @ blocks(params)[1]["log_scale"]["kernel"])
    else:
        expected_scale = np.full(3, scale)
    expected = stats.norm.logpdf(x, mean, expected_scale).sum() + stats.norm.logpdf(z[0]).sum()
    np.testing.assert_allclose(config.log_joint(params, x, z), expected, rtol=1e-5)
    draws = jax.vmap(lambda key: config.sample_x(params, z, key))(jax.random.split(KEY, 20_000))
    errors = 4 * np.asarray(expected_scale) / np.sqrt(20_000)
    assert (np.abs(draws.mean(axis=0) - mean) < errors).all()
    np.testing.assert_allclose(draws.std(axis=0), expected_scale, rtol=0.03)


@pytest.mark.parametrize("data_shape", [(784,), (28, 28), (4, 4, 3)])
def test_data_of_any_shape(data_shape):
    config = ModelConfig(data_shape, (2,), ((5,),))
    params = iwae_jax.init(KEY, config, data_mean=np.full(data_shape, 0.3))
    x = jnp.zeros((2, *data_shape))
    assert iwae_jax.bound(params, x, KEY, 3).shape == (2,)
    assert iwae_jax.sample(params, KEY, 4).shape == (4, *data_shape)
    assert iwae_jax.reconstruct(params, x, KEY).shape == x.shape


def test_samples_of_x_have_the_models_moments():
    """Mean of draws of x against the mean of E[x | z], in standard errors; two layers."""
    params, n = small(2), 20_000
    x = np.asarray(iwae_jax.sample(params, KEY, n), np.float64)
    assert set(np.unique(x)) == {0.0, 1.0}
    means = np.asarray(iwae_jax.sample(params, jax.random.key(9), n, mean=True), np.float64)
    error = np.hypot(x.std(axis=0), means.std(axis=0)) / np.sqrt(n)
    assert (np.abs(x.mean(axis=0) - means.mean(axis=0)) < 4.5 * error).all()


def test_the_prior_has_the_moments_of_its_layers():
    params = small(2)
    z = jax.vmap(lambda key: params.model.sample_prior(params, key))(jax.random.split(KEY, 20_000))
    top = np.asarray(z[1], np.float64)
    assert (np.abs(top.mean(axis=0)) < 4 / np.sqrt(20_000)).all()
    np.testing.assert_allclose(top.std(axis=0), 1.0, rtol=0.03)
    outputs = jax.vmap(lambda z: params.model.parts.prior._outputs(params, 0, z))(z[1])
    mean, log_scale = outputs["mean"], outputs["log_scale"]
    standardised = np.asarray((z[0] - mean) * jnp.exp(-log_scale), np.float64)
    assert (np.abs(standardised.mean(axis=0)) < 4.5 / np.sqrt(20_000)).all()
    np.testing.assert_allclose(standardised.std(axis=0), 1.0, rtol=0.03)


def any_params(model):
    """Parameters of a model: random numbers in each leaf, without a compiled program."""
    rng = np.random.default_rng(0)
    like = jax.eval_shape(lambda: iwae_jax.init(KEY, model))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), like)


def test_the_noise_of_each_layer_is_its_own():
    """In the prior and in the posterior: correlations within 5 standard errors; two equal layers."""
    model, n = ModelConfig((4,), (2, 2), ((3,), (3,))), 5000
    params, x = any_params(model), jnp.array([0.0, 1, 1, 0])
    keys = jax.random.split(KEY, n)

    @jax.jit
    @jax.vmap
    def noise(key):
        z = model.sample_prior(params, key)
        q, _ = model.sample_posterior(params, x, key)
        both = ((z, model.prior_moments(params, z)), (q, model.posterior_moments(params, x, q)))
        return [
            jnp.concatenate([(u - m) / s for u, (m, s) in zip(z, moments, strict=True)])
            for z, moments in both
        ]

    for draws in noise(keys):
        apart = np.abs(np.corrcoef(draws, rowvar=False) - np.eye(4))
        assert apart.max() < 5 / np.sqrt(n)


def test_moments_are_those_of_the_densities():
    """log p(z) and log q(z | x) from the means and scales, with SciPy; scales are not 1."""
    from scipy import stats

    model = ModelConfig((4,), (3, 2, 2), ((3,), (3,), (3,)))
    params, x = any_params(model), jnp.array([0.0, 1, 1, 0])

    @jax.jit
    def densities(params):
        z, log_q = model.sample_posterior(params, x, KEY)
        log_p = model.log_joint(params, x, z) - model.log_conditional(params, x, z)
        q, p = model.posterior_moments(params, x, z), model.prior_moments(params, z)
        return z, (log_q, q), (log_p, p)

    z, *both = densities(params)
    for expected, moments in both:
        pairs = zip(z, jax.tree.map(np.asarray, moments), strict=True)
        got = sum(stats.norm.logpdf(u, *moment).sum() for u, moment in pairs)
        np.testing.assert_allclose(got, expected, rtol=1e-4)
        assert np.abs(np.log(moments[0][1])).min() > 1e-3


def test_activations_are_their_formulas():
    from scipy import special

    x = np.array([-2.0, -0.5, 0.7, 3.0])
    cubic = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    formulas = {
        "tanh": np.tanh(x),
        "relu": np.maximum(x, 0),
        "leaky_relu": np.where(x > 0, x, 0.01 * x),
        "elu": np.where(x > 0, x, np.expm1(x)),
        "gelu": 0.5 * x * (1 + np.tanh(cubic)),
        "silu": x * special.expit(x),
        "softplus": np.log1p(np.exp(x)),
    }
    assert list(networks.ACTIVATIONS) == list(formulas)
    for name, expected in formulas.items():
        got = networks.ACTIVATIONS[name](jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("key", [None, KEY])
def test_encode_gives_mean_and_scale_of_each_layer(layers, key):
    params, x = small(layers), binary(2, 3)
    moments = iwae_jax.encode(params, x, key)
    assert [mean.shape for mean, _ in moments] == [(2, 3, s) for s in SMALL[layers].latent_sizes]
    assert all((scale > 0).all() for _, scale in moments)
    z, _ = params.model.sample_posterior(params, x[0, 1].astype(float), jax.random.fold_in(KEY, 1))
    # The first layer is x's alone; the second is that of the draw, or of the mean.
    np.testing.assert_allclose(moments[0][0], iwae_jax.encode(params, x)[0][0], rtol=1e-6)
    if layers > 1:
        below = z[0] if key is not None else moments[0][0][0, 1]
        network = params.model.parts.posterior._networks[1]
        outputs = network.apply(params.recognition[1], below)
        mean, log_scale = outputs["mean"], outputs["log_scale"]
        np.testing.assert_allclose(moments[1][0][0, 1], mean, atol=1e-5)
        np.testing.assert_allclose(moments[1][1][0, 1], np.exp(log_scale), rtol=1e-5)


def test_reconstructions_are_means_of_p_x_given_a_draw_of_z():
    params, x = small(1), binary(3)
    means = iwae_jax.reconstruct(params, x, KEY)
    z, _ = params.model.sample_posterior(params, x[2].astype(float), jax.random.fold_in(KEY, 2))
    np.testing.assert_allclose(means[2], params.model.mean_x(params, z), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_sizes": ()}, "one entry for each stochastic layer"),
        ({"latent_sizes": (5, 3)}, "one entry for each stochastic layer"),
        ({"latent_sizes": (0,)}, "Expected latent_sizes to hold positive ints"),
        ({"latent_sizes": 5}, "Expected latent_sizes to hold positive ints"),
        ({"data_shape": (2.5,)}, "Expected data_shape to hold positive ints"),
        ({"hidden_sizes": ((True,),)}, "Expected hidden_sizes to hold positive ints"),
        ({"activation": "sine"}, "Expected activation to be one of"),
        ({"activation": ["tanh"]}, "Expected activation to be one of"),
        ({"hidden_sizes": 200}, "Expected hidden_sizes to hold positive ints"),
        (
            {"likelihood": "normal:scale=a"},
            "likelihood 'normal:.*' to be valid: its scale to be a number",
        ),
        (
            {"likelihood": "poisson"},
            "Expected likelihood to be one of bernoulli, .*, categorical, got 'poisson'",
        ),
        ({"likelihood": "bernoulli:scale=1"}, "likelihood 'bernoulli' with no options"),
        (
            {"likelihood": "normal:scale=0"},
            "likelihood 'normal:.*' to be valid: its scale to be a number",
        ),
        (
            {"likelihood": "normal:scale=nan"},
            "likelihood 'normal:.*' to be valid: its scale to be a number",
        ),
        ({"posterior": "student_t:df"}, "posterior 'student_t' with df"),
    ],
)
def test_a_config_that_makes_no_model(fields, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**fields)


def test_configs_are_hashable_and_take_lists():
    config = ModelConfig([784], [100, 50], [[200, 200], [100, 100]])  # type: ignore[arg-type]
    assert config == ModelConfig.two_layer() and hash(config) == hash(ModelConfig.two_layer())


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        (np.zeros(3), r"Expected data_mean of shape \(784,\), got \(3,\)"),
        (np.full(784, 128.0), r"Expected data_mean in \[0, 1\]"),
        (np.full(784, np.nan), "Expected data_mean to be finite"),
    ],
)
def test_bad_data_means(mean, message):
    with pytest.raises(ValueError, match=message):
        iwae_jax.init(KEY, ModelConfig(), data_mean=mean)


def test_a_model_that_cannot_draw_x_says_so():
    params = iwae_jax.init(KEY, Tally())
    with pytest.raises(ValueError, match="Tally lacks sample_prior, sample_x, mean_x"):
        iwae_jax.sample(params, KEY, 3)
