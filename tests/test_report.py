"""experiments.report: the page, and how a browser shows it."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from experiments import report
from experiments.shared import command
from experiments.shared.flags.config import Config
from experiments.shared.runs import page
from experiments.shared.runs.folders import RunFolder
from experiments.shared.system.errors import UsageError
from iwae_jax.training import recipes

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060"
    "000000050001a5f645400000000049454e44ae426082"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def make(root, name, nll=None, passes=3, **config):
    """A run folder with what the report reads."""
    folder = RunFolder(root / name)
    folder.path.mkdir(parents=True)
    saved = Config.of(k=5, out_dir=str(root)).to_json()
    folder.write("config.json", {**saved, **config})
    facts = {"dataset": "mnist", "source": "files", "origin": "files in <x>", "fingerprint": "f"}
    folder.write("data.json", facts)
    for number in range(1, passes + 1):
        line = {"pass": number, "train_bound": -100.0 + number, "validation_bound": -101.0 + number}
        folder.add_metrics(line)
    (folder.path / "curves.png").write_bytes(PNG)
    if nll is not None:
        folder.write(
            "summary.json",
            {
                "test_nll": nll, "test_nll_k": 5000, "test_images": 10_000, "binarization": "dynamic",
                "source": "files", "origin": "files in <x>", "passes": passes, "seconds": {},
                "train_bound": -97.0, "monte_carlo_error": 0.01, "split_error": 0.24, "test_bound": -nll - 1,
                "objective": "IWAE()", "objective_kind": "lower bound", "gradient": "reparam",
                "active_units": [20], "effective_sample_size": 12.5, "pareto_k_high": 0.5,
                "warnings": ["Weights <b>heavy</b>"],
            },
        )  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    make(tmp_path, "mnist/ten", 92.5, k=10)
    make(tmp_path, "mnist/two", 95.25, k=2)
    make(tmp_path, "other/best", 90.125, layers=2)
    make(tmp_path, "other/going", passes=1)
    make(tmp_path, "other/<script>alert(1)", 99.0, seed=3)
    return tmp_path


@pytest.fixture
def type_it(monkeypatch, capsys):
    def typed(*words):
        monkeypatch.setattr(sys, "argv", ["report", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            command.leave(report.main)
        printed = capsys.readouterr()
        return stop.value.code, printed.out + printed.err

    return typed


class Page(HTMLParser):
    """Tags and their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_page_needs_nothing_else(type_it, runs):
    status, printed = type_it(runs)
    assert status == 0 and "5 runs, 4 of them finished" in printed
    text = (runs / "report.html").read_text()
    tags = Page(text).tags
    for tag, attributes in tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, value)
        assert tag != "link"
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", text)
    assert sum(tag == "img" for tag, _ in tags) == 5
    # What runs are called, and what they say, is text.
    assert "<script>alert" not in text and "<b>heavy</b>" not in text
    assert sum(tag == "script" for tag, _ in tags) == 1


def test_the_rows_say_what_the_runs_do(type_it, runs):
    rows = {run.name: page.row(run) for run in page.collect(runs)}
    assert rows["mnist/ten"]["nll"] == 92.5 and rows["mnist/ten"]["active"] == "20"
    assert rows["other/going"]["nll"] is None and rows["other/going"]["passes"] == 1
    text = page.render(page.collect(runs), "x")
    assert text.count("class=best") == 1
    assert re.search(r'id="row\d" class=best>.*?other/best', text)
    assert f"unfinished, pass 1 of {recipes.preset('quick').passes}" in text
    differing = page.differing(page.collect(runs))
    assert set(differing) == {"k", "layers", "seed"}  # not where they are written to
    assert sorted(differing["k"]) == [2, 5, 5, 5, 10]


def test_nlls_that_can_not_be_compared_are_not(tmp_path):
    make(tmp_path, "a", 90.0)
    make(tmp_path, "b", 91.0)
    (tmp_path / "b/summary.json").write_text(
        (tmp_path / "b/summary.json").read_text().replace("10000", "100")
    )
    assert "class=best" not in page.render(page.collect(tmp_path), "x")


