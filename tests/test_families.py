"""Families of a layer, priors and likelihoods: against SciPy, sums and integrals, and exact likelihoods."""

import dataclasses
import itertools
import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from scipy import integrate
from scipy import stats as scipy_stats

import iwae_jax
from iwae_jax import models
from iwae_jax.models import families
from iwae_jax.models.naming import by_name

stats: Any = scipy_stats  # whose stubs do not know frozen distributions
KEY = jax.random.key(0)
SIZE = 3


def outputs_of(family, size: Any = SIZE, key=KEY, scale=0.7):
    """Raw outputs of a network, drawn at random."""
    heads = family.heads(size)
    keys = jax.random.split(key, len(heads))
    return {
        name: scale * jax.random.normal(each, shape)
        for each, (name, shape) in zip(keys, heads, strict=True)
    }


def drawn(family, count, size=SIZE, outputs=None):
    """Draws and their log-probabilities, the family's own parameters, and the outputs."""
    own = family.init(jax.random.key(3), size)
    outputs = outputs_of(family, size) if outputs is None else outputs
    one = partial(family.sample_and_log_prob, own, outputs)
    z, log_q = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(4), count))
    return np.asarray(z), np.asarray(log_q, np.float64), own, outputs


def reference(family, outputs):
    """The density of SciPy for outputs, as a function of z."""
    found = {name: np.asarray(value, np.float64) for name, value in outputs.items()}
    if isinstance(family, families.FullNormal):
        lower = np.zeros((SIZE, SIZE))
        lower[np.tril_indices(SIZE, -1)] = found["lower"]
        factor = lower + np.diag(np.exp(found["log_scale"]))
        return stats.multivariate_normal(found["mean"], factor @ factor.T).logpdf
    if isinstance(family, families.LowRankNormal):
        covariance = np.diag(np.exp(2 * found["log_scale"]))
        covariance += found["columns"] @ found["columns"].T
        return stats.multivariate_normal(found["mean"], covariance).logpdf
    if isinstance(family, families.StudentT):
        shape = np.diag(np.exp(2 * found["log_scale"]))
        return stats.multivariate_t(found["mean"], shape, df=family.df).logpdf
    if isinstance(family, families.Concrete):
        t = family.temperature

        def concrete(z):
            # z = (logits + logistic) / t
            return stats.logistic(found["logits"] / t, 1 / t).logpdf(z).sum(axis=-1)

        return concrete
    if isinstance(family, families.BernoulliLatents):
        p = 1 / (1 + np.exp(-found["logits"]))
        return lambda z: stats.bernoulli(p).logpmf(z).sum(axis=-1)
    if isinstance(family, families.CategoricalLatents):
        p = np.exp(found["logits"]) / np.exp(found["logits"]).sum(axis=1, keepdims=True)
        return lambda z: np.log(p[np.arange(SIZE), z]).sum(axis=-1)
    assert isinstance(family, families.DiagonalNormal)
    normal = stats.norm(found["mean"], np.exp(found["log_scale"]))
    return lambda z: normal.logpdf(z).sum(axis=-1)


KNOWN = (
    families.DiagonalNormal(),
    families.FullNormal(),
    families.LowRankNormal(2),
    families.StudentT(3.0),
    families.Concrete(0.5),
    families.BernoulliLatents(),
    families.CategoricalLatents(4),
)


@pytest.mark.parametrize("family", KNOWN, ids=str)
def test_log_probabilities_are_those_of_scipy(family):
    z, log_q, own, outputs = drawn(family, 50)
    expected = reference(family, outputs)(z)
    # Sums of a few terms of size 1 to 10 in float32.
    np.testing.assert_allclose(log_q, expected, rtol=2e-5, atol=2e-5)
    given = jax.vmap(partial(family.log_prob, own, outputs))(jnp.asarray(z))
    np.testing.assert_allclose(given, expected, rtol=2e-4, atol=2e-4)


INVERTIBLE = (*KNOWN[:5], families.Coupling(3, 8), families.ConcreteCategorical(4, 0.7))


def test_a_relaxed_coin_is_a_relaxed_category_of_two():
    """z and the density are those of `Concrete`, whose log-odds are the difference of the logits."""
    family, coin = families.ConcreteCategorical(2, 0.6), families.Concrete(0.6)
    z, log_q, own, outputs = drawn(family, 50)
    odds = {"logits": outputs["logits"][:, 0] - outputs["logits"][:, 1]}
    expected = jax.vmap(partial(coin.log_prob, (), odds))(jnp.asarray(z))
    np.testing.assert_allclose(log_q, expected, rtol=2e-5, atol=2e-5)
    given = jax.vmap(partial(family.log_prob, own, outputs))(jnp.asarray(z))
    np.testing.assert_allclose(given, expected, rtol=2e-5, atol=2e-5)
    first = jax.vmap(family.features)(jnp.asarray(z)).reshape(50, SIZE, 2)[..., 0]
    of_coin = (1 + jax.vmap(coin.features)(jnp.asarray(z))) / 2  # 1 + tanh rounds at 1
    np.testing.assert_allclose(first, of_coin, rtol=1e-5, atol=2e-7)


