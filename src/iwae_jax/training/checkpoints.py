"""Save and restore train states with Orbax's CheckpointManager, plus a digest of each checkpoint.

A killed process leaves no half-written checkpoint: Orbax writes to a temporary folder, and the next
save removes it. Orbax does not detect a number that changes on the disk afterwards. Therefore `Checkpoints`
writes a digest of the files, last of all, and checks it before a checkpoint is restored.

Where there are several processes, all of them save and restore together, in one folder that all of them
see. A checkpoint does not depend on their number: it is restored onto the devices of the template.
"""

import hashlib
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

from iwae_jax.checks import check_positive_int
from iwae_jax.devices import meet

State = TypeVar("State")

_ITEM = "default"
"""The subfolder in which CheckpointManager stores a single item."""

_ROOM = 2**20
"""Bytes of a checkpoint besides its arrays: metadata, tables and the digest."""


class Checkpoints:
    """The newest checkpoints in a folder.

    Args:
      folder: the folder of the checkpoints. The first save creates it if necessary.
      keep: the number of checkpoints to keep. With two or more, a damaged newest checkpoint can be
        skipped.

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
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs every step of a save
        import orbax.checkpoint as ocp  # here, because the import takes as long as that of jax

        self.folder = Path(folder).resolve()
        self._keep = check_positive_int("keep", keep)
        self._ocp = ocp
        self._reader = ocp.Checkpointer(ocp.StandardCheckpointHandler())
        self._writer: Any = (
            None  # opened by the first save, since opening removes temporary folders
        )

    @property
    def steps(self) -> list[int]:
        """The numbers of the checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        manager = self._writer or self._open(create=False, read_only=True)
        return sorted(manager.all_steps(read=True))

    def save(self, step: int, state: object) -> None:
        """Write a pytree of arrays under a number, and delete the oldest checkpoints.

        A checkpoint that has this number already is replaced. Each process writes a part.

        Args:
          step: the number of the checkpoint.
          state: a pytree of arrays.

        Raises:
          OSError: if the disk lacks the room for it, or the files can't be written.
        """
        # On a full disk each thread of Orbax prints a traceback: check the room before any of them starts.
        self.folder.mkdir(parents=True, exist_ok=True)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state) if hasattr(leaf, "nbytes"))
        free = shutil.disk_usage(self.folder).free
        if free < size + _ROOM:
            raise OSError(
                f"Expected room for a checkpoint of {size / 1e6:.1f} MB in {self.folder}, got "
                f"{free / 1e6:.1f} MB."
            )
        if self._writer is None:
            self._writer = self._open(create=True, cleanup_tmp_directories=True)
        there = (self.folder / str(step)).exists()
        meet("Checkpoints.save: looked")  # before another process deletes it
        if there:
            self._delete(step)
        arguments = self._ocp.args.StandardSave(_named_leaves(state))
        try:
            self._writer.save(step, args=arguments, force=True)
        except Exception as error:  # Orbax raises errors of many types
            text = " ".join(str(error).split())[:200]
            raise OSError(
                f"Expected to write the checkpoint {self.folder / str(step)}, got: {text}"
            ) from error
        meet("Checkpoints.save: written")
        if jax.process_index() == 0:
            partial = self.folder / "digest.partial"
            partial.write_text(_digest(self.folder / str(step)))
            partial.replace(self._digest_file(step))
        meet("Checkpoints.save: digested")
        # Not CheckpointManager's max_to_keep, which deletes before the digest is written: a kill in
        # between would leave no checkpoint to restore.
        older = sorted(number for number in self._writer.all_steps() if number < step)
        for old in older[: -(self._keep - 1) or None]:
            self._delete(old)

    def restore(
        self, template: State, *, former: Callable[[str], str] | None = None
    ) -> tuple[int, State] | None:
        """Restore the newest undamaged checkpoint.

        A warning names each checkpoint that is skipped: a damaged one, or one without a digest, whose
        process was killed before it wrote the digest.

        Args:
          template: a pytree with the structure, shapes and dtypes of the saved one. Its arrays say on
            which devices the restored ones lie.
          former: a function from the name of a leaf to its name in an earlier version. It is called
            for each leaf whose own name the checkpoint lacks. The name of a leaf is its path,
            ``jax.tree_util.keystr``: ``"['weight']"``.

        Returns:
          The number of the checkpoint, and the restored pytree. None if there is no finished checkpoint.

        Raises:
          ValueError: if all checkpoints are damaged, or the newest undamaged one does not fit the
            template.
        """
        steps, unfinished = self.steps, 0
        for step in reversed(steps):
            path = self.folder / str(step)
            if not self._digest_file(step).is_file():
                unfinished += 1
                warnings.warn(
                    f"Skipped the unfinished checkpoint {path}: it has no digest", stacklevel=2
                )
                continue
            item = path / _ITEM if (path / _ITEM).is_dir() else path  # older layout: no subfolder
            try:
                if self._digest_file(step).read_text() != _digest(path):
                    raise ValueError("its files have changed since they were written")
                metadata: Any = self._reader.metadata(item).item_metadata
                stored = metadata.tree
            except Exception as error:  # on unreadable files Orbax raises errors of many types
                reason = (str(error).strip().splitlines() or [repr(error)])[0]
                warnings.warn(
                    f"Skipped the damaged checkpoint {path}: {reason[:200]}", stacklevel=2
                )
                continue
            wanted = _named_leaves(template)
            names = _stored_names(path, wanted, stored, former)
            abstract = {
                names[name]: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)
                )
                for name, leaf in wanted.items()
            }
            try:
                restored = self._reader.restore(item, args=self._ocp.args.StandardRestore(abstract))
            except Exception as error:  # not damaged: its files are those that were written
                raise ValueError(
                    f"Expected Orbax to restore the undamaged checkpoint {path}, got: {error}"
                ) from error
            leaves = [restored[names[name]] for name in wanted]
            return step, jax.tree.unflatten(jax.tree.structure(template), leaves)
        damaged = len(steps) - unfinished
        if damaged:
            raise ValueError(
                f"Expected a readable checkpoint in {self.folder}, got {damaged} damaged."
            )
        return None

    def _open(self, **options: Any) -> Any:
        ocp = self._ocp
        settings = ocp.CheckpointManagerOptions(
            enable_async_checkpointing=False, save_root_metadata=False, **options
        )
        return ocp.CheckpointManager(self.folder, options=settings)

    def _delete(self, step: int) -> None:
        self._digest_file(step).unlink(missing_ok=True)
        if step not in self._writer.all_steps():
            self._writer.reload()  # written by someone else since the writer was opened
        self._writer.delete(step)

    def _digest_file(self, step: int) -> Path:
        return self.folder / f"{step}.sha256"


