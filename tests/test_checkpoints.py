import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iwae_jax
from iwae_jax import TrainState
from iwae_jax.training.checkpoints import Checkpoints, _digest, _named_leaves
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
    assert Checkpoints(tmp_path / "new").restore(state) is None
    Checkpoints(tmp_path / "new").save(3, state)
    restored = Checkpoints(tmp_path / "new").restore(TrainState.create(small(2), optimizer))
    assert restored is not None
    assert restored[0] == 3
    assert_equal(restored[1], state)


@pytest.mark.parametrize(("keep", "left"), [(1, [10]), (2, [5, 10]), (3, [2, 5, 10])])
def test_the_newest_are_kept(tmp_path, keep, left):
    saved = Checkpoints(tmp_path, keep=keep)
    for step in (1, 2, 5, 10):
        saved.save(step, {"a": jnp.full(3, float(step))})
    assert saved.steps == left
    names = {f"{step}{end}" for step in left for end in ("", ".sha256")}
    assert {file.name for file in tmp_path.iterdir()} == names
    restored = saved.restore({"a": jnp.zeros(3)})
    assert restored is not None
    assert restored[0] == 10
    assert restored[1]["a"].tolist() == [10, 10, 10]


def invert(folder):
    """Invert half of every file."""
    for file in folder.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            file.write_bytes(bytes(255 - byte for byte in content[: len(content) // 2]))


def flip_a_bit(folder):
    """Flip one bit of the largest file, which usually holds the weights."""
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_a_file(folder):
    next(file for file in sorted(folder.rglob("*")) if file.is_file()).unlink()


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def lose_the_digest(folder):
    """As a kill between the checkpoint and its digest does."""
    folder.with_suffix(".sha256").unlink()


@pytest.mark.parametrize("damage", [invert, flip_a_bit, lose_a_file, empty, lose_the_digest])
def test_a_damaged_newest_one_is_skipped_with_a_warning_that_names_it(tmp_path, damage):
    optimizer = optax.adam(1e-2)
    older, newer = trained(1, optimizer), trained(2, optimizer)
    saved = Checkpoints(tmp_path)
    saved.save(1, older)
    saved.save(2, newer)
    damage(tmp_path / "2")
    with pytest.warns(
        UserWarning, match=f"Skipped the (damaged|unfinished) checkpoint {tmp_path}/2"
    ):
        restored = Checkpoints(tmp_path).restore(older)
    assert restored is not None
    assert restored[0] == 1
    assert_equal(restored[1], older)
    # Its number can be reused.
    saved.save(2, newer)
    again = Checkpoints(tmp_path).restore(older)
    assert again is not None
    assert again[0] == 2
    assert_equal(again[1], newer)


def test_a_digest_is_of_names_and_contents(tmp_path):
    """Other bytes, another name, another place or bytes moved to the next file: another digest."""
    layouts = [
        {"a": b"one", "sub/b": b"two"},
        {"a": b"onE", "sub/b": b"two"},
        {"c": b"one", "sub/b": b"two"},
        {"a": b"one", "b": b"two"},
        {"a": b"on", "sub/b": b"etwo"},
        {"a": b"one"},
    ]
    digests = []
    for number, contents in enumerate(layouts):
        for name, content in contents.items():
            file = tmp_path / str(number) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        digests.append(_digest(tmp_path / str(number)))
    assert len(set(digests)) == len(layouts)
    assert _digest(tmp_path / "0") == digests[0]


def test_a_file_that_orbax_does_not_check_is_in_the_digest(tmp_path):
    """Orbax alone would restore this checkpoint without a word."""
    saved = Checkpoints(tmp_path)
    saved.save(1, {"a": jnp.ones(3)})
    (tmp_path / "1" / "note").write_text("added later")
    with (
        pytest.warns(UserWarning, match="its files have changed since they were written"),
        pytest.raises(ValueError, match="Expected a readable checkpoint"),
    ):
        saved.restore({"a": jnp.ones(3)})


def test_a_kill_before_the_digest_of_the_first_one_leaves_none(tmp_path):
    """There is nothing to restore, and nothing is damaged: a run starts from its beginning."""
    Checkpoints(tmp_path).save(1, {"a": jnp.ones(3)})
    lose_the_digest(tmp_path / "1")
    with pytest.warns(UserWarning, match=f"Skipped the unfinished checkpoint {tmp_path}/1"):
        assert Checkpoints(tmp_path).restore({"a": jnp.zeros(3)}) is None
    Checkpoints(tmp_path).save(1, {"a": jnp.ones(3)})
    restored = Checkpoints(tmp_path).restore({"a": jnp.zeros(3)})
    assert restored is not None and restored[0] == 1


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    Checkpoints(tmp_path).save(1, {"a": jnp.ones(3)})
    flip_a_bit(tmp_path / "1")
    with (
        pytest.warns(UserWarning, match="Skipped"),
        pytest.raises(ValueError, match="Expected a readable checkpoint"),
    ):
        Checkpoints(tmp_path).restore({"a": jnp.ones(3)})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            {"a": jnp.ones(4)},
            r"Expected the leaf \['a'\] of the checkpoint .*1 to have shape \(4,\)",
        ),
        ({"b": jnp.ones(3)}, r"Expected the checkpoint .*1 to have the leaf \['b'\], got none"),
        ({}, r"Expected the checkpoint .*1 to fit the state, got a leaf \['a'\]"),
    ],
)
def test_a_checkpoint_of_another_model_does_not_fit_but_is_not_damaged(tmp_path, template, message):
    Checkpoints(tmp_path).save(1, {"a": jnp.ones(3)})
    with pytest.raises(ValueError, match=message) as caught:  # a warning would be an error
        Checkpoints(tmp_path).restore(template)
    assert "damaged" not in str(caught.value)


