"""A run stopped at any moment, by any signal, ends as one never stopped: bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from experiments.shared.flags import config
from experiments.shared.runs import datasets, runner
from iwae_jax import checkpoints

ROOT = Path(__file__).parents[1]
PASSES = 10


def start(out_dir):
    words = f"--dataset digits --k 3 --layers 2 --passes {PASSES} --batch-size 60 --eval-k 5"
    words += " --eval-images 30"
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.mnist", *words.split(), "--checkpoint-seconds", "0",
         "--out-dir", str(out_dir)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def final_state(folder):
    settings = config.Config.from_json(json.loads((folder / "config.json").read_text()))
    template = runner.initial_state(settings, datasets.load_data(settings))
    restored = checkpoints.Checkpoints(folder / "checkpoints").restore(template)
    assert restored is not None
    assert restored[0] == PASSES
    return restored[1]


def test_a_run_killed_at_random_moments(tmp_path):
    name = f"mnist/iwae-L2-k3-seed0-passes{PASSES}-batch_size60-digits"
    whole = start(tmp_path / "whole")
    output, _ = whole.communicate()
    assert whole.returncode == 0, output
    rng = random.Random(0)
    metrics = tmp_path / "stopped" / name / "metrics.jsonl"
    statuses, outputs = [], []
    # Sooner and later in a pass. benchmarks.signals sends more of them, and SIGTERM.
    for reached, sign in ((2, signal.SIGKILL), (6, signal.SIGINT)):
        process = start(tmp_path / "stopped")
        while process.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= reached:
                time.sleep(rng.uniform(0, 0.15))
                process.send_signal(sign)
                break
            time.sleep(0.005)
        output, _ = process.communicate()
        statuses.append(process.returncode)
        outputs.append(output)
    assert statuses == [-signal.SIGKILL, 130], outputs
    assert "rerun the command to resume from the last checkpoint" in outputs[1]
    assert "Traceback" not in outputs[1]
    last = start(tmp_path / "stopped")
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert "resumed after pass" in output
    a, b = tmp_path / "whole" / name, tmp_path / "stopped" / name
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    np.testing.assert_array_equal(
        np.load(a / "test_log_likelihood.npy"), np.load(b / "test_log_likelihood.npy")
    )
    for left, right in zip(
        jax.tree.leaves(final_state(a)), jax.tree.leaves(final_state(b)), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (a, b)]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]
