"""Train and evaluate the entries of a comparison, several seeds each, in a resumable folder."""

import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.runs.datasets import load_data
from experiments.shared.runs.folders import former_name
from experiments.shared.runs.results import Keys, weight_blocks
from experiments.shared.system.display import Display, console, counted
from experiments.shared.system.errors import DivergedError, UsageError
from experiments.shared.system.files import write_json
from experiments.shared.system.processes import ambient, sizes_of
from experiments.shared.system.saved import check_values, read_json
from experiments.shared.system.stopping import held
from experiments.studies.comparison_table import comparison_rows, write_comparison
from iwae_jax import checkpoints, devices, evaluation
from iwae_jax.data import Dataset
from iwae_jax.evaluation import Diagnosis
from iwae_jax.training import mean_of_pass

Pair = tuple[Any, Any]  # an objective and a gradient


def compare(
    config: Config,
    entries: dict[str, Pair],
    seeds: int,
    about: dict[str, Any],
    mesh: str | None = None,
) -> list[dict[str, Any]]:
    """Train, evaluate, and write the table, the curves and the picture.

    Args:
      config: the config that all entries share.
      entries: the objective and the gradient of each entry.
      seeds: the number of seeds.
      about: the content of compare.json. A folder with other content is refused.
      mesh: the value of --mesh. Its ``"replica"`` cuts the seeds; the evaluation has all of its devices.

    Returns:
      A row of the table for each entry.
    """
    folder = Path(config.run.out_dir)
    data = load_data(config)
    config.check_recipes(len(data.train))
    passes = config.recipe(len(data.train)).passes
    console.print(
        f"{data.name} from {data.source} ({data.origin}): {len(entries)} entries, {counted(seeds, 'seed')}, "
        f"{counted(passes, 'pass')} of {len(data.train):,} images, in {folder}"
    )
    shared = Keys.of(Config())  # every entry and seed has the same test pixels and samples
    with ambient(mesh, devices.AXES):
        _open(folder, json.loads(json.dumps(about)) | {"fingerprint": data.fingerprint})
        runs = {
            text: Entry(
                config, pair, seeds, data, folder / text.replace("/", "-").replace(":", "-")
            )
            for text, pair in entries.items()
        }
        _train(config, runs, data, shared, seeds)
    whole = math.prod(sizes_of(mesh, devices.AXES).values())
    with ambient(mesh and f"data={whole}"):
        results = _evaluate(config, runs, data, shared, seeds)
    rows = comparison_rows(entries, results)
    write_comparison(folder, config, data, seeds, results, rows)
    return rows


def _lines(file: Path, passes: int) -> list[dict[str, Any]]:
    """The measurements of each of so many passes."""
    lines = read_json(file)
    if not isinstance(lines, list) or len(lines) < passes:
        raise UsageError(
            f"Expected {file} to hold the measurements of {passes} passes, got others."
        )
    return lines[:passes]


def _open(folder: Path, about: dict[str, Any]) -> None:
    """Make the folder, or check that it holds the same comparison."""
    file = folder / "compare.json"
    try:
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(file, about)
            return
    except OSError as error:
        raise UsageError(f"Expected to read and write {folder}, got: {error}") from error
    saved = read_json(file)
    check_values(file, saved, {}, about)
    changed = sorted(name for name in about if saved[name] != about[name])
    if changed:
        raise UsageError(
            f"Expected {folder} to hold the same comparison, got other {', '.join(changed)}: "
            "give another --out-dir."
        )


