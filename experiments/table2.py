"""Table 2 of Burda et al. (2016): train with one objective, then go on with the other.

    python -m experiments.table2                       # 13 passes, then 9: a reduced protocol
    python -m experiments.table2 --preset=paper        # 3,280 passes, then 2,187

MNIST, one stochastic layer: VAE (k = 1) then IWAE (k = 50), and IWAE then VAE. The second part starts from
the parameters and the Adam state of the first, and takes the passes of its last stage again, at that
stage's rate. If the difference between the objectives were one of optimisation, a switch would not undo it.
Runs are those of experiments.mnist (the second with --after): finished ones are kept, others go on.
Writes table2.md and table2.csv to OUT_DIR/table2.
"""

import time
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from experiments.command import as_typed, leave
from experiments.config import Config, Count, UsageError, parse


@dataclass(frozen=True)
class Table2:
    """Switch the objective after training."""

    dataset: Literal["mnist", "omniglot", "binarized_mnist", "digits"] = "mnist"
    """Data set (the paper's is mnist)."""
    k: int = 50
    """Importance samples of the IWAE."""
    seed: int = 0
    """Seed of all randomness."""
    preset: Literal["quick", "paper"] = "quick"
    """quick: 13 passes, or as --passes says, then a last stage; paper: 3,280, then 2,187."""
    passes: Count = None
    """Passes of the first part."""
    loss: Literal["mean", "sum"] = "mean"
    """Loss of a batch; see experiments.mnist --help."""
    eval_k: int = 5000
    """Importance samples of the test likelihood."""
    eval_images: Count = None
    """Evaluate on the first so many test images (default: all)."""
    data_source: Literal["auto", "files", "tfds", "embedded"] = "auto"
    """Where the data come from; see experiments.mnist --help."""
    data_dir: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of local data files (default: the environment variable IWAE_JAX_DATA)."""
    out_dir: str = "runs"
    """Run folders go to OUT_DIR/DATASET/NAME, the table to OUT_DIR/table2."""

    def first_parts(self) -> tuple[Config, Config]:
        """The runs that are switched: VAE, and IWAE."""
        base = Config(
            dataset=self.dataset,
            seed=(self.seed,),
            preset=self.preset,
            passes=self.passes,
            loss=self.loss,
            eval_k=self.eval_k,
            eval_images=self.eval_images,
            data_source=self.data_source,
            data_dir=self.data_dir,
            out_dir=self.out_dir,
        )
        vae = replace(base, objective=("vae",), k=(1,))
        return vae, replace(base, objective=("iwae",), k=(self.k,))


def main() -> int:
    """Parse the command line and make the table."""
    started = time.time()
    arguments = parse(Table2, "python -m experiments.table2", __doc__ or "", Table2())
    if arguments.eval_images is not None and arguments.eval_images < 2:
        raise UsageError(
            f"Expected --eval-images to be at least 2, got {arguments.eval_images}: a table has errors."
        )
    vae, iwae = arguments.first_parts()
    for run in (vae, iwae):
        run.check()
    from experiments.switch import make_table  # imports jax, which --help does not need

    command = as_typed("python -m experiments.table2")
    return make_table(vae, iwae, command, started)


if __name__ == "__main__":
    leave(main)
