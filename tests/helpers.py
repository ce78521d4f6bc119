"""What several test modules share and needs no fixture (fixtures: conftest.py)."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import study

LOGS = ("episodes.csv", "evaluations.csv", "updates.csv")


class Hostile:
    """What a hostile file holds: to load it as a pickle would run a command."""

    def __reduce__(self):
        return os.mkdir, ("hacked",)


class Killed(BaseException):
    """Ends a run at once, as a kill would."""


def truncated(path):
    path.write_bytes(path.read_bytes()[:-500])


def refused(result, *parts):
    """Of a command line: it ended with status 2 and one line, which has these parts."""
    status, _, err = result
    assert status == 2
    assert len(err.splitlines()) == 1, err
    for part in parts:
        assert part in err
    assert "Traceback" not in err


def run_until_killed(script, step, command, monkeypatch, *flags):
    """Runs the command line up to a step, where it is killed."""
    after_step = script.Run.after_step

    def dying(run, *values):
        after_step(run, *values)
        if run.step == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(script.Run, "after_step", dying)
        with pytest.raises(Killed):
            command(*flags)


def assert_same_logs(run, reference):
    for log in LOGS:
        assert (run / log).read_bytes() == (reference / log).read_bytes(), log


def identical(one, other):
    """Two lists of arrays, bit for bit."""
    assert len(one) == len(other)
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


def continuous_batch(size=16, seed=0, observation_size=3, action_size=2):
    """Transitions with continuous actions, float32, as ReplayMemory.sample gives them; 3 in 10 end the task."""
    rng = np.random.default_rng(seed)
    s, next_s = rng.normal(size=(2, size, observation_size))
    a, r = rng.uniform(-1, 1, (size, action_size)), rng.normal(size=(size, 1))
    return [x.astype(np.float32) for x in (s, a, r, rng.random((size, 1)) < 0.3, next_s)]


def algorithm_of(script):
    """What is above the training in a script's file, executed on its own: its names."""
    lines = Path(script.__file__).read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if re.fullmatch(r"# -+ the training", line))
    alone = {"__name__": "alone"}
    exec("\n".join(lines[:end]), alone)
    return alone


def relative_error(x, y):
    """‖x − y‖ / ‖y‖; torch keeps a layer's weights as (out, in), Keras as (in, out)."""
    x, y = (np.asarray(z.detach() if hasattr(z, "detach") else z, np.float64) for z in (x, y))
    x = x.T if x.shape != y.shape else x
    assert x.shape == y.shape
    return np.linalg.norm(x - y) / np.linalg.norm(y)


def adam(weights, gradients, state, rate=1e-3):
    """One Adam for every framework, as torch's: new weights, from arrays; `state` is its memory."""
    state["t"] = t = state.get("t", 0) + 1
    new = []
    for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
        m, v = state.get(i, (0 * w, 0 * w))
        state[i] = m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        new.append(w - rate * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
    return new


def pretend(this, **summary):
    """Writes what a finished run leaves in its directory, and the repository keeps."""
    this.path.mkdir(parents=True, exist_ok=True)
    script, _, args = this.identity()
    content = {"script": Path(script).stem, "args": {**study.defaults(script), **args}, "versions": {"python": "3"}}
    (this.path / "args.json").write_text(json.dumps(content))
    steps = args["total_timesteps"]
    summary = {"steps": steps, "final_evaluation": {"step": steps}, **summary}
    (this.path / "summary.json").write_text(json.dumps(summary))