def test_the_density_of_a_relaxed_category_integrates_to_one():
    family = families.ConcreteCategorical(3, 0.8)
    outputs = outputs_of(family, 1)

    grid = np.linspace(-40.0, 40.0, 801, dtype=np.float32)
    z = jnp.stack(jnp.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    log_density = jax.vmap(partial(family.log_prob, (), outputs))(z)
    assert np.exp(np.asarray(log_density, np.float64)).sum() * 0.1**2 == pytest.approx(
        1.0, abs=1e-4
    )


def test_relaxed_categories_are_drawn_in_proportion():
    """Whatever the temperature, the largest entry is that of the category (Maddison et al., prop. 1a)."""
    for temperature in (0.3, 2.0):
        family = families.ConcreteCategorical(4, temperature)
        z, _, _, outputs = drawn(family, 20_000)
        largest = np.asarray(jax.vmap(family.features)(jnp.asarray(z)))
        largest = largest.reshape(-1, SIZE, 4).argmax(axis=2)
        for unit in range(SIZE):
            p = np.asarray(jax.nn.softmax(outputs["logits"][unit]))
            share = np.bincount(largest[:, unit], minlength=4) / 20_000
            assert np.all(np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / 20_000))


@pytest.mark.parametrize("family", INVERTIBLE, ids=str)
def test_the_density_of_a_draw_is_that_at_a_given_z_gradient_included(family):
    """A derivative in the outputs through a draw is the total derivative of log q at that draw."""
    own = family.init(jax.random.key(3), SIZE)
    outputs = outputs_of(family)

    def through_the_draw(outputs):
        return family.sample_and_log_prob(own, outputs, KEY)[1]

    def at_the_draw(outputs):
        z, _ = family.sample_and_log_prob(own, outputs, KEY)
        return family.log_prob(own, outputs, z)

    a, b = jax.grad(through_the_draw)(outputs), jax.grad(at_the_draw)(outputs)
    np.testing.assert_allclose(through_the_draw(outputs), at_the_draw(outputs), rtol=1e-4)
    for name in outputs:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=2e-4)


FLOWS = (families.Planar(3), families.Coupling(2, 8), families.Autoregressive(2, 8))


@pytest.mark.parametrize("family", FLOWS, ids=str)
def test_a_flows_determinant_is_that_of_its_jacobian(family):
    own = jax.tree.map(lambda leaf: 20.0 * leaf, family.init(jax.random.key(3), SIZE))
    outputs = outputs_of(family, scale=1.5)
    base = {**outputs, "mean": jnp.zeros(SIZE), "log_scale": jnp.zeros(SIZE)}

    def moved(shift):
        """The draw whose normal number is that of KEY plus a shift."""
        return family.sample_and_log_prob(own, {**base, "mean": shift}, KEY)

    _, log_q = moved(jnp.zeros(SIZE))
    jacobian = np.asarray(jax.jacobian(lambda shift: moved(shift)[0])(jnp.zeros(SIZE)), np.float64)
    start, _ = families.DiagonalNormal().sample_and_log_prob((), base, KEY)
    expected = stats.norm.logpdf(start).sum() - np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(log_q, expected, rtol=1e-4)
    assert np.abs(jacobian - np.eye(SIZE)).max() > 0.1, "no flow to speak of"


def test_an_autoregressive_map_reads_the_latents_before_alone():
    family = families.Autoregressive(1, 8)
    own = jax.tree.map(lambda leaf: 20.0 * leaf, family.init(jax.random.key(3), SIZE))
    base = {**outputs_of(family), "log_scale": jnp.zeros(SIZE)}

    def moved(shift):
        return family.sample_and_log_prob(own, {**base, "mean": shift}, KEY)[0][::-1]

    jacobian = np.asarray(jax.jacobian(moved)(jnp.zeros(SIZE)))
    np.testing.assert_array_equal(np.triu(jacobian, 1), 0.0)
    assert np.abs(np.tril(jacobian, -1)).max() > 1e-3


