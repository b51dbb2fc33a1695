import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

import iwae_jax
from iwae_jax import objectives
from iwae_jax.objectives import CIWAE, CUBO, ELBO, IWAE, MIWAE, PIWAE, SUMO, TVO, Jackknife, Renyi
from tests.oracles import LinearGaussian

OBJECTIVES = [ELBO(), IWAE()]


def log_w(k=7, batch=(3,), scale=50.0):
    return scale * jax.random.normal(jax.random.key(0), (k, *batch))


@pytest.mark.parametrize("batch", [(), (3,), (2, 5)])
def test_values_against_scipy(batch):
    values = log_w(batch=batch)
    reference = np.asarray(values, np.float64)
    np.testing.assert_allclose(IWAE()(values), logsumexp(reference, axis=0) - np.log(7), rtol=1e-6)
    np.testing.assert_allclose(ELBO()(values), reference.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_sample_is_the_log_weight(objective):
    values = log_w(k=1)
    np.testing.assert_array_equal(objective(values), values[0])


def test_iwae_gradient_is_the_softmax_of_the_log_weights():
    # The best sample gets the most weight; the weights are constants (eq. 14).
    values = log_w(batch=())
    gradient = jax.grad(IWAE())(values)
    np.testing.assert_allclose(gradient, softmax(np.asarray(values, np.float64)), atol=1e-6)
    assert np.argmax(gradient) == np.argmax(values)


def test_elbo_gradient_is_uniform():
    np.testing.assert_allclose(jax.grad(ELBO())(log_w(batch=())), np.full(7, 1 / 7), rtol=1e-6)


@pytest.mark.parametrize("shift", [-1e4, -90.0, 0.0, 90.0, 1e4])
def test_a_shift_of_the_weights_shifts_the_bound(shift):
    values = log_w(scale=1.0)
    shifted = IWAE()(values + shift)
    np.testing.assert_allclose(shifted, IWAE()(values) + shift, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(
        jax.grad(IWAE())(values[:, 0] + shift), jax.nn.softmax(values[:, 0]), atol=2e-3
    )


@pytest.mark.parametrize(
    ("values", "expected", "gradient"),
    [
        ([-jnp.inf, -1e4], -1e4 - np.log(2), [0.0, 1.0]),
        ([1e4, -1e4], 1e4 - np.log(2), [1.0, 0.0]),
        ([-jnp.inf, -jnp.inf], -np.inf, [0.0, 0.0]),
        ([-1e4, -1e4], -1e4, [0.5, 0.5]),
    ],
)
def test_extremes_are_right_and_their_gradients_finite(values, expected, gradient):
    values = jnp.array(values)
    np.testing.assert_allclose(IWAE()(values), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(IWAE())(values), gradient, atol=1e-6)


def test_a_nan_weight_is_not_hidden():
    assert np.isnan(IWAE()(jnp.array([0.0, jnp.nan])))


def test_data_do_not_mix():
    # The sum over a batch, or a minibatch scale, inside the exponent would mix them.
    values = log_w(k=4, batch=(3,))
    for n in range(3):
        np.testing.assert_allclose(IWAE()(values)[n], IWAE()(values[:, n]), rtol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_are_hashable_and_equal_by_value(objective):
    assert hash(objective) == hash(type(objective)()) and objective == type(objective)()


def test_iwae_is_at_least_the_elbo():
    values = log_w(k=9, batch=(100,))
    assert (IWAE()(values) >= ELBO()(values)).all()


@pytest.mark.parametrize("alpha", [-3.0, -1.0, 0.25, 0.5, 2.0])
def test_renyi_against_scipy(alpha):
    values = log_w(scale=5.0)
    order = 1 - alpha
    reference = order * np.asarray(values, np.float64)
    expected = (logsumexp(reference, axis=0) - np.log(7)) / order
    np.testing.assert_allclose(Renyi(alpha)(values), expected, rtol=1e-5)


def test_renyi_joins_its_special_cases():
    values = log_w(scale=5.0)
    np.testing.assert_array_equal(Renyi(1)(values), ELBO()(values))
    np.testing.assert_allclose(Renyi(0)(values), IWAE()(values), rtol=1e-6)
    np.testing.assert_array_equal(Renyi(-np.inf)(values), values.max(axis=0))
    np.testing.assert_array_equal(Renyi(np.inf)(values), values.min(axis=0))
    np.testing.assert_allclose(CUBO(3.0)(values), Renyi(-2.0)(values))


@pytest.mark.parametrize("distance", [1e-1, 1e-2, 1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("side", [-1, 1])
def test_renyi_is_accurate_near_the_elbo(distance, side):
    values = log_w(scale=1.0) - 90.0
    order = -side * distance
    reference = np.asarray(values, np.float64)
    mean = reference.mean(axis=0)
    expected = mean + np.log1p(np.expm1(order * (reference - mean)).mean(axis=0)) / order
    np.testing.assert_allclose(Renyi(1 - order)(values), expected, atol=2e-5)
    gradient = jax.grad(lambda l: Renyi(1 - order)(l).sum())(values)  # noqa: E741
    np.testing.assert_allclose(gradient, softmax(order * reference, axis=0), atol=1e-5)


def test_renyi_falls_as_alpha_rises():
    values = log_w(k=9, batch=(50,), scale=3.0)
    alphas = [-np.inf, -5, -1, 0, 0.3, 0.999, 1, 1.001, 2, 10, np.inf]
    bounds = np.stack([Renyi(alpha)(values) for alpha in alphas])
    assert (np.diff(bounds, axis=0) <= 2e-5).all()


def test_miwae_is_a_mean_of_groups_and_not_the_other_way_round():
    # m = 2 groups of 3, not 3 groups of 2: with m = k/m the two can't be told apart.
    values = log_w(k=6, batch=(4,))
    expected = (IWAE()(values[:3]) + IWAE()(values[3:])) / 2
    np.testing.assert_allclose(MIWAE(2)(values), expected, rtol=1e-6)
    np.testing.assert_allclose(MIWAE(1)(values), IWAE()(values), rtol=1e-6)
    np.testing.assert_allclose(MIWAE(6)(values), ELBO()(values), rtol=1e-6)
    assert not np.allclose(MIWAE(2)(values), MIWAE(3)(values))


def test_ciwae_is_a_mixture():
    values = log_w()
    for beta in (0.0, 0.25, 1.0):
        expected = beta * ELBO()(values) + (1 - beta) * IWAE()(values)
        np.testing.assert_allclose(CIWAE(beta)(values), expected, rtol=1e-5)
    empty = jnp.array([-jnp.inf, 0.0])
    np.testing.assert_allclose(CIWAE(0.0)(empty), -np.log(2), rtol=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        Renyi(0.5), Renyi(-1.0), Renyi(2.0), CUBO(2.0), MIWAE(2), CIWAE(0.5), PIWAE(2), TVO(4),
        TVO((0.0, 0.5, 1.0)), Jackknife(2),
    ],
    ids=repr,
)  # fmt: skip
def test_extremes_of_the_family(objective):
    for shift in (-1e4, 1e4):
        values = jnp.full((4,), shift)
        np.testing.assert_allclose(objective(values), shift, rtol=1e-6)
        gradient = jax.grad(objective)(values)
        np.testing.assert_allclose(gradient, 0.25, rtol=1e-3)
    one_zero = jnp.array([-jnp.inf, -1.0, -1.0, -1.0])
    assert not np.isnan(objective(one_zero))


def test_tvo_against_its_definition():
    values = log_w(scale=3.0)
    reference = np.asarray(values, np.float64)
    betas = (0.0, 0.2, 0.7, 1.0)
    expected = sum(
        (high - low) * np.sum(softmax(low * reference, axis=0) * reference, axis=0)
        for low, high in itertools.pairwise(betas)
    )
    np.testing.assert_allclose(TVO(betas)(values), expected, rtol=1e-5)
    np.testing.assert_allclose(TVO((0.0, 1.0))(values), ELBO()(values), rtol=1e-6)
    np.testing.assert_allclose(TVO(1)(values), ELBO()(values), rtol=1e-6)
    assert TVO(4, first=0.001).betas == pytest.approx((0.0, 0.001, 0.01, 0.1, 1.0))
    assert TVO([0, 0.5, 1]) == TVO((0, 0.5, 1))  # type: ignore[arg-type]


def test_tvo_rises_to_the_iwae_of_the_same_samples_and_never_passes_it():
    values = log_w(k=9, batch=(50,), scale=3.0)
    fine = [TVO(tuple(np.linspace(0, 1, n + 1).tolist()))(values) for n in (1, 2, 4, 8, 256)]
    assert (np.diff(np.stack([*fine, IWAE()(values)]), axis=0) >= -1e-5).all()
    np.testing.assert_allclose(fine[-1], IWAE()(values), atol=0.1)


def test_piwae_is_the_iwae_with_a_miwae_for_phi():
    values = log_w(k=6)
    np.testing.assert_array_equal(PIWAE(3)(values), IWAE()(values))
    assert PIWAE(3).for_phi == MIWAE(3)


def test_jackknife_of_order_0_is_the_iwae_and_of_order_1_its_formula():
    values = log_w(k=5, scale=2.0)
    np.testing.assert_array_equal(Jackknife(0)(values), IWAE()(values))
    without = [IWAE()(jnp.delete(values, i, axis=0)) for i in range(5)]
    expected = 5 * IWAE()(values) - 4 * jnp.mean(jnp.stack(without), axis=0)
    np.testing.assert_allclose(Jackknife(1)(values), expected, rtol=1e-4)


def test_sumo_is_a_randomly_truncated_sum():
    values = np.asarray(log_w(k=6, batch=(4,), scale=2.0), np.float64)
    uniform = jnp.array([0.99, 0.4, 0.26, 0.01])
    # T = 1, 2, 3 and, as k allows no more, 5.
    bounds = np.stack([logsumexp(values[: j + 1], axis=0) - np.log(j + 1) for j in range(6)])
    expected = [
        bounds[0, n] + sum((bounds[j, n] - bounds[j - 1, n]) * j for j in range(1, t + 1))
        for n, t in enumerate((1, 2, 3, 5))
    ]
    np.testing.assert_allclose(
        SUMO()(jnp.asarray(values, jnp.float32), uniform), expected, rtol=1e-4
    )
    np.testing.assert_array_equal(SUMO().samples(uniform, 6), [2, 3, 4, 6])
    np.testing.assert_array_equal(SUMO()(log_w(k=1), uniform[:3]), log_w(k=1)[0])
    # What lies beyond is not looked at, whatever it is.
    poisoned = jnp.asarray(values, jnp.float32).at[2:, 0].set(jnp.nan)
    np.testing.assert_allclose(SUMO()(poisoned, uniform)[0], expected[0], rtol=1e-4)
    gradient = jax.grad(lambda v: SUMO()(v, uniform)[0])(poisoned)
    np.testing.assert_array_equal(gradient[2:], 0.0)
    np.testing.assert_allclose(gradient[:, 0].sum(), 1.0, rtol=1e-5)


@pytest.mark.parametrize("shift", [-1e4, -90.0, 1e3])
def test_an_offset_of_all_weights_costs_sumo_and_tvo_no_digits(shift):
    values = jnp.round(16 * log_w(k=50, scale=1.0)) / 16  # exact at every shift
    uniform = jnp.array([0.5, 0.05, 0.01])
    for objective in (lambda l: SUMO()(l, uniform), TVO(5)):  # noqa: E741
        value, slope = (f(objective, values) for f in (lambda o, v: o(v), gradient_of))
        np.testing.assert_allclose(objective(values + shift) - shift, value, atol=2e-3 + 1e-4)
        np.testing.assert_allclose(gradient_of(objective, values + shift), slope, atol=1e-5)


def gradient_of(objective, values):
    return jax.grad(lambda v: objective(v).sum())(values)


def test_renyi_at_its_edges():
    values = jnp.array([-90.0, -110.0])
    for alpha, expected in ((-1e38, -90.0), (1e37, -110.0)):
        np.testing.assert_allclose(Renyi(alpha)(values), expected, rtol=1e-6)
        assert np.isfinite(jax.grad(Renyi(alpha))(values)).all()
    empty = jnp.array([0.0, -1.0, -jnp.inf, -2.0])
    assert Renyi(2.0)(empty) == -np.inf
    assert np.isfinite(jax.grad(Renyi(2.0))(empty)).all()
    np.testing.assert_array_equal(Renyi(1.0).hessian_diagonal(empty), 0.0)


def test_sumos_tail():
    reach = SUMO(tail=3, decay=0.5).reach(7)
    np.testing.assert_allclose(reach, [1, 1 / 2, 1 / 3, 1 / 6, 1 / 12, 1 / 24], rtol=1e-5)
    assert (SUMO().reach(10**4) > 0).sum() == 189
    uniform = jax.random.uniform(jax.random.key(0), (100_000,))
    counts = np.asarray(SUMO(tail=3, decay=0.5).samples(uniform, 7))
    for j, chance in enumerate(reach, 1):
        error = np.sqrt(chance * (1 - chance) / len(counts)) + 1e-12
        assert abs(np.mean(counts > j) - chance) < 4 * error


POINT = jnp.array([0.7, -1.2, 0.4])


def bounds_at_a_point(objective, k, count=100_000):
    """Of one datum of a linear-Gaussian model, less its log p(x), with other keys."""
    model = LinearGaussian()
    params = iwae_jax.init(jax.random.key(0), model)
    x = jnp.broadcast_to(POINT, (count, 3))
    values = iwae_jax.bound(params, x, jax.random.key(5), k, objective=objective)
    return np.asarray(values, np.float64) - model.log_evidence(params, POINT)


def test_values_lie_where_their_kind_says():
    """Lower bounds below log p(x) and in their order; SUMO on it; CUBO above it as k grows."""
    k = 16
    bounds = [ELBO(), MIWAE(4), CIWAE(0.1), IWAE()]
    values = [bounds_at_a_point(objective, k) for objective in bounds]
    means = [v.mean() for v in values]
    errors = [v.std() / np.sqrt(len(v)) for v in values]
    assert means == sorted(means)
    for objective in [*bounds, TVO(4), Renyi(0.5), PIWAE(4)]:
        assert objectives.kind(objective) == "lower bound"
    for objective in [TVO(4), Renyi(0.5), Renyi(0.0)]:
        values = bounds_at_a_point(objective, k)
        assert values.mean() < 4 * values.std() / np.sqrt(len(values))
    assert all(mean < -4 * error for mean, error in zip(means, errors, strict=True))
    sumo = bounds_at_a_point(SUMO(tail=200), 200, count=40_000)
    error = sumo.std() / np.sqrt(len(sumo))
    assert abs(sumo.mean()) < 3 * error < -bounds_at_a_point(IWAE(), 2).mean()  # it would be seen
    assert objectives.kind("cubo") == "neither"
    few, many = (bounds_at_a_point(CUBO(3.0), k) for k in (1, 200))
    assert few.mean() < -4 * few.std() / np.sqrt(len(few))
    assert many.mean() > 4 * many.std() / np.sqrt(len(many))


@pytest.mark.parametrize(("k", "reached"), [(8, 8), (190, 190), (250, 190), (5000, 190)])
def test_the_mean_of_sumo_is_the_iwae_of_its_first_190_samples(k, reached):
    """Exactly: a sum over all values of T, so that SUMO is a lower bound at every k."""
    log_w = 0.3 * jax.random.normal(jax.random.key(3), (k,))
    reach = np.append(SUMO().reach(k), 0.0)  # P(T >= j), j = 1 ..
    ends = np.unique(reach)  # the value is constant between two of these
    uniform = jnp.asarray((ends[:-1] + ends[1:]) / 2, jnp.float32)
    rows = jnp.broadcast_to(log_w[:, None], (k, len(uniform)))
    values = np.asarray(SUMO()(rows, uniform), np.float64)
    mean = np.sum(values * np.diff(ends)) / ends[-1]
    # 1e-4: float32 values of up to 1e3, in terms of weight 2^-23 each.
    np.testing.assert_allclose(mean, IWAE()(log_w[:reached]), atol=1e-4)
    if k > reached:
        assert abs(mean - float(IWAE()(log_w))) > 3e-4
    assert objectives.kind("sumo") == "lower bound"


def test_every_objective_has_a_name_and_says_its_kind():
    assert list(objectives.NAMES) == [cls.__name__.lower() for cls in objectives.NAMES.values()]
    for name, cls in objectives.NAMES.items():
        objective = objectives.named(name)
        assert objective == cls() and hash(objective) == hash(cls())
        assert objectives.kind(objective) in objectives.KINDS[:-1]
        assert objectives.kind(objective) in " ".join(str(cls.__doc__).lower().split())
    assert objectives.kind(Renyi(-1.0)) == "neither"
    assert objectives.kind(lambda log_w: log_w[0]) == "not said"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Renyi(float("nan")), "Expected alpha to be a number in"),
        (lambda: Renyi("a"), "Expected alpha to be a number in"),  # type: ignore[arg-type]
        (lambda: CUBO(1.0), r"Expected n to be a number in \(1.0, inf\], got 1.0"),
        (lambda: CIWAE(1.5), r"Expected beta to be a number in \[0.0, 1.0\], got 1.5"),
        (lambda: MIWAE(0), "Expected m to be a positive int"),
        (lambda: MIWAE(3)(log_w(k=7)), "Expected m to divide k, got m = 3 and k = 7"),
        (lambda: PIWAE(3)(log_w(k=7)), "Expected m to divide k, got m = 3 and k = 7"),
        (lambda: PIWAE(-1), "Expected m to be a positive int"),
        (lambda: Jackknife(-1), "Expected order to be a positive int"),
        (lambda: Jackknife(1.5), "Expected order to be a positive int"),  # type: ignore[arg-type]
        (lambda: Jackknife(7)(log_w(k=7)), "Expected order to be under k, got order = 7 and k = 7"),
        (lambda: TVO(0), "Expected partitions to be a positive int"),
        (lambda: TVO(3, first=1.0), r"Expected first to be a number in \(0.0, 1.0\), got 1.0"),
        (lambda: TVO((0.0, 0.5)), r"Expected partitions to rise from 0 to 1, got \(0.0, 0.5\)"),
        (lambda: TVO((0.0, 0.7, 0.5, 1.0)), "Expected partitions to rise from 0 to 1"),
        (lambda: SUMO(0), "Expected tail to be a positive int"),
        (lambda: SUMO(decay=1.0), r"Expected decay to be a number in \(0.0, 1.0\), got 1.0"),
        (lambda: ELBO(1), "Expected analytic_kl to be a bool, got 1"),  # type: ignore[arg-type]
        (
            lambda: objectives.named("vae"),
            r"Expected objective to be one of \['elbo', .* got 'vae'",
        ),
    ],
)
def test_objectives_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_tvo_of_weights_that_are_all_zero():
    value, slope = jax.value_and_grad(objectives.TVO(4))(jnp.full(3, -jnp.inf))
    assert value == -jnp.inf and jnp.isfinite(slope).all()


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (objectives.Jackknife(np.int64(2)), "order"),  # type: ignore[arg-type]
        (objectives.MIWAE(np.int64(2)), "m"),  # type: ignore[arg-type]
        (objectives.PIWAE(np.int64(2)), "m"),  # type: ignore[arg-type]
        (objectives.SUMO(np.int64(20)), "tail"),  # type: ignore[arg-type]
        (objectives.TVO(np.int64(4)), "partitions"),  # type: ignore[arg-type]
    ],
)
def test_whole_numbers_are_pythons(objective, name):
    """The coefficients of a jackknife are powers, which overflow in 64 bits."""
    assert type(getattr(objective, name)) is int
