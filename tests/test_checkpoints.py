import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iwae_jax
from iwae_jax import TrainState
from iwae_jax.checkpoints import Checkpoints
from tests.test_importance import KEY, binary, small


def trained(steps, optimizer):
    state = TrainState.create(small(2), optimizer)
    for i in range(steps):
        state, _ = iwae_jax.train_step(state, binary(4), jax.random.fold_in(KEY, i), 3)
    return state


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def test_a_state_comes_back_bit_for_bit(tmp_path):
    optimizer = optax.adam(1e-2)
    state = trained(3, optimizer)
    with Checkpoints(tmp_path) as saved:
        assert saved.restore(state) is None
        saved.save(3, state)
    with Checkpoints(tmp_path) as saved:
        restored = saved.restore(TrainState.create(small(2), optimizer))
    assert restored is not None
    assert restored[0] == 3
    assert_equal(restored[1], state)


def test_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2) as saved:
        for step in (1, 2, 5):
            saved.save(step, {"a": jnp.full(3, float(step))})
        step, state = saved.restore({"a": jnp.zeros(3)})  # type: ignore[misc]
    assert step == 5 and state["a"].tolist() == [5, 5, 5]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["2", "5"]


def damage(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        if file.stat().st_size > 0 and not file.name.endswith("METADATA"):
            content = file.read_bytes()
            file.write_bytes(bytes(255 - byte for byte in content[: len(content) // 2]))


def test_a_damaged_newest_one_is_skipped_with_a_warning_that_names_it(tmp_path):
    optimizer = optax.adam(1e-2)
    older, newer = trained(1, optimizer), trained(2, optimizer)
    with Checkpoints(tmp_path) as saved:
        saved.save(1, older)
        saved.save(2, newer)
    damage(tmp_path / "2")
    with Checkpoints(tmp_path) as saved:
        with pytest.warns(UserWarning, match=f"Skipped the damaged checkpoint {tmp_path}/2"):
            restored = saved.restore(older)
        assert restored is not None and restored[0] == 1
        assert_equal(restored[1], older)
        # The damaged one's number can be written again.
        saved.save(2, newer)
        again = saved.restore(older)
    assert again is not None and again[0] == 2
    assert_equal(again[1], newer)


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {"a": jnp.ones(3)})
    damage(tmp_path / "1")
    with (
        Checkpoints(tmp_path) as saved,
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match="Expected a readable checkpoint"),
    ):
        saved.restore({"a": jnp.ones(3)})


def test_another_shape_is_not_restored_silently(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {"a": jnp.ones(3)})
        with pytest.warns(UserWarning), pytest.raises(ValueError, match="readable checkpoint"):
            saved.restore({"a": jnp.ones(4)})
