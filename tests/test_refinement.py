"""A q refined for each datum: what it reaches where the best q is known in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import iwae_jax
from iwae_jax import evaluation
from tests.oracles import LinearGaussian

KEYS = jax.random.split(jax.random.key(7), 8)


def dense_linear(posterior, latents=3, size=4, scale=0.7):
    """A `ModelConfig` whose decoder is linear, so that the exact posterior is a correlated normal.

    Returns:
      The parameters, and the decoder's matrix, bias and scale.
    """
    config = iwae_jax.ModelConfig(
        (size,), (latents,), ((),), likelihood=f"normal:scale={scale}", posterior=posterior
    )
    params = iwae_jax.init(KEYS[0], config)
    matrix = np.random.default_rng(0).normal(size=(latents, size)).astype(np.float32)
    bias = np.arange(size, dtype=np.float32) / 4
    kernels = {(latents, size): matrix, (size,): bias}
    generative = jax.tree.map(lambda leaf: jnp.asarray(kernels[leaf.shape]), params.generative)
    return iwae_jax.Params(generative, params.recognition, config), matrix, bias, scale


def log_evidence(x, matrix, bias, scale):
    """log N(x; bias, matrix^T matrix + scale^2), float64."""
    from scipy.stats import multivariate_normal

    matrix = matrix.astype(np.float64)
    covariance = matrix.T @ matrix + scale**2 * np.eye(len(bias))
    return multivariate_normal(bias.astype(np.float64), covariance).logpdf(
        np.asarray(x, np.float64)
    )


def elbo(refined, x, k=20_000):
    """The ELBO of each datum and its standard error."""
    log_w = np.asarray(evaluation.refined_log_weights(refined, x, KEYS[3], k), np.float64)
    return log_w.mean(axis=0), log_w.std(axis=0) / np.sqrt(k)


@pytest.mark.parametrize("posterior", ["normal", "full_normal"])
def test_the_refined_elbo_is_that_of_the_best_q_of_the_family(posterior):
    """The gap is 0 for a full normal, and for a diagonal one that of its best member.

    With the posterior's precision A, the best diagonal normal has the variances 1 / A_ii, and is short of
    log p(x) by (sum log A_ii - log det A) / 2 (Bishop, Pattern Recognition and Machine Learning, sec. 10.1.2).
    """
    params, matrix, bias, scale = dense_linear(posterior)
    x = jax.random.normal(KEYS[1], (5, 4))
    refined = evaluation.refine(
        params, x, KEYS[2], k=30, steps=1000, objective="elbo", learning_rate=0.1
    )
    found, error = elbo(refined, x)
    precision = np.eye(3) + matrix.astype(np.float64) @ matrix.T / scale**2
    gap = (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]) / 2
    assert gap > 0.1
    short = log_evidence(x, matrix, bias, scale) - found
    expected = gap if posterior == "normal" else 0.0
    # Adam stops near the optimum, where the ELBO falls with the square of the distance: 0.01 nats.
    assert np.all(short > expected - 4 * error - 1e-3)
    assert np.all(short < expected + 4 * error + 0.01)


def test_a_refined_q_gives_tighter_bounds_of_the_same_log_p():
    params, matrix, bias, scale = dense_linear("normal")
    x = jax.random.normal(KEYS[1], (6, 4))
    refined = evaluation.refine(params, x, KEYS[2], k=20, steps=400, learning_rate=0.05)
    before = evaluation.diagnose(iwae_jax.log_weights(params, x, KEYS[3], 1000))
    after = evaluation.diagnose(evaluation.refined_log_weights(refined, x, KEYS[3], 1000))
    exact = log_evidence(x, matrix, bias, scale)
    assert np.all(after.effective_sample_size > 3 * before.effective_sample_size)
    assert np.all(np.abs(after.log_likelihood - exact) < 5 * after.standard_error + 1e-4)


def test_refinement_lowers_paretos_k():
    """With an untrained q few samples dominate, and L_1000 is 3.8 nats low; with a refined one 0.003."""
    params, matrix, bias, scale = dense_linear("normal")
    x = jnp.asarray(bias)[None] + jax.random.normal(KEYS[1], (12, 4))
    refined = evaluation.refine(params, x, KEYS[2], k=30, steps=400, learning_rate=0.05)
    own = iwae_jax.log_weights(params, x, KEYS[3], 1000)
    better = evaluation.refined_log_weights(refined, x, KEYS[3], 1000)
    before, after = (evaluation.summarise(evaluation.diagnose(w)) for w in (own, better))
    assert before.pareto_k_high > 0.6 and after.pareto_k_high == 0.0
    exact = -log_evidence(x, matrix, bias, scale).mean()
    assert before.nll - exact > 2.0 and abs(after.nll - exact) < 0.05


@pytest.mark.parametrize("draws", [0, 1, 10])
def test_a_semi_implicit_q_leaves_the_likelihood_exact(draws):
    """Through `log_likelihood`: L_k rises with k to log p(x), and is there within 3 standard errors."""
    params, *model = dense_linear(f"semi_implicit:draws={draws},noise=2,context=3")
    x = jax.random.normal(KEYS[1], (4, 4))
    refined = evaluation.refine(params, x, KEYS[2], steps=300, learning_rate=0.05, objective="elbo")
    exact = log_evidence(x, *model)
    log_w = np.asarray(evaluation.refined_log_weights(refined, x, KEYS[3], 40_000), np.float64)
    found = evaluation.diagnose(log_w)
    assert np.all(np.abs(found.log_likelihood - exact) < 3 * found.standard_error)
    assert np.all(found.standard_error < 0.05)
    bounds = [
        (scipy.special.logsumexp(log_w.reshape(-1, k, 4), axis=1) - np.log(k)).mean()
        for k in (1, 5, 50)
    ]
    assert bounds[0] < bounds[1] < bounds[2] < exact.mean() + 0.01
    # The same by the evaluator of the library, with the q of the first datum as the model's own.
    leaves, shape = jax.tree.flatten(params.recognition)
    for place, leaf in zip(refined.places, refined.own, strict=True):
        leaves[place] = leaf[0]
    params = iwae_jax.Params(params.generative, shape.unflatten(leaves), params.model)
    log_p = float(iwae_jax.log_likelihood(params, x[0], KEYS[4], 40_000))
    assert abs(log_p - exact[0]) < 4 * found.standard_error[0]  # that of other draws of the same q


def test_only_a_few_leaves_change_unless_all_are_asked_for():
    params, *_ = dense_linear("normal")
    x = jnp.ones((2, 4))
    some = evaluation.refine(params, x, KEYS[2], steps=2)
    leaves = jax.tree.leaves(params.recognition)
    assert {leaves[place].ndim for place in some.places} == {1}
    all_of_them = evaluation.refine(params, x, KEYS[2], steps=2, weights=True)
    assert all_of_them.places == tuple(range(len(leaves)))
    for refined in (some, all_of_them):
        for place, leaf in zip(refined.places, refined.own, strict=True):
            assert leaf.shape == (2, *leaves[place].shape)
            assert not np.array_equal(leaf[0], leaves[place])


@pytest.mark.parametrize(("weights", "rate"), [(False, 1e-2), (True, 1e-3)])
def test_all_weights_take_smaller_steps_than_biases(weights, rate):
    """At 1e-2 the weights of a flow of MNIST lose thousands of nats, where its biases gain three."""
    params, *_ = dense_linear("normal")
    options = {"steps": 3, "weights": weights}
    found = evaluation.refine(params, jnp.ones((2, 4)), KEYS[2], **options)
    given = evaluation.refine(params, jnp.ones((2, 4)), KEYS[2], learning_rate=rate, **options)
    for a, b in zip(found.own, given.own, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_weights_of_a_flow_reach_further_than_its_biases():
    params, *_ = dense_linear("coupling:layers=2")
    x = jax.random.normal(KEYS[1], (4, 4))
    some, of_all = (
        evaluation.refine(
            params, x, KEYS[2], steps=500, objective="elbo", weights=weights, learning_rate=1e-2
        )
        for weights in (False, True)
    )
    assert np.all(elbo(of_all, x)[0] > elbo(some, x)[0] + 0.01)


def test_unrefined_leaves_give_the_weights_of_the_model_itself():
    params, *_ = dense_linear("normal")
    x = jax.random.normal(KEYS[1], (2, 3, 4))
    leaves = jax.tree.leaves(params.recognition)
    own = tuple(jnp.broadcast_to(leaf, (2, 3, *leaf.shape)) for leaf in leaves)
    refined = evaluation.Refined(params, own, tuple(range(len(leaves))))
    found = evaluation.refined_log_weights(refined, x, KEYS[3], 7, batch_size=4)
    expected = iwae_jax.log_weights(params, x, KEYS[3], 7)
    np.testing.assert_allclose(
        found, expected, rtol=2e-6, atol=2e-6
    )  # other products, the same sums


def test_the_result_of_a_datum_depends_on_no_other():
    params, *_ = dense_linear("normal")
    x = jax.random.normal(KEYS[1], (5, 4))
    whole = evaluation.refine(params, x, KEYS[2], steps=20, batch_size=5)
    part = evaluation.refine(params, x[:2], KEYS[2], steps=20, batch_size=1)
    for a, b in zip(whole.own, part.own, strict=True):
        np.testing.assert_allclose(
            a[:2], b, rtol=1e-4, atol=1e-5
        )  # rounding, over 20 steps of Adam
    other = evaluation.refine(params, x[:2], KEYS[4], steps=20)
    assert not np.allclose(other.own[0], part.own[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "part",
    [{"posterior": "planar"}, {"posterior": "coupling:layers=2"}, {"latents": "bernoulli"},
     {"posterior": "semi_implicit:draws=3"}, {"posterior": "mixture:components=2"}, {"prior": "vamp:inputs=3"}],
)  # fmt: skip
def test_every_family_can_be_refined(part):
    config = iwae_jax.ModelConfig((6,), (3,), ((8,),), **part)
    params = iwae_jax.init(KEYS[0], config)
    x = (jax.random.uniform(KEYS[1], (4, 6)) < 0.5).astype(jnp.float32)
    refined = evaluation.refine(params, x, KEYS[2], steps=150, learning_rate=0.05, objective="elbo")
    log_w = evaluation.refined_log_weights(refined, x, KEYS[3], 4000)
    assert log_w.mean() > iwae_jax.log_weights(params, x, KEYS[3], 4000).mean()


def test_a_prior_that_reads_q_stays():
    """The VampPrior is a mixture of q's: with refined ones p(x, z) would be another for each datum."""
    config = iwae_jax.ModelConfig((6,), (2,), ((8,),), prior="vamp:inputs=3")
    params = iwae_jax.init(KEYS[0], config)
    x = jnp.stack([jnp.ones(6), jnp.arange(6.0) % 2.0])
    axis = jnp.linspace(-9.0, 9.0, 300)
    z = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    joint = jax.vmap(lambda x: jax.vmap(lambda z: config.log_joint(params, x, (z,)))(z))(x)
    log_p = scipy.special.logsumexp(joint, axis=1) + 2 * np.log(axis[1] - axis[0])
    refined = evaluation.refine(params, x, KEYS[2], steps=300, learning_rate=0.05)
    found = evaluation.diagnose(evaluation.refined_log_weights(refined, x, KEYS[3], 5000))
    np.testing.assert_allclose(
        found.log_likelihood, log_p, atol=0.002 + 4 * float(found.standard_error.max())
    )


