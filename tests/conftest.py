"""Settings of every test: no silent broadcasting, no silent promotion, real data if they are there.

Tests compile thousands of small programs, which takes far longer than to run them. So XLA compiles here
without LLVM's optimisations, with the older of its two ways of emitting a fusion, and each program in one
part: together a quarter of the compile time. (jaxlib 0.10.2 has these flags; XLA refuses a flag that it does
not know.) The test processes and the commands that they start share a cache of compiled programs. Tracing
makes many objects that stay, so Python looks for garbage less often. ``.ci/run`` repeats a part of the tests
without these flags, for a CPU without AVX-512.
"""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

FLAGS = os.environ.get("XLA_FLAGS", "")
if "xla_backend_optimization_level" not in FLAGS:
    quick = "backend_optimization_level=0 cpu_use_fusion_emitters=false cpu_parallel_codegen_split_count=1"
    ours = [f"--xla_{flag}" for flag in quick.split()]
    os.environ["XLA_FLAGS"] = " ".join([*ours, FLAGS])  # the last one holds, so a user's come last

gc.set_threshold(100_000, 20, 50)


def pytest_configure(config):
    """Make the cache before the test processes start, since they inherit the environment."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        config.own_cache = tempfile.mkdtemp(prefix="iwae_jax-compiled-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = config.own_cache
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    seconds = os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1.0")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", float(seconds))


def pytest_unconfigure(config):
    shutil.rmtree(getattr(config, "own_cache", ""), ignore_errors=True)


jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True, scope="module")
def forget_what_was_compiled():
    """Compiled programs hold memory maps, of which a process may have only so many (65,530)."""
    yield
    jax.clear_caches()


@pytest.fixture
def real_data() -> Path:
    """The folder of real MNIST and Omniglot; tests that ask for it are skipped without it."""
    folder = os.environ.get("IWAE_JAX_TEST_DATA")
    if not folder:
        pytest.skip("IWAE_JAX_TEST_DATA names no folder of real data")
    return Path(folder)
