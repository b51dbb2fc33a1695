"""The loops of drawn digits, and the feature maps that are dropped to remove them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from experiments.studies import feature_dropping
from experiments.studies.feature_dropping import (
    Dropping,
    drop_maps,
    examples,
    loop_weights,
    loops,
    maps,
    without,
)
from iwae_jax.models.networks.convolutional import fractionally_strided

SIDE = 16
KEY = jax.random.key(0)


def ring(top: int, left: int, side: int) -> np.ndarray:
    """A square of strokes one pixel wide."""
    image = np.zeros((28, 28))
    image[top : top + side, left : left + side] = 1
    image[top + 1 : top + side - 1, left + 1 : left + side - 1] = 0
    return image


def test_a_loop_is_ground_that_ink_encloses():
    eight = np.maximum(ring(4, 8, 8), ring(11, 8, 9))
    assert loops(eight) == [
        (slice(5, 11), slice(9, 15)),
        (slice(12, 19), slice(9, 16)),
    ]
    assert loops(0.1 * eight) == loops(eight)  # a faint image keeps its loops
    opened = ring(4, 8, 8)
    opened[4, 10] = 0.4  # no ink
    assert loops(opened) == []
    cut_off = ring(0, 8, 8)
    cut_off[0] = 0  # the edge of the image encloses nothing
    assert [loops(np.rot90(cut_off, turns)) for turns in range(4)] == [[]] * 4
    assert loops(ring(4, 8, 3)) == []  # one pixel of 784: a flaw
    assert loops(ring(4, 8, 4)) == [(slice(5, 7), slice(9, 11))]
    assert loops(np.zeros((28, 28))) == loops(np.ones((28, 28))) == []


def test_weights_are_those_of_places_in_the_boxes_and_one_around():
    """A map that is on in pixels 7 to 16 of rows and columns, two places each and one more around: 2 to 9."""
    inside = np.zeros((5, 14, 14))
    inside[:, 2:10, 2:10] = 1
    noise = np.random.default_rng(0).uniform(size=inside.shape)
    features = np.stack([1 - inside, noise, 3 * inside], axis=-1)
    boxes = [[(slice(7, 18), slice(7, 18))]] * 5
    weights = loop_weights(features, boxes, (28, 28), np.random.default_rng(0))
    assert weights is not None
    assert weights[2] > 1 and weights[0] < -1 and abs(weights[1]) < 0.5
    # As sharp as they can be: another place of either kind would make them smaller.
    moved = np.roll(features, 1, axis=1)
    blurred = loop_weights(moved, boxes, (28, 28), np.random.default_rng(0))
    assert blurred is not None and blurred[2] < 0.8 * weights[2]
    whole = [[(slice(0, 28), slice(0, 28))]] * 5
    assert loop_weights(features, whole, (28, 28), np.random.default_rng(0)) is None
    assert loop_weights(features, [[]] * 5, (28, 28), np.random.default_rng(0)) is None


def hand_made() -> iwae_jax.Params:
    """Maps of 8 x 8 that the last convolution copies: a ring if z_0 > 0, a bar if z_1 > 0, and a bar always."""
    config = iwae_jax.ModelConfig(
        (SIDE * SIDE,),
        (2,),
        ((3,),),
        "relu",
        network="conv",
        likelihood="normal:scale=0.1,link=logit",
    )
    params = iwae_jax.init(KEY, config)
    kernel, bias = np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3))
    kernel[0, 2:6, 2:6, 1] = 100.0
    kernel[0, 3:5, 3:5, 1] = 0.0
    kernel[1, :, 0, 0] = 100.0
    bias[:, 7, 2] = 100.0
    copies = np.zeros((4, 4, 3, 1))
    copies[1:3, 1:3] = 1.0
    decoder = jax.tree.map(np.array, params.generative["likelihood"])
    weights = decoder["params"]
    weights["hidden_0"] = {
        "kernel": jnp.asarray(kernel.reshape(2, -1)),
        "bias": jnp.asarray(bias.ravel()),
    }
    weights["mean"] = {"kernel": jnp.asarray(copies)}
    weights["mean_bias"] = jnp.full(SIDE * SIDE, -10.0)
    generative = params.generative | {"likelihood": {"params": weights}}
    return iwae_jax.Params(generative, params.recognition, params.model)


def draws(key: int, count: int = 60) -> jax.Array:
    """Points of which no coordinate is near zero."""
    signs = jax.random.rademacher(jax.random.key(key), (count, 2))
    return signs.astype(jnp.float32)


def test_the_map_that_draws_the_loop_is_dropped_and_no_other():
    params, fresh = hand_made(), draws(2)
    found = drop_maps(params, draws(1), fresh)
    assert found is not None and found.order[0] == 1 and found.chosen == 1
    share = float((fresh[:, 0] > 0).mean())
    np.testing.assert_allclose(found.loops, [share, 0, 0, 0])
    # Pixels of ink: a ring of 12 places of 4 pixels, and two bars of 8 places.
    bars = 32 * float((fresh[:, 1] > 0).mean()), 32.0
    np.testing.assert_allclose(
        found.ink[:2] * SIDE**2, [48 * share + sum(bars), sum(bars)], rtol=0.01
    )
    rows = np.arange(feature_dropping.ORDERS)
    first_is_the_ring = found.random_loops[rows, 1] == 0
    assert 0 < first_is_the_ring.mean() < 1
    np.testing.assert_allclose(found.random_loops[~first_is_the_ring, 1], share)
    images = examples(params, fresh, found, 4).reshape(3, 4, SIDE, SIDE)
    assert [len(loops(image)) for image in images[0]] == [1] * 4
    assert [len(loops(image)) for image in images[1]] == [0] * 4
    wanted = images[0].copy()
    wanted[:, 4:12, 4:12] = 0.0  # the ring, and nothing else
    np.testing.assert_allclose(images[1], wanted, atol=1e-3)


def test_no_loop_no_maps():
    params = hand_made()
    assert drop_maps(params, -jnp.ones((5, 2)), draws(2)) is None
    assert drop_maps(params, draws(1), -jnp.ones((5, 2))) is None


@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_a_map_is_dropped_where_the_last_convolution_reads_it(norm):
    """Activated maps, times the kernel with zeros in their place: the image of `without`."""
    config = iwae_jax.ModelConfig(
        (64,),
        (3,),
        ((4, 8),),
        "leaky_relu",
        network=f"conv:norm={norm}",
        likelihood="normal:link=logit",
    )
    params = iwae_jax.init(KEY, config)
    z = jax.random.normal(KEY, (5, 3))
    read = maps(params, z)
    assert read.shape == (5, 4, 4, 4) and (read < 0).any() and (read > 0).any()
    weights = params.generative["likelihood"]["params"]
    for dropped in ([], [1, 3]):
        kept = read.copy()
        kept[..., dropped] = 0.0
        images = feature_dropping.draw(without(params, np.array(dropped, int)), z)
        for one, image in zip(kept, images, strict=True):
            logits = fractionally_strided(jnp.asarray(one), weights["mean"]["kernel"]).reshape(-1)
            wanted = jax.nn.sigmoid(logits + weights["mean_bias"])
            np.testing.assert_allclose(image, wanted, rtol=1e-4, atol=1e-6)


def test_facts_are_those_of_the_rule_beside_random_choices(monkeypatch):
    monkeypatch.setattr(feature_dropping, "NEAREST", 2)
    found = Dropping(
        order=np.array([2, 0, 1]),
        chosen=1,
        loops=np.array([0.5, 0.1, 0.05, 0.0]),
        ink=np.array([0.2, 0.1, 0.05, 0.01]),
        random_loops=np.array([[0.5, 0.4, 0.2, 0.0], [0.5, 0.3, 0.12, 0.0]]),
        random_ink=np.array([[0.2, 0.18, 0.11, 0.01], [0.2, 0.16, 0.09, 0.01]]),
    )
    assert found.facts() == pytest.approx(
        {
            "maps": 3,
            "dropped": 1,
            "loops_before": 0.5,
            "loops_after": 0.1,
            "ink_left": 0.5,
            "loops_after_as_many": 0.35,
            "ink_left_as_many": 0.85,
            "loops_after_as_much_ink": 0.16,
        }
    )
