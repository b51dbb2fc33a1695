"""Recipes as data, as flags, and through a run whose k changes on the way."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from experiments.shared.flags.config import Config, UsageError
from iwae_jax import gradients
from iwae_jax.training import recipes
from iwae_jax.training.recipes import PAPER, PRESETS, Recipe
from tests.test_experiments import folder, restored, run  # noqa: F401 (fixtures)


def test_k_grows_once():
    recipe = Recipe(passes=5, first_passes=2, first_k=8, resampled=4, gradient="dreg")
    assert [recipe.samples(number, 50) for number in range(1, 6)] == [8, 8, 50, 50, 50]
    assert [recipe.samples(number, 5) for number in range(1, 6)] == [5] * 5
    assert recipe.estimator(50) == recipe.estimator(8) == gradients.resampled(4, "dreg")
    assert recipe.estimator(4) == gradients.named("dreg")
    whole = dataclasses.replace(recipe, resampled=None)
    assert whole.estimator(50) == gradients.named("dreg")


def test_the_cosine():
    """From 0 to the peak in the warm-up, half a cosine down to the last rate at the very end."""
    recipe = Recipe(passes=10, rate_decay="cosine", first_rate=1e-2, last_rate=1e-3, warm_up=2.0)
    rate = recipe.learning_rate(7)
    middle = 1e-3 + 0.5 * (1e-2 - 1e-3)
    steps = {0: 0.0, 7: 5e-3, 14: 1e-2, 14 + 28: middle, 70: 1e-3, 99: 1e-3}
    found = [float(np.asarray(rate(step))) for step in steps]
    np.testing.assert_allclose(found, list(steps.values()), rtol=1e-5, atol=1e-9)
    still = dataclasses.replace(recipe, warm_up=0.0).learning_rate(7)
    np.testing.assert_allclose(np.array([still(0), still(70)]), [1e-2, 1e-3], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"passes": 0}, "Expected passes to be a positive int"),
        ({"first_passes": 4}, "Expected first_passes to be under passes, 3, got 4"),
        ({"rate_decay": "line"}, "Expected rate_decay to be one of"),
        ({"loss": "max"}, "Expected loss to be one of"),
        ({"gradient": "magic"}, "Expected gradient to be"),
        ({"first_rate": -1.0}, "Expected first_rate to be"),
        ({"resampled": 0}, "Expected resampled to be a positive int"),
        ({"warm_up": 1.0}, "Expected warm_up to be 0 for stages"),
        ({"warm_up": 9.0, "rate_decay": "cosine"}, "Expected warm_up to be a number in"),
        ({"adam_beta2": 1.0}, "Expected adam_beta2 to be"),
        ({"precision": "half"}, "Expected precision to be None or one of float32, .*got 'half'"),
    ],
)
def test_a_recipe_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"passes": 3} | fields)


def test_the_seeds_of_a_sweep_share_a_program():
    """Of two runs with equal recipes, the second compiles nothing: its pass is not traced again."""
    traced = []

    def beta(step):
        traced.append(step)
        return jax.numpy.ones(())

    images = np.zeros((6, 4), np.uint8)
    counts = []
    for seed in (0, 1):
        recipe = Recipe(passes=2, batch_size=3, rate_decay="cosine", algorithm="soap")
        config = iwae_jax.ModelConfig((4,), (2,), ((3,),))
        params = iwae_jax.init(jax.random.key(seed), config)
        state = iwae_jax.TrainState.create(params, recipe.optimizer(2))
        iwae_jax.train_epoch(state, images, jax.random.key(seed), 2, batch_size=3, beta=beta)
        counts.append(len(traced))
    assert counts[0] == counts[1] > 0
    assert Recipe(passes=2).optimizer(2) is not Recipe(passes=2, adam_eps=1e-3).optimizer(2)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("images", [1_400, 24_345, 59_600])
def test_presets(name, layers, images):
    recipe = recipes.preset(name, images=images, layers=layers)
    assert Config.of(preset=name, layers=(layers,)).recipe(images) == recipe
    if layers > 1 and images > 10_000 and name != "paper":
        assert recipe.first_rate == 2e-3
    json.dumps(recipe.facts())
    if name == "paper":
        assert recipe == PAPER
    if name == "table":  # a cell must not borrow another cell's training
        assert {recipe.samples(n, 50) for n in range(1, recipe.passes + 1)} == {50}


def test_the_precision_of_a_preset():
    """bfloat16 in training, but for few data, the paper's protocol, and data that are not binary."""
    for name in PRESETS:
        expected = None if name == "paper" else "bfloat16"
        assert recipes.preset(name).precision == expected
        assert recipes.preset(name, images=9_999, layers=2).precision is None
        assert Config.of(preset=name).recipe(59_600).precision == expected
    table = {"likelihood": "normal", "binarization": "none"}
    assert Config.of(**table).recipe(59_600).precision is None
    assert Config.of(**table, precision="bfloat16").recipe(59_600).precision == "bfloat16"
    assert Config.of(precision="float32").recipe(59_600).precision == "float32"
    assert Config.of(binarization="none").recipe(59_600).precision is None


