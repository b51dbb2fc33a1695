"""Train a decoder adversarially: the generator of a DCGAN, and its discriminator."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import iwae_jax
from experiments.shared.system.display import Display, console
from experiments.shared.system.errors import DivergedError
from iwae_jax import checkpoints
from iwae_jax.models import Convolutional

BATCH = 100
FACTS = ("discriminator_loss", "generator_loss", "accuracy")
"""Of a pass: the mean loss of each, and the share of images that the discriminator judges rightly."""

OPTIMIZER = optax.adam(2e-4, b1=0.5)  # of both, as in Radford et al. (2016)


class Players(NamedTuple):
    """The variables of both networks, each with its batch statistics, and the optimizers' states."""

    generator: Any
    discriminator: Any
    generator_state: Any
    discriminator_state: Any


class Game(NamedTuple):
    """The two networks, and the model whose p(x | z) has the generator's mean.

    Attributes:
      params: the model's parameters before training; its posterior stays as it is, and is not used.
      generator: the network of the model's likelihood.
      discriminator: the network from an image to the logit of its being real.
    """

    params: iwae_jax.Params
    generator: nn.Module
    discriminator: nn.Module

    @classmethod
    def of(cls, config: iwae_jax.ModelConfig, key: jax.Array, data_mean: np.ndarray) -> "Game":
        """The game of a convolutional model with batch normalisation."""
        network = config.make_network
        assert isinstance(network, Convolutional)
        (channels,) = config.hidden_sizes
        return cls(
            iwae_jax.init(key, config, data_mean=data_mean),
            config.decoder(),
            network(hidden_sizes=channels, heads=(("logit", ()),), activation="leaky_relu"),
        )

    def start(self, key: jax.Array) -> Players:
        """New players: the generator is the model's decoder."""
        generator = jax.tree.map(
            jnp.array, self.params.generative["likelihood"]
        )  # a pass donates it
        pixels = jnp.zeros(self.params.model.data_shape)
        discriminator = dict(self.discriminator.init(key, pixels))
        return Players(
            generator,
            discriminator,
            OPTIMIZER.init(generator["params"]),
            OPTIMIZER.init(discriminator["params"]),
        )

    def model_of(self, players: Players) -> iwae_jax.Params:
        """The model's parameters with the trained decoder."""
        generative = self.params.generative | {"likelihood": players.generator}
        return iwae_jax.Params(generative, self.params.recognition, self.params.model)

    def images(self, variables: Any, z: jax.Array) -> tuple[jax.Array, Any]:
        """The generator's images of a batch of z, and its variables with moved statistics."""
        outputs, variables = in_batch(self.generator, variables, z)
        return jax.vmap(self.params.model.parts.likelihood.mean)(outputs), variables

    def logits(self, variables: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        """The discriminator's logits of a batch of images, and its variables with moved statistics."""
        outputs, variables = in_batch(self.discriminator, variables, x)
        return outputs["logit"], variables


def in_batch(network: nn.Module, variables: Any, inputs: jax.Array) -> tuple[Any, Any]:
    """The outputs for a batch under the batch's own statistics, and the variables with moved ones."""

    def one(inputs: jax.Array) -> Any:
        return network.apply(variables, inputs, train=True, mutable=["batch_stats"])

    outputs, moved = jax.vmap(one, axis_name="batch", out_axes=(0, None))(inputs)
    return outputs, {**variables, **moved}


def step(
    game: Game, players: Players, x: jax.Array, key: jax.Array
) -> tuple[Players, dict[str, jax.Array]]:
    """A step of the discriminator on real and drawn images, then one of the generator."""
    first, second = jax.random.split(key)
    (size,) = game.params.model.latent_sizes
    drawn, _ = game.images(players.generator, jax.random.normal(first, (len(x), size)))

    def discriminator_loss(weights: Any) -> Any:
        variables = {**players.discriminator, "params": weights}
        real, variables = game.logits(variables, x)  # a batch of each: Radford et al., sec. 3
        other, variables = game.logits(variables, drawn)
        loss = jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(other))
        right = 0.5 * (jnp.mean(real > 0) + jnp.mean(other < 0))
        return loss, (variables, right)

    (loss, (discriminator, right)), slope = jax.value_and_grad(discriminator_loss, has_aux=True)(
        players.discriminator["params"]
    )
    discriminator, discriminator_state = _moved(discriminator, slope, players.discriminator_state)

    def generator_loss(weights: Any) -> Any:
        variables = {**players.generator, "params": weights}
        z = jax.random.normal(second, (len(x), size))
        images, variables = game.images(variables, z)
        logits, _ = game.logits(discriminator, images)
        return jnp.mean(jax.nn.softplus(-logits)), variables

    (other_loss, generator), slope = jax.value_and_grad(generator_loss, has_aux=True)(
        players.generator["params"]
    )
    generator, generator_state = _moved(generator, slope, players.generator_state)
    facts = {"discriminator_loss": loss, "generator_loss": other_loss, "accuracy": right}
    return Players(generator, discriminator, generator_state, discriminator_state), facts