def test_a_planar_map_stays_invertible():
    family = families.Planar(1)
    outputs = outputs_of(family, scale=5.0) | {
        "w": jnp.ones((1, SIZE)),
        "u": -9 * jnp.ones((1, SIZE)),
    }
    _, log_q, _, _ = drawn(family, 200, outputs=outputs)
    assert np.isfinite(log_q).all()
    # Where tanh is 0 the map scales by softplus(w u), 5e-11 here, along w.
    still = {"mean": jnp.zeros(SIZE), "log_scale": jnp.full(SIZE, -20.0), "b": jnp.zeros(1)}
    _, log_q, _, _ = drawn(family, 200, outputs=outputs | still)
    base = family_of_normal(still, 200)
    along = -9.0 * SIZE
    np.testing.assert_allclose(log_q - base, -math.log(math.log1p(math.exp(along))), rtol=1e-4)


def family_of_normal(outputs, count):
    """log q of the draws that a flow starts from."""
    return drawn(families.DiagonalNormal(), count, outputs=outputs)[1]


@pytest.mark.parametrize("family", [families.LowRankNormal(1), families.SemiImplicit(draws=0)])
def test_small_scales_cost_no_digits(family):
    """log q is that of the noise: float32 has steps of 8e-6 at the mean, 100, where the scale is 2e-6."""
    outputs = outputs_of(family) | {"log_scale": jnp.full(SIZE, -13.0)}
    outputs = outputs | {"mean": jnp.full(SIZE, 100.0)}
    if "columns" in outputs:
        outputs = outputs | {"columns": jnp.zeros((SIZE, 1))}
    _, log_q, _, _ = drawn(family, 4000, outputs=outputs)
    expected = SIZE * (13.0 - 0.5 * np.log(2 * np.pi * np.e))
    error = np.sqrt(SIZE / 2 / 4000)  # of the mean: log q has the variance of half a chi-square
    np.testing.assert_allclose(np.mean(log_q), expected, atol=4 * error)
    # Rounded draws have a variance of 8. Half a chi-square has an excess kurtosis of 12 / SIZE.
    error = SIZE / 2 * np.sqrt((2 + 12 / SIZE) / 4000)
    np.testing.assert_allclose(np.var(log_q), SIZE / 2, atol=4 * error)


@pytest.mark.parametrize("name", list(families.REAL))
def test_the_weights_of_every_posterior_have_the_mean_of_p(name):
    """E[p(z) p(x | z) / q] = p(x): against a one-dimensional integral, for a weight of bounded variance."""
    family = by_name("posterior", name, families.REAL)
    outputs = outputs_of(family, 1)
    # Wider than p, so that weights are bounded; the heads of a mixture are [C, 1].
    outputs = {
        **outputs,
        "log_scale": 0.5 + 0.1 * outputs["log_scale"],
        "mean": 0.3 * outputs["mean"],
    }
    z, log_q, _, _ = drawn(family, 200_000, 1, outputs)
    # The target: an unnormalised N(0.4, 0.6^2) of mass 3.
    log_w = math.log(3.0) + stats.norm(0.4, 0.6).logpdf(z[:, 0]) - log_q
    weights = np.exp(log_w)
    error = weights.std() / math.sqrt(len(weights))
    assert abs(weights.mean() - 3.0) < 4 * error
    assert error < 0.02


@pytest.mark.parametrize("name", ["full_normal", "low_rank:rank=2"])
def test_no_batch_is_solved_by_lapack(name):
    """On a CPU with two cores jaxlib 0.10.2 can wait for ever for a batch. Gradients solve too."""
    family = by_name("posterior", name, families.REAL)
    outputs = outputs_of(family)

    def total(outputs, z):
        return jnp.sum(jax.vmap(lambda z: family.log_prob((), outputs, z))(z))

    batch = jax.vmap(jax.grad(total, argnums=(0, 1)), in_axes=(None, 0))
    text = jax.jit(batch).lower(outputs, jnp.ones((5, 4, SIZE))).as_text()
    assert "while" in text and "lapack" not in text


