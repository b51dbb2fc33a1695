"""InfoVAE: an ELBO without bound, and what a penalty on the aggregate posterior q(z) does.

    python -m experiments.infovae

The toy of Zhao, Song and Ermon (2017): x is -1 or 1, z and x are one-dimensional, and p(x | z) is normal with
one trained scale, so that the ELBO can grow without bound. The ELBO and KL(q(z | x) || p(z | x)) are drawn as
training goes, for the ELBO alone and for an InfoVAE (alpha = 1: the MMD-VAE). Then a VAE and an InfoVAE of
images at equal passes: distortion, mutual information, and how far the aggregate posterior q(z) is from the
prior, by two measures. Their runs are those of experiments.mnist: finished ones are kept. Writes toy.csv,
toy.png, infovae.csv and infovae.json to OUT_DIR/infovae. Takes about 20 minutes on two cores.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_given, check_least, check_positive, check_seeds
from experiments.shared.flags.common import DataFlags
from experiments.shared.flags.config import Config, parse
from experiments.shared.runs.tables import Cells
from experiments.shared.system.errors import UsageError
from experiments.studies.aggregate import compare
from experiments.studies.infovae_toy import draw_toy
from iwae_jax import training


@dataclass(frozen=True)
class Arguments:
    """The toy and the runs."""

    alpha: float = 0.0
    """Weight of the mutual information of x and z, the paper's alpha: 1 for the MMD-VAE."""
    lam: float = 1000.0
    """Weight of the aggregate posterior's discrepancy, the paper's lambda."""
    toy_steps: int = 12000
    """Training steps of the toy."""
    toy_lam: float = 100.0
    """lambda of the toy, whose alpha is 1."""
    passes: int = 13
    """Passes over the data of both runs."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs; the toy has the first."""
    eval_k: int = 500
    """Importance samples of the test likelihood."""
    eval_images: int = 2000
    """Number of test images to evaluate."""
    data: DataFlags = field(default_factory=DataFlags)
    out_dir: str = "runs"
    """Write run folders to OUT_DIR/DATASET/NAME, and the results to OUT_DIR/infovae."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_positive(self, "lam", "toy_lam")
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"Expected --alpha in [0, 1], got {self.alpha:g}.")
        if not self.alpha + self.lam > 1:
            raise UsageError(
                f"Expected --lam to be over 1 - alpha, {1 - self.alpha:g}, got {self.lam:g}: the penalty has "
                "the weight alpha + lambda - 1."
            )
        check_least(self, toy_steps=10, passes=1, eval_k=25, eval_images=20)
        check_given(self, "seed")
        check_seeds(*self.seed)

    def runs(self) -> Cells:
        """The VAE's and the InfoVAE's runs, by (dataset, name, layers, k)."""
        cells = {}
        weight, penalty = training.infovae(self.alpha, self.lam)
        climbs = {"vae": {}, "infovae": {"kl_weight": weight, "mmd": penalty.weight}}
        for name, climb in climbs.items():
            swept = Config.of(
                k=1,
                seed=self.seed,
                passes=self.passes,
                preset="table",
                precision="float32",
                eval_k=self.eval_k,
                eval_images=self.eval_images,
                out_dir=self.out_dir,
                **climb,
                **vars(self.data),
            )
            swept.check()
            cells[self.data.dataset, name, 1, 1] = tuple(swept.runs())
        return Cells(cells, Path(self.out_dir))


def main() -> int:
    """Train and compare; return the exit status."""
    started = time.time()
    a = parse(Arguments, "python -m experiments.infovae", __doc__ or "")
    a.check()
    cells, out = a.runs(), Path(a.out_dir) / "infovae"
    draw_toy(out, a.toy_steps, a.toy_lam, a.seed[0])
    return compare(cells, out, f"alpha={a.alpha:g}, lambda={a.lam:g}", started)


if __name__ == "__main__":
    leave(main, resumes=True)
