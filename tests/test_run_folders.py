"""Run folders: what is deleted, what is refused, and what a full disk or a read-only folder gives."""

import errno
import json
import os
import shutil
import sys
import tempfile

import jax.numpy as jnp
import pytest

from experiments import annealing, evaluate, latents
from experiments.shared import command
from experiments.shared.flags.config import Config
from experiments.shared.runs.folders import RunFolder
from experiments.shared.system.errors import UsageError
from experiments.shared.system.files import write_atomically
from iwae_jax import checkpoints

FACTS = {"source": "embedded", "origin": "", "fingerprint": ""}
CONFIG = Config.of(dataset="digits", data_source="embedded")
FILES = (
    *("summary.json", "metrics.jsonl", "checkpoints/3/x", "curves.png", "log_weights.npy"),
    *("test_diagnosis.npz", "evaluation-k50-first3_diagnosis.npz", "evaluation-k50.json"),
    *("annealing-prior-9x9-seed0.png", "latents/map.png", "tensorboard/events.x", "x.json.partial"),
)


@pytest.fixture
def folder(tmp_path):
    """The folder of a run, with a file of every kind that commands write."""
    folder = RunFolder(tmp_path / "run")
    folder.open(CONFIG, FACTS)
    for name in FILES:
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text("{}")
    return folder


def test_overwrite_deletes_a_run(folder):
    folder.open(CONFIG.replace(overwrite=True, k=3), FACTS)
    assert {file.name for file in folder.path.iterdir()} == {"config.json", "data.json"}
    assert (folder.read("config.json") or {})["k"] == 3


@pytest.mark.parametrize("name", ["thesis.tex", "photo.png", "notes/x"])
def test_overwrite_deletes_nothing_where_other_files_are(folder, name):
    (folder.path / name).parent.mkdir(exist_ok=True)
    (folder.path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"got {name.split('/')[0]}. Nothing is deleted"):
        folder.open(CONFIG.replace(overwrite=True), FACTS)
    assert all((folder.path / file).is_file() for file in (*FILES, name))


def typed(monkeypatch, capsys, module, *words):
    monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        command.leave(module.main)
    printed = capsys.readouterr()
    return stop.value.code, printed.out + printed.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", {}, "config.json to hold adam_eps, batch_size, binarization and"),
        ("config.json", CONFIG.to_json() | {"k": "x"}, 'to be an int, got "x"'),
        (
            "config.json",
            CONFIG.to_json() | {"layers": 10**9},
            "Expected --layers to be at most 100",
        ),
        ("data.json", {}, "data.json to hold source, origin, fingerprint"),
        ("summary.json", {}, "summary.json to hold test_nll, test_nll_k"),
    ],
)
def test_a_damaged_run_is_not_evaluated(monkeypatch, capsys, folder, name, content, message):
    """Above all not with the defaults in place of its config."""
    (folder.path / name).write_text(json.dumps(content))
    status, printed = typed(monkeypatch, capsys, evaluate, folder.path)
    assert status == 2 and message in printed and printed.count("\n") == 1


@pytest.mark.parametrize("module", [evaluate, latents, annealing])
def test_a_read_only_folder_is_refused_before_the_work(monkeypatch, capsys, folder, module):
    def refuse(*_, dir=None, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    status, printed = typed(monkeypatch, capsys, module, folder.path)
    assert status == 2
    assert printed == f"error: Expected to write to {folder.path}, got: Read-only file system.\n"


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file_and_names_it(monkeypatch, capsys, tmp_path):
    file = tmp_path / "summary.json"
    file.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as stop:
        command.leave(lambda: write_atomically(file, "new") or 0)
    printed = capsys.readouterr().err
    assert stop.value.code == 1
    assert printed == f"error: [Errno 28] No space left on device: '{file}'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert file.read_text() == "old"


def test_no_checkpoint_is_begun_without_room(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    saved = checkpoints.Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(
        OSError, match=r"Expected room for a checkpoint of 4.0 MB in .*, got 1.0 MB"
    ):
        saved.save(1, {"weight": jnp.zeros(10**6)})
    assert saved.steps == [] and not list((tmp_path / "checkpoints").iterdir())
