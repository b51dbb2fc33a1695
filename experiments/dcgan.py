"""DCGAN: train a decoder adversarially, and compare it with an IWAE that has the same decoder.

    python -m experiments.dcgan

Both have strided convolutions without pooling or fully connected hidden layers: the generator with batch
normalisation and ReLU, the discriminator with LeakyReLU, the IWAE with group normalisation. Then:

- the annealed log-likelihood of test images under both, with the same normal observation noise (Wu et al. 2017)
- a linear classifier on the features of the discriminator and of the IWAE's encoder
- walks and arithmetic (three exemplars averaged) in latent space, samples, and the first kernels
- loops of digits removed by dropping the feature maps that a classifier finds there, beside random maps

The IWAE is a run of experiments.mnist, in its folder. Rerun the command to resume both. Writes dcgan.json,
adversarial.csv, samples.png, walks.png, arithmetic.png, dropping.png, dropping-curves.png, filters.png and
losses.png to a folder of OUT_DIR/dcgan. Needs the extra iwae_jax[annealing]. Takes about 15 minutes on two
cores.
"""

from dataclasses import dataclass, field
from pathlib import Path

from experiments.shared.command import leave
from experiments.shared.flags.checks import check_least, check_positive, check_seeds
from experiments.shared.flags.common import DataFlags
from experiments.shared.flags.config import Config, parse
from experiments.studies.adversarial_study import Sizes, compare


@dataclass(frozen=True)
class Arguments:
    """Both models and what is measured."""

    passes: int = 5
    """Passes over the data, adversarial."""
    iwae_passes: int = 5
    """Passes over the data of the IWAE."""
    k: int = 5
    """Importance samples of the IWAE."""
    latents: int = 50
    """Size of z."""
    channels: tuple[int, ...] = (16, 32)
    """Channels of the hidden layers, from the image on."""
    scale: float = 0.1
    """Standard deviation of the normal observation noise, for images in [0, 1]."""
    images: int = 20
    """Number of test images, from the first, whose likelihood is annealed."""
    simulated: int = 10
    """Number of data to draw from each model, for the gap between the bounds."""
    chains: int = 8
    """Chains for each image. They start from the prior."""
    steps: int = 300
    """Temperatures between the prior and the posterior."""
    leapfrog: int = 10
    """Leapfrog steps at each temperature."""
    probe_images: int = 5000
    """Largest number of training images for the linear classifier."""
    seed: int = 0
    """Seed of all randomness."""
    data: DataFlags = field(default_factory=DataFlags)
    out_dir: str = "runs"
    """Write run folders to OUT_DIR/DATASET/NAME, and the results to a folder in OUT_DIR/dcgan."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, passes=1, iwae_passes=1, k=1, latents=1, channels=1)
        check_least(self, images=2, simulated=2, chains=2, steps=1, leapfrog=1, probe_images=20)
        check_positive(self, "scale")
        check_seeds(self.seed)

    def run(self) -> Config:
        """The IWAE's run."""
        run = Config.of(
            preset="table",
            algorithm="adam",
            k=self.k,
            passes=self.iwae_passes,
            latent_sizes=(self.latents,),
            hidden_sizes=(self.channels,),
            network="conv:norm=group",
            activation="relu",
            likelihood=f"normal:scale={self.scale},link=logit",
            binarization="none",
            seed=self.seed,
            eval_k=500,
            eval_images=200,
            out_dir=self.out_dir,
            **vars(self.data),
        )
        run.check()
        return run


def main() -> int:
    """Train and compare; return the exit status."""
    a = parse(Arguments, "python -m experiments.dcgan", __doc__ or "")
    a.check()
    path = {"chains": a.chains, "steps": a.steps, "leapfrog": a.leapfrog, "start": "prior"}
    sizes = Sizes(a.passes, a.images, a.simulated, a.probe_images, path)
    return compare(a.run(), Path(a.out_dir), sizes)


if __name__ == "__main__":
    leave(main, resumes=True)