@pytest.mark.parametrize("name", ["full_normal", "low_rank:rank=2"])
def test_a_correlated_density_has_the_derivatives_of_jaxs(name):
    """The first and the second, of one datum, in the outputs and in z."""
    family = by_name("posterior", name, families.REAL)
    outputs = jax.tree.map(lambda a: 0.4 * a, outputs_of(family))
    z = jnp.linspace(-1.0, 2.0, SIZE)

    def reference(outputs, z):
        scales = jnp.diag(jnp.exp(outputs["log_scale"]))
        if "columns" in outputs:
            covariance = scales**2 + outputs["columns"] @ outputs["columns"].T
        else:
            factor = scales.at[jnp.tril_indices(SIZE, -1)].set(outputs["lower"])
            covariance = factor @ factor.T
        return jax.scipy.stats.multivariate_normal.logpdf(z, outputs["mean"], covariance)

    def derivatives(function):
        slope = jax.grad(function, (0, 1))
        along = jax.tree.map(jnp.cos, (outputs, z))
        return jax.tree.leaves(jax.jvp(slope, (outputs, z), along))

    found = derivatives(lambda outputs, z: family.log_prob((), outputs, z))
    for a, b in zip(found, derivatives(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * float(jnp.abs(b).max()))


def test_a_draw_of_a_mixture_is_from_the_mixture():
    """Components by their probabilities, unlike the strata of importance samples; log q is that of z."""
    family = families.Mixture(components=3)
    shares = np.array([0.7, 0.25, 0.05])
    outputs = {
        "logits": jnp.log(jnp.asarray(shares)) + 3.0,
        "mean": jnp.array([[-20.0], [0.0], [20.0]]),
        "log_scale": jnp.array([[0.0], [0.5], [-0.5]]),
    }
    z, log_q, _, _ = drawn(family, 20_000, 1, outputs)
    component = np.round(z[:, 0] / 20.0) + 1
    counts = np.array([(component == c).mean() for c in range(3)])
    assert (np.abs(counts - shares) < 4 * np.sqrt(shares * (1 - shares) / len(z))).all()
    density = sum(
        share * stats.norm(mean, math.exp(log_scale)).pdf(z[:, 0])
        for share, (mean,), (log_scale,) in zip(
            shares, outputs["mean"], outputs["log_scale"], strict=True
        )
    )
    np.testing.assert_allclose(log_q, np.log(density), atol=2e-5)


def test_the_weights_of_strata_have_the_mean_of_p():
    """Each component as often, though one has a share of 0.7: E[p / q] stays the mass of p."""
    family = families.Mixture(components=3)
    outputs = {
        "logits": jnp.log(jnp.array([0.7, 0.25, 0.05])),
        "mean": jnp.array([[0.2], [1.0], [-1.5]]),
        "log_scale": jnp.array([[0.3], [0.5], [0.4]]),
    }
    keys = jax.random.split(KEY, 30_000)
    draw = partial(family.from_stratum, (), outputs)
    z, log_q = jax.jit(jax.vmap(draw))(keys, jnp.arange(len(keys)) % 3)
    log_w = math.log(3.0) + stats.norm(0.4, 0.6).logpdf(np.asarray(z)[:, 0]) - np.asarray(log_q)
    means, errors = zip(
        *((w.mean(), w.std() / math.sqrt(len(w))) for w in np.exp(log_w).reshape(-1, 3).T),
        strict=True,
    )
    error = math.sqrt(sum(e**2 for e in errors)) / 3
    assert abs(np.mean(means) - 3.0) < 4 * error and error < 0.03


def test_strata_are_drawn_in_turn():
    """Of 4 components, samples i and i + 4 of a datum come from the same; any four from all."""
    config = iwae_jax.ModelConfig((6,), (1,), ((4,),), posterior="mixture:components=4")
    params = iwae_jax.init(KEY, config)
    # Components far apart, each narrow: z tells the component.
    network = dict(params.recognition[0]["params"])
    network["mean"] = {"kernel": 0 * network["mean"]["kernel"], "bias": 10.0 * jnp.arange(4.0)}
    network["log_scale"] = {"kernel": 0 * network["log_scale"]["kernel"], "bias": -3 * jnp.ones(4)}
    params = iwae_jax.Params(params.generative, ({"params": network},), config)
    keys = iwae_jax.datum_keys(KEY, 20)
    from iwae_jax.importance import draw_sample

    def one(key, sample):
        return draw_sample(params, jnp.zeros(6), key, sample)[0][0][0]

    z = jax.vmap(lambda key: jax.vmap(partial(one, key))(jnp.arange(12)))(keys)
    component = np.round(np.asarray(z) / 10).astype(int)
    np.testing.assert_array_equal(component[:, :4], component[:, 4:8])
    np.testing.assert_array_equal(
        np.sort(component[:, 1:5], axis=1), np.tile(np.arange(4), (20, 1))
    )
    assert len(set(component[:, 0])) == 4  # the first component differs between data


def test_stratified_samples_have_less_variance():
    """Of a two-component target, by the components' shares alone."""
    config = iwae_jax.ModelConfig((6,), (2,), ((4,),), posterior="mixture:components=2")
    params = iwae_jax.init(KEY, config)
    network = dict(params.recognition[0]["params"])
    mean = jnp.array([[-2.0, 0.0], [2.0, 0.0]]).reshape(-1)
    network["mean"] = {"kernel": 0 * network["mean"]["kernel"], "bias": mean}
    params = iwae_jax.Params(params.generative, ({"params": network},), config)
    x = jnp.zeros((4000, 6))
    log_w = iwae_jax.log_weights(params, x, KEY, 2)
    even = jax.nn.logsumexp(log_w, axis=0)
    other = iwae_jax.log_weights(params, x, jax.random.key(1), 2)
    # Two samples of two data have strata that do not depend on one another.
    mixed = jnp.logaddexp(log_w[0], other[0])
    assert float(jnp.var(even)) < float(jnp.var(mixed))


@pytest.mark.parametrize("draws", [0, 1, 10])
def test_the_semi_implicit_likelihood_is_that_of_the_model(draws):
    """L_k rises with k to the exact log p(x) of a linear-Gaussian model, for every J."""
    family = families.SemiImplicit(draws=draws, noise=2, context=1)
    own = family.init(jax.random.key(1), 1)
    # x = z + noise of scale 1/2, z ~ N(0, 1): p(x) = N(0, 1.25).
    x, scale = 0.8, 0.5
    outputs = {
        "mean": jnp.array([0.3]), "log_scale": jnp.array([math.log(0.6)]), "context": jnp.ones(1),
    }  # fmt: skip
    z, log_h, _, _ = drawn(family, 400_000, 1, outputs)
    log_p = stats.norm.logpdf(z[:, 0]) + stats.norm(z[:, 0], scale).logpdf(x)
    weights = np.exp(log_p - log_h)
    exact = stats.norm(0, math.sqrt(1 + scale**2)).logpdf(x)
    error = weights.std() / math.sqrt(len(weights)) / weights.mean()
    assert abs(np.log(weights.mean()) - exact) < 3 * error
    assert error < 0.01
    bounds = [np.log(weights.reshape(-1, k).mean(axis=1)).mean() for k in (1, 5, 50)]
    assert bounds[0] < bounds[1] < bounds[2] < exact + 3 * error
    assert own  # a network of psi


def test_more_draws_tighten_the_semi_implicit_bound():
    family = [families.SemiImplicit(draws=draws, noise=2, context=1) for draws in (0, 1, 10)]
    outputs = {
        "mean": jnp.array([0.3]), "log_scale": jnp.array([math.log(0.3)]), "context": jnp.ones(1),
    }  # fmt: skip
    bounds = []
    for each in family:
        z, log_h, _, _ = drawn(each, 100_000, 1, outputs)
        log_w = stats.norm.logpdf(z[:, 0]) + stats.norm(z[:, 0], 0.5).logpdf(0.8) - log_h
        bounds.append((log_w.mean(), log_w.std() / math.sqrt(len(log_w))))
    for (low, error_low), (high, error_high) in itertools.pairwise(bounds):
        assert high - low > 3 * math.hypot(error_low, error_high)


LEVELS = [
    models.DiscretisedLogistic(5),
    models.DiscretisedLogistic(256),
    models.Categorical(7),
]


@pytest.mark.parametrize("likelihood", LEVELS, ids=str)
def test_the_probabilities_of_all_levels_add_up_to_one(likelihood):
    for scale in (0.1, 1.0, 3.0):
        outputs = outputs_of(likelihood, (), scale=scale)
        x = jnp.linspace(0, 1, likelihood.levels)
        log_p = np.asarray(jax.vmap(partial(likelihood.log_prob, outputs))(x), np.float64)
        np.testing.assert_allclose(np.exp(log_p).sum(), 1.0, rtol=1e-5)
        mean = likelihood.mean(outputs)
        np.testing.assert_allclose(mean, np.exp(log_p) @ np.asarray(x), rtol=1e-4, atol=1e-5)


def test_far_cells_of_a_logistic_keep_their_digits():
    likelihood = models.DiscretisedLogistic(256)
    outputs = {"mean": jnp.array(0.0), "log_scale": jnp.array(-1.0)}
    x, scale, half = 200 / 255, math.exp(-3.0), 0.5 / 255
    low, high = (x - half) / scale, (x + half) / scale
    expected = np.log(stats.logistic.sf(low) - stats.logistic.sf(high))
    np.testing.assert_allclose(likelihood.log_prob(outputs, jnp.array(x)), expected, rtol=1e-5)
    assert np.isfinite(jax.grad(lambda o: likelihood.log_prob(o, jnp.array(x)))(outputs)["mean"])


@pytest.mark.parametrize("logit", [-60.0, -3.0, -0.2, -0.05, 0.0, 1e-3, 0.0999, 0.1001, 2.0, 60.0])
def test_the_continuous_bernoulli_is_a_density(logit):
    likelihood, outputs = models.ContinuousBernoulli(), {"logits": jnp.array(logit)}

    def density(x):
        return math.exp(float(likelihood.log_prob(outputs, jnp.array(x))))

    # Most of it is near an end.
    points = [0.05, 0.5, 0.95]
    total, _ = integrate.quad(density, 0, 1, points=points, epsrel=1e-7)
    np.testing.assert_allclose(total, 1.0, rtol=2e-5)
    mean, _ = integrate.quad(lambda x: x * density(x), 0, 1, points=points, epsrel=1e-7)
    np.testing.assert_allclose(likelihood.mean(outputs), mean, rtol=2e-4)
    if 0.02 < mean < 0.98:
        np.testing.assert_allclose(likelihood.first_bias(np.array(mean)), logit, atol=1e-3)
    slope = jax.grad(lambda o: likelihood.log_prob(o, jnp.array(0.3)))(outputs)["logits"]
    np.testing.assert_allclose(slope, 0.3 - mean, atol=2e-4)  # an exponential family


EVERY = ["continuous_bernoulli", "discretised_logistic:levels=9", "categorical:levels=9",
         "normal", "normal:scale=0.3", "normal:scale=shared"]  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_draws_have_the_mean_of_their_likelihood(name):
    likelihood = by_name("likelihood", name, models.LIKELIHOODS, None)
    outputs = outputs_of(likelihood, (4,))
    if hasattr(likelihood, "parameters"):
        outputs |= {name: value - 0.5 for name, value in likelihood.parameters((4,)).items()}
    keys = jax.random.split(KEY, 20_000)
    x = np.asarray(jax.vmap(partial(likelihood.sample, outputs))(keys), np.float64)
    error = x.std(axis=0) / math.sqrt(len(x))
    mean = np.asarray(likelihood.mean(outputs))
    # A level that is hardly ever drawn gives no error: its share is below one draw.
    assert (np.abs(x.mean(axis=0) - mean) < 4.5 * error + 1e-4).all()


def test_a_shared_scale_is_that_of_a_normal_density():
    likelihood = models.Normal(scale="shared")
    mean, x = np.array([0.3, -1.0, 2.0]), np.array([0.1, 0.5, 4.0])
    outputs = {"mean": jnp.asarray(mean), "shared_log_scale": jnp.log(jnp.asarray(0.7))}
    expected = scipy_stats.norm.logpdf(x, mean, 0.7).sum()
    np.testing.assert_allclose(likelihood.log_prob(outputs, jnp.asarray(x)), expected, rtol=1e-5)


def test_a_shared_scale_is_trained_and_is_one_number():
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),), likelihood="normal:scale=shared")
    params = iwae_jax.init(KEY, config)
    x = 0.1 * jax.random.normal(KEY, (8, 4))
    slope = jax.grad(lambda p: iwae_jax.bound(p, x, KEY, 3).sum())(params)
    found = slope.generative["likelihood"]["own"]["shared_log_scale"]
    assert found.shape == () and float(found) < 0  # data are less spread than N(., 1)


