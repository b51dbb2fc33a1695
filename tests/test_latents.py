import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import iwae_jax
from iwae_jax import latents
from tests.oracles import Discrete, LinearGaussian
from tests.test_gradients import linear, points
from tests.test_importance import KEY, binary, small


def zeros(params):
    """A mean of 0 for each unit."""
    return tuple(np.zeros(size) for size in params.model.latent_sizes)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_active_units_against_the_closed_form(layers):
    """Var_x(E[z | x]) of a linear chain: products of slopes, squared, times the variance of x."""
    model = LinearGaussian(layers=layers)
    params, count = linear(layers), 40_000
    x = 1.3 * jax.random.normal(jax.random.key(3), (count, 3))
    active = iwae_jax.active_units(params, x, KEY, threshold=0.26)
    slope = np.ones(3)
    for layer in range(layers):
        slope = slope * np.asarray(params.recognition[layer]["weight"], np.float64)
        expected = slope**2 * np.var(np.asarray(x, np.float64), axis=0)
        # The relative standard error of a variance is sqrt(2 / n), and a little for the draws.
        tolerance = 6 * expected * np.sqrt(2 / count) + 6 * 0.8 / np.sqrt(count) * (layer > 0)
        assert (np.abs(active.variances[layer] - expected) < tolerance).all()
        assert (np.abs(expected - 0.26) > tolerance).all()  # so that the counts are known, too
        assert active.counts[layer] == (expected > 0.26).sum()
    assert model.layers == len(active.counts)
    assert active.counts[0] == (1 if layers == 1 else 3)


def test_a_unit_is_active_from_a_variance_of_a_hundredth_on():
    """The default threshold is the paper's; the variances are 0.5, 0.05 and 0.002."""
    params = linear(1)
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    x /= x.std(axis=0, ddof=1)
    slopes = np.sqrt(np.array([0.5, 0.05, 0.002], np.float32))
    params = dataclasses.replace(params, recognition=({**params.recognition[0], "weight": slopes},))
    active = iwae_jax.active_units(params, x, KEY)
    np.testing.assert_allclose(active.variances[0], slopes**2, rtol=1e-3)
    assert int(active.counts[0]) == 2


def test_a_unit_that_ignores_x_is_not_active():
    params = linear(2)
    first, second = params.recognition
    second = {**second, "weight": second["weight"].at[0].set(0.0)}
    first = {**first, "weight": first["weight"].at[1].set(0.0)}
    params = iwae_jax.Params(params.generative, (first, second), params.model)
    active = iwae_jax.active_units(params, points(5000), KEY)
    # Unit 1 of layer 2 moves with its own draw of layer 1, but its posterior mean does not.
    np.testing.assert_array_equal(active.variances[0] > 0.01, [True, False, True])
    np.testing.assert_array_equal(active.variances[1] > 0.01, [False, False, True])
    assert [int(count) for count in active.counts] == [2, 1]


def test_units_of_a_broken_model_are_not_called_inactive():
    params = jax.tree.map(lambda a: a * jnp.nan, small(1))
    assert iwae_jax.active_units(params, binary(5), KEY).counts[0] == -1


@pytest.mark.parametrize("layers", [1, 2])
def test_the_divergences_of_all_units_are_the_rate(layers):
    """E_x KL(q(z | x) || p(z)), from log-densities at many draws."""
    params, x, k = linear(layers), points(4), 40_000
    keys = iwae_jax.datum_keys(jax.random.key(9), 4)

    def log_ratio(x, key):
        z, log_q = params.model.sample_posterior(params, x, key)
        joint = params.model.log_joint(params, x, z)
        return log_q - (joint - params.model.log_conditional(params, x, z))

    draws = jax.vmap(lambda x, key: jax.vmap(log_ratio, (None, 0))(x, jax.random.split(key, k)))(
        x, keys
    )
    error = np.sqrt(np.sum(np.var(np.asarray(draws, np.float64), axis=1)) / k) / 4
    parts = latents.unit_divergences(params, x, KEY, samples=4000)
    assert [part.shape for part in parts] == [(3,)] * layers
    got = sum(float(part.sum()) for part in parts)
    # Of 4,000 draws the parts, less noisy than the log-ratios, have an error of their own.
    assert abs(got - float(np.mean(draws))) < 4 * error * (1 + np.sqrt(k / 4000) * (layers > 1))


def test_the_divergence_of_one_layer_is_exact():
    params, x = linear(1), points(5)
    (part,) = latents.unit_divergences(params, x, KEY, samples=1)
    expected = jax.vmap(lambda x: params.model.analytic_kl(params, x))(x)
    np.testing.assert_allclose(part.sum(), expected.mean(), rtol=1e-5)


