"""Pretrained parameters: they are those of the run, a damaged file is no model, and the cards hold."""

import json
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from experiments.shared.flags.config import Config, parse
from experiments.shared.runs import card, runner
from experiments.shared.runs.datasets import load_data, observations
from experiments.shared.runs.folders import RunFolder
from experiments.shared.runs.results import Keys
from experiments.shared.system.display import console
from iwae_jax import cards

SMALL = iwae_jax.ModelConfig((4,), (3, 2), ((5,), (4,)))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A short run on digits, and the folder that it was published to."""
    root = tmp_path_factory.mktemp("cards")
    config = Config.of(
        dataset="digits", k=3, passes=2, latent_sizes=(3,), hidden_sizes=((5,),), eval_k=4,
        eval_images=20, objective="renyi", parameters={"alpha": 0.5},
    )  # fmt: skip
    data = load_data(config)
    with console.capture():
        summary = runner.run_one(config, RunFolder(root / "run"), data, 0.0)
        (root / "run" / "annealing-posterior-10x2-seed0.json").write_text(
            json.dumps(dict.fromkeys(card._ANNEALED, 1.0) | {"steps": 10, "images": 4, "nll": 5.5})
        )
        card.publish(root / "run", "renyi", root / "to", None)
    return root, config, data, summary


def test_the_published_parameters_are_those_of_the_run(published):
    root, _, _, _ = published
    _, _, params = runner.restore_run(root / "run", None)
    loaded = iwae_jax.pretrained("renyi", root / "to")
    assert loaded.model == params.model
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_card_has_the_numbers_of_its_run(published):
    root, config, data, summary = published
    about = cards.card("renyi", root / "to")
    assert about["test"]["test_nll"] == summary["test_nll"]
    assert about["test"]["active_units"] == summary["active_units"]
    assert about["training"]["k"] == 3
    assert about["training"]["recipe"] == config.recipe(len(data.train)).facts()
    assert about["data"]["fingerprint"] == data.fingerprint
    assert about["annealing"]["nll"] == 5.5
    log_p = np.load(root / "run" / "test_log_likelihood.npy")
    assert about["first_images"] == {"images": 20, "nll": float(-log_p.mean())}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"preset": "long", "layers": 2, "k": 5},
        {"dataset": "digits", "objective": "renyi", "parameters": {"alpha": 0.5}, "seed": 3},
        {"hidden_sizes": ((20, 10), (5,)), "latent_sizes": (4, 2), "first_rate": 2e-3},
        {"gradient": "dreg", "resampled": 4, "precision": "bfloat16", "binarization": "none"},
        {"objective": "piwae", "parameters": {"m": 5}, "p_gradient": "reparam"},
        {"objective": "tvo", "parameters": {"partitions": (0.0, 0.5, 1.0)}, "gradient": "vimco"},
        {"after": "iwae-L1-k50-seed0", "preset": "paper", "passes": 3},
        {"data_source": "embedded", "eval_k": 100},
    ],
)
def test_the_command_of_a_card_makes_the_run(values):
    config = Config.of(**{"dataset": "mnist"} | values)
    words = shlex.split(card.command_of(config))
    assert words[:3] == ["python", "-m", "experiments.mnist"]  # there is no command of the digits
    default = Config.of(dataset="mnist")
    (again,) = parse(Config, "test", "Test.", default, words[3:]).runs()
    assert again.to_json() == config.to_json()


def test_the_command_says_what_a_preset_has_no_longer():
    config = Config.of(preset="quick", layers=2)
    recipe = config.recipe(60_000).facts() | {"passes": 7, "first_passes": 5, "first_rate": 0.25}
    words = shlex.split(card.command_of(card._as_trained(config, recipe, 60_000)))[3:]
    (again,) = parse(Config, "test", "Test.", Config.of(dataset="mnist"), words).runs()
    assert again.recipe(60_000).facts() == recipe


def test_errors_name_what_is_wrong(tmp_path):
    params = iwae_jax.init(jax.random.key(0), SMALL)
    cards.publish("one", params, {}, tmp_path)
    with pytest.raises(ValueError, match="Expected name to be one of one, got 'two'"):
        iwae_jax.pretrained("two", tmp_path)
    content = (tmp_path / "one.npz").read_bytes()
    (tmp_path / "one.npz").write_bytes(content[:-1] + b"x")
    with pytest.raises(ValueError, match=r"one\.npz to be the file of its card"):
        iwae_jax.pretrained("one", tmp_path)
    (tmp_path / "one.npz").unlink()
    with pytest.raises(ValueError, match=r"one\.npz to be the file of its card"):
        iwae_jax.pretrained("one", tmp_path)
    (tmp_path / "one.npz").write_bytes(content)
    about = json.loads((tmp_path / "one.json").read_text())
    about["model"]["latent_sizes"] = [4, 2]
    (tmp_path / "one.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="to hold arrays"):
        iwae_jax.pretrained("one", tmp_path)
    (tmp_path / "one.json").write_text("[]")
    with pytest.raises(ValueError, match=r"one\.json to hold a card"):
        iwae_jax.pretrained("one", tmp_path)


def test_only_a_model_of_named_parts_is_published(tmp_path):
    likelihood = iwae_jax.models.Normal(1.0)
    params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig((4,), likelihood=likelihood))
    with pytest.raises(ValueError, match="parts are given by name"):
        cards.publish("one", params, {}, tmp_path)
    with pytest.raises(ValueError, match="Expected params of a ModelConfig, got int"):
        cards.publish("one", iwae_jax.Params((), (), 3), {}, tmp_path)


@pytest.mark.parametrize("name", cards.names())
def test_the_packages_own_parameters_are_finite_and_small(name):
    params, about = iwae_jax.pretrained(name), cards.card(name)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))
    assert (cards.HERE / f"{name}.npz").stat().st_size < 2.5e6
    assert about["licence"] == "Apache-2.0"
    assert about["data"]["origin"] == "files"  # no folder of the machine that made it
    assert about["test"]["test_images"] == 10_000


@pytest.mark.parametrize("name", cards.names())
def test_the_page_has_the_numbers_of_the_card(name):
    page = (Path(__file__).parents[1] / "docs" / "pretrained.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    test, annealed = cards.card(name)["test"], cards.card(name)["annealing"]
    cells = [cell.strip() for cell in row.split("|")]
    nll = f"{test['test_nll']:.2f} ± {test['monte_carlo_error']:.3f} ± {test['split_error']:.2f}"
    units = "+".join(map(str, test["active_units"]))
    assert cells[2:5] == [nll, units, f"{test['pareto_k_high']:.0%}"]
    if annealed is None:
        assert cells[5] == "not measured"
    else:
        found = (annealed["nll"], annealed["monte_carlo_error"], annealed["importance_nll"])
        assert cells[5] == (
            f"{found[0]:.2f} ± {found[1]:.2f} on the first {annealed['images']} images, where -L_5000 is "
            f"{found[2]:.2f}"
        )


@pytest.mark.parametrize("name", cards.names())
def test_a_card_holds_on_real_images(name, real_data):
    """The first images' pixels and samples of the run itself: equal up to float rounding."""
    params, about = iwae_jax.pretrained(name), cards.card(name)
    words = [*shlex.split(about["command"])[3:], "--data-dir", str(real_data)]
    dataset = about["data"]["dataset"]
    (config,) = parse(Config, "test", "Test.", Config.of(dataset=dataset), words).runs()
    data = load_data(config.replace(data_source="files"))
    assert data.fingerprint == about["data"]["fingerprint"]
    keys, count = Keys.of(config), about["first_images"]["images"]
    x = observations(config, data, data.test[:count], keys.test_pixels)
    datum_keys = iwae_jax.datum_keys(keys.test, count)
    log_p = iwae_jax.log_likelihood(params, x, datum_keys, about["test"]["test_nll_k"])
    # 784 pixels and 5,000 weights in float32, on another CPU: about 1e-6 of some 100 nats an image.
    assert abs(float(-log_p.mean()) - about["first_images"]["nll"]) < 2e-3
    # The card's NLL is of all images; that of the first has the error of 100 draws of an image.
    spread = about["test"]["split_error"] * np.sqrt(about["test"]["test_images"] / count)
    assert abs(about["first_images"]["nll"] - about["test"]["test_nll"]) < 4 * spread
