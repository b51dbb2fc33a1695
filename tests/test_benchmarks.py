"""The benchmark of this library and its peers: its arithmetic, its tiny form, and that the bounds are equal.

No test asserts a time.
"""

import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iwae_jax
from benchmarks import __main__ as command
from benchmarks import machine, nll_curve, ours, plain_jax, programs, report, work
from benchmarks.cases import Case, config_of, steps_of
from benchmarks.timing import Spread, Times, in_turn, ratio
from iwae_jax.training import recipes

FIRST, SECOND = Times(5.0, (1.0, 2.0, 4.0)), Times(2.5, (2.0, 1.0, 2.0))


def test_a_ratio_pairs_the_turns_of_a_round():
    assert ratio(FIRST, SECOND) == Spread(2.0, 0.5, 2.0)  # 0.5, 2, 2
    assert FIRST.spread == Spread(2.0, 1.0, 4.0)
    assert FIRST.compilation == 3.0
    assert SECOND.compilation == 0.5


def test_rows_and_tables_hold_what_they_say():
    times = {"ours": FIRST, "torch.compile": SECOND}
    flops = {"ours": 20.0, "torch.compile": 40.0}
    first, second = report.rows({"work": "step", "k": 50}, times, flops, 100.0, 4)
    assert first["seconds"] == [0.5, 0.25, 1.0]  # of one of the 4 steps in a turn
    assert first["ratio to"] == {"torch.compile": [2.0, 0.5, 2.0]}
    assert second["ratio to"] == {"ours": [0.5, 0.5, 2.0]}
    assert first["share of the product rate"] == 20 / 2 / 100
    assert second["share of the product rate"] == 40 / 2 / 100
    assert [first["compile seconds"], second["compile seconds"]] == [3.0, 0.5]
    second["bound"] = {"minus ours": 1.0, "standard error": 0.1, "agrees": False}
    second["peak MiB"] = 12.4
    lines = report.table([first, second]).splitlines()
    assert lines[0] == (
        "| k | program | ms | relative to ours | relative to torch.compile | "
        "share of the product rate | compile s | peak MiB | bound minus ours |"
    )
    assert lines[2] == (
        "| 50 | ours | 500 (250 to 1e+03) |  | 2.00 (0.50 to 2.00) | 0.10 | 3.0 |  |  |"
    )
    assert lines[3].endswith("| 0.20 | 0.5 | 12 | **+1.000 ± 0.100: does not agree** |")


STATUS = Path("/proc/self/status")


@pytest.mark.skipif(
    STATUS.exists() and "VmHWM" not in STATUS.read_text(), reason="a Linux without VmHWM"
)
def test_the_peak_memory_of_a_process_is_not_that_of_the_one_that_started_it():
    code = """
import subprocess, sys
held = b"1" * (1 << 30)  # 1,024 MiB, written
child = "from benchmarks import machine; print(machine.largest_resident_set())"
print(subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True).stdout)
from benchmarks import machine
print(machine.largest_resident_set())
"""
    root, words = Path(__file__).parents[1], [sys.executable, "-c", code]
    run = subprocess.run(words, capture_output=True, text=True, check=True, cwd=root)
    child, parent = map(float, run.stdout.split())
    assert 10 < child < 1000
    assert parent > 1024


