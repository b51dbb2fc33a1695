"""Training on data of one's own: what is returned, stopped early, resumed and refused."""

import itertools
import json
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.progress import Progress

import iwae_jax
from iwae_jax import training
from iwae_jax.models.networks.base import MLP
from iwae_jax.training import Recipe, fit, fitting, recipes, train_epoch
from tests.test_estimators import flat

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3)) + np.array([1.0, -2.0, 0.5])
CONFIG = iwae_jax.ModelConfig((3,), (2,), ((6,),), likelihood="normal")
RECIPE = Recipe(passes=6, batch_size=16, rate_decay="cosine", first_rate=1e-2, warm_up=1.0)
OPTIONS: dict[str, Any] = {"k": 4, "recipe": RECIPE, "progress": False}


def test_a_fit_is_its_passes():
    """The passes of `train_epoch` with the recipe, on the data that are not held out."""
    found = fit(CONFIG, X, **OPTIONS)
    assert [line["pass"] for line in found.history] == list(range(1, 7))
    assert len(found.held_out) == 5
    own = np.array([row for row in X if row not in found.held_out])
    assert len(own) == 45
    keys = jax.random.split(jax.random.key(0), 4)
    params = iwae_jax.init(keys[0], CONFIG, data_mean=own.mean(axis=0))
    state = iwae_jax.TrainState.create(params, RECIPE.optimizer(3))
    for line in found.history:
        state, bounds = train_epoch(
            state, own, keys[2], 4, batch_size=16, binarization="none", maximum=1.0
        )
        mean = np.average(bounds, weights=[16, 16, 13])
        np.testing.assert_allclose(line["train_bound"], mean, rtol=1e-5)
    np.testing.assert_allclose(flat(found.params), flat(state.params), rtol=1e-5)
    held = iwae_jax.bound(found.params, jnp.asarray(found.held_out, float), keys[3], 4).mean()
    np.testing.assert_allclose(found.history[-1]["held_out_bound"], held, rtol=1e-5)
    assert found.history[-1]["train_bound"] > found.history[0]["train_bound"]


def test_data_of_0_and_1_stay_as_they_are():
    """Bytes too: 255 is the maximum of intensities alone."""
    images = RNG.integers(0, 2, (40, 4))
    config = iwae_jax.ModelConfig((4,), (2,), ((6,),))
    options: dict[str, Any] = OPTIONS | {"recipe": replace(RECIPE, passes=2)}
    found, wanted = (fit(config, images.astype(kind), **options) for kind in (np.uint8, float))
    assert found.history == wanted.history
    intensities = fit(config, (255 * images).astype(np.uint8), **options)
    assert intensities.history == wanted.history


def test_a_small_last_batch_counts_by_its_data(monkeypatch):
    """45 data in batches of 16: the last of 13."""

    def epoch(state, images, *others, **options):
        return state, np.array([-1.0, -2.0, -40.0])

    monkeypatch.setattr(fitting, "train_epoch", epoch)
    found = fit(CONFIG, X, k=4, recipe=replace(RECIPE, passes=1), progress=False)
    assert found.history[0]["train_bound"] == pytest.approx(-(16 * 3 + 13 * 40) / 45)


def test_the_precision_of_a_recipe_is_that_of_training():
    recipe = replace(RECIPE, passes=2, precision="bfloat16")
    found = fit(CONFIG, X, k=4, recipe=recipe, progress=False)
    assert found.params.model == CONFIG
    assert found.state.params.model == replace(CONFIG, precision="bfloat16")
    assert (flat(found.params) == flat(found.state.params)).all()
    for model in (CONFIG, replace(CONFIG, precision="bfloat16")):
        line = fit(model, X, k=4, recipe=replace(RECIPE, passes=2), progress=False).history[-1]
        same = line["train_bound"] == found.history[-1]["train_bound"]
        assert same == (model.precision == "bfloat16")
    keys = jax.random.split(jax.random.key(0), 4)
    held = iwae_jax.bound(found.params, jnp.asarray(found.held_out, float), keys[3], 4).mean()
    np.testing.assert_allclose(found.history[-1]["held_out_bound"], held, rtol=1e-6)


def own_network(hidden_sizes, heads, activation="tanh", bias=0.0):
    """A network that knows nothing of precision."""
    return MLP(hidden_sizes=hidden_sizes, heads=heads, activation=activation, bias=bias)


def test_a_preset_is_of_its_precision_for_binary_data_alone(monkeypatch):
    monkeypatch.setattr(recipes, "SMALL", 10)
    binary = iwae_jax.ModelConfig((3,), (2,), ((4,),))
    for config, data, expected in (
        (CONFIG, X[:20], "float32"),
        (binary, X[:20] > 0, "bfloat16"),
        (replace(binary, network=own_network), X[:20] > 0, "float32"),
    ):
        state = fit(config, data, k=2, progress=False).state
        assert state.params.model.precision == expected


