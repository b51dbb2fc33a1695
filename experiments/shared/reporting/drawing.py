"""Figures with a caption, written whole or not at all."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.shared.system.display import counted
from experiments.shared.system.files import write_atomically


def figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    return Figure(figsize=(width, height), layout="constrained")


def pass_axis(axes: Any, passes: int) -> None:
    """Whole numbers along x, also where there is only one pass."""
    if passes == 1:
        axes.set(xlim=(0, 2), xticks=[1])
    else:
        axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("pass over the data")


Curve = tuple[Sequence[float], Sequence[float], str]
"""Places, values and colour of a drawn curve."""


def focus(axes: Any, curves: list[Curve], shown: Sequence[float], margin: float) -> None:
    """Set the limits of y to some values, and mark the points of the curves that lie outside.

    A triangle at the edge marks each such point; a text says how far these points go.
    """
    room = 0.05 * (max(shown) - min(shown)) + margin
    low, high = min(shown) - room, max(shown) + room
    axes.set_ylim(low, high)
    found = [(x, y, colour) for xs, ys, colour in curves for x, y in zip(xs, ys, strict=True)]
    below = [point for point in found if point[1] < low]
    above = [point for point in found if point[1] > high]
    texts = []
    for outside, edge, marker, word, farthest in (
        (above, high, "^", "higher", max),
        (below, low, "v", "lower", min),
    ):
        for x, _, colour in outside:
            axes.plot(x, edge, marker, color=colour, clip_on=False, zorder=5)
        if outside:
            end = farthest(y for _, y, _ in outside)
            texts.append(f"triangles: {counted(len(outside), 'point')} {word}, to {end:,.1f}")
    axes.text(
        0.02, 0.97, "\n".join(texts), transform=axes.transAxes, va="top", fontsize=8, color="0.35"
    )


def save(figure: Any, file: Path, caption: str) -> None:
    """Write a figure as PNG, with the caption below it."""
    figure.supxlabel(textwrap.fill(caption, 120), fontsize=7, color="0.35")
    image = io.BytesIO()
    figure.savefig(image, dpi=150, format="png")
    write_atomically(file, image.getvalue())