class Entry:
    """The training of one entry: the states of all seeds, and the measurements of each pass."""

    def __init__(self, config: Config, pair: Pair, seeds: int, data: Dataset, folder: Path):
        objective, gradient = pair
        (k,), recipe = config.bound.k, config.recipe(len(data.train))
        self.folder = folder
        self.keys = jax.tree.map(
            lambda *keys: jnp.stack(keys), *(Keys.of(Config.of(seed=seed)) for seed in range(seeds))
        )
        optimizer = recipe.optimizer(-(-len(data.train) // recipe.batch_size))
        model = config.model(data.train.shape[1], data.data_shape)

        def start(key):
            params = iwae_jax.init(key, model, data_mean=data.mean)
            return iwae_jax.TrainState.create(params, optimizer)

        def one_pass(state, key, images):
            return iwae_jax.train_epoch(
                state,
                images,
                key,
                k,
                batch_size=recipe.batch_size,
                binarization="dynamic",
                maximum=data.maximum,
                objective=objective,
                gradient=gradient,
            )

        self.keys = devices.by_replica(self.keys)
        self.state = devices.by_replica(jax.jit(jax.vmap(start))(self.keys.init))
        self.one_pass = jax.jit(jax.vmap(one_pass, in_axes=(0, 0, None)), donate_argnums=0)
        step = partial(iwae_jax.train_step, k=k, objective=objective, gradient=gradient)
        x = jnp.zeros((recipe.batch_size, data.train.shape[1]))
        one = jax.tree.map(lambda a: a[0], self.state)
        compiled = jax.jit(lambda state, x, key: step(state, x, key)).lower(
            one, x, self.keys.train[0]
        )
        self.memory = _mebibytes(compiled.compile().memory_analysis())
        self.saved = checkpoints.Checkpoints(folder / "checkpoints", keep=1)
        restored = self.saved.restore(self.state, former=former_name)
        self.done, self.warm = 0, False
        self.lines: list[dict[str, Any]] = []
        if restored is not None:
            self.done, self.state = restored
            self.lines = _lines(folder / "lines.json", self.done)
        folder.mkdir(exist_ok=True)

    def save(self) -> None:
        """Save the states and the lines together."""
        with held():
            write_json(self.folder / "lines.json", self.lines)
            self.saved.save(self.done, self.state)


def _mebibytes(memory: Any) -> float | None:
    """The largest memory of a compiled step: inputs, outputs and temporaries."""
    if memory is None:
        return None
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return (used - memory.alias_size_in_bytes) / 2**20


def _train(config: Config, runs: dict[str, Entry], data: Dataset, shared: Keys, seeds: int) -> None:
    """Take the passes of all entries in turn."""
    pixels = data.validation if len(data.validation) else data.test[:400]
    held_out = iwae_jax.data.binarize(pixels, shared.held_out_pixels, data.maximum)
    images = devices.everywhere(jnp.asarray(data.train))
    recipe = config.recipe(len(data.train))
    batch = recipe.batch_size
    steps = -(-len(data.train) // batch) * seeds

    @jax.jit
    def bounds(params):
        one = partial(iwae_jax.bound, x=held_out, key=shared.held_out, k=50)
        return jnp.mean(jax.vmap(one)(params), axis=1)

    passes = recipe.passes
    done = sum(run.done for run in runs.values())
    with Display("training", passes * len(runs), done=done, unit="pass") as display:
        for number in range(1, passes + 1):
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
                        f"{text} diverged in pass {number}. Nothing of this pass was saved."
                    )
                run.lines.append(
                    {
                        "pass": number,
                        "held_out_L_50": curve.tolist(),
                        "train_value": [
                            mean_of_pass(each, len(data.train), batch) for each in values
                        ],
                        "ms_per_step": 1000 * seconds / steps,
                        "first": not run.warm,
                    }
                )
                run.warm = True
                run.done = number
                run.save()
                display.advance(f"{text}: held-out L_50 {curve.mean():.2f}", len(data.train))


def _evaluate(
    config: Config, runs: dict[str, Entry], data: Dataset, shared: Keys, seeds: int
) -> dict[str, Any]:
    """The likelihoods and active units of each entry and seed, with the lines of the training."""
    k = config.evaluation.eval_k
    test = data.test[: config.evaluation.eval_images]
    keys = iwae_jax.datum_keys(shared.test, len(test))
    x = iwae_jax.data.binarize(test, shared.test_pixels, data.maximum)
    results: dict[str, Any] = {}
    with Display(f"evaluating (k={k})", len(runs) * seeds, unit="model") as display:
        for text, run in runs.items():
            likelihoods, active = [], []
            for seed in range(seeds):
                params = jax.tree.map(lambda a, seed=seed: a[seed], run.state.params)
                params = devices.everywhere(params)
                found = [
                    evaluation.diagnose(log_w)
                    for _, log_w in weight_blocks(params, x, keys, k, display)
                ]
                diagnosis = Diagnosis(*map(np.concatenate, zip(*found, strict=True)))
                likelihoods.append(evaluation.summarise(diagnosis))
                counts = iwae_jax.active_units(params, x, shared.active).counts
                active.append([int(count) for count in counts])
                display.advance(f"{text}: NLL {likelihoods[-1].nll:.2f}", len(x))
            results[text] = {
                "likelihoods": likelihoods,
                "active": active,
                "lines": run.lines,
                "memory": run.memory,
            }
    return results
