"""The rooms of docs/design.md, and who may import whom."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RANKS = {
    "typing": 0,
    "threefry": 1,
    "data.reading": 0,
    "checks": 1,
    "objectives.logspace": 1,
    "models.distributions": 1,
    "models.products": 1,
    "models.networks.base": 2,
    "models.networks.convolutional": 3,
    "models.networks": 4,
    "data.mat": 1,
    "data.own": 1,
    "protocol": 2,
    "devices": 2,
    "objectives.base": 2,
    "models.naming": 0,
    "models.families.base": 3,
    "models.families.discrete": 4,
    "models.families.flows": 4,
    "models.families.mixture": 4,
    "models.families.normal": 4,
    "models.families.semi_implicit": 4,
    "models.families.student": 4,
    "models.families": 5,
    "models.likelihoods.base": 3,
    "models.likelihoods.bernoulli": 4,
    "models.likelihoods.levels": 4,
    "models.likelihoods.normal": 4,
    "models.likelihoods": 5,
    "models.priors": 6,
    "models.posteriors": 6,
    "models.missing": 7,
    "data.files": 2,
    "data.binarization": 2,
    "noise": 3,
    "objectives.means": 3,
    "objectives.thermodynamic": 3,
    "models.config": 8,
    "models.sampling": 4,
    "data.tfds": 3,
    "importance": 4,
    "objectives.groups": 4,
    "objectives.debiased": 4,
    "data.datasets": 4,
    "models": 9,
    "data": 5,
    "objectives": 5,
    "cards": 10,
    "gradients.estimator": 6,
    "evaluation.likelihood": 6,
    "evaluation.diagnosis": 6,
    "evaluation.enumeration": 6,
    "evaluation.imputation": 6,
    "evaluation.annealing": 6,
    "evaluation.latents.activity": 6,
    "evaluation.latents.implicit": 6,
    "evaluation.latents.pruning": 10,
    "evaluation.latents.surgery": 6,
    "gradients.reparam": 7,
    "gradients.path": 7,
    "gradients.prior": 7,
    "gradients.wake": 7,
    "gradients.score": 7,
    "gradients.resampling": 7,
    "gradients.driver": 7,
    "gradients.tempering": 7,
    "evaluation.latents": 11,
    "evaluation.refinement": 12,
    "evaluation": 13,
    "gradients.names": 8,
    "gradients.mixing": 9,
    "gradients.bound": 10,
    "gradients": 11,
    "training.schedule": 11,
    "training.checkpoints": 11,
    "training.penalties": 2,
    "training.soap": 2,
    "training.recipes": 12,
    "training.step": 12,
    "training.fitting": 13,
    "training": 14,
}
"""Rooms, from the ground up. A sub-package's own name stands for its `__init__`."""

SRC = ROOT / "src/iwae_jax"


def file_of(room: str) -> Path:
    path = SRC / room.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def rooms_in(names: set[str]) -> set[str]:
    """The rooms that imported names stand for: the deepest that each goes into."""
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] != "iwae_jax":
            continue
        for end in range(len(parts), 1, -1):
            room = ".".join(parts[1:end])
            if room in RANKS:
                found.add(room)
                break
    return found


