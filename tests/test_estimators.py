"""Gradient estimators beside each other, on models whose answers are known."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iwae_jax
from iwae_jax import gradients
from iwae_jax.gradients import NAMES, ByRoute, resampled
from iwae_jax.gradients.estimator import coefficients_of
from iwae_jax.importance import counted_log_weights
from iwae_jax.objectives import CIWAE, CUBO, ELBO, IWAE, MIWAE, PIWAE, SUMO, TVO, Jackknife, Renyi
from tests.oracles import Discrete, LearntPrior, LinearGaussian, Tally
from tests.test_gradients import linear, points
from tests.test_importance import KEY, binary, small


@dataclass(frozen=True)
class HomeMade:
    """An objective made up here: nothing in the library knows it."""

    def __call__(self, log_w):
        return jnp.tanh(jnp.mean(jnp.sin(log_w), axis=0)) + IWAE()(log_w)


SMOOTH = [
    ELBO(), IWAE(), Renyi(0.5), Renyi(-2.0), MIWAE(2), CIWAE(0.3), CUBO(2.0), TVO(3), Jackknife(2),
    HomeMade(),
]  # fmt: skip
POINT = jnp.array([0.7, -1.2, 0.4])
COUNT = 40_000


def flat(tree):
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


@functools.lru_cache(maxsize=8)
def draws(model, objective, gradient: Any = "reparam", k=6, count=None):
    """Gradients in theta and phi of one datum's bound, a row a key; the same keys for all."""
    count = count or (1000 if isinstance(objective, Jackknife) else COUNT)  # whose h takes long
    params = iwae_jax.init(jax.random.key(0), model)
    x = POINT if isinstance(model, LinearGaussian) else jnp.array([1.0, 0.0])

    def one(key):
        def value(params):
            return iwae_jax.bound(params, x, key, k, objective=objective, gradient=gradient)

        g = jax.grad(value)(params)
        return flat(g.generative), flat(g.recognition)

    keys = jax.random.split(KEY, count)
    rows = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=2000))(keys)
    return [np.asarray(row, np.float64) for row in rows]


def scores(rows, expected: Any = 0.0):
    """Of each component's mean, the distance to what is expected in standard errors."""
    error = rows.std(axis=0) / np.sqrt(len(rows))
    return (np.abs(rows.mean(axis=0) - expected) - 1e-6) / (error + 1e-12)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("objective", SMOOTH, ids=repr)
def test_dreg_is_unbiased_for_every_objective(layers, objective):
    """Paired with reparam on the same keys: each component within 4.5 standard errors."""
    model = LinearGaussian(layers=layers)
    theta, phi = draws(model, objective)
    theta_dreg, phi_dreg = draws(model, objective, "dreg")
    np.testing.assert_allclose(theta_dreg, theta, rtol=1e-3, atol=1e-3)  # the very same
    assert scores(phi_dreg - phi).max() < 4
    # It is another estimator, with less variance.
    assert phi_dreg.var(axis=0).sum() < 0.8 * phi.var(axis=0).sum()


def test_stl_is_unbiased_for_the_elbo_and_biased_for_the_iwae():
    for objective, biased in ((ELBO(), False), (IWAE(), True)):
        _, phi = draws(LinearGaussian(), objective)
        _, phi_stl = draws(LinearGaussian(), objective, "stl")
        assert (scores(phi_stl - phi).max() > 10) == biased


@pytest.mark.parametrize("model", [LinearGaussian(layers=2), LearntPrior()], ids=repr)
@pytest.mark.parametrize("objective", [IWAE(), CUBO(2.0), HomeMade()], ids=repr)
def test_gdreg_is_unbiased_for_the_priors_parameters(model, objective):
    theta, phi = draws(model, objective)
    theta_gdreg, phi_gdreg = draws(model, objective, "gdreg")
    assert scores(theta_gdreg - theta).max() < 4
    assert scores(phi_gdreg - phi).max() < 4
    # What is not a prior's is reparam's; the priors' gradients are others.
    other = np.abs(theta_gdreg - theta).max(axis=0) > 1e-2
    names = jax.tree.leaves_with_path(iwae_jax.init(KEY, model).generative)
    prior = np.repeat([path[0].idx == 1 for path, _ in names], 3)
    np.testing.assert_array_equal(other, prior)


