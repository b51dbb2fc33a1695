"""Objects made up here take part: an estimator, an objective, a likelihood, a prior, a posterior."""

import ast
import dataclasses
import functools
import importlib
import math
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import iwae_jax
from iwae_jax import annealing, gradients, latents, models, objectives
from iwae_jax.evaluation import likelihood
from iwae_jax.training import step
from tests.oracles import LinearGaussian, Tally
from tests.test_estimators import POINT, draws, flat, scores
from tests.test_importance import KEY, binary, small

bound: Any = importlib.import_module("iwae_jax.gradients.bound")

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Routes(gradients.Estimator):
    """The three routes of another estimator, with nothing said of how they may be run."""

    other: gradients.Estimator

    @property
    def needs(self):  # type: ignore[override]
        return dataclasses.replace(self.other.needs, density=True)

    def coefficients(self, objective, log_w):
        return dataclasses.replace(self.other.coefficients(objective, log_w), along=None)


@dataclasses.dataclass(frozen=True)
class SecondOrder(objectives.Objective):
    """The ELBO and half the variance of the log-weights: their second-order mean of exp."""

    share: float = 0.5

    def __call__(self, log_w):
        return jnp.mean(log_w, axis=0) + self.share * jnp.var(log_w, axis=0)


@dataclasses.dataclass(frozen=True)
class Laplace:
    """A likelihood: independent Laplace pixels with a learned location and scale 1."""

    data_range = (-math.inf, math.inf)

    def heads(self, data_shape):
        return (("location", data_shape),)

    def log_prob(self, outputs, x):
        return jnp.sum(-jnp.abs(x - outputs["location"]) - math.log(2.0))

    def mean(self, outputs):
        return outputs["location"]

    def sample(self, outputs, key):
        return outputs["location"] + jax.random.laplace(key, outputs["location"].shape)

    def first_bias(self, data_mean):
        return data_mean


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A prior: the model's own posterior at one learned pseudo-input, which both sides train."""

    posterior: Any
    data_shape: tuple[int, ...]

    def init(self, key):
        return {"input": jax.random.uniform(key, self.data_shape)}

    def log_prob(self, params, z):
        return self.posterior.log_prob(params, params.generative["prior"]["input"], z)

    def sample(self, params, key):
        x = params.generative["prior"]["input"]
        return self.posterior.sample_and_log_prob(params, x, key)[0]


@dataclasses.dataclass(frozen=True)
class NoDensity:
    """A posterior that knows log q only where it draws."""

    inner: Any
    has_density = False

    def init(self, key, x):
        return self.inner.init(key, x)

    def sample_and_log_prob(self, params, x, key):
        return self.inner.sample_and_log_prob(params, x, key)


def composed(**parts):
    """A small model of other parts, by name or made of the plain config."""
    plain = iwae_jax.ModelConfig((6,), (3,), ((5,),))
    if parts.get("prior") == "encoded":
        parts["prior"] = Encoded(plain.parts.posterior, plain.data_shape)
    if parts.get("posterior") == "no density":
        parts["posterior"] = NoDensity(plain.parts.posterior)
    return iwae_jax.init(KEY, dataclasses.replace(plain, **parts))


def slope(params, x, k=5, **options):
    def total(params):
        return iwae_jax.bound(params, x, KEY, k, **options).sum()

    return jax.jit(jax.grad(total))(params)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", list(gradients.NAMES))
def test_the_routes_alone_give_the_gradient(name, layers):
    """The shorter ways of the driver change the gradient by rounding alone."""
    params, x = small(layers), binary(3)
    known = gradients.named(name)
    # per_sample and per_datum are not routes: they are compared elsewhere.
    if type(known).per_sample is not gradients.Estimator.per_sample:
        known = gradients.named("dreg")
    if type(known).per_datum is not gradients.Estimator.per_datum:
        pytest.skip("a term that is no route")
    for m in (None, 2):
        pair = (known, Routes(known))
        if m is not None:
            pair = tuple(gradients.resampled(m, estimator) for estimator in pair)
        a, b = (slope(params, x, gradient=estimator) for estimator in pair)
        np.testing.assert_allclose(flat(a), flat(b), rtol=2e-3, atol=2e-4)


