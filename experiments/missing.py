"""Fill in missing values with a model that is trained on incomplete data (MIWAE).

    python -m experiments.missing --data cancer --share=0.5

Hides a share of the values of one of scikit-learn's data sets, at random, and trains a model on what is
left: its bound is that of the values that are seen. The hidden values are then imputed by importance
sampling. The table has the mean square error beside the column mean, k nearest neighbours and
scikit-learn's iterative imputation, paired by seed, and the share of hidden values of 100 rows inside the 90%
interval of multiple imputation. Trainings are kept in OUT_DIR/training: rerun the command to go on from the
last checkpoint. Writes missing.csv, missing.json and missing.png. Takes about two minutes a seed on two cores.
Mattei and Frellsen (2019), table 2, has the same comparison for MIWAE on six tables.
"""

from dataclasses import dataclass
from typing import Literal

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_given, check_least, check_seeds, in_flags
from experiments.shared.flags.config import parse
from experiments.shared.system.errors import UsageError
from experiments.studies.imputation_errors import compare
from iwae_jax import ModelConfig


@dataclass(frozen=True)
class Arguments:
    """The data, the model and its training."""

    data: Literal["cancer", "wine", "digits"] = "cancer"
    """Data set of scikit-learn: 569 x 30, 178 x 13, or 1,797 x 64."""
    share: float = 0.5
    """Share of the values to hide."""
    k: int = 20
    """Importance samples of the training bound."""
    latents: int = 10
    """Size of z."""
    width: int = 128
    """Width of the two hidden layers of each network."""
    posterior: str = "normal"
    """Family of q(z given x); see experiments.mnist."""
    passes: int = 200
    """Passes over the data."""
    impute_k: int = 1000
    """Importance samples of an imputation."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds of what is hidden and of training."""
    out_dir: str = "runs/missing"
    """Folder of the files."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, k=1, latents=1, width=1, passes=2, impute_k=1)
        try:
            ModelConfig(posterior=self.posterior)
        except ValueError as error:
            raise UsageError(in_flags(str(error), ["posterior"])) from error
        check_given(self, "seed")
        check_seeds(*self.seed)
        if not 0 < self.share < 1:
            raise UsageError(f"Expected --share in (0, 1), got {self.share}.")


def main() -> int:
    """Train, impute and write; return the exit status."""
    a = parse(Arguments, "python -m experiments.missing", __doc__ or "")
    a.check()
    compare(
        a.data,
        a.share,
        seeds=a.seed,
        k=a.k,
        sizes=(a.latents, a.width),
        posterior=a.posterior,
        passes=a.passes,
        impute_k=a.impute_k,
        out_dir=a.out_dir,
    )
    return 0


if __name__ == "__main__":
    leave(main, resumes=True)
