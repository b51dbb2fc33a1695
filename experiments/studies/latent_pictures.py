"""Numbers and pictures of the latents of a finished run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.reporting import plots
from experiments.shared.runs.datasets import data_caption, observations
from experiments.shared.runs.results import Keys
from experiments.shared.runs.runner import restore_run
from experiments.shared.runs.summary import trained_with
from experiments.shared.system.display import Display, console, print_table, warn
from experiments.shared.system.errors import UsageError
from experiments.shared.system.files import make_folder, write_json
from experiments.studies.linear_probe import accuracy
from iwae_jax.data import Dataset
from iwae_jax.models import families

STEPS = 9  # images of a traversal or an interpolation
BLOCK = 1000  # images encoded at a time
DRAWS = 100  # of z, for the posterior mean of a q that has no formula for it


def look(
    path: Path, *, probe_images: int, map_images: int, seed: int, data_dir: str | None
) -> dict[str, Any]:
    """Measure and draw the latents of a run into its folder ``latents``; return the numbers."""
    config, data, params = restore_run(path, data_dir)
    if not plots.is_image(data.data_shape):
        raise UsageError(f"Expected a run on images, got data of shape {data.data_shape}.")
    if data.has_missing:
        raise UsageError(f"Expected a run on whole images, got {data.origin}, which has NaN in it.")
    folder = make_folder(path / "latents")
    keys = Keys.of(config)
    stem = data_caption(config, data, f"{config.name}, {trained_with(config, data)}")
    test = observations(config, data, data.test, keys.test_pixels)
    drawing = _Drawing(config, params, data, stem, folder, jax.random.key(seed))
    results: dict[str, Any] = {"run": config.name, "source": data.source, "origin": data.origin}
    means = _means(params, test, keys.means)
    parts = list(drawing.parts(test, means, probe_images, map_images))
    with Display("latents", len(parts), unit="part") as display:
        for name, part in parts:
            found = part()
            if found:
                results[name] = found
            display.advance(name.replace("_", " "))
    write_json(folder / "latents.json", results)
    _print(results)
    console.print(f"written: {folder}")
    return results


class _Drawing:
    """The parts of the examination, with the parameters and data that they share."""

    def __init__(
        self,
        config: Config,
        params: iwae_jax.Params,
        data: Dataset,
        stem: str,
        folder: Path,
        key: jax.Array,
    ):
        self.config, self.params, self.data = config, params, data
        self.stem, self.folder = stem, folder
        keys = jax.random.split(key, 5)
        self.neighbour_key, self.mean_key, self.pick_key, self.probe_key, self.z_key = keys

    def parts(
        self,
        test: jax.Array,
        means: np.ndarray,
        probe_images: int,
        map_images: int,
    ) -> Iterator[tuple[str, Any]]:
        """The name and the function of each part."""
        yield "nearest_neighbours", lambda: self.neighbours(test)
        real = not getattr(self.params.model, "is_discrete", False)
        if real:
            yield "traversals", lambda: self.traversals(test, means)
            if len(test) > 1:
                yield "interpolations", lambda: self.interpolations(test)
        else:
            warn(
                "Discrete latents lie on no line: no traversals, no interpolations and no arithmetic."
            )
        if self.data.labels is None:
            warn(
                f"{self.data.origin} has no labels: no linear probe, no arithmetic on class means, and "
                "no colours on the map."
            )
        else:
            yield "linear_probe", lambda: self.probe(test, means, probe_images, self.probe_key)
            counts = np.unique(self.data.labels["test"], return_counts=True)[1]
            if real and np.sum(counts >= 3) == len(counts) >= 3:
                yield "arithmetic", lambda: self.arithmetic(test)
        yield "map", lambda: self.map(means, map_images)

    def grid(self, name: str, images: np.ndarray, columns: int, title: str, facts: str) -> None:
        """Draw a grid of images into the folder."""
        plots.image_grid(
            self.folder / f"{name}.png",
            images,
            self.data.data_shape,
            columns,
            title,
            f"{self.stem}; {facts}",
        )

    def encode(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """The posterior mean of each layer, [n, units]."""
        return _layers(self.params, x, None if _has_means(self.params) else self.mean_key)

    def decode(self, z: tuple[jax.Array, ...]) -> np.ndarray:
        """E[x | z] of each z, [n, pixels]."""
        params = self.params
        return np.asarray(jax.jit(jax.vmap(lambda z: params.model.mean_x(params, z)))(z))

    def neighbours(self, test: jax.Array) -> dict[str, Any]:
        """Samples, each next to its five nearest training images."""
        from sklearn.neighbors import NearestNeighbors

        samples = np.asarray(iwae_jax.sample(self.params, self.neighbour_key, 10, mean=True))
        train = self.data.train / self.data.maximum
        near = min(5, len(train))
        finder = NearestNeighbors(n_neighbors=near).fit(train)
        distances, nearest = finder.kneighbors(samples)
        # For comparison: reconstructions of test images are as smooth as samples, and no copies.
        means = np.asarray(iwae_jax.reconstruct(self.params, test[:200], self.z_key))
        usual = float(np.median(finder.kneighbors(means, 1)[0]))
        sheet = np.stack([samples, *train[nearest].transpose(1, 0, 2)], axis=1)
        self.grid(
            "neighbours",
            sheet.reshape(-1, sheet.shape[-1]),
            near + 1,
            "samples (left) and their nearest training images",
            "training split, Euclidean distance of E[x | z]",
        )
        return {"median_distance": float(np.median(distances[:, 0])), "of_reconstructions": usual}

    def traversals(self, test: jax.Array, means: np.ndarray) -> None:
        """One test image; each of the ten most active units of layer 1 moves from -3 to 3."""
        z = self.encode(test[:1])
        activity = np.var(means[:, : z[0].shape[1]], axis=0)  # layer 1 comes first
        units = np.argsort(activity)[::-1][:10]
        steps = jnp.linspace(-3.0, 3.0, STEPS)
        rows = []
        for unit in units:
            below = jnp.tile(z[0], (STEPS, 1)).at[:, int(unit)].set(steps)
            rows.append(self.decode((below, *(jnp.tile(u, (STEPS, 1)) for u in z[1:]))))
        self.grid(
            "traversals",
            np.concatenate(rows),
            STEPS,
            f"units of layer 1 from -3 to 3; from the top: {', '.join(str(int(u)) for u in units)}",
            "test split, image 1; every other unit at its posterior mean",
        )

    def interpolations(self, test: jax.Array) -> None:
        """Lines in latent space between the posterior means of two test images."""
        rows = []
        count = min(20, len(test) - len(test) % 2)
        for number in range(0, count, 2):
            ends = self.encode(test[number : number + 2])
            share = jnp.linspace(0.0, 1.0, STEPS)[:, None]
            path = tuple(end[:1] * (1.0 - share) + end[1:] * share for end in ends)
            left, right = np.asarray(test[number])[None], np.asarray(test[number + 1])[None]
            rows.append(np.concatenate([left, self.decode(path), right]))
        self.grid(
            "interpolations",
            np.concatenate(rows),
            STEPS + 2,
            "test images (ends) and the line between their posterior means",
            f"test split, first {count} images",
        )

    def probe(
        self, test: jax.Array, means: np.ndarray, probe_images: int, key: jax.Array
    ) -> dict[str, Any]:
        """Accuracy of a linear classifier on the posterior means, with Wilson's 95% interval."""
        labels = self.data.labels
        assert labels is not None
        count = min(probe_images, len(self.data.train))
        pixels_key, z_key = jax.random.split(key)
        x = observations(self.config, self.data, self.data.train[:count], pixels_key)
        read = {
            "posterior means": (_means(self.params, x, z_key), means),
            "pixels": (np.asarray(x), np.asarray(test)),
        }
        accuracies = {
            name: accuracy(fit_to, labels["train"][:count], tried_on, labels["test"])
            for name, (fit_to, tried_on) in read.items()
        }
        return {"training_images": count, "test_images": len(test), **accuracies}

    def arithmetic(self, test: jax.Array) -> None:
        """a - b + c for class means of three images each, in latent space and in pixels."""
        assert self.data.labels is not None
        labels = np.asarray(self.data.labels["test"])
        classes = np.unique(labels)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(self.pick_key)))
        rows = []
        for _ in range(8):
            picked = [
                rng.choice(np.flatnonzero(labels == c), 3, False)
                for c in rng.choice(classes, 3, False)
            ]
            means, pixels = [], []
            for numbers in picked:
                layers = self.encode(test[numbers])
                means.append([layer.mean(axis=0, keepdims=True) for layer in layers])
                pixels.append(np.asarray(test[numbers]).mean(axis=0))
            a, b, c = means
            result = tuple(u - v + w for u, v, w in zip(a, b, c, strict=True))
            decoded = [self.decode(tuple(mean))[0] for mean in means]
            naive = np.clip(pixels[0] - pixels[1] + pixels[2], 0, 1)
            rows += [*decoded, self.decode(result)[0], naive]
        self.grid(
            "arithmetic",
            np.stack(rows),
            5,
            "a - b + c: means of three images each, in z; the sum decoded; the same in pixels",
            "test split, images drawn at random by class",
        )

    def map(self, means: np.ndarray, count: int) -> dict[str, Any]:
        """t-SNE of the posterior means of all layers, side by side."""
        from sklearn.manifold import TSNE

        some = means[:count]
        perplexity = min(30.0, (len(some) - 1) / 3)
        places = TSNE(perplexity=perplexity, random_state=0).fit_transform(some)
        labels = None if self.data.labels is None else self.data.labels["test"][: len(some)]
        plots.latent_map(
            self.folder / "map.png",
            places,
            labels,
            f"posterior means of {len(some):,} test images, t-SNE",
            f"{self.stem}; test split, first {len(some):,} images; t-SNE does not preserve distances "
            "between far groups",
        )
        return {"images": len(some), "perplexity": perplexity}