def _moved(variables: Any, slope: Any, state: Any) -> tuple[Any, Any]:
    with jax.numpy_dtype_promotion("standard"):
        updates, state = OPTIMIZER.update(slope, state)
    return {**variables, "params": optax.apply_updates(variables["params"], updates)}, state


def epoch(game: Game, maximum: float) -> Callable[..., Any]:
    """A compiled function of (players, images, key): a pass in whole batches, and the means of its facts."""

    @partial(jax.jit, donate_argnums=0)
    def run(players: Players, images: jax.Array, key: jax.Array) -> Any:
        order_key, step_key = jax.random.split(key)
        steps = len(images) // BATCH  # batch statistics need whole batches
        order = jax.random.permutation(order_key, len(images))[: steps * BATCH]

        def body(players: Players, batch: Any) -> Any:
            number, chosen = batch
            x = images[chosen].astype(jnp.float32) / maximum
            return step(game, players, x, jax.random.fold_in(step_key, number))

        players, facts = jax.lax.scan(
            body, players, (jnp.arange(steps), order.reshape(steps, BATCH))
        )
        return players, jax.tree.map(jnp.mean, facts)

    return run


def train(
    game: Game, folder: Path, images: np.ndarray, maximum: float, passes: int, key: jax.Array
) -> tuple[Players, list[dict[str, float]]]:
    """Take the passes that are left, with a checkpoint after each; return the players and the facts."""
    start_key, pass_key = jax.random.split(key)
    saved = checkpoints.Checkpoints(folder / "checkpoints")
    # The facts of all passes belong to the checkpoint: none is lost or written twice.
    state = (game.start(start_key), jnp.full((passes, len(FACTS)), jnp.nan))
    done, restored = 0, saved.restore(state)
    if restored is not None:
        done, state = restored
        console.print(f"adversarial training: pass {done} of {passes} is done")
    players, history = state
    run, data = epoch(game, maximum), jnp.asarray(images)
    with Display("adversarial", passes, done=done, unit="pass") as display:
        for number in range(done + 1, passes + 1):
            players, facts = run(players, data, jax.random.fold_in(pass_key, number))
            display.wait(facts)
            values = jnp.stack([facts[name] for name in FACTS])
            if not np.isfinite(np.asarray(values)).all():
                raise DivergedError(
                    f"a loss of pass {number} of the adversarial training is not finite"
                )
            history = history.at[number - 1].set(values)
            saved.save(number, (players, history))
            display.advance(f"discriminator right for {float(facts['accuracy']):.0%}", len(images))
    rows = [
        {"pass": number} | dict(zip(FACTS, map(float, values), strict=True))
        for number, values in enumerate(np.asarray(history), 1)
    ]
    return players, rows