def test_gdregs_exchange_holds_the_moments_and_the_other_layers_fixed():
    """One sample of three layers of one unit, with derivatives written out; c = 0.7, h = -0.4."""
    c, h, x, z = 0.7, -0.4, 0.5, np.array([0.9, -1.3, 0.6])
    weights, log_scales = np.array([0.8, -0.6, 1.1]), np.array([0.2, -0.3, 0.1])
    slopes, shifts, q_scales = [0.5, 0.7, -0.4], [0.1, -0.2, 0.3], [-0.2, 0.1, -0.5]
    one = lambda value: jnp.array([value], jnp.float32)  # noqa: E731
    p = [{"weight": one(w), "log_scale": one(s)} for w, s in zip(weights, log_scales, strict=True)]
    q = [
        {"weight": one(w), "bias": one(b), "log_scale": one(s)}
        for w, b, s in zip(slopes, shifts, q_scales, strict=True)
    ]
    model = LinearGaussian(size=1, layers=3)
    params = iwae_jax.Params(tuple(p), tuple(q), model)

    @jax.jit
    def exchanged(params):
        layers = tuple(jnp.full((1, 1, 1), value) for value in z.astype(np.float32))
        coefficients = gradients.Coefficients(jnp.full((1, 1), c), more=jnp.full((1, 1), h))
        return gradients.GDReG().per_sample(params, jnp.full((1, 1), x), layers)(coefficients)

    got = exchanged(params)
    # log p(below | above) and log q(above | below): each term's residual over its variance.
    below = np.array([x, *z[:-1]])
    p_variance, q_variance = np.exp(2 * log_scales), np.exp(2 * np.array(q_scales))
    from_p = (below - weights * z) / p_variance  # of x, z[0], z[1] given the layer above
    from_q = (z - np.array(slopes) * below - shifts) / q_variance
    d_log_q = -from_q + np.append(np.array(slopes)[1:] * from_q[1:], 0.0)
    own = np.append(
        -from_p[1:], -z[2]
    )  # d log p(z[l] | z[l+1]) / dz[l], z[2] being standard normal
    d_log_p = own + weights * from_p
    d_z = h * (d_log_p - d_log_q) + c * (d_log_q - own)
    for layer in (1, 2):  # p[layer] is the prior of z[layer - 1]
        residual = below[layer] - weights[layer] * z[layer]
        direct = -c * from_p[layer] * z[layer]
        expected = direct + d_z[layer - 1] * z[layer]
        np.testing.assert_allclose(got.generative[layer]["weight"], expected, rtol=1e-4)
        direct = -c * (residual * from_p[layer] - 1)
        expected = direct + d_z[layer - 1] * residual
        np.testing.assert_allclose(got.generative[layer]["log_scale"], expected, rtol=1e-4)
    assert not flat((got.generative[0], got.recognition)).any()


def test_gdreg_has_less_variance_for_the_prior_at_the_posterior():
    """There the weights are equal, and what is left is c dlog p(x | z) / dz through z."""
    model = LinearGaussian(layers=2)
    params = model.with_exact_posterior(iwae_jax.init(KEY, model))

    def gradient(name, key):
        return flat(
            jax.grad(lambda p: iwae_jax.bound(p, POINT, key, 50, gradient=name))(params).generative[
                1
            ]["weight"]
        )

    keys = jax.random.split(KEY, 2000)
    reparam, gdreg = (
        np.asarray(jax.vmap(functools.partial(gradient, name))(keys))
        for name in ("reparam", "gdreg")
    )
    assert scores(gdreg - reparam).max() < 4
    assert np.abs(gdreg - reparam).max() > 1e-2


@pytest.mark.parametrize("gradient", ["vimco", "score"])
@pytest.mark.parametrize("objective", [ELBO(), IWAE(), TVO(3), CUBO(2.0)], ids=repr)
def test_score_functions_are_unbiased_where_all_draws_can_be_enumerated(objective, gradient):
    model, k = Discrete(), 3
    params, x = iwae_jax.init(jax.random.key(0), model), jnp.array([1.0, 0.0])

    def exact(params):
        return model.over_draws(params, x, k, lambda log_w, _: objective(log_w))

    expected = jax.grad(exact)(params)
    theta, phi = draws(model, objective, gradient, k)
    assert scores(theta, np.asarray(flat(expected.generative))).max() < 4
    assert scores(phi, np.asarray(flat(expected.recognition))).max() < 4


