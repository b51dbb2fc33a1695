"""Signals: none is lost, none cuts a write, and a process that only imports the commands keeps its own."""

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import experiments
import iwae_jax
from experiments.shared.flags.config import Config
from experiments.shared.reporting import drawing
from experiments.shared.runs import runner
from experiments.shared.runs.folders import RunFolder
from experiments.shared.system import compiled, files, stopping
from experiments.studies import comparison
from iwae_jax import checkpoints
from iwae_jax.data import Dataset

ROOT = Path(__file__).parents[1]


@pytest.fixture
def ends(monkeypatch):
    """The statuses with which the process would have ended; it goes on instead."""
    found = []
    monkeypatch.setattr(os, "_exit", found.append)
    monkeypatch.setattr(stopping, "_waiting", None)
    monkeypatch.setattr(stopping, "_ending", False)
    with stopping.listening(""):
        yield found


def test_a_signal_in_a_callback_of_the_garbage_collector_is_not_lost(ends):
    """Python discards an exception that is raised there."""

    def interrupt(phase, _):
        if phase == "start":
            signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(interrupt)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(interrupt)
    assert ends == [130]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_waits_for_the_end_of_a_write(ends, number, status):
    with stopping.held():
        with stopping.held():
            signal.raise_signal(number)
        assert ends == []
    assert ends == [status]


def test_a_signal_is_not_lost_in_a_write_that_fails(ends):
    with pytest.raises(OSError, match="disk is full"), stopping.held():
        signal.raise_signal(signal.SIGINT)
        raise OSError("disk is full")
    assert ends == [130]


def test_the_handlers_of_the_caller_come_back_and_the_message_is_printed(monkeypatch, capfd):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(stopping, "_ending", False)
    with stopping.listening("stopped here"):
        print("a line", end=" ")
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # the second one says nothing
    assert ends == [143, 143]
    assert capfd.readouterr().out == "a line stopped here\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("first", "words", "expected"),
    [
        ("-m", ["python", "-X", "dev", "-m", "experiments.mnist", "--k=5"], True),
        ("-m", ["python", "-mexperiments.mnist"], True),
        ("-m", ["python", "-m", "pytest"], False),
        ("-c", ["python", "-c", "import experiments", "-m", "experiments.mnist"], False),
        ("ipykernel_launcher.py", ["python", "-m", "ipykernel_launcher"], False),
    ],
)
def test_only_the_program_listens_from_its_import_on(monkeypatch, first, words, expected):
    monkeypatch.setattr(sys, "argv", [first])
    monkeypatch.setattr(sys, "orig_argv", words)
    assert experiments._is_the_program() == expected


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_command_ends_quietly_from_its_first_instant():
    """SIGINT as soon as the process catches SIGTERM, which Python itself does not catch."""
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.mnist"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip

    def catches(number):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        mask = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
        return int(mask, 16) >> (number - 1) & 1

    begun = time.monotonic()
    while not catches(signal.SIGTERM) and time.monotonic() - begun < 60:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert (process.returncode, output, errors) == (130, b"", b"")


WRITERS = {
    "json": lambda file: files.write_json(file, {"new": 1}),
    "csv": lambda file: files.write_csv(file, [{"new": 1}]),
    "json of a run": lambda file: RunFolder(file.parent).write(file.name, {"new": 1}),
    "arrays": lambda file: runner._save_arrays(
        RunFolder(file.parent), file.name, np.savez, new=np.ones(2)
    ),
    "picture": lambda file: drawing.save(drawing.figure(1, 1), file, "new"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_is_replaced_whole_and_signals_wait_for_it(ends, monkeypatch, tmp_path, write):
    """A reader of the old file never sees a part of the new one."""
    file = tmp_path / "file"
    file.write_text("old")
    seen = []
    sync, end = os.fsync, os._exit

    def interrupted(descriptor):
        signal.raise_signal(signal.SIGINT)
        seen.append(file.read_text())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    monkeypatch.setattr(os, "_exit", lambda status: (seen.append(file.read_bytes()), end(status)))
    with file.open() as reader:
        write(file)
        assert reader.read() == "old"
    assert ends == [130]
    assert seen == ["old", file.read_bytes()] and seen[1] != b"old"  # it ends after the write
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_pass_is_in_the_metrics_before_its_checkpoint_and_signals_wait_for_both(
    ends, monkeypatch, tmp_path
):
    """A checkpoint without its line would be refused by the rerun."""
    config = Config.of(dataset="digits", passes=2, checkpoint_seconds=0.0)
    images = np.zeros((4, 9), np.uint8)
    data = Dataset("digits", "embedded", "test", images, images[:0], images, (3, 3), 16.0)
    folder = RunFolder(tmp_path)
    saves = []

    def one_pass(state, *_, **__):
        return replace(state, step=state.step + 1), jnp.zeros(1)

    class Saved:
        def __init__(self, _):
            pass

        def restore(self, *_, **__):
            return None

        def save(self, number, _):
            signal.raise_signal(signal.SIGTERM)
            saves.append((number, [line["pass"] for line in folder.metrics()], list(ends)))

    state = iwae_jax.TrainState(jnp.int32(0), {}, (), optax.identity())  # type: ignore[arg-type]
    monkeypatch.setattr(runner, "initial_state", lambda *_: state)
    monkeypatch.setattr(runner.iwae_jax, "train_epoch", one_pass)
    monkeypatch.setattr(checkpoints, "Checkpoints", Saved)
    runner.train(config, folder, data, 0.0)
    # The first signal waits for the save, and the process would have ended there.
    assert saves == [(1, [1], []), (2, [1, 2], [143])]


def test_compare_saves_its_lines_before_the_checkpoint_and_signals_wait_for_both(ends, tmp_path):
    found = []

    def save(number, _):
        signal.raise_signal(signal.SIGINT)
        found.append((number, (tmp_path / "lines.json").exists(), list(ends)))

    entry = SimpleNamespace(
        folder=tmp_path, lines=[], done=1, state=None, saved=SimpleNamespace(save=save)
    )
    comparison.Entry.save(entry)  # type: ignore[arg-type]
    assert found == [(1, True, [])] and ends == [130]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")  # so that the variable is restored afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda: (compiled.keep(), os.environ.get("JAX_COMPILATION_CACHE_DIR"))[1]


def test_compiled_programs_have_a_folder_in_the_users_cache(cache, monkeypatch, tmp_path):
    folder = cache()
    assert Path(folder).is_dir() and Path(folder).parent == tmp_path / "iwae_jax"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # the user turns it off
    assert cache() == ""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    assert cache() == "elsewhere"


def test_compiled_programs_are_not_kept_without_a_folder(cache, tmp_path):
    (tmp_path / "iwae_jax").write_text("a file where the folder should be")
    assert cache() is None


def test_the_oldest_compiled_programs_are_deleted(cache, monkeypatch):
    folder = Path(cache())
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(compiled, "_LARGEST", 40)
    for age in range(5):
        file = folder / f"jit_{age}-cache"
        file.write_bytes(bytes(10))
        os.utime(file, (1000 - age, 1000 - age))
    cache()
    assert sorted(file.name for file in folder.iterdir()) == ["jit_0-cache", "jit_1-cache"]