def test_programs_take_turns_in_alternating_order():
    calls: list[str] = []
    times = in_turn({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert all(len(t.turns) == 3 for t in times.values())


def test_agreement_is_within_four_standard_errors():
    theirs = np.array([-2.0, 0.0, -2.0, 0.0])
    assert report.agreement(theirs - 1, theirs)["minus ours"] == 1.0
    assert report.agreement(theirs - 1, theirs)["agrees"]
    assert not report.agreement(theirs - 5, theirs)["agrees"]
    error = report.agreement(theirs, theirs)["standard error"]
    assert error == pytest.approx(math.sqrt(2 * (4 / 3) / 4))


def test_operations_are_those_of_the_matrices():
    # L=1, by hand: encoder 784-200-200-(2 x 50) once, decoder 50-200-200-784 for each sample.
    encoder, decoder = 784 * 200 + 200 * 200 + 200 * 100, 50 * 200 + 200 * 200 + 200 * 784
    config = iwae_jax.ModelConfig()
    assert work.forward_flops(config, 50, 20) == 2 * 20 * (encoder + 50 * decoder)
    assert work.step_flops(config, 50, 20) == 3 * work.forward_flops(config, 50, 20)
    assert work.step_flops(config, 50, 20, 8) == (
        work.forward_flops(config, 50, 20) + 3 * work.forward_flops(config, 8, 20)
    )
    # L=2 against the shapes of the weights: a matrix is used once for each datum, or for each sample.
    params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig.two_layer())
    weights = work.networks({"p": params.generative, "q": params.recognition})

    def sizes(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree) if leaf.ndim == 2)

    once, each = sizes(weights["q"][0]), sizes((weights["q"][1], weights["p"]))
    assert work.forward_flops(params.model, 7, 3) == 2 * 3 * (once + 7 * each)


def test_a_turn_has_between_2_and_200_steps():
    assert steps_of(50, 20, 100_000) == 100
    assert steps_of(500, 100, 100_000) == 2
    assert steps_of(1, 20, 100_000) == 200


def shared_noise(layers: int, k: int = 7, n: int = 4):
    """Our log-weights of given noise, and the noise, [k, n, units] for each layer."""
    config = config_of(Case(layers, k, n, n, small=True))
    params = iwae_jax.init(jax.random.key(0), config, data_mean=np.linspace(0.1, 0.9, 16))
    x = jax.random.bernoulli(jax.random.key(1), 0.4, (n, 16)).astype(jnp.float32)
    noise = jax.random.normal(jax.random.key(2), (k, n, config.noise_size))

    def one(x, normals):
        z, log_q = config.sample_posterior_from(params, x, normals)
        return config.log_joint(params, x, z) - log_q

    log_w = jax.jit(jax.vmap(jax.vmap(one), in_axes=(None, 0)))(x, noise)
    ends = np.cumsum(config.latent_sizes)[:-1]
    return params, x, tuple(jnp.split(noise, ends, axis=-1)), np.asarray(log_w)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_plain_loop_has_our_log_weights_on_the_same_noise(layers):
    params, x, noise, expected = shared_noise(layers)
    task = work.Task(params, 7, 4, np.zeros((4, 16), np.uint8))
    found = jax.jit(plain_jax.log_weights)(plain_jax.weights_of(task), x, noise)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_weights_return_to_params(layers):
    params = iwae_jax.init(jax.random.key(0), config_of(Case(layers, 1, 1, 1, small=True)))
    plain = work.networks({"generative": params.generative, "recognition": params.recognition})
    back = work.like_params(params, plain)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert all(map(np.array_equal, jax.tree.leaves(back), jax.tree.leaves(params)))


@pytest.fixture(scope="module")
def small_result():
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "missing", lambda peer: None if peer in ("ours", "jax") else "gone")
        arguments = command.Arguments(small=True, memory=False, layers=(1,))
        kept: list[int] = []
        result = command.measure(arguments, said.append, lambda r: kept.append(len(r["rows"])))
        assert len(kept) == 3 and kept == sorted(
            set(kept)
        )  # after each case, so that a stopped run loses nothing
        return result, said


def test_the_tiny_form_runs_our_side_and_names_the_missing_peers(small_result, tmp_path):
    result, said = small_result
    found = {(row["work"], row["program"]) for row in result["rows"]}
    assert found >= {
        *(("step", name) for name in ("ours", "ours resampled(8)", "plain JAX")),
        *(("likelihood", name) for name in ("ours", "plain JAX")),
        *(("sweep", name) for name in ("ours", "ours vmap")),
    }
    assert {"torch": "gone", "numpyro": "gone"}.items() <= result["skipped"].items()
    assert len(said) == 3
    assert all(row["bound"]["agrees"] for row in result["rows"])
    assert all(len(row["turns"]) == 2 for row in result["rows"])
    rates = {str(m): rate for m, rate in result["product rates"].items()}
    for row in result["rows"]:
        share = row["flops in a turn"] / np.median(row["turns"])
        share /= rates[str(row["product rows"])]["float32"]
        assert row["share of the product rate"] == pytest.approx(share)
    report.write(tmp_path, result)
    assert json.loads((tmp_path / "benchmarks.json").read_text())["rows"] == result["rows"]
    page = (tmp_path / "benchmarks.md").read_text()
    assert "- torch: gone." in page and f"{machine.cores()} cores in use" in page
    assert result["machine"]["processor"] in page and f"jax {jax.__version__}" in page


