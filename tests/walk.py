"""Compares two objects in everything that can be reached from them, whatever it is.

So a test can find what changes during a training and is missing in a checkpoint.
"""

import types
from collections import deque

import numpy as np
import pytest
import torch

# A generator's state is compared; the seed that it may have been made of long before is not
IGNORED_ATTRIBUTES = {"_np_random_seed"}
CODE = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
)
PLAIN = (
    *(bool, int, float, str, bytes, set, frozenset),
    *(np.generic, np.dtype, torch.dtype, torch.device),
)
CONTAINERS = (dict, list, tuple, deque)


def differences(one, other, path="training"):
    """The paths at which two objects differ.

    An object or array that stands at two places in one of them has to do so in the other.
    """
    found = []
    compare(one, other, path, {}, found)
    return found


def compare(one, other, path, partners, found):
    """Adds to `found` where two objects differ; `partners` has the pairs of those seen so far."""
    if one is other or is_code(one):
        return
    if type(one) is not type(other):
        found.append(path)
        return
    if is_plain(one):
        if not is_equal(one, other):
            found.append(path)
        return
    if id(one) in partners:
        _, partner = partners[id(one)]
        if partner is other:
            return
        if not isinstance(one, CONTAINERS):
            found.append(f"{path} (shared)")
            return
    partners[id(one)] = (one, other)
    array = as_array(one)
    if array is not None:
        if not np.array_equal(array, as_array(other), equal_nan=True):
            found.append(path)
        return
    inner, others = parts(one), parts(other)
    for name in {**inner, **others}:
        if name not in inner or name not in others:
            found.append(f"{path}.{name}")
        else:
            compare(inner[name], others[name], f"{path}.{name}", partners, found)


def is_code(x):
    """Functions, classes and modules; and TensorFlow's compiled functions."""
    return isinstance(x, CODE) or type(x).__module__.startswith("tensorflow.python.eager")


def is_plain(x):
    """A value without parts that could change."""
    return x is None or isinstance(x, PLAIN)


def is_equal(one, other):
    is_nan = one != one
    return one == other or (is_nan and other != other)


def as_array(x):
    """The values of an array, a tensor or a variable of any framework; None of anything else."""
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, torch.Tensor):
        return x.detach().cpu().numpy()
    if hasattr(x, "numpy"):  # of TensorFlow and Keras
        return np.array(x.numpy())
    if hasattr(x, "__array__"):
        return np.array(x)
    return None


def is_keras(x):
    return type(x).__module__.partition(".")[0] == "keras"


def parts(x):
    """What an object consists of, by name."""
    if isinstance(x, np.random.Generator):
        return parts(x.bit_generator.state)
    if is_keras(x) and hasattr(x, "variables"):  # a model or an optimiser
        return dict(enumerate(x.variables))
    if isinstance(x, dict):
        if all(isinstance(key, str) for key in x):
            return dict(x)
        return parts(list(x.items()))
    if isinstance(x, list | tuple | deque):
        return dict(enumerate(x))
    if hasattr(x, "__dict__"):
        return {key: value for key, value in vars(x).items() if key not in IGNORED_ATTRIBUTES}
    raise TypeError(f"how to compare a {type(x)}?")


# -------------------------------------------------------------------- a training and its checkpoint
class Made(Exception):
    """Carries a Training out of train()."""


def new_training(script, args):
    """A Training before its first step, as train() makes it."""

    def open_run(path, args, training, threshold):
        raise Made(training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "open_run", open_run)
        with pytest.raises(Made) as made:
            script.train(args)
    return made.value.args[0]


def differences_after_restoring(script, args):
    """Trains, and at each checkpoint compares what goes on with what a resumed run would have.

    Gives the differences between the two at each checkpoint; and those between what goes on and a
    Training that has not restored it.
    """
    write_checkpoint = script.write_checkpoint
    found = []
    found_without = []

    def write_and_compare(path, run_args, training):
        write_checkpoint(path, run_args, training)
        if training.progress.step == 0:
            return  # nothing has changed yet
        restored = new_training(script, run_args)
        found_without.append(differences(training, restored))
        restored.set_state(script.load_weights(path / f"checkpoint{script.SUFFIX}"))
        found.append(differences(training, restored))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "plot", lambda *_: None)
        patch.setattr(script, "write_checkpoint", write_and_compare)
        script.train(args)
    return found, found_without