def train(params, x, **options):
    """Two steps and a pass: through every function that trains."""
    state = iwae_jax.TrainState.create(params, optax.adam(1e-3))
    before = iwae_jax.bound(params, x, KEY, 4, objective=options.get("objective", "iwae"))
    for number in range(2):
        state, values = iwae_jax.train_step(state, x, jax.random.key(number), 4, **options)
        assert np.isfinite(values).all()
    state, means = iwae_jax.train_epoch(
        state, x, KEY, 4, batch_size=2, binarization="none", maximum=1.0, **options
    )
    assert np.isfinite(means).all()
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True)
    ]
    assert all(moved), "a parameter that nothing trains"
    return before


def test_an_estimator_made_up_here_trains():
    train(small(1), binary(4).astype(float), gradient=Routes(gradients.named("dreg")))


def test_an_objective_made_up_here_trains_with_every_estimator():
    params, x = small(1), binary(4).astype(float)
    train(params, x, objective=SecondOrder(0.25), gradient="dreg")
    log_w = iwae_jax.log_weights(params, x, KEY, 6)
    expected = log_w.mean(axis=0) + 0.25 * log_w.var(axis=0)
    got = iwae_jax.bound(params, x, KEY, 6, objective=SecondOrder(0.25), gradient="vimco")
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    # h = 2 share (k - 1) / k^2 in closed form; the base class differentiates.
    h = SecondOrder(0.25).hessian_diagonal(log_w)
    np.testing.assert_allclose(h, 2 * 0.25 * 5 / 36, rtol=1e-4)
    assert objectives.kind(SecondOrder()) == "not said"


def test_a_likelihood_made_up_here_trains():
    params, x = composed(likelihood=Laplace()), jax.random.normal(KEY, (4, 6))
    train(params, x, gradient="dreg")
    model = params.model
    z = (jnp.array([0.3, -1.0, 2.0]),)
    location = model.mean_x(params, z)
    expected = stats.laplace.logpdf(x[0], location).sum() + stats.norm.logpdf(z[0]).sum()
    np.testing.assert_allclose(model.log_joint(params, x[0], z), expected, rtol=1e-5)
    assert iwae_jax.sample(params, KEY, 5).shape == (5, 6)


def test_a_prior_that_uses_the_recognition_network_trains():
    params, x = composed(prior="encoded"), binary(4)[:, :6].astype(float)
    train(params, x)
    # p(z) at z is q(z | pseudo-input): the same density as the posterior part's.
    model, z = params.model, (jnp.array([0.3, -1.0, 2.0]),)
    prior = model.log_joint(params, x[0], z) - model.log_conditional(params, x[0], z)
    pseudo = params.generative["prior"]["input"]
    np.testing.assert_allclose(prior, model.log_posterior(params, pseudo, z), rtol=1e-4)
    assert not hasattr(model, "prior_moments")
    with pytest.raises(ValueError, match="Expected a model with prior_moments for gradient"):
        iwae_jax.bound(params, x, KEY, 2, gradient="gdreg")


@functools.lru_cache(maxsize=2)
def _several_routes(name):
    params = composed(prior="encoded")
    x = binary(1)[0, :6].astype(float)

    def one(key):
        def value(params):
            return iwae_jax.bound(params, x, key, 5, gradient=name)

        return flat(jax.grad(value)(params))

    keys = jax.random.split(KEY, 20_000)
    return np.asarray(jax.lax.map(one, keys, batch_size=2000), np.float64)


def test_a_parameter_on_several_routes_gets_the_gradient_of_each():
    """The recognition network is on the routes p and z; dreg holds it on route q alone."""
    difference = _several_routes("dreg") - _several_routes("reparam")
    assert scores(difference).max() < 4.5
    assert np.abs(difference).max() > 1e-2


def test_a_posterior_without_a_density_says_so():
    params, x = composed(posterior="no density"), binary(3)[:, :6]
    plain = composed()
    np.testing.assert_allclose(
        iwae_jax.bound(params, x, KEY, 4), iwae_jax.bound(plain, x, KEY, 4), rtol=1e-6
    )
    a, b = (flat(slope(p, x)) for p in (params, plain))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert np.isfinite(iwae_jax.log_likelihood(params, x, KEY, 20)).all()
    for name in gradients.NAMES:
        if gradients.named(name).needs.density:
            with pytest.raises(
                ValueError, match=f"at a given z for gradient '{name}'; that of Mod"
            ):
                iwae_jax.bound(params, x, KEY, 4, gradient=name)
    with pytest.raises(ValueError, match="at a given z for ELBO surgery"):
        latents.elbo_surgery(params, x, KEY)
    with pytest.raises(ValueError, match="at a given z for annealing from start='posterior'"):
        annealing.annealed_log_weights(params, x, KEY, 2, steps=2)