def _means(params: iwae_jax.Params, x: jax.Array, key: jax.Array) -> np.ndarray:
    """The posterior means of all layers side by side; above layer 1, given one draw of the layer below."""
    keys = iwae_jax.datum_keys(key, len(x))
    blocks = []
    for start in range(0, len(x), BLOCK):
        some = slice(start, start + BLOCK)
        blocks.append(np.concatenate(_layers(params, x[some], keys[some]), axis=1))
    return np.concatenate(blocks)


def _has_means(params: iwae_jax.Params) -> bool:
    return hasattr(params.model, "encode")


def _layers(params: iwae_jax.Params, x: jax.Array, key: jax.Array | None) -> tuple[jax.Array, ...]:
    """The posterior mean of each layer: by formula, or of draws; if discrete, of what networks read of it."""
    if _has_means(params):
        return tuple(mean for mean, _ in iwae_jax.encode(params, x, key))
    assert key is not None
    return _drawn(params, x, key if key.ndim else iwae_jax.datum_keys(key, len(x)))


@jax.jit
def _drawn(params: iwae_jax.Params, x: jax.Array, keys: jax.Array) -> tuple[jax.Array, ...]:
    model: Any = params.model

    def draw(x: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
        z, _ = model.sample_posterior(params, x, key)
        if not getattr(model, "is_discrete", False):
            return tuple(z)
        return tuple(map(families.features, model.latent_families, z))

    def mean(x: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
        drawn = jax.vmap(draw, in_axes=(None, 0))(x, jax.random.split(key, DRAWS))
        return tuple(layer.mean(axis=0) for layer in drawn)

    return jax.vmap(mean)(x, keys)


def _print(results: dict[str, Any]) -> None:
    rows = []
    for name in ("posterior means", "pixels"):
        found = results.get("linear_probe", {}).get(name)
        if found:
            interval = f"{found['low']:.1%} to {found['high']:.1%}"
            rows.append((f"linear classifier on {name}", f"{found['accuracy']:.1%}", interval))
    found = results["nearest_neighbours"]
    for name, what in (("median_distance", "a sample"), ("of_reconstructions", "a reconstruction")):
        text = f"median distance of {what} to its nearest training image"
        rows.append((text, f"{found[name]:.2f}", ""))
    print_table(f"{results['run']}: latents", ("", "measured", "95% interval"), rows)
