"""The programs of PyTorch: eager and compiled, in float32 and under bfloat16 autocast.

One module runs whole batches, with the sample axis in front. The heads of a normal are one product. Noise
needs no gradient. Log-weights are float32 in both precisions. A compiled program is either the loss with
its gradient, followed by the fused Adam, or the whole step as one graph. Noise is drawn outside the compiled
graphs, whose own random numbers took about a tenth longer on a CPU (PyTorch 2.13, L=1, k = 50, batch 20).
"""

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from benchmarks import machine
from benchmarks.work import (
    EPSILON,
    RATE,
    Build,
    Program,
    Task,
    forward_flops,
    networks,
    step_flops,
)

HEADS = ("mean", "log_scale")


def use_all_cores() -> Any:
    """Use as many threads as there are cores; return the device."""
    torch.set_num_threads(machine.cores())
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def make(task: Task) -> tuple[Network, Any]:
    """The network with the weights of the task, and the device."""
    device = use_all_cores()
    network = Network(task.params.model)
    load(network, task.params)
    return network.to(device), device


def autocast(device: Any, enabled: bool) -> Any:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def mean_bound(log_w: Any) -> Any:
    return (torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])).mean()


def wait(device: Any) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class Trainer:
    """Passes over images: shuffle, draw pixels, draw noise, step."""

    def __init__(self, task: Task, *, form: str, bfloat16: bool = False, rate: float = RATE):
        self.network, self.device = make(task)
        self.task, self.bfloat16 = task, bfloat16
        self.data = torch.from_numpy(task.images).to(self.device)
        self.names = [name for name, _ in self.network.named_parameters()]
        self.whole = form == "whole step"
        function = self._step if self.whole else self._loss
        self.function = function if form == "eager" else torch.compile(function, dynamic=False)
        self.start(rate)

    def start(self, rate: float = RATE) -> None:
        """Begin a new optimizer at the present weights."""
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=rate, eps=EPSILON, fused=True
        )
        if self.whole:
            self.weights = {n: p.detach() for n, p in self.network.named_parameters()}
            zeros = {n: torch.zeros_like(p) for n, p in self.weights.items()}
            self.moments = (zeros, {n: torch.zeros_like(p) for n, p in self.weights.items()})
            self.count = torch.zeros((), device=self.device)
            self.rate = torch.tensor(rate, device=self.device)

    def set_rate(self, rate: float) -> None:
        """Change the learning rate; nothing is compiled again."""
        if self.whole:
            self.rate.fill_(rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _loss(self, x: Any, noise: list[Any]) -> Any:
        with autocast(self.device, self.bfloat16):
            return -mean_bound(self.network(x, noise))

    def _step(
        self, weights: Any, moments: Any, count: Any, rate: Any, x: Any, noise: list[Any]
    ) -> Any:
        def loss(weights: Any) -> Any:
            with autocast(self.device, self.bfloat16):
                return -mean_bound(torch.func.functional_call(self.network, weights, (x, noise)))

        slopes, value = torch.func.grad_and_value(loss)(weights)
        count.add_(1)
        for name in self.names:
            first, second, slope = moments[0][name], moments[1][name], slopes[name]
            first.lerp_(slope, 0.1)
            second.mul_(0.999).addcmul_(slope, slope, value=0.001)
            scale = (second / (1 - 0.999**count)).sqrt() + EPSILON
            weights[name].sub_(rate * (first / (1 - 0.9**count)) / scale)
        return value

    def run(self) -> None:
        """One pass."""
        task = self.task
        order = torch.randperm(len(self.data), device=self.device)
        for indices in order[: len(order) // task.batch * task.batch].split(task.batch):
            probability = self.data[indices].float().div_(255)
            x = (torch.rand_like(probability) < probability).float()
            noise = self.network.draw(task.k, task.batch, self.device)
            if self.whole:
                self.function(self.weights, self.moments, self.count, self.rate, x, noise)
                continue
            value = self.function(x, noise)
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()
            self.optimizer.step()
        wait(self.device)


def step(task: Task, *, form: str, bfloat16: bool = False) -> Program:
    """A pass of training."""
    trainer = Trainer(task, form=form, bfloat16=bfloat16)
    flops = step_flops(task.params.model, task.k, len(task.images))
    return Program(trainer.run, partial(bounds_of, task, bfloat16), flops)


@torch.inference_mode()
def log_likelihood(network: Any, function: Any, x: Any, k: int, chunk: int, bfloat16: bool) -> Any:
    """L_k of a batch from chunks of samples, at least k in all."""
    device = x.device
    chunks = -(-k // chunk)
    size = -(-k // chunks)
    parts = []
    for _ in range(chunks):
        with autocast(device, bfloat16):
            log_w = function(x, network.draw(size, len(x), device))
        parts.append(torch.logsumexp(log_w, 0))
    return torch.logsumexp(torch.stack(parts), 0) - math.log(chunks * size)


def bounds_of(task: Task, bfloat16: bool, x: np.ndarray, repeats: int) -> np.ndarray:
    """L_k under several draws, averaged over data; with the weights of the task."""
    network, device = make(task)
    torch.manual_seed(5)
    data = torch.from_numpy(np.asarray(x, np.float32)).to(device)
    values = [
        log_likelihood(network, network, data, task.k, task.chunk, bfloat16).mean()
        for _ in range(repeats)
    ]
    return np.asarray([float(value) for value in values])


def likelihood(task: Task, *, form: str, bfloat16: bool = False) -> Program:
    """L_k of all images."""
    network, device = make(task)
    x = torch.from_numpy((task.images > 127).astype(np.float32)).to(device)
    function = network if form == "eager" else torch.compile(network, dynamic=False)

    def run() -> None:
        for batch in x.split(task.batch):
            log_likelihood(network, function, batch, task.k, task.chunk, bfloat16)
        wait(device)

    chunks = -(-task.k // task.chunk)
    flops = forward_flops(task.params.model, chunks * -(-task.k // chunks), len(x))
    return Program(run, partial(bounds_of, task, bfloat16), flops)


def sweep(task: Task) -> Program:
    """A pass of each of several seeds, one after another, with one compiled loss."""
    trainer = Trainer(task, form="compiled")

    def run() -> None:
        for seed in range(task.seeds):
            torch.manual_seed(seed)
            load(trainer.network, task.params)
            trainer.start()
            trainer.run()

    flops = task.seeds * step_flops(task.params.model, task.k, len(task.images))
    return Program(run, partial(bounds_of, task, False), flops)


STEP: dict[str, Build] = {
    "torch": partial(step, form="eager"),
    "torch.compile": partial(step, form="compiled"),
    "torch.compile whole step": partial(step, form="whole step"),
    "torch bfloat16": partial(step, form="eager", bfloat16=True),
    "torch.compile bfloat16": partial(step, form="compiled", bfloat16=True),
    "torch.compile whole step bfloat16": partial(step, form="whole step", bfloat16=True),
}
LIKELIHOOD: dict[str, Build] = {
    "torch": partial(likelihood, form="eager"),
    "torch.compile": partial(likelihood, form="compiled"),
    "torch bfloat16": partial(likelihood, form="eager", bfloat16=True),
    "torch.compile bfloat16": partial(likelihood, form="compiled", bfloat16=True),
}
SWEEP: dict[str, Build] = {"torch.compile": sweep}
