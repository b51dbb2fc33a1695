"""Flags of commands whose table has a run, or several, in each cell."""

from dataclasses import dataclass
from typing import Annotated, Any

from experiments.shared.flags.checks import check_least, check_positive
from experiments.shared.flags.common import DataFlags, Images, SourceFlags, choices, optional
from experiments.shared.flags.config import Config
from iwae_jax.models import PRECISIONS
from iwae_jax.training.recipes import LOSSES


@dataclass(frozen=True)
class TableFlags:
    """The training and the evaluation of each run of the paper's tables."""

    passes: Annotated[int | None, optional("INT", "that of --preset")] = None
    """Passes over the data. In table2: passes of the first part."""
    loss: Annotated[str | None, choices(LOSSES, "that of --preset")] = None
    """Loss of a batch; see experiments.mnist --help."""
    precision: Annotated[str | None, choices(PRECISIONS, "that of --preset")] = None
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


@dataclass(frozen=True)
class StudyFlags:
    """The training and the evaluation that the runs of a study have in common."""

    passes: int = 13
    """Passes over the data of every run."""
    first_rate: float = 2e-3
    """Highest learning rate of every run."""
    precision: Annotated[str | None, choices(PRECISIONS, "that of --preset=table")] = None
    """Precision of the products in training; see experiments.mnist --help."""
    eval_k: int = 500
    """Importance samples of the test likelihood."""
    eval_images: int = 2000
    """Number of test images to evaluate."""
    out_dir: str = "runs"
    """Write run folders to OUT_DIR/DATASET/NAME, and the table to OUT_DIR/posteriors or OUT_DIR/discrete."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, passes=1, eval_k=2, eval_images=2)
        check_positive(self, "first_rate")

    def config(self, data: DataFlags, **values: Any) -> Config:
        """A config with these flags, a cosine of Adam's rate, and further values."""
        fixed = {"preset": "table", "algorithm": "adam", "adam_eps": 1e-4}
        return Config.of(**{**fixed, **vars(self), **vars(data), **values})