PRIORS = ["standard", "learned", "mixture:components=3", "vamp:inputs=4"]


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_is_a_density_of_its_draws(name):
    """In one dimension: the integral is 1, and draws have the mean of the density."""
    config = iwae_jax.ModelConfig((4,), (1,), ((3,),), prior=name)
    params = iwae_jax.init(KEY, config)
    params = jax.tree.map(lambda leaf: leaf + 0.3, params)  # no longer at its start
    prior = config.parts.prior
    grid = jnp.linspace(-15, 15, 6001)
    log_p = jax.vmap(lambda z: prior.log_prob(params, (z[None],)))(grid)
    density = np.exp(np.asarray(log_p, np.float64))
    step = 30 / 6000
    np.testing.assert_allclose(density.sum() * step, 1.0, rtol=1e-4)
    z = jax.vmap(lambda key: prior.sample(params, key)[0][0])(jax.random.split(KEY, 40_000))
    mean = (density @ np.asarray(grid)) * step
    assert abs(float(z.mean()) - mean) < 4 * float(z.std()) / math.sqrt(len(z))


def test_a_vamp_prior_is_the_mean_of_posteriors_at_its_inputs():
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),), prior="vamp:inputs=3")
    params = iwae_jax.init(KEY, config)
    prior: Any = config.parts.prior
    z = (jnp.array([0.3, -0.2]),)
    inputs = prior.pseudo_inputs(params)
    assert inputs.shape == (3, 4) and inputs.min() >= 0 and inputs.max() <= 1
    each = [float(config.log_posterior(params, u, z)) for u in inputs]
    expected = np.log(np.mean(np.exp(each)))
    np.testing.assert_allclose(prior.log_prob(params, z), expected, rtol=1e-5)
    for low, high in ((0.0, math.inf), (-math.inf, 2.0), (-math.inf, math.inf)):
        inputs = dataclasses.replace(prior, data_range=(low, high)).pseudo_inputs(params)
        assert low < inputs.min() < inputs.max() < high and len(np.unique(inputs)) == 12