@pytest.mark.parametrize("gradient", ["vimco", "score", "rws"])
@pytest.mark.parametrize(
    ("latents", "sizes"),
    [
        ("bernoulli", (2,)),
        ("categorical:classes=3", (1,)),
        (("bernoulli", "categorical:classes=2"), (1, 1)),
    ],
)
def test_discrete_layers_have_the_gradients_of_the_sum_over_all_draws(latents, sizes, gradient):
    """Of a `ModelConfig`, k = 2: that of E[log mean w]; phi's of rws is E[sum of v grad log q]."""
    config = iwae_jax.ModelConfig((2,), sizes, ((2,),) * len(sizes), latents=latents)
    params, x = iwae_jax.init(jax.random.key(0), config), jnp.array([1.0, 0.0])
    values = [config.latent_value(jnp.asarray(i)) for i in range(config.number_of_latent_values)]

    def logs(params):
        log_q = jnp.stack([config.log_posterior(params, x, z) for z in values])
        return jnp.stack([config.log_joint(params, x, z) for z in values]), log_q

    def exact(params):
        log_p, log_q = logs(params)
        log_w = log_p - log_q
        bound = jnp.logaddexp(log_w[:, None], log_w[None]) - np.log(2.0)
        return jnp.sum(jnp.exp(log_q[:, None] + log_q[None]) * bound)

    def wake(params):
        fixed, log_q = logs(jax.lax.stop_gradient(params)), logs(params)[1]
        log_w = fixed[0] - fixed[1]
        first = jax.nn.sigmoid(log_w[:, None] - log_w[None])
        each = first * log_q[:, None] + (1 - first) * log_q[None]
        return jnp.sum(jnp.exp(fixed[1][:, None] + fixed[1][None]) * each)

    expected = jax.grad(exact)(params)
    phis = jax.grad(wake if gradient == "rws" else exact)(params).recognition
    theta, phi = draws(config, IWAE(), gradient, 2)
    assert scores(theta, np.asarray(flat(expected.generative))).max() < 4
    assert scores(phi, np.asarray(flat(phis))).max() < 4


@pytest.mark.parametrize("gradient", ["vimco", "score"])
@pytest.mark.parametrize("layers", [1, 2])
def test_score_functions_agree_with_reparam_where_both_are_defined(layers, gradient):
    model = LinearGaussian(layers=layers)
    theta, phi = draws(model, IWAE())
    theta_score, phi_score = draws(model, IWAE(), gradient)
    np.testing.assert_allclose(theta_score, theta, rtol=1e-3, atol=1e-3)
    assert scores(phi_score - phi).max() < 4


def test_a_baseline_lowers_the_variance_of_the_score_function():
    """One sample has no others to lean on: with k = 1, "score" is the plain one."""
    model = Discrete()
    _, plain = draws(model, ELBO(), "score", 1)
    _, with_baseline = draws(model, ELBO(), "score", 2)
    assert with_baseline.var(axis=0).sum() < 0.4 * plain.var(axis=0).sum()


