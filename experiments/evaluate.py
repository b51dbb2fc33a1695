"""Evaluate a finished run again, with other importance samples or more test images.

    python -m experiments.evaluate runs/mnist/iwae-L1-k50-seed0 --k=5000

Writes evaluation-k5000.json, log p(x) and the diagnostics of each test image into the run folder.
The files of the run itself do not change. --seed draws other importance samples for the same
pixels: the NLLs of several seeds differ by their Monte Carlo errors. --refine-steps gives each image a q
of its own before its estimate: useful where Pareto's k is high. With 300 steps and k = 5,000 it takes about
five times as long.
"""

from dataclasses import dataclass, field
from typing import Annotated

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_least, check_seeds
from experiments.shared.flags.common import DeviceFlags, FinishedRun, Images, group, optional
from experiments.shared.flags.config import Precision, parse
from experiments.shared.runs.runner import evaluate_again
from experiments.shared.system.errors import UsageError
from experiments.shared.system.processes import ambient, start


@dataclass(frozen=True)
class Arguments:
    """The evaluation."""

    run: Annotated[FinishedRun, group("finished run")]
    k: int = 5000
    """Importance samples of the test likelihood."""
    images: Images = None
    """Number of test images to evaluate."""
    precision: Precision = "float32"
    """Precision of matrix products."""
    seed: Annotated[int | None, optional("INT", "the samples of the run's own evaluation")] = None
    """Seed of the importance samples."""
    refine_steps: int = 0
    """Steps that refine q for each image, such as 300. 0: the q of the run."""
    devices: Annotated[DeviceFlags, group("devices")] = field(default_factory=DeviceFlags)

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, k=1, images=1, refine_steps=0)
        check_seeds(self.seed)
        self.run.check()
        self.devices.check()
        if self.refine_steps and (self.devices.mesh or self.devices.distributed):
            raise UsageError("Expected --refine-steps without --mesh or --distributed.")


def main() -> int:
    """Evaluate; return the exit status."""
    a = parse(Arguments, "python -m experiments.evaluate", __doc__ or "")
    a.check()
    start(a.devices.distributed)
    with ambient(a.devices.mesh):
        evaluate_again(
            a.run.run_dir, a.k, a.images, a.seed, a.run.data_dir, a.precision, a.refine_steps
        )
    return 0


if __name__ == "__main__":
    leave(main)
