"""What several test modules share and needs no fixture (fixtures: conftest.py)."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import study
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

# Before a script is imported, which sets what its engine reads; whatever one's keras.json says
OF_THE_SHELL = {"KERAS_BACKEND": "tensorflow", **os.environ}
ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / "tests" / "environments"
LOGS = ("episodes.csv", "evaluations.csv", "updates.csv")

# Flags of short runs of ddpg_continuous.py
SMALL = (
    *("--hidden-sizes", 16, 16, "--batch-size", 8),
    *("--learning-starts", 50, "--eval-episodes", 2),
)
SMOKE = (
    *("--env-id", "LunarLanderContinuous-v2", *SMALL, "--total-timesteps", 600),
    *("--eval-every", 250, "--checkpoint-every", 400, "--noise-sigma", 0.3),
)
POINT = ("--env-id", "point_environments:Point-v0", *SMALL)
QUICK = ("--env-id", "point_environments:Quick-v0", *SMALL, "--eval-every", 0)
# And of ddpg_tf_explicit.py and ddpg_keras.py
SHORT_NPZ = (
    *("--env-id", "Pendulum-v1", "--hidden-sizes", 16, 16, "--batch-size", 8),
    *("--learning-starts", 50, "--eval-episodes", 1, "--total-timesteps", 450),
    *("--eval-every", 300, "--checkpoint-every", 400, "--norm", "batch"),
)


class Hostile:
    """What a hostile file holds: to load it as a pickle would run a command."""

    def __reduce__(self):
        return os.mkdir, ("hacked",)


class Killed(BaseException):
    """Ends a run at once, as a kill would: nothing in a script catches it."""


# ----------------------------------------------------------------------------- command lines, files
def refused(result, *parts):
    """Of a command line: it ended with status 2, and its last line says why, in these words.

    Gives that line.
    """
    status, _, err = result
    assert status == 2, err
    assert "Traceback" not in err
    message = err.splitlines()[-1]
    for part in parts:
        assert part in message, message
    return message


def process_variables(**more):
    """The environment variables of a script's process that finds the tests' environments."""
    return {**OF_THE_SHELL, "PYTHONPATH": f"{ROOT}{os.pathsep}{ENVIRONMENTS}", **more}


def run_until_killed(script, step, command, monkeypatch, *flags):
    """Runs the command line up to a step, where it is killed."""
    after_step = script.Run.after_step

    def die(run, *values):
        after_step(run, *values)
        if run.progress.step == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(script.Run, "after_step", die)
        with pytest.raises(Killed):
            command(*flags)


def train_in(folder, script, *flags):
    """Trains by a script's command line, in this process and in this folder.

    The flags name the run "run". Gives its directory.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(script, "plot", lambda *_: None)
        patch.setattr(sys, "argv", [script.SCRIPT, *map(str, flags)])
        script.run_command()
    return folder / "runs" / "run"


def note_terminated(script, monkeypatch):
    """A list that gets, for each transition, whether it is stored as a terminal one."""
    stored = []
    add = script.ReplayBuffer.add

    def note_and_add(replay, s, a, r, terminated, next_s):
        stored.append(terminated)
        add(replay, s, a, r, terminated, next_s)

    monkeypatch.setattr(script.ReplayBuffer, "add", note_and_add)
    return stored


def wait_for(condition, process):
    """Waits until the condition holds while the process runs."""
    until = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, f"ended before: {process.communicate()}"
        assert time.monotonic() < until, "waited five minutes in vain"
        time.sleep(0.002)


