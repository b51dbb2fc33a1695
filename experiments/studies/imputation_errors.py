"""The error of imputation: a model of incomplete data beside scikit-learn's imputers."""

import re
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

import iwae_jax
from experiments.shared.reporting.drawing import figure, save
from experiments.shared.reporting.intervals import standard_error
from experiments.shared.system.display import console, counted, print_table
from experiments.shared.system.files import make_folder, write_csv, write_json
from iwae_jax import evaluation
from iwae_jax.training import Recipe

DRAWS = 50  # of multiple imputation
DRAW_K = 200
COVERED = 100  # rows whose intervals are measured
SHOWN = 8  # rows of the picture
OURS = "MIWAE"


def table(name: str) -> np.ndarray:
    """A data set of scikit-learn: columns of mean 0 and variance 1, or pixels in [0, 1]."""
    from sklearn import datasets

    loaders: dict[str, Any] = {
        "cancer": datasets.load_breast_cancer,
        "wine": datasets.load_wine,
        "digits": datasets.load_digits,
    }
    data = loaders[name]().data.astype(np.float64)
    return data / 16 if name == "digits" else (data - data.mean(axis=0)) / data.std(axis=0)


def hide(data: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The data with NaN in a share of the places; every row and column keeps a value."""
    rng = np.random.default_rng(seed)
    hidden = rng.random(data.shape) < share
    for axis in (0, 1):
        whole = np.flatnonzero(hidden.all(axis=axis))
        for line in whole:
            place = rng.integers(data.shape[axis])
            hidden[(place, line) if axis == 0 else (line, place)] = False
    return np.where(hidden, np.nan, data)


def others(seen: np.ndarray) -> dict[str, np.ndarray]:
    """What scikit-learn's imputers make of incomplete data."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    imputers = {
        "column mean": SimpleImputer(),
        "5 nearest neighbours": KNNImputer(n_neighbors=5),
        "15 nearest neighbours": KNNImputer(n_neighbors=15),
        "iterative": IterativeImputer(max_iter=10, random_state=0),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ten rounds have not converged
        return {name: imputer.fit_transform(seen) for name, imputer in imputers.items()}


def ours(
    seen: np.ndarray,
    k: int,
    sizes: tuple[int, int],
    posterior: str,
    passes: int,
    seed: int,
    folder: Path,
) -> iwae_jax.Params:
    """A model that is trained on incomplete data; its checkpoints are in the folder."""
    latents, width = sizes
    config = iwae_jax.ModelConfig(
        (seen.shape[1],),
        (latents,),
        ((width, width),),
        likelihood="normal:scale=shared",
        posterior=posterior,
        missing=True,
    )
    recipe = Recipe(
        passes=passes,
        batch_size=64,
        gradient="dreg",
        rate_decay="cosine",
        first_rate=3e-3,
        last_rate=6e-5,
        warm_up=1.0,
    )
    # All rows are trained on: what is hidden is not in them.
    found = iwae_jax.fit(config, seen, k=k, recipe=recipe, seed=seed, held_out=0.0, folder=folder)
    return found.params


def compare(
    name: str,
    share: float,
    *,
    seeds: tuple[int, ...],
    k: int,
    sizes: tuple[int, int],
    posterior: str,
    passes: int,
    impute_k: int,
    out_dir: str,
) -> dict[str, Any]:
    """Impute with every method for every seed; write and print the errors; return them."""
    folder, data = make_folder(out_dir), table(name)
    errors: dict[str, list[float]] = {}
    covered, filled, seen = [], {}, data
    for seed in seeds:
        seen = hide(data, share, seed)
        hidden = np.isnan(seen)
        console.print(
            f"seed {seed}: {hidden.mean():.1%} of {data.shape[0]} x {data.shape[1]} values hidden"
        )
        part = re.sub("[^A-Za-z0-9.]", "_", posterior)
        training = (
            f"{name}-share{share:g}-k{k}-z{sizes[0]}-h{sizes[1]}-{part}-passes{passes}-seed{seed}"
        )
        params = ours(seen, k, sizes, posterior, passes, seed, folder / "training" / training)
        key = jax.random.key(seed)
        filled = others(seen) | {OURS: np.asarray(evaluation.impute(params, seen, key, impute_k))}
        for method, values in filled.items():
            errors.setdefault(method, []).append(float(np.mean((values - data)[hidden] ** 2)))
        covered.append(_covered(params, seen[:COVERED], data[:COVERED], key))
    rows = [
        {
            "method": method,
            "error": float(np.mean(values)),
            "standard_error": _standard_error(values),
            "gain_of_miwae": float(np.mean(np.subtract(values, errors[OURS]))),
            "gain_standard_error": _standard_error(np.subtract(values, errors[OURS])),
        }
        for method, values in errors.items()
    ]
    results = {
        "data": name,
        "rows": list(data.shape),
        "share_hidden": share,
        "seeds": list(seeds),
        "k": k,
        "posterior": posterior,
        "passes": passes,
        "impute_k": impute_k,
        "errors": rows,
        "inside_90_percent": float(np.mean(covered)),
        "inside_rows": len(seen[:COVERED]),
        "inside_k": DRAW_K,
    }
    caption = (
        f"scikit-learn's {name} (embedded), {share:.0%} of the values hidden at random, "
        f"{counted(len(seeds), 'seed')}; MIWAE trained with k={k} for {counted(passes, 'pass')}, imputed with "
        f"k={impute_k}"
    )
    write_json(folder / "missing.json", results)
    write_csv(folder / "missing.csv", rows)
    picture = _digits if name == "digits" else _bars
    save(picture(data, seen, filled, rows), folder / "missing.png", caption)
    print_table(
        f"mean square error of hidden values, {name}",
        ("", "error", "±", "minus MIWAE's", "±"),
        [
            (
                row["method"],
                f"{row['error']:.4f}",
                _text(row["standard_error"]),
                f"{row['gain_of_miwae']:+.4f}" if row["method"] != OURS else "",
                _text(row["gain_standard_error"]) if row["method"] != OURS else "",
            )
            for row in rows
        ],
    )
    console.print(
        f"hidden values of the first {counted(len(seen[:COVERED]), 'row')} inside the 90% interval of {DRAWS} "
        f"imputations (k={DRAW_K}): {results['inside_90_percent']:.1%}\n"
        f"± is a standard error over {counted(len(seeds), 'seed')}; the difference is paired by seed\n"
        f"written: {folder}/missing.csv, missing.json, missing.png"
    )
    return results


def _covered(params: iwae_jax.Params, seen: np.ndarray, data: np.ndarray, key: jax.Array) -> float:
    """The share of hidden values between the 5th and the 95th percentile of their imputations."""
    draws = np.asarray(evaluation.multiply_impute(params, seen, key, DRAWS, DRAW_K))
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    hidden = np.isnan(seen)
    return float(np.mean((low <= data)[hidden] & (data <= high)[hidden]))


def _standard_error(values: Any) -> float | None:
    """Over seeds; None for one."""
    return standard_error(values) if len(values) > 1 else None


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _bars(data: Any, seen: Any, filled: Any, rows: list[dict[str, Any]]) -> Any:
    """The error of each method."""
    drawn = figure(9.0, 3.2)
    axes = drawn.add_subplot()
    names = [row["method"] for row in rows]
    bars = [row["standard_error"] or 0.0 for row in rows]
    colours = ["C1" if name == OURS else "0.6" for name in names]
    axes.barh(names, [row["error"] for row in rows], xerr=bars, color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("mean square error of hidden values; columns have variance 1")
    return drawn


def _digits(data: np.ndarray, seen: np.ndarray, filled: Any, rows: list[dict[str, Any]]) -> Any:
    """Some digits: as they are, as they are seen, and as each method fills them in."""
    lines = {"image": data, "seen": seen, **filled}
    drawn = figure(1.0 * SHOWN, 1.05 * len(lines))
    grid = drawn.subplots(len(lines), SHOWN)
    errors = {row["method"]: f"\n{row['error']:.4f}" for row in rows}
    for line, (name, images) in zip(grid, lines.items(), strict=True):
        for axes, image in zip(line, images[:SHOWN], strict=True):
            axes.set_facecolor("tab:blue")  # shows through where nothing is seen
            axes.imshow(image.reshape(8, 8), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        text = name.replace(" nearest", "\nnearest") + errors.get(name, "")
        line[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8)
    return drawn
