"""The devices and processes of a command: who computes, and who reads and writes files.

All processes compute. The first one alone reads the data, prints, and writes all files but checkpoints.
"""

import contextlib
import pickle
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import jax
import numpy as np

from experiments.shared.system.display import console
from experiments.shared.system.errors import UsageError
from experiments.shared.system.stopping import listen
from iwae_jax import devices

Result = TypeVar("Result")


def start(distributed: str | None) -> None:
    """Meet the other processes, if there are any. Call this before JAX looks for devices.

    Args:
      distributed: None; or "auto", so that JAX asks Slurm, Kubernetes, Open MPI or the TPU; or
        "HOST:PORT,PROCESSES,ID".
    """
    check_distributed(distributed)
    if distributed is None or jax.distributed.is_initialized():
        return
    # JAX's service for preemption would take SIGTERM from this process.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**_addresses(distributed))
    except (ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200]
        raise UsageError(f"Expected --distributed={distributed} to start, got: {text}") from error
    listen()
    console.quiet = not first()


def _addresses(distributed: str) -> dict[str, Any]:
    if distributed == "auto":
        return {}
    host, processes, number = distributed.split(",")
    return {
        "coordinator_address": host,
        "num_processes": int(processes),
        "process_id": int(number),
        "cluster_detection_method": "deactivate",
    }


def check_distributed(distributed: str | None) -> None:
    """Raise a `UsageError` if the value is not one of --distributed."""
    try:
        sizes = _addresses("auto" if distributed is None else distributed)
        host, _, port = sizes.get("coordinator_address", "a:1").rpartition(":")
        good = host != "" and port.isdecimal() and 0 < int(port) < 2**16
        good = good and (not sizes or 0 <= sizes["process_id"] < sizes["num_processes"])
    except ValueError:
        good = False
    if not good:
        raise UsageError(
            f"Expected --distributed to be auto or HOST:PORT,PROCESSES,ID, got {distributed!r}."
        )


CUT = ("data", "sample")
"""The axes over which one run can be cut."""


def sizes_of(mesh: str | None, axes: Collection[str] = CUT) -> dict[str, int]:
    """The sizes in a value of --mesh, such as data=4,sample=2; a `UsageError` for another text."""
    sizes = {}
    for word in (mesh or "").split(",") if mesh is not None else ():
        name, _, size = word.partition("=")
        if name not in axes or name in sizes or not size.isdecimal() or not int(size):
            raise UsageError(
                f"Expected --mesh to be like data=4,sample=2, with numbers of devices for {', '.join(axes)}, "
                f"got {mesh!r}."
            )
        sizes[name] = int(size)
    return sizes


def ambient(
    mesh: str | None, axes: Collection[str] = CUT
) -> contextlib.AbstractContextManager[Any]:
    """The mesh of a command as a context: of several processes, all devices where --mesh is not given."""
    if mesh is None and jax.process_count() == 1:
        return contextlib.nullcontext()
    try:
        return jax.set_mesh(devices.mesh(**sizes_of(mesh, axes)))
    except ValueError as error:
        raise UsageError(f"Expected --mesh to fit the devices. {error}") from error


def first() -> bool:
    """Whether this process is the one that reads and writes."""
    return jax.process_index() == 0


def from_first(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in the first process alone; return its result, or raise its error, in all of them."""
    if jax.process_count() == 1:
        return function(*arguments)
    from jax.experimental.multihost_utils import broadcast_one_to_all

    result: Any = None
    if first():
        try:
            result = (function(*arguments), None)
        except Exception as error:  # each process must learn of it
            result = (None, error)
    devices.meet("from_first")
    content = np.frombuffer(pickle.dumps(result), np.uint8)
    length = int(broadcast_one_to_all(np.int32(len(content))))
    content = content if first() else np.zeros(length, np.uint8)
    result = pickle.loads(np.asarray(broadcast_one_to_all(content)).tobytes())
    if result[1] is not None:
        raise result[1]
    return result[0]
