"""A DCGAN's generator and an IWAE with the same decoder: pictures, features and likelihoods."""

import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.reporting import drawing, plots
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.runs.datasets import data_caption, observations
from experiments.shared.runs.results import Keys
from experiments.shared.runs.runner import restore_params, run_one
from experiments.shared.runs.tables import Cells
from experiments.shared.system.display import console, counted, warn
from experiments.shared.system.errors import DivergedError, UsageError
from experiments.shared.system.files import make_folder, write_csv, write_json
from experiments.shared.system.saved import read_json
from experiments.studies.adversarial import BATCH, Game, Players, train
from experiments.studies.adversarial_table import print_results
from experiments.studies.annealing_run import annealed_likelihood, bound_gaps
from experiments.studies.feature_dropping import (
    DRAWS,
    FRESH,
    draw,
    draw_curves,
    drop_maps,
    examples,
)
from experiments.studies.linear_probe import accuracy, classifier
from iwae_jax import evaluation
from iwae_jax.data import Dataset
from iwae_jax.models import Convolutional

KEY = 1000  # folded into the seed: small numbers are the keys of the IWAE's run
STEPS = 10  # images of a walk
COLUMNS = 10  # images with a loop
WALKS = 4  # of each model
SUMS = 3  # of each model
POOL = 400  # samples that exemplars are chosen from
BLOCK = 500  # images whose features are computed at a time
EXEMPLARS = 3  # averaged, as in Radford et al. (2016), sec. 6.3.2


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
      passes: of the adversarial training.
      images: test images whose likelihood is annealed.
      simulated: data drawn from each model, for the gap of the bounds.
      probe_images: training images of the linear classifier, at most.
      path: chains, steps, leapfrog steps and start of the annealing.
    """

    passes: int
    images: int
    simulated: int
    probe_images: int
    path: dict[str, Any]


class Pair(NamedTuple):
    """Both models, and what reads images in each."""

    gan: iwae_jax.Params
    iwae: iwae_jax.Params
    discriminator: tuple[Any, Any]
    encoder: tuple[Any, Any]

    @property
    def models(self) -> dict[str, iwae_jax.Params]:
        return {"DCGAN": self.gan, "IWAE": self.iwae}

    @property
    def readers(self) -> dict[str, tuple[Any, Any]]:
        """A module and its variables, by the name of its features."""
        return {"discriminator": self.discriminator, "IWAE's encoder": self.encoder}


def compare(run: Config, out_dir: Path, sizes: Sizes) -> int:
    """Train both, measure, draw, write and print; return the exit status."""
    cells = Cells({(run.data.dataset, "iwae", 1, run.bound.k[0]): (run,)}, out_dir)
    data, folder = cells.data_of(run), cells.folder(run)
    if not plots.is_image(data.data_shape) or data.has_missing:
        raise UsageError(f"Expected whole images, got {data.origin}.")
    if len(data.train) < BATCH:
        raise UsageError(
            f"Expected at least {BATCH} training images, whose statistics a batch has, got {len(data.train)}."
        )
    (latents,), (channels,) = run.network.sizes()
    name = f"{Path(run.data.dataset).name}-z{latents}-channels{'_'.join(map(str, channels))}"
    name += f"-passes{sizes.passes}-seed{run.run.seed[0]}"
    some = {"images": len(data.test), "probe_images": len(data.train)}
    sizes = sizes._replace(**{n: min(count, getattr(sizes, n)) for n, count in some.items()})
    players_folder = make_folder(out_dir / "dcgan" / name)
    _claim(players_folder, {"data": data.fingerprint})
    key = jax.random.fold_in(jax.random.key(run.run.seed[0]), KEY)
    game = game_of(run, data, jax.random.fold_in(key, 0))
    try:
        players, facts = train(
            game, players_folder, data.train, data.maximum, sizes.passes, jax.random.fold_in(key, 1)
        )
        run_one(run, folder, data, time.time(), quiet=folder.progress() == "finished")
    except DivergedError as error:
        console.print(f"failed: {error}", style="bold red")
        return 1
    params = restore_params(folder.path, data)
    pair = pair_of(game, players, params)
    out = make_folder(players_folder / results_name(run, sizes))
    stem = data_caption(
        run,
        data,
        f"DCGAN, {counted(sizes.passes, 'pass')}; IWAE, k={run.bound.k[0]}, "
        f"{counted(run.recipe(len(data.train)).passes, 'pass')}",
    )
    write_csv(out / "adversarial.csv", facts)
    study = Study(run, data, pair, stem, out, jax.random.fold_in(key, 2))
    study.losses(facts)
    study.samples()
    study.walks()
    study.filters()
    dropped = study.dropping()
    labelled = data.labels is not None
    if labelled:
        study.arithmetic()
    else:
        warn(f"{data.origin} has no labels: no linear probe and no arithmetic.")
    probes = study.probe(sizes.probe_images) if labelled else []
    try:
        likelihoods, gain = study.likelihoods(sizes)
    except ImportError as error:
        raise UsageError(str(error)) from error
    results = {
        "about": stem,
        "observation_scale": params.model.parts.likelihood.scale,
        **sizes._asdict(),
        "likelihoods": likelihoods,
        "iwae_minus_gan": gain,
        "probes": probes,
        "dropping": dropped,
    }
    write_json(out / "dcgan.json", results)
    print_results(results)
    console.print(f"{stem}\nwritten: {out}")
    return 0


def results_name(run: Config, sizes: Sizes) -> str:
    """The folder of the results: what the same adversarial training may be compared by."""
    (k,), path = run.bound.k, sizes.path
    name = f"beside-k{k}-passes{run.schedule.passes}-{run.network.likelihood[0]}"
    name += f"-{path['steps']}x{path['leapfrog']}x{path['chains']}-images{sizes.images}"
    return re.sub(
        "[^A-Za-z0-9.+_-]", "_", f"{name}-simulated{sizes.simulated}-probe{sizes.probe_images}"
    )


def _claim(out: Path, facts: dict[str, Any]) -> None:
    """Keep what the folder was made of; raise a `UsageError` if it was made of something else."""
    file = out / "made_of.json"
    if not file.exists():
        write_json(file, facts)
    elif (held := read_json(file)) != facts:
        raise UsageError(
            f"Expected {out} to be made of {facts}, got {held}: use another --out-dir."
        )


def game_of(run: Config, data: Dataset, key: jax.Array) -> Game:
    """The game whose generator has the decoder of a run, with batch normalisation."""
    config = run.replace(network="conv:norm=batch")
    model = config.model(data.train.shape[1], data.data_shape)
    return Game.of(model, key, data.mean)


def pair_of(game: Game, players: Players, params: iwae_jax.Params) -> Pair:
    """Both models after training."""
    model = params.model
    network = model.make_network
    assert isinstance(network, Convolutional)
    (size,) = model.latent_sizes
    heads = (("mean", (size,)), ("log_scale", (size,)))
    encoder = network(hidden_sizes=model.hidden_sizes[0], heads=heads, activation=model.activation)
    return Pair(
        game.model_of(players),
        params,
        (game.discriminator, players.discriminator),
        (encoder, params.recognition[0]),
    )


class Study:
    """The parts of the study, with the models and data that they share."""

    def __init__(
        self, config: Config, data: Dataset, pair: Pair, stem: str, out: Path, key: jax.Array
    ):
        self.config, self.data, self.pair = config, data, pair
        self.stem, self.out = stem, out
        self.keys = jax.random.split(key, 6)

    def losses(self, facts: list[dict[str, float]]) -> None:
        """The adversarial losses against passes."""
        figure = drawing.figure(9.0, 3.6)
        losses, right = figure.subplots(1, 2)
        passes = [row["pass"] for row in facts]
        for name in ("discriminator_loss", "generator_loss"):
            losses.plot(passes, [row[name] for row in facts], ".-", label=name.replace("_", " "))
        losses.axhline(2 * np.log(2), color="0.7", linewidth=0.8)
        losses.set(title="losses (grey: a discriminator that guesses)", ylabel="nats")
        losses.legend(frameon=False)
        right.plot(passes, [row["accuracy"] for row in facts], ".-", color="tab:green")
        right.set(
            title="images that the discriminator judges rightly", ylabel="share", ylim=(0.45, 1)
        )
        for axes in (losses, right):
            drawing.pass_axis(axes, len(passes))
            axes.grid(alpha=0.2)
        drawing.save(figure, self.out / "losses.png", self.stem)

    def samples(self) -> None:
        """Means of p(x | z), z from the prior: 30 of each model."""
        rows = [draw(params, self.z(params, 30, 0)) for params in self.pair.models.values()]
        self.grid("samples", np.concatenate(rows), 10, "E[x | z]; above: DCGAN, below: IWAE")

    def walks(self) -> None:
        """Lines between two draws from the prior."""
        rows = []
        share = jnp.linspace(0.0, 1.0, STEPS)[:, None]
        for params in self.pair.models.values():
            ends = self.z(params, 2 * WALKS, 1)
            for a, b in zip(ends[::2], ends[1::2], strict=True):
                rows.append(draw(params, a[None] * (1.0 - share) + b[None] * share))
        title = "lines between two draws of z; above: DCGAN, below: IWAE"
        self.grid("walks", np.concatenate(rows), STEPS, title)

    def arithmetic(self) -> None:
        """a - b + c on averages of three exemplars of a class. A linear classifier chooses them."""
        assert self.data.labels is not None
        count = min(len(self.data.train), 2000)
        pixels = classifier().fit(
            self.data.train[:count] / self.data.maximum, self.data.labels["train"][:count]
        )
        rows = []
        for params in self.pair.models.values():
            z = np.asarray(self.z(params, POOL, 2))
            classes = pixels.predict(draw(params, jnp.asarray(z)))
            rows += sums(params, z, classes, np.random.default_rng(0))
        if not rows:
            warn(f"no class has {EXEMPLARS} of {POOL} samples: no arithmetic.")
            return
        title = "a - b + c of the mean z of three exemplars each: last column; above: DCGAN"
        self.grid("arithmetic", np.concatenate(rows), 3 * EXEMPLARS + 1, title)

    def dropping(self) -> list[dict[str, Any]]:
        """Loops of digits dropped with the maps that draw them: two pictures, and the shares that keep one."""
        curves, facts, rows = {}, [], []
        for name, params in self.pair.models.items():
            z = self.z(params, DRAWS + FRESH, 5)
            if (found := drop_maps(params, z[:DRAWS], z[DRAWS:])) is None:
                warn(f"{name}: no image drawn has a loop: no maps to drop.")
                continue
            curves[name] = found
            facts.append({"model": name, **found.facts()})
            rows.append(examples(params, z[DRAWS:], found, COLUMNS))
        if facts:
            caption = f"{self.stem}; no split: {FRESH} images drawn from each model"
            draw_curves(self.out / "dropping-curves.png", curves, caption)
            title = f"{', then '.join(curves)}: all maps; without those for loops; without as many random ones"
            self.grid("dropping", np.concatenate(rows), COLUMNS, title)
        return facts

    def filters(self) -> None:
        """The kernels that read the image, each from its least to its greatest weight."""
        rows = []
        for _, variables in self.pair.readers.values():
            kernel = np.asarray(variables["params"]["hidden_0"]["kernel"])
            flat = np.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1)
            low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
            rows.append((flat - low) / np.maximum(high - low, 1e-12))
        names = ", below: ".join(self.pair.readers)
        side, _, channels, number = kernel.shape
        plots.image_grid(
            self.out / "filters.png",
            np.concatenate(rows),
            (side, side) if channels == 1 else (side, side, channels),
            number,
            f"first kernels; above: {names}",
            self.stem,
        )

    def probe(self, images: int) -> list[dict[str, Any]]:
        """The accuracy of a linear classifier on the last convolutional layer of each reader, and on pixels."""
        labels, data = self.data.labels, self.data
        assert labels is not None
        train, test = data.train[:images] / data.maximum, data.test / data.maximum
        train, test = train.astype(np.float32), test.astype(np.float32)
        read = {
            name: (features(*r, train), features(*r, test)) for name, r in self.pair.readers.items()
        }
        rows = []
        for name, (fit_to, tried_on) in {**read, "pixels": (train, test)}.items():
            found = accuracy(fit_to, labels["train"][:images], tried_on, labels["test"])
            rows.append({"features": name, "size": fit_to.shape[1], **found})
        return rows

    def likelihoods(self, sizes: Sizes) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Annealed log p(x) of test images under each model; the difference, paired by image."""
        x = observations(
            self.config, self.data, self.data.test[: sizes.images], Keys.of(self.config).test_pixels
        )
        rows, each = [], {}
        for name, params in self.pair.models.items():
            found = annealed_likelihood(params, x, self.keys[3], sizes.path)
            gaps = bound_gaps(params, sizes.simulated, self.keys[4], sizes.path)
            likelihood = evaluation.summarise(found)
            each[name] = np.asarray(found.log_likelihood, np.float64)
            rows.append(
                {
                    "model": name,
                    "log_p": float(each[name].mean()),
                    "monte_carlo_error": likelihood.monte_carlo_error,
                    "split_error": likelihood.split_error,
                    "effective_sample_size": likelihood.effective_sample_size,
                    "gap": float(gaps.mean()),
                    "gap_standard_error": standard_error(gaps),
                }
            )
        gain = each["IWAE"] - each["DCGAN"]
        error = standard_error(gain)
        return rows, {"mean": float(gain.mean()), "standard_error": error}

    def z(self, params: iwae_jax.Params, count: int, use: int) -> jax.Array:
        """Draws from the prior, the same for both models."""
        return jax.random.normal(self.keys[use], (count, params.model.latent_sizes[0]))

    def grid(self, name: str, images: np.ndarray, columns: int, title: str) -> None:
        """Draw a grid of images."""
        file = self.out / f"{name}.png"
        caption = f"{self.stem}; no split: drawn from the models"
        plots.image_grid(file, images, self.data.data_shape, columns, title, caption)


