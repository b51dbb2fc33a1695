"""How far q falls short: the approximation gap and the amortisation gap of finished runs.

    python -m experiments.gaps runs/mnist/iwae-L1-k50-seed0 runs/mnist/vae-L1-k1-seed0

For the first test images: log p(x) by annealed importance sampling; the ELBO of the best q of the family,
refined for each image by itself; and the ELBO of the run's own q. log p(x) minus the second is the
approximation gap, the second minus the third the amortisation gap (Cremer, Li and Duvenaud, 2018). Of several
layers, and of a family with networks of its own, the refined q is not quite the best; --weights brings it
nearer. Then q is refined for the k-sample bound, which tightens the estimate of log p(x): L_k and the share of
images with a high Pareto's k, before and after. Where this L_k is above the annealed estimate on average, the
gaps are from it: both are lower bounds. Writes gaps.csv, gaps.json and gaps.png. Fifty images of a run
take about five minutes on two cores. Needs the extra iwae_jax[annealing].
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_folder, check_given, check_least, check_seeds
from experiments.shared.flags.common import SWITCH, group, optional
from experiments.shared.flags.config import parse
from experiments.shared.system.errors import UsageError
from experiments.studies.inference_gaps import measure


@dataclass(frozen=True)
class Runs:
    """The finished runs."""

    run_dirs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="RUN_DIR ..", help_behavior_hint=""),
    ]
    """Folders of the runs."""
    data_dir: Annotated[str | None, optional("FOLDER", "that of each run")] = None
    """Folder of local data files."""

    def check(self) -> None:
        """Raise a `UsageError` if a folder holds no run."""
        check_given(self, "run_dirs")
        for folder in self.run_dirs:
            if not (folder / "config.json").is_file():
                raise UsageError(
                    f"Expected a run's folder, which holds config.json, got {str(folder)!r}."
                )
        check_folder("data_dir", self.data_dir)


@dataclass(frozen=True)
class Arguments:
    """The images, the refinement and the annealing."""

    runs: Annotated[Runs, group("finished runs")]
    images: int = 50
    """Number of test images, from the first."""
    eval_k: int = 5000
    """Importance samples of each estimate."""
    refine_k: int = 20
    """Samples of the bound that q is refined for, before the estimate of log p(x)."""
    refine_steps: int = 500
    """Steps of a refinement."""
    chains: int = 16
    """Chains of the annealing for each image."""
    steps: int = 500
    """Temperatures of the annealing."""
    seed: int = 0
    """Seed of all samples."""
    out_dir: str = "runs/gaps"
    """Folder of the files."""
    weights: Annotated[bool, SWITCH] = False
    """Refine all weights of q, not its biases alone: more of a flow's family, and slower."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        least = {"images": 2, "eval_k": 25, "refine_k": 1, "refine_steps": 1}
        check_least(self, **least, chains=2, steps=1)
        check_seeds(self.seed)
        self.runs.check()


def main() -> int:
    """Measure the gaps; return the exit status."""
    a = parse(Arguments, "python -m experiments.gaps", __doc__ or "")
    a.check()
    measure(
        a.runs.run_dirs,
        a.runs.data_dir,
        images=a.images,
        k=a.eval_k,
        refinement={"k": a.refine_k, "steps": a.refine_steps, "weights": a.weights},
        path={"chains": a.chains, "steps": a.steps},
        seed=a.seed,
        out_dir=a.out_dir,
    )
    return 0


if __name__ == "__main__":
    leave(main)
