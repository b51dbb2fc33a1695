import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from iwae_jax import evaluation
from iwae_jax.evaluation import likelihood
from tests.oracles import LinearGaussian, Tally
from tests.test_gradients import linear, points
from tests.test_importance import KEY, binary, small


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("chunk_size", "batch_size"), [(1, 1), (5, 3), (17, 7), (100, 100), (16, 2)]
)
def test_log_likelihood_is_the_bound_however_it_is_cut(layers, chunk_size, batch_size):
    params, x, k = small(layers), binary(7), 17
    got = iwae_jax.log_likelihood(params, x, KEY, k, chunk_size=chunk_size, batch_size=batch_size)
    np.testing.assert_allclose(got, iwae_jax.bound(params, x, KEY, k), rtol=1e-5)


@pytest.mark.parametrize("batch", [(), (3,), (2, 2), (0,)])
def test_shapes(batch):
    assert iwae_jax.log_likelihood(small(1), binary(*batch), KEY, 4).shape == batch


def test_a_part_of_the_data_gives_what_the_whole_gives():
    params, x = small(2), binary(9)
    keys = iwae_jax.datum_keys(KEY, 9)
    whole = iwae_jax.log_likelihood(params, x, KEY, 6, batch_size=4)
    parts = [iwae_jax.log_likelihood(params, x[s], keys[s], 6) for s in (slice(0, 5), slice(5, 9))]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5)


def test_it_tends_to_the_evidence():
    params, x = linear(2), points(5)
    exact = LinearGaussian(layers=2).log_evidence(params, x)
    log_w = np.asarray(iwae_jax.log_weights(params, x, KEY, 20_000), np.float64)
    ratio = np.exp(log_w - exact)
    errors = ratio.std(axis=0) / np.sqrt(20_000)
    got = iwae_jax.log_likelihood(params, x, KEY, 20_000)
    assert (np.abs(got - exact) < 4 * errors).all()


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_extreme_weights(shift):
    params = iwae_jax.Params(jnp.float32(shift), (), Tally(4))
    x = jnp.array([[0.0, 0, 0, 1]])
    np.testing.assert_allclose(
        iwae_jax.log_likelihood(params, x, KEY, 7, chunk_size=3), [shift], atol=1e-6
    )


def test_weights_that_are_all_zero_are_minus_infinity():
    params, x = iwae_jax.Params(jnp.float32(-jnp.inf), (), Tally(4)), jnp.ones((2, 4))
    got = iwae_jax.log_likelihood(params, x, KEY, 7, chunk_size=3)
    np.testing.assert_array_equal(got, [-np.inf] * 2)
    found = evaluation.diagnose(iwae_jax.log_weights(params, x, KEY, 30))
    np.testing.assert_array_equal(found.log_likelihood, [-np.inf] * 2)
    for values in found[1:-1]:
        assert np.isnan(values).all()


def test_the_peak_memory_does_not_grow_with_k_or_the_data():
    params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())

    def memory(k, count):
        keys = iwae_jax.datum_keys(KEY, count)
        compiled = likelihood._log_likelihood.lower(
            params, jnp.zeros((count, 784)), keys, None, k, 250, 20, 1, "independent"
        ).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    base = memory(500, 40)
    assert memory(50_000, 40) < 1.01 * base
    size_of_x = 400 * 784 * 4
    assert memory(500, 400) < base + 1.1 * size_of_x


@pytest.mark.parametrize(("k", "chunk_size"), [(1, 250), (3, 250), (250, 250), (251, 250)])
def test_k_is_the_number_asked_for(k, chunk_size):
    params, x = iwae_jax.init(KEY, Tally()), jnp.ones((2, 4))
    got = iwae_jax.log_likelihood(params, x, KEY, k, chunk_size=chunk_size)
    np.testing.assert_allclose(got, 4.0, rtol=1e-5)


@pytest.mark.parametrize("k", [2, 33, 120])
def test_diagnosis_against_numpy(k):
    log_w = np.asarray(iwae_jax.log_weights(small(1), binary(6), KEY, k), np.float64)
    found = evaluation.diagnose(log_w)
    w = np.exp(log_w - log_w.max(axis=0))
    np.testing.assert_allclose(
        found.log_likelihood, np.log(w.mean(axis=0)) + log_w.max(axis=0), rtol=1e-12
    )
    without = np.array([np.log(np.delete(w, j, axis=0).mean(axis=0)) for j in range(k)])
    error = np.sqrt((k - 1) / k * np.sum((without - without.mean(axis=0)) ** 2, axis=0))
    np.testing.assert_allclose(found.standard_error, error, rtol=1e-7)
    sizes = w.sum(axis=0) ** 2 / (w**2).sum(axis=0)
    np.testing.assert_allclose(found.effective_sample_size, sizes, rtol=1e-12)
    np.testing.assert_allclose(found.largest_weight, 1 / w.sum(axis=0), rtol=1e-12)
    assert np.isnan(found.pareto_k).all() == (k < 25)


