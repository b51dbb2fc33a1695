"""Flags that the commands of the paper's tables share."""

from dataclasses import dataclass
from typing import Annotated, Any

from experiments.shared.checks import check_least
from experiments.shared.config import Config, Precision
from experiments.shared.flags import Images, SourceFlags, choices, optional
from iwae_jax.training.recipes import LOSSES


@dataclass(frozen=True)
class TableFlags:
    """The training and the evaluation of each run."""

    passes: Annotated[int | None, optional("INT", "that of --preset")] = None
    """Passes over the data. In table2: passes of the first part."""
    loss: Annotated[str | None, choices(LOSSES, "that of --preset")] = None
    """Loss of a batch; see experiments.mnist --help."""
    precision: Precision = "float32"
    """Precision of the products in training; see experiments.mnist --help."""
    eval_k: int = 5000
    """Importance samples of the test likelihood."""
    eval_images: Images = None
    """Number of test images to evaluate, at least 2."""
    out_dir: str = "runs"
    """Write run folders to OUT_DIR/DATASET/NAME, and the table to OUT_DIR/table1 or OUT_DIR/table2."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value; a standard error needs two images."""
        check_least(self, eval_images=2)

    def config(self, dataset: str, source: SourceFlags, **values: Any) -> Config:
        """A config with these flags, a data set, and further values."""
        data = {"data_source": source.data_source, "data_dir": source.data_dir}
        return Config.of(dataset=dataset, **data, **vars(self), **values)