def test_a_unit_equal_to_its_prior_has_no_divergence():
    params = small(2)
    keep = tuple(np.arange(size) != 1 for size in params.model.latent_sizes)
    parts = latents.unit_divergences(
        latents.without_units(params, keep, zeros(params)), binary(6), KEY
    )
    for part, mask in zip(parts, keep, strict=True):
        np.testing.assert_allclose(part[~mask], 0.0, atol=1e-6)
        assert (part[mask] > 1e-4).all()


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_surgery_against_numerical_integrals(batch_size):
    """One latent, three data: the aggregate posterior is a mixture of three normals."""
    model = LinearGaussian(1)
    params, count = iwae_jax.init(jax.random.key(2), model), 3
    x = jnp.array([[-2.0], [0.3], [1.5]])
    q = {name: float(value[0]) for name, value in params.recognition[0].items()}
    scale = np.exp(q["log_scale"])
    means = [q["weight"] * float(value) + q["bias"] for value in np.asarray(x)[:, 0]]

    def aggregate(z):
        return np.mean([stats.norm.pdf(z, mean, scale) for mean in means])

    def mean_over_q(log_ratio):
        return np.mean(
            [
                integrate.quad(
                    lambda z, m=m: stats.norm.pdf(z, m, scale) * log_ratio(z, m), -12, 12, limit=200
                )[0]
                for m in means
            ]
        )

    information = mean_over_q(lambda z, m: stats.norm.logpdf(z, m, scale) - np.log(aggregate(z)))
    marginal = mean_over_q(lambda z, m: np.log(aggregate(z)) - stats.norm.logpdf(z))
    runs = [
        latents.elbo_surgery(params, x, key, batch_size=batch_size)
        for key in jax.random.split(KEY, 400)
    ]
    for name, expected in (
        ("mutual_information", information),
        ("marginal_divergence", marginal),
        ("rate", information + marginal),
    ):
        values = np.array([float(getattr(run, name)) for run in runs])
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(runs)), name
    assert float(runs[0].ceiling) == pytest.approx(np.log(count))
    terms = latents.elbo_surgery(params, x, KEY)
    whole = float(terms.mutual_information + terms.marginal_divergence)
    assert float(terms.rate) == pytest.approx(whole, rel=1e-5)


def test_surgery_is_the_elbo():
    """-distortion - rate is the ELBO, over many draws."""
    params, x = small(2), binary(6)
    runs = [latents.elbo_surgery(params, x, key) for key in jax.random.split(KEY, 200)]
    elbo = np.array([-float(run.distortion + run.rate) for run in runs])
    log_w = iwae_jax.log_weights(params, x, KEY, 4000)
    error = np.hypot(elbo.std() / np.sqrt(200), float(log_w.std(axis=0).max()) / np.sqrt(4000))
    assert abs(elbo.mean() - float(log_w.mean())) < 4 * error


@pytest.mark.parametrize("k", [1, 2, 4])
def test_resampled_posterior_against_enumeration(k):
    """The law of one of k draws, chosen by weight, on a latent with three values."""
    params, n = iwae_jax.init(jax.random.key(3), Discrete()), 20_000
    x = jnp.array([1.0, 0.0])
    draws = latents.resampled_posterior(params, x, KEY, k, n)
    assert draws.shape == (n,)
    values = params.model.values
    all_log_w, log_q = params.model.all_log_w(params, x)
    law = np.zeros(values)
    for picks in np.ndindex(*(values,) * k):
        picks = np.array(picks)
        share = np.asarray(jax.nn.softmax(all_log_w[picks]))
        np.add.at(law, picks, share * np.exp(float(log_q[picks].sum())))
    counts = np.bincount(np.asarray(draws), minlength=values) / n
    assert law.sum() == pytest.approx(1, abs=1e-5)
    assert (np.abs(counts - law) < 4 * np.sqrt(law * (1 - law) / n)).all()


