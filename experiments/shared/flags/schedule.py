"""Flags of the training recipe: the schedule and the optimizer."""

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from experiments.shared.flags.checks import (
    check_fractions,
    check_least,
    check_positive,
    flag,
    in_flags,
)
from experiments.shared.flags.common import choices, optional
from experiments.shared.system.errors import UsageError
from iwae_jax import training
from iwae_jax.models import PRECISIONS
from iwae_jax.training import Recipe, recipes

OfPreset = optional("INT")
RateOfPreset = optional("FLOAT")


@dataclass(frozen=True)
class ScheduleFlags:
    """The schedule and the optimizer. Flags that are not given are those of the preset."""

    preset: Literal["quick", "long", "table", "paper"] = "quick"
    """quick: minutes on two cores. long: an hour. table: for models that are compared. paper: 3,280 passes.
    The flags below are by default the preset's."""
    passes: Annotated[int | None, OfPreset] = None
    """Passes over the data."""
    stages: Annotated[int | None, optional("INT")] = None
    """Stages of the paper's, instead of --passes."""
    first_passes: Annotated[int | None, optional("INT")] = None
    """The first of the passes, which take --first-k samples."""
    first_k: Annotated[int | None, OfPreset] = None
    """Samples of the first passes, if --k is larger."""
    batch_size: Annotated[int | None, OfPreset] = None
    """Images in a step."""
    rate_decay: Annotated[str | None, choices(recipes.DECAYS, "")] = None
    """stages: the paper's. cosine: half a cosine after a warm-up."""
    first_rate: Annotated[float | None, RateOfPreset] = None
    """Learning rate of the first stage, or after the warm-up: the highest, unless --last-rate is higher."""
    last_rate: Annotated[float | None, RateOfPreset] = None
    """Lowest learning rate, at the end or in the last of --total-stages."""
    warm_up: Annotated[float | None, RateOfPreset] = None
    """Passes in which the cosine rises from 0."""
    total_stages: Annotated[int | None, OfPreset] = None
    """Stages over which the learning rate falls."""
    stage_base: Annotated[int | None, OfPreset] = None
    """Stage i takes this number to the power of i passes."""
    adam_beta1: Annotated[float | None, RateOfPreset] = None
    """Decay of Adam's mean gradient (0.9 in the paper, 0.99 in its code)."""
    adam_beta2: Annotated[float | None, RateOfPreset] = None
    """Decay of Adam's mean square gradient."""
    adam_eps: Annotated[float | None, RateOfPreset] = None
    """Adam's epsilon."""
    algorithm: Annotated[str | None, choices(recipes.ALGORITHMS, "")] = None
    """soap: Adam in the basis of Shampoo's preconditioner."""
    loss: Annotated[str | None, choices(recipes.LOSSES, "")] = None
    """Loss of a batch. The paper's code uses sum, which divides Adam's epsilon by the batch size."""
    precision: Annotated[str | None, choices(PRECISIONS, "")] = None
    """Precision of matrix products in training; of presets, bfloat16 for 10,000 or more binary data."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, batch_size=1, total_stages=1, stage_base=1, stages=1, passes=1, first_k=1)
        check_least(self, first_passes=0)
        known_names = {
            "rate_decay": recipes.DECAYS, "loss": recipes.LOSSES, "algorithm": recipes.ALGORITHMS,
            "precision": tuple(PRECISIONS),
        }  # fmt: skip
        for name, known in known_names.items():
            if getattr(self, name) not in (None, *known):
                raise UsageError(
                    f"Expected {flag(name)} in {{{', '.join(known)}}}, got {getattr(self, name)!r}."
                )
        given = self.given()
        check_positive(self, *({"first_rate", "last_rate", "adam_eps"} & given.keys()))
        check_fractions(self, *({"adam_beta1", "adam_beta2"} & given.keys()))
        if self.stages is not None and self.passes is not None:
            raise UsageError("Expected --stages or --passes, got both.")
        staged = self._decay == "stages"
        for name in ("stages", "total_stages", "stage_base") if not staged else ("warm_up",):
            if name in given:
                raise UsageError(
                    f"Expected {flag(name)} with --rate-decay={'cosine' if staged else 'stages'}, got "
                    f"{self._decay}{'' if self.rate_decay else f' (of --preset={self.preset})'}."
                )
        stages, base = self._number("total_stages"), self._number("stage_base")
        # The power itself may have billions of digits.
        if stages * math.log(base) > math.log(1e6) + 1e-9:
            raise UsageError(
                "Expected --stage-base to the power of --total-stages to be at most a million, got "
                f"{base} and {stages}."
            )
        if stages > 1000:
            raise UsageError(f"Expected --total-stages to be at most 1000, got {stages}.")
        if self.stages is not None and self.stages > stages:
            raise UsageError(
                f"Expected --stages to be at most --total-stages, {stages}, got {self.stages}."
            )
        if self.warm_up is not None and not 0 <= self.warm_up < math.inf:
            raise UsageError(f"Expected --warm-up to be at least 0, got {self.warm_up}.")

    def given(self) -> dict[str, Any]:
        """The flags that were given, other than --preset."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {n: v for n, v in values.items() if v is not None and n != "preset"}

    def recipe(self, images: int, layers: int) -> Recipe:
        """The recipe, without the gradient estimator's flags."""
        preset = recipes.preset(self.preset, images=images, layers=layers)
        values = self.given()
        if self._decay == "stages":
            values.setdefault("warm_up", 0.0)
        if "stages" in values:
            values["passes"] = training.stage_passes(
                values.pop("stages"), base=self._number("stage_base")
            )
        elif {"total_stages", "stage_base"} & values.keys() and "passes" not in values:
            values["passes"] = training.stage_passes(
                self._number("total_stages"), base=self._number("stage_base")
            )
        passes = values.get("passes", preset.passes)
        share = preset.first_passes / preset.passes
        # However few the passes, the last one takes --k.
        values.setdefault("first_passes", min(round(share * passes), passes - 1))
        values.setdefault("warm_up", min(preset.warm_up, passes / 2))
        try:
            return Recipe(
                **{each.name: getattr(preset, each.name) for each in fields(Recipe)} | values
            )
        except ValueError as error:
            raise UsageError(
                in_flags(str(error), [each.name for each in fields(Recipe)])
            ) from error

    @property
    def _decay(self) -> str:
        return self.rate_decay or recipes.preset(self.preset).rate_decay

    def _number(self, name: str) -> int:
        value = getattr(self, name)
        return getattr(recipes.preset(self.preset), name) if value is None else value
