"""Rows of figures, as JSON and as Markdown tables."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import Spread, Times, ratio

REFERENCES = (
    "ours",
    "torch.compile",
    "torch.compile whole step",
    "torch.compile bfloat16",
    "torch.compile whole step bfloat16",
)
"""Programs that the others are compared with. A ratio below 1 is faster than the reference."""


def rows(
    labels: Mapping[str, Any],
    times: Mapping[str, Times],
    flops: Mapping[str, float],
    rate: float,
    units: int,
) -> list[dict[str, Any]]:
    """One row for each program.

    Args:
      labels: what the rows have in common, such as the work and k.
      times: seconds of each turn, by program.
      flops: operations in a turn, by program.
      rate: the float32 product rate of the same run, operations a second.
      units: steps, images or sweeps in a turn; the figure is seconds of one.

    Returns:
      Rows with seconds, ratios to `REFERENCES` paired by round, and the share of the product rate.
    """
    found = []
    for name, measured in times.items():
        spread = measured.spread
        found.append(
            {
                **labels,
                "program": name,
                "seconds": _numbers(spread, 1 / units),
                "ratio to": {
                    other: _numbers(ratio(measured, times[other]))
                    for other in REFERENCES
                    if other in times and other != name
                },
                "share of the product rate": flops[name] / spread.median / rate,
                "compile seconds": measured.compilation,
                "turns": list(measured.turns),
                "flops in a turn": flops[name],
            }
        )
    return found


def agreement(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float | bool]:
    """The difference of two bounds from repeated draws, its standard error, and whether they agree.

    They agree if the difference is within 4 standard errors, or within 0.05% of the bound: bfloat16 rounds.
    """
    difference = float(np.mean(theirs) - np.mean(ours))
    error = float(np.sqrt(np.var(ours, ddof=1) / len(ours) + np.var(theirs, ddof=1) / len(theirs)))
    near = 5e-4 * abs(float(np.mean(ours)))
    return {
        "bound": float(np.mean(theirs)),
        "minus ours": difference,
        "standard error": error,
        "agrees": bool(abs(difference) <= max(4 * error, near)),
    }


def _numbers(spread: Spread, scale: float = 1.0) -> list[float]:
    return [scale * spread.median, scale * spread.low, scale * spread.high]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows of one kind of work."""
    keys = [key for key in ("layers", "k", "batch", "images", "seeds", "steps") if key in found[0]]
    others = [name for name in REFERENCES if any(name in row["ratio to"] for row in found)]
    head = [*keys, "program", "ms", *(f"relative to {name}" for name in others)]
    head += ["share of the product rate", "compile s", "peak MiB", "bound minus ours"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in found:
        cells = [str(row[key]) for key in keys]
        median, low, high = (1000 * s for s in row["seconds"])
        cells += [row["program"], f"{median:.3g} ({low:.3g} to {high:.3g})"]
        for name in others:
            values = row["ratio to"].get(name)
            cells.append(str(Spread(*values)) if values else "")
        check, memory = row.get("bound"), row.get("peak MiB")
        cells += [f"{row['share of the product rate']:.2f}", f"{row['compile seconds']:.1f}"]
        cells += ["" if memory is None else f"{memory:.0f}"]
        cells += ["" if check is None else _checked(check)]
        lines.append(_line(cells))
    return "\n".join(lines)


def _checked(check: Mapping[str, Any]) -> str:
    text = f"{check['minus ours']:+.3f} ± {check['standard error']:.3f}"
    return text if check["agrees"] else f"**{text}: does not agree**"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


TITLES = {
    "step": "A training step",
    "likelihood": "An image of L_k (k importance samples)",
    "sweep": "A sweep: one pass of each seed",
}
NOTES = """Times are medians with their range. Programs take turns, of so many steps of training or of
all the images; ratios pair the turns of a round. What is done once in a pass, such as the shuffle,
weighs more in a turn of few steps than in training. The share is the program's products in operations a
second (two for each multiply-add; a full backward pass counts as two forward passes, and a resampled one
on m samples makes the step forward(k) + 3 forward(m)), relative to the best float32 rate of
(m, 200) x (200, 784) and (m, 200) x (200, 200) in the same run, at the rows m in the table below.
Compile time is the first call minus the median. Peak memory is the largest resident set of a process of
its own, which imports JAX (and the peer) and compiles. In a training step every program shuffles, draws
the pixels of its batch and draws its noise; in an evaluation all use the same pixels."""


def markdown(result: Mapping[str, Any]) -> str:
    """The whole report."""
    machine = result["machine"]
    versions = ", ".join(f"{n} {v}" for n, v in machine["versions"].items() if v)
    lines = [
        "# Benchmarks",
        "",
        f"Machine: {machine['processor']} (family and model {machine['family and model']}), "
        f"{machine['cores in use']} cores in use, "
        f"{', '.join(machine['instruction sets']) or 'no listed instruction sets'}; "
        f"devices {', '.join(machine['devices'])}. Versions: Python {machine['python']}, {versions}.",
        "",
        NOTES,
    ]
    for work, title in TITLES.items():
        found = [row for row in result["rows"] if row["work"] == work]
        if found:
            lines += ["", f"## {title}", "", table(found)]
    if result["product rates"]:
        names = list(next(iter(result["product rates"].values())))
        lines += ["", "## Product rates, billions of operations a second", ""]
        lines += [_line(["m", *names]), _line(["---"] * (len(names) + 1))]
        for m, rates in result["product rates"].items():
            lines.append(_line([str(m), *(f"{rates[name] / 1e9:.1f}" for name in names)]))
    for curves in result.get("time to NLL", ()):
        lines += ["", "## Time to NLL", "", curves["conditions"], "", curves["table"]]
    if result["skipped"]:
        lines += ["", "## Not measured", ""]
        lines += [f"- {name}: {why}." for name, why in result["skipped"].items()]
    return "\n".join(lines) + "\n"


def write(folder: Path, result: Mapping[str, Any]) -> None:
    """Write ``benchmarks.json`` and ``benchmarks.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "benchmarks.md").write_text(markdown(result))
