"""The code in the pages runs, the pages name every command, and their links lead to files."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import integrate, stats

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *sorted(
    str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")
)]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    """Most of the time goes into compiling programs that run once: compile them without optimizing."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def keep_tables():
    """Undo what a page registers."""
    from iwae_jax import models

    tables = [models.LIKELIHOODS, models.PRIORS, models.POSTERIORS, models.NETWORKS]
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.S)


def run_page(name):
    """Run the blocks of a page in one namespace, and return it."""
    names: dict = {"__name__": "page"}
    for code in blocks(name):
        exec(compile(code, name, "exec"), names)
    return names


def test_a_model_of_your_own():
    names = run_page("docs/design.md")
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


@pytest.fixture
def quick_init(monkeypatch):
    """`iwae_jax.init` gives small random numbers of the right shapes, without a compiled program."""
    import iwae_jax

    init = iwae_jax.init

    def quick(key, model, data_mean=None):
        like = jax.eval_shape(lambda: init(key, model, data_mean=data_mean))
        rng = np.random.default_rng(0)
        return jax.tree.map(
            lambda a: jax.numpy.asarray(0.1 * rng.normal(size=a.shape), a.dtype), like
        )

    monkeypatch.setattr(iwae_jax, "init", quick)


def test_the_notebook_lines_of_the_readme(quick_init):
    names = run_page("README.md")
    assert names["values"].shape == (8,)
    assert names["log_p"].shape == (8,)
    # L_5000 is above L_50 on the whole, and draws from the model are pixels.
    assert names["log_p"].mean() > names["values"].mean()
    assert names["images"].shape == (100, 64) and set(np.unique(names["images"])) == {0, 1}


def test_the_notebook_lines_of_the_first_page(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # they write two pictures
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = run_page("docs/start.md")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("table.png", "tiles.png"))
    assert 3.5 < names["nll"] / (np.log(2) * names["tiles"][0].size) < 5
    assert names["values"].shape == names["log_p"].shape == (8,)
    assert names["again"].shape == (8, 64)
    assert np.isfinite(names["result"].nll)
    # Training raises the bound.
    import iwae_jax

    untrained = iwae_jax.init(names["keys"][1], names["config"], data_mean=names["digits"].mean)
    before = iwae_jax.bound(untrained, names["x"], names["keys"][3], k=50)
    assert names["values"].mean() > before.mean()


def test_the_notebook_lines_of_the_page_of_devices():
    names = run_page("docs/devices.md")
    assert names["log_p"].shape == (10,)
    assert names["bounds"].shape == (4, 5)


def test_the_notebook_lines_of_the_how_to(monkeypatch, quick_init):
    """Each bound and the annealing are traced, not compiled: `asked` has what each one was asked."""
    import iwae_jax
    from iwae_jax import annealing, objectives

    asked = []

    def traced(function):
        def call(params, x, key, **options):
            like = jax.eval_shape(lambda params: function(params, x, key, **options), params)
            asked.append({name: str(value) for name, value in options.items()} | {"n": len(x)})
            assert like.shape[-1] == len(x)
            return np.zeros(like.shape, like.dtype)

        return call

    monkeypatch.setattr(iwae_jax, "bound", traced(iwae_jax.bound))
    chains = traced(annealing.annealed_log_weights)
    monkeypatch.setattr(annealing, "annealed_log_weights", chains)
    names = run_page("docs/how-to.md")
    assert asked == [
        {"k": "50", "objective": "Renyi(alpha=0.5)", "gradient": "dreg", "n": 8},
        {"k": "50", "objective": "tvo", "gradient": "vimco", "n": 8},
        {"k": "50", "gradient": "reparam@8", "n": 8},
        {"k": "50", "gradient": "dreg", "n": 8},
        {"k": "50", "gradient": "gdreg+vimco", "n": 8},
        {"k": "5000", "gradient": "dreg@8", "n": 8},
        {"chains": "5", "steps": "10", "leapfrog": "3", "n": 2},
    ]
    assert names["log_w"].shape == (5, 2)
    assert names["deep"].model.latent_sizes == (20, 10)
    assert names["even"].shape == (50, 8)
    # The NLL is the bound of as many samples.
    log_w = iwae_jax.log_weights(names["params"], names["x"], names["key"], 50)
    nll = -objectives.IWAE()(log_w).mean()
    np.testing.assert_allclose(names["result"].nll, nll, rtol=1e-5)
    assert np.abs(names["even"] - log_w).max() > 0.1
    assert names["active"].variances[0].shape == (50,)
    terms = names["terms"]
    np.testing.assert_allclose(
        terms.rate, terms.mutual_information + terms.marginal_divergence, rtol=1e-4, atol=1e-4
    )


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_every_command_is_in_the_pages():
    pages = "".join((ROOT / name).read_text() for name in PAGES if name.startswith("docs/"))
    commands = [
        file.stem
        for file in (ROOT / "experiments").glob("*.py")
        if 'if __name__ == "__main__":' in file.read_text()
    ]
    assert {"mnist", "report", "table1"} <= set(commands)
    assert [name for name in commands if f"python -m experiments.{name}" not in pages] == []


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_leads_to_a_file(name):
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
