"""Flags of the training schedule and of the optimizer."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import optax

from experiments.shared.checks import check_fractions, check_least, check_positive, flag
from experiments.shared.errors import UsageError
from experiments.shared.flags import optional
from iwae_jax import training


@dataclass(frozen=True)
class ScheduleFlags:
    """The schedule and the optimizer."""

    preset: Literal["quick", "paper"] = "quick"
    """quick: minutes on two cores. paper: the protocol of the paper, 3,280 passes over real data."""
    stages: Annotated[int | None, optional("INT", "3 with 28x28 images, 5 with 8x8")] = None
    """Stages of the schedule. Stage i takes 3^i passes."""
    passes: Annotated[int | None, optional("INT", "as many as --stages take")] = None
    """Passes over the data, instead of --stages. They follow the same schedule."""
    batch_size: int = 20
    """Images in a step."""
    total_stages: int = 8
    """Stages over which the learning rate falls."""
    stage_base: int = 3
    """Stage i takes this number to the power of i passes."""
    first_rate: float = 1e-3
    """Learning rate of the first stage."""
    last_rate: float = 1e-4
    """Learning rate of the last of --total-stages."""
    adam_beta1: float = 0.9
    """Decay of Adam's mean gradient (0.9 in the paper, 0.99 in its code)."""
    adam_beta2: float = 0.999
    """Decay of Adam's mean square gradient."""
    adam_eps: float = 1e-4
    """Adam's epsilon."""
    loss: Literal["mean", "sum"] = "mean"
    """Loss of a batch. The paper's code uses sum, which divides Adam's epsilon by the batch size."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, batch_size=1, total_stages=1, stage_base=1, stages=1, passes=1)
        # The power itself may have billions of digits.
        if self.total_stages * math.log(self.stage_base) > math.log(1e6) + 1e-9:
            raise UsageError(
                "Expected --stage-base to the power of --total-stages to be at most a million, got "
                f"{self.stage_base} and {self.total_stages}."
            )
        if self.total_stages > 1000:
            raise UsageError(
                f"Expected --total-stages to be at most 1000, got {self.total_stages}."
            )
        check_positive(self, "first_rate", "last_rate", "adam_eps")
        check_fractions(self, "adam_beta1", "adam_beta2")
        if self.stages is not None and self.passes is not None:
            raise UsageError("Expected --stages or --passes, got both.")
        if self.stages is not None and self.stages > self.total_stages:
            raise UsageError(
                f"Expected --stages to be at most --total-stages, {self.total_stages}, got "
                f"{self.stages}."
            )
        if self.preset == "paper":
            for name in ("stages", "passes", "total_stages", "stage_base"):
                if getattr(self, name) != getattr(ScheduleFlags, name):
                    raise UsageError(f"Expected --preset=paper without {flag(name)}, got both.")

    def total_passes(self, pixels: int) -> int:
        """Passes over the data, for images of so many pixels."""
        if self.passes is not None:
            return self.passes
        stages = self.stages
        if self.preset == "paper":
            stages = self.total_stages
        elif stages is None:
            stages = 3 if pixels == 784 else 5
        return training.stage_passes(stages, base=self.stage_base)

    def last_stage(self, pixels: int) -> tuple[int, float]:
        """The passes of the whole stage in which training ends, and its learning rate."""
        stage = 0
        while training.stage_passes(stage + 1, base=self.stage_base) < self.total_passes(pixels):
            stage += 1
        return self.stage_base**stage, self._rates[min(stage, self.total_stages - 1)]

    def learning_rate(self, steps_per_pass: int) -> optax.Schedule:
        """The learning rate at a step."""
        return training.stage_schedule(steps_per_pass, self._rates, base=self.stage_base)

    def optimizer(self, steps_per_pass: int) -> optax.GradientTransformation:
        """Adam, as the paper's code runs it.

        The library's loss is the mean over a batch. Adam's step does not depend on the scale of the
        gradient, except through epsilon: with the sum, epsilon is in effect divided by the batch size.
        """
        eps = self.adam_eps / self.batch_size if self.loss == "sum" else self.adam_eps
        schedule = self.learning_rate(steps_per_pass)
        return optax.adam(schedule, b1=self.adam_beta1, b2=self.adam_beta2, eps=eps)

    @property
    def _rates(self) -> tuple[float, ...]:
        return training.stage_rates(
            self.total_stages, first=self.first_rate, last=self.last_rate, total=self.total_stages
        )
