"""Remove an object from a decoder's images by dropping feature maps: the loop of a 0, 6, 8 or 9.

Radford et al. (2016), sec. 6.3.1, drop windows from bedrooms. There people marked the windows; a loop is
found by what it encloses.
"""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

import iwae_jax
from experiments.shared.reporting import drawing

DRAWS = 1000  # that the maps are chosen by
FRESH = 500  # that they are dropped from
ORDERS = 20  # random ones, beside the order of the weights
NEAREST = 20  # random choices with the most similar mean intensity
INK = 0.5  # of the brightest pixel: a fainter image keeps its loops
ENCLOSED = 1 / 256  # of the image: fewer enclosed pixels are a flaw of a stroke

Box = tuple[slice, slice]
"""Rows and columns."""


class Dropping(NamedTuple):
    """Loops and intensity against the number of dropped maps.

    Attributes:
      order: the maps by falling weight.
      chosen: the number of maps with a positive weight, which the paper's rule drops.
      loops: share of the images that have a loop, [maps + 1].
      ink: their mean intensity, [maps + 1].
      random_loops: as `loops`, in random orders, [orders, maps + 1].
      random_ink: as `ink`, in random orders, [orders, maps + 1].
    """

    order: np.ndarray
    chosen: int
    loops: np.ndarray
    ink: np.ndarray
    random_loops: np.ndarray
    random_ink: np.ndarray

    def facts(self) -> dict[str, Any]:
        """The shares that have a loop, after the paper's rule and beside two kinds of random choices."""
        count = self.chosen
        nearest = np.argsort(np.abs(self.random_ink - self.ink[count]), axis=None)[:NEAREST]
        return {
            "maps": len(self.order),
            "dropped": count,
            "loops_before": float(self.loops[0]),
            "loops_after": float(self.loops[count]),
            "ink_left": float(self.ink[count] / self.ink[0]),
            "loops_after_as_many": float(self.random_loops[:, count].mean()),
            "ink_left_as_many": float(self.random_ink[:, count].mean() / self.ink[0]),
            "loops_after_as_much_ink": float(self.random_loops.ravel()[nearest].mean()),
        }


def drop_maps(params: iwae_jax.Params, z: jax.Array, fresh: jax.Array) -> Dropping | None:
    """Choose maps by the images of z, drop them from those of fresh ones.

    None where no image has a loop, or only loops as large as the image.
    """
    rng = np.random.default_rng(0)
    shape = decoder(params)[0].image
    boxes = [loops(image) for image in grey(draw(params, z), shape)]
    weights = loop_weights(maps(params, z), boxes, shape[:2], rng)
    if weights is None or not has_loop(draw(params, fresh), shape).any():
        return None

    def left(order: np.ndarray) -> np.ndarray:
        images = [draw(without(params, order[:n]), fresh) for n in range(len(order) + 1)]
        return np.array([(has_loop(some, shape).mean(), some.mean()) for some in images]).T

    order = np.argsort(-weights, kind="stable")
    kept, ink = left(order)
    others = np.stack([left(rng.permutation(len(order))) for _ in range(ORDERS)])
    return Dropping(order, int((weights > 0).sum()), kept, ink, others[:, 0], others[:, 1])


def examples(params: iwae_jax.Params, fresh: jax.Array, found: Dropping, count: int) -> np.ndarray:
    """Some images that have a loop, with all maps, without the chosen ones, and without as many others."""
    images = draw(params, fresh)
    z = fresh[np.flatnonzero(has_loop(images, decoder(params)[0].image))[:count]]
    others = np.random.default_rng(1).permutation(len(found.order))
    rows = [draw(without(params, order[: found.chosen]), z) for order in (found.order, others)]
    blank = np.zeros((count - len(z), images.shape[1]))
    return np.concatenate([some for row in (draw(params, z), *rows) for some in (row, blank)])


def draw_curves(file: Path, curves: dict[str, Dropping], caption: str) -> None:
    """The share of images with a loop against the ink that is left."""
    figure = drawing.figure(4.5 * len(curves), 3.8)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, found) in zip(panels, curves.items(), strict=True):
        whole = found.ink[0]
        axes.plot(
            found.random_ink.ravel() / whole,
            found.random_loops.ravel(),
            ".",
            color="0.75",
            label="random maps dropped",
        )
        axes.plot(
            found.ink / whole, found.loops, ".-", label="maps dropped by weight, one after another"
        )
        ring = {"s": 90, "facecolors": "none", "edgecolors": "tab:red", "zorder": 3}
        axes.scatter(
            found.ink[found.chosen] / whole,
            found.loops[found.chosen],
            label=f"the {found.chosen} of {len(found.order)} with a positive weight",
            **ring,
        )
        axes.set(
            title=name,
            xlabel="mean intensity, relative to that with all maps",
            ylabel="share with a loop",
            ylim=(-0.02, 1.35 * max(found.loops.max(), found.random_loops.max())),
        )
        axes.legend(frameon=False, fontsize=8)
        axes.grid(alpha=0.2)
    drawing.save(figure, file, caption)