def test_equal_weights_and_a_single_one():
    found = evaluation.diagnose(np.full((40, 2), -1e4))
    np.testing.assert_allclose(found.log_likelihood, -1e4)
    np.testing.assert_allclose(found.standard_error, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.effective_sample_size, 40)
    np.testing.assert_array_equal(found.pareto_k, -np.inf)
    one = evaluation.diagnose(np.zeros((1, 2)))
    assert np.isnan(one.standard_error).all() and np.isnan(one.pareto_k).all()
    # One weight is the whole sum: the tail has no fit, and the estimate cannot be trusted.
    alone = evaluation.diagnose(np.where(np.arange(40) == 7, 0.0, -1e4 * (1 + np.arange(40))))
    assert (alone.largest_weight, alone.pareto_k > 0.7) == (1.0, True)
    assert 30 < alone.standard_error < np.inf
    assert evaluation.summarise(evaluation.Diagnosis(*map(np.atleast_1d, alone))).warnings()


def test_the_limit_of_paretos_k_falls_with_the_number_of_samples():
    """min(1 - 1 / log10 k, 0.7), Vehtari et al. (2024)."""
    limits = {25: 0.28, 50: 0.41, 100: 0.5, 1000: 0.67, 2155: 0.70, 5000: 0.7, 10**6: 0.7}
    for k, limit in limits.items():
        assert abs(evaluation.pareto_k_limit(k) - limit) < 5e-3
    # A k of 0.6 is too high for 100 samples, and not for 5000.
    for k, warned in ((100, True), (5000, False)):
        found = evaluation.diagnose(np.random.default_rng(0).normal(size=(k, 20)))
        found = found._replace(pareto_k=np.full(20, 0.6))
        likelihood = evaluation.summarise(found)
        assert likelihood.pareto_k_high == float(warned)
        assert bool(likelihood.warnings()) == warned
        assert not warned or "above 0.5 for 100%" in likelihood.warnings()[0]


@pytest.mark.parametrize(
    ("k", "size", "warned"),
    [(50, 6.0, False), (50, 4.0, True), (5000, 12.0, False), (5000, 9.0, True), (1, 1.0, False)],
)  # fmt: skip
def test_few_effective_samples_are_told_relative_to_all(k, size, warned):
    found = evaluation.diagnose(np.zeros((k, 20)))
    found = found._replace(effective_sample_size=np.full(20, size))
    assert bool(evaluation.summarise(found).warnings()) == warned


def test_a_summary_is_of_all_data():
    """Each figure from one array of the diagnosis, chosen so that another statistic differs."""
    n = 101
    found = evaluation.Diagnosis(
        log_likelihood=np.linspace(-110.0, -70.0, n),
        standard_error=np.linspace(0.0, 0.5, n),
        effective_sample_size=np.arange(100.0, 100.0 + n) ** 2,
        largest_weight=np.linspace(0.1, 0.6, n),
        pareto_k=np.where(np.arange(n) < 7, 0.9, 0.2),
        samples=np.full(n, 5000),
    )
    result = evaluation.summarise(found)
    assert result.nll == pytest.approx(90.0)
    # The error of a mean of independent errors, not their mean (0.25).
    assert result.monte_carlo_error == pytest.approx(np.sqrt((found.standard_error**2).sum()) / n)
    variance = np.var(found.log_likelihood, ddof=1) / n
    expected = np.sqrt(variance - result.monte_carlo_error**2)
    assert result.split_error == pytest.approx(expected)
    assert result.effective_sample_size == pytest.approx(np.mean(found.effective_sample_size))
    assert result.effective_sample_size_5 == pytest.approx(105.0**2)
    assert result.largest_weight == 0.6
    assert result.pareto_k_high == pytest.approx(7 / n)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_paretos_k_is_that_of_the_weights(shape):
    w = np.random.default_rng(0).pareto(1 / shape, size=(5000, 40))
    found = evaluation.diagnose(np.log(w)).pareto_k
    # 212 values of a tail determine its shape within about 0.1.
    assert abs(found.mean() - shape) < 0.05
    high = evaluation.summarise(evaluation.diagnose(np.log(w))).warnings()
    if shape != 0.5:  # too close to 0.7 for the noise
        assert any("Pareto" in line for line in high) == (shape == 0.9)


def test_a_datum_whose_weights_are_all_zero_is_the_worst_one():
    """Its measures are NaN, which no comparison sees."""
    log_w = np.random.default_rng(0).normal(size=(1000, 20)) * 0.1
    log_w[:, :2] = -np.inf
    found = evaluation.summarise(evaluation.diagnose(log_w))
    assert found.nll == np.inf and found.largest_weight == 1.0
    assert found.effective_sample_size == pytest.approx(0.9 * 990, rel=0.02)
    assert found.effective_sample_size_5 == 0.0 and found.pareto_k_high == 0.1
    assert len(found.warnings()) == 2


