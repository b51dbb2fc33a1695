"""Random damage of data files, run folders and command lines: no error but those that we raise.

``IWAE_JAX_FUZZ=1000 python -m pytest tests/test_fuzz.py`` tries a thousand random cases of each.
"""

import dataclasses
import gzip
import io
import json
import os
import shutil
import tempfile
import tracemalloc
import warnings
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import scipy.io
from hypothesis import strategies as st

from experiments import (
    annealing,
    bias,
    compare,
    evaluate,
    latents,
    posterior,
    publish,
    report,
    snr,
    table1,
    table2,
)
from experiments.shared.flags.bound import Parameters
from experiments.shared.flags.config import Config
from experiments.shared.flags.entries import parse_entry
from experiments.shared.flags.parsing import parse
from experiments.shared.runs import page
from experiments.shared.runs.folders import RunFolder
from experiments.shared.system.errors import UsageError
from iwae_jax import data
from iwae_jax.data import files as data_files
from iwae_jax.data import tfds as data_tfds
from tests import files
from tests.test_data_files import chardata

CASES = int(os.environ.get("IWAE_JAX_FUZZ", "60"))
fuzz = hypothesis.settings(
    max_examples=CASES,
    derandomize=CASES == 60,
    deadline=None,
    database=None,
    suppress_health_check=tuple(hypothesis.HealthCheck),  # type: ignore[arg-type]
)
MEMORY = 2**26
"""Bytes that the reader of a small file may take."""


def as_bytes(write, *arguments, **named):
    stream = io.BytesIO()
    write(stream, *arguments, **named)
    return stream.getvalue()


def content_of(write, name, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name, *arguments)
        return (Path(folder) / name).read_bytes()


IMAGES = files.images(20)
FLAT = IMAGES.reshape(20, 784)
LABELS = np.arange(20) % 10
IDX, MARKS = files.idx(IMAGES), files.idx(LABELS)
AMAT = content_of(files.write_amat, "x", FLAT[:3] > 127)
PLACES = {
    "train images": ("mnist", "train-images-idx3-ubyte", IDX),
    "train images, gzipped": ("mnist", "train-images-idx3-ubyte.gz", gzip.compress(IDX)),
    "test labels": ("mnist", "t10k-labels-idx1-ubyte", MARKS),
    "npz": (
        "mnist",
        "mnist.npz",
        as_bytes(np.savez, x_train=IMAGES, x_test=IMAGES, y_train=LABELS, y_test=LABELS),
    ),
    "compressed npz": (
        "mnist",
        "mnist.npz",
        as_bytes(np.savez_compressed, x_train=IMAGES, x_test=IMAGES),
    ),
    "amat": ("binarized_mnist", "binarized_mnist_valid.amat", AMAT),
    "mat": (
        "omniglot",
        "chardata.mat",
        as_bytes(scipy.io.savemat, chardata(IMAGES / 255, IMAGES / 255)),
    ),
    "compressed mat": (
        "omniglot",
        "chardata.mat",
        as_bytes(scipy.io.savemat, chardata(IMAGES / 255, IMAGES / 255), do_compression=True),
    ),
    "zip": (
        "omniglot",
        "images_background.zip",
        content_of(files.write_omniglot_zip, "images_background.zip", range(20)),
    ),
    "cache": (
        "mnist",
        f"iwae_jax/mnist/3.0.1/{data_tfds._CACHE_NAME}",
        as_bytes(np.savez_compressed, train=FLAT, test=FLAT, train_labels=LABELS),
    ),
}
"""For each kind of file: the data set, its place, and undamaged content."""


def damaged(content, changes):
    """Content after changes: other bytes, more, fewer, or an end. Headers are at the ends of a file."""
    for how, place, at, some in changes:
        length = len(content)
        at = {"start": at % 200, "end": length - at % 400, "any": at * 7919}[place] % (length + 1)
        match how:
            case "replace":
                content = content[:at] + some + content[at + len(some) :]
            case "insert":
                content = content[:at] + some + content[at:]
            case "delete":
                content = content[:at] + content[at + 1 + len(some) * 99 :]
            case "cut":
                content = content[:at]
    return content