def test_wake_phases_are_what_they_say():
    """rws against the enumerated direction; its doubly reparameterised form against it."""
    model, k = Discrete(), 3
    params, x = iwae_jax.init(jax.random.key(0), model), jnp.array([1.0, 0.0])

    def direction(phi):
        def climbed(log_w, log_q):
            fixed = jax.nn.softmax(jax.lax.stop_gradient(log_w))
            return jnp.sum(fixed * log_q)

        drawn = jax.lax.stop_gradient(params)
        moving = iwae_jax.Params(params.generative, phi, model)
        # The draws' own probabilities are not differentiated.
        log_w, _ = model.all_log_w(drawn, x)
        log_q = model.table(moving.recognition, x)
        log_q_drawn = model.table(drawn.recognition, x)
        grid = np.stack(np.meshgrid(*[np.arange(3)] * k, indexing="ij"), -1).reshape(-1, k)
        each = jax.vmap(climbed)(log_w[grid], log_q[grid])
        return jnp.sum(jnp.exp(jnp.sum(log_q_drawn[grid], axis=1)) * each)

    expected = jax.grad(direction)(params.recognition)
    theta, phi = draws(model, IWAE(), "rws", k)
    assert scores(phi, np.asarray(flat(expected))).max() < 4
    iwae = jax.grad(lambda p: model.over_draws(p, x, k, lambda log_w, _: IWAE()(log_w)))(params)
    assert scores(theta, np.asarray(flat(iwae.generative))).max() < 4
    for layers in (1, 2):
        _, phi = draws(LinearGaussian(layers=layers), IWAE(), "rws")
        _, phi_dreg = draws(LinearGaussian(layers=layers), IWAE(), "rws_dreg")
        assert scores(phi_dreg - phi).max() < 4
        assert phi_dreg.var(axis=0).sum() < 0.8 * phi.var(axis=0).sum()


def test_the_sleep_phase_climbs_log_q_of_the_models_own_draws():
    model = Discrete()
    params = iwae_jax.init(jax.random.key(0), model)
    expected = jax.grad(model.dreamt)(params).recognition
    theta, phi = draws(model, IWAE(), "wake_sleep", 3)
    assert scores(phi, np.asarray(flat(expected))).max() < 4
    theta_wake, _ = draws(model, IWAE(), "rws", 3)
    np.testing.assert_allclose(theta, theta_wake, atol=1e-5)


@pytest.mark.parametrize(
    ("objective", "gradient", "layers"),
    [
        (IWAE(), "reparam", 1), (IWAE(), "dreg", 2), (IWAE(), "vimco", 1), (IWAE(), "rws", 1),
        (IWAE(), "gdreg", 2), (Jackknife(2), "dreg", 1), (PIWAE(2), "reparam", 1),
        (HomeMade(), "dreg", 2), (ELBO(analytic_kl=True), "reparam", 1), (PIWAE(3), "dreg", 2),
        (CUBO(2.0), "stl", 1), (IWAE(), "score", 1), (IWAE(), "rws_dreg", 2),
    ],
    ids=repr,
)  # fmt: skip
def test_resampling_is_unbiased(objective, gradient, layers):
    """The backward pass on 2 of 6 samples, paired with that on all."""
    model = LinearGaussian(layers=layers)
    theta, phi = draws(model, objective, gradient)
    theta_few, phi_few = draws(model, objective, resampled(2, gradient))
    assert scores(theta_few - theta).max() < 4
    assert scores(phi_few - phi).max() < 4
    assert np.abs(phi_few - phi).max() > 1e-2  # it is another estimator


def test_with_enough_draws_resampling_changes_nothing():
    """Systematic resampling of equal coefficients takes each sample once."""
    params, x = small(1), binary(3)

    def gradient(gradient):
        return flat(
            jax.grad(
                lambda p: iwae_jax.bound(p, x, KEY, 5, objective="elbo", gradient=gradient).sum()
            )(params)
        )

    np.testing.assert_allclose(gradient(resampled(5)), gradient("reparam"), rtol=1e-3, atol=1e-4)