def test_the_stated_errors_are_the_true_ones():
    """Compare the Monte Carlo error with the spread over keys, and the split error with that over splits."""
    params, x = linear(1), points(200)
    keys = jax.random.split(KEY, 60)
    results = [
        evaluation.summarise(evaluation.diagnose(iwae_jax.log_weights(params, x, key, 200)))
        for key in keys
    ]
    spread = np.std([r.nll for r in results], ddof=1)
    # A standard deviation of 60 has a relative standard error of 1 / sqrt(118).
    stated = np.mean([r.monte_carlo_error for r in results])
    assert abs(spread / stated - 1) < 4 / np.sqrt(118)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
def test_the_standard_error_is_not_too_small_where_few_weights_carry_the_mean(scale):
    """Log-normal weights with ever heavier tails; the true error is the spread of the estimates."""
    k, repeats = 500, 2000
    log_w = np.random.default_rng(0).normal(0, scale, (k, repeats))
    found = evaluation.diagnose(log_w)
    true = found.log_likelihood.std(ddof=1)
    stated = np.sqrt(np.mean(found.standard_error**2))
    w = np.exp(log_w)
    delta = np.sqrt(np.mean(w.var(axis=0, ddof=1) / w.mean(axis=0) ** 2 / k))
    # Standard errors of the ratios are under 0.05.
    assert 0.9 < stated / true < 1.6
    if scale == 0.5:
        assert stated == pytest.approx(delta, rel=0.02)
    if scale == 2.5:
        assert delta < 0.8 * true


def test_the_two_errors_are_apart():
    """Artificial log-weights, with known log p(x) of each datum and known noise of its estimate."""
    rng, splits, count, k = np.random.default_rng(0), 400, 25, 100
    log_p = rng.normal(-90, 2.0, (splits, count))
    noise = rng.normal(0, 1.0, (k, splits, count))
    results = [
        evaluation.summarise(evaluation.diagnose(noise[:, i] + log_p[i])) for i in range(splits)
    ]
    nll = np.array([r.nll for r in results])
    stated = np.mean([[r.monte_carlo_error**2, r.split_error**2] for r in results], axis=0)
    # The spread of the NLL includes both errors; a variance of 400 values has an error of sqrt(2 / 399).
    assert abs(nll.var(ddof=1) / stated.sum() - 1) < 4 * np.sqrt(2 / 399)
    # The split error is that of log p(x) itself, for any samples.
    assert abs(stated[1] / (2.0**2 / count) - 1) < 4 * np.sqrt(2 / (splits * (count - 1))) + 0.01
    same = evaluation.summarise(evaluation.diagnose(rng.normal(0, 1.0, (k, 2000)) - 90))
    assert same.split_error < 0.5 * same.monte_carlo_error


def test_log_likelihood_has_gradients():
    params, x = small(1), binary(3)
    streamed = jax.grad(lambda p: iwae_jax.log_likelihood(p, x, KEY, 6, chunk_size=4).sum())(params)
    whole = jax.grad(lambda p: iwae_jax.bound(p, x, KEY, 6).sum())(params)
    for a, b in zip(jax.tree.leaves(streamed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_bad_input():
    params = small(1)
    for name in ("chunk_size", "batch_size"):
        with pytest.raises(ValueError, match=f"Expected {name} to be a positive int, got 0"):
            iwae_jax.log_likelihood(params, binary(2), KEY, 3, **{name: 0})  # type: ignore[arg-type]
    for bad in (np.array(0.0), np.zeros((0, 3))):
        with pytest.raises(ValueError, match=r"Expected log_w of shape \[k, ...\]"):
            evaluation.diagnose(bad)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="neither NaN nor"):
            evaluation.diagnose(np.array([0.0, bad]))
    with pytest.raises(ValueError, match="at least one datum"):
        evaluation.summarise(evaluation.diagnose(np.zeros((4, 0))))


def test_paretos_k_of_tied_weights_is_that_of_the_weights_above_the_tie():
    """A discrete z is drawn many times over: the fit of a tail that begins with a tie returns a k near 0."""
    rng = np.random.default_rng(0)
    for count in (10, 40, 100):  # of 5,000, whose tail is 212
        above = np.log1p(rng.pareto(1 / 1.5, count))
        tied = evaluation.diagnose(np.concatenate([np.zeros(5000 - count), above]))
        alone = evaluation.diagnose(np.concatenate([np.full(4 * count, -1e-9), above]))
        assert tied.pareto_k > 0.7
        if count <= 40:  # a tail of a fifth
            assert tied.pareto_k == pytest.approx(float(alone.pareto_k), rel=1e-6)
    for above, expected in (
        ([10.0, 10.0, 10.0], np.inf),  # three samples carry the estimate
        ([0.1, 0.1, 0.1], -np.inf),  # all weights are nearly equal
        ([0.1] * 30, -np.inf),
    ):
        log_w = np.concatenate([np.zeros(5000 - len(above)), above])
        assert evaluation.diagnose(log_w).pareto_k == expected
