"""Estimate log p(x) of a finished run's test images by annealed importance sampling.

    python -m experiments.annealing runs/mnist/iwae-L1-k50-seed0 --images=100 --steps=1000

Annealed importance sampling usually gives a tighter bound than the run's importance sampling. The
chains move by Hamiltonian Monte Carlo and start from q(z | x) or from the prior. On data drawn from
the model, the gap between a lower and an upper bound of log p(x) bounds the error of the estimate.

Writes annealing-posterior-1000x16-first100-seed0.json and .png into the run folder; the name has the start,
steps, chains, images and seed. The table has both estimates on the same images. Needs the extra
iwae_jax[annealing]. A hundred images take about ten minutes on two cores.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_least, check_seeds
from experiments.shared.flags.common import DeviceFlags, FinishedRun, group
from experiments.shared.flags.config import parse
from experiments.shared.system.processes import ambient, start
from experiments.studies.annealing_run import anneal


@dataclass(frozen=True)
class Arguments:
    """The chains, and their images."""

    run: Annotated[FinishedRun, group("finished run")]
    images: int = 100
    """Number of test images, from the first."""
    simulated: int = 50
    """Number of data to draw from the model, for the gap between the bounds."""
    chains: int = 16
    """Chains for each image."""
    steps: int = 1000
    """Temperatures between the start and the posterior."""
    leapfrog: int = 10
    """Leapfrog steps at each temperature."""
    start: Literal["posterior", "prior"] = "posterior"
    """Start of the path: q(z | x), or the prior p(z), which does not depend on q."""
    seed: int = 0
    """Seed of the chains."""

    devices: Annotated[DeviceFlags, group("devices")] = field(default_factory=DeviceFlags)

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, images=2, simulated=2, chains=2, steps=1, leapfrog=1)
        check_seeds(self.seed)
        self.run.check()
        self.devices.check()


def main() -> int:
    """Anneal; return the exit status."""
    a = parse(Arguments, "python -m experiments.annealing", __doc__ or "")
    a.check()
    path = {"chains": a.chains, "steps": a.steps, "leapfrog": a.leapfrog, "start": a.start}
    start(a.devices.distributed)
    with ambient(a.devices.mesh):
        anneal(
            a.run.run_dir,
            a.run.data_dir,
            images=a.images,
            simulated=a.simulated,
            seed=a.seed,
            path=path,
        )
    return 0


if __name__ == "__main__":
    leave(main)