def test_divergences_do_not_rely_on_repeating_a_draw():
    """Of three layers: all parts add up to the rate, though ``encode`` draws another z."""

    class OtherDraw(LinearGaussian):
        def encode(self, params, x, key):
            other = None if key is None else jax.random.fold_in(key, 1)
            return super().encode(params, x, other)

    params = iwae_jax.init(KEY, OtherDraw(layers=3))
    x = jnp.broadcast_to(POINT, (2000, 3))
    parts = latents.unit_divergences(params, x, KEY, samples=4)
    rate = latents.elbo_surgery(params, x, jax.random.key(5), batch_size=500).rate
    # One standard error of the rate is its deviation over draws / sqrt(2000), near 0.05 here.
    np.testing.assert_allclose(sum(float(part.sum()) for part in parts), rate, atol=0.25)


def test_any_number_of_layers():
    config = iwae_jax.ModelConfig((6,), (5, 4, 3, 2), ((7,), (6,), (), (5, 4)))
    params, x = iwae_jax.init(KEY, config), binary(2)[:, :6]
    assert [mean.shape for mean, _ in iwae_jax.encode(params, x)] == [
        (2, size) for size in config.latent_sizes
    ]
    a, b = (slope(params, x, gradient=name) for name in ("reparam", "vimco"))
    np.testing.assert_allclose(
        flat(a.generative), flat(b.generative), rtol=1e-3, atol=1e-3
    )  # route p is the same


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gradients.ByRoute("stl", "dreg"), "route through log p of its own, got stl"),
        (lambda: gradients.ByRoute("reparam", "dreg"), "name dreg alone"),
        (lambda: gradients.ByRoute("gdreg", "gdreg"), "name gdreg alone"),
        (lambda: gradients.ByRoute("gdreg", gradients.resampled(2)), "one estimator for each"),
        (lambda: gradients.ByRoute("gdreg", gradients.chunked(2)), "one estimator for each"),
        (
            lambda: gradients.resampled(2, gradients.resampled(2)),
            "neither resampled nor chunked yet",
        ),
        (lambda: gradients.named(3), "Expected gradient to be one of reparam, .* got 3"),
    ],
)
def test_no_two_names_for_one_thing(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mixture_needs_what_its_parts_need():
    tally = iwae_jax.init(KEY, Tally())
    mixed = gradients.ByRoute(p="reparam", zq="wake_sleep")
    with pytest.raises(
        ValueError, match=r"sample_prior, sample_x for gradient 'reparam\+wake_sleep'"
    ):
        iwae_jax.bound(tally, jnp.ones(4), KEY, 2, objective="elbo", gradient=mixed)
    # Route p of the default estimator needs no reparameterised z; vimco's routes neither.
    assert not gradients.ByRoute(p="reparam", zq="rws").needs.reparameterised
    # An estimator of one's own may have a route p of its own.
    own = gradients.ByRoute(p=Routes(gradients.named("dreg")), zq="vimco")
    params, x = small(1), binary(3)
    a, b = (slope(params, x, gradient=estimator) for estimator in (own, "vimco"))
    np.testing.assert_allclose(flat(a), flat(b), rtol=2e-3, atol=2e-4)


@dataclasses.dataclass(frozen=True)
class Summed(gradients.Estimator):
    """Coefficients that would broadcast over the samples."""

    def coefficients(self, objective, log_w):
        return gradients.Coefficients(jnp.sum(objective.gradient(log_w), axis=0))


def test_coefficients_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"gradient 'summed' to give Coefficients of shape \(5, "):
        slope(small(1), binary(3), gradient=Summed())


def test_estimators_print_as_their_names():
    for name in gradients.NAMES:
        assert str(gradients.named(name)) == name
    mixed = gradients.resampled(8, gradients.ByRoute(p="gdreg", zq="vimco"))
    assert str(mixed) == "gdreg+vimco@8"


