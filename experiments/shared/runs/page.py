"""The page of experiments.report: all runs of a folder in one HTML file."""

import base64
import html
import json
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from experiments.shared.flags.config import INCIDENTAL, Config
from experiments.shared.runs.folders import RunFolder
from experiments.shared.system.display import counted, warn
from experiments.shared.system.errors import UsageError
from iwae_jax.training import recipes

PICTURES = (
    "curves.png", "samples.png", "reconstructions.png", "active_units.png", "weights.png",
    "annealing*.png", "latents/map.png", "latents/traversals.png", "latents/interpolations.png",
    "latents/neighbours.png", "latents/arithmetic.png",
)  # fmt: skip
"""Patterns of the pictures of a run, in the order of the page."""


@dataclass(frozen=True)
class Found:
    """A run in a folder; ``summary`` is None for a run that is not finished.

    A damaged run has empty contents, and its ``problem`` says what is wrong.
    """

    name: str
    path: Path
    config: dict[str, Any]
    data: dict[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any] | None
    problem: str | None = None


def collect(root: Path) -> list[Found]:
    """Every run below a folder, by name. A damaged run is in the list too, with its problem."""
    found = []
    for file in sorted(root.rglob("config.json")):
        if file.parent.name.endswith(".discarded"):
            continue  # a kill during --overwrite
        folder = RunFolder(file.parent)
        if not (folder.path / "data.json").is_file():
            continue  # the config.json of another program, or a run that has not begun
        name = _printable(file.parent.relative_to(root) if file.parent != root else root.name)
        try:
            config, data = folder.read("config.json") or {}, folder.read("data.json") or {}
            summary, metrics = folder.read("summary.json"), folder.metrics()
            found.append(Found(name, file.parent, config, data, metrics, summary))
        except UsageError as error:
            warn(f"{name} is damaged: {_printable(error)}")
            found.append(Found(name, file.parent, {}, {}, [], None, problem=str(error)))
    return found


COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("run", "run", "text"),
    ("data", "data", "text"),
    ("source", "source", "text"),
    ("objective", "objective", "text"),
    ("kind", "bound", "text"),
    ("gradient", "gradient", "text"),
    ("layers", "L", "number"),
    ("k", "k", "number"),
    ("seed", "seed", "number"),
    ("passes", "passes", "number"),
    ("nll", "test NLL", "number"),
    ("monte_carlo_error", "± samples", "number"),
    ("split_error", "± split", "number"),
    ("nll_k", "NLL k", "number"),
    ("images", "test images", "number"),
    ("bound", "test bound", "number"),
    ("active", "active units", "text"),
    ("effective", "ESS", "number"),
    ("pareto", "Pareto k too high", "number"),
)
"""Key, head and kind of each column of the table of runs."""


def row(run: Found) -> dict[str, Any]:
    """The values of a run for `COLUMNS`, and its problem; None for a value that the run lacks."""
    summary = run.summary or {}
    return {
        "run": run.name,
        "data": run.config.get("dataset"),
        "source": run.data.get("source"),
        "objective": summary.get("objective", run.config.get("objective")),
        "kind": summary.get("objective_kind"),
        "gradient": summary.get("gradient", run.config.get("gradient")),
        "layers": run.config.get("layers"),
        "k": run.config.get("k"),
        "seed": run.config.get("seed"),
        "passes": len(run.metrics),
        "nll": summary.get("test_nll"),
        "monte_carlo_error": summary.get("monte_carlo_error"),
        "split_error": summary.get("split_error"),
        "nll_k": summary.get("test_nll_k"),
        "images": summary.get("test_images"),
        "bound": summary.get("test_bound"),
        "active": "+".join(map(str, summary.get("active_units", []))) or None,
        "effective": summary.get("effective_sample_size"),
        "pareto": summary.get("pareto_k_high"),
        "is_likelihood": summary.get("is_likelihood", True),  # earlier versions do not say
        "problem": run.problem,
    }


DIGITS = {
    "nll": 2,
    "monte_carlo_error": 4,
    "split_error": 3,
    "bound": 2,
    "effective": 1,
    "pareto": 3,
}


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and key in DIGITS:
        return f"{value:,.{DIGITS[key]}f}"
    return (
        f"{value:,}"
        if isinstance(value, int) and key in ("passes", "images", "nll_k")
        else str(value)
    )


def differing(runs: list[Found]) -> dict[str, list[Any]]:
    """The fields of the configs that differ between runs, with the value of each run."""
    configs = [_completed(run.config) for run in runs if run.problem is None]
    names = dict.fromkeys(name for config in configs for name in config)
    values = {name: [config.get(name) for config in configs] for name in names}
    return {
        name: found
        for name, found in values.items()
        if name not in INCIDENTAL and any(value != found[0] for value in found)
    }


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """A config with defaults for flags that are newer than the run, if this version can read it."""
    try:
        return Config.from_json(config).to_json()
    except (UsageError, TypeError, ValueError):
        return config


def render(runs: list[Found], title: str) -> str:
    """The whole page."""
    rows = [row(run) for run in runs]
    best = _best(runs)
    return _PAGE.substitute(
        title=_text(title),
        count=count(runs),
        heads="".join(
            f'<th data-key="{key}" data-kind="{kind}" tabindex="0" role="button">{_text(head)}</th>'
            for key, head, kind in COLUMNS
        ),
        rows="".join(
            _row(number, values, number in best, _progress(runs[number]))
            for number, values in enumerate(rows)
        ),
        differences=_differences(runs),
        details="".join(_details(number, run) for number, run in enumerate(runs)),
        curves=_script([_curve(run) for run in runs]),
    )


