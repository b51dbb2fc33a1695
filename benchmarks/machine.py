"""A description of the machine, and the rate of its matrix products."""

import importlib.metadata
import importlib.util
import os
import platform
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import seconds_of

FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
PACKAGES = ("iwae_jax", "jax", "jaxlib", "torch", "numpyro")
SHAPES = ((200, 784), (200, 200))
"""The products whose rate is measured: (m, a) x (a, b), for m = k x batch rows."""


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """The processor, the cores in use, instruction sets, devices and versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = [line.partition(":") for line in info.splitlines()]
    values = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    flags = values.get("flags", "").split()
    return {
        "processor": values.get("model name") or platform.processor() or platform.machine(),
        "family and model": f"{values.get('cpu family', '?')}, {values.get('model', '?')}",
        "cores in use": cores(),
        "instruction sets": [flag for flag in FLAGS if flag in flags],
        "devices": sorted({device.device_kind for device in jax.local_devices()}),
        "platform": jax.default_backend(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def largest_resident_set() -> float:
    """The largest resident set of this process so far, MiB."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):  # Linux's ru_maxrss begins with that of the parent process
            return int(line.split()[1]) / 1024
    import resource  # not on every system

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 2**20 if platform.system() == "Darwin" else size / 2**10


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return getattr(__import__(name), "__version__", None) if _installed(name) else None


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def product_rates(m: int, *, torch: bool = True, repeats: int = 5) -> dict[str, float]:
    """Operations a second of the products `SHAPES` at m rows: the best of several, by program.

    The two products are timed together. The key ``"float32"`` is the better of the float32 rates.
    """
    flops = sum(2.0 * m * a * b for a, b in SHAPES)
    calls = max(1, int(2e8 / flops))
    rates = {}
    for name, precision in (("jax float32", jnp.float32), ("jax bfloat16", jnp.bfloat16)):
        run = _jax_products(m, precision, calls)
        rates[name] = calls * flops / min(seconds_of(run) for _ in range(repeats))
    if torch and _installed("torch"):
        for name in ("float32", "bfloat16"):
            run = _torch_products(m, name, calls)
            rates[f"torch {name}"] = calls * flops / min(seconds_of(run) for _ in range(repeats))
    best = max(rate for name, rate in rates.items() if name.endswith("float32"))
    return {"float32": best, **rates}


def _factors(m: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    shapes = [((m, a), (a, b)) for a, b in SHAPES]
    return [(rng.normal(size=s), rng.normal(size=t)) for s, t in shapes]


def _jax_products(m: int, precision: Any, calls: int):
    factors = [(jnp.asarray(a, precision), jnp.asarray(b, precision)) for a, b in _factors(m)]
    # GPUs round the operands of float32 unless told otherwise.
    exact = "highest" if jnp.dtype(precision) == jnp.float32 else None
    product = jax.jit(partial(jnp.matmul, precision=exact, preferred_element_type=jnp.float32))

    def run() -> None:
        for _ in range(calls):
            done = [product(a, b) for a, b in factors]
        jax.block_until_ready(done)

    run()
    return run


def _torch_products(m: int, precision: str, calls: int):
    import torch  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, precision)
    factors = [
        (torch.from_numpy(a).to(device, kind), torch.from_numpy(b).to(device, kind))
        for a, b in _factors(m)
    ]
    places = [torch.empty(m, b.shape[1], dtype=kind, device=device) for _, b in factors]

    def run() -> None:
        for _ in range(calls):
            for (a, b), place in zip(factors, places, strict=True):
                torch.mm(a, b, out=place)
        if device == "cuda":
            torch.cuda.synchronize()

    run()
    return run
