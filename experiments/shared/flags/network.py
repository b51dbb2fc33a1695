"""Flags of the model: layers, sizes and distributions."""

import re
from dataclasses import dataclass
from typing import Annotated

import tyro

from experiments.shared.flags.checks import check_given, check_least, flag
from experiments.shared.flags.common import SWITCH, choices, optional
from experiments.shared.flags.parsing import read_widths, spec, write_widths
from experiments.shared.system.errors import UsageError
from iwae_jax import ModelConfig, models

Widths = tuple[tuple[int, ...], ...]
MOST_UNITS = 100_000  # of a layer: a layer of more takes all memory before it fails
PARTS = ("latents", "likelihood", "prior", "posterior", "network", "activation")


CHANNELS = (32, 64)
"""Of the hidden layers next to x, in a convolutional network."""


def default_sizes(layers: int, network: str = "mlp") -> tuple[tuple[int, ...], Widths]:
    """Latent and hidden sizes of a network whose sizes are not given.

    One and two layers have the sizes of the paper. Above two, each layer has half the sizes of the
    layer below, and at least 2 latents and 10 hidden units. In a convolutional network the hidden sizes next
    to x are channels.
    """
    latent, hidden = _sizes(layers)
    if _convolutional(network):
        return latent, (CHANNELS, *hidden[1:])
    return latent, hidden


def _convolutional(network: str) -> bool:
    return network.partition(":")[0] == "conv"