def test_early_stopping_returns_the_best_pass():
    rate = Recipe(passes=40, batch_size=16, first_rate=0.5)  # so high that it falls at some pass
    found = fit(CONFIG, X, k=4, recipe=rate, patience=2, progress=False, held_out=0.3)
    values = [line["held_out_bound"] for line in found.history]
    best = int(np.argmax(values))
    assert len(values) == best + 3 < 40
    keys = jax.random.split(jax.random.key(0), 4)
    again = iwae_jax.bound(found.params, jnp.asarray(found.held_out, float), keys[3], 4).mean()
    np.testing.assert_allclose(again, values[best], rtol=1e-5)


@pytest.mark.parametrize(("patience", "precision"), [(None, None), (3, "bfloat16")])
def test_a_fit_that_is_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch, patience, precision):
    options = OPTIONS | {"patience": patience, "recipe": replace(RECIPE, precision=precision)}
    whole = fit(CONFIG, X, **options, folder=tmp_path / "whole")
    calls = itertools.count(1)

    def stops(*arguments, **keywords):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return train_epoch(*arguments, **keywords)

    monkeypatch.setattr(fitting, "train_epoch", stops)
    monkeypatch.setattr(fitting, "_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, X, **options, folder=tmp_path / "stopped")
    assert len(json.loads((tmp_path / "stopped" / "history.json").read_text())) == 3
    found = fit(CONFIG, X, **options, folder=tmp_path / "stopped")
    assert found.history == whole.history
    np.testing.assert_array_equal(flat(found.params), flat(whole.params))
    np.testing.assert_array_equal(flat(found.state.params), flat(whole.state.params))
    done = fit(CONFIG, X, **options, folder=tmp_path / "stopped")  # nothing is left to do
    np.testing.assert_array_equal(flat(done.params), flat(whole.params))


def test_the_maximum_may_be_an_int(tmp_path):
    """255 and the default of 255.0 are one training."""
    images = RNG.integers(0, 256, (40, 4)).astype(np.uint8)
    config = iwae_jax.ModelConfig((4,), (2,), ((6,),))
    options: dict[str, Any] = OPTIONS | {"recipe": replace(RECIPE, passes=1), "folder": tmp_path}
    first = fit(config, images, **options)
    assert fit(config, images, maximum=255, **options).history == first.history


def test_a_folder_of_another_training_is_refused(tmp_path):
    fit(CONFIG, X, **OPTIONS, folder=tmp_path)
    for change in ({"k": 5}, {"seed": 1}, {"recipe": Recipe(passes=7)}):
        with pytest.raises(ValueError, match="to hold this training, got another"):
            fit(CONFIG, X, **{**OPTIONS, **change}, folder=tmp_path)
    with pytest.raises(ValueError, match="got another data"):
        fit(CONFIG, X + 1, **OPTIONS, folder=tmp_path)


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({"latents": "bernoulli"}, RNG.integers(0, 256, (30, 4)).astype(np.uint8)),
        ({"posterior": "planar"}, RNG.integers(0, 2, (30, 4))),
        ({"likelihood": "discretised_logistic"}, RNG.integers(0, 256, (30, 4)).astype(np.uint8)),
        (
            {"missing": True, "likelihood": "normal:scale=shared"},
            np.where(
                np.arange(4) == 1, np.nan, RNG.normal(size=(30, 4))
            ),  # a column without a value
        ),
        ({"missing": True}, np.where(RNG.random((30, 4)) < 0.3, np.nan, RNG.random((30, 4)) < 0.3)),
        ({"likelihood": "normal", "prior": "mixture"}, RNG.normal(size=(30, 4))),
    ],
)
def test_models_of_every_kind_of_data_fit(fields, data):
    config = iwae_jax.ModelConfig((4,), (2,), ((5,),), **fields)
    found = fit(config, data, k=3, progress=False)  # the preset's gradient may not go with it
    bounds = [line["train_bound"] for line in found.history]
    assert len(bounds) == training.recipes.preset("quick", images=27).passes
    assert np.isfinite(bounds).all() and bounds[-1] > bounds[0]


@pytest.mark.parametrize("gradient", ["rws", "score", "reparam"])
def test_a_gradient_that_goes_with_discrete_latents_is_kept(gradient, tmp_path):
    config = iwae_jax.ModelConfig((4,), (2,), ((5,),), latents="bernoulli")
    recipe = Recipe(passes=2, gradient=gradient)
    fit(config, RNG.integers(0, 2, (30, 4)), recipe=recipe, k=3, progress=False, folder=tmp_path)
    kept = json.loads((tmp_path / "fit.json").read_text())["recipe"]["gradient"]
    assert kept == ("vimco" if gradient == "reparam" else gradient)