def test_nlls_of_other_images_are_not_compared(tmp_path):
    for name, nll, fingerprint in (("a", 90.0, "f"), ("b", 91.0, "f"), ("c", 80.0, "g")):
        make(tmp_path, name, nll)
        facts = {"dataset": "mnist", "source": "files", "origin": "x", "fingerprint": fingerprint}
        RunFolder(tmp_path / name).write("data.json", facts)
    found = page.collect(tmp_path)
    assert [found[number].name for number in page._best(found)] == ["a"]


def test_a_density_is_not_compared_with_a_probability_nor_with_a_cross_entropy(tmp_path):
    kinds = {"a": "normal", "b": "normal:scale=shared", "c": "discretised_logistic", "d": "normal"}
    for nll, (name, likelihood) in enumerate(kinds.items()):
        make(tmp_path, name, 90.0 - nll)
        folder = RunFolder(tmp_path / name)
        config = json.loads((folder.path / "config.json").read_text())
        folder.write("config.json", config | {"likelihood": likelihood})
        if name == "d":
            folder.write(
                "summary.json", (folder.read("summary.json") or {}) | {"is_likelihood": False}
            )
    found = page.collect(tmp_path)
    assert [found[number].name for number in page._best(found)] == ["b"]
    assert page.render(found, "x").count("not an NLL but a cross-entropy: -L_") == 1
    assert page.render(found, "x").count("<em>cross-entropy, no NLL</em>") == 1


def test_a_curve_has_the_bounds_of_its_name(tmp_path):
    """The training bound of `make` is -100 + pass, the held-out bound is 1 nat lower."""
    make(tmp_path, "a", passes=3)
    (run,) = page.collect(tmp_path)
    expected = {
        "name": "a",
        "pass": [1, 2, 3],
        "train": [-99.0, -98.0, -97.0],
        "held-out": [-100.0, -99.0, -98.0],
    }
    assert page._curve(run) == expected
    assert f"{json.dumps([expected])}" in page.render([run], "x")


def test_bad_input(type_it, runs, tmp_path):
    status, printed = type_it(tmp_path / "none")
    assert status == 2 and "Expected a folder of runs, got" in printed
    (tmp_path / "empty").mkdir()
    status, printed = type_it(tmp_path / "empty")
    assert status == 2 and "got no folder with a config.json" in printed


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("summary.json", b"{", "summary.json to be JSON"),
        ("summary.json", b"{}", "summary.json to hold test_nll, test_nll_k, test_bound and 8 more"),
        ("summary.json", b"[]", "summary.json to hold a JSON object, got list"),
        ("summary.json", ("test_nll", "low"), "test_nll in .* to be a number, got &quot;low&quot;"),
        (
            "summary.json",
            ("active_units", 5),
            "active_units in .* to be a list, each an int, got 5",
        ),
        ("summary.json", ("warnings", [0]), "warnings in .* to be a list, each a text"),
        ("data.json", b"{}", "data.json to hold source, origin, fingerprint, got none"),
        ("data.json", b"\xff\xfe", "data.json to be JSON"),
        ("config.json", b"{}", "config.json to hold adam_eps, batch_size, binarization and"),
        ("config.json", b"[" * 100_000, "config.json to be JSON"),
        ("config.json", ("k", "five"), "k in .*config.json to be an int, got &quot;five&quot;"),
        ("config.json", ("k", True), "k in .* to be an int, got true"),
        ("config.json", ("dataset", "cifar"), "dataset in .* to be one of mnist, omniglot"),
        ("config.json", ("parameters", {"alpha": "x"}), "alpha in parameters in .* to be a number"),
        ("config.json", ("parameters", {"gamma": 1}), "to be known, got .*gamma"),
        (
            "metrics.jsonl",
            b'{"pass": 1, "train_bound": 0}\n{"pass": 3, "train_bound": 0}\n',
            "to hold passes 1, 2, .. in order, got .1, 3.",
        ),
        ("metrics.jsonl", b"[1]\n", "line 1 of .*metrics.jsonl to hold a JSON object, got list"),
        ("metrics.jsonl", b"\xff\n", "metrics.jsonl to hold a JSON object a line"),
        ("metrics.jsonl", b'{"pass": 1}\n', "line 1 of .*metrics.jsonl to hold train_bound"),
        (
            "metrics.jsonl",
            b'{"pass": 1, "train_bound": "x"}\n',
            "train_bound in line 1 of .* a number",
        ),
    ],
)
def test_a_damaged_run_is_one_line_that_says_why(type_it, tmp_path, name, content, problem):
    make(tmp_path, "good", 91.0)
    make(tmp_path, "bad", 90.0)
    make(tmp_path, "other", 92.0, k=10)
    file = tmp_path / "bad" / name
    if isinstance(content, tuple):
        key, value = content
        content = json.dumps(json.loads(file.read_text()) | {key: value}).encode()
    file.write_bytes(content)
    status, printed = type_it(tmp_path)
    assert status == 0 and "bad is damaged: Expected" in printed
    assert "3 runs, 2 of them finished, 1 damaged" in printed
    text = (tmp_path / "report.html").read_text()
    (line,) = re.findall(r'<tr id="row0">.*?</tr>', text)
    assert re.search(f"<em>damaged: Expected .*{problem}", line)
    assert "91.00" in text
    differences = re.findall(r'<tr><td><a href="#run(\d)">[^<]*</a></td><td>(\d+)</td>', text)
    assert differences == [("1", "5"), ("2", "10")]  # k, not of the damaged run