@pytest.mark.parametrize("latents", ["bernoulli", "categorical:classes=3"])
def test_a_learned_prior_of_discrete_latents(latents):
    """Probabilities of SciPy, draws in their proportion, a start at equal ones, and a gradient."""
    config = iwae_jax.ModelConfig((4,), (1,), ((3,),), latents=latents, prior="learned")
    params, prior = iwae_jax.init(KEY, config), config.parts.prior
    values = jax.vmap(config.latent_value)(jnp.arange(config.number_of_latent_values))
    log_p = jax.vmap(lambda *z: prior.log_prob(params, z))(*values)
    np.testing.assert_allclose(log_p, -np.log(len(log_p)), rtol=1e-6)
    x = jnp.array([1.0, 0.0, 1.0, 1.0])
    slope = jax.grad(iwae_jax.bound)(params, x, KEY, 5, gradient="vimco").generative["prior"]
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(slope))
    own = jax.tree.map(lambda leaf: leaf + 0.5 + jnp.arange(1.0 * leaf.size).reshape(leaf.shape),
                       params.generative["prior"])  # fmt: skip
    params = replace(params, generative={**params.generative, "prior": own})
    p = np.exp(np.asarray(jax.vmap(lambda *z: prior.log_prob(params, z))(*values), np.float64))
    logits = np.asarray(own[-1]["logits"], np.float64).ravel()
    expected = scipy.special.softmax(logits if len(logits) > 1 else [0.0, logits[0]])
    np.testing.assert_allclose(p, expected, rtol=1e-5)
    z = jax.vmap(lambda key: prior.sample(params, key)[0][0])(jax.random.split(KEY, 20_000))
    share = np.bincount(np.asarray(z), minlength=len(p)) / len(z)
    assert np.all(np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / len(z)))


