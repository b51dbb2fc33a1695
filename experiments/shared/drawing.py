"""Figures with a caption, written whole or not at all."""

import io
import textwrap
from pathlib import Path
from typing import Any

from experiments.shared.files import write_atomically


def figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, file: Path, caption: str) -> None:
    """Write a figure as PNG, with the caption below it."""
    figure.supxlabel(textwrap.fill(caption, 120), fontsize=7, color="0.35")
    image = io.BytesIO()
    figure.savefig(image, dpi=150, format="png")
    write_atomically(file, image.getvalue())
