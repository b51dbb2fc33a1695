"""Several processes train one run; it goes on in one process as if nothing had happened."""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.shared.flags import config
from experiments.shared.runs import datasets, runner
from experiments.shared.runs.folders import RunFolder
from experiments.shared.system import processes
from iwae_jax.training.checkpoints import Checkpoints

ROOT = Path(__file__).parents[1]
PASSES = 6
WORDS = ["--dataset=digits", "--k=2", "--latent-sizes=3", "--hidden-sizes=5", f"--passes={PASSES}"]
WORDS += ["--batch-size=700", "--eval-k=5", "--eval-images=5", "--checkpoint-seconds=0"]
NAME = f"mnist/iwae-L1-z3-h5-k2-seed0-passes{PASSES}-batch_size700-digits"


def start(out_dir, *words, devices):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.mnist", *WORDS, "--out-dir", str(out_dir), *words],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "XLA_FLAGS": flags},
    )  # fmt: skip


def finish(process):
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def test_two_processes_are_killed_and_one_goes_on(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pair = [start(tmp_path / "pair", f"--distributed={address},2,{i}", devices=1) for i in range(2)]
    metrics = tmp_path / "pair" / NAME / "metrics.jsonl"
    while all(process.poll() is None for process in pair):
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.005)
    for process in pair:
        process.send_signal(signal.SIGKILL)
    outputs = [process.communicate()[0] for process in pair]
    assert [process.returncode for process in pair] == [-signal.SIGKILL] * 2, outputs
    assert "training: pass 1/6" in outputs[0]
    assert "pass" not in outputs[1]  # only the first process prints
    shutil.copytree(tmp_path / "pair", tmp_path / "uncut")
    assert "resumed after pass" in finish(start(tmp_path / "pair", "--mesh=data=2", devices=2))
    finish(start(tmp_path / "whole", "--mesh=data=2", devices=2))
    pair, whole = (tmp_path / name / NAME for name in ("pair", "whole"))
    # The same cut: bit for bit. Only the mean over held-out images, of which each device has a part, may be
    # added up otherwise in another process.
    lines = [RunFolder(path).metrics() for path in (pair, whole)]
    means = [[line.pop("validation_bound") for line in each] for each in lines]
    assert lines[0] == lines[1]
    np.testing.assert_allclose(*means, rtol=1e-6)
    log_p = np.load(pair / "test_log_likelihood.npy")
    np.testing.assert_array_equal(log_p, np.load(whole / "test_log_likelihood.npy"))
    values = RunFolder(whole).read("config.json")
    assert values is not None
    settings = config.Config.from_json(values).replace(mesh=None)
    data, one = datasets.load_data(settings), RunFolder(tmp_path / "one")
    empty = runner.initial_state(settings, data)
    states = [Checkpoints(path / "checkpoints").restore(empty) for path in (pair, whole)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    # No cut, from the start or from where the pair was killed: up to rounding.
    uncut = RunFolder(tmp_path / "uncut" / NAME)
    before = uncut.metrics()
    assert 2 <= len(before) < PASSES
    for folder in (one, uncut):
        with contextlib.redirect_stdout(io.StringIO()):
            runner.run_one(settings, folder, data, time.time(), quiet=True)
        found = np.load(folder.path / "test_log_likelihood.npy")
        np.testing.assert_allclose(log_p, found, rtol=1e-4)
        bounds = [
            [line["train_bound"] for line in RunFolder(p).metrics()] for p in (pair, folder.path)
        ]
        np.testing.assert_allclose(*bounds, rtol=1e-4)
    assert uncut.progress() == "finished" and uncut.metrics()[:2] == before[:2]  # it went on


@pytest.mark.parametrize("mesh", ["", "8", "data=0", "data=2,data=2", "model=2", "data=2,"])
def test_a_bad_mesh(mesh):
    with pytest.raises(config.UsageError, match="Expected --mesh to be like data=4,sample=2"):
        config.Config.of(mesh=mesh).check()


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:1,2", "host:1,2,2", "host:1,2,x", "host:x,1,0", "host:65536,1,0", ":1,1,0"],
)
def test_a_bad_address(text):
    with pytest.raises(config.UsageError, match="Expected --distributed to be auto or HOST:PORT"):
        config.Config.of(distributed=text).check()


def test_a_mesh_that_does_not_fit_the_devices():
    with pytest.raises(config.UsageError, match="Expected --mesh to fit the devices"):
        processes.ambient("data=1000")