def test_theta_and_phi_may_use_different_estimators():
    model = LinearGaussian(layers=2)
    theta, phi = draws(model, CUBO(2.0), ByRoute(p="gdreg", zq="vimco"), count=2000)
    np.testing.assert_allclose(
        theta, draws(model, CUBO(2.0), "gdreg", count=2000)[0], rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(
        phi, draws(model, CUBO(2.0), "vimco", count=2000)[1], rtol=1e-3, atol=1e-3
    )
    theta, phi = draws(model, ELBO(), ByRoute(p="gdreg", zq="reparam"), count=2000)
    np.testing.assert_allclose(phi, draws(model, ELBO(), count=2000)[1], rtol=1e-3, atol=1e-3)
    theta, phi = draws(model, CUBO(2.0), ByRoute(p="reparam", zq="rws"), count=2000)
    np.testing.assert_allclose(theta, draws(model, CUBO(2.0), count=2000)[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        phi, draws(model, IWAE(), "rws", count=2000)[1], rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("gradient", ["reparam", "dreg", "vimco"])
def test_piwae_is_iwae_for_theta_and_miwae_for_phi_and_nothing_leaks(gradient):
    model = LinearGaussian(layers=2)
    theta, phi = draws(model, PIWAE(2), gradient, count=500)
    np.testing.assert_allclose(
        theta, draws(model, IWAE(), gradient, count=500)[0], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        phi, draws(model, MIWAE(2), gradient, count=500)[1], rtol=1e-4, atol=1e-4
    )
    assert not np.allclose(phi, draws(model, IWAE(), gradient, count=500)[1], atol=1e-2)


def test_piwaes_phi_has_its_gradient_where_thetas_vanishes():
    """A group of weights far below the other's counts for MIWAE, and not at all for IWAE."""
    log_w = jnp.array([[0.0], [0.0], [-500.0], [-500.0]])
    found = coefficients_of(gradients.named("reparam"), PIWAE(2), log_w)
    assert found.z is not None
    np.testing.assert_allclose(found.p[:, 0], [0.5, 0.5, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(found.z[:, 0], [0.25, 0.25, 0.25, 0.25], atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("gradient", ["stl", "dreg"])
@pytest.mark.parametrize("objective", [ELBO(), IWAE(), Renyi(-2.0), MIWAE(2), PIWAE(2)], ids=repr)
def test_at_the_posterior_phis_gradient_is_zero(layers, gradient, objective):
    params = LinearGaussian(layers=layers).with_exact_posterior(linear(layers))

    def phi(name):
        def value(p):
            keys = jax.random.split(KEY, 10)
            x = jnp.broadcast_to(POINT, (10, 3))
            return iwae_jax.bound(p, x, keys, 6, objective=objective, gradient=name).sum()

        return flat(jax.grad(value)(params).recognition)

    np.testing.assert_allclose(phi(gradient), 0.0, atol=2e-4)
    assert np.abs(phi("reparam")).max() > 0.1


@pytest.mark.parametrize("objective", [IWAE(), HomeMade(), PIWAE(2)], ids=repr)
@pytest.mark.parametrize(
    "gradient", [*NAMES, resampled(2), resampled(3, "vimco")], ids=str
)  # fmt: skip
def test_the_value_is_the_objective_whatever_the_gradient(objective, gradient):
    if objective != IWAE() and gradient in ("rws", "rws_dreg", "wake_sleep"):
        gradient = ByRoute(p="reparam", zq=gradient)
    if isinstance(objective, PIWAE) and gradient == "score":
        # The baseline is that of 5 samples, which m does not divide: there is no value.
        with pytest.raises(ValueError, match=r"'score' to be defined for PIWAE\(m=2\).*k = 5"):
            iwae_jax.bound(linear(2), points(6), KEY, 6, objective=objective, gradient=gradient)
        return
    dreams = "wake_sleep" in str(gradient)  # which need a model that can be sampled
    layers = 2 if objective == IWAE() else 1
    real = linear(layers), points(6).reshape(2, 3, 3)
    params, x = (small(layers), binary(2, 3)) if dreams else real
    expected = objective(iwae_jax.log_weights(params, x, KEY, 6))

    def value(p):
        values = iwae_jax.bound(p, x, KEY, 6, objective=objective, gradient=gradient)
        return values.sum(), values

    slope, differentiated = jax.jit(jax.grad(value, has_aux=True))(params)
    np.testing.assert_allclose(differentiated, expected, rtol=1e-5)
    assert np.isfinite(flat(slope)).all() and np.abs(flat(slope)).max() > 0
    plain = iwae_jax.bound(params, x, KEY, 6, objective=objective, gradient=gradient)
    np.testing.assert_allclose(plain, expected, rtol=1e-5)


def test_forward_streaming_changes_nothing():
    """Resampling streams k = 120 samples in chunks of 50: value and samples are the same."""
    params, x = small(1), binary(3)
    streamed = iwae_jax.bound(params, x, KEY, 120, gradient=resampled(4))
    np.testing.assert_allclose(streamed, iwae_jax.bound(params, x, KEY, 120), rtol=1e-5)


def test_dreg_of_the_iwae_is_tucker_and_others_formula():
    """phi's coefficients are the squares of the normalised weights."""
    params, k = linear(1), 5
    model = params.model
    keys = [jax.random.fold_in(KEY, i) for i in range(k)]

    def path(phi, key):
        z, _ = model.sample_posterior(iwae_jax.Params((), phi, model), POINT, key)
        return model.log_joint(params, POINT, z) - model.log_posterior(params, POINT, z)

    log_w = jnp.stack([path(params.recognition, key) for key in keys])
    weights = jax.nn.softmax(log_w)
    each = [flat(jax.grad(path)(params.recognition, key)) for key in keys]
    expected = sum(w**2 * g for w, g in zip(weights, each, strict=True))
    got = jax.grad(lambda p: iwae_jax.bound(p, POINT, KEY, k, gradient="dreg"))(params)
    np.testing.assert_allclose(flat(got.recognition), expected, rtol=1e-3, atol=1e-5)


def test_the_elbo_with_an_analytic_kl_has_the_same_mean_and_gradient():
    params, x, k = linear(1), jnp.broadcast_to(POINT, (COUNT, 3)), 2
    exact = ELBO(analytic_kl=True)
    difference = iwae_jax.bound(params, x, KEY, k, objective=exact)
    difference -= iwae_jax.bound(params, x, KEY, k, objective=ELBO())
    assert scores(np.asarray(difference, np.float64)[:, None]).max() < 4
    assert np.abs(difference).max() > 0.1
    for part, part_exact in zip(
        draws(LinearGaussian(), ELBO()), draws(LinearGaussian(), exact), strict=True
    ):
        assert scores(part_exact - part).max() < 4


def test_the_analytic_kl_of_the_network_is_the_divergence():
    params, x = small(1), binary(1).astype(float)
    model, (moments,) = params.model, iwae_jax.encode(params, binary(1))
    z = jax.random.normal(KEY, (COUNT, *moments[0].shape[1:])) * moments[1] + moments[0]

    def difference(z):
        log_q = model.log_posterior(params, x[0], (z,))
        return log_q - jnp.sum(jax.scipy.stats.norm.logpdf(z))

    sampled = np.asarray(jax.vmap(difference)(z), np.float64)
    got = model.analytic_kl(params, x[0])
    assert scores(sampled[:, None], float(got)).max() < 4
    two = small(2).model
    with pytest.raises(ValueError, match="Expected one stochastic layer for an analytic KL"):
        iwae_jax.bound(small(2), binary(1), KEY, 2, objective=ELBO(analytic_kl=True))
    assert len(two.latent_sizes) == 2


@pytest.mark.parametrize("gradient", ["reparam", "dreg", resampled(2, "dreg")], ids=str)
def test_sumos_gradient_is_unbiased_for_the_iwae_of_its_cap(gradient):
    theta, phi = draws(LinearGaussian(), IWAE(), k=8)
    theta_sumo, phi_sumo = draws(LinearGaussian(), SUMO(tail=4), gradient, k=8)
    assert scores(theta_sumo - theta).max() < 4
    assert scores(phi_sumo - phi).max() < 4


def test_sumo_looks_at_no_more_samples_than_it_needs():
    """Its value is the objective of the first log-weights, and those beyond are never computed."""
    params, x, k = linear(1), jnp.broadcast_to(POINT, (40, 3)), 30
    value = iwae_jax.bound(params, x, KEY, k, objective=SUMO())
    keys = iwae_jax.datum_keys(KEY, 40)
    uniform = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 2**32 - 1)))(keys)
    expected = SUMO()(iwae_jax.log_weights(params, x, KEY, k), uniform)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    counts = SUMO().samples(uniform, k)
    log_w = counted_log_weights(params, x, keys, counts, k)
    computed = np.isfinite(log_w).sum(axis=0)
    np.testing.assert_array_equal(computed, counts)
    assert computed.mean() < 10


def test_weights_of_zero_give_no_infinite_signals():
    """Of a sample whose others weigh nothing, the baseline is zero; others' are over what is left."""
    for name in ("vimco", "score"):
        log_w = jnp.array([[0.0], [-jnp.inf], [-1.0], [-jnp.inf]])
        found = gradients.named(name).coefficients(IWAE(), log_w)
        assert found.q is not None and np.isfinite(found.q).all()
    two = jnp.array([[0.0], [-jnp.inf]])
    found = gradients.named("vimco").coefficients(IWAE(), two)
    assert found.q is not None and np.isfinite(found.q).all()


def test_a_batch_of_no_data():
    params, x = small(1), binary(2)[:0]
    for objective in ("iwae", "sumo", "jackknife", "tvo"):
        for gradient in ("reparam", "dreg", resampled(2), "vimco"):
            values = iwae_jax.bound(params, x, KEY, 60, objective=objective, gradient=gradient)
            assert values.shape == (0,)


def test_a_batch_is_the_data_one_by_one():
    params, x = small(1), binary(3)
    keys = iwae_jax.datum_keys(KEY, 3)
    for gradient in ("dreg", resampled(2, "vimco")):

        @jax.jit
        def total(x, keys, gradient=gradient):
            return flat(
                jax.grad(lambda p: iwae_jax.bound(p, x, keys, 4, gradient=gradient).sum())(params)
            )

        parts = sum(total(x[n : n + 1], keys[n : n + 1]) for n in range(3))
        np.testing.assert_allclose(total(x, keys), parts, atol=2e-4)


@pytest.mark.parametrize(
    ("objective", "gradient", "message"),
    [
        (IWAE(), "magic", "Expected gradient to be one of .* got 'magic'"),
        (MIWAE(3), "dreg", "Expected m to divide k, got m = 3 and k = 4"),
        (PIWAE(3), "reparam", "Expected m to divide k, got m = 3 and k = 4"),
        (ELBO(), "rws", r"gradient 'rws' to be defined for ELBO\(.*IWAE\(\) alone"),
        (CUBO(2.0), "wake_sleep", r"gradient 'wake_sleep' to be defined for CUBO"),
        (Renyi(-np.inf), "dreg", r"'dreg' to be defined for Renyi\(alpha=-inf\).*jump"),
        (CUBO(np.inf), "gdreg", r"'gdreg' to be defined for CUBO\(n=inf\).*jump"),
        (MIWAE(2), "score", r"'score' to be defined for MIWAE\(m=2\).*m = 2 and k = 3"),
        (Jackknife(3), "score", r"'score' to be defined for Jackknife\(order=3\)"),
        (SUMO(), "score", r"'score' to be defined for SUMO"),
        (ELBO(analytic_kl=True), "dreg", r"'dreg' to be defined for ELBO\(analytic_kl=True\)"),
        (ELBO(analytic_kl=True), "vimco", r"'vimco' to be defined for ELBO\(analytic_kl=True\)"),
    ],
    ids=repr,
)
def test_what_is_not_defined_says_so(objective, gradient, message):
    with pytest.raises(ValueError, match=message):
        iwae_jax.bound(small(1), binary(), KEY, 4, objective=objective, gradient=gradient)


def test_what_a_model_or_k_does_not_allow_says_so():
    discrete = iwae_jax.init(KEY, Discrete())
    x = jnp.array([1.0, 0.0])
    with pytest.raises(ValueError, match=r"'vimco' to be defined for IWAE\(\).*k = 1"):
        iwae_jax.bound(discrete, x, KEY, 1, gradient="vimco")
    with pytest.raises(ValueError, match="a model with prior_moments for gradient 'gdreg'"):
        iwae_jax.bound(discrete, x, KEY, 2, gradient="gdreg")
    with pytest.raises(ValueError, match="sample_prior, sample_x for gradient 'wake_sleep'"):
        tally = iwae_jax.init(KEY, Tally())
        iwae_jax.bound(tally, jnp.ones(4), KEY, 2, gradient="wake_sleep")
    with pytest.raises(ValueError, match=r"a model with log_conditional, analytic_kl for ELBO\(a"):
        iwae_jax.bound(discrete, x, KEY, 2, objective=ELBO(analytic_kl=True))
    for gradient in ("reparam", "stl", "dreg", resampled(1), resampled(1, "dreg")):
        value = iwae_jax.bound(discrete, x, KEY, 2, gradient=gradient)  # the value is defined
        assert np.isfinite(value)
        with pytest.raises(ValueError, match=r"Expected latents of floats for gradient .* 'int32'"):
            jax.grad(
                lambda p, g=gradient: iwae_jax.bound(p, x, KEY, 2, gradient=g), allow_int=True
            )(discrete)
    config = iwae_jax.ModelConfig((2,), (2,), ((3,),), latents="bernoulli")
    binary_latents = iwae_jax.init(KEY, config)
    for call in (iwae_jax.bound, iwae_jax.log_weights, iwae_jax.log_likelihood):
        values = jax.jit(lambda p, x, call=call: call(p, x, KEY, 3).sum())
        assert np.isfinite(values(binary_latents, x))
        for place in (0, 1):  # neither in params nor in x
            with pytest.raises(ValueError, match="Expected latents of floats for .*'bernoulli'"):
                jax.grad(values, place)(binary_latents, x)
    for m in (0, 2.5):
        with pytest.raises(ValueError, match="Expected m to be a positive int"):
            resampled(m)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gradient", "objective"),
    [("dreg", "iwae"), ("vimco", "elbo"), (resampled(2), "iwae"), ("reparam", "sumo"), ("reparam", "piwae")],
    ids=str,
)  # fmt: skip
def test_a_gradient_in_x_that_is_not_defined_raises(gradient, objective):
    params, x = small(1), binary(2).astype(float)

    def value(params, x):
        return iwae_jax.bound(params, x, KEY, 4, gradient=gradient, objective=objective).sum()

    for differentiate in (jax.grad(value, 1), jax.grad(value, (0, 1)), jax.jit(jax.grad(value, 1))):
        with pytest.raises(ValueError, match="Expected derivatives in params alone for gradient"):
            differentiate(params, x)


def test_the_gradient_in_x_against_finite_differences():
    params, x = small(1), jnp.full((1, 11), 0.4)

    def value(x):
        return iwae_jax.bound(params, x, KEY, 4).sum()

    slope = jax.grad(value)(x)[0, 3]
    step = 0.05
    moved = [value(x.at[0, 3].add(sign * step)) for sign in (1, -1)]
    # The bound is linear in x[3] but for q, so that the third derivative is small: 1% of the slope.
    np.testing.assert_allclose((moved[0] - moved[1]) / (2 * step), slope, rtol=0.02, atol=1e-3)
    assert abs(slope) > 0.05


@pytest.mark.parametrize("gradient", ["stl", "dreg", resampled(2, "dreg"), "vimco"], ids=str)
def test_a_step_goes_up_the_gradient_that_was_asked_for(gradient):
    params, x = small(1), binary(4)
    state = iwae_jax.TrainState.create(params, optax.sgd(0.1))
    new, _ = iwae_jax.train_step(state, x, KEY, 5, objective="iwae", gradient=gradient)
    step = jax.grad(lambda p: iwae_jax.bound(p, x, KEY, 5, gradient=gradient).mean())(params)
    expected = jax.tree.map(lambda p, g: p + 0.1 * g, params, step)
    np.testing.assert_allclose(flat(new.params), flat(expected), atol=1e-5)


@pytest.mark.parametrize("name", ["vimco", "score"])
@pytest.mark.parametrize("objective", ["iwae", "elbo", "renyi", "tvo"])
def test_signals_of_weights_far_from_zero_keep_their_digits(name, objective):
    """An image of many pixels has a log-weight of -1e5, where float32 has steps of 0.008: half a signal."""
    log_w = jnp.round(64 * jax.random.normal(KEY, (50, 3))) / 64  # exact also after the shift
    estimator, function = gradients.named(name), iwae_jax.objectives.named(objective)
    near, far = (estimator.coefficients(function, each) for each in (log_w, log_w - 1e5))
    assert far.q is not None and near.q is not None
    np.testing.assert_allclose(far.q, near.q, atol=1e-5)


@pytest.mark.parametrize("base", [gradients.Reparam, gradients.STL])
@pytest.mark.parametrize("member", ["coefficients", "per_sample", "per_datum"])
def test_a_subclass_inherits_no_claim_about_what_it_replaces(base, member):
    found = type("Changed", (base,), {member: getattr(base, member)})
    assert (found.plain, found.common_p, found.tempered) == (False, False, False)
