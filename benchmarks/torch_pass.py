"""Time of a training pass, relative to the same work in PyTorch (torch.compile), on this machine's CPU.

    python -m pip install torch        # not a dependency
    python -m benchmarks.torch_pass --steps=300 --rounds=7

The work is that of the default run: the paper's one-layer network, k = 50, batch 20, dynamic
binarization, Adam. The two programs take turns in one process, with the same number of threads. Each round
gives one ratio of our time to PyTorch's; the figure is the median. The data are uniform noise: their
values do not change the work.
"""

import dataclasses
import math
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import iwae_jax

COUNT, BATCH, K = 59_600, 20, 50


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Settings of the benchmark."""

    steps: int = 300
    """Steps in each turn (a pass has 2,980)."""
    rounds: int = 7
    """Turns of each program."""


def ours(images: np.ndarray, steps: int) -> Any:
    """Return a function that takes this number of steps with `iwae_jax.train_epoch`."""
    params = iwae_jax.init(
        jax.random.key(0), iwae_jax.ModelConfig(), data_mean=images.mean(0) / 255
    )
    state = iwae_jax.TrainState.create(params, optax.adam(1e-3, eps=1e-4))
    data = jnp.asarray(images[: steps * BATCH])

    def run() -> None:
        nonlocal state
        state, bounds = iwae_jax.train_epoch(state, data, jax.random.key(1), K, batch_size=BATCH)
        jax.block_until_ready((state, bounds))

    return run


def pytorch(images: np.ndarray, steps: int) -> Any:
    """Return a function that takes the same steps in ordinary PyTorch code."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)

    def block(inputs: int) -> Any:
        return nn.Sequential(nn.Linear(inputs, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh())

    encoder, decoder = block(784), block(50)
    mean, log_scale, logits = nn.Linear(200, 50), nn.Linear(200, 50), nn.Linear(200, 784)
    modules = nn.ModuleList([encoder, decoder, mean, log_scale, logits])
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-3, eps=1e-4, fused=True)
    data = torch.from_numpy(images)

    @torch.compile
    def loss(x: Any) -> Any:
        hidden = encoder(x)
        m, s = mean(hidden), log_scale(hidden)
        noise = torch.randn(K, BATCH, 50)
        z = m + torch.exp(s) * noise
        log_q = (-0.5 * noise**2 - s).sum(-1)
        log_prior = (-0.5 * z**2).sum(-1)
        outputs = logits(decoder(z))
        nats = nn.functional.binary_cross_entropy_with_logits(
            outputs, x.expand_as(outputs), reduction="none"
        )
        log_w = log_prior - nats.sum(-1) - log_q
        return -(torch.logsumexp(log_w, 0) - math.log(K)).mean()

    def run() -> None:
        order = torch.randperm(COUNT)
        for step in range(steps):
            probability = data[order[step * BATCH : (step + 1) * BATCH]].float() / 255
            x = (torch.rand_like(probability) < probability).float()
            value = loss(x)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()

    return run


def main() -> None:
    """Measure and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 784)).astype(np.uint8)
    runs = {"iwae_jax": ours(images, arguments.steps), "PyTorch": pytorch(images, arguments.steps)}
    for run in runs.values():
        run()  # compile
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    for name, values in seconds.items():
        step = 1000 * statistics.median(values) / arguments.steps
        print(f"{name:9} {step:6.2f} ms a step (median), {step * 2.98:5.1f} s a pass")
    ratios = sorted(a / b for a, b in zip(*seconds.values(), strict=True))
    print(f"ratio {statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
