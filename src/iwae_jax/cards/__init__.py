"""Trained parameters that come with the package, and a card for each: what made it, what it measured."""

import hashlib
import io
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from iwae_jax.models import ModelConfig
from iwae_jax.protocol import Params, init
from iwae_jax.typing import ArrayLike

__all__ = ["card", "names", "pretrained", "publish"]

HERE = Path(__file__).parent


def names(folder: str | Path = HERE) -> tuple[str, ...]:
    """The names of the pretrained parameters in a folder: those of the package, if none is given.

    Example:
      >>> from iwae_jax import cards
      >>> "mnist-iwae-l1-k50" in cards.names()
      True
    """
    return tuple(sorted(path.stem for path in Path(folder).glob("*.json")))


def card(name: str, folder: str | Path = HERE) -> dict[str, Any]:
    """What made the parameters of a name, and what was measured of them.

    Args:
      name: one of `names`.
      folder: the folder of the files.

    Returns:
      The content of the card's JSON file. docs/pretrained.md explains it. Likelihoods are in nats.

    Raises:
      ValueError: if the name is not known, or the card can't be read.

    Example:
      >>> from iwae_jax import cards
      >>> cards.card("mnist-iwae-l1-k50")["training"]["k"]
      50
    """
    known = names(folder)
    if name not in known:
        raise ValueError(f"Expected name to be one of {', '.join(known) or 'none'}, got {name!r}.")
    file = Path(folder) / f"{name}.json"
    try:
        found = json.loads(file.read_text())
        if not isinstance(found["model"], dict) or not isinstance(found["sha256"], str):
            raise TypeError("a model or a digest of another type")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"Expected {file} to hold a card, got {error!r}.") from error
    return found


def pretrained(name: str, folder: str | Path = HERE) -> Params:
    """Load trained parameters in a line.

    Args:
      name: one of `cards.names`.
      folder: the folder of the files: the package's own, or one that `cards.publish` wrote to.

    Returns:
      The parameters, with their `ModelConfig`.

    Raises:
      ValueError: if the name is not known, or a file is damaged.

    Example:
      >>> import jax, iwae_jax
      >>> params = iwae_jax.pretrained("mnist-iwae-l1-k50")
      >>> iwae_jax.sample(params, jax.random.key(0), 3).shape
      (3, 784)
    """
    about = card(name, folder)
    file = Path(folder) / f"{name}.npz"
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise ValueError(f"Expected {file} to be the file of its card, got other bytes.")
    template = jax.eval_shape(
        lambda: init(jax.random.key(0, impl="threefry2x32"), ModelConfig(**about["model"]))
    )
    wanted, structure = jax.tree_util.tree_flatten_with_path(template)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        stored = {path: arrays[path] for path in arrays.files}
    expected = {jax.tree_util.keystr(path): leaf.shape for path, leaf in wanted}
    got = {path: array.shape for path, array in stored.items()}
    if got != expected:
        raise ValueError(f"Expected {file} to hold arrays {expected}, got {got}.")
    return jax.tree.unflatten(structure, [jax.numpy.asarray(stored[path]) for path in expected])


def publish(name: str, params: Params, about: dict[str, Any], folder: str | Path) -> None:
    """Write parameters and their card as two small files, NAME.npz and NAME.json.

    Args:
      name: the name to load them by.
      params: parameters of a `ModelConfig` whose parts are given by name.
      about: the content of the card, as JSON has it.
      folder: an existing folder.

    Raises:
      ValueError: if the model can't be written as JSON.

    Example:
      >>> import jax, tempfile, iwae_jax
      >>> from iwae_jax import cards
      >>> params, folder = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig()), tempfile.mkdtemp()
      >>> cards.publish("untrained", params, {"licence": "Apache-2.0"}, folder)
      >>> iwae_jax.pretrained("untrained", folder).model == params.model
      True
    """
    if not isinstance(params.model, ModelConfig):
        raise ValueError(f"Expected params of a ModelConfig, got {type(params.model).__name__}.")
    each_field = [each.name for each in fields(ModelConfig) if each.init]
    model = {field: getattr(params.model, field) for field in each_field}
    try:
        json.dumps(model)
    except TypeError as error:
        raise ValueError(f"Expected a model whose parts are given by name, got {error}.") from error
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    arrays: dict[str, ArrayLike] = {
        jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves
    }
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    digest = {"model": model, "sha256": hashlib.sha256(stream.getvalue()).hexdigest()}
    # The card last: without it, the parameters have no name.
    (Path(folder) / f"{name}.npz").write_bytes(stream.getvalue())
    (Path(folder) / f"{name}.json").write_text(json.dumps(about | digest, indent=1) + "\n")