def _sizes(layers: int) -> tuple[tuple[int, ...], Widths]:
    if layers == 1:
        return ModelConfig().latent_sizes, ModelConfig().hidden_sizes
    latent, hidden = [100], [200]
    for _ in range(layers - 1):
        latent.append(max(2, latent[-1] // 2))
        hidden.append(max(10, hidden[-1] // 2))
    return tuple(latent), tuple((width, width) for width in hidden)


@dataclass(frozen=True)
class NetworkFlags:
    """The model."""

    layers: Annotated[
        tuple[int, ...],
        tyro.conf.arg(help_behavior_hint="(default: 1, or as many as sizes are given)"),
    ] = ()
    """Stochastic layers (sweep). 1 and 2: the paper's networks. Above 2, sizes halve from layer to layer."""
    latent_sizes: Annotated[tuple[int, ...], optional("INT ..", "see --layers")] = ()
    """Latents of each stochastic layer, from the layer next to x upwards: 100 50 25."""
    hidden_sizes: Annotated[
        Widths,
        spec("*", "INT,INT ..", read_widths, write_widths),
        optional("INT,INT ..", "see --layers"),
    ] = ()
    """Widths of the hidden layers, one comma-separated word for each stochastic layer: 200,200 100,100."""
    latents: Annotated[tuple[str, ...], choices(models.LATENTS)] = ("normal",)
    """Kind of latents, of all layers or of each."""
    likelihood: Annotated[tuple[str, ...], choices(models.LIKELIHOODS)] = ("bernoulli",)
    """Distribution of x given z (sweep). With options: normal:scale=0.5."""
    prior: Annotated[tuple[str, ...], choices(models.PRIORS)] = ("standard",)
    """Distribution of z (sweep). With options: vamp:inputs=500."""
    posterior: Annotated[tuple[str, ...], choices(models.POSTERIORS)] = ("normal",)
    """Distribution of real z given x (sweep). With options: student_t:df=3."""
    network: Annotated[tuple[str, ...], choices(models.NETWORKS)] = ("mlp",)
    """Network of each distribution (sweep). With options: conv:norm=group."""
    activation: Annotated[str, choices(models.ACTIVATIONS)] = "tanh"
    """Activation of the hidden layers."""
    missing: Annotated[bool, SWITCH] = False
    """NaN in the data is a missing value."""

    def check(self) -> None:
        """Raise a `UsageError` for the first invalid value."""
        check_least(self, layers=1, latent_sizes=1)
        check_given(self, "likelihood", "prior", "posterior", "network")
        for network in filter(_convolutional, self.network):
            if "rows=" in network or "channels=" in network:
                raise UsageError(
                    "Expected --network=conv without rows and channels, which the data give, got "
                    f"{network!r}."
                )
            if "norm=batch" in network:
                raise UsageError(
                    "Expected --network=conv with norm none or group, got batch: only adversarial "
                    "training, experiments.dcgan, moves the statistics of a batch."
                )
        if min((width for layer in self.hidden_sizes for width in layer), default=1) < 1:
            raise UsageError(f"Expected --hidden-sizes to be at least 1, got {self.hidden_sizes}.")
        for name, sizes in (
            ("latent_sizes", self.latent_sizes),
            ("hidden_sizes", sum(self.hidden_sizes, ())),
        ):
            if max(sizes, default=0) > MOST_UNITS:
                raise UsageError(
                    f"Expected {flag(name)} to be at most {MOST_UNITS:,}, got {max(sizes)}."
                )
        for layers in self.numbers_of_layers:
            if layers > 100:
                raise UsageError(f"Expected --layers to be at most 100, got {layers}.")
            for name in ("latent_sizes", "hidden_sizes"):
                sizes = getattr(self, name)
                if sizes and len(sizes) != layers:
                    raise UsageError(
                        f"Expected {flag(name)} to have one entry for each of "
                        f"{layers} layers, got {len(sizes)}."
                    )

    @property
    def numbers_of_layers(self) -> tuple[int, ...]:
        """The numbers of stochastic layers of the sweep."""
        return self.layers or (len(self.latent_sizes) or len(self.hidden_sizes) or 1,)

    @property
    def depth(self) -> int:
        """The number of stochastic layers of a run."""
        return self.numbers_of_layers[0]

    def sizes(self) -> tuple[tuple[int, ...], Widths]:
        """Latent and hidden sizes of a run."""
        latent, hidden = default_sizes(self.depth, self.network[0])
        return self.latent_sizes or latent, self.hidden_sizes or hidden

    def other_sizes(self) -> dict[str, tuple]:
        """The sizes that are not the default for this number of layers; () for the default."""
        return {
            name: () if size == default else size
            for name, size, default in zip(
                ("latent_sizes", "hidden_sizes"),
                self.sizes(),
                default_sizes(self.depth, self.network[0]),
                strict=True,
            )
        }

    @property
    def is_papers(self) -> bool:
        """Whether the network of a run is one of the paper's two."""
        paper = self.depth <= 2 and not any(self.other_sizes().values()) and not self.missing
        return paper and all(getattr(self, n) == getattr(NetworkFlags, n) for n in PARTS)

    @property
    def name(self) -> str:
        """The network in the name of a run: L2, with the sizes and distributions that are not the default."""
        sizes = self.other_sizes()
        parts = [f"L{self.depth}"]
        if sizes["latent_sizes"]:
            parts.append("z" + "_".join(map(str, sizes["latent_sizes"])))
        if sizes["hidden_sizes"]:
            parts.append(
                "h" + "+".join("_".join(map(str, layer)) for layer in sizes["hidden_sizes"])
            )
        for name in PARTS:
            value = getattr(self, name)
            if value != getattr(NetworkFlags, name):
                text = "+".join(value) if isinstance(value, tuple) else value
                parts.append(f"{name}_{re.sub('[^A-Za-z0-9.+_]', '_', str(text))}")
        return "-".join(parts + ["missing"] * self.missing)

    def model(self, pixels: int, data_shape: tuple[int, ...] = ()) -> ModelConfig:
        """The model of a run, for flat images of so many pixels; convolutions know images of what shape."""
        latent_sizes, hidden_sizes = self.sizes()
        parts = {name: getattr(self, name) for name in PARTS}
        parts |= {name: parts[name][0] for name in ("likelihood", "prior", "posterior", "network")}
        if _convolutional(parts["network"]) and len(data_shape) > 1:
            rows, _, *channels = data_shape
            colon = "," if ":" in parts["network"] else ":"
            parts["network"] += f"{colon}rows={rows},channels={(*channels, 1)[0]}"
        if len(self.latents) == 1:
            (parts["latents"],) = self.latents
        return ModelConfig((pixels,), latent_sizes, hidden_sizes, missing=self.missing, **parts)
