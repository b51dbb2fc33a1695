"""What people read and see: sentences, progress, short reprs, and points outside a picture's limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.reporting import drawing, figures, plots
from experiments.shared.runs import page, summary
from experiments.shared.system import display
from iwae_jax.data import Dataset


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "pass", "1 pass"),
        (2, "pass", "2 passes"),
        (1, "run", "1 run"),
        (0, "run", "0 runs"),
        (1500, "test image", "1,500 test images"),
    ],
)
def test_counts(number, noun, text):
    assert display.counted(number, noun) == text


def test_progress_says_neither_a_speed_of_0_nor_0_seconds_left(capsys, monkeypatch):
    times = iter([0.0, 4.0, 8.0, 100.0])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.0)
    bar = display.Display("annealing", 2, unit="image")
    bar.advance("NLL 3", 1)
    bar.advance("NLL 2", 1)
    assert capsys.readouterr().out.splitlines() == [
        "annealing: image 1/2  NLL 3  0.2 images/s  4 s left",
        "annealing: image 2/2  NLL 2  0.2 images/s",
    ]


def test_the_time_left_knows_that_the_last_passes_cost_more(capsys, monkeypatch):
    """In proportion to their costs at first; as measured, without the pass that compiles, later on."""
    times = iter([0.0, 10.0, 12.0, 42.0, 55.0, 68.0])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(display, "_LINE_SECONDS", 0.0)
    bar = display.Display("training", 6, done=1, unit="pass", costs=[8, 8, 8, 80, 80, 80])
    for _ in range(5):
        bar.advance("")
    left = [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines()]
    assert left == [
        "5 min 10 s left",  # 10 s for one of cost 8, and three that cost ten times as much
        "1 min 0 s left",  # 2 s without the first, so 20 s for each of the three
        "40 s left",  # still in proportion, since the pass of 30 s compiled
        "13 s left",
        "",
    ]


def test_the_bar_of_a_run_moves_by_what_a_pass_costs():
    recipe = iwae_jax.training.Recipe(passes=4, first_passes=3, first_k=2, resampled=8)
    costs = [recipe.cost(number, 50) for number in range(1, 5)]
    assert costs == [2 + 3 * 2] * 3 + [2 + 50 + 3 * 8]
    assert iwae_jax.training.Recipe(passes=4).cost(1, 50) == 2 + 3 * 50
    bar = display.Display("training", 4, unit="pass", costs=costs)
    for _ in range(3):
        bar.advance("")
    (task,) = bar._bar.tasks
    assert task.percentage == pytest.approx(100 * 24 / 100)


def digits(name):
    images = np.zeros((4, 64), np.uint8)
    return Dataset(name, "embedded", "8x8 digits", images, images[:0], images, (8, 8), 16.0)


@pytest.mark.parametrize("columns", [45, 70, 80])
def test_a_table_keeps_its_names_and_numbers_on_any_terminal(capsys, monkeypatch, columns):
    """A narrow one folds the headings; a wide one does not."""
    monkeypatch.setattr(display.console, "_width", columns)
    header = ("model", "effective sample size", "gap, simulated data", "log p(x) of images")
    rows = [("DCGAN", "1.1", "21.3 ± 3.0", "563.8"), ("IWAE", "1.8", "15.2 ± 1.7", "913.8")]
    display.print_table("likelihoods", header, rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    for row in rows:
        assert any(all(cell in line for cell in row) for line in lines)
    assert any(all(name in line for name in header) for line in lines) == (columns == 80)
    assert all(word in "\n".join(lines) for name in header for word in name.split())


def test_the_digits_replace_only_another_data_set():
    found = {"passes": 13, "test_nll_k": 5000, "test_images": 4}
    for name, text in (
        ("digits", "data: 8x8 digits: NOT comparable with the paper's"),
        ("mnist", "data: 8x8 digits in place of mnist: NOT comparable with the paper's"),
    ):
        assert summary.differences(Config.of(dataset=name), digits(name), found)[0] == text


def test_a_kind_is_said_in_words():
    name = summary.bound_name(Config.of(objective="cubo", k=5))
    assert name.startswith("CUBO(") and name.endswith("k=5 (neither a lower nor an upper bound)")
    assert display.kind_in_words("upper bound") == "upper bound"


def test_how_far_an_unfinished_run_is(tmp_path):
    lines = [{"pass": 1}, {"pass": 2}, {"pass": 3}]
    for config, source, text in (
        (Config.of(k=5, preset="paper").to_json(), "files", "unfinished, pass 3 of 3,280"),
        (Config.of(preset="paper", stages=3).to_json(), "embedded", "unfinished, pass 3 of 13"),
        (Config.of(k=5, passes=7).to_json(), "files", "unfinished, pass 3 of 7"),
        ({"k": 5, "flag_of_another_version": 1}, "files", "unfinished, 3 passes"),
    ):
        run = page.Found("run", tmp_path, config, {"source": source}, lines, None)
        assert page._progress(run) == text


@pytest.fixture
def figure(monkeypatch):
    """The figure that would be saved."""
    found = []
    monkeypatch.setattr(drawing, "save", lambda figure, *_: found.append(figure))
    return found


def marks(axes):
    """The triangles, (marker, x), and the text about them."""
    lines = [line for line in axes.get_lines() if line.get_marker() in ("v", "^")]
    return [(line.get_marker(), *line.get_xdata()) for line in lines], axes.texts[0].get_text()


def test_learning_curves_mark_the_points_outside(figure, tmp_path):
    bounds = (-200.0, -100.0, -99.0, -98.0, -97.0)
    metrics = [
        {"pass": i + 1, "train_bound": y, "validation_bound": None, "learning_rate": 1.0}
        for i, y in enumerate(bounds)
    ]
    plots.learning_curves(tmp_path / "x.png", metrics, [2], "title", "caption")
    assert marks(figure[0].axes[0]) == ([("v", 1)], "triangles: 1 point lower, to -200.0")
    plots.learning_curves(tmp_path / "x.png", metrics[1:], [], "title", "caption")
    # Of the first of few passes all is seen.
    plots.learning_curves(tmp_path / "x.png", metrics[:2], [], "title", "caption")
    assert marks(figure[2].axes[0]) == ([], "")


def test_both_sides_are_marked():
    axes = drawing.figure(2, 2).add_subplot()
    drawing.focus(axes, [((1, 2, 3, 4), (-9.0, 0.0, 1.0, 99.0), "C0")], (0.0, 1.0), 0.1)
    assert marks(axes) == (
        [("^", 4), ("v", 1)],
        "triangles: 1 point higher, to 99.0\ntriangles: 1 point lower, to -9.0",
    )


def test_weights_mark_the_bound_of_one_sample(figure, tmp_path):
    curves = {"L_k (lower bound)": [(1, -50.0), (2, -9.0), (5, -8.5)], "jackknife": [(2, -8.9)]}
    plots.weights(tmp_path / "x.png", np.zeros((5, 2), np.float32), curves, "title", "caption")
    assert marks(figure[0].axes[1]) == ([("v", 1)], "triangles: 1 point lower, to -50.0")


def test_titles_of_a_run_with_a_long_name_lie_in_the_picture(figure, tmp_path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    title = "iwae-L1-posterior_autoregressive_layers_4-gradient_stl-k50-seed0-passes60: a picture"
    file, x = tmp_path / "x.png", np.random.default_rng(0).random((4, 16))
    metrics = [{"pass": 1, "train_bound": -2.0, "validation_bound": -3.0}]
    plots.learning_curves(file, metrics, [], title, "caption")
    plots.image_grid(file, x, (4, 4), 2, title, "caption")
    plots.weights(file, x, {"L_k (lower bound)": [(1, -2.0), (2, -1.0)]}, title, "caption")
    plots.table_samples(file, x, x, title, "caption")
    plots.table_reconstructions(file, x, x, title, "caption")
    assert len(figure) == 5
    for drawn in figure:
        FigureCanvasAgg(drawn).draw()
        texts = [text for text in drawn.findobj(Text) if "autoregressive" in text.get_text()]
        assert texts
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= drawn.bbox.width, text.get_text()


@pytest.mark.parametrize("passes", [1, 5])
def test_compare_draws_every_entry(figure, tmp_path, passes):
    """With one pass next to each other; a pass outside the limits is marked."""
    rows = [
        {
            "entry": name, "kind": "neither", "nll": 9.0, "nll_95": 0.1, "active": [2.0],
            "time_ratio": 1.0, "memory_mib": 3.0,
        }
        for name in ("a", "b")
    ]  # fmt: skip
    lines = [
        {"pass": i + 1, "held_out_L_50": [-100.0 - 50 * (i == 0), -99.0 - 50 * (i == 0), -98.0]}
        for i in range(passes)
    ]
    figures.comparison(tmp_path / "x.png", {"a": {"lines": lines}, "b": {"lines": lines}}, rows, "")
    axes = figure[0].axes[0]
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    places = [
        float(x)
        for container in axes.containers
        for x, y in zip(*container.lines[0].get_data(), strict=True)
        if left < x < right and low < y < high
    ]
    if passes == 1:
        assert len(set(places)) == 2 and marks(axes) == ([], "")
    else:
        assert sorted(places) == [2, 2, 3, 3, 4, 4, 5, 5]
        assert marks(axes)[0] == [("v", 1), ("v", 1)]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [f"{name} (neither a lower nor an upper bound)" for name in ("a", "b")]


def test_a_bias_in_the_noise_leaves_a_gap(figure, tmp_path):
    rows = [
        {"entry": "a", "kind": "neither", "k": k, "bias": 1 / k, "bias_se": se, "variance": 1.0}
        for k, se in ((2, 0.0), (4, 1.0), (8, 0.0))
    ]
    figures.bias_and_variance(tmp_path / "x.png", rows, {}, "caption")
    values = figure[0].axes[0].get_lines()[0].get_ydata()
    np.testing.assert_array_equal(values, [0.5, np.nan, 0.125])


def test_reprs_are_short():
    model = iwae_jax.ModelConfig((9,), (2,), ((4,),))
    params = iwae_jax.Params({"w": np.zeros((30, 100))}, [np.zeros(2), np.zeros(3)], model)
    text = f"Params(model={model!r}, generative: 3,000 numbers, recognition: 5 numbers)"
    state = iwae_jax.TrainState(np.int32(7), params, np.zeros(6000), optax.identity())  # type: ignore[arg-type]
    assert repr(params) == text and repr(state) == f"TrainState(step=7, params={text})"
    # Also where JAX traces, and of a tree that holds no arrays.
    assert jax.eval_shape(lambda p: jnp.zeros(len(repr(p))), params).shape == (len(text),)
    assert "generative: 1 number, recognition: 0 numbers" in repr(iwae_jax.Params(3.0, (), None))
    assert repr(digits("mnist")) == (
        "Dataset('mnist' from embedded (8x8 digits): 4 training, 0 held-out, 4 test images of 8x8, "
        "maximum 16, no labels)"
    )