def test_bad_input_is_refused():
    for options, message in (
        ({"images": X[0]}, r"images of shape \[n, 3\]"),
        ({"images": X[:, :2]}, r"images of shape|shape"),
        ({"held_out": 1.0}, "held_out to be a number"),
        ({"held_out": 0.0, "patience": 2}, "held_out to leave data"),
        ({"patience": 0}, "patience to be a positive int"),
        ({"k": 0}, "k to be a positive int"),
        ({"maximum": 0}, "maximum to be a number"),
    ):
        keywords = {"images": X, **OPTIONS, **options}
        with pytest.raises(ValueError, match=f"Expected .*{message}"):
            fit(CONFIG, keywords.pop("images"), **keywords)
    with pytest.raises(ValueError, match="Expected config to be a ModelConfig, got str"):
        fit("model", X)  # type: ignore[arg-type]
    with pytest.raises(FloatingPointError, match="finite bounds"):
        fit(CONFIG, X, k=4, recipe=Recipe(passes=9, first_rate=1e4), progress=False)


def test_the_bar_shows_the_bounds(capsys):
    found = fit(CONFIG, X, **{**OPTIONS, "progress": True})
    printed = capsys.readouterr().out
    assert "pass 6/6" in printed
    assert f"train bound {found.history[-1]['train_bound']:.2f}, held out" in printed


def test_the_bar_moves_by_what_a_pass_costs(monkeypatch):
    moves, update = [], Progress.update

    def recorded(self, *arguments, **named):
        moves.append(named["completed"])
        update(self, *arguments, **named)

    monkeypatch.setattr(Progress, "update", recorded)
    recipe = Recipe(passes=3, batch_size=20, first_passes=2, first_k=1)
    fit(CONFIG, X, k=4, recipe=recipe)
    assert moves == [5, 10, 24]


@pytest.mark.parametrize(
    ("recipe", "k", "message"),
    [
        (Recipe(passes=2, gradient="vimco"), 1, "'vimco' to be defined for IWAE"),
        (Recipe(passes=2, gradient="dreg", kl_weight=0.5), 4, "a gradient that takes beta"),
    ],
)
def test_an_estimator_that_was_asked_for_is_not_swapped(recipe, k, message):
    """But where the model is the reason, such as discrete latents."""
    with pytest.raises(ValueError, match=f"Expected .*{message}"):
        fit(CONFIG, X, k=k, recipe=recipe, progress=False)


def test_a_preset_goes_with_groups():
    """Its first passes have samples that the groups do not divide."""
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),))
    recipe = recipes.preset("quick")
    found = fitting._fitting(recipe, config, iwae_jax.objectives.MIWAE(5), 50, given=False)
    assert found == replace(recipe, first_passes=0)


def test_a_fit_that_failed_before_its_first_checkpoint_leaves_the_folder_free(tmp_path):
    with pytest.raises(ValueError, match="Expected images in"):
        fit(CONFIG, np.where(X[0, 0] == X, np.nan, X), folder=tmp_path / "a", **OPTIONS)
    assert not (tmp_path / "a").exists()
    with pytest.raises(FloatingPointError, match="a smaller first_rate may help"):
        recipe = Recipe(passes=9, first_rate=1e4)
        fit(CONFIG, X, k=4, recipe=recipe, progress=False, folder=tmp_path / "b")
    assert len(fit(CONFIG, X, folder=tmp_path / "b", **OPTIONS).history) == 6


def test_held_out_data_are_checked():
    """With missing values too, where a value out of range is not one of them."""
    images = RNG.uniform(size=(40, 4))
    _, held_out = fitting_split(images)
    images[np.flatnonzero((images == held_out[0]).all(axis=1)), 0] = 2.0
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),), missing=True)
    with pytest.raises(ValueError, match="Expected images in"):
        fit(config, images, **OPTIONS)


def fitting_split(images):
    """The data that `fit` trains on, and those that it holds out, found from its own result."""
    config = iwae_jax.ModelConfig((4,), (2,), ((3,),))
    options: dict[str, Any] = OPTIONS | {"recipe": replace(RECIPE, passes=2)}
    return images, fit(config, images, **options).held_out


def network_of_a_module(**keywords):
    return MLP(**keywords)


def test_a_function_in_the_model_is_known_in_another_process(monkeypatch):
    config = replace(CONFIG, network=network_of_a_module)
    words = fitting._facts(config, X, RECIPE)["model"]
    assert "network_of_a_module" in words and "0x" not in words
    local = replace(CONFIG, network=lambda **keywords: MLP(**keywords))
    assert "0x" in fitting._facts(local, X, RECIPE)["model"]
