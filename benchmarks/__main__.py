"""The same work by this library and by its peers, in turn, in one run.

    python -m pip install -e ".[bench]"
    python -m benchmarks --work step likelihood sweep
    python -m benchmarks --work step --layers 1 --k 50 --batch 20 100 --programs ours torch.compile
    python -m benchmarks --work time-to-nll --layers 1 --data-dir FOLDER --seconds 1800
    python -m benchmarks --small                       # seconds; shows that everything runs

Run it on an otherwise idle machine. It writes benchmarks.json and benchmarks.md.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import iwae_jax
from benchmarks import machine, nll_curve, peak, programs, report
from benchmarks.cases import Case, steps_of, task_of
from benchmarks.ours import state_of
from benchmarks.timing import in_turn
from benchmarks.work import Program, Task, Unavailable

WORK = Literal["step", "likelihood", "sweep", "time-to-nll"]
Keep = Callable[[dict[str, Any]], Any]
PEER = Literal["ours", "jax", "torch", "numpyro"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Settings of the benchmark."""

    work: tuple[WORK, ...] = ("step", "likelihood", "sweep")
    """Kinds of work."""
    peers: tuple[PEER, ...] = ("ours", "jax", "torch", "numpyro")
    """Whose programs to run."""
    programs: tuple[str, ...] = ()
    """Names of programs. Default: all of the peers."""
    rounds: int = 7
    """Turns of each program."""
    layers: tuple[int, ...] = (1, 2)
    """Stochastic layers of a training step, and of time-to-nll."""
    k: tuple[int, ...] = (1, 5, 50, 500)
    """Importance samples of a training step."""
    batch: tuple[int, ...] = (20, 100)
    """Batch sizes of a training step."""
    samples: int = 100_000
    """Samples of data in a turn of training steps (between 2 and 200 steps)."""
    likelihood_k: int = 5000
    """Importance samples of an evaluation."""
    likelihood_images: int = 100
    """Images of an evaluation."""
    warm_steps: int = 2000
    """Training steps before an evaluation, so that its weights are not the initial ones."""
    seeds: int = 8
    """Models in a sweep."""
    memory: bool = True
    """Measure peak memory, in a process for each program."""
    data_dir: str | None = None
    """Folder of MNIST's files, for time-to-nll and the evaluation. Default for the latter: noise."""
    seconds: float = 1800.0
    """Training seconds of each curve of the NLL."""
    targets: tuple[float, ...] = (90.0, 88.0, 86.0)
    """NLLs whose times are reported."""
    eval_images: int = 1000
    """Number of test images in the NLL."""
    eval_k: int = 5000
    """Importance samples in the NLL."""
    small: bool = False
    """Run everything in a tiny form, for tests. The times mean nothing."""
    out: Path = Path("benchmark-results")
    """Folder of the report."""


def smaller(arguments: Arguments) -> Arguments:
    """The tiny form of the same work."""
    return dataclasses.replace(
        arguments, rounds=2, k=(9,), batch=(4,), samples=72, likelihood_k=12, likelihood_images=4,
        warm_steps=2, seeds=2, eval_images=5, eval_k=6,
    )  # fmt: skip


class Run:
    """Rows, product rates and what was skipped, as they are found."""

    def __init__(self, arguments: Arguments, say: Callable[[str], Any], keep: Keep):
        self.arguments, self.say, self.keep = arguments, say, keep
        self.rows: list[dict[str, Any]] = []
        self.rates: dict[int, dict[str, float]] = {}
        self.skipped: dict[str, str] = {}

    def rate(self, m: int) -> float:
        """The float32 product rate at m rows."""
        if m not in self.rates:
            self.rates[m] = machine.product_rates(m, torch="torch" in self.arguments.peers)
        return self.rates[m]["float32"]

    def compare(self, work: str, case: Case, task: Task, units: int, more: dict) -> None:
        """Check the bounds of all programs, time them in turn, and add their rows."""
        programs.forget(self.arguments.peers)
        found, skipped = programs.builders(work, self.arguments.peers)
        self.skipped |= skipped
        if self.arguments.programs:
            found = {n: b for n, b in found.items() if n in self.arguments.programs}
        built: dict[str, Program] = {}
        for name, build in found.items():
            try:
                built[name] = build(task)
            except Unavailable as error:
                self.skipped[f"{name} ({work}, k = {case.k})"] = str(error)
        if not built:
            return  # none of the programs can do this; `skipped` says why
        times = in_turn({name: p.run for name, p in built.items()}, self.arguments.rounds)
        flops = {name: program.flops for name, program in built.items()}
        m = task.batch * (min(case.k, task.chunk) if work == "likelihood" else case.k)
        found_rows = report.rows(
            {"work": work, **case.labels, **more}, times, flops, self.rate(m), units
        )
        checks = bounds(task, built, 8 if work == "likelihood" else 32)
        for row in found_rows:
            row["product rows"] = m
            row["bound"] = checks[row["program"]]
            if self.arguments.memory:
                row["peak MiB"] = peak.measure(work, row["program"], case)
        self.rows += found_rows
        self.say(report.table(found_rows) + "\n")
        self.keep(self.result())

    def result(self) -> dict[str, Any]:
        """Everything found so far."""
        folders = {"data_dir", "out"}  # of this machine, and nobody else's
        given = dataclasses.asdict(self.arguments).items()
        arguments = {n: str(v) for n, v in given if n not in folders}
        return {
            "machine": machine.describe(),
            "arguments": arguments,
            "rows": self.rows,
            "product rates": self.rates,
            "skipped": self.skipped,
        }


