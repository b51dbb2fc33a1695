"""The code in the pages runs, and gives what the pages say."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import integrate, stats

ROOT = Path(__file__).parents[1]


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.S)


def test_a_model_of_your_own():
    code = "".join(blocks("docs/design.md"))
    names: dict = {"__name__": "page"}
    exec(compile(code, "docs/design.md", "exec"), names)
    import iwae_jax

    assert np.isfinite(names["value"])
    params, x = names["params"], np.asarray(names["x"])
    heads = x.sum()

    def density(z):
        p = 1 / (1 + np.exp(-z))
        return p**heads * (1 - p) ** (10 - heads) * stats.norm.pdf(z)

    exact = np.log(integrate.quad(density, -12, 12)[0])
    log_w = iwae_jax.log_weights(params, x, jax.random.key(2), 100_000)
    found = iwae_jax.evaluation.diagnose(log_w)
    assert abs(found.log_likelihood - exact) < 4 * found.standard_error
    assert found.standard_error < 0.02
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(names["gradient"]))
    x = x.astype(np.float32)
    z, log_q = params.model.sample_posterior(params, x, jax.random.key(0))
    np.testing.assert_allclose(log_q, params.model.log_posterior(params, x, z))


@pytest.mark.parametrize("name", ["README.md"])
def test_the_notebook_lines(name):
    names: dict = {"__name__": "page"}
    for code in blocks(name):
        exec(compile(code, name, "exec"), names)
    assert names["values"].shape == (8,)
