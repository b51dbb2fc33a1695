"""Settings of every test: no silent broadcasting, no silent promotion, real data if they are there."""

import os
from pathlib import Path

import jax
import pytest

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
