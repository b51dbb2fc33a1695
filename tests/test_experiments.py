"""The command line, in this process: what a person types, sees and finds in the run folder."""

import contextlib
import dataclasses
import json
import shutil
import sys
from typing import Any

import jax
import numpy as np
import optax
import pytest

import iwae_jax
from experiments import evaluate as evaluate_command
from experiments.shared import command
from experiments.shared.flags import config
from experiments.shared.reporting import drawing, published
from experiments.shared.runs import card, datasets, runner
from experiments.shared.runs.folders import RunFolder
from experiments.shared.system.display import console
from iwae_jax import checkpoints, evaluation, gradients
from iwae_jax.data import files as data_files
from iwae_jax.data import tfds as data_tfds
from iwae_jax.training import recipes
from iwae_jax.training.recipes import PAPER, Recipe
from tests import files
from tests.test_checkpoints import empty, flip_a_bit

QUICK = ["--dataset=digits", "--passes=2", "--k=2", "--batch-size=100", "--eval-k=6"]
QUICK += ["--eval-images=30"]
END = "-passes2-batch_size100-digits"
"""The end of the name of a quick run: the flags that are not the defaults."""


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Type a command line; get its exit status and what it printed."""
    monkeypatch.setattr(
        data_tfds, "_SERVERS", dict.fromkeys(data_tfds._SERVERS, "http://127.0.0.1:9")
    )
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.delenv("IWAE_JAX_DATA", raising=False)

    def type_it(*words, experiment="mnist", quick=True, out="runs"):
        words = [*(QUICK if quick else ()), *map(str, words), "--out-dir", str(tmp_path / out)]
        monkeypatch.setattr(sys, "argv", [experiment, *words])
        with pytest.raises(SystemExit) as stop:
            command.main(experiment, "Test.", 0.0)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return stop.value.code, printed.out + printed.err

    return type_it


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "mnist" / f"iwae-L1-k2-seed0{END}"


def test_a_run_folder_holds_what_it_should(run, folder):
    status, printed = run()
    assert status == 0
    assert "test NLL (-L_6)" in printed
    names = {file.name for file in folder.iterdir()}
    assert names == {
        "active_units.png",
        "checkpoints",
        "config.json",
        "curves.png",
        "data.json",
        "log_weights.npy",
        "metrics.jsonl",
        "reconstructions.png",
        "samples.png",
        "summary.json",
        "test_diagnosis.npz",
        "test_log_likelihood.npy",
        "weights.png",
    }
    for name in names:
        if name.endswith(".png"):
            assert (folder / name).read_bytes().startswith(b"\x89PNG")
    saved = json.loads((folder / "config.json").read_text())
    assert (saved["k"], saved["layers"], saved["objective"], saved["seed"]) == (2, 1, "iwae", 0)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["source"] == "embedded"
    log_p = np.load(folder / "test_log_likelihood.npy")
    assert log_p.shape == (30,)
    np.testing.assert_allclose(summary["test_nll"], -log_p.mean(), rtol=1e-5)
    assert summary["test_nll"] < -summary["test_bound"]
    log_w = np.load(folder / "log_weights.npy")
    assert log_w.shape == (6, 30)
    found = evaluation.diagnose(log_w)
    np.testing.assert_array_equal(found.log_likelihood, log_p)
    assert summary["monte_carlo_error"] == evaluation.summarise(found).monte_carlo_error
    assert summary["split_error"] == evaluation.summarise(found).split_error
    assert summary["pareto_k_high"] is None  # of 6 samples there is no tail
    terms = summary["elbo_terms"]
    assert terms["images"] == 30 and terms["ceiling"] == pytest.approx(np.log(30))
    assert summary["without_inactive"]["removed"] == [50 - summary["active_units"][0]]
    assert [line["pass"] for line in RunFolder(folder).metrics()] == [1, 2]


def test_a_finished_run_is_skipped_unless_overwritten(run, folder):
    run()
    before = (folder / "summary.json").stat().st_mtime_ns
    status, printed = run()
    assert (status, "finished before" in printed) == (0, True)
    assert (folder / "summary.json").stat().st_mtime_ns == before
    status, _ = run("--overwrite", "--seed", "0")
    assert status == 0
    assert (folder / "summary.json").stat().st_mtime_ns != before


def test_two_layers_and_the_vae(run, tmp_path):
    status, printed = run("--layers", 2, "--objective", "vae")
    assert status == 0
    summary = json.loads((tmp_path / f"runs/mnist/vae-L2-k2-seed0{END}/summary.json").read_text())
    assert len(summary["active_units"]) == 2
    assert "ELBO, mean of 2 (lower bound)" in printed


def test_another_config_is_refused_with_the_difference(run, folder):
    """As where an earlier version, whose names held fewer flags, left a run."""
    facts = {"source": "embedded", "origin": "", "fingerprint": ""}
    there = config.Config.of(k=2, passes=2, batch_size=50, adam_eps=1e-8, dataset="digits")
    RunFolder(folder).open(there, facts)
    status, printed = run()
    assert status == 2
    assert "batch_size is 50 there and 100 here" in printed
    assert "adam_eps is 1e-08 there and None here" in printed
    assert len(printed.strip().splitlines()) <= 2  # what the data are, and one line


def test_other_data_are_refused(run, folder, tmp_path):
    facts = {"source": "embedded", "origin": "", "fingerprint": ""}
    there = config.Config.of(k=2, passes=2, batch_size=100, eval_k=6, eval_images=30)
    RunFolder(folder.with_name(folder.name.removesuffix("-digits"))).open(there, facts)
    files.write_mnist(tmp_path / "data", files.images(200), files.images(20))
    status, printed = run("--dataset", "mnist", "--data-dir", tmp_path / "data")
    assert status == 2
    assert "source is 'embedded' there and 'files' here" in printed


def test_auto_warns_and_names_the_source_everywhere(run, folder):
    status, printed = run("--dataset", "mnist")
    assert status == 0
    assert "WARNING" in printed
    assert "NOT comparable with the paper's" in printed
    folder = folder.with_name(folder.name.removesuffix("-digits"))
    assert "mnist from embedded" in printed
    assert "embedded" in (folder / "summary.json").read_text()
    assert all(line["source"] == "embedded" for line in RunFolder(folder).metrics())


def test_every_picture_names_data_split_k_and_binarization(run, monkeypatch):
    captions = {}

    def catch(figure, file, caption):
        captions[file.name] = caption

    monkeypatch.setattr(drawing, "save", catch)
    run("--binarization", "fixed", "--layers", 2)
    assert set(captions) == {
        *("curves.png", "samples.png", "reconstructions.png", "active_units.png", "weights.png")
    }
    for name, caption in captions.items():
        assert "digits from embedded" in caption, name
        assert "k=2" in caption, name
        assert "fixed binarization" in caption, name
        assert "split" in caption, name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k", 0], "error: Expected --k to be at least 1, got 0."),
        (["--k"], "error: Expected at least one value for --k, got none."),
        (["--k", "many"], "error: Expected --k to be an int, got 'many'."),
        (["--batch-size", 0], "error: Expected --batch-size to be at least 1, got 0."),
        (["--eval-k", -3], "error: Expected --eval-k to be at least 1, got -3."),
        (["--layers", 0], "error: Expected --layers to be at least 1, got 0."),
        (["--colour", "red"], "error: Unknown flag --colour: --help lists the flags."),
        (["--data-dir", "/no/such/folder"], "error: Expected --data-dir to be a folder"),
        (["--out-dir", "/proc/no"], "error: Expected to write to /proc/no"),
        (["--stages", 2], "error: Expected --stages or --passes, got both."),
        (["--first-rate", "nan"], "error: Expected --first-rate to be a positive number, got nan."),
        (["--adam-beta1", 1], "error: Expected --adam-beta1 in [0, 1), got 1.0."),
        (["--checkpoint-seconds", -1], "error: Expected --checkpoint-seconds to be at least 0"),
        (["--seed", -1], "error: Expected --seed in [0, 2**32), got -1."),
        (["--seed", 2**32], "error: Expected --seed in [0, 2**32), got 4294967296."),
        (["--k", 2**31], "under 2**31"),
        (["--preset", "paper", "--total-stages", 20], "to be at most a million"),
        (["--preset", "paper", "--stages", 3], "error: Expected --stages or --passes, got both."),
        (
            ["--dataset", "mnist", "--data-source", "files"],
            "error: Neither --data-dir nor IWAE_JAX_DATA names a folder",
        ),
        (
            ["--dataset", "mnist", "--data-source", "tfds"],
            "error: tensorflow-datasets cannot download the data set",
        ),
    ],
)
def test_bad_usage_is_one_line_and_status_2(run, monkeypatch, words, message):
    if "--out-dir" in words:
        monkeypatch.setattr(sys, "argv", ["mnist", *QUICK, *words])
        status, printed = run_plain(monkeypatch)
    else:
        status, printed = run(*words)
    assert status == 2
    errors = [line for line in printed.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]


def run_plain(monkeypatch):
    import contextlib
    import io

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as stop:
        command.main("mnist", "Test.", 0.0)
    return stop.value.code, errors.getvalue()


def test_the_papers_preset_refuses_the_digits(run):
    status, printed = run("--preset", "paper", "--dataset", "mnist", quick=False)
    assert status == 2
    assert "error: Expected real data for all of --preset=paper" in printed


def test_a_sweep_prints_its_plan_and_keeps_what_is_done(run, tmp_path):
    status, printed = run("--k", 1, 2, "--objective", "iwae", "vae")
    assert status == 0
    end = END.removesuffix("-digits")
    names = [f"{o}-L1-k{k}-seed0{end}" for k in (1, 2) for o in ("iwae", "vae")]
    plan = printed.split("4 runs of 2 passes:")[1].splitlines()[1:5]
    assert plan == [f"  {name}  to do" for name in names]
    for name in names:
        assert (tmp_path / "runs/mnist" / f"{name}-digits" / "summary.json").is_file()
    _, printed = run("--k", 1, 2, "--objective", "iwae", "vae")
    assert printed.count("finished before") == 4


def test_a_failed_run_does_not_stop_the_rest(run, tmp_path):
    blocked = tmp_path / f"runs/mnist/iwae-L1-k1-seed0{END}"
    blocked.mkdir(parents=True)
    (blocked / "thesis.tex").write_text("not a run")
    status, printed = run("--k", 1, 2)
    assert status == 1
    assert f"iwae-L1-k1-seed0{END.removesuffix('-digits')} failed:" in printed
    assert "1 of 2 runs failed: iwae-L1-k1-seed0" in printed
    assert (tmp_path / f"runs/mnist/iwae-L1-k2-seed0{END}/summary.json").is_file()
    # --overwrite does not remove what is no run's folder.
    status, printed = run("--k", 1, "--overwrite")
    assert status == 2
    assert (blocked / "thesis.tex").is_file()


def restored(folder):
    settings = config.Config.from_json(json.loads((folder / "config.json").read_text()))
    template = runner.initial_state(settings, datasets.load_data(settings))
    found = checkpoints.Checkpoints(folder / "checkpoints").restore(template)
    assert found is not None
    return found


@pytest.mark.parametrize("bad_pass", [1, 3])
def test_a_loss_that_is_not_finite_stops_the_run(run, folder, monkeypatch, bad_pass):
    """The learning rate overflows in one pass: the state before it is on the disk."""
    folder = folder.with_name(folder.name.replace("passes2", "passes4"))
    steps = 14  # of a pass: 1,400 images in batches of 100

    def optimizer(self, steps_per_pass):
        assert steps_per_pass == steps
        first = (bad_pass - 1) * steps
        return optax.adam(lambda step: jax.numpy.where(step < first + 5, 1e-3, jax.numpy.inf))

    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "optimizer", optimizer)
        status, printed = run("--passes", 4)  # and checkpoints are 20 s apart
    assert status == 1
    # The update of step 6 is infinite, so the bound of step 7 is the first that is not finite.
    first_bad = (bad_pass - 1) * steps + 7
    assert f"training diverged in pass {bad_pass}, step {first_bad}: the bound is nan" in printed
    assert not (folder / "summary.json").exists()
    assert [line["pass"] for line in RunFolder(folder).metrics()] == list(range(1, bad_pass))
    number, state = restored(folder)
    assert number == bad_pass - 1
    assert int(state.step) == number * steps
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    # With a better rate the same command goes on from there.
    status, printed = run("--passes", 4)
    assert status == 0
    assert f"resumed after pass {bad_pass - 1} of 4" in printed


@pytest.mark.parametrize("damage", [flip_a_bit, empty])
def test_a_damaged_newest_checkpoint_is_skipped(run, folder, damage):
    folder = folder.with_name(folder.name.replace("passes2", "passes3"))
    run("--passes", 3, "--checkpoint-seconds", 0)
    metrics = (folder / "metrics.jsonl").read_bytes()
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").unlink()
    damage(folder / "checkpoints" / "3")
    status, printed = run("--passes", 3, "--checkpoint-seconds", 0)
    assert status == 0
    assert f"Skipped the damaged checkpoint {folder / 'checkpoints' / '3'}" in printed
    assert "resumed after pass 2 of 3" in printed
    assert (folder / "metrics.jsonl").read_bytes() == metrics
    again = json.loads((folder / "summary.json").read_text())
    for name in ("test_nll", "test_bound", "activity", "effective_sample_size"):
        assert again[name] == summary[name]


def test_metrics_that_lack_passes_are_refused(run, folder):
    run()
    (folder / "summary.json").unlink()
    (folder / "metrics.jsonl").unlink()
    status, printed = run()
    assert status == 2
    assert "to hold the 2 passes of the checkpoint, got 0" in printed


@pytest.mark.parametrize("name", ["mnist", "binarized_mnist", "omniglot"])
def test_data_from_files(tmp_path, name, monkeypatch):
    monkeypatch.setattr(data_files, "AMAT_IMAGES", {"train": 60, "valid": 20, "test": 10})
    values = files.images(200)
    files.write_mnist(tmp_path / "data/mnist", values, files.images(20))
    for split, rows in (("train", slice(0, 60)), ("valid", slice(60, 80)), ("test", slice(80, 90))):
        folder = tmp_path / "data/binarized_mnist"
        folder.mkdir(exist_ok=True, parents=True)
        files.write_amat(folder / f"binarized_mnist_{split}.amat", values[rows] > 127)
    (tmp_path / "data/omniglot").mkdir()
    files.write_omniglot_zip(tmp_path / "data/omniglot/images_background.zip", range(80))
    words = ["--dataset", name, "--data-dir", str(tmp_path / "data")]
    typed = config.parse(config.Config, "test", "Test.", config.Config(), words)
    typed.check()
    data = datasets.load_data(typed)
    facts = runner.run_facts(typed, data)
    assert (facts["dataset"], facts["source"]) == (name, "files")
    assert str(tmp_path / "data") in facts["origin"] and min(facts["images"]) > 0
    assert datasets.data_caption(typed, data).startswith(f"{name} from files; ")


def test_tensorboard_files(run, folder, monkeypatch):
    status, _ = run("--tensorboard")
    assert status == 0
    assert list((folder / "tensorboard").glob("events.*"))
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    for again in (("--seed", 1), ("--overwrite",)):
        status, printed = run("--tensorboard", *again)
        assert status == 2
        assert "iwae_jax[tensorboard]" in printed
    assert (folder / "summary.json").exists()  # the run that --overwrite would discard


def test_tensorboard_draws_every_pass_once_where_a_run_is_killed(run, folder, monkeypatch):
    """The buffer is written before the checkpoint; a resumed run discards all later lines."""
    import tensorboardX

    calls: list[Any] = []

    class Writer:
        def __init__(self, path, purge_step):
            calls.append(("from", purge_step))

        def add_scalar(self, name, value, number):
            if name == "train_bound":
                calls.append(("pass", number))

        def flush(self):
            calls.append("flush")

        def close(self):
            pass

    monkeypatch.setattr(tensorboardX, "SummaryWriter", Writer)
    save = checkpoints.Checkpoints.save

    def killed(self, step, state):
        save(self, step, state)
        calls.append("saved")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.Checkpoints, "save", killed)
        run("--tensorboard", "--checkpoint-seconds", 0)
    assert calls == [("from", 1), ("pass", 1), "flush", "saved"]
    status, _ = run("--tensorboard", "--checkpoint-seconds", 0)
    assert status == 0
    assert calls[4:] == [("from", 2), ("pass", 2), "flush"]


def test_infinite_values_of_flags_come_back(run, tmp_path):
    """VR-max is alpha = -inf, for which JSON has no number."""
    words = ("--objective", "renyi", "--alpha=-inf", "--checkpoint-seconds=inf")
    for _ in range(2):  # trained, then found finished
        status, printed = run(*words)
        assert status == 0, printed
    (folder,) = (tmp_path / "runs" / "mnist").glob("renyi*")
    values = json.loads((folder / "config.json").read_text())
    assert values["parameters"] == {"alpha": "-inf"}
    again = config.Config.from_json(values)
    assert again.bound.parameters.alpha == -np.inf
    assert again.run.checkpoint_seconds == np.inf
    restored, _, _ = runner.restore_run(folder, None)
    assert restored.objective_function == iwae_jax.objectives.Renyi(-np.inf)


@pytest.mark.parametrize(("source", "kept"), [("auto", False), ("tfds", True)])
def test_a_run_on_tfds_finds_its_folder_again(tmp_path, monkeypatch, source, kept):
    """--data-dir is the folder of TFDS if that was asked for, and not where "auto" fell back to TFDS."""
    monkeypatch.setattr(console, "quiet", True)
    digits = datasets.load_data(config.Config.of(dataset="digits"))
    data = dataclasses.replace(digits, name="mnist", source="tfds")
    run = config.Config.of(
        dataset="mnist", data_source=source, data_dir=str(tmp_path), passes=1, k=2, batch_size=700,
        eval_k=2, eval_images=3, latent_sizes=(2,), hidden_sizes=((3,),),
    )  # fmt: skip
    folder = RunFolder(tmp_path / "run")
    runner.run_one(run, folder, data, 0.0, quiet=True)
    if kept:
        (tmp_path / "iwae_jax" / "mnist").mkdir(parents=True)
    else:  # as earlier versions wrote it
        saved = json.loads((folder.path / "config.json").read_text())
        assert saved["data_dir"] is None
        folder.write("config.json", saved | {"data_dir": str(tmp_path)})
    asked = []
    monkeypatch.setattr(runner, "load_data", lambda config: asked.append(config.data) or data)
    runner.restore_run(folder.path, None)
    runner.restore_run(folder.path, str(folder.path))
    assert [each.data_source for each in asked] == ["tfds"] * 2
    assert [each.data_dir for each in asked] == [
        str(tmp_path) if kept else None, str(folder.path)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "flags",
    [
        {"kl_warm_up": 20.0, "gradient": "reparam"},
        {"passes": 1, "first_k": 1},
        {"objective": "miwae", "parameters": {"m": 2}, "first_passes": 1, "first_k": 1},
        {"posterior": "mixture:components=2", "kl_weight": 0.5, "gradient": "reparam"},
        {"data_dir": "gone"},
    ],
)
def test_folders_of_runs_that_are_refused_today_stay_readable(tmp_path, monkeypatch, flags):
    """Earlier versions trained them: without the first passes, or with a shorter warm-up."""
    monkeypatch.setattr(console, "quiet", True)
    run = config.Config.of(
        **{"dataset": "digits", "passes": 2, "k": 2, "batch_size": 700, "eval_k": 2, "eval_images": 3,
           "latent_sizes": (2,), "hidden_sizes": ((3,),)} | flags
    )  # fmt: skip
    with pytest.raises(config.UsageError):
        run.check()
    folder, data = (
        RunFolder(tmp_path / "run"),
        datasets.load_data(config.Config.of(dataset="digits")),
    )
    monkeypatch.setattr(iwae_jax, "train_epoch", untempered)
    runner.run_one(run, folder, data, 0.0, quiet=True)
    monkeypatch.undo()
    monkeypatch.setattr(console, "quiet", True)
    again, _, params = runner.restore_run(folder.path, None)
    assert again.bound == run.bound and jax.tree.leaves(params)


def untempered(*arguments, beta=None, train_epoch=iwae_jax.train_epoch, **options):
    """A pass of an earlier version, which took a weight of the KL term with any model."""
    return train_epoch(*arguments, **options)


def test_the_advice_after_a_signal_names_overwrite(monkeypatch):
    said = []

    @contextlib.contextmanager
    def listening(message):
        said.append(message)
        yield

    monkeypatch.setattr(command, "listening", listening)
    for words in ((), ("--overwrite",)):
        monkeypatch.setattr(sys, "argv", ["mnist", *words])
        with pytest.raises(SystemExit):
            command.leave(lambda: 0, resumes=True)
    assert "without --overwrite" not in said[0] and "without --overwrite" in said[1]


def test_the_precision_is_that_of_training_not_of_the_evaluation(run, folder, monkeypatch):
    seen = []

    def spy(name, module, original):
        def called(params, *arguments, **options):
            seen.append((name, params.model.precision))
            return original(params, *arguments, **options)

        monkeypatch.setattr(module, name, called)

    spy("log_weights", iwae_jax, iwae_jax.log_weights)
    spy("active_units", iwae_jax, iwae_jax.active_units)
    assert run("--precision", "bfloat16")[0] == 0
    folder = folder.with_name(f"{folder.name.removesuffix('-digits')}-precision_bfloat16-digits")
    assert seen and {precision for _, precision in seen} == {"float32"}
    seen.clear()
    assert run("--precision", "bfloat16", "--overwrite", "--eval-precision", "bfloat16")[0] == 0
    assert {precision for _, precision in seen} == {"bfloat16"}
    saved = json.loads((folder / "config.json").read_text())
    assert (saved["precision"], saved["eval_precision"]) == ("bfloat16", "bfloat16")
    config_, _, params = runner.restore_run(folder, None)
    assert config_.recipe().precision == params.model.precision == "bfloat16"


def test_a_preset_trains_in_its_precision(run, folder, monkeypatch):
    """Of so many images that it is not the recipe of few; the files and the table say so."""
    monkeypatch.setattr(recipes, "SMALL", 1_000)
    seen = []
    original = iwae_jax.train_epoch

    def spy(state, *arguments, **options):
        seen.append(state.params.model.precision)
        return original(state, *arguments, **options)

    monkeypatch.setattr(iwae_jax, "train_epoch", spy)
    held_out, bound = [], runner.mean_bound

    def spy_on_bound(config_, params, *arguments):
        held_out.append(params.model.precision)
        return bound(config_, params, *arguments)

    monkeypatch.setattr(runner, "mean_bound", spy_on_bound)
    _, printed = run()
    assert seen == ["bfloat16"] * 2 and held_out == ["float32"] * 2
    # Its own precision, not that of the run before.
    assert run("--after", folder, "--precision", "float32")[0] == 0
    assert seen == ["bfloat16"] * 2 + ["float32"] * 2
    assert "bfloat16 products" in printed and "precision in training: bfloat16" in printed
    facts = json.loads((folder / "data.json").read_text())
    assert facts["recipe"]["precision"] == "bfloat16"
    assert runner.restore_run(folder, None)[2].model.precision == "float32"
    card.publish(folder, "one", folder.parent / "cards", None)
    about = json.loads((folder.parent / "cards" / "one.json").read_text())
    assert about["training"]["precision"] == "bfloat16"


def test_a_run_after_another_has_a_schedule_of_its_own(run, folder):
    """Adam's count goes on, the learning rate begins anew; another optimizer's state is refused."""
    options = ("--preset", "quick", "--passes", 3, "--kl-warm-up", 2, "--gradient", "reparam")
    assert run(*options)[0] == 0
    first = next(p for p in folder.parent.iterdir() if "kl_warm_up" in p.name and p.is_dir())
    status, printed = run(*options, "--after", first)
    assert status == 0, printed
    (second,) = (p for p in folder.parent.iterdir() if "after" in p.name and p.is_dir())
    both = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (first, second)
    ]
    assert both[1][0]["step"] == both[0][-1]["step"] + both[0][0]["step"]  # the count goes on
    rates = [[line["learning_rate"] for line in lines] for lines in both]
    assert rates[0] == rates[1] and rates[0][0] > 2 * rates[0][-1]
    # What is written is what the optimizer does: it is that of the recipe, from the step of the first run.
    saved = config.Config.from_json(json.loads((second / "config.json").read_text()))
    data = datasets.load_data(saved)
    recipe, taken = saved.recipe(len(data.train)), both[0][-1]["step"]
    state = runner.initial_state(saved, data)
    assert int(state.step) == taken
    assert state.optimizer is recipe.optimizer(-(-len(data.train) // recipe.batch_size), taken)
    status, printed = run("--algorithm", "soap", "--after", first)
    assert status == 2, printed
    assert "--after a run with algorithm soap, got one with adam" in printed


def test_evaluating_again(run, folder, monkeypatch, capsys):
    run()

    def again(*words):
        monkeypatch.setattr(sys, "argv", ["evaluate", str(folder), *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            command.leave(evaluate_command.main)
        printed = capsys.readouterr()
        return stop.value.code, printed.out + printed.err

    status, printed = again("--k", 6, "--images", 30)
    assert status == 0
    same = json.loads((folder / "evaluation-k6-first30.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    assert same["test_nll"] == summary["test_nll"]
    status, printed = again("--k", 60)
    assert status == 0
    more = json.loads((folder / "evaluation-k60.json").read_text())
    assert more["test_images"] == 300
    assert "test NLL (-L_60)" in printed
    assert again("--k", 0)[0] == 2
    # Other importance samples of the same pixels: another estimate, near by.
    results = []
    for seed in (1, 2):
        assert again("--k", 60, "--seed", seed)[0] == 0
        results.append(json.loads((folder / f"evaluation-k60-seed{seed}.json").read_text()))
    nlls = [more["test_nll"], *(result["test_nll"] for result in results)]
    assert len(set(nlls)) == 3
    # The digits' weights are well-behaved here: within 4 of their standard errors.
    assert np.ptp(nlls) < 4 * np.sqrt(2) * more["monte_carlo_error"]
    assert again("--seed", -1)[0] == 2
    assert again("--images", 3, "--k", 60, "--refine-steps", 2)[0] == 0
    refined = json.loads((folder / "evaluation-k60-first3-refined2.json").read_text())
    assert (refined["refine_steps"], refined["test_images"]) == (2, 3)
    status, printed = again("--refine-steps", 2, "--mesh", "data=1")
    assert status == 2 and "Expected --refine-steps without --mesh" in printed
    # An older checkpoint is not passed off as the finished run.
    flip_a_bit(folder / "checkpoints" / "2")
    status, printed = again()
    assert status != 0
    assert "Skipped the damaged checkpoint" in printed
    shutil.rmtree(folder / "checkpoints")
    status, printed = again()
    assert status == 2
    assert "Expected the checkpoint of pass 2" in printed
    (folder / "summary.json").unlink()
    assert again()[0] == 2


def test_the_preset_paper_is_the_papers_protocol():
    paper = config.Config.of(preset="paper")
    recipe = paper.recipe(59_600)
    assert recipe == PAPER == Recipe(passes=3280) and recipe.estimator(50) == gradients.DEFAULT
    assert (recipe.batch_size, recipe.adam_eps, recipe.adam_beta1) == (20, 1e-4, 0.9)
    assert [recipe.samples(number, 50) for number in (1, 3280)] == [50, 50]
    assert paper.evaluation.eval_k == 5000
    assert config.Config.of(preset="paper", passes=5).recipe(59_600) == Recipe(passes=5)
    assert config.Config.of(preset="paper", stages=3).recipe(59_600) == Recipe(passes=13)
    schedule = recipe.learning_rate(2980)
    np.testing.assert_allclose(
        np.array([schedule(0), schedule(2980 * 3279)]), [1e-3, 1e-4], rtol=1e-6
    )


def test_the_sum_of_a_batch_is_a_smaller_epsilon():
    """Adam on the summed loss with eps is Adam on the mean with eps / batch size."""
    gradient: Any = {"w": np.array([1e-4, -3e-5], np.float32)}
    by_sum = Recipe(passes=1, loss="sum", batch_size=20).optimizer(10)
    plain = Recipe(passes=1, loss="mean", batch_size=20).optimizer(10)
    parameters = {"w": np.zeros(2, np.float32)}
    with jax.numpy_dtype_promotion("standard"):
        a: Any = by_sum.update(gradient, by_sum.init(parameters), parameters)[0]
        summed = {"w": 20 * gradient["w"]}
        b: Any = plain.update(summed, plain.init(parameters), parameters)[0]
    np.testing.assert_allclose(a["w"], b["w"], rtol=1e-5)


def test_published_cells():
    assert published.published("mnist", "iwae", 1, 50) == (84.78, (25,))
    assert published.published("mnist", "iwae", 2, 50) == (82.90, (26, 7))
    assert published.published("omniglot", "vae", 1, 1) == (108.11, (28,))
    assert published.published("binarized_mnist", "iwae", 1, 5) == (87.63, ())
    assert published.published("mnist", "iwae", 1, 7) is None


def test_real_mnist_runs(run, real_data, tmp_path):
    status, printed = run(
        "--dataset", "mnist", "--data-dir", real_data, "--data-source", "files", "--passes", 1,
        "--batch-size", 400, "--k", 1, "--eval-k", 20, "--eval-images", 50,
    )  # fmt: skip
    assert status == 0
    (file,) = (tmp_path / "runs/mnist").glob("iwae-L1-k1-seed0*/summary.json")
    summary = json.loads(file.read_text())
    # The bias starts at the data mean, which alone gives 206 nats; a pass must improve on that.
    assert 80 < summary["test_nll"] < 200
    assert "59,600 training" in printed


def test_a_folder_is_held_by_one_process(run, folder):
    with RunFolder(folder).locked():
        status, printed = run()
    assert status == 2
    assert f"Another process is running in {folder}" in printed
    assert run()[0] == 0


def test_brackets_in_a_path_are_only_brackets(run, tmp_path):
    status, printed = run(out="[red]x[/y]")
    assert status == 0
    assert "[red]x[/y]" in printed


def test_another_eval_k_points_to_the_evaluation(run, folder):
    facts = {"source": "embedded", "origin": "", "fingerprint": ""}
    there = config.Config.of(
        k=2, passes=2, batch_size=100, dataset="digits", eval_k=7, eval_images=30
    )
    RunFolder(folder).open(there, facts)
    status, printed = run()
    assert status == 2
    assert f"python -m experiments.evaluate {folder}" in printed
    assert "--overwrite" not in printed


def test_what_differs_from_the_paper_is_said(run):
    _, printed = run(
        "--preset", "paper", "--precision", "tensorfloat32", "--stage-base", 2, "--gradient", "dreg"
    )
    for line in (
        "passes: 2, not 3,280",
        "NLL: L_6, not L_5000",
        "test: the first 30 images, not all",
        "batch_size: 100, not 20",
        "gradient: dreg, not reparam",
        "stage_base: 2, not 3",
        "precision in training: tensorfloat32, not float32",
        "loss: the mean over a batch",
    ):
        assert line in printed


@pytest.mark.parametrize(
    ("words", "objective", "name"),
    [
        ("--objective renyi --alpha 0", "Renyi(alpha=0.0)", "renyi-alpha0.0-L1-k2-seed0"),
        (
            "--objective ciwae --beta 0 --gradient dreg",
            "CIWAE(beta=0.0)",
            "ciwae-beta0.0-L1-k2-dreg-seed0",
        ),
        ("--objective jackknife --order 0", "Jackknife(order=0)", "jackknife-order0-L1-k2-seed0"),
        (
            "--objective vae --analytic-kl",
            "ELBO(analytic_kl=True)",
            "vae-analytic_klTrue-L1-k2-seed0",
        ),
        (
            "--objective tvo --partitions 0 0.5 1 --resampled 1 --gradient vimco --p-gradient gdreg",
            "TVO(partitions=(0.0, 0.5, 1.0), first=0.1)",
            "tvo-partitions0.0_0.5_1.0-L1-k2-gdreg+vimco@1-seed0",
        ),
    ],
)
def test_objectives_and_gradients_on_the_command_line(monkeypatch, words, objective, name):
    parsed = config.parse(config.Config, "test", "Test.", config.Config.of(k=2), words.split())
    parsed.check()
    assert repr(parsed.objective_function) == objective
    assert parsed.name == name
    saved = json.loads(json.dumps(parsed.to_json()))
    assert config.Config.from_json(saved).name == name
    assert config.Config.from_json(saved).objective_function == parsed.objective_function


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--objective iwae --alpha 0",
            "Expected --alpha with --objective renyi, got --objective iwae",
        ),
        ("--objective miwae --m 0", "Expected --m to be a positive int, got 0"),
        ("--objective miwae --m 3", "Expected --m to divide --k, got --m = 3 and --k = 50"),
        ("--objective elbo --gradient rws", "Expected --gradient 'rws' to be defined for ELBO"),
        ("--objective vae --analytic-kl --layers 2", "Expected --analytic-kl with --layers 1"),
        ("--objective magic", "Expected --objective in ['vae', 'elbo', 'iwae'"),
        ("--gradient magic", "Expected --gradient to be one of"),
        ("--resampled -1", "Expected --resampled to be at least 0, got -1"),
        ("--k 0", "Expected --k to be at least 1, got 0"),
    ],
)
def test_objectives_and_gradients_that_make_no_run(words, message):
    parsed = config.parse(config.Config, "test", "Test.", config.Config(), words.split())
    with pytest.raises(config.UsageError) as error:
        parsed.check()
    assert message in str(error.value)


def test_a_sweep_over_gradients_names_each_run(run, tmp_path):
    status, printed = run("--gradient", "reparam", "dreg", "--objective", "renyi", "--alpha", "0.5")
    assert status == 0
    assert "test Renyi(alpha=0.5), k=2 (lower bound)" in " ".join(printed.replace("│", " ").split())
    names = {folder.name for folder in (tmp_path / "runs/mnist").iterdir() if folder.is_dir()}
    both = [f"renyi-alpha0.5-L1-k2{name}-seed0{END}" for name in ("-reparam", "-dreg")]
    assert names == set(both)
    summary = json.loads((tmp_path / "runs/mnist" / both[1] / "summary.json").read_text())
    assert summary["objective_kind"] == "lower bound" and summary["gradient"] == "dreg"