def draw(params: iwae_jax.Params, z: jax.Array) -> np.ndarray:
    """E[x | z] of each z, [n, pixels]."""
    return np.asarray(_draw(params, z))


@jax.jit
def _draw(params: iwae_jax.Params, z: jax.Array) -> jax.Array:
    return jax.vmap(lambda z: params.model.mean_x(params, (z,)))(z)


def grey(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Images as rows and columns: the mean of the colours."""
    return images.reshape(-1, *shape).mean(axis=-1)


def loops(image: np.ndarray) -> list[Box]:
    """The boxes of the parts of the ground that ink encloses."""
    from scipy import ndimage

    parts: Any = ndimage.label(image < INK * image.max())[0]  # type: ignore[index]
    outside = {0, *parts[0], *parts[-1], *parts[:, 0], *parts[:, -1]}
    sizes = np.bincount(parts.ravel())
    return [
        box
        for number, box in enumerate(ndimage.find_objects(parts), 1)
        if number not in outside and sizes[number] >= ENCLOSED * image.size
    ]


def has_loop(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Whether each image has a loop."""
    return np.array([bool(loops(image)) for image in grey(images, shape)])


def loop_weights(
    maps: np.ndarray, boxes: list[list[Box]], shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray | None:
    """Weight of each map in a logistic regression: a place in the boxes, or another one of the same image.

    Of each image as many places of one kind as of the other. None if there are none.

    Args:
      maps: activations, [n, rows, columns, maps].
      boxes: those of the loops of each image, in pixels. The stroke around one is within a place of a map.
      shape: rows and columns of the images.
      rng: chooses the places.
    """
    from sklearn.linear_model import LogisticRegression

    found, labels = [], []
    for one, some in zip(maps, boxes, strict=True):
        inside = np.zeros(one.shape[:2], bool)
        for rows, columns in some:
            inside[_places(rows, shape[0], len(one)), _places(columns, shape[1], one.shape[1])] = (
                True
            )
        count = min(int(inside.sum()), int((~inside).sum()))
        found += [rng.permutation(one[where])[:count] for where in (inside, ~inside)]
        labels += [np.ones(count), np.zeros(count)]
    activations = np.concatenate(found)
    if not len(activations):
        return None
    scale = np.maximum(activations.std(axis=0), 1e-12)
    regression = LogisticRegression(max_iter=2000).fit(activations / scale, np.concatenate(labels))
    return regression.coef_[0]


def _places(pixels: slice, length: int, places: int) -> slice:
    """The places of a map that hold some pixels, and one more on each side."""
    first, last = pixels.start * places // length, (pixels.stop - 1) * places // length
    return slice(max(first - 1, 0), last + 2)


def decoder(params: iwae_jax.Params) -> tuple[Any, Any]:
    """The network of the likelihood, and its variables."""
    return params.model.decoder(), params.generative["likelihood"]


def maps(params: iwae_jax.Params, z: jax.Array) -> np.ndarray:
    """The activations that the last convolution reads, [n, rows, columns, maps]."""
    module, variables = decoder(params)
    (head, _), *_ = module.heads

    def one(z: jax.Array) -> jax.Array:
        read = []

        def keep(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.module.name == head:
                read.append(args[0])
            return call(*args, **kwargs)

        with nn.intercept_methods(keep):
            module.apply(variables, z)
        return read[0]

    return np.asarray(jax.jit(jax.vmap(one))(z))


def without(params: iwae_jax.Params, dropped: np.ndarray) -> iwae_jax.Params:
    """The model whose last convolution reads zeros in place of some maps."""
    module, variables = decoder(params)
    weights = dict(variables["params"])
    for name, _ in module.heads:
        kernel = weights[name]["kernel"]
        weights[name] = weights[name] | {"kernel": kernel.at[:, :, dropped].set(0.0)}
    return iwae_jax.Params(
        params.generative | {"likelihood": variables | {"params": weights}},
        params.recognition,
        params.model,
    )
