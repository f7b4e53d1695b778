"""Results on disk: what survives a round trip, and that a failed write leaves nothing."""

import errno
import os
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from experiments.runner import store
from experiments.runner.contract import RunnerError


class Pair(NamedTuple):
    first: Any
    second: Any


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


@given(st.data())
def test_arrays_of_every_supported_kind_survive_bit_for_bit(tmp_path_factory, data):
    dtype = data.draw(st.sampled_from(["f4", "f8", "i4", "u1", "c8", "?", "U5"]))
    array = data.draw(st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, max_dims=3, max_side=4, min_side=0)))
    folder = tmp_path_factory.mktemp("store") / "quick"
    store.save(folder, store.to_arrays(Pair(array, 1.5)), {})
    back = store.restore(store.load(folder), Pair)
    assert back.first.dtype == array.dtype
    assert back.first.shape == array.shape
    assert back.first.tobytes() == array.tobytes()
    assert back.second == 1.5


def test_jax_arrays_numbers_texts_and_lists_become_numpy_arrays(tmp_path):
    arrays = store.to_arrays(Pair(jnp.arange(3.0), ["a", "bc"]))
    store.save(tmp_path / "quick", arrays, {"seed": 1})
    saved = store.load(tmp_path / "quick")
    np.testing.assert_array_equal(saved.arrays["first"], [0.0, 1.0, 2.0])
    assert saved.arrays["second"].tolist() == ["a", "bc"]
    assert saved.meta == {"seed": 1}


@pytest.mark.parametrize(
    "value",
    [None, {"a": 1}, (1, (2, 3)), Pair(1, [2, 3]), object(), jnp.ones(2, jnp.bfloat16), jax.random.key(0)],
    ids=["none", "dict", "ragged", "nested", "object", "bfloat16", "typed key"],
)
def test_what_cannot_be_saved_is_a_type_error_naming_the_field(value):
    with pytest.raises(TypeError, match="field 'second'"):
        store.to_arrays(Pair(1.0, value))


def test_a_result_that_is_no_named_tuple_is_refused():
    with pytest.raises(TypeError, match="NamedTuple, got dict"):
        store.to_arrays({"first": 1.0})


def test_changed_fields_are_not_filled_into_the_wrong_names(tmp_path):
    store.save(tmp_path / "quick", {"first": np.ones(2), "old": np.ones(2)}, {})
    with pytest.raises(RunnerError, match="fields changed"):
        store.restore(store.load(tmp_path / "quick"), Pair)


@pytest.mark.parametrize("failing", ["savez", "fsync"])
def test_a_full_disk_leaves_the_old_result_and_nothing_else(tmp_path, monkeypatch, failing):
    folder = tmp_path / "quick"
    store.save(folder, {"first": np.zeros(2)}, {"run": 1})

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np if failing == "savez" else os, failing, full)
    with pytest.raises(RunnerError, match=r"cannot write .*: No space left on device"):
        store.save(folder, {"first": np.ones(2)}, {"run": 2})
    monkeypatch.undo()
    assert contents(tmp_path) == ["quick"]
    assert store.load(folder).meta == {"run": 1}


def test_a_full_disk_on_the_first_result_leaves_no_folder(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunnerError, match="No space left"):
        store.save(tmp_path / "quick", {"first": np.ones(2)}, {})
    assert contents(tmp_path) == []


def test_a_failed_rename_puts_the_old_result_back(tmp_path, monkeypatch):
    folder = tmp_path / "quick"
    store.save(folder, {"first": np.zeros(2)}, {"run": 1})
    rename = type(folder).rename

    def fail_on_the_new_one(self, target):
        if ".tmp-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(folder), "rename", fail_on_the_new_one)
    with pytest.raises(RunnerError, match="Input/output error"):
        store.save(folder, {"first": np.ones(2)}, {"run": 2})
    assert contents(tmp_path) == ["quick"]
    assert store.load(folder).meta == {"run": 1}


def test_what_dead_processes_left_is_removed_and_what_they_moved_aside_comes_back(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".quick.tmp-{dead.pid}").mkdir()
    (tmp_path / f".full.old-{dead.pid}").mkdir()
    (tmp_path / f".full.old-{dead.pid}" / "meta.json").write_text("{}")
    (tmp_path / f".quick.tmp-{os.getppid()}").mkdir()
    store.prepare(tmp_path)
    assert contents(tmp_path) == [f".quick.tmp-{os.getppid()}", "full"]
    assert contents(tmp_path / "full") == ["meta.json"]


def test_a_damaged_result_is_named(tmp_path):
    store.save(tmp_path / "quick", {"first": np.ones(2)}, {})
    (tmp_path / "quick" / store.ARRAYS).write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(RunnerError, match=r"cannot be read .*--force"):
        store.load(tmp_path / "quick")
