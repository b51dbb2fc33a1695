"""Arrays of one's own, from an npz or npy file. Nothing is unpickled."""

from pathlib import Path

import numpy as np

from iwae_jax.data.reading import (
    DamagedError,
    check_count,
    npz_names,
    read_array,
    read_arrays,
)

ENDINGS = (".npz", ".npy")
_HELD_OUT = 10  # one datum in so many


def is_own(name: object) -> bool:
    """Whether the name of a data set is that of a file of arrays."""
    return isinstance(name, str) and name.endswith(ENDINGS)


def read(file: Path) -> tuple[dict[str, np.ndarray], tuple[int, ...], float]:
    """Read a file of arrays.

    Returns:
      The rows of ``train``, ``validation`` and ``test``, [n, size], and ``SPLIT_labels`` where the file has
      labels of train and test; the shape of a datum; the value that means 1.

    Raises:
      ValueError: if there is no such file, or it is damaged, or its arrays are not what `data.load` takes.
    """
    if not file.is_file():
        raise ValueError(f"Expected a file of arrays, got none at {str(file)!r}.")
    shapes: dict[str, tuple[int, ...]] = {}

    def check(split: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if len(shape) < 2 or 0 in shape or dtype not in (np.uint8, np.bool_, *_FLOATS):
            raise DamagedError(
                f"Expected {split} in {file} to be uint8, bool or float of shape [n, ..], got {dtype} of "
                f"shape {shape}."
            )
        check_count(f"{split} in {file}", shape[0])
        shapes[split] = shape[1:]

    if file.suffix == ".npy":
        arrays = _split(read_array(file, lambda *header: check("the array", *header)), file)
    else:
        there = npz_names(file)
        if not {"train", "test"} <= set(there):
            raise DamagedError(
                f"Expected {file} to contain train and test, got {', '.join(there) or 'none'}."
            )
        splits = [each for each in ("train", "validation", "test") if each in there]
        labelled = [f"{each}_labels" for each in splits if f"{each}_labels" in there]
        names = splits + (labelled if len(labelled) == len(splits) else [])
        arrays = read_arrays(file, {name: name for name in names}, check)
        if "validation" not in arrays:
            arrays = _hold_out(arrays)
    if len(set(shapes.values())) > 1:
        raise DamagedError(f"Expected data of one shape in {file}, got {shapes}.")
    (shape,) = set(shapes.values())
    if len(shape) == 3 and shape[2] == 1:  # grey images, as many libraries store them
        shape = shape[:2]
    data = [arrays[split] for split in ("train", "validation", "test")]
    if len({x.dtype for x in data}) > 1:
        raise DamagedError(
            f"Expected data of one type in {file}, got {[str(x.dtype) for x in data]}."
        )
    for split in ("train", "validation", "test"):
        x = arrays[split].reshape(len(arrays[split]), -1)
        x = x.astype(np.uint8 if x.dtype == np.bool_ else np.float32) if x.dtype != np.uint8 else x
        if x.dtype != np.uint8 and np.isinf(x).any():
            raise DamagedError(f"Expected {split} in {file} to be finite or NaN, got infinity.")
        arrays[split] = x
    of_levels = data[0].dtype == np.uint8 and max(x.max() for x in data) > 1
    return arrays, shape, 255.0 if of_levels else 1.0


_FLOATS = tuple(np.dtype(name) for name in ("float16", "float32", "float64"))


def _split(data: np.ndarray, file: Path) -> dict[str, np.ndarray]:
    """Training, held-out and test data of one array, at random."""
    if len(data) < 2 * _HELD_OUT:
        raise DamagedError(
            f"Expected {file} to hold at least {2 * _HELD_OUT} data to split, got {len(data)}."
        )
    shuffled, some = np.random.default_rng(0).permutation(data), len(data) // _HELD_OUT
    return {
        "train": shuffled[2 * some :],
        "validation": shuffled[some : 2 * some],
        "test": shuffled[:some],
    }


def _hold_out(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with a part of the training data, at random, as ``validation``; labels go along."""
    count = len(arrays["train"])
    order = np.random.default_rng(0).permutation(count)
    out, rest = np.split(order, [max(1, count // _HELD_OUT)])
    if not len(rest):
        raise DamagedError(f"Expected at least 2 training data, got {count}.")
    changed = {"train": arrays["train"][np.sort(rest)], "validation": arrays["train"][np.sort(out)]}
    if "train_labels" in arrays:
        labels = arrays["train_labels"]
        changed |= {
            "train_labels": labels[np.sort(rest)],
            "validation_labels": labels[np.sort(out)],
        }
    return arrays | changed