def imported(file: Path) -> set[str]:
    """Every module that a file imports, at any depth: iwae_jax.data for `from iwae_jax import data`."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            each = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from iwae_jax.data import files` goes into the room files, not into the whole of data.
            rooms = {name for name in each if name.removeprefix("iwae_jax.") in RANKS}
            names |= rooms if rooms == each else each | {node.module or ""}
    return names


def test_every_room_has_a_rank():
    names = set()
    for file in SRC.rglob("*.py"):
        parts = file.relative_to(SRC).with_suffix("").parts
        names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    assert names - {""} == set(RANKS)


@pytest.mark.parametrize("room", RANKS)
def test_a_room_imports_only_rooms_of_lower_rank(room):
    names = imported(file_of(room))
    assert not any(name.split(".")[0] in ("experiments", "benchmarks") for name in names)
    rooms = rooms_in(names)
    assert all(RANKS[other] < RANKS[room] for other in rooms), (room, rooms)


def test_experiments_import_only_the_public_package():
    public = {
        *("cards", "data", "evaluation", "evaluation.annealing", "evaluation.latents", "gradients"),
        *("devices", "models", "models.families", "objectives", "training", "training.checkpoints"),
        "training.recipes",
    }
    for file in (ROOT / "experiments").rglob("*.py"):
        rooms = rooms_in(imported(file))
        assert rooms <= public, (file.name, rooms)


EXPERIMENTS = ROOT / "experiments"
COMMANDS = {
    *(
        "annealing",
        "bias",
        "compare",
        "dcgan",
        "discrete",
        "evaluate",
        "latents",
        "missing",
        "mnist",
        "omniglot",
        "posterior",
    ),
    *(
        "gaps",
        "infovae",
        "ladder",
        "lvm",
        "posteriors",
        "publish",
        "report",
        "semi_implicit",
        "snr",
        "student_t",
        "table1",
        "table2",
    ),
}
LEVELS = {
    "shared.system": ["compiled display errors stopping", "files processes saved"],
    "shared.flags": [
        *("checks", "common parsing", "bound network schedule", "config entries", "tables"),
    ],
    "shared.reporting": ["drawing intervals published slopes", "figures plots"],
    "shared.runs": [
        *("datasets folders precision summary", "board page results", "pictures", "runner"),
        "card tables",
    ],
    "shared": ["command"],
    "studies": [
        "adversarial aggregate annealing_run comparison_table control_variates discrete_table",
        "feature_dropping imputation_errors inference_gaps infovae_toy latent_variable_models",
        "linear_gaussian linear_probe posterior_density posterior_table rungs table1_results",
        "table2_results targets",
        "adversarial_table comparison estimator_bias gradient_noise heavy_tails latent_pictures",
        "latent_variable_study semi_implicit_fits",
        "adversarial_study",
    ],
}
"""Rooms of experiments, from the ground up, and in each its modules: none imports one of a later line."""

LEVEL_OF = {
    f"experiments.{room}.{module}": (number, line)
    for number, (room, lines) in enumerate(LEVELS.items())
    for line, modules in enumerate(lines)
    for module in modules.split()
}


def experiment_modules(file: Path) -> set[str]:
    """The modules of the rooms of experiments that a file imports; it may import no other of experiments."""
    names = {name for name in imported(file) if name.split(".")[0] == "experiments"}
    # `from experiments.studies.rungs import Rung` names the module and what is in it.
    modules = {
        next((m for m in LEVEL_OF if f"{name}.".startswith(f"{m}.")), name) for name in names
    }
    rooms = {f"experiments.{room}" for room in LEVELS}
    assert modules - rooms <= set(LEVEL_OF), (file.name, modules)
    return modules & set(LEVEL_OF)


def test_experiments_hold_commands_at_the_top():
    assert {p.stem for p in EXPERIMENTS.glob("*") if p.name != "__pycache__"} == {
        "__init__", "shared", "studies", *COMMANDS
    }  # fmt: skip
    files = {file for room in ("shared", "studies") for file in (EXPERIMENTS / room).rglob("*.py")}
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files}
    assert {name for name in names if not name.endswith("__init__")} == set(LEVEL_OF)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_no_command_imports_another(command):
    assert experiment_modules(EXPERIMENTS / f"{command}.py")


@pytest.mark.parametrize("module", LEVEL_OF)
def test_a_module_of_experiments_imports_only_modules_of_lower_rank(module):
    others = experiment_modules(ROOT / f"{module.replace('.', '/')}.py")
    assert all(LEVEL_OF[other] < LEVEL_OF[module] for other in others), others


def test_no_file_is_longer_than_400_lines():
    for folder in (ROOT / "src", EXPERIMENTS):
        for file in folder.rglob("*.py"):
            length = len(file.read_text().splitlines())
            assert length <= 400, (file, length)


def test_every_room_is_in_the_design_page():
    page = (ROOT / "docs/design.md").read_text()
    for room, rank in RANKS.items():
        assert f"| {rank} | `{room}` |" in page
    rooms = re.findall(r"^\| `experiments\.([a-z.]+)` \|", page, flags=re.MULTILINE)
    assert rooms == [room if room != "shared" else "shared.command" for room in LEVELS]


def test_importing_the_package_pulls_in_nothing_heavy():
    heavy = (
        "tensorflow_datasets",
        "matplotlib",
        "tyro",
        "sklearn",
        "orbax.checkpoint",
        "PIL",
        "blackjax",
        "arviz_stats",
    )
    code = f"import sys, iwae_jax; print([m for m in {heavy} if m in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
