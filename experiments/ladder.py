"""From an autoencoder to a VAE to an IWAE, one change at a time.

    python -m experiments.ladder

Three rungs on MNIST with 10 latents and small networks: reconstruction alone (an autoencoder, whose q has no
reason to stay wide), with the KL term (a VAE), and with the k-sample bound (an IWAE). The mean over k samples
is the only change of the last rung, so that its help alone is seen: in the training loss and in the test NLL,
beside a lecture's 165 to 140 and 145 to 129 from k = 1 to 10. Each rung is a run of experiments.mnist, in its
folder: finished ones are kept. Writes ladder.csv, ladder.json and ladder.png, samples of each rung, to
OUT_DIR/ladder. Takes five to eight minutes on two cores.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_least, check_seeds
from experiments.shared.flags.common import DataFlags
from experiments.shared.flags.config import Config, parse
from experiments.studies.rungs import Rung, climb


@dataclass(frozen=True)
class Ladder:
    """The rungs."""

    k: int = 10
    """Importance samples of the last rung."""
    latents: int = 10
    """Size of z."""
    width: int = 100
    """Width of the hidden layer of each network."""
    passes: int = 20
    """Passes over the data of each rung."""
    seed: int = 0
    """Seed of each rung."""
    eval_k: int = 5000
    """Importance samples of the test likelihood."""
    eval_images: int = 1000
    """Number of test images to evaluate."""
    data: DataFlags = field(default_factory=DataFlags)
    out_dir: str = "runs"
    """Write run folders to OUT_DIR/DATASET/NAME, and the table to OUT_DIR/ladder."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, k=2, latents=1, width=1, passes=1, eval_k=25, eval_images=2)
        check_seeds(self.seed)

    def rungs(self) -> list[Rung]:
        """The rungs from below: the name, the change, and the run of each."""
        base = Config.of(
            preset="table",
            precision="float32",
            gradient="reparam",  # of every rung, so that only what is named changes
            resampled=0,
            latent_sizes=(self.latents,),
            hidden_sizes=((self.width,),),
            passes=self.passes,
            seed=self.seed,
            eval_k=self.eval_k,
            eval_images=self.eval_images,
            out_dir=self.out_dir,
            **vars(self.data),
        )
        rungs = [
            Rung("autoencoder", "reconstruction alone", base.replace(k=1, kl_weight=0.0)),
            Rung("VAE", "and the KL term", base.replace(k=1)),
            Rung("IWAE", f"and the mean of {self.k} weights", base.replace(k=self.k)),
        ]
        for rung in rungs:
            rung.run.check()
        return rungs


def main() -> int:
    """Climb; return the exit status."""
    started = time.time()
    arguments = parse(Ladder, "python -m experiments.ladder", __doc__ or "")
    arguments.check()
    return climb(arguments.rungs(), Path(arguments.out_dir), started)


if __name__ == "__main__":
    leave(main, resumes=True)