def sums(
    params: iwae_jax.Params, z: np.ndarray, classes: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Rows of a picture: three exemplars each of a, b and c, and the image of a - b + c of their means."""
    often = [c for c in np.unique(classes) if np.sum(classes == c) >= EXEMPLARS]
    rows = []
    for _ in range(SUMS if len(often) >= 3 else 0):
        chosen = [
            z[rng.choice(np.flatnonzero(classes == c), EXEMPLARS, False)]
            for c in rng.choice(often, 3, False)
        ]
        a, b, c = (some.mean(axis=0) for some in chosen)
        rows.append(draw(params, jnp.asarray(np.concatenate([*chosen, (a - b + c)[None]]))))
    return rows


def features(module: Any, variables: Any, x: np.ndarray) -> np.ndarray:
    """The outputs of the last convolutional layer, normalised if it is, [n, features]."""
    last = len(module.hidden_sizes) - 1

    def one(x: jax.Array) -> jax.Array:
        _, found = module.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
        layers = found["intermediates"]
        name = f"norm_{last}" if f"norm_{last}" in layers else f"hidden_{last}"
        return layers[name]["__call__"][0].reshape(-1)

    compute = jax.jit(jax.vmap(one))
    blocks = [compute(jnp.asarray(x[i : i + BLOCK])) for i in range(0, len(x), BLOCK)]
    return np.concatenate([np.asarray(block) for block in blocks])