def save_in_the_old_layout(folder, step, state):
    """As the first version wrote it: no subfolder for the item."""
    ocp = pytest.importorskip("orbax.checkpoint")
    folder.mkdir(exist_ok=True)
    writer = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    writer.save(folder / str(step), args=ocp.args.StandardSave(_named_leaves(state)), force=True)
    (folder / f"{step}.sha256").write_text(_digest(folder / str(step)))


def test_a_run_goes_on_from_the_old_layout(tmp_path):
    optimizer = optax.adam(1e-2)
    old, new = trained(1, optimizer), trained(2, optimizer)
    save_in_the_old_layout(tmp_path, 1, old)
    saved = Checkpoints(tmp_path)
    assert saved.steps == [1]
    restored = saved.restore(TrainState.create(small(2), optimizer))
    assert restored is not None
    assert restored[0] == 1
    assert_equal(restored[1], old)
    # The two layouts stand next to each other: either can be restored, replaced and deleted.
    saved.save(2, new)
    assert saved.steps == [1, 2]
    restored = Checkpoints(tmp_path).restore(old)
    assert restored is not None
    assert_equal(restored[1], new)
    flip_a_bit(tmp_path / "2")
    with pytest.warns(
        UserWarning, match=f"Skipped the (damaged|unfinished) checkpoint {tmp_path}/2"
    ):
        restored = Checkpoints(tmp_path).restore(old)
    assert restored is not None
    assert_equal(restored[1], old)
    saved = Checkpoints(tmp_path)
    saved.save(1, new)
    saved.save(2, new)
    saved.save(3, new)
    assert saved.steps == [2, 3]


@pytest.mark.parametrize("damage", [flip_a_bit, lose_a_file])
def test_damage_in_the_old_layout_is_seen(tmp_path, damage):
    save_in_the_old_layout(tmp_path, 1, {"a": jnp.ones(3)})
    damage(tmp_path / "1")
    with (
        pytest.warns(UserWarning, match="Skipped the damaged checkpoint"),
        pytest.raises(ValueError, match="Expected a readable checkpoint"),
    ):
        Checkpoints(tmp_path).restore({"a": jnp.ones(3)})


@pytest.mark.parametrize(
    "save", [lambda *a: Checkpoints(a[0]).save(*a[1:]), save_in_the_old_layout]
)
def test_leaves_with_former_names(tmp_path, save):
    save(tmp_path, 1, {"theta": jnp.ones(3), "same": jnp.zeros(2)})
    template = {"p": jnp.zeros(3), "same": jnp.ones(2)}
    asked = []

    def former(name):
        asked.append(name)
        return name.replace("['p']", "['theta']")

    restored = Checkpoints(tmp_path).restore(template, former=former)
    assert restored is not None
    assert_equal(restored[1], {"p": jnp.ones(3), "same": jnp.zeros(2)})
    assert asked == ["['p']"]
    with pytest.raises(ValueError, match=r"to have the leaf \['p'\], got none"):
        Checkpoints(tmp_path).restore(template)
    with pytest.raises(ValueError, match=r"to have the leaf \['q'\], got none"):
        Checkpoints(tmp_path).restore({"q": jnp.ones(3), "same": jnp.ones(2)}, former=former)


def test_looking_at_a_folder_changes_nothing(tmp_path):
    left = tmp_path / "2.orbax-checkpoint-tmp-7"  # perhaps of a process that is saving now
    left.mkdir()
    assert Checkpoints(tmp_path).steps == []
    assert Checkpoints(tmp_path / "new").steps == []
    assert [file.name for file in tmp_path.iterdir()] == [left.name]


def test_what_a_kill_while_saving_leaves_is_cleared(tmp_path):
    left = tmp_path / "2.orbax-checkpoint-tmp-7"
    left.mkdir()
    saved = Checkpoints(tmp_path)
    assert saved.restore({"a": jnp.ones(3)}) is None
    saved.save(1, {"a": jnp.ones(3)})
    assert not left.exists()


def test_keep_is_a_positive_number(tmp_path):
    with pytest.raises(ValueError, match="Expected keep to be a positive int, got 0"):
        Checkpoints(tmp_path, keep=0)


def test_another_dtype_does_not_fit(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save(1, {"a": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"to have dtype float16, got float32"):
        saved.restore({"a": jnp.zeros(3, jnp.float16)})
