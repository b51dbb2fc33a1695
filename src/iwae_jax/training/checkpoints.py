"""Save and restore train states, atomically, with Orbax.

A checkpoint appears whole or not at all: a process killed while it saves leaves a temporary
folder, which the next start ignores. A digest of its files, written last, tells a checkpoint that
was damaged afterwards; Orbax itself does not notice a changed number.
"""

import hashlib
import logging
import shutil
import warnings
from pathlib import Path
from typing import TypeVar

import jax

State = TypeVar("State")


class Checkpoints:
    """The checkpoints in a folder, the newest ``keep`` of them.

    Args:
      folder: where they are; made if need be.
      keep: how many to keep. Two or more let a damaged newest one be skipped.

    Example:
      >>> import tempfile, jax.numpy as jnp
      >>> from iwae_jax import checkpoints
      >>> saved = checkpoints.Checkpoints(tempfile.mkdtemp())
      >>> saved.save(3, {"weight": jnp.ones(2)})
      >>> step, state = saved.restore({"weight": jnp.zeros(2)})
      >>> step, state["weight"].tolist()
      (3, [1.0, 1.0])
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every step of a save
        import orbax.checkpoint as ocp  # here, since it takes as long to import as jax

        self.folder = Path(folder).resolve()
        self._keep = keep
        self._args = ocp.args
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler())

    @property
    def steps(self) -> list[int]:
        """The numbers of the checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(file.name) for file in self.folder.iterdir() if file.name.isdecimal())

    def save(self, step: int, state: object) -> None:
        """Write a pytree of arrays under a number; one of that number is replaced."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(left)  # of a process killed while it saved
        self._digest_file(step).unlink(missing_ok=True)
        path = self.folder / str(step)
        self._orbax.save(path, args=self._args.StandardSave(_named_leaves(state)), force=True)
        partial = self.folder / "digest.partial"
        partial.write_text(_digest(path))
        partial.replace(self._digest_file(step))
        for old in [number for number in self.steps if number < step][: -(self._keep - 1) or None]:
            self._digest_file(old).unlink(missing_ok=True)
            shutil.rmtree(self.folder / str(old))

    def restore(self, template: State) -> tuple[int, State] | None:
        """The newest checkpoint that is whole, and its number; None if there is none.

        Newer ones that are not are named in a warning.

        Args:
          template: a pytree with the structure, shapes and dtypes of the one that was saved.

        Raises:
          ValueError: if there are checkpoints, but none of them is whole and fits the template.
        """
        named = _named_leaves(template)
        abstract = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in named.items()}
        steps = self.steps
        for step in reversed(steps):
            path = self.folder / str(step)
            try:
                if self._digest_file(step).read_text() != _digest(path):
                    raise ValueError("its files have changed since they were written")
                restored = self._orbax.restore(path, args=self._args.StandardRestore(abstract))
            except Exception as error:  # what Orbax raises on what it can't read has no one type
                reason = (str(error).strip().splitlines() or [repr(error)])[0]
                warnings.warn(
                    f"Skipped the damaged checkpoint {path}: {reason[:200]}", stacklevel=2
                )
                continue
            leaves = [restored[name] for name in named]
            return step, jax.tree.unflatten(jax.tree.structure(template), leaves)
        if steps:
            raise ValueError(
                f"Expected a readable checkpoint in {self.folder}, got {len(steps)} damaged."
            )
        return None

    def _digest_file(self, step: int) -> Path:
        return self.folder / f"{step}.sha256"


def _digest(folder: Path) -> str:
    """A hash of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            digest.update(f"{file.relative_to(folder)} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _named_leaves(tree: object) -> dict[str, jax.Array]:
    """The leaves by their paths, so that a file does not depend on the classes of the nodes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