def test_the_time_to_an_nll_is_interpolated():
    curve = nll_curve.Curve((10.0, 20.0, 40.0), (1, 2, 4), (95.0, 91.0, 87.0))
    assert curve.time_to(96.0) == 10.0
    assert curve.time_to(93.0) == 15.0
    assert curve.time_to(88.0) == 35.0
    assert curve.time_to(86.0) is None
    other = nll_curve.Curve((70.0,), (1,), (88.0,))
    text = nll_curve.table({"ours": curve, "PyTorch": other}, (88.0, 86.0), "PyTorch")
    assert text.splitlines()[2:] == [
        "| 88 | 35 s (0.50) | 70 s |", "| 86 | not reached | not reached |"
    ]  # fmt: skip


def test_the_script_has_the_papers_schedule():
    rates = nll_curve.schedule()
    passes = [next(rates) for _ in range(3280)]
    stages = iwae_jax.training.stage_rates()
    assert passes == [rate for i, rate in enumerate(stages) for _ in range(3**i)]


def test_trainers_take_turns_and_stop_at_the_target(tmp_path):
    order: list[str] = []

    def trainer(name, seconds):
        def train(limit):
            used = 0.0
            while used < limit:
                used += seconds
                order.append(name)
                yield used, float(100 - used)

        return train

    chosen = {"a": trainer("a", 1.0), "b": trainer("b", 3.0)}
    curves = nll_curve.race(chosen, 9.0, lambda params: params, growth=2.0, say=lambda line: None)  # type: ignore[arg-type]
    assert order[:6] == ["a", "b", "a", "a", "a", "b"]
    assert curves["a"].passes == (1, 2, 4, 8, 9)  # each doubles; the last is always evaluated
    assert curves["b"].seconds == (3.0, 6.0, 9.0)
    early = nll_curve.race(chosen, 9.0, lambda p: p, stop=96.5, say=lambda line: None)  # type: ignore[arg-type]
    assert early["b"].nll == (97.0, 94.0)

    def short(limit):
        yield from ((float(used), float(100 - used)) for used in range(1, 8))

    ended = nll_curve.race({"a": short}, 99.0, lambda p: p, growth=2.0, say=lambda line: None)  # type: ignore[arg-type]
    assert ended["a"].passes == (1, 2, 4, 7)  # the end of a recipe is evaluated too
    assert ended["a"].nll[-1] == 93.0
    nll_curve.draw(tmp_path / "nll.png", curves, "made up")
    assert (tmp_path / "nll.png").stat().st_size > 1000


def test_our_trainer_yields_parameters_that_stay(tmp_path, monkeypatch):
    arguments = dataclasses.replace(
        command.smaller(command.Arguments(small=True, peers=("ours",))), out=tmp_path
    )
    result = nll_curve.measure(arguments, 1, lambda line: None)
    curve = result["curves"]["ours, paper's schedule"]
    assert curve["passes"][0] == 1 and np.isfinite(curve["nll"]).all()
    assert "digits (embedded), L=1" in result["conditions"]
    assert (tmp_path / "nll-L1.png").is_file()
    monkeypatch.setattr(recipes, "SMALL", 10)  # a recipe of bfloat16 products, evaluated in float32
    seen, original = [], nll_curve.iwae_jax.train_epoch

    def spy(state, *given, **options):
        seen.append(state.params.model.precision)
        return original(state, *given, **options)

    monkeypatch.setattr(nll_curve.iwae_jax, "train_epoch", spy)
    one = dataclasses.replace(arguments, programs=("ours, --preset=quick",))
    assert list(nll_curve.measure(one, 1, lambda line: None)["curves"]) == ["ours, --preset=quick"]
    assert set(seen) == {"bfloat16"}
    params = iwae_jax.init(jax.random.key(0), iwae_jax.ModelConfig((4,), (2,), ((3,),)))
    trainer = nll_curve.by_recipe("quick")(np.zeros((20, 4), np.uint8), params, k=2)
    assert next(trainer(9.0))[1].model == params.model