def _stored_names(
    path: Path,
    leaves: dict[str, jax.Array],
    stored: dict[str, Any],
    former: Callable[[str], str] | None,
) -> dict[str, str]:
    """The name in the checkpoint of each leaf; a `ValueError` names the first leaf that differs."""
    names = {}
    for name, leaf in leaves.items():
        names[name] = former(name) if former is not None and name not in stored else name
        if names[name] not in stored:
            raise ValueError(f"Expected the checkpoint {path} to have the leaf {name}, got none.")
        shape = tuple(stored[names[name]].shape)
        if shape != tuple(leaf.shape):
            raise ValueError(
                f"Expected the leaf {name} of the checkpoint {path} to have shape "
                f"{tuple(leaf.shape)}, got {shape}."
            )
        dtype = getattr(stored[names[name]], "dtype", None)
        if dtype is not None and dtype != leaf.dtype:
            raise ValueError(
                f"Expected the leaf {name} of the checkpoint {path} to have dtype {leaf.dtype}, got {dtype}."
            )
    for name in stored:
        if name not in names.values():
            raise ValueError(
                f"Expected the checkpoint {path} to fit the state, got a leaf {name} that the "
                "state lacks."
            )
    return names


def _digest(folder: Path) -> str:
    """A hash of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            digest.update(f"{file.relative_to(folder)} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _named_leaves(tree: object) -> dict[str, jax.Array]:
    """The leaves by their paths, so that a checkpoint does not depend on the classes of the nodes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
