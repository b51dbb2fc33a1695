"""Latent variable models from the start: exact likelihood, prior sampling, importance sampling.

    python -m experiments.lvm

Four small studies, in about three minutes on two cores:

mixture: three Gaussians with a uniform prior are trained on their exact likelihood, on samples of z from the
prior, and on importance samples from q(z | x); the density is drawn as training goes.
clusters: the share of prior samples that are of use falls as 1/K with the number K of clusters.
proposals: the variance of an importance sampling estimate of p(x), for a bad, a good and the optimal q.
bernoulli: a model of the 8x8 digits with n binary latents, trained on its exact likelihood and on VIMCO's
bound; the cost of the exact one grows as 2^n.

Writes lvm.json, mixture.csv, clusters.csv, proposals.csv, bernoulli.csv and a picture of each.
"""

from dataclasses import dataclass

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_given, check_least, check_seeds
from experiments.shared.flags.config import parse
from experiments.shared.system.errors import UsageError
from experiments.studies.latent_variable_study import study


@dataclass(frozen=True)
class Arguments:
    """The sizes of the studies."""

    steps: int = 600
    """Training steps of each model."""
    k: int = 5
    """Samples of z in each training step that samples."""
    clusters: tuple[int, ...] = (2, 5, 10, 20, 50, 100)
    """Numbers of clusters."""
    bernoulli: tuple[int, ...] = (1, 2, 4, 6, 8)
    """Numbers of binary latents."""
    seed: int = 0
    """Seed of all randomness."""
    out_dir: str = "runs/lvm"
    """Folder of the files."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, steps=10, k=2, clusters=2, bernoulli=1)
        check_given(self, "clusters", "bernoulli")
        check_seeds(self.seed)
        if max(self.bernoulli) > 14:
            raise UsageError(
                f"Expected --bernoulli to be at most 14, whose sum has 16,384 terms, got {max(self.bernoulli)}."
            )
        if max(self.clusters) > 1000:
            raise UsageError(f"Expected --clusters to be at most 1000, got {max(self.clusters)}.")


def main() -> int:
    """Study; return the exit status."""
    a = parse(Arguments, "python -m experiments.lvm", __doc__ or "")
    a.check()
    study(a.out_dir, a.steps, a.k, a.clusters, a.bernoulli, a.seed)
    return 0


if __name__ == "__main__":
    leave(main)