def kill_after_its_first_checkpoint(start, run, *flags):
    """Runs a script's command line in a process of its own, and ends it by SIGKILL."""
    process = start(*flags, "--run-name", run.name)
    wait_for(lambda: checkpoint_step(run) > 0, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def cut_off(path):
    """A file whose end is lost."""
    path.write_bytes(path.read_bytes()[:-500])


def snapshot(path):
    """The content of every file below a directory."""
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def summary(run):
    return json.loads((run / "summary.json").read_text())


def arguments(run):
    return json.loads((run / "args.json").read_text())["args"]


def change_arguments(run, **values):
    """Changes a run's args.json."""
    file = run / "args.json"
    content = json.loads(file.read_text())
    content["args"].update(values)
    file.write_text(json.dumps(content))


# --------------------------------------------------------------------------------------------- runs
def assert_same_logs(run, reference):
    for log in LOGS:
        assert (run / log).read_bytes() == (reference / log).read_bytes(), log


def points_in_csvs(run):
    """What the CSVs say, by tag and step; without the single episodes of the evaluations."""
    points = {}
    for log in LOGS:
        if (run / log).exists():
            table = pd.read_csv(run / log, index_col="step")
            for name in table:
                if not name.startswith("episode_"):
                    tag = f"{log.removesuffix('.csv')}/{name}"
                    points.update({(tag, step): value for step, value in table[name].items()})
    return points


def events(run):
    """Every (tag, step, value) in a run's TensorBoard files: nothing merged, nothing dropped."""
    found = []
    for file in sorted(run.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                found.append((value.tag, event.step, float(make_ndarray(value.tensor))))
    return found


def assert_events_equal_csvs(run):
    points = events(run)
    values = {(tag, step): value for tag, step, value in points}
    assert len(values) == len(points), "a point stands there twice"
    speeds = {step for tag, step in values if tag == "SPS"}
    assert speeds == {step for tag, step in values if tag == "updates/q"}
    logged = {point: value for point, value in values.items() if point[0] != "SPS"}
    in_csvs = points_in_csvs(run)
    assert logged == {point: float(np.float32(value)) for point, value in in_csvs.items()}


def load(path):
    """What a .pt file holds, by torch alone."""
    return torch.load(path, weights_only=True)


def checkpoint_step(run):
    """The step of a run's last checkpoint; 0 before there is one."""
    file = run / "checkpoint.pt"
    if not file.exists():
        return 0
    return load(file)["progress"]["step"]


def leaves(content):
    """The tensors and numbers in nested containers, in order."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list | tuple):
        return [leaf for value in content for leaf in leaves(value)]
    if isinstance(content, torch.Tensor | int | float):
        return [torch.as_tensor(content)]
    return []


def is_all_finite(content):
    return all(leaf.isfinite().all() for leaf in leaves(content))


def is_same(one, other):
    """Whether the agents, or their networks, of two .pt files are equal, bit for bit."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    assert len(pairs) >= 6
    return all(torch.equal(x, y) for x, y in pairs)


def assert_same_run(run, reference):
    """Bit for bit: logs, last and best weights with optimisers and targets; events; summary."""
    assert_same_logs(run, reference)
    for name in ("last.pt", "best.pt"):
        assert is_same(load(run / name)["agent"], load(reference / name)["agent"]), name
    assert_events_equal_csvs(run)
    for key in ("steps", "episodes", "solved_at_step_by", "final_evaluation", "best_evaluation"):
        assert summary(run)[key] == summary(reference)[key], key


# ------------------------------------------------------------------------------------------- arrays
def identical(one, other):
    """Two lists of arrays, bit for bit."""
    assert len(one) == len(other)
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


def relative_error(x, y):
    """‖x − y‖ / ‖y‖; torch keeps a layer's weights as (out, in), Keras as (in, out)."""
    x, y = as_array(x), as_array(y)
    if x.shape != y.shape:
        x = x.T
    assert x.shape == y.shape
    return np.linalg.norm(x - y) / np.linalg.norm(y)


def as_array(x):
    if hasattr(x, "detach"):
        x = x.detach()
    return np.asarray(x, np.float64)


def continuous_batch(size=16, seed=0, observation_size=3, action_size=2, dtype=np.float32):
    """Transitions with continuous actions, as ReplayBuffer.sample gives them (those: float32).

    Three in ten end the task.
    """
    rng = np.random.default_rng(seed)
    s, next_s = rng.normal(size=(2, size, observation_size))
    a = rng.uniform(-1, 1, (size, action_size))
    r = rng.normal(size=(size, 1))
    terminated = rng.random((size, 1)) < 0.3
    return [x.astype(dtype) for x in (s, a, r, terminated, next_s)]


def adam(weights, gradients, state, rate=1e-3):
    """One Adam for every framework, as torch's: new weights, from arrays; `state` is its memory."""
    state["t"] = state.get("t", 0) + 1
    t = state["t"]
    new = []
    for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
        m, v = state.get(i, (0 * w, 0 * w))
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        state[i] = (m, v)
        new.append(w - rate * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
    return new


# ------------------------------------------------------------------------------ scripts and studies
def algorithm_of(script):
    """What is above the training in a script's file, executed on its own: its names."""
    lines = Path(script.__file__).read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if re.fullmatch(r"# -+ the training", line))
    alone = {"__name__": "alone"}
    exec("\n".join(lines[:end]), alone)
    return alone


def pretend(trial, **values):
    """Writes what a finished run of a study leaves in its directory, and the repository keeps."""
    trial.path.mkdir(parents=True, exist_ok=True)
    wanted = trial.identity()
    args = wanted.args
    content = {
        "script": Path(wanted.script).stem,
        "args": {**study.defaults(wanted.script), **args},
        "versions": {"python": "3"},
    }
    (trial.path / "args.json").write_text(json.dumps(content))
    steps = args["total_timesteps"]
    content = {"steps": steps, "final_evaluation": {"step": steps}, **values}
    (trial.path / "summary.json").write_text(json.dumps(content))


def heed_sigint():
    """What a process begins with that Ctrl-C is to reach: a shell may have switched it off."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def resident_bytes():
    """The memory that this process holds at present (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# ------------------------------------------------------------------------------------------ numbers
def gradient(network):
    """All of a torch network's gradient, as one vector on the CPU."""
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).cpu()


def assert_close(one, other, tolerance=1e-5):
    """The difference's norm is small beside the norm itself."""
    one, other = one.cpu().double(), other.cpu().double()
    assert torch.linalg.norm(one - other) <= tolerance * torch.linalg.norm(other)
