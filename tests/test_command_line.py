"""Flags, --help, errors of the command line, and config.json."""

import dataclasses
import importlib
import json
import re
import runpy
import shlex
import sys
from dataclasses import MISSING
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.shared import command
from experiments.shared.flags import parsing
from experiments.shared.flags.bound import Parameters
from experiments.shared.flags.checks import in_flags
from experiments.shared.flags.config import INCIDENTAL, Config, UsageError, parse
from experiments.shared.flags.entries import parse_entry
from experiments.shared.flags.network import default_sizes
from experiments.shared.runs import runner
from experiments.shared.runs.folders import RunFolder
from iwae_jax import ModelConfig, gradients, models, objectives

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if p.stem != "__init__")


def typed(words, default=None):
    return parse(Config, "test", "Test.", default or Config(), words.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_help(monkeypatch, capsys, name):
    """The status is 0, no default is None, and the command is in README.md or docs/."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"experiments.{name}", raising=False)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"experiments.{name}", run_name="__main__")
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert f"python -m experiments.{name}" in printed
    assert "(default: None)" not in printed and "(default: )" not in printed
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert any(f"experiments.{name}" in page.read_text() for page in pages)


def test_the_flags_and_their_groups(capsys):
    """All flags keep their names, and --help shows them in groups."""
    words = {
        "k": "1 5", "layers": "1 2", "objective": "iwae vae", "gradient": "dreg reparam",
        "p-gradient": "gdreg", "resampled": "1", "seed": "3 4", "alpha": "0.3", "n": "3", "m": "4",
        "beta": "0.1", "order": "2", "partitions": "0 0.5 1", "first": "0.2", "tail": "9",
        "decay": "0.5", "dataset": "omniglot", "data-source": "files", "data-dir": "x",
        "binarization": "fixed", "preset": "paper", "stages": "2", "passes": "7", "batch-size": "8",
        "total-stages": "5", "stage-base": "2", "first-rate": "0.1", "last-rate": "0.01",
        "adam-beta1": "0.5", "adam-beta2": "0.6", "adam-eps": "1e-8", "loss": "sum", "after": "y",
        "eval-k": "11", "eval-images": "12", "precision": "bfloat16", "out-dir": "z",
        "checkpoint-seconds": "1.5", "kl-weight": "0.5", "kl-warm-up": "2.0", "mmd": "3.0",
        "mmd-kernel": "rbf", "latents": "bernoulli normal",
    }  # fmt: skip
    line = " ".join(f"--{name} {value}" for name, value in words.items())
    flat = typed(f"{line} --analytic-kl --overwrite --tensorboard").flat()
    assert flat["parameters"] == Parameters(
        analytic_kl=True, alpha=0.3, n=3.0, m=4, beta=0.1, order=2, partitions=(0.0, 0.5, 1.0),
        first=0.2, tail=9, decay=0.5,
    )  # fmt: skip
    for name, value in words.items():
        held = flat.get(name.replace("-", "_"), getattr(flat["parameters"], name, None))
        if isinstance(held, tuple):
            assert [str(each) for each in held] == [str(type(held[0])(w)) for w in value.split()]
        else:
            assert held == type(held)(value)
    assert flat["overwrite"] is flat["tensorboard"] is True
    with pytest.raises(SystemExit):
        typed("--help")
    printed = capsys.readouterr().out
    groups = ("model", "objective and gradient", "data", "schedule", "evaluation", "run")
    places = [printed.index(f" {group} options ") for group in groups]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--k many", "Expected --k to be an int, got 'many'."),
        ("--k 1 x 3", "Expected --k to be an int, got 'x'."),
        ("--eval-images few", "Expected --eval-images to be an int, got 'few'."),
        ("--first-rate=fast", "Expected --first-rate to be a number, got 'fast'."),
        ("--partitions 0 half", "Expected --partitions to be a number, got 'half'."),
        ("--alpha x", "Expected --alpha to be a number, got 'x'."),
        ("--hidden-sizes 200,x", "Expected --hidden-sizes to be ints with commas between them"),
        ("--binarization max", "Expected --binarization in {dynamic, fixed, none}, got 'max'."),
        ("--eval-k", "Expected a value after --eval-k, got none."),
        ("--kk=3", "Unknown flag --kk: did you mean --k?"),
        ("--batchsize 3", "Unknown flag --batchsize: did you mean --batch-size?"),
        ("--alphas 3", "Unknown flag --alphas: did you mean --alpha?"),
        ("--colour red", "Unknown flag --colour: --help lists the flags."),
        ("--overwrite yes", "Expected no further argument, got 'yes'."),
        ("--out-dir=", "Expected --out-dir to be a text that is not empty, got ''."),
        ("--data-dir=", "Expected --data-dir to be a text that is not empty, got ''."),
    ],
)
def test_a_bad_command_line_is_one_sentence(capsys, words, message):
    with pytest.raises(UsageError) as error:
        typed(words)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_a_missing_folder_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    monkeypatch.delitem(sys.modules, "experiments.evaluate", raising=False)
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("experiments.evaluate", run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: Expected RUN_DIR, got none.\n"


def test_a_tyro_without_the_private_hook(monkeypatch, capsys):
    """The message names no flag, but the status and the single line stay."""
    monkeypatch.setitem(sys.modules, "tyro._errors", None)
    with pytest.raises(UsageError, match=r"^Invalid arguments\. See test --help\.$"):
        typed("--binarization max")
    assert capsys.readouterr().err == ""


def test_an_error_of_an_unknown_kind_has_no_sentence():
    """New versions of tyro may add kinds of errors: `parse` then names no flag."""
    assert parsing._sentence(object(), []) is None


@pytest.mark.parametrize(
    ("words", "latent", "hidden", "name"),
    [
        ("", (50,), ((200, 200),), "L1"),
        ("--layers 2", (100, 50), ((200, 200), (100, 100)), "L2"),
        ("--layers 3", (100, 50, 25), ((200, 200), (100, 100), (50, 50)), "L3"),
        ("--latent-sizes 100 50", (100, 50), ((200, 200), (100, 100)), "L2"),
        ("--layers 2 --latent-sizes 9 4", (9, 4), ((200, 200), (100, 100)), "L2-z9_4"),
        ("--hidden-sizes 30,20 10", (100, 50), ((30, 20), (10,)), "L2-h30_20+10"),
        ("--latent-sizes 7 --hidden-sizes 200,200", (7,), ((200, 200),), "L1-z7"),
        ("--likelihood normal --binarization none", (50,), ((200, 200),), "L1-likelihood_normal"),
    ],
)
def test_layers_and_sizes(words, latent, hidden, name):
    parsed = typed(words)
    parsed.check()
    (run,) = parsed.runs()
    model = run.model(64)
    assert (model.data_shape, model.latent_sizes, model.hidden_sizes) == ((64,), latent, hidden)
    assert run.former_name == f"iwae-{name}-k50-seed0"
    assert run.network.is_papers == (name in ("L1", "L2"))
    saved = json.loads(json.dumps(run.to_json()))
    assert saved["layers"] == len(latent)
    again = Config.from_json(saved)
    assert again.model(64) == model and again.name == run.name and again.to_json() == run.to_json()
    if "-h" in name:
        assert saved["hidden_sizes"] == [[30, 20], [10]] and saved["latent_sizes"] == []


def test_default_networks():
    assert Config.of(layers=1).model(784) == ModelConfig()
    assert Config.of(layers=2).model(784) == ModelConfig.two_layer()
    latent, hidden = default_sizes(7)
    assert latent == (100, 50, 25, 12, 6, 3, 2)
    assert [widths[0] for widths in hidden] == [200, 100, 50, 25, 12, 10, 10]
    (one, three) = typed("--layers 1 3").runs()
    assert (one.name, three.name) == ("iwae-L1-k50-seed0", "iwae-L3-k50-seed0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--layers 1 --latent-sizes 9 4",
            "Expected --latent-sizes to have one entry for each of 1",
        ),
        ("--layers 1 2 --latent-sizes 9 4", "Expected --latent-sizes to have one entry for each"),
        (
            "--latent-sizes 9 4 --hidden-sizes 9",
            "Expected --hidden-sizes to have one entry for each",
        ),
        ("--latent-sizes 0", "Expected --latent-sizes to be at least 1, got 0."),
        ("--hidden-sizes 3,0", "Expected --hidden-sizes to be at least 1"),
        ("--layers 0", "Expected --layers to be at least 1, got 0."),
        ("--layers 101", "Expected --layers to be at most 100, got 101."),
        ("--likelihood magic", "Expected --likelihood to be"),
        ("--objective vae --analytic-kl --layers 3", "Expected --analytic-kl with --layers 1"),
    ],
)
def test_networks_that_contradict_themselves(words, message):
    with pytest.raises(UsageError) as error:
        typed(words).check()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--objective miwae --m 3 --k 4", "Expected --m to divide --k, got --m = 3 and --k = 4."),
        ("--objective cubo --n 1", "Expected --n to be a number in"),
        (
            "--objective jackknife --order 9 --k 4",
            "Expected --order to be under --k, got --order = 9",
        ),
        ("--objective tvo --partitions 1 0", "Expected --partitions to rise from 0 to 1"),
        (
            "--p-gradient dreg",
            "Expected --p-gradient to be an estimator with a route through log p",
        ),
        ("--gradient magic", "Expected --gradient to be one of reparam"),
        ("--p-gradient magic", "Expected --p-gradient to be one of reparam"),
        ("--objective renyi --gradient rws", "Expected --gradient 'rws' to be defined for Renyi"),
        ("--loss max", "Expected --loss in {mean, sum}, got 'max'."),
        ("--rate-decay no", "Expected --rate-decay in {stages, cosine}, got 'no'."),
        ("--first-passes 9 --passes 3", "Expected --first-passes to be under"),
        ("--network magic", "Expected --network to be one of mlp, conv, got 'magic'."),
        (
            "--preset paper --stage-base 2000000 --total-stages 2000000",
            "Expected --stage-base to the power",
        ),
        (
            "--preset paper --stage-base 1 --total-stages 2000000",
            "Expected --total-stages to be at most 1000",
        ),
        (
            "--latent-sizes 2000000000",
            "Expected --latent-sizes to be at most 100,000, got 2000000000.",
        ),
        ("--hidden-sizes 9,2000000000", "Expected --hidden-sizes to be at most 100,000"),
        ("--objective tvo --partitions 1000000000", "Expected --partitions to be at most 10,000"),
        (
            "--objective jackknife --order 1000000 --k 2000000",
            "Expected --order to be at most 100",
        ),
        (
            "--stages 3",
            "Expected --stages with --rate-decay=stages, got cosine (of --preset=quick).",
        ),
        ("--preset paper --warm-up 1", "Expected --warm-up with --rate-decay=cosine, got stages"),
        ("--preset paper --stages 9", "Expected --stages to be at most --total-stages, 8, got 9."),
        ("--seed -1", "Expected --seed in [0, 2**32), got -1."),
        ("--seed 99999999999999", "Expected --seed in [0, 2**32)"),
        (
            "--prior shifted --gradient gdreg",
            "Expected a model with prior_moments for --gradient 'gd",
        ),
    ],
)
def test_what_the_library_refuses_is_named_as_it_was_typed(monkeypatch, words, message):
    """All of these are refused before the data are loaded, and before there is a folder."""
    monkeypatch.setitem(models.PRIORS, "shifted", lambda config: Shifted(config.latent_sizes[0]))
    with pytest.raises(UsageError) as error:
        typed(words).check()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "Expected data_dir to be a folder, got 'a'.",
            "Expected --data-dir to be a folder, got 'a'.",
        ),
        ("Neither data_dir nor X names a folder.", "Neither --data-dir nor X names a folder."),
        ("a folder of files with data_dir instead.", "a folder of files with --data-dir instead."),
        ("Expected source 'auto' for digits.", "Expected --data-source 'auto' for digits."),
        ("/the/data_dir/x has no file of mnist.", "/the/data_dir/x has no file of mnist."),
        (
            "Expected /a/data_dir to be it, got 'source'.",
            "Expected /a/data_dir to be it, got 'source'.",
        ),
    ],
)
def test_the_librarys_arguments_become_flags(message, expected):
    assert in_flags(message, ["data_dir"], {"source": "--data-source"}) == expected


def test_a_parameter_of_an_entry_is_given_once():
    with pytest.raises(UsageError, match="Expected alpha once, got it twice"):
        parse_entry("renyi:alpha=0.5,alpha=0.7", 4)


def test_help_reads_well(capsys):
    """Each objective's parameter says what it means, and a paragraph is filled."""
    with pytest.raises(SystemExit):
        parse(
            Config,
            "test",
            "A text\nof two lines,\n(in brackets).\n\n    as it is",
            Config(),
            ["-h"],
        )
    printed = capsys.readouterr().out
    assert printed.startswith("A text of two lines, (in brackets).\n\n    as it is\n\nusage: test")
    assert "For the objective" not in printed and "{None}" not in printed
    assert re.search(r"--m INT +miwae and piwae: the number of groups; it must", printed)
    assert max(map(len, printed.splitlines())) <= 80
    assert len(printed.splitlines()) <= 161


OLD = """{
  "k": 2, "layers": 2, "objective": "renyi", "parameters": {"alpha": 0.5}, "gradient": "dreg",
  "theta_gradient": null, "resampled": null, "seed": 0, "dataset": "digits",
  "data_source": "embedded", "data_dir": null, "binarization": "dynamic", "preset": "quick",
  "stages": null, "passes": 2, "batch_size": 100, "total_stages": 8, "stage_base": 3,
  "first_rate": 0.001, "last_rate": 0.0001, "adam_beta1": 0.9, "adam_beta2": 0.999,
  "adam_eps": 0.0001, "loss": "mean", "after": null, "eval_k": 6, "eval_images": 30,
  "precision": "float32", "out_dir": "/tmp/exp-old/runs", "overwrite": false,
  "checkpoint_seconds": 20.0, "tensorboard": false
}"""
"""A config.json of the version before --latent-sizes and its like."""

OLD_WORDS = (
    "--preset paper --dataset digits --passes 2 --k 2 --batch-size 100 --eval-k 6 --eval-images 30 "
)
OLD_WORDS += "--layers 2 --objective renyi --alpha 0.5 --gradient dreg"


def test_a_run_of_an_older_version_is_the_same_run(tmp_path):
    old = Config.from_json(json.loads(OLD))
    (same,) = typed(OLD_WORDS).runs()
    assert old.former_name == same.former_name == "renyi-alpha0.5-L2-k2-dreg-seed0"
    assert old.name == same.name == f"{old.former_name}-preset_paper-passes2-batch_size100"
    assert old.model(64) == ModelConfig.two_layer((64,))
    path = tmp_path / "mnist" / old.former_name
    path.mkdir(parents=True)
    (path / "config.json").write_text(OLD)
    folder = RunFolder.of(tmp_path, "mnist", same)
    assert folder.path == path  # not that of its name, which is new
    facts = {"source": "embedded", "origin": "", "fingerprint": ""}
    folder.write("data.json", facts)
    folder.check(same, facts)
    for words in ("--passes 3", "--first-rate 0.1", "--dataset mnist"):
        (another,) = typed(f"{OLD_WORDS} {words}").runs()
        assert RunFolder.of(tmp_path, "mnist", another).path != path
    (other,) = typed(f"{OLD_WORDS} --latent-sizes 9 4").runs()
    message = r"latent_sizes is \(\) there and \(9, 4\) here"
    with pytest.raises(UsageError, match=message):
        folder.check(other, facts)
    with pytest.raises(UsageError, match=r"got unknown \['colour'\]"):
        Config.from_json(json.loads(OLD) | {"colour": "red"})


def test_the_precision_of_an_older_version_is_that_of_its_config(tmp_path):
    """It wrote a name into config.json, and none into the recipe of data.json."""
    facts = {"source": "embedded", "origin": "", "fingerprint": ""}
    old_recipe = {"passes": 9}
    for words, here, there, same in (
        ("--preset paper", None, "float32", True),
        ("", "bfloat16", "bfloat16", True),
        ("", "bfloat16", "float32", False),
        ("--precision float32", "float32", "float32", True),
        ("--precision float32", "float32", "bfloat16", False),
    ):
        (run,) = typed(words).runs()
        folder = RunFolder(tmp_path / f"{words}{there}")
        folder.path.mkdir()
        folder.write("config.json", run.to_json() | {"precision": there})
        folder.write("data.json", facts | {"recipe": old_recipe})
        new_recipe = old_recipe | ({"precision": here} if here else {})
        if same:
            folder.check(run, facts | {"recipe": new_recipe})
            message = r"[(]data.json[)]: recipe.passes is 9 there and 8 here[.]"  # alone
            with pytest.raises(UsageError, match=message):
                folder.check(run, facts | {"recipe": new_recipe | {"passes": 8}})
        else:
            with pytest.raises(UsageError, match=f"precision is '{there}' there and '{here}' here"):
                folder.check(run, facts | {"recipe": new_recipe})


def test_lists_in_a_config_are_no_difference(tmp_path):
    (run,) = typed("--objective tvo --partitions 0 0.5 1 --hidden-sizes 9,8").runs()
    folder = RunFolder(tmp_path)
    facts = {"source": "embedded", "origin": "", "fingerprint": ""}
    folder.open(run.replace(data_source="embedded"), facts)
    folder.check(run, facts)


OTHERS = {
    "k": 3, "layers": 2, "objective": "vae", "gradient": "dreg", "p_gradient": "gdreg",
    "resampled": 2, "parameters": Parameters(alpha=0.3), "seed": 1, "after": "there",
    "latent_sizes": (7,), "hidden_sizes": ((7,),), "dataset": "digits", "network": "wide",
    "loss": "sum", "rate_decay": "stages", "likelihood": "normal", "prior": "other", "posterior": "other",
}  # fmt: skip


def test_two_configs_never_share_a_folder():
    """Each flag that changes the result is in the path, but those of the evaluation, which can be repeated."""
    base = Config.of(objective="renyi")
    first = RunFolder.of("runs", "mnist", base)
    assert RunFolder.of("runs", "mnist", Config()).path == Path("runs/mnist/iwae-L1-k50-seed0")
    for name, value in base.flat().items():
        if name in (*INCIDENTAL, "eval_k", "eval_images", "eval_precision") and name != "after":
            continue
        other = OTHERS.get(name, 7 if value is None else "other" if value in texts(name) else 7)
        changed = RunFolder.of("runs", "mnist", base.replace(**{name: other}))
        assert changed.path != first.path, name
        assert changed.path.parent == first.path.parent
    long = Config.of(layers=100, latent_sizes=(9,) * 100, hidden_sizes=((9,),) * 100)
    longer = [RunFolder.of("runs", "mnist", long.replace(batch_size=n)).path for n in (7, 8)]
    assert longer[0] != longer[1] and len(longer[0].name) < 220


def texts(name):
    value = Config().flat()[name]
    return (value,) if isinstance(value, str) else ()


@pytest.mark.parametrize(
    ("theta", "phi", "expected"),
    [
        (None, "dreg", "dreg"),
        ("stl", "dreg", "dreg"),
        ("reparam", "vimco", "vimco"),
        ("gdreg", "gdreg", "gdreg"),
        ("gdreg", "vimco", "gdreg+vimco"),
        ("stl", "rws", "reparam+rws"),
    ],
)
def test_theta_and_phi_of_an_older_version_are_routes(theta, phi, expected):
    values = json.loads(OLD) | {"theta_gradient": theta, "gradient": phi}
    assert str(Config.from_json(values).recipe().gradient) == expected


def shell_commands():
    """Every `python -m experiments.NAME ..` in a shell block of the pages, with its words."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.S):
            for line in block.splitlines():
                found = re.search(r"python -m experiments\.(\w+)(.*)", line)
                if found and "NAME" not in line and "--help" not in line:
                    yield pytest.param(found[1], found[2], id=line.strip()[:90])


@pytest.mark.parametrize(("name", "words"), [*shell_commands()])
def test_the_commands_of_the_pages_are_understood(monkeypatch, name, words):
    """They are parsed into the dataclass that the command runs with; nothing is run."""
    words = shlex.split(words, comments=True)
    seen = []

    def only_parse(kind, program, description, default=MISSING, given=None):
        seen.append(parse(kind, program, description, default, words))
        raise UsageError("parsed")

    for module in ("experiments.shared.command", f"experiments.{name}"):
        imported = importlib.import_module(module)
        if hasattr(imported, "parse"):
            monkeypatch.setattr(imported, "parse", only_parse)
    started = {"mnist": "experiments.mnist", "omniglot": "experiments.omniglot"}
    with pytest.raises((SystemExit, UsageError)):
        if name in started:
            command.main(name, "Test.", 0.0)
        else:
            importlib.import_module(f"experiments.{name}").main()
    assert len(seen) == 1


@dataclasses.dataclass(frozen=True)
class Flipped(models.Bernoulli):
    """Bernoulli pixels whose heads are the log-odds of a zero."""

    def log_prob(self, outputs, x):
        return super().log_prob({"logits": -outputs["logits"]}, x)

    def mean(self, outputs):
        return super().mean({"logits": -outputs["logits"]})

    def first_bias(self, data_mean):
        return -super().first_bias(data_mean)


@dataclasses.dataclass(frozen=True)
class Shifted:
    """A prior: standard normals around a learned mean."""

    size: int

    def init(self, key):
        return {"mean": 0.1 * jax.random.normal(key, (self.size,))}

    def log_prob(self, params, z):
        return jax.scipy.stats.norm.logpdf(z[0], params.generative["prior"]["mean"]).sum()

    def sample(self, params, key):
        mean = params.generative["prior"]["mean"]
        return (mean + jax.random.normal(key, (self.size,)),)


@dataclasses.dataclass(frozen=True)
class Halved(gradients.Estimator):
    """Half of the default estimator's coefficients."""

    needs = gradients.DEFAULT.needs

    def coefficients(self, objective, log_w):
        found = gradients.DEFAULT.coefficients(objective, log_w)
        return jax.tree.map(lambda a: 0.5 * a, found)


@dataclasses.dataclass(frozen=True)
class Mean(objectives.Objective):
    """The ELBO, by another name."""

    kind = "lower bound"

    def __call__(self, log_w):
        return jnp.mean(log_w, axis=0)


def test_what_is_registered_in_a_line_runs_on_the_command_line(monkeypatch, capsys, tmp_path):
    """An estimator, an objective, a likelihood and a prior made up here: a run, its resume, its evaluation."""
    monkeypatch.setitem(gradients.NAMES, "halved", Halved)
    monkeypatch.setitem(objectives.NAMES, "mean", Mean)
    monkeypatch.setitem(models.LIKELIHOODS, "flipped", lambda config: Flipped())
    monkeypatch.setitem(models.PRIORS, "shifted", lambda config: Shifted(config.latent_sizes[0]))
    words = "--dataset digits --passes 1 --k 2 --batch-size 200 --eval-k 6 --eval-images 20 "
    words += "--objective mean --gradient halved --likelihood flipped --prior shifted"
    words += f" --latent-sizes 3 --hidden-sizes 9 --out-dir {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["mnist", *words.split()])
    with pytest.raises(SystemExit) as stop:
        command.main("mnist", "Test.", 0.0)
    printed = capsys.readouterr()
    assert stop.value.code == 0, printed.err
    (folder,) = (path for path in (tmp_path / "mnist").iterdir() if path.is_dir())
    name = "mean-L1-z3-h9-likelihood_flipped-prior_shifted-k2-halved-seed0"
    assert folder.name == f"{name}-passes1-batch_size200-digits"
    summary = RunFolder(folder).read("summary.json")
    assert summary is not None
    assert (summary["gradient"], summary["objective"]) == ("halved", "Mean()")
    # It learned: the data's mean alone, of a Bernoulli, gives 23.4 nats more than its bound.
    assert summary["test_nll"] < 40
    config, _, params = runner.restore_run(folder, None)
    assert params.model == config.model(64)
    assert isinstance(params.model.parts.prior, Shifted)
    assert params.generative["prior"]["mean"].shape == (3,)
    # This prior says nothing of its moments: no divergence of a unit is reported.
    assert "active_units" in summary and "elbo_terms" in summary
    assert not {"divergences", "without_inactive"} & set(summary)


def test_a_likelihood_of_real_numbers_takes_the_intensities():
    message = r"Expected --binarization=none with --likelihood=normal"
    with pytest.raises(UsageError, match=message):
        typed("--likelihood normal").check()
    typed("--likelihood normal --binarization none").check()
    with pytest.raises(UsageError, match="Expected --likelihood to be one of bernoulli, .*normal"):
        typed("--likelihood magic").check()
