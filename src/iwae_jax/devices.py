"""Many devices: one mesh, and how data, samples and replicas are cut over its axes.

Without a mesh, nothing here changes a program. With one, `jax.set_mesh` makes it ambient, and the library
cuts data over the axis ``"data"`` and importance samples over ``"sample"``. Values do not depend on the
cut, since keys are folded in by the numbers of datum and sample.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from iwae_jax.checks import check_positive_int
from iwae_jax.typing import Array, PyTree

_LONGEST_WAIT = 7 * 24 * 3600 * 1000  # milliseconds; the death of a process ends the wait

AXES = ("data", "sample", "replica")
"""The axes of a mesh: data of a batch, importance samples, runs of a sweep."""


def mesh(*, data: int | None = None, sample: int = 1, replica: int = 1) -> Mesh:
    """A mesh of devices, over which the library cuts its work where the mesh is ambient.

    ``with jax.set_mesh(iwae_jax.mesh(data=4, sample=2)):`` cuts batches over four groups of devices and the
    k samples of each datum over the two devices of a group, in `bound` and its gradients, `train_step`,
    `train_epoch`, `log_weights`, `log_likelihood` and `annealing`. Results change by rounding alone.
    Parameters and the optimizer's state are on every device. Sizes need not divide evenly.

    With several processes, call ``jax.distributed.initialize()`` first. The mesh then spans the devices of
    all processes, and each process must make the same calls with the same arguments.

    Args:
      data: the number of devices along the axis ``"data"``. Default: all that the other axes leave.
      sample: the number of devices along ``"sample"``.
      replica: the number of devices along ``"replica"``, for several runs under `jax.vmap`.

    Returns:
      A mesh with these three axes.

    Raises:
      ValueError: if a number is not a positive int, or the devices are too few. With several processes,
        the mesh must have all devices.

    Example:
      >>> import jax, jax.numpy as jnp, iwae_jax
      >>> params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig())
      >>> with jax.set_mesh(iwae_jax.mesh()):
      ...     iwae_jax.bound(params, jnp.zeros((3, 784)), jax.random.key(1), k=50).shape
      (3,)
    """
    sample, replica = check_positive_int("sample", sample), check_positive_int("replica", replica)
    devices = jax.device_count()
    if data is None:
        data = max(1, devices // (sample * replica))
    shape = (check_positive_int("data", data), sample, replica)
    wanted, several = math.prod(shape), jax.process_count() > 1
    if wanted > devices or (several and wanted != devices):
        sizes = ", ".join(f"{name}={size}" for name, size in zip(AXES, shape, strict=True))
        raise ValueError(
            f"Expected a mesh of {'all' if several else 'at most'} {devices} devices, got {sizes}: "
            f"{wanted} devices."
        )
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def cut_over(axis: str) -> int:
    """The number of devices over which the ambient mesh cuts this axis; 1 without such an axis."""
    ambient = jax.sharding.get_abstract_mesh()
    types = dict(zip(ambient.axis_names, ambient.axis_types, strict=True))
    return ambient.shape[axis] if types.get(axis) == AxisType.Auto else 1


def cut(array: Array, *axes: str | None) -> Array:
    """The same array, its first axes cut over these axes of the ambient mesh. For traced code."""
    spec = [axis if axis is not None and cut_over(axis) > 1 else None for axis in axes]
    if not any(spec):
        return array
    free = PartitionSpec.UNCONSTRAINED
    filled = [axis or free for axis in spec] + [free] * (array.ndim - len(spec))
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*filled))


def filled_up(data: PyTree) -> PyTree:
    """The same arrays, with copies of the last datum, so that each device of the ambient mesh has as many data.

    XLA would cut a number of data that the devices do not divide over fewer of them.
    """
    count = len(jax.tree.leaves(data)[0])
    whole = -(-count // cut_over("data")) * cut_over("data")
    if whole == count:
        return data
    return jax.tree.map(lambda a: a[jnp.minimum(jnp.arange(whole), count - 1)], data)


def copied(tree: PyTree) -> PyTree:
    """The same arrays, whole on every device of the ambient mesh. For traced code."""
    if all(cut_over(axis) == 1 for axis in AXES):
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def each_on_its_own(
    function: Callable[..., Array],
    out: tuple[str | None, ...],
    whole: PyTree,
    data: PyTree,
    samples: Array,
) -> Array:
    """``function(whole, data, samples, total)``, with data and samples cut over the ambient mesh.

    Each device runs the function on its part and all of ``whole``. ``total(reduce, values)`` applies
    `jax.lax.psum` or `jax.lax.pmax` over the devices that have other samples of the same data. Data are
    padded by copies of the last datum, which are cut off again.

    Args:
      function: the work of one device.
      out: the axes of the result: ``"data"``, ``"sample"`` or None.
      whole: arrays that every device needs.
      data: arrays whose first axis counts data.
      samples: an array whose first axis can be cut evenly over ``"sample"``.
    """
    names = {axis for axis in ("data", "sample") if cut_over(axis) > 1}
    count = len(jax.tree.leaves(data)[0])
    if not names or not count:
        return function(whole, data, samples, lambda reduce, values: values)

    def total(reduce, values):
        return reduce(values, "sample") if "sample" in names else values

    def axis(name):
        return name if name in names else None

    parts = jax.shard_map(
        partial(function, total=total),
        in_specs=(
            PartitionSpec(),
            PartitionSpec(axis("data")),
            PartitionSpec(axis("sample")),
        ),
        out_specs=PartitionSpec(*map(axis, out)),
        axis_names=names,
        check_vma=False,  # models of one's own need not know of devices
    )(whole, filled_up(data), samples)
    return jax.lax.slice_in_dim(parts, 0, count, axis=out.index("data"))


def everywhere(tree: PyTree) -> PyTree:
    """The same arrays, whole on every device of the ambient mesh; unchanged without one.

    Each process must give the same values.
    """
    ambient = jax.sharding.get_mesh()
    return tree if ambient.empty else jax.device_put(tree, NamedSharding(ambient, PartitionSpec()))


def by_replica(tree: PyTree) -> PyTree:
    """The same arrays, whose first axis counts runs, cut over ``"replica"`` of the ambient mesh.

    For the arguments of a function under `jax.vmap`. Unchanged without a mesh. The size of ``"replica"`` must
    divide the number of runs.
    """
    ambient = jax.sharding.get_mesh()
    cut = PartitionSpec("replica")
    return tree if ambient.empty else jax.device_put(tree, NamedSharding(ambient, cut))


def meet(where: str) -> None:
    """Wait until all processes are here, however long that takes; ``where`` is the same in each."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        # Devices that wait for one another, as in JAX's own barrier, give up after 30 s on a CPU.
        multihost.get_barrier_sync_fn()(key=where, timeout_ms=_LONGEST_WAIT)


def to_host(array: Any) -> np.ndarray:
    """A NumPy array of all values, also of an array that several processes hold in parts."""
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
