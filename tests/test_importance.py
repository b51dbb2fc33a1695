import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import iwae_jax
from iwae_jax import ModelConfig, importance, protocol
from tests.oracles import LinearGaussian

KEY = jax.random.key(1)
SMALL = {
    1: ModelConfig((11,), (3,), ((13, 7),)),
    2: ModelConfig((11,), (3, 2), ((13, 7), (5, 4))),
    3: ModelConfig((11,), (4, 3, 2), ((13,), (5,), (4,))),
}


def small(layers):
    params = iwae_jax.init(jax.random.key(0), SMALL[layers], data_mean=np.full(11, 0.3))
    return jax.tree.map(
        lambda a: a + 0.3 * jax.random.normal(jax.random.key(a.size), a.shape), params
    )


def binary(*batch, size=11):
    return jax.random.bernoulli(jax.random.key(2), 0.4, (*batch, size))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_log_weight_against_numpy_and_scipy(layers):
    params, x, k = small(layers), binary(4), 3
    got = iwae_jax.log_weights(params, x, KEY, k)

    def network(p, inputs, heads):
        hidden = inputs
        for i in range(sum(name.startswith("hidden") for name in p)):
            layer = p[f"hidden_{i}"]
            hidden = np.tanh(hidden @ layer["kernel"] + layer["bias"])
        return [hidden @ p[head]["kernel"] + p[head]["bias"] for head in heads]

    to64 = jax.tree.map(
        lambda a: np.asarray(a, np.float64), (params.generative, params.recognition)
    )
    (parts, recognition), prior = to64, to64[0]["prior"]
    to_x = parts["likelihood"]["params"]
    for n in range(4):
        for i in range(k):
            sample_key = jax.random.fold_in(jax.random.fold_in(KEY, n), i)
            z, _ = params.model.sample_posterior(params, x[n].astype(float), sample_key)
            z = [np.asarray(latent, np.float64) for latent in z]
            data, log_w, below = np.asarray(x[n], np.float64), 0.0, np.asarray(x[n], np.float64)
            for p, latent in zip(recognition, z, strict=True):
                mean, log_scale = network(p["params"], below, ("mean", "log_scale"))
                log_w -= stats.norm.logpdf(latent, mean, np.exp(log_scale)).sum()
                below = latent
            log_w += stats.norm.logpdf(z[-1]).sum()
            for layer in range(1, layers):
                mean, log_scale = network(
                    prior[layer - 1]["params"], z[layer], ("mean", "log_scale")
                )
                log_w += stats.norm.logpdf(z[layer - 1], mean, np.exp(log_scale)).sum()
            (logits,) = network(to_x, z[0], ("logits",))
            log_w += stats.bernoulli.logpmf(data, 1 / (1 + np.exp(-logits))).sum()
            np.testing.assert_allclose(got[i, n], log_w, rtol=2e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_log_q_of_a_sample_is_its_log_posterior(layers):
    params = small(layers)
    x = binary().astype(float)
    z, log_q = params.model.sample_posterior(params, x, KEY)
    assert [latent.shape for latent in z] == [(s,) for s in params.model.latent_sizes]
    np.testing.assert_allclose(log_q, params.model.log_posterior(params, x, z), rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_gradient_of_log_q_is_the_total_one(layers):
    # Through the sample and through q's parameters: both paths of the paper's eq. 14.
    params, x = small(layers), binary().astype(float)
    model = params.model

    def shortcut(params):
        return model.sample_posterior(params, x, KEY)[1]

    def written_out(params):
        return model.log_posterior(params, x, model.sample_posterior(params, x, KEY)[0])

    for a, b in zip(
        jax.tree.leaves(jax.grad(shortcut)(params)),
        jax.tree.leaves(jax.grad(written_out)(params)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (1, 1, 2), (0,)])
@pytest.mark.parametrize("k", [1, 4])
def test_shapes(batch, k):
    assert iwae_jax.log_weights(small(1), binary(*batch), KEY, k).shape == (k, *batch)


def test_samples_and_data_do_not_depend_on_what_else_is_computed():
    params, x = small(2), binary(7)
    whole = iwae_jax.log_weights(params, x, KEY, 9)
    np.testing.assert_allclose(
        iwae_jax.log_weights(params, x[:4], KEY, 5), whole[:5, :4], rtol=1e-5
    )
    keys = iwae_jax.datum_keys(KEY, 7)
    part = iwae_jax.log_weights(params, x[3:5], keys[3:5], 9)
    np.testing.assert_allclose(part, whole[:, 3:5], rtol=1e-5)
    np.testing.assert_allclose(
        iwae_jax.log_weights(params, x[2], keys[2], 9), whole[:, 2], rtol=1e-5
    )


@pytest.mark.parametrize("noise", ["independent", "sobol"])
def test_vmap_over_data_and_their_keys_gives_the_numbers_of_the_batch(noise):
    params, x = small(1), binary(3)
    keys = iwae_jax.datum_keys(KEY, 3)
    whole = iwae_jax.log_weights(params, x, KEY, 4, noise=noise)

    def one(x, key):
        return iwae_jax.log_weights(params, x, key, 4, noise=noise)

    np.testing.assert_allclose(jax.vmap(one, out_axes=1)(x, keys), whole, rtol=1e-5)
    bounds = jax.vmap(lambda x, key: iwae_jax.bound(params, x, key, 4))(x, keys)
    np.testing.assert_allclose(bounds, iwae_jax.bound(params, x, KEY, 4), rtol=1e-5)


def test_batch_axes_are_counted_in_order():
    params, x = small(1), binary(2, 3)
    flat = iwae_jax.log_weights(params, x.reshape(6, 11), KEY, 4)
    np.testing.assert_allclose(
        iwae_jax.log_weights(params, x, KEY, 4), flat.reshape(4, 2, 3), rtol=1e-6
    )


def test_samples_differ_between_data_and_samples():
    same = jnp.tile(binary(1), (5, 1))
    values = np.asarray(iwae_jax.log_weights(small(1), same, KEY, 6))
    assert len(np.unique(values)) == values.size


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_with_the_exact_posterior_every_weight_is_the_evidence(layers):
    model = LinearGaussian(layers=layers)
    params = model.with_exact_posterior(iwae_jax.init(jax.random.key(0), model))
    x = 2 * jax.random.normal(jax.random.key(3), (6, 3))
    values = iwae_jax.log_weights(params, x, KEY, 5)
    expected = np.broadcast_to(model.log_evidence(params, x), (5, 6))
    np.testing.assert_allclose(values, expected, atol=2e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_first_encoder_runs_once_a_datum(layers):
    params, batch, k = small(layers), 3, 8
    closed = jax.make_jaxpr(lambda p, x: iwae_jax.log_weights(p, x, KEY, k))(params, binary(batch))
    kernel = params.recognition[0]["params"]["hidden_0"]["kernel"].shape
    sizes = [size for shapes, size in _products(closed.jaxpr) if kernel in shapes]
    assert sizes
    assert set(sizes) == {batch * kernel[1]}  # not k times as many


def _products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("affine", "dot_general"):
            yield [v.aval.shape for v in equation.invars], equation.outvars[0].aval.size
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _products(inner)


def test_small_scales_do_not_cost_digits():
    # log q from (z - mean) / scale would lose them where the scale is far under the mean.
    params = iwae_jax.init(jax.random.key(0), ModelConfig((2,), (1,), ((2,),)))
    q = params.recognition[0]["params"]
    q = {
        "hidden_0": q["hidden_0"],
        "mean": {"kernel": q["mean"]["kernel"], "bias": jnp.full(1, 100.0)},
        "log_scale": {"kernel": 0 * q["log_scale"]["kernel"], "bias": jnp.full(1, -13.0)},
    }
    x = jnp.zeros(2)
    keys = jax.random.split(KEY, 2000)
    params = dataclasses.replace(params, recognition=({"params": q},))
    log_q = jax.vmap(lambda key: params.model.sample_posterior(params, x, key)[1])(keys)
    # E[log q] = -1/2 log(2 pi e) + 13; its standard error is sqrt(1/2) / sqrt(2000) = 0.016.
    np.testing.assert_allclose(log_q.mean(), 13 - 0.5 * np.log(2 * np.pi * np.e), atol=4 * 0.016)


@pytest.mark.parametrize("layers", [1, 2])
def test_streamed_counted_and_chosen_samples_are_those_of_the_whole(layers):
    """The key of a sample is its own, however the work is cut."""
    params, x, k = small(layers), binary(3), 2 * importance.CHUNK + 7
    data, keys, _ = protocol.flatten_batch(params, x, KEY)
    whole = iwae_jax.log_weights(params, x, KEY, k)
    streamed = importance.streamed_log_weights(params, data, keys, k)
    np.testing.assert_allclose(streamed, whole, rtol=1e-5)
    counts = jnp.array([5, 0, k])
    counted = importance.counted_log_weights(params, data, keys, counts, k)
    for n, count in enumerate(counts):
        np.testing.assert_allclose(counted[:count, n], whole[:count, n], rtol=1e-5)
        assert (counted[count:, n] == -jnp.inf).all()
    samples = jnp.array([[3, 3], [50, 1], [k - 1, 0]])
    chosen = importance.sampled_log_weights(params, data, keys, samples)
    np.testing.assert_allclose(chosen, jnp.take_along_axis(whole, samples.T, axis=0), rtol=1e-5)
