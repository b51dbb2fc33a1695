"""The programs of PyTorch: eager and compiled, in float32 and under bfloat16 autocast.

Noise needs no gradient. Log-weights are float32 in both precisions. A compiled program is either the loss with
its gradient, followed by the fused Adam, or the whole step as one graph. Noise is drawn outside the compiled
graphs, whose own random numbers took about a tenth longer on a CPU (PyTorch 2.13, L=1, k = 50, batch 20).
"""

import math
from functools import partial
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from benchmarks import machine
from benchmarks.torch_model import Network, load
from benchmarks.work import (
    EPSILON,
    RATE,
    Build,
    Program,
    Task,
    forward_flops,
    step_flops,
)


def use_all_cores() -> Any:
    """Use as many threads as there are cores; return the device."""
    torch.set_num_threads(machine.cores())
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
        function: Any = self._step if self.whole else self._loss
        self.function: Any = function if form == "eager" else torch.compile(function, dynamic=False)
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

    def bounds(self, x: np.ndarray, repeats: int) -> np.ndarray:
        """The bound as the timed function computes it; the weights stay as they are."""
        torch.manual_seed(5)
        data = torch.from_numpy(np.asarray(x, np.float32)).to(self.device)
        values = []
        for _ in range(repeats):
            noise = self.network.draw(self.task.k, len(data), self.device)
            if self.whole:  # it changes what it is given
                weights = {n: p.clone() for n, p in self.weights.items()}
                moments = tuple({n: p.clone() for n, p in m.items()} for m in self.moments)
                count = self.count.clone()
                value = self.function(weights, moments, count, self.rate, data, noise)
            else:
                value = self.function(data, noise)
            values.append(-float(value.detach()))
        return np.asarray(values)

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

    def bounds(x: np.ndarray, repeats: int) -> np.ndarray:
        load(trainer.network, task.params)
        return trainer.bounds(x, repeats)

    return Program(trainer.run, bounds, flops)


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


def likelihood(task: Task, *, form: str, bfloat16: bool = False) -> Program:
    """L_k of all images."""
    network, device = make(task)
    x = torch.from_numpy((task.images > 127).astype(np.float32)).to(device)
    function = network if form == "eager" else torch.compile(network, dynamic=False)

    def run() -> None:
        for batch in x.split(task.batch):
            log_likelihood(network, function, batch, task.k, task.chunk, bfloat16)
        wait(device)

    def bounds(x: np.ndarray, repeats: int) -> np.ndarray:
        torch.manual_seed(5)
        data = torch.from_numpy(np.asarray(x, np.float32)).to(device)
        values = [
            log_likelihood(network, function, data, task.k, task.chunk, bfloat16).mean()
            for _ in range(repeats)
        ]
        return np.asarray([float(value) for value in values])

    chunks = -(-task.k // task.chunk)
    flops = forward_flops(task.params.model, chunks * -(-task.k // chunks), len(x))
    return Program(run, bounds, flops)


def sweep(task: Task) -> Program:
    """A pass of each of several seeds, one after another, with one compiled step."""
    trainer = Trainer(task, form="whole step")

    def run() -> None:
        for seed in range(task.seeds):
            torch.manual_seed(seed)
            load(trainer.network, task.params)
            trainer.start()
            trainer.run()

    def bounds(x: np.ndarray, repeats: int) -> np.ndarray:
        load(trainer.network, task.params)
        return trainer.bounds(x, repeats)

    flops = task.seeds * step_flops(task.params.model, task.k, len(task.images))
    return Program(run, bounds, flops)


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
SWEEP: dict[str, Build] = {"torch.compile whole step": sweep}