def test_resampled_posterior_tends_to_the_posterior():
    params, x = linear(1), points(2)
    (z,) = latents.resampled_posterior(params, x, KEY, k=500, n=2000)
    exact = params.model.with_exact_posterior(params).recognition[0]
    mean, scale = exact["weight"][None] * x, jnp.exp(exact["log_scale"])[None]
    assert z.shape == (2000, 2, 3)
    assert (np.abs(z.mean(axis=0) - mean) < 5 * scale / np.sqrt(2000) + 0.005).all()
    np.testing.assert_allclose(z.std(axis=0) / scale, 1.0, atol=5 / np.sqrt(4000) + 0.01)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_removed_unit_reaches_nothing(layers):
    """The weights of the smaller model that never had the units; and its own do not matter."""
    sizes, kept = (5, 4, 3)[:layers], (3, 2, 1)[:layers]
    hidden = ((6,), (), (5,))[:layers]
    params = iwae_jax.init(
        jax.random.key(0), iwae_jax.ModelConfig((7,), sizes, hidden, likelihood="bernoulli")
    )
    keep = tuple(np.arange(size) < n for size, n in zip(sizes, kept, strict=True))
    pruned = latents.without_units(params, keep, zeros(params))
    changed = latents.without_units(
        jax.tree.map(lambda leaf: leaf, pruned), keep, zeros(params)
    )  # removing again changes nothing
    jax.tree.map(np.testing.assert_array_equal, pruned, changed)
    # What a removed unit is set to in z moves neither p(x | z) nor the weight.
    x, model = binary(7)[0, :7].astype(jnp.float32), params.model
    z, _ = model.sample_posterior(pruned, x, KEY)
    moved = tuple(jnp.where(jnp.asarray(m), u, u + 3.0) for u, m in zip(z, keep, strict=True))

    def log_w(z):
        log_q = model.log_posterior(pruned, x, z)
        return model.log_joint(pruned, x, z) - log_q

    assert float(log_w(moved)) == pytest.approx(float(log_w(z)), abs=1e-4)
    smaller = iwae_jax.ModelConfig((7,), kept, hidden)
    blocks = jax.eval_shape(lambda: iwae_jax.init(KEY, smaller))
    generative, recognition = jax.tree.map(
        lambda leaf, like: leaf[tuple(slice(size) for size in like.shape)],
        (pruned.generative, pruned.recognition),
        (blocks.generative, blocks.recognition),
    )
    cut = iwae_jax.Params(generative, recognition, smaller)
    z_cut = tuple(u[:size] for u, size in zip(z, kept, strict=True))
    log_q = smaller.log_posterior(cut, x, z_cut)
    expected = smaller.log_joint(cut, x, z_cut) - log_q
    assert float(log_w(z)) == pytest.approx(float(expected), abs=1e-4)
    assert abs(float(expected)) > 1


@pytest.mark.parametrize("hidden", [(6,), ()])
def test_inactive_units_with_a_mean_are_removed_at_no_cost(hidden):
    """A unit of z[0] that is 2.5 whatever x and z[1]: in the model, in q, and for all that reads it."""
    config, x = iwae_jax.ModelConfig((11,), (3, 2), (hidden, hidden)), binary(6)
    params = jax.tree.map(lambda leaf: 0.3 * leaf, iwae_jax.init(KEY, config))

    def fixed(network):
        heads = {"mean": 2.5, "log_scale": -7.0}
        changed = {
            head: {
                "kernel": network["params"][head]["kernel"].at[:, 1].set(0.0),
                "bias": network["params"][head]["bias"].at[1].set(value),
            }
            for head, value in heads.items()
        }
        return {"params": network["params"] | changed}

    prior = (fixed(params.generative["prior"][0]), *params.generative["prior"][1:])
    recognition = (fixed(params.recognition[0]), *params.recognition[1:])
    params = iwae_jax.Params(params.generative | {"prior": prior}, recognition, params.model)
    means = iwae_jax.active_units(params, x, KEY).means
    assert float(means[0][1]) == pytest.approx(2.5, abs=1e-4)
    keep = (np.arange(3) != 1, np.ones(2, bool))
    whole = iwae_jax.log_weights(params, x, KEY, 4)
    pruned = latents.without_units(params, keep, means)
    # The unit's scale is 0.001, and so is, for a few readers, what its noise adds.
    np.testing.assert_allclose(iwae_jax.log_weights(pruned, x, KEY, 4), whole, atol=0.01)
    at_zero = latents.without_units(params, keep, zeros(params))
    error = np.abs(iwae_jax.log_weights(at_zero, x, KEY, 4) - whole)
    assert error.mean() > 0.1


def test_bad_input():
    params = small(1)
    with pytest.raises(ValueError, match="at least 2 data, got 1"):
        iwae_jax.active_units(params, binary(1), KEY)
    with pytest.raises(ValueError, match="Expected samples to be at least 2"):
        iwae_jax.active_units(params, binary(3), KEY, samples=1)
    for function in (latents.unit_divergences, latents.elbo_surgery):
        with pytest.raises(ValueError, match="at least one datum"):
            function(params, binary(0), KEY)
        with pytest.raises(ValueError, match="Discrete lacks"):
            function(iwae_jax.init(KEY, Discrete()), jnp.zeros((2, 2)), KEY)
    with pytest.raises(ValueError, match="Expected n to be a positive int"):
        latents.resampled_posterior(params, binary(2), KEY, 3, 0)
    with pytest.raises(ValueError, match="Expected keep to be bool of shapes"):
        latents.without_units(params, (np.ones(3),), zeros(params))
    with pytest.raises(ValueError, match="Expected means of shapes"):
        latents.without_units(params, (np.ones(3, bool),), (np.ones(2),))
    for function in (latents.unit_divergences, latents.elbo_surgery):
        with pytest.raises(ValueError, match=r"Expected params to be iwae_jax\.Params"):
            function({}, binary(2), KEY)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="to be a ModelConfig of .*, got LinearGaussian"):
        latents.without_units(linear(1), (np.ones(3, bool),), (np.zeros(3),))