def count(runs: list[Found]) -> str:
    """The numbers of runs, of finished runs and of damaged runs."""
    finished = sum(run.summary is not None for run in runs)
    damaged = sum(run.problem is not None for run in runs)
    text = f"{counted(len(runs), 'run')}, {finished} of them finished"
    return text + (f", {damaged} damaged" if damaged else "")


def _best(runs: list[Found]) -> set[int]:
    """The run with the lowest NLL in each group of runs with comparable NLLs.

    A density is not comparable with a probability: runs of a group have the same kind of likelihood.
    """
    groups: dict[tuple[Any, ...], list[tuple[float, int]]] = {}
    for number, run in enumerate(runs):
        if run.summary is not None and run.summary.get("is_likelihood", True):
            facts = (
                run.data.get("fingerprint"),
                str(run.config.get("likelihood", "bernoulli")).partition(":")[0],
                *(run.summary.get(name) for name in ("test_nll_k", "test_images", "binarization")),
            )
            groups.setdefault(facts, []).append((run.summary["test_nll"], number))
    return {min(group)[1] for group in groups.values() if len(group) > 1}


def _progress(run: Found) -> str | None:
    """How far a run is that is not finished; None for a finished run."""
    if run.summary is not None:
        return None
    done = len(run.metrics)
    try:
        images = run.data.get("images", [recipes.SMALL])[0]
        total = Config.from_json(run.config).recipe(images).passes
    except (UsageError, TypeError, ValueError):  # a config of another version
        return f"unfinished, {counted(done, 'pass')}"
    return f"unfinished, pass {done:,} of {total:,}"


def _row(number: int, values: dict[str, Any], best: bool, progress: str | None) -> str:
    cells = []
    for key, _, kind in COLUMNS:
        value = values[key]
        sort = "" if value is None else value
        shown = _text(progress if progress and key == "passes" else _shown(key, value))
        if key == "run":
            shown = (
                f'<label><input type="checkbox" data-run="{number}"><i class="swatch"></i></label>'
                f'<a href="#run{number}">{shown}</a>'
            )
            if values["problem"] is not None:
                shown += f" <em>damaged: {_text(values['problem'])}</em>"
        if key == "source" and value == "embedded":
            shown += " <em>not comparable</em>"
        if key == "nll" and not values["is_likelihood"]:
            shown += " <em>cross-entropy, no NLL</em>"
        cells.append(f'<td class="{kind}" data-sort="{_text(str(sort))}">{shown}</td>')
    return f'<tr id="row{number}"{" class=best" if best else ""}>{"".join(cells)}</tr>\n'


def _differences(runs: list[Found]) -> str:
    runs_by_number = {n: run for n, run in enumerate(runs) if run.problem is None}
    fields = differing(runs)
    if not fields:
        return "<p>All runs have the same config.</p>"
    heads = "".join(f"<th>{_text(name)}</th>" for name in fields)
    lines = []
    for place, (number, run) in enumerate(runs_by_number.items()):
        cells = "".join(
            f"<td>{_text(json.dumps(values[place]))}</td>" for values in fields.values()
        )
        lines.append(f'<tr><td><a href="#run{number}">{_text(run.name)}</a></td>{cells}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr><th>run</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _details(number: int, run: Found) -> str:
    summary = run.summary
    lines = [f'<section class="run" id="run{number}"><h3>{_text(run.name)}</h3>']
    if run.problem is not None:
        return f'{lines[0]}<p class="warning">{_text(run.problem)}</p></section>'
    facts = f"{run.data.get('dataset')} from {run.data.get('source')} ({run.data.get('origin')})"
    if summary is None:
        facts += f"; {_progress(run)}"
    else:
        images = counted(summary["test_images"], "test image")
        facts += f"; {summary.get('binarization')} binarization; {images}"
        name = "NLL is" if summary.get("is_likelihood", True) else "not an NLL but a cross-entropy:"
        facts += f"; {name} -L_{summary['test_nll_k']}"
    lines.append(f"<p>{_text(facts)}</p>")
    lines += [
        f'<p class="warning">{_text(text)}</p>' for text in (summary or {}).get("warnings", [])
    ]
    lines.append('<div class="pictures">')
    for pattern in PICTURES:
        for file in filter(Path.is_file, sorted(run.path.glob(pattern))):
            content = base64.b64encode(file.read_bytes()).decode()
            lines.append(
                f'<img alt="{_text(f"{run.name}: {file.stem}")}" loading="lazy" '
                f'src="data:image/png;base64,{content}">'
            )
    lines.append("</div>")
    texts = {
        "config": run.config,
        "summary": {k: v for k, v in (summary or {}).items() if k not in _LONG},
    }
    for name, values in texts.items():
        if values:
            text = _text(json.dumps(values, indent=1))
            lines.append(f"<details><summary>{name}</summary><pre>{text}</pre></details>")
    return "\n".join([*lines, "</section>"])


_LONG = ("activity", "unit_means", "divergences")


def _curve(run: Found) -> dict[str, Any]:
    return {
        "name": run.name,
        "pass": [line["pass"] for line in run.metrics],
        "train": [line.get("train_bound") for line in run.metrics],
        "held-out": [line.get("validation_bound") for line in run.metrics],
    }


def _text(text: str) -> str:
    return html.escape(_printable(text), quote=True)


def _printable(text: Any) -> str:
    """Text without the surrogates that stand for bytes that are no UTF-8."""
    return str(text).encode("utf-8", "replace").decode()


def _script(values: Any) -> str:
    """JSON that is safe inside a script element."""
    return json.dumps(values).replace("<", "\\u003c")


_PAGE = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