def test_a_model_of_ones_own_is_refined_to_its_posterior():
    model = LinearGaussian(size=3, layers=2)
    params = iwae_jax.init(KEYS[0], model)
    x = jax.random.normal(KEYS[1], (3, 3))
    refined = evaluation.refine(
        params, x, KEYS[2], k=30, steps=800, objective="elbo", learning_rate=0.02
    )
    found, error = elbo(refined, x, 4000)
    exact = np.asarray([float(model.log_evidence(params, each)) for each in np.asarray(x)])
    np.testing.assert_array_less(np.abs(exact - found), 4 * error + 0.02)


def test_errors_name_the_argument():
    params, *_ = dense_linear("normal")
    x = jnp.ones((2, 4))
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"steps": 0}, "steps to be a positive int"),
        ({"k": 0}, "k to be a positive int"),
        ({"learning_rate": 0.0}, "learning_rate to be a number"),
        ({"learning_rate": np.inf}, "learning_rate to be a number"),
        ({"gradient": "vimc"}, "gradient to be one of"),
    )
    for changed, message in wrong:
        with pytest.raises(ValueError, match=message):
            evaluation.refine(params, x, KEYS[2], **changed)
    with pytest.raises(ValueError, match="at least one x"):
        evaluation.refine(params, x[:0], KEYS[2])
    refined = evaluation.refine(params, x, KEYS[2], steps=1)
    with pytest.raises(ValueError, match=r"that were refined, \(2,\), got \(3,\)"):
        evaluation.refined_log_weights(refined, jnp.ones((3, 4)), KEYS[3], 5)
    planar = iwae_jax.init(KEYS[0], iwae_jax.ModelConfig((4,), (2,), ((3,),), posterior="planar"))
    with pytest.raises(ValueError, match="at a given z"):
        evaluation.refine(planar, x, KEYS[2], gradient="dreg")