def test_what_an_objective_says_is_said_by_the_base_class():
    def stated(log_w):
        return jnp.mean(log_w, axis=0)

    stated.kind = "lower bound"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"objective with kind to be an objectives\.Objective"):
        objectives.named(stated)
    assert draws(LinearGaussian(), objectives.Function(_mean), count=10)[0].shape[0] == 10


def _mean(log_w):
    return jnp.mean(log_w, axis=0)


def test_an_objectives_repr_is_that_of_any_process_or_of_one_function():
    """`fit` compares it: a function made in another one may differ under the same name."""
    assert repr(objectives.Function(_mean)) == f"{__name__}._mean"
    # Both are kept: an address of a function that is gone may be given to the next one.
    one, other = (objectives.Function(lambda log_w: log_w[0]) for _ in range(2))
    assert "0x" in repr(one) and repr(one) != repr(other)


def test_no_estimators_name_stands_outside_its_own_file():
    """But for the table of names, the public list of the sub-package, and the recipes, which choose one."""
    room = ROOT / "src/iwae_jax/gradients"
    recipes = ROOT / "src/iwae_jax/training/recipes.py"
    table = {room / "names.py", room / "__init__.py", recipes}
    own = {
        name: Path(f"{cls.__module__.split('.')[-1]}.py") for name, cls in gradients.NAMES.items()
    }
    classes = {cls.__name__: own[name] for name, cls in gradients.NAMES.items()}
    for file in (ROOT / "src/iwae_jax").rglob("*.py"):
        if file in table:
            continue
        tree = ast.parse(file.read_text())
        docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and id(node) not in docs and node.value in own:
                assert file == room / own[node.value], (file, node.value)
            if isinstance(node, ast.Name) and node.id in classes:
                assert file == room / classes[node.id], (file, node.id)


@pytest.mark.parametrize("registry", ["LIKELIHOODS", "PRIORS", "POSTERIORS", "NETWORKS"])
def test_a_part_may_be_registered_in_one_line(registry, monkeypatch):
    parts = getattr(models, registry)
    name, make = next(iter(parts.items()))
    monkeypatch.setitem(parts, "another", make)
    field = registry.lower().removesuffix("s")
    config = dataclasses.replace(iwae_jax.ModelConfig(), **{field: "another"})
    assert config.parts == dataclasses.replace(config, **{field: name}).parts
    with pytest.raises(ValueError, match=f"Expected {field} to be one of .*another, got 'magic'"):
        dataclasses.replace(config, **{field: "magic"})


@pytest.mark.parametrize(
    ("module", "name", "static"),
    [
        (bound, "_bound", ("k", "objective", "estimator")),
        (likelihood, "_log_likelihood", ("k", "chunk_size", "batch_size", "shards", "noise")),
        (
            step,
            "_train_epoch",
            ("k", "data", "objective", "gradient", "schedule", "penalty"),
        ),
    ],
)
def test_one_compilation_for_passes_batches_and_sweeps(monkeypatch, module, name, static):
    """`chex.assert_max_traces` raises at a second trace: of another seed, batch or pass."""
    chex.clear_trace_counter()
    traced_once = chex.assert_max_traces(getattr(module, name).__wrapped__, n=1)
    monkeypatch.setattr(module, name, jax.jit(traced_once, static_argnames=static))
    optimizer, gradient = optax.adam(1e-3), gradients.resampled(2, "dreg")
    for seed in range(2):
        params = iwae_jax.init(jax.random.key(seed), small(1).model)
        x, key = binary(5)[seed : seed + 4], jax.random.key(seed)
        if module is bound:
            iwae_jax.bound(params, x, key, 5, objective=SecondOrder(), gradient=gradient)
        elif module is likelihood:
            iwae_jax.log_likelihood(params, x, key, 20, chunk_size=5)
        else:
            state = iwae_jax.TrainState.create(params, optimizer)
            for _ in range(2):
                state, _ = iwae_jax.train_epoch(
                    state, x.astype(float), key, 5, batch_size=2, gradient=gradient
                )


