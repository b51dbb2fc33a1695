"""Train the same network with several objectives and gradients, and lay them side by side.

    python -m experiments.compare                                  # minutes on two cores
    python -m experiments.compare --passes=13 --eval-k=5000        # half an hour: see the README

An entry is OBJECTIVE[:PARAMETER=VALUE,..][/GRADIENT[@M]]: iwae/dreg, renyi:alpha=0.5, iwae/reparam@8
(the backward pass on 8 resampled samples), tvo:partitions=[0,0.5,1], elbo/reparam+rws (theta's gradient
and phi's). The word "gradients" stands for the IWAE with each gradient, "objectives" for each objective
with its default parameters. All entries have the same network, data, initial
parameters, batches and passes, and the seeds of an entry are trained side by side, with vmap. The
entries take their passes in turn, so that the ratios of their times are those of one machine state.

The first entry is the baseline: differences from it are paired by seed. Stopped at any moment, the
same command goes on from the last pass.
"""

import csv
import json
import math
import re
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.command import leave
from experiments.config import OBJECTIVES, Config, UsageError, parse
from experiments.stopping import held


@dataclass(frozen=True)
class Compare:
    """Compare objectives and gradients on one data set."""

    entries: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ENTRY")] = (
        "iwae",
        "iwae/dreg",
        "iwae/reparam@8",
    )
    """What to compare, the baseline first."""
    k: int = 50
    """Importance samples of the training bound."""
    layers: Literal[1, 2] = 1
    """Stochastic layers: the paper's network with one or with two."""
    seeds: int = 3
    """Seeds, 0 upwards: each draws its own parameters, batches and samples."""
    passes: int = 3
    """Passes over the data, on the paper's schedule."""
    batch_size: int = 20
    """Images in a step."""
    eval_k: int = 500
    """Importance samples of the test likelihood."""
    eval_images: int = 1000
    """Test images of the likelihood: the first so many."""
    dataset: Literal["mnist", "binarized_mnist", "omniglot", "digits"] = "mnist"
    """Data set."""
    data_source: Literal["auto", "files", "tfds", "embedded"] = "auto"
    """Where the data come from; as for experiments.mnist."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of local data files (default: the environment variable IWAE_JAX_DATA)."""
    out_dir: str = "runs/compare"
    """Where table.csv, curves.csv, compare.png and what a stopped run needs are written."""

    def check(self) -> None:
        """Raise a `UsageError` for the first value that makes no comparison."""
        for name, least in (
            ("k", 1), ("seeds", 3), ("passes", 1), ("batch_size", 1), ("eval_k", 1),
            ("eval_images", 2),
        ):  # fmt: skip
            if getattr(self, name) < least:
                flag = "--" + name.replace("_", "-")
                raise UsageError(
                    f"Expected {flag} to be at least {least}, got {getattr(self, name)}."
                )
        if len(set(self.entries)) < max(1, len(self.entries)):
            raise UsageError(f"Expected --entries to differ, got {' '.join(self.entries)}.")
        if not self.entries:
            raise UsageError("Expected at least one of --entries, got none.")

    def base(self) -> Config:
        """What the experiments share: data, network and optimizer."""
        return Config(
            k=(self.k,),
            layers=(self.layers,),
            batch_size=self.batch_size,
            passes=self.passes,
            dataset=self.dataset,
            data_source=self.data_source,
            data_dir=self.data_dir,
        )


def expand(entries: tuple[str, ...]) -> tuple[str, ...]:
    """The entries, with the words that stand for several written out; none twice."""
    from iwae_jax import gradients, objectives

    words = {
        "gradients": [
            f"iwae/{name}" if name != "reparam" else "iwae" for name in gradients.GRADIENTS
        ],
        "objectives": ["iwae", *(name for name in objectives.NAMES if name != "iwae")],
    }
    return tuple(dict.fromkeys(name for entry in entries for name in words.get(entry, [entry])))


def parse_entry(text: str, k: int) -> tuple[Any, Any]:
    """The objective and the gradient of an entry; a `UsageError` if it is none."""
    from iwae_jax import gradients

    name, _, gradient = text.partition("/")
    name, _, given = name.partition(":")
    gradient, _, m = (gradient or "reparam").partition("@")
    if name not in OBJECTIVES:
        raise UsageError(f"Expected an objective in {list(OBJECTIVES)}, got {name!r} in {text!r}.")
    try:
        values = {}
        for pair in filter(None, re.split(r",(?![^\[]*\])", given)):  # not within brackets
            parameter, _, value = pair.partition("=")
            values[parameter] = {"inf": math.inf, "-inf": -math.inf}.get(value) or json.loads(value)
        objective = OBJECTIVES[name](**values)
        theta, _, phi = gradient.rpartition("+")
        estimator = gradients.Gradient(theta or phi, phi)
        if m:
            estimator = gradients.resampled(json.loads(m), estimator)
        gradients.check_pair(objective, estimator, k)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"Expected an entry such as renyi:alpha=0.5/dreg@8, got {text!r}: {error}"
        ) from error
    return objective, estimator


