"""The adversarial training of a decoder, and its study beside an IWAE."""

import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from experiments import dcgan
from experiments.studies import adversarial, adversarial_study
from experiments.studies.adversarial_study import features, sums
from iwae_jax.models import ConvNet, Convolutional
from tests.test_model_runs import type_it

KEY = jax.random.key(0)
STRIPES = np.tile(np.array([0, 255], np.uint8), (200, 32)).reshape(200, 64)
WORDS = ["--dataset=digits", "--passes=2", "--iwae-passes=1", "--channels", "3", "4", "--latents=3"]
WORDS += ["--images=3", "--chains=2", "--simulated=2", "--steps=3", "--leapfrog=2", "--k=2"]
WORDS += ["--probe-images=100"]


def game() -> adversarial.Game:
    config = iwae_jax.ModelConfig(
        (64,),
        (3,),
        ((4, 8),),
        "relu",
        network="conv:norm=batch",
        likelihood="normal:scale=0.1,link=logit",
    )
    return adversarial.Game.of(config, KEY, np.full(64, 0.5))


def test_the_generator_learns_the_only_image_there_is(tmp_path):
    """And the model's mean is its image, under the running statistics."""
    made = game()
    players, facts = adversarial.train(made, tmp_path, np.tile(STRIPES, (10, 1)), 255.0, 40, KEY)
    away = []
    for params in (made.params, made.model_of(players)):
        images = np.asarray(iwae_jax.sample(params, KEY, 50, mean=True))
        away.append(np.abs(images - STRIPES[0] / 255).mean())
    assert away[0] > 0.49 and away[1] < 0.46  # 0.39 where it was tried, and falling
    assert [row["pass"] for row in facts] == list(range(1, 41))
    assert facts[-1]["accuracy"] > 0.9 and facts[-1]["discriminator_loss"] < 0.5


def is_adams_first_step(before: Any, after: Any, slope: Any) -> None:
    """The rate times minus the sign of the slope."""
    for old, new, g in zip(*map(jax.tree.leaves, (before, after, slope)), strict=True):
        clear = np.abs(np.asarray(g)) > 1e-4
        step = (np.asarray(new) - np.asarray(old))[clear]
        np.testing.assert_allclose(step, -2e-4 * np.sign(np.asarray(g)[clear]), atol=1e-5)


def test_a_step_moves_each_player_down_its_own_loss():
    """The discriminator first; the generator under the discriminator that has moved."""
    made = game()
    players = made.start(KEY)
    x = jnp.asarray(STRIPES[:20] / 255, jnp.float32)
    moved, facts = jax.jit(lambda p: adversarial.step(made, p, x, KEY))(players)
    z = [jax.random.normal(key, (20, 3)) for key in jax.random.split(KEY)]
    drawn, _ = made.images(players.generator, z[0])

    def discriminators(weights):
        variables = {**players.discriminator, "params": weights}
        real, _ = made.logits(variables, x)
        other, _ = made.logits(variables, drawn)
        return -jnp.mean(jax.nn.log_sigmoid(real)) - jnp.mean(jnp.log1p(-jax.nn.sigmoid(other)))

    def generators(weights):
        images, _ = made.images({**players.generator, "params": weights}, z[1])
        logits, _ = made.logits(moved.discriminator, images)
        return -jnp.mean(jax.nn.log_sigmoid(logits))

    for name, loss in (("discriminator", discriminators), ("generator", generators)):
        before, after = (getattr(p, name)["params"] for p in (players, moved))
        value, slope = jax.value_and_grad(loss)(before)
        if name == "discriminator":
            np.testing.assert_allclose(facts["discriminator_loss"], value, rtol=1e-4)
        is_adams_first_step(before, after, slope)
    statistics = (p.generator["batch_stats"]["norm_0"]["mean"] for p in (players, moved))
    assert not np.array_equal(*statistics)


def test_a_killed_training_ends_as_one_left_alone(tmp_path, monkeypatch):
    made = game()
    whole, rows = adversarial.train(made, tmp_path / "whole", STRIPES, 255.0, 3, KEY)
    saved = adversarial.checkpoints.Checkpoints.save

    def killed(self, step, state):
        saved(self, step, state)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adversarial.checkpoints.Checkpoints, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            adversarial.train(made, tmp_path / "killed", STRIPES, 255.0, 3, KEY)
    resumed, again = adversarial.train(made, tmp_path / "killed", STRIPES, 255.0, 3, KEY)
    assert rows == again
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_features_are_those_that_the_posterior_reads():
    """Activated, and through the head: the posterior's mean."""
    network = Convolutional((8, 8, 1), "group")
    config = iwae_jax.ModelConfig((64,), (3,), ((4, 8),), "relu", network=network)
    params = iwae_jax.init(KEY, config)
    heads = (("mean", (3,)), ("log_scale", (3,)))
    encoder = ConvNet((8, 8, 1), (4, 8), heads, "relu", norm="group")
    x = np.asarray(STRIPES[:5] / 255, np.float32)
    found = features(encoder, params.recognition[0], x)
    head = params.recognition[0]["params"]["mean"]
    mean = np.maximum(found, 0) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    ((wanted, _),) = iwae_jax.encode(params, x)
    np.testing.assert_allclose(mean, wanted, rtol=1e-4, atol=1e-5)