def bounds(task: Task, built: dict[str, Program], repeats: int) -> dict[str, dict]:
    """L_k of each program next to ours, on the same weights and data, under draws of its own."""
    from benchmarks.ours import bounds_of

    x = (task.images[: task.batch] > 127).astype(np.float32)
    ours = bounds_of(task.params, task.k, x, repeats + 1)[1:]  # keys of our own programs differ
    return {name: report.agreement(ours, p.bounds(x, repeats)) for name, p in built.items()}


def trained(case: Case, arguments: Arguments) -> tuple[iwae_jax.Params, np.ndarray | None]:
    """Weights after a few steps, and test images; on MNIST if a folder is given, else on noise."""
    task = task_of(dataclasses.replace(case, count=20 * arguments.warm_steps))
    images, test, params = task.images, None, task.params
    if arguments.data_dir is not None and not case.small:
        data = iwae_jax.data.load("mnist", data_dir=arguments.data_dir)
        images, test = data.train[: len(images)], data.test
        params = iwae_jax.init(jax.random.key(0), params.model, data_mean=data.mean)
    state, _ = iwae_jax.train_epoch(state_of(params), jnp.asarray(images), jax.random.key(1), k=5)
    return state.params, test


def check_programs(arguments: Arguments) -> None:
    """Raise a ValueError, before any work, for a name that no work has or a work that none of the names is of.

    The names of a peer that is not installed are not known here, so that any name may be one of them.
    """
    peers, chosen = arguments.peers, set(arguments.programs)
    absent = [why for peer in peers if (why := programs.missing(peer)) is not None]
    among = f"for --peers {' '.join(peers)}{''.join(f' ({why})' for why in absent)}"
    got = f"got {'; '.join(map(repr, arguments.programs)) or 'none'}"
    known: set[str] = set()
    for work in arguments.work:
        race = work == "time-to-nll"
        names = set(nll_curve.makers(peers) if race else programs.builders(work, peers)[0])
        listed = "; ".join(map(repr, sorted(names))) or "none"
        if not names & (chosen or names):
            raise ValueError(f"Expected --programs of {work!r} ({listed}) {among}, {got}.")
        known |= names
    if chosen - known and not absent:
        listed = "; ".join(map(repr, sorted(known)))
        raise ValueError(f"Expected --programs among {listed} {among}, {got}.")


def measure(
    arguments: Arguments, say: Callable[[str], Any] = print, keep: Keep = lambda result: None
) -> dict[str, Any]:
    """Do all work, and return the result as plain data; ``keep`` also gets it after each case."""
    if arguments.small:
        arguments = smaller(arguments)
    check_programs(arguments)
    a, run = arguments, Run(arguments, say, keep)
    if "step" in a.work:
        for layers in a.layers:
            for k in a.k:
                for batch in a.batch:
                    steps = steps_of(k, batch, a.samples)
                    case = Case(layers, k, batch, steps * batch, small=a.small)
                    run.compare("step", case, task_of(case), steps, {"steps": steps})
    if "likelihood" in a.work:
        count = a.likelihood_images
        case = Case(1, a.likelihood_k, min(20, count), count, small=a.small)
        params, test = trained(case, a)
        run.compare("likelihood", case, task_of(case, params, test), count, {"images": count})
    if "sweep" in a.work:
        k, batch = (a.k[0], a.batch[0]) if a.small else (50, 20)
        steps = steps_of(k, batch, a.samples // a.seeds)
        case = Case(1, k, batch, steps * batch, a.seeds, a.small)
        run.compare("sweep", case, task_of(case), 1, {"seeds": a.seeds, "steps": steps})
    result = run.result()
    if "time-to-nll" in a.work:
        result["time to NLL"] = []
        for layers in a.layers:
            result["time to NLL"].append(nll_curve.measure(a, layers, say))
            keep(result)
    return result


def main() -> None:
    """Measure, print and write."""
    arguments = tyro.cli(Arguments, description=__doc__)
    # Compile times are those of a first call, so no program may come from a cache.
    jax.config.update("jax_enable_compilation_cache", False)
    if programs.missing("torch") is None and "torch" in arguments.peers:
        import torch  # pyright: ignore[reportMissingImports]

        torch._inductor.config.force_disable_caches = True  # pyright: ignore
    # Written after each case, so that a run that is stopped keeps what it has measured.
    result = measure(arguments, keep=partial(report.write, arguments.out))
    report.write(arguments.out, result)
    print(f"Wrote {arguments.out / 'benchmarks.md'} and benchmarks.json.")


if __name__ == "__main__":
    main()
