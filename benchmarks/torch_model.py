"""The model of a `ModelConfig` as a PyTorch module, and its weights to and from `iwae_jax.Params`.

It runs whole batches, with the sample axis in front. The heads of a normal are one product. Log-weights are
float32, also under autocast.
"""

import itertools
import math
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from benchmarks.work import networks

HEADS = ("mean", "log_scale")


def mlp(*sizes: int) -> Any:
    """Linear layers with tanh between them; the last is linear."""
    layers: list[Any] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Network(nn.Module):
    """The model of a `ModelConfig`: `forward` gives the log-weights, [k, batch]."""

    def __init__(self, config: Any):
        super().__init__()
        latents, hidden = config.latent_sizes, config.hidden_sizes
        below = (math.prod(config.data_shape), *latents)
        layers = range(len(latents))
        self.posterior = nn.ModuleList([mlp(below[i], *hidden[i], 2 * latents[i]) for i in layers])
        self.prior = nn.ModuleList(
            [mlp(latents[i], *hidden[i][::-1], 2 * latents[i - 1]) for i in layers[1:]]
        )
        self.likelihood = mlp(latents[0], *hidden[0][::-1], below[0])
        self.latent_sizes = latents

    def forward(self, x: Any, noise: list[Any]) -> Any:
        """The log-weights of data [batch, pixels] from noise, [k, batch, units] for each layer."""
        log_w, z, below = 0.0, [], x
        for network, normals in zip(self.posterior, noise, strict=True):
            mean, log_scale = network(below).float().chunk(2, -1)
            below = mean + log_scale.exp() * normals
            z.append(below)
            log_w = log_w + (0.5 * normals**2 + log_scale).sum(-1)
        # The constants of log q and log p(z) cancel.
        log_w = log_w - 0.5 * (z[-1] ** 2).sum(-1)
        for layer, network in enumerate(self.prior):
            mean, log_scale = network(z[layer + 1]).float().chunk(2, -1)
            standardised = (z[layer] - mean) * (-log_scale).exp()
            log_w = log_w - (0.5 * standardised**2 + log_scale).sum(-1)
        logits = self.likelihood(z[0]).float()
        nats = functional.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        )
        return log_w - nats.sum(-1)

    def draw(self, k: int, batch: int, device: Any) -> list[Any]:
        """Standard normal noise for each layer."""
        return [torch.randn(k, batch, size, device=device) for size in self.latent_sizes]


def pairs(network: Network) -> list[tuple[tuple[Any, ...], Any, tuple[str, ...]]]:
    """Each Sequential, with its place in the weights of `networks`, and its heads."""
    found = [(("recognition", i), part, HEADS) for i, part in enumerate(network.posterior)]
    found += [(("generative", "prior", i), part, HEADS) for i, part in enumerate(network.prior)]
    return [*found, (("generative", "likelihood"), network.likelihood, ("logits",))]


@torch.no_grad()
def load(network: Network, params: Any) -> None:
    """Copy the weights of `iwae_jax.Params` into the network."""
    weights = networks({"generative": params.generative, "recognition": params.recognition})
    for place, part, heads in pairs(network):
        source = weights
        for name in place:
            source = source[name]
        linear = [layer for layer in part if isinstance(layer, nn.Linear)]
        for i, layer in enumerate(linear):
            names = heads if i == len(linear) - 1 else (f"hidden_{i}",)
            kernel = np.concatenate([source[name]["kernel"] for name in names], axis=1)
            bias = np.concatenate([source[name]["bias"] for name in names])
            layer.weight.copy_(torch.from_numpy(kernel.T.copy()))
            layer.bias.copy_(torch.from_numpy(bias))


@torch.no_grad()
def glorot(network: Network) -> None:
    """New Glorot-uniform weights; the heads of a normal are two matrices. Biases stay as they are."""
    for _, part, heads in pairs(network):
        linear = [layer for layer in part if isinstance(layer, nn.Linear)]
        for layer in linear:
            for weight in layer.weight.chunk(len(heads) if layer is linear[-1] else 1):
                nn.init.xavier_uniform_(weight)


@torch.no_grad()
def dump(network: Network) -> dict[str, Any]:
    """The network's weights in the form of `networks`, for `like_params`."""
    prior: dict[int, Any] = {}
    recognition: dict[int, Any] = {}
    likelihood: dict[str, Any] = {}
    for place, part, heads in pairs(network):
        linear = [layer for layer in part if isinstance(layer, nn.Linear)]
        entry: dict[str, Any] = {}
        for i, layer in enumerate(linear):
            names = heads if i == len(linear) - 1 else (f"hidden_{i}",)
            kernels = np.split(layer.weight.cpu().numpy().T.copy(), len(names), axis=1)
            biases = np.split(layer.bias.cpu().numpy().copy(), len(names))
            for name, kernel, bias in zip(names, kernels, biases, strict=True):
                entry[name] = {"kernel": kernel, "bias": bias}
        if place[0] == "recognition":
            recognition[place[1]] = entry
        elif place[1] == "prior":
            prior[place[2]] = entry
        else:
            likelihood = entry
    return {
        "generative": {"likelihood": likelihood, "prior": prior},
        "recognition": recognition,
    }