WORDS = [b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"nan ", b"1e9", b"9" * 30, b"None", b"-1"]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "cut"]),
        st.sampled_from(["start", "end", "any"]),
        st.integers(0, 2**20),
        st.binary(max_size=8) | st.sampled_from(WORDS),
    ),
    min_size=1,
    max_size=4,
)


@fuzz
@hypothesis.given(changes=CHANGES)
@pytest.mark.parametrize("kind", PLACES)
def test_damaged_data_files(kind, changes):
    name, place, content = PLACES[kind]
    content = damaged(content, changes)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        patch.setattr(data_files, "AMAT_IMAGES", dict.fromkeys(data_files.AMAT_IMAGES, 3))
        if name == "mnist" and "idx" in place:
            files.write_mnist(root, IMAGES, IMAGES, gz=place.endswith(".gz"))
        for split in data_files.AMAT_IMAGES if name == "binarized_mnist" else ():
            (root / f"binarized_mnist_{split}.amat").write_bytes(AMAT)
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(content)
        load(name, "tfds" if kind == "cache" else "files", root)


def load(name, source, root):
    """Load a data set: it is right, or it is a `ValueError` of ours, and small."""
    tracemalloc.start()
    try:
        with warnings.catch_warnings(action="ignore"):
            found = data.load(name, source, root)
    except ValueError as error:
        assert str(error).startswith("Expected "), error
        assert str(root) in str(error) and len(str(error)) < 1000
    else:
        for images in (found.train, found.validation, found.test):
            assert images.shape[1:] == (784,)
            assert not images.size or 0 <= images.min() <= images.max() <= found.maximum
        assert len(found.train) and len(found.test)
        assert all(labels.max(initial=0) <= 9 for labels in (found.labels or {}).values())
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY


CONFIG = Config.of(dataset="digits", data_source="embedded")
FACTS = {
    "dataset": "digits",
    "source": "embedded",
    "origin": "x",
    "fingerprint": "f",
    "images": [1],
}
LINE = {"pass": 1, "train_bound": -1.0, "validation_bound": None, "learning_rate": 0.1, "step": 1}
SUMMARY = {
    **{"test_nll": 90.0, "test_nll_k": 5, "test_bound": -91.0, "test_images": 3, "passes": 1},
    **{"effective_sample_size": 1.5, "source": "embedded", "origin": "x", "train_bound": -1.0},
    **{"binarization": "dynamic", "seconds": {}, "active_units": [3], "warnings": ["x"]},
    **{"monte_carlo_error": None, "split_error": 0.1, "activity": [[0.1]], "objective": "IWAE()"},
}
SAVED = {
    "config.json": json.loads(json.dumps(CONFIG.to_json())),
    "data.json": FACTS,
    "summary.json": SUMMARY,
    "metrics.jsonl": LINE,
}
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.sampled_from([10**400, -1, 2**31, "digits", "tfds", "\ud800", 1e308]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


@st.composite
def saved(draw, values):
    """The bytes of a JSON file whose values, names or bytes are damaged."""
    values = dict(values)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(values)))
        if draw(st.booleans()):
            del values[name]
        else:
            values[name] = draw(VALUES)
    content = json.dumps(draw(VALUES) if draw(st.integers(0, 9)) == 0 else values).encode() + b"\n"
    return damaged(content, draw(CHANGES)) if draw(st.booleans()) else content


@fuzz
@hypothesis.given(st.data())
@pytest.mark.parametrize("name", SAVED)
def test_damaged_run_folders(name, data):
    """A report of the folder is made; whatever else reads it works, or says in one line why not."""
    with tempfile.TemporaryDirectory() as root:
        folder = RunFolder(Path(root) / "run")
        folder.path.mkdir()
        for file, values in SAVED.items():
            (folder.path / file).write_text(json.dumps(values) + "\n")
        (folder.path / name).write_bytes(data.draw(saved(SAVED[name])))
        page.render(page.collect(Path(root)), "x").encode()

        def config():
            Config.from_json(folder.read("config.json") or {}).replace(
                data_source="embedded"
            ).check()

        for read in (
            config,
            lambda: folder.check(CONFIG, FACTS),
            lambda: folder.open(CONFIG, FACTS),
            lambda: folder.read("summary.json"),
            lambda: folder.keep_metrics(1),
            lambda: RunFolder.of(root, "digits", CONFIG),
        ):
            try:
                read()
            except UsageError as error:
                assert "\n" not in str(error)
        shutil.rmtree(folder.path)


