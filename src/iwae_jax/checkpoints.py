"""Save and restore train states, atomically, with Orbax.

A checkpoint appears whole or not at all: a process killed while it saves leaves a temporary
folder, which the next start ignores.
"""

import logging
import warnings
from pathlib import Path
from types import TracebackType
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
      >>> with checkpoints.Checkpoints(tempfile.mkdtemp()) as saved:
      ...     saved.save(3, {"weight": jnp.ones(2)})
      ...     step, state = saved.restore({"weight": jnp.zeros(2)})
      >>> step, state["weight"].tolist()
      (3, [1.0, 1.0])
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every step of a save
        import orbax.checkpoint as ocp  # here, since it takes as long to import as jax

        self._ocp = ocp
        self.folder = Path(folder).resolve()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, enable_async_checkpointing=False
            ),
        )

    def save(self, step: int, state: object) -> None:
        """Write a pytree of arrays under a number larger than those before."""
        self._manager.save(step, args=self._ocp.args.StandardSave(_named_leaves(state)), force=True)

    def restore(self, template: State) -> tuple[int, State] | None:
        """The newest checkpoint that can be read, and its number; None if there is none.

        Newer ones that can't be read are named in a warning and removed.

        Args:
          template: a pytree with the structure, shapes and dtypes of the one that was saved.

        Raises:
          ValueError: if there are checkpoints, but none of them can be read.
        """
        named = _named_leaves(template)
        abstract = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in named.items()}
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                restored = self._manager.restore(
                    step, args=self._ocp.args.StandardRestore(abstract)
                )
            except Exception as error:  # a damaged file raises whatever its reader raises
                reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
                warnings.warn(
                    f"Skipped the damaged checkpoint {self.folder / str(step)}: {reason[:200]}",
                    stacklevel=2,
                )
                continue
            for damaged in steps[: steps.index(step)]:
                self._manager.delete(damaged)  # its number will come again
            leaves = [restored[name] for name in named]
            return step, jax.tree.unflatten(jax.tree.structure(template), leaves)
        if steps:
            raise ValueError(
                f"Expected a readable checkpoint in {self.folder}, got {len(steps)} damaged."
            )
        return None

    def close(self) -> None:
        """Wait for what is being written, and let go of the folder."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _named_leaves(tree: object) -> dict[str, jax.Array]:
    """The leaves by their paths, so that a file does not depend on the classes of the nodes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