def test_a_name_registered_again_is_another_thing(monkeypatch):
    """Nothing that was compiled under the old meaning is used again."""
    x, optimizer = jnp.ones((2, 6)), optax.sgd(0.0)

    def values(scale):
        likelihoods, names = models.LIKELIHOODS, objectives.NAMES
        monkeypatch.setitem(likelihoods, "again", lambda config: models.Normal(scale))
        monkeypatch.setitem(names, "again", functools.partial(SecondOrder, scale))
        params = composed(likelihood="again")
        state = iwae_jax.TrainState.create(params, optimizer)
        bounds = iwae_jax.bound(params, x, KEY, 3, objective="again")
        _, stepped = iwae_jax.train_step(state, x, KEY, 3, objective="again")
        np.testing.assert_allclose(stepped, bounds, rtol=1e-5)
        expected = SecondOrder(scale)(iwae_jax.log_weights(params, x, KEY, 3))
        np.testing.assert_allclose(bounds, expected, rtol=1e-5)
        return bounds

    assert (np.abs(values(1.0) - values(0.1)) > 1).all()


@dataclasses.dataclass(frozen=True)
class HalfReparam(gradients.Reparam):
    """Half of the gradient of the class that it derives from, and a term of each sample."""

    term: bool = False

    def coefficients(self, objective, log_w):
        return jax.tree.map(lambda a: 0.5 * a, super().coefficients(objective, log_w))


@dataclasses.dataclass(frozen=True)
class WithTerm(gradients.Reparam):
    """A term that adds one to every derivative, for each sample of each datum."""

    def coefficients(self, objective, log_w):
        return super().coefficients(objective, log_w)

    def per_sample(self, params, data, z):
        return jax.tree_util.Partial(_ones, params)


def _ones(params, chosen):
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, chosen.p.size), params)


def test_a_subclass_of_an_estimator_is_another_estimator():
    params, x = small(1), binary(3)
    plain = flat(slope(params, x))
    half = flat(slope(params, x, gradient=HalfReparam()))
    np.testing.assert_allclose(half, 0.5 * plain, rtol=1e-3, atol=1e-4)
    more = flat(slope(params, x, gradient=WithTerm()))
    np.testing.assert_allclose(more, plain + 15, rtol=1e-3, atol=1e-3)


@dataclasses.dataclass(frozen=True)
class Along(gradients.Estimator):
    """Coefficients that are not what ``along`` says."""

    along: Any = "path"
    needs = gradients.DEFAULT.needs

    def coefficients(self, objective, log_w):
        c = objective.gradient(log_w)
        q = c if self.along == "path" else None
        return gradients.Coefficients(c, c, q, along=self.along)


@pytest.mark.parametrize("along", ["path", "log_w", "draw"])
def test_along_must_be_what_it_says(along):
    with pytest.raises(ValueError, match=f"with along='{along}' to give z and"):
        slope(small(1), binary(3), gradient=Along(along))


@dataclasses.dataclass(frozen=True)
class Truncated(objectives.SUMO):
    """A randomised objective whose routes z and q take the ELBO's derivatives."""

    @property
    def for_phi(self):
        return objectives.ELBO()


def test_a_randomised_objective_keeps_its_other_routes():
    params, x = small(1), binary(3)
    sumo, both = (slope(params, x, objective=o) for o in (objectives.SUMO(), Truncated()))
    np.testing.assert_allclose(flat(sumo.generative), flat(both.generative), rtol=1e-4, atol=1e-5)
    assert np.abs(flat(sumo.recognition) - flat(both.recognition)).max() > 1e-2


@dataclasses.dataclass(frozen=True)
class HeavyPrior(models.LayeredPrior):
    """Another density than that of the class that it derives from."""

    def log_prob(self, params, z):
        return jnp.sum(jax.scipy.stats.t.logpdf(z[0], 3.0))


def test_another_density_has_no_moments():
    params = composed(prior=HeavyPrior((3,)))
    assert not hasattr(params.model, "prior_moments")
    assert not latents.can_remove_units(params)
    with pytest.raises(ValueError, match="lacks prior_moments"):
        latents.unit_divergences(params, jnp.ones((2, 6)), KEY)

    class Sub(objectives.IWAE):
        def __call__(self, log_w):
            return jnp.max(log_w, axis=0)

    assert objectives.kind(Sub()) == "not said"


def test_parts_must_agree_on_the_latents():
    with pytest.raises(ValueError, match=r"to have the same latents, got shapes .*\(3,\), \(2,\)"):
        composed(prior=models.LayeredPrior((3, 2), ((4,),)))