def test_any_field_is_a_flag():
    flags = {
        "passes": 30, "first_passes": 4, "first_k": 3, "batch_size": 7, "resampled": 2,
        "first_rate": 0.1, "last_rate": 0.01, "warm_up": 0.5, "adam_beta1": 0.5,
        "adam_beta2": 0.6, "adam_eps": 1e-8, "loss": "sum", "gradient": "stl",
    }  # fmt: skip
    expected = dataclasses.replace(recipes.preset("quick"), **flags)
    assert Config.of(**flags).recipe(59_600) == expected
    # The first passes keep their share of the passes.
    quick = recipes.preset("quick")
    half = Config.of(passes=quick.passes // 2).recipe(59_600)
    assert abs(half.first_passes - quick.first_passes / 2) <= 1
    assert Config.of(resampled=0).recipe(59_600).resampled is None


@pytest.mark.parametrize("preset", ["quick", "long"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("passes", range(1, 25))
def test_the_last_pass_takes_the_k_that_is_reported(preset, layers, passes):
    recipe = Config.of(preset=preset, layers=layers, passes=passes).recipe(59_600)
    assert recipe.samples(passes, 50) == 50
    assert recipe.first_passes > 0 or passes == 1
    with pytest.raises(ValueError, match=f"Expected first_passes to be under passes, {passes}"):
        dataclasses.replace(recipe, first_passes=passes)


def test_a_recipe_that_begins_later_does_the_same_then():
    """The rate that Adam takes at step 40 + n, and the weight of the KL term, are those of step n."""
    recipe = dataclasses.replace(recipes.preset("quick"), passes=5, first_passes=2, kl_warm_up=2.0)
    params = slope = {"w": jnp.ones(3)}
    moved = []
    for first in (0, 40):
        optimizer = recipe.optimizer(7, first)
        state: Any = optimizer.init(params)
        state = (state[0], state[1]._replace(count=state[1].count + first + 3))
        with jax.numpy_dtype_promotion("standard"):  # optax mixes ints and floats
            updates: Any = optimizer.update(slope, state, params)[0]
            rate: Any = recipe.learning_rate(7, first)(first + 3)
        beta = recipe.climb(7, first)["beta"]
        weights = [float(beta(first + steps)) for steps in (0, 7, 70)]
        moved.append([float(updates["w"][0]), float(rate), *weights])
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-6)
    assert moved[0][0] < 0 == moved[0][2] < moved[0][3] < moved[0][4] == 1


def test_a_preset_is_one_of_four():
    with pytest.raises(ValueError, match="Expected preset to be one of quick, long, table, paper"):
        recipes.preset("slow")


def test_an_objective_that_the_recipe_does_not_suit():
    """A preset must not refuse what a run without it would take."""
    groups = Config.of(objective="miwae", parameters={"m": 5})
    groups.check()  # 5 groups don't divide a first k of 2 or 8
    assert groups.recipe(59_600).first_passes == 0
    with pytest.raises(
        UsageError, match="--first-passes whose samples go with --objective=miwae"
    ):  # what was asked for is not dropped
        Config.of(objective="miwae", parameters={"m": 5}, first_passes=20, first_k=8).check()
    for objective in ("piwae", "sumo", "tvo", "jackknife", "cubo", "vae"):
        config = Config.of(objective=objective)
        config.check()
        assert config.recipe(59_600).passes == recipes.preset("quick").passes
    with pytest.raises(UsageError, match="Expected --gradient 'rws' to be defined for"):
        Config.of(objective="vae", gradient="rws").check()


def test_flags_are_checked_with_the_recipe_of_the_data():
    """Digits take 120 passes, where MNIST takes 109."""
    few = Config.of(dataset="digits", first_passes=110)
    few.check()
    few.check_recipes(1_400)
    with pytest.raises(
        UsageError, match="Expected --first-passes to be under --passes, 109, got 110"
    ):
        few.check_recipes(59_600)
    for config, message in (
        (
            Config.of(passes=10, kl_warm_up=20.0, gradient="reparam"),
            "--kl-warm-up to be at most the passes, 10, got 20",
        ),
        (
            Config.of(passes=1, first_k=8),
            "--first-k with --first-passes, got none: all passes take --k",
        ),
    ):
        with pytest.raises(UsageError, match=f"Expected {message}"):
            config.check()


GROWTH = ("--passes", 4, "--k", 6, "--first-k", 2, "--first-passes", 2, "--resampled", 3)


def test_a_run_is_resumed_across_the_change_of_k(run, folder, tmp_path, monkeypatch):  # noqa: F811
    """Stopped before, at and after the change, a run ends with the same bits; the files say what k was."""
    from experiments.shared.runs import runner

    name = "iwae-L1-k6-@3-seed0-passes4-first_passes2-first_k2-batch_size100-digits"
    costs, display = [], runner.Display

    def recorded(*arguments, **named):
        costs.append(named["costs"])
        return display(*arguments, **named)

    monkeypatch.setattr(runner, "Display", recorded)
    status, printed = run(*GROWTH, "--checkpoint-seconds", 0)
    monkeypatch.setattr(runner, "Display", display)
    assert status == 0
    assert costs == [[8, 8, 17, 17]]  # the time left knows that the last passes take longer
    assert "4 passes: 2 passes with k = 2, then k = 6; batch 100; gradient dreg@3" in printed
    assert "k: 2 in the first 2 passes, then 6" in " ".join(printed.split())
    whole = folder.with_name(name)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["k"] for line in lines] == [2, 2, 6, 6]
    recipe = json.loads((whole / "data.json").read_text())["recipe"]
    assert recipe == json.loads((whole / "summary.json").read_text())["recipe"]
    assert (recipe["first_passes"], recipe["first_k"], recipe["gradient"]) == (2, 2, "dreg")
    expected = restored(whole)
    original = runner.mean_bound
    for stop in (1, 2, 3):

        def stopping(*arguments, stop=stop):
            lines = tmp_path / f"out{stop}/mnist/{name}/metrics.jsonl"
            if lines.exists() and len(lines.read_text().splitlines()) == stop:
                raise ValueError("stopped here")
            return original(*arguments)

        monkeypatch.setattr(runner, "mean_bound", stopping)
        words = (*GROWTH, "--checkpoint-seconds", 0)
        assert run(*words, out=f"out{stop}")[0] == 1
        monkeypatch.setattr(runner, "mean_bound", original)
        status, printed = run(*words, out=f"out{stop}")
        assert status == 0 and f"resumed after pass {stop} of 4" in printed
        number, state = restored(tmp_path / f"out{stop}/mnist/{name}")
        leaves = zip(jax.tree.leaves((number, state)), jax.tree.leaves(expected), strict=True)
        for found, leaf in leaves:
            np.testing.assert_array_equal(found, leaf)