@pytest.mark.parametrize("prior", ["standard", "learned"])
@pytest.mark.parametrize("latents", ["bernoulli", "categorical:classes=3"])
def test_discrete_layers_add_up(latents, prior):
    """Priors and posteriors of two discrete layers: all values of z have probability 1 in sum."""
    config = iwae_jax.ModelConfig((4,), (3, 2), ((3,), (3,)), latents=latents, prior=prior)
    params = iwae_jax.init(KEY, config)
    moved = jax.tree.map(lambda leaf: leaf + 0.3 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape),
                         params.generative["prior"])  # fmt: skip
    params = replace(params, generative={**params.generative, "prior": moved})
    count = config.number_of_latent_values
    assert count == (2 if latents == "bernoulli" else 3) ** 5
    z = jax.vmap(config.latent_value)(jnp.arange(count))
    assert len({(*map(int, a), *map(int, b)) for a, b in zip(*z, strict=True)}) == count
    x = jnp.array([1.0, 0.0, 0.0, 1.0])
    for log_p in (
        jax.vmap(lambda *z: config.parts.prior.log_prob(params, z))(*z),
        jax.vmap(lambda *z: config.log_posterior(params, x, z))(*z),
    ):
        np.testing.assert_allclose(np.exp(np.asarray(log_p, np.float64)).sum(), 1.0, rtol=1e-5)
    # The likelihood by importance sampling is the exact sum.
    log_joint = jax.vmap(lambda *z: config.log_joint(params, x, z))(*z)
    exact = float(jax.nn.logsumexp(log_joint))
    found = iwae_jax.evaluation.exact_log_likelihood(params, jnp.stack([x, 1 - x]))
    np.testing.assert_allclose(found[0], exact, rtol=1e-5)
    log_w = np.asarray(iwae_jax.log_weights(params, x, KEY, 20_000), np.float64)
    weights = np.exp(log_w - exact)
    assert abs(weights.mean() - 1.0) < 4 * weights.std() / math.sqrt(len(weights))


def test_more_values_than_a_chunk_are_all_summed_and_differentiated():
    config = iwae_jax.ModelConfig((4,), (9,), ((3,),), latents="bernoulli")  # 512 values
    params, x = iwae_jax.init(KEY, config), jnp.array([1.0, 0.0, 0.0, 1.0])

    def plain(params):
        z = jax.vmap(config.latent_value)(jnp.arange(512))
        return jax.nn.logsumexp(jax.vmap(lambda *z: config.log_joint(params, x, z))(*z))

    def summed(params):
        return iwae_jax.evaluation.exact_log_likelihood(params, x)

    np.testing.assert_allclose(summed(params), plain(params), rtol=1e-6)
    a, b = jax.grad(summed)(params), jax.grad(plain)(params)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="at most 100 values of z, got 512"):
        iwae_jax.evaluation.exact_log_likelihood(params, x, most=100)
    real = iwae_jax.init(KEY, iwae_jax.ModelConfig((4,), (2,), ((3,),)))
    with pytest.raises(ValueError, match="number_of_latent_values"):
        iwae_jax.evaluation.exact_log_likelihood(real, x)


