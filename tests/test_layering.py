"""The rooms of docs/design.md, and who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RANKS = {
    "typing": 0,
    "distributions": 1,
    "networks": 1,
    "logspace": 1,
    "protocol": 1,
    "data_files": 1,
    "noise": 2,
    "objectives": 2,
    "posteriors": 2,
    "data_tfds": 2,
    "models": 3,
    "data": 3,
    "coefficients": 3,
    "importance": 4,
    "flows": 5,
    "evaluation": 5,
    "annealing": 5,
    "latents": 5,
    "gradients": 6,
    "training": 7,
    "checkpoints": 7,
}


def imported(file: Path) -> set[str]:
    """Every module that a file imports, at any depth: iwae_jax.data for `from iwae_jax import data`."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_every_room_has_a_rank():
    rooms = {file.stem for file in (ROOT / "src/iwae_jax").glob("*.py")} - {"__init__"}
    assert rooms == set(RANKS)


@pytest.mark.parametrize("room", RANKS)
def test_a_room_imports_only_rooms_of_lower_rank(room):
    names = imported(ROOT / f"src/iwae_jax/{room}.py")
    assert not any(name.split(".")[0] == "experiments" for name in names)
    rooms = {name.split(".")[1] for name in names if name.startswith("iwae_jax.")} & set(RANKS)
    assert all(RANKS[other] < RANKS[room] for other in rooms), (room, rooms)


def test_experiments_import_only_the_public_package():
    public = {
        *("annealing", "checkpoints", "data", "evaluation", "gradients"),
        *("latents", "objectives", "training"),
    }
    for file in (ROOT / "experiments").glob("*.py"):
        rooms = {n.split(".")[1] for n in imported(file) if n.startswith("iwae_jax.")}
        assert rooms & set(RANKS) <= public, (file.name, rooms)


def test_every_room_is_in_the_design_page():
    page = (ROOT / "docs/design.md").read_text()
    for room, rank in RANKS.items():
        assert f"| {rank} | `{room}` |" in page


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
