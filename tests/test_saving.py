"""The two formats of weights: what is saved comes back as it was, and no code in a file runs."""

import enum
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import torch
from helpers import Hostile

import ddpg_continuous
import ddpg_keras
import dqn

NPZ_SCRIPTS = [ddpg_keras]
if keras.config.backend() == "tensorflow":
    import ddpg_tf_explicit

    NPZ_SCRIPTS.append(ddpg_tf_explicit)
PT_SCRIPTS = [ddpg_continuous, dqn]
each_script = pytest.mark.parametrize(
    "script", [*PT_SCRIPTS, *NPZ_SCRIPTS], ids=lambda script: script.SCRIPT
)
pytestmark = pytest.mark.usefixtures("folder")

CONTENT = {
    "nothing": None,
    "truth": True,
    "integer": 3,
    "big integer": 2**127 + 1,
    "float": 0.1,
    "infinity": -np.inf,
    "text": "μ(s) is a policy",
    "no text": "",
    "list": [1, 2.5, "three", None, [4, {}]],
    "empty list": [],
    "empty dict": {},
    "nested": {"deeper": {"deepest": {"x": 1, "array": np.eye(3, dtype=np.float32)}}},
    "arrays": {
        "float32": np.float32([[0.1, 1e-40], [np.nan, -np.inf]]),
        "float64": np.array([0.1, np.pi]),
        "int64": np.array([-(2**62), 7]),
        "uint8": np.arange(256, dtype=np.uint8),
        "bool": np.array([True, False]),
        "scalar": np.array(2.5, np.float32),
        "empty": np.empty((0, 4), np.float32),
    },
    "generator": np.random.default_rng(5).bit_generator.state,
}


def assert_is_same(loaded, saved):
    """Tensors stand for arrays."""
    if isinstance(saved, dict):
        assert list(loaded) == list(saved)
        for name in saved:
            assert_is_same(loaded[name], saved[name])
    elif isinstance(saved, np.ndarray):
        loaded = np.asarray(loaded)
        assert loaded.dtype == saved.dtype
        np.testing.assert_array_equal(loaded, saved)
    else:
        assert type(loaded) is type(saved)
        assert loaded == saved


@each_script
def test_weights_come_back_as_they_were_saved(script):
    file = Path(f"content{script.SUFFIX}")
    script.save_weights(file, CONTENT)
    loaded = script.load_weights(file)
    assert loaded.pop("script") == script.SCRIPT
    assert_is_same(loaded, CONTENT)
    assert os.listdir() == [file.name], "no half-written file is left"


@each_script
def test_a_generator_goes_on_where_its_saved_state_was(script):
    rng = np.random.default_rng(5)
    rng.standard_normal(3, np.float32)  # half of a 64-bit number is left for the next
    script.save_weights(Path("file"), {"rng": rng.bit_generator.state})
    expected = rng.standard_normal(5, np.float32)
    other = np.random.default_rng()
    other.bit_generator.state = script.load_weights(Path("file"))["rng"]
    np.testing.assert_array_equal(other.standard_normal(5, np.float32), expected)


@each_script
def test_json_comes_back_as_it_was_saved(script):
    content = {name: value for name, value in CONTENT.items() if name != "arrays"}
    content["nested"] = {"deeper": {"deepest": 1}}
    script.save_json(Path("content.json"), content)
    assert script.load_json(Path("content.json")) == {"script": script.SCRIPT, **content}


@each_script
def test_what_another_script_wrote_is_refused_and_that_script_named(script):
    other = {**CONTENT, "script": "another"}
    script.save_weights(Path("weights"), other)
    script.save_json(Path("content.json"), {"script": "another"})
    with pytest.raises(script.RunError, match=r"weights.*another\.py"):
        script.load_weights(Path("weights"))
    with pytest.raises(script.RunError, match=r"content\.json.*another\.py"):
        script.load_json(Path("content.json"))