def test_what_can_not_train_discrete_latents_is_refused_before_training():
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),), latents="bernoulli")
    recipe = iwae_jax.training.Recipe(passes=2, gradient="vimco")
    recipe.check("iwae", 2, config)
    for change, what in (({"gradient": "dreg"}, "gradient 'dreg'"), ({"mmd": 2.0}, "mmd = 2")):
        with pytest.raises(ValueError, match=f"latents of floats for .*{what}, got .*'bernoulli'"):
            replace(recipe, **change).check("iwae", 2, config)
    params = iwae_jax.init(KEY, config)
    state = iwae_jax.TrainState.create(params, recipe.optimizer(1))
    penalty = iwae_jax.training.MMD(1.0)
    with pytest.raises(ValueError, match=r"of floats for penalty MMD\(.*got 'bernoulli'"):
        iwae_jax.train_step(state, jnp.zeros((3, 4)), KEY, 2, gradient="vimco", penalty=penalty)


@pytest.mark.parametrize("likelihood", ["categorical", "discretised_logistic"])
def test_data_of_other_levels_are_refused(likelihood):
    """They would be rounded to the levels without a word."""
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),), likelihood=f"{likelihood}:levels=17")
    params = iwae_jax.init(KEY, config)
    own = np.arange(12).reshape(3, 4) / 16
    for kind in (np.float16, np.float32, np.float64):
        assert np.isfinite(iwae_jax.log_weights(params, own.astype(kind), KEY, 2)).all()
    missing = replace(config, missing=True)
    holes = np.where(own == 0.5, np.nan, own)
    assert np.isfinite(iwae_jax.log_weights(iwae_jax.init(KEY, missing), holes, KEY, 2)).all()
    message = r"to be levels, i / 16 with i from 0 to 16, got 0\.2"
    with pytest.raises(ValueError, match=f"x {message}"):
        iwae_jax.log_weights(params, np.where(own == 0.25, 51 / 255, own), KEY, 2)
    state = iwae_jax.TrainState.create(params, optax.sgd(0.1))
    for images, maximum in (
        (np.where(own == 0.25, 0.2, own), None),
        (np.full((3, 4), 51, np.uint8), 255),
    ):
        with pytest.raises(ValueError, match=f"images {message}"):
            iwae_jax.train_epoch(state, images, KEY, 2, binarization="none", maximum=maximum)
    levels = (own * 16).astype(np.uint8)
    iwae_jax.train_epoch(state, levels, KEY, 2, binarization="none", maximum=16)


@pytest.mark.parametrize(
    "likelihood", ["bernoulli", "continuous_bernoulli", "discretised_logistic", "normal:link=logit"]
)
def test_the_mean_of_raw_intensities_is_refused(likelihood):
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),), likelihood=likelihood)
    with pytest.raises(ValueError, match=r"Expected data_mean in \[0, 1\], got values from 33"):
        iwae_jax.init(KEY, config, data_mean=np.full(4, 33.0))


def test_a_penalty_of_stratified_samples_is_refused():
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),), posterior="mixture")
    recipe = iwae_jax.training.Recipe(passes=2, gradient="reparam", mmd=2.0)
    with pytest.raises(ValueError, match=r"penalty of mmd = 2, got posterior 'mixture'"):
        recipe.check("iwae", 2, config)
    state = iwae_jax.TrainState.create(iwae_jax.init(KEY, config), recipe.optimizer(1))
    with pytest.raises(ValueError, match=r"for penalty MMD\(.*got stratified samples"):
        iwae_jax.train_step(state, jnp.zeros((3, 4)), KEY, 2, penalty=iwae_jax.training.MMD(1.0))


def test_what_a_part_does_not_allow_is_refused_by_name():
    for posterior in ("planar", "autoregressive", "mixture", "semi_implicit"):
        params = iwae_jax.init(KEY, iwae_jax.ModelConfig((4,), (2,), ((3,),), posterior=posterior))
        with pytest.raises(ValueError, match="at a given z for gradient 'dreg'"):
            iwae_jax.bound(params, jnp.zeros(4), KEY, 2, gradient="dreg")
        objective = iwae_jax.objectives.ELBO(analytic_kl=True)
        with pytest.raises(
            ValueError, match=rf"for ELBO\(.*posterior '{posterior}' lacks analytic_kl"
        ):
            iwae_jax.bound(params, jnp.zeros(4), KEY, 2, objective=objective)
    discrete = iwae_jax.init(KEY, iwae_jax.ModelConfig((4,), (2,), ((3,),), latents="bernoulli"))
    with pytest.raises(ValueError, match="of floats for gradient 'dreg', got 'bernoulli'"):
        jax.grad(lambda p: iwae_jax.bound(p, jnp.zeros(4), KEY, 2, gradient="dreg"))(discrete)
    with pytest.raises(
        ValueError, match=r"continuous for annealing, got discrete ones: 'bernoulli'"
    ):
        iwae_jax.annealing.annealed_log_weights(discrete, jnp.zeros((1, 4)), KEY, 2, steps=2)