def main() -> None:
    """Parse the command line and compare."""

    def work() -> int:
        arguments = parse(Compare, "python -m experiments.compare", __doc__ or "")
        arguments.check()
        arguments = replace(arguments, entries=expand(arguments.entries))
        entries = {text: parse_entry(text, arguments.k) for text in arguments.entries}
        from experiments.display import console
        from experiments.results import DivergedError

        try:
            compare(arguments, entries)
        except DivergedError as error:
            console.print(str(error), style="bold red")
            return 1
        return 0

    leave(work)


def compare(arguments: Compare, entries: dict[str, tuple[Any, Any]]) -> None:
    """Train what is left, evaluate, and write the table, the curves and the picture."""
    from experiments.display import console
    from experiments.runner import load_data

    folder = Path(arguments.out_dir)
    base = arguments.base()
    base.check()
    data = load_data(base)
    console.print(
        f"{data.name} from {data.source} ({data.origin}): {len(entries)} entries, "
        f"{arguments.seeds} seeds, {arguments.passes} passes of {len(data.train):,} images, in {folder}"
    )
    about = json.loads(json.dumps(asdict(arguments))) | {"fingerprint": data.fingerprint}
    about = {
        name: about[name] for name in about if name not in ("out_dir", "data_dir", "data_source")
    }
    _open(folder, about)
    results = _train_all(arguments, base, entries, data, folder)
    rows = _table(entries, results)
    _write(folder, arguments, data, entries, results, rows)