@each_script
def test_numbers_of_numpy_come_back_as_plain_ones(script):
    content = {"float": np.float64(0.1), "int": np.int64(3), "bool": np.True_}
    script.save_weights(Path("file"), content)
    loaded = script.load_weights(Path("file"))
    assert_is_same({name: loaded[name] for name in content}, {"float": 0.1, "int": 3, "bool": True})


class Enumerated(enum.IntEnum):
    ONE = 1


UNLOADABLE = {
    "a path": Path("x"),
    "a set": {1, 2},
    "a complex number": 1 + 2j,
    "an object": SimpleNamespace(x=1),
    "text in an array": np.array(["a", "b"]),
    "objects in an array": np.array([None, {}]),
    "a path in a list": [1, [Path("x")]],
    "a key that is no text": {(1, 2): 3},
}


@each_script
@pytest.mark.parametrize("kind", UNLOADABLE)
def test_what_could_not_be_loaded_is_not_written_and_its_place_named(kind, script):
    file = Path("file")
    script.save_weights(file, {"old": 1})
    with pytest.raises(script.RunError, match=r"here.*cannot be saved"):
        script.save_weights(file, {"new": {"here": UNLOADABLE[kind]}})
    assert script.load_weights(file)["old"] == 1
    assert os.listdir() == [file.name]


def test_in_an_npz_a_key_has_no_slash_which_would_split_it():
    with pytest.raises(ddpg_keras.RunError, match="a/b cannot be saved"):
        ddpg_keras.save_weights(Path("file"), {"a/b": 1})


def test_in_a_pt_file_whatever_torch_itself_would_refuse_is_not_written():
    with pytest.raises(dqn.RunError, match="a/1/0 cannot be saved"):
        dqn.save_weights(Path("file"), {"a": [1, [Path("x")]]})
    for value in (Enumerated.ONE, np.array([1.0], ">f4")):
        with pytest.raises(dqn.RunError, match="cannot be saved"):
            dqn.save_weights(Path("file"), {"value": value})
    arrays = {"reversed": np.arange(3)[::-1], "list": [np.eye(2), (1, 2)]}
    dqn.save_weights(Path("file"), arrays)
    loaded = dqn.load_weights(Path("file"))
    assert loaded["reversed"].tolist() == [2, 1, 0]
    assert loaded["list"][0].tolist() == [[1, 0], [0, 1]]
    assert loaded["list"][1] == (1, 2)


def test_arrays_in_an_npz_have_the_names_that_lead_to_them():
    ddpg_keras.save_weights(Path("file.npz"), CONTENT)
    with np.load("file.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["nested/deeper/deepest/array"], np.eye(3))
        assert file["text"].item() == '"\\u03bc(s) is a policy"'


# ------------------------------------------------------------------------------------ hostile files
def hostile_pickle(file, _):
    file.write_bytes(pickle.dumps(Hostile()))


def hostile_weights(file, script):
    """In the script's own format."""
    if script in PT_SCRIPTS:
        torch.save({"script": script.SCRIPT, "agent": Hostile()}, file)
    else:
        objects = np.array([Hostile()], dtype=object)
        with file.open("wb") as opened:
            np.savez(opened, script=np.array(f'"{script.SCRIPT}"'), objects=objects)


def run_what_is_in(file, script):
    """As a program that trusts the file."""
    if script in PT_SCRIPTS:
        torch.load(file, weights_only=False)
    else:
        with np.load(file, allow_pickle=True) as opened:
            opened["objects"]


@each_script
@pytest.mark.parametrize("write", [hostile_pickle, hostile_weights])
def test_no_code_in_a_hostile_file_runs(write, script):
    file = Path(f"file{script.SUFFIX}")
    write(file, script)
    with pytest.raises(script.RunError, match="damaged or foreign"):
        script.load_weights(file)
    assert not Path("hacked").exists()


@each_script
def test_that_file_would_have_run_code(script):
    file = Path(f"file{script.SUFFIX}")
    hostile_weights(file, script)
    run_what_is_in(file, script)
    assert Path("hacked").exists()