def test_a_line_that_is_only_begun_is_no_damage(tmp_path):
    make(tmp_path, "going")
    with (tmp_path / "going/metrics.jsonl").open("a") as stream:
        stream.write('{"pass": 4, "tra')
    folder = RunFolder(tmp_path / "going")
    assert [line["pass"] for line in folder.metrics()] == [1, 2, 3]
    with pytest.raises(UsageError, match="to hold the 4 passes of the checkpoint, got 3"):
        folder.keep_metrics(4)
    folder.keep_metrics(2)
    assert [line["pass"] for line in folder.metrics()] == [1, 2]


@pytest.fixture
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def ask(browser, profile, *words):
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    flags += "--disable-background-networking --disable-component-update --disable-sync"
    command_line = [browser, *flags.split(), f"--user-data-dir={profile}", *words]
    done = subprocess.run(command_line, capture_output=True, timeout=120, check=True)
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("wanted", "order"),
    [
        ("#sort=nll", [90.125, 92.5, 95.25, 99.0, None]),
        ("#sort=nll,descending", [99.0, 95.25, 92.5, 90.125, None]),
        ("#sort=k", None),
    ],
)
def test_a_browser_sorts_and_draws(type_it, runs, browser, tmp_path, wanted, order):
    type_it(runs)
    address = (runs / "report.html").as_uri() + wanted
    shown = ask(browser, tmp_path / "profile", "--dump-dom", address)
    body = shown[shown.index("<tbody>") : shown.index("</tbody>")]
    lines = re.findall(r'<tr id="row\d".*?</tr>', body)
    column = [key for key, *_ in page.COLUMNS].index("nll" if "nll" in wanted else "k")
    cells = [re.findall(r'data-sort="([^"]*)"', line)[column] for line in lines]
    if order is None:
        assert cells == ["2", "5", "5", "5", "10"]  # as numbers, not as text
    else:
        assert [float(cell) if cell else None for cell in cells] == order
    assert shown.count("<polyline") == 5  # a curve of every run, none longer than it is
    assert 'aria-sort="' in shown


def test_a_screenshot_is_no_blank_page(type_it, runs, browser, tmp_path):
    from matplotlib.image import imread

    type_it(runs)
    for name, size in {"desk": "1300,1200", "phone": "500,1000"}.items():
        file = tmp_path / f"{name}.png"
        address = (runs / "report.html").as_uri()
        words = [f"--screenshot={file}", f"--window-size={size}", address]
        ask(browser, tmp_path / "profile", *words)
        pixels = imread(file)[..., :3]
        assert 0.005 < (pixels < 0.5).any(axis=-1).mean() < 0.5