def _open(folder: Path, about: dict[str, Any]) -> None:
    """Make the folder, or check that it holds the same comparison."""
    file = folder / "compare.json"
    try:
        if file.exists():
            saved = json.loads(file.read_text())
            changed = sorted(name for name in about if saved.get(name) != about[name])
            if changed:
                raise UsageError(
                    f"Expected {folder} to hold the same comparison, got other {', '.join(changed)}: "
                    "give another --out-dir."
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        _replace(file, json.dumps(about, indent=1))
    except (OSError, ValueError) as error:
        raise UsageError(f"Expected to read and write {folder}, got: {error}") from error


def _replace(file: Path, text: str) -> None:
    partial_file = file.with_name(file.name + ".partial")
    partial_file.write_text(text)
    partial_file.replace(file)


class _Entry:
    """One entry's training: the states of all seeds, and what was measured of them so far."""

    def __init__(self, arguments, base, objective, gradient, data, folder):
        import jax

        import iwae_jax
        from experiments.results import Keys
        from iwae_jax import checkpoints

        self.folder = folder
        self.keys = jax.tree.map(
            lambda *keys: jax.numpy.stack(keys),
            *(Keys.of(Config(seed=(seed,))) for seed in range(arguments.seeds)),
        )
        optimizer = base.optimizer(-(-len(data.train) // arguments.batch_size))
        model = base.model(data.train.shape[1])

        def start(key):
            params = iwae_jax.init(key, model, data_mean=data.mean)
            return iwae_jax.TrainState.create(params, optimizer)

        def one_pass(state, key, images):
            return iwae_jax.train_epoch(
                state,
                images,
                key,
                arguments.k,
                batch_size=arguments.batch_size,
                binarization="dynamic",
                maximum=data.maximum,
                objective=objective,
                gradient=gradient,
            )

        self.state = jax.jit(jax.vmap(start))(self.keys.init)
        self.one_pass = jax.jit(jax.vmap(one_pass, in_axes=(0, 0, None)), donate_argnums=0)
        step = partial(iwae_jax.train_step, k=arguments.k, objective=objective, gradient=gradient)
        x = jax.numpy.zeros((arguments.batch_size, data.train.shape[1]))
        one = jax.tree.map(lambda a: a[0], self.state)
        compiled = jax.jit(lambda state, x, key: step(state, x, key)).lower(
            one, x, self.keys.train[0]
        )
        self.memory = _mebibytes(compiled.compile().memory_analysis())
        self.saved = checkpoints.Checkpoints(folder / "checkpoints", keep=1)
        restored = self.saved.restore(self.state)
        self.done, self.warm = 0, False
        self.lines: list[dict[str, Any]] = []
        if restored is not None:
            self.done, self.state = restored
            self.lines = json.loads((folder / "lines.json").read_text())[: self.done]

    def save(self):
        """Keep the states and lines, both or the older ones."""
        with held():
            _replace(self.folder / "lines.json", json.dumps(self.lines))
            self.saved.save(self.done, self.state)


def _mebibytes(memory: Any) -> float | None:
    """What a compiled step holds at most: what goes in, what comes out and what is between."""
    if memory is None:
        return None
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return (held - memory.alias_size_in_bytes) / 2**20


def _train_all(arguments, base, entries, data, folder) -> dict[str, Any]:
    """Take the passes of all entries in turn; return what was measured of each."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import iwae_jax
    from experiments.display import Display
    from experiments.results import DivergedError, Keys

    shared = Keys.of(Config())  # the same test pixels and samples for every entry and seed
    pixels = data.validation if len(data.validation) else data.test[:400]
    held_out = iwae_jax.data.binarize(pixels, shared.held_out_pixels, data.maximum)
    images = jnp.asarray(data.train)
    steps = -(-len(data.train) // arguments.batch_size) * arguments.seeds
    runs = {}
    for text, (objective, gradient) in entries.items():
        name = text.replace("/", "-").replace(":", "-")
        runs[text] = _Entry(arguments, base, objective, gradient, data, folder / name)
        (folder / name).mkdir(exist_ok=True)

    @jax.jit
    def bounds(params):
        one = partial(iwae_jax.bound, x=held_out, key=shared.held_out, k=50)
        return jnp.mean(jax.vmap(one)(params), axis=1)

    done = sum(run.done for run in runs.values())
    total = arguments.passes * len(runs)
    with Display("training", total, done=done, unit="pass") as display:
        for number in range(1, arguments.passes + 1):
            for text, run in runs.items():
                if run.done >= number:
                    continue
                begun = time.perf_counter()
                run.state, values = run.one_pass(run.state, run.keys.train, images)
                display.wait((run.state, values))
                seconds = time.perf_counter() - begun
                values = np.asarray(values, np.float64)  # [seeds, steps]
                curve = np.asarray(bounds(run.state.params), np.float64)
                if not (np.isfinite(curve).all() and np.isfinite(values).all()):
                    raise DivergedError(
                        f"{text} diverged in pass {number}; nothing of that pass was kept."
                    )
                run.lines.append(
                    {
                        "pass": number,
                        "held_out_L_50": curve.tolist(),
                        "train_value": values.mean(axis=1).tolist(),
                        "ms_per_step": 1000 * seconds / steps,
                        "first": not run.warm,
                    }
                )
                run.warm = True
                run.done = number
                run.save()
                display.advance(f"{text}: held-out L_50 {curve.mean():.2f}", len(data.train))
    return _evaluate(arguments, data, shared, runs)


def _evaluate(arguments, data, shared, runs) -> dict[str, Any]:
    import jax
    import numpy as np

    import iwae_jax
    from experiments.display import Display
    from experiments.results import weight_blocks
    from iwae_jax import evaluation

    test = data.test[: arguments.eval_images]
    keys = iwae_jax.datum_keys(shared.test, len(test))
    x = iwae_jax.data.binarize(test, shared.test_pixels, data.maximum)
    results: dict[str, Any] = {}
    total = len(runs) * arguments.seeds
    with Display(f"evaluating (k={arguments.eval_k})", total, unit="model") as display:
        for text, run in runs.items():
            likelihoods, active = [], []
            for seed in range(arguments.seeds):
                params = jax.tree.map(lambda a, seed=seed: a[seed], run.state.params)
                found = [
                    evaluation.diagnose(log_w)
                    for _, log_w in weight_blocks(params, x, keys, arguments.eval_k, display)
                ]
                diagnosis = evaluation.Diagnosis(*map(np.concatenate, zip(*found, strict=True)))
                likelihoods.append(evaluation.summarise(diagnosis))
                counts = iwae_jax.active_units(params, x, shared.active).counts
                active.append([int(count) for count in counts])
                display.advance(f"{text}: NLL {likelihoods[-1].nll:.2f}", len(x))
            results[text] = {
                "likelihoods": likelihoods, "active": active, "lines": run.lines, "memory": run.memory,
            }  # fmt: skip
    return results


def _table(entries: dict[str, Any], results: dict[str, Any]) -> list[dict[str, Any]]:
    """A row an entry: means over the seeds with standard errors, differences paired by seed."""
    import numpy as np

    from iwae_jax import objectives

    def error(values):
        return float(np.std(values, ddof=1) / np.sqrt(len(values)))

    def times(text):  # the first pass in a process compiles
        return {
            line["pass"]: line["ms_per_step"]
            for line in results[text]["lines"]
            if not line["first"]
        }

    baseline = next(iter(entries))
    rows = []
    for text, (objective, gradient) in entries.items():
        likelihoods = results[text]["likelihoods"]
        nll = np.array([found.nll for found in likelihoods])
        difference = nll - np.array([found.nll for found in results[baseline]["likelihoods"]])
        own, other = times(text), times(baseline)
        ratios = [own[number] / other[number] for number in own if number in other]
        rows.append(
            {
                "entry": text,
                "objective": repr(objective),
                "kind": objectives.kind(objective),
                "gradient": str(gradient),
                "nll": float(nll.mean()),
                "nll_se": error(nll),
                "difference": float(difference.mean()),
                "difference_se": error(difference),
                **{
                    name: float(np.mean([getattr(found, name) for found in likelihoods]))
                    for name in likelihoods[0]._fields
                    if name != "nll"
                },
                "active": [float(v) for v in np.mean(results[text]["active"], axis=0)],
                "ms_per_step": float(np.median(list(own.values()))) if own else None,
                "time_ratio": float(np.median(ratios)) if ratios else None,
                "memory_mib": results[text]["memory"],
            }
        )
    return rows


def _write(folder, arguments, data, entries, results, rows) -> None:
    from experiments import plots
    from experiments.display import console, print_table, warn
    from experiments.results import binarization_name

    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            row | {"active": "+".join(f"{v:.1f}" for v in row["active"])} for row in rows
        )
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["entry", "seed", "pass", "held_out_L_50", "train_value", "ms_per_step"])
        for text, result in results.items():
            for line in result["lines"]:
                pairs = zip(line["held_out_L_50"], line["train_value"], strict=True)
                for seed, values in enumerate(pairs):
                    writer.writerow([text, seed, line["pass"], *values, line["ms_per_step"]])
    source = data.source + (f" ({data.origin})" if data.source == "embedded" else "")
    caption = (
        f"{data.name} from {source}; {binarization_name(arguments.base(), data)} binarization; "
        f"L={arguments.layers}, trained with "
        f"k={arguments.k}, {arguments.passes} passes, {arguments.seeds} seeds; curves on "
        f"{'held-out' if len(data.validation) else 'test'} images; "
        f"NLL = -L_{arguments.eval_k} on the first {min(arguments.eval_images, len(data.test)):,} test "
        "images; bars: one standard error over seeds"
    )
    plots.comparison(folder / "compare.png", results, rows, caption)

    def number(value, form):
        return "" if value is None else format(value, form)

    print_table(
        f"{data.name} from {source}, {arguments.passes} passes, k={arguments.k}, "
        f"{arguments.seeds} seeds; NLL = -L_{arguments.eval_k}, nats",
        (
            "entry",
            "NLL",
            "minus the first",
            "active",
            "ms a step",
            "of the first",
            "MiB",
        ),
        [
            (
                f"{row['entry']} ({row['kind']})",
                f"{row['nll']:.2f} ± {row['nll_se']:.2f}",
                f"{row['difference']:+.2f} ± {row['difference_se']:.2f}",
                "+".join(f"{v:.1f}" for v in row["active"]),
                number(row["ms_per_step"], ".2f"),
                number(row["time_ratio"], ".2f"),
                number(row["memory_mib"], ".1f"),
            )
            for row in rows
        ],
    )
    if data.source == "embedded":
        console.print(
            f"data: {data.origin}: NOT comparable to anything published", style="bold yellow"
        )
    heavy = [row["entry"] for row in rows if row["pareto_k_high"] > 0.01]
    if heavy:
        warn(
            f"Pareto's k is above 0.7 for more than 1% of the images for {', '.join(heavy)}: these NLLs are "
            "likely too large. More --eval-k makes them less so."
        )
    for row in rows[1:]:
        console.print("verdict: " + verdict(row, rows[0]["entry"]))
    console.print(f"written: {folder}/table.csv, curves.csv, compare.png")


def verdict(row: dict[str, Any], baseline: str) -> str:
    """What a row says beside the baseline's, in a line."""
    worse = row["difference"] > row["difference_se"]
    better = row["difference"] < -row["difference_se"]
    word = "higher" if worse else "lower" if better else "not different"
    time_ratio = row["time_ratio"]
    cost = "" if time_ratio is None else f"; {time_ratio:.2f} of its time per step"
    return (
        f"{row['entry']}: NLL {word} by more than one standard error ({row['difference']:+.2f} ± "
        f"{row['difference_se']:.2f} nats) than {baseline}{cost}"
        if word != "not different"
        else f"{row['entry']}: NLL within one standard error of {baseline}'s ({row['difference']:+.2f} ± "
        f"{row['difference_se']:.2f} nats){cost}"
    )


if __name__ == "__main__":
    main()