def test_arithmetic_is_on_means_of_three_exemplars_of_a_class():
    params = game().params
    z = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    classes = np.repeat([0, 1, 2, 3], [12, 12, 14, 2])  # the last has too few
    rows = sums(params, z, classes, np.random.default_rng(0))
    assert len(rows) == 3
    image = {
        tuple(np.round(np.asarray(params.model.mean_x(params, (one,))), 4)): i
        for i, one in enumerate(z)
    }
    for row in rows:
        places = [image[tuple(np.round(one, 4))] for one in row[:9]]
        groups = np.array(places).reshape(3, 3)
        assert all(len(set(classes[group])) == 1 for group in groups)
        assert len({int(classes[group[0]]) for group in groups}) == 3 and 3 not in classes[groups]
        a, b, c = (z[group].mean(axis=0) for group in groups)
        np.testing.assert_allclose(row[9], params.model.mean_x(params, (a - b + c,)), atol=1e-5)
    assert sums(params, z, np.zeros(40), np.random.default_rng(0)) == []


def test_the_command_writes_what_it_prints_and_resumes(monkeypatch, capsys, tmp_path):
    words = [*WORDS, f"--out-dir={tmp_path}"]
    trained, run_one, times = adversarial_study.train, adversarial_study.run_one, []

    def ends(*given):
        found = trained(*given)
        times.append(time.time())
        return found

    def begins(config, folder, data, started, **options):
        times.append(started)
        return run_one(config, folder, data, started, **options)

    with monkeypatch.context() as patch:
        patch.setattr(adversarial_study, "train", ends)
        patch.setattr(adversarial_study, "run_one", begins)
        status, printed = type_it(monkeypatch, capsys, dcgan, *words)
    assert status == 0, printed
    assert times == sorted(times) and len(times) == 2  # the IWAE's clock starts after the DCGAN
    (file,) = (tmp_path / "dcgan").rglob("dcgan.json")
    out = file.parent
    found = json.loads((out / "dcgan.json").read_text())
    gan, iwae = found["likelihoods"]
    assert (gan["model"], iwae["model"]) == ("DCGAN", "IWAE")
    gain = found["iwae_minus_gan"]
    assert gain["mean"] == pytest.approx(iwae["log_p"] - gan["log_p"])
    assert f"{gain['mean']:.1f} ± {gain['standard_error']:.1f}" in printed
    assert f"{gan['log_p']:.1f}" in printed and f"{iwae['log_p']:.1f}" in printed
    assert [row["features"] for row in found["probes"]] == [
        "discriminator",
        "IWAE's encoder",
        "pixels",
    ]
    assert [row["size"] for row in found["probes"]] == [16, 16, 64]
    assert found["observation_scale"] == 0.1
    assert [row["model"] for row in found["dropping"]] == ["DCGAN", "IWAE"]
    for row in found["dropping"]:
        assert f"{row['loops_before']:.1%}" in printed and f"{row['loops_after']:.1%}" in printed
        assert f"{row['dropped']} of 3" in printed and row["maps"] == 3
    for name in (
        "samples",
        "walks",
        "arithmetic",
        "dropping",
        "dropping-curves",
        "filters",
        "losses",
    ):
        assert (out / f"{name}.png").stat().st_size > 3000
    status, again = type_it(monkeypatch, capsys, dcgan, *words)
    assert status == 0 and "pass 2 of 2 is done" in again and "\ntraining: pass" not in again
    assert json.loads((out / "dcgan.json").read_text()) == found
    made_of = out.parent / "made_of.json"
    made_of.write_text(made_of.read_text().replace('"data": "', '"data": "0'))
    status, refused = type_it(monkeypatch, capsys, dcgan, *words)
    assert status == 2 and "use another --out-dir" in " ".join(refused.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scale=0"], "Expected --scale to be"),
        (["--channels", "0"], "Expected --channels to be at least 1"),
        (["--images=1"], "Expected --images to be at least 2"),
        (["--dataset=cifar"], "Expected --dataset to be one of"),
    ],
)
def test_bad_input_is_refused(monkeypatch, capsys, words, message):
    status, printed = type_it(monkeypatch, capsys, dcgan, *words)
    assert status == 2 and message in " ".join(printed.split())