FLAGS = [*Config().flat(), *(each.name for each in dataclasses.fields(Parameters))]
WORD = st.one_of(
    st.integers(-3, 9).map(str),
    st.sampled_from(
        ["", "x", "nan", "inf", "-1", "1e400", "2147483648", "99999999999999", "0.5", "1,2", ",", "--",
         "iwae", "renyi", "miwae", "jackknife", "tvo", "sumo", "elbo", "dreg", "gdreg", "vimco", "normal",
         "none", "paper", "digits", "0x1", "\u0663", "--k", "-h"]
    ),
    st.text(max_size=3),
)  # fmt: skip


@st.composite
def typed(draw):
    words = []
    for _ in range(draw(st.integers(1, 4))):
        name = "--" + draw(st.sampled_from(FLAGS)).replace("_", "-")
        words += [name, *draw(st.lists(WORD, max_size=2))]
        if draw(st.integers(0, 5)) == 0:
            words[-1:] = [f"{name}={draw(WORD)}"]
    return words


@fuzz
@hypothesis.given(typed())
def test_any_command_line(words):
    hypothesis.assume(not {"-h", "--help"} & set(words))
    try:
        config = parse(Config, "test", "Test.", Config(), words)
        config.check()
        for run in config.runs():
            RunFolder.of("/no/such", "mnist", run)
            assert Config.from_json(json.loads(json.dumps(run.to_json()))).name == run.name
    except UsageError as error:
        one_sentence(error)


COMMANDS = {
    "table1": (table1.Table1, "dataset k layers objective seed plan preset passes eval-images"),
    "table2": (table2.Table2, "dataset k passes loss eval-k data-source out-dir"),
    "compare": (compare.Compare, "entries k layers seeds passes eval-images dataset"),
    "snr": (snr.Snr, "k size data draws seed out-dir"),
    "bias": (bias.Bias, "k size replicates sumo-cap seed out-dir"),
    "posterior": (posterior.Arguments, "dataset k steps images seed data-dir"),
    "evaluate": (evaluate.Arguments, "k images seed data-dir"),
    "annealing": (annealing.Arguments, "images simulated chains steps start seed"),
    "latents": (latents.Arguments, "probe-images map-images seed"),
    "publish": (publish.Arguments, "name to data-dir"),
    "report": (report.Arguments, "out runs-dir"),
}
"""For each command, its dataclass and some of its flags."""


@fuzz
@hypothesis.given(st.data())
def test_any_command_line_of_the_other_commands(data):
    kind, flags = COMMANDS[data.draw(st.sampled_from(sorted(COMMANDS)))]
    words = data.draw(st.lists(WORD, max_size=1))
    for name in data.draw(st.lists(st.sampled_from(flags.split()), max_size=3)):
        words += [f"--{name}", *data.draw(st.lists(WORD, max_size=2))]
    hypothesis.assume(not {"-h", "--help"} & set(words))
    try:
        parse(kind, "test", "Test.", words=words).check()
    except UsageError as error:
        one_sentence(error)


def one_sentence(error):
    assert "\n" not in str(error) and "valid parse" not in str(error)
    assert not any(mark in str(error) for mark in "╭│╰")
    assert not str(error).startswith("Invalid arguments")


PARTS = [
    "iwae",
    "renyi",
    "miwae",
    "tvo",
    "sumo",
    ":",
    "/",
    ",",
    "=",
    "@",
    "+",
    "alpha",
    "m",
    "dreg",
    "1",
]
PARTS += ["[", "]", "inf", "nan", "0", "-1", "1e400", "null", "{}", "partitions", "stl", "reparam"]


@fuzz
@hypothesis.given(st.lists(st.sampled_from(PARTS) | st.text(max_size=2), max_size=8).map("".join))
def test_any_entry_of_a_comparison(text):
    try:
        parse_entry(text, 4)
    except UsageError as error:
        assert text[:20] in str(error) or repr(text)[1:20] in str(error)