def test_each_depth_races_by_its_own_recipe_and_is_kept(tmp_path, monkeypatch):
    small = command.smaller(command.Arguments(small=True, peers=("ours",)))
    name = "ours, --preset=long"
    seen, original = [], recipes.preset
    monkeypatch.setattr(
        recipes, "preset", lambda *given, **sizes: seen.append(sizes) or original(*given, **sizes)
    )
    arguments = dataclasses.replace(small, out=tmp_path, work=("time-to-nll",), programs=(name,))
    kept: list[int] = []
    result = command.measure(
        arguments, lambda line: None, lambda r: kept.append(len(r["time to NLL"]))
    )
    assert kept == [1, 2]  # after each, so that a stopped run loses nothing
    for number, curves in enumerate(result["time to NLL"], 1):
        assert f"L={number}" in curves["conditions"] and list(curves["curves"]) == [name]
        assert "the paper's schedule" not in curves["conditions"]  # none in this race
        assert (tmp_path / f"nll-L{number}.png").is_file()
    assert seen == [{"images": 64, "layers": 1}, {"images": 64, "layers": 2}]


@pytest.mark.parametrize(
    ("work", "names", "gone", "message"),
    [
        (("step", "time-to-nll"), ("ours",), None, "of 'time-to-nll' .'ours, --preset=long'; "),
        (("step",), ("ours", "our"), None, "among 'ours'; .* got 'ours'; 'our'[.]"),
        (("step",), ("torch.compile",), "no torch", ".no torch., got 'torch.compile'[.]"),
        (("step",), ("ours", "torch.compile"), "no torch", None),  # ours runs alone
    ],
)
def test_a_wrong_program_is_refused_before_any_work(monkeypatch, work, names, gone, message):
    monkeypatch.setattr(programs, "missing", lambda peer: gone if peer == "torch" else None)
    peers = ("ours", "torch") if gone else ("ours",)
    arguments = command.Arguments(small=True, peers=peers, work=work, programs=names)
    if message is None:
        command.check_programs(arguments)
        return
    monkeypatch.setattr(command, "task_of", None)
    with pytest.raises(ValueError, match=message):
        command.measure(arguments)


def test_every_program_is_found_by_its_name():
    assert programs.builder("step", "ours") is ours.STEP["ours"]
    with pytest.raises(ValueError, match="Expected a program of 'sweep'"):
        programs.builder("sweep", "plain JAX")
    for peer in ("torch", "numpyro"):
        assert (programs.missing(peer) is None) == (importlib.util.find_spec(peer) is not None)


def test_the_pages_name_the_command():
    root = Path(__file__).parents[1]
    assert "python -m benchmarks" in (root / "docs/design.md").read_text()
    assert "torch_pass" not in "".join(p.read_text() for p in (root / "docs").glob("*.md"))


def test_every_case_begins_with_nothing_compiled(monkeypatch):
    """PyTorch compiles no more after eight programs of a function. What k does not allow is skipped."""
    forgotten = []
    monkeypatch.setattr(programs, "forget", forgotten.append)
    arguments = command.Arguments(
        work=("step",), peers=("ours",), programs=("ours resampled(8)",), memory=False, small=True
    )
    monkeypatch.setattr(command, "smaller", lambda a: dataclasses.replace(
        a, rounds=2, k=(1, 9), batch=(4,), samples=72, layers=(1,)
    ))  # fmt: skip
    result = command.measure(arguments, lambda line: None)
    assert forgotten == [("ours",)] * 2
    assert [row["k"] for row in result["rows"]] == [9]
    assert list(result["skipped"]) == ["ours resampled(8) (step, k = 1)"]
    # A turn is 72 samples of data: two steps of 9 x 4.
    assert "| layers | k | batch | steps |" in report.markdown(result)
    assert [row["steps"] for row in result["rows"]] == [2]
    assert not {"out", "data_dir"} & set(result["arguments"])
