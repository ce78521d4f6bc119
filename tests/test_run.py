"""A run: what it leaves behind, that it repeats and resumes exactly, and how it ends when something goes wrong."""

import errno
import fcntl
import importlib
import json
import math
import os
import pty
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from moviepy import VideoFileClip
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray
from tqdm import tqdm

import ddpg_continuous as script

LOGS = ("episodes.csv", "evaluations.csv", "updates.csv")
SMALL = ("--hidden-sizes", 16, 16, "--batch-size", 8, "--learning-starts", 50, "--eval-episodes", 2)
SMOKE = ("--env-id", "LunarLanderContinuous-v2", *SMALL, "--total-timesteps", 600, "--eval-every", 250)
SMOKE = (*SMOKE, "--checkpoint-every", 200, "--noise-sigma", 0.3, "--noise-decay-steps", 0)
POINT = ("--env-id", "point_environments:Point-v0", *SMALL)
QUICK = ("--env-id", "point_environments:Quick-v0", *SMALL, "--eval-every", 0)

MODULES = {
    "point_environments": '''
"""One's own environments, as a user has them: in a file of the current folder."""
import gymnasium as gym
import numpy as np


class Point(gym.Env):
    """A point that is pushed along a line. Like a Box2D world, it remembers something across its resets: `drift`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(np.float32([-1]), np.float32([3]))
    steps = 0  # of all of them together

    def __init__(self, length=10, fault_at=10**9, reward=None, observation=None, evaluation=False, render_mode=None):
        self.length, self.render_mode, self.drift = length, render_mode, 0.0
        self.fault_at, self.faulty_reward, self.faulty_observation = fault_at, reward, observation
        self.only_evaluation = evaluation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.age = self.np_random.uniform(-1, 1), 0
        self.faulty = not self.only_evaluation or (seed or 0) >= 1_000_000
        return np.float32([self.x, self.drift]), {}

    def step(self, action):
        Point.steps += 1
        self.age += 1
        self.drift += 0.01 * action[0]
        self.x += 0.1 * action[0] + self.drift
        observation, reward = np.float32([self.x, self.drift]), 1 - abs(self.x) / 1000
        if Point.steps >= self.fault_at and self.faulty:
            reward = self.faulty_reward or reward
            observation = np.float32([self.x, self.faulty_observation]) if self.faulty_observation else observation
        return observation, reward, False, self.age == self.length, {}

    def render(self):
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[20:40, 4 * self.age : 4 * self.age + 16] = (255, 160, 0)
        return frame


gym.register("Point-v0", Point)
gym.register("Quick-v0", Point, reward_threshold=1.5, kwargs={"length": 2})
gym.register("NanReward-v0", Point, kwargs={"fault_at": 75, "reward": np.nan})
gym.register("InfiniteReward-v0", Point, kwargs={"fault_at": 75, "reward": -np.inf})
gym.register("OverflowingReward-v0", Point, kwargs={"fault_at": 75, "reward": 1e39})
gym.register("NanObservation-v0", Point, kwargs={"fault_at": 75, "observation": np.nan})
gym.register("NanInEvaluation-v0", Point, kwargs={"fault_at": 75, "reward": np.nan, "evaluation": True})
gym.register("NanAtOnce-v0", Point, kwargs={"fault_at": 1, "reward": np.nan, "evaluation": True})
gym.register("HugeReward-v0", Point, kwargs={"fault_at": 125, "reward": 1e30})
'''
}


# ----------------------------------------------------------------------------------------------------------- helpers
@pytest.fixture(autouse=True)
def no_steps_yet(folder, monkeypatch):
    monkeypatch.setattr(importlib.import_module("point_environments").Point, "steps", 0)


WITHOUT_PLOTS = ("-c", "import ddpg_continuous as script; script.plot = lambda *_: None; script.main()")


@pytest.fixture
def start(folder):
    """Starts the command line in a process of its own, too without plots; the test's end ends it."""
    processes = []

    def run(*flags, program=WITHOUT_PLOTS, **options):
        path = {"PYTHONPATH": str(Path(script.__file__).parent), "COLUMNS": "160"}
        environment = {**os.environ, **path, **options.pop("env", {})}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder, **options}
        command = [sys.executable, *map(str, [*program, *flags])]
        processes.append(subprocess.Popen(command, env=environment, **options))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(condition, process):
    """Waits until the condition holds while the process runs."""
    until = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, f"ended before: {process.communicate()}"
        assert time.monotonic() < until, "waited five minutes in vain"
        time.sleep(0.002)


def load(path):
    return torch.load(path, weights_only=True)


def leaves(content):
    """The tensors and numbers in nested containers, in order."""
    if isinstance(content, dict | list | tuple):
        values = content.values() if isinstance(content, dict) else content
        return [leaf for value in values for leaf in leaves(value)]
    return [torch.as_tensor(content)] if isinstance(content, torch.Tensor | int | float) else []


def same(one, other):
    """Whether two files' tensors are equal, bit for bit."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    assert len(pairs) > 20  # networks, targets, optimisers
    return all(torch.equal(a, b) for a, b in pairs)


def summary(run):
    return json.loads((run / "summary.json").read_text())


def events(run):
    """Every (tag, step, value) in a run's TensorBoard files as it stands there: nothing merged, nothing dropped."""
    return [
        (value.tag, event.step, float(make_ndarray(value.tensor)))
        for file in sorted(run.glob("events.out.tfevents.*"))
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]


def points_in_csvs(run):
    """What the CSVs say, by tag and step; without the single episodes of the evaluations."""
    return {
        (f"{log.removesuffix('.csv')}/{name}", step): value
        for log in LOGS
        if (run / log).exists()
        for name, column in pd.read_csv(run / log, index_col="step").items()
        if not name.startswith("episode_")
        for step, value in column.items()
    }


def assert_events_equal_csvs(run):
    points = events(run)
    values = {(tag, step): value for tag, step, value in points}
    assert len(values) == len(points), "a point stands there twice"
    speeds = {step for tag, step in values if tag == "SPS"}
    assert speeds == {step for tag, step in values if tag == "updates/q"}
    expected = {point: float(np.float32(value)) for point, value in points_in_csvs(run).items()}
    assert {(tag, step): value for (tag, step), value in values.items() if tag != "SPS"} == expected


def assert_same_run(run, reference):
    """Bit for bit: logs, last weights with optimisers and targets, best weights; TensorBoard's points; the summary."""
    for log in LOGS:
        assert (run / log).read_bytes() == (reference / log).read_bytes(), log
    assert same(load(run / "last.pt")["agent"], load(reference / "last.pt")["agent"])
    assert same(load(run / "best.pt")["agent"], load(reference / "best.pt")["agent"])
    assert_events_equal_csvs(run)
    for key in ("steps", "episodes", "solved_at_step_by", "final_evaluation", "best_evaluation"):
        assert summary(run)[key] == summary(reference)[key], key


def assert_shows_something_moving(video):
    with VideoFileClip(str(video)) as clip:
        frames = np.stack(list(clip.iter_frames())).astype(int)
    assert len(frames) >= 9
    assert frames.std(axis=(1, 2, 3)).min() > 5, "a blank frame"
    assert np.abs(frames[-1] - frames[0]).max() > 50, "nothing moves"


def one_line(text):
    assert len(text.splitlines()) == 1, text
    return text


# ------------------------------------------------------------------------------------------- what a run leaves behind
@pytest.fixture(scope="module")
def smoke(complete_run):
    """A run of a few hundred steps: its directory, what it printed."""
    return complete_run(script, SMOKE)


def test_a_retired_id_runs_as_the_current_version_and_one_line_says_so(smoke):
    run, out, err = smoke
    lines = [line for line in out.splitlines() if "LunarLanderContinuous-v2" in line]
    assert len(lines) == 1
    assert "LunarLanderContinuous-v3" in lines[0]
    assert json.loads((run / "args.json").read_text())["args"]["env_id"] == "LunarLanderContinuous-v3"
    assert err == ""


@pytest.mark.parametrize("env_id", ["Pendulum-v0", "point_environments:Point-v0", "Pendulum"])
def test_a_run_notes_the_current_version_of_a_retired_id_and_any_other_id_as_it_was_given(env_id, command, folder):
    assert command(*QUICK, "--env-id", env_id, "--total-timesteps", 30, "--run-name", "run")[0] == 0
    noted = json.loads((folder / "runs/run/args.json").read_text())["args"]["env_id"]
    assert noted == env_id.replace("Pendulum-v0", "Pendulum-v1")


def test_a_run_loads_no_tensorflow_even_where_it_is_installed(start, folder):
    (folder / "tensorflow.py").write_text("open('loaded', 'w').close()")
    process = start(*QUICK, "--total-timesteps", 60)
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert not (folder / "loaded").exists()


def test_the_output_of_a_run_without_a_terminal_is_plain_lines(smoke):
    run, out, _ = smoke
    assert "\r" not in out
    assert "\x1b" not in out
    for row in pd.read_csv(run / "evaluations.csv").itertuples():
        assert f"step {row.step}: evaluation {row.mean:.1f} ± {row.std:.1f}" in out.splitlines()
    assert re.search(r"finished after 600 steps: .*smoke", out.splitlines()[-1])


def test_without_a_terminal_a_line_every_ten_seconds_says_how_far_it_is(command, monkeypatch):
    intervals = []

    def impatient(**options):
        intervals.append(options.pop("mininterval"))
        return tqdm(**options, mininterval=0)

    monkeypatch.setattr(script, "tqdm", impatient)
    _, out, _ = command(*POINT, "--total-timesteps", 60)
    assert intervals == [10]
    lines = [line for line in out.splitlines() if "/60 [" in line]
    assert len(lines) == 60
    for part in (r"episode\W+5", r"\breturn\W+\d", r"100-episode mean\W+\d", r"steps?/s", r"<[\d:]+"):
        assert re.search(part, lines[-1]), lines[-1]


def test_args_json_holds_every_argument_and_the_versions(smoke):
    content = json.loads((smoke[0] / "args.json").read_text())
    assert content["args"].keys() == {field.name for field in fields(script.Args)}
    assert content["args"]["total_timesteps"] == 600
    assert content["args"]["hidden_sizes"] == [16, 16]
    assert content["versions"]["torch"] == torch.__version__
    assert content["versions"]["gymnasium"] == gym.__version__
    assert content["versions"]["numpy"] == np.__version__
    assert content["versions"]["python"] in sys.version


def test_episodes_csv_agrees_with_the_transitions_in_the_replay_memory(smoke):
    checkpoint, log = load(smoke[0] / "checkpoint.pt"), pd.read_csv(smoke[0] / "episodes.csv")
    assert list(log) == ["step", "episode", "return", "length"]
    log = log[log["step"] <= checkpoint["run"]["step"]]
    assert len(log) >= 2
    assert (log["step"] == log["length"].cumsum()).all()
    assert list(log["episode"]) == list(range(1, len(log) + 1))
    rewards = np.split(checkpoint["rows"][:, 8 + 2].double().numpy(), log["step"])  # s (8), a (2), r
    np.testing.assert_allclose(log["return"], [episode.sum() for episode in rewards[:-1]], rtol=1e-6)


def test_evaluations_happen_at_step_0_then_every_so_many_steps_and_at_the_end(smoke):
    log = pd.read_csv(smoke[0] / "evaluations.csv")
    assert list(log["step"]) == [0, 250, 500, 600]


def test_mean_and_std_of_an_evaluation_are_those_of_its_episodes(smoke):
    log = pd.read_csv(smoke[0] / "evaluations.csv")
    assert list(log) == ["step", "mean", "std", "episode_0", "episode_1"]
    episodes = log[["episode_0", "episode_1"]].to_numpy()
    np.testing.assert_allclose(log["mean"], episodes.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(log["std"], episodes.std(axis=1), rtol=1e-12)
    assert (log["std"] > 0).all(), "every episode has its own start state"


def test_updates_csv_has_the_losses_q_saturation_and_the_noise_every_hundred_steps(smoke):
    log = pd.read_csv(smoke[0] / "updates.csv")
    assert list(log["step"]) == [100, 200, 300, 400, 500, 600]
    assert {"critic_loss", "actor_loss", "q", "saturation", "noise_sigma"} < set(log)
    assert np.isfinite(log.to_numpy()).all()
    assert (log["noise_sigma"] == 0.3).all()
    assert log["saturation"].between(0, 1).all()


def test_tensorboard_has_the_values_of_the_csvs_and_the_speed(smoke):
    assert_events_equal_csvs(smoke[0])
    assert sum(tag == "SPS" for tag, _, _ in events(smoke[0])) == 6


def test_the_summary_says_how_long_how_fast_solved_when_and_the_final_and_best_evaluation(smoke):
    content, log = summary(smoke[0]), pd.read_csv(smoke[0] / "evaluations.csv")
    assert content["steps"] == 600
    assert content["episodes"] == len(pd.read_csv(smoke[0] / "episodes.csv"))
    assert 0 < content["wall_time_seconds"] < 600
    assert content["steps_per_second"] == pytest.approx(600 / content["wall_time_seconds"], rel=0.05)
    assert content["solved_at_step_by"] == {}
    evaluations = log[["step", "mean", "std"]].to_dict("records")
    assert content["final_evaluation"] == evaluations[-1]
    assert content["best_evaluation"] == max(evaluations, key=lambda evaluation: evaluation["mean"])


def test_best_and_last_weights_earn_from_the_same_start_states_what_the_csv_says(smoke):
    run, log = smoke[0], pd.read_csv(smoke[0] / "evaluations.csv", index_col="step")
    for name, step in (("best", log["mean"].idxmax()), ("last", 600)):
        policy, args = script.load_policy(run / f"{name}.pt")
        returns = script.evaluate(script.make_env(args.env_id), policy, 2, args.seed + script.EVALUATION_SEED)
        assert returns == list(log.loc[step, ["episode_0", "episode_1"]])


def test_the_learning_curve_is_drawn_as_png_and_pdf(smoke):
    image = (matplotlib.image.imread(smoke[0] / "learning_curve.png")[..., :3] * 255).astype(int)
    height, width, _ = image.shape
    assert min(height, width) > 500
    colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    assert len(colours[counts > 50]) > 10, "blank"
    for panel in (image[: height // 2], image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :]):
        assert (panel.min(axis=2) < 128).mean() > 0.003, "an empty panel"
    blue = np.abs(image - (31, 119, 180)).max(axis=2) < 10
    assert blue[: height // 2].sum() > 50, "the 100-episode mean"
    pdf = (smoke[0] / "learning_curve.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")


def test_every_pt_file_loads_as_plain_data_and_no_half_written_file_is_left(smoke):
    files = {file.name for file in smoke[0].iterdir()}
    assert {file for file in files if file.endswith(".pt")} == {"best.pt", "last.pt", "checkpoint.pt"}
    for name in ("best.pt", "last.pt", "checkpoint.pt"):
        content = load(smoke[0] / name)
        assert all(bool(leaf.isfinite().all()) for leaf in leaves(content["agent"]))
    assert not [file for file in files if file.endswith((".new", ".tmp"))]


def test_the_default_name_of_a_run_is_one_that_windows_accepts(command, folder):
    assert command(*POINT, "--total-timesteps", 10, "--eval-every", 0, "--seed", 7)[0] == 0
    (run,) = (folder / "runs").iterdir()
    assert re.fullmatch(r"[\w.-]*Point-v0__ddpg_continuous__7__[\w.-]+", run.name)


# ---------------------------------------------------------------------------------------------------------- the seed
def test_a_seed_fixes_everything_whatever_the_process_did_before(smoke, command, folder):
    torch.manual_seed(99)
    torch.rand(3)
    np.random.seed(7)  # noqa: NPY002
    random.seed(5)
    assert command(*SMOKE, "--run-name", "again")[0] == 0
    assert_same_run(folder / "runs/again", smoke[0])


def test_another_seed_gives_another_run(command, folder):
    for seed in (0, 1):
        command(*POINT, "--total-timesteps", 200, "--eval-every", 100, "--seed", seed, "--run-name", seed)
    for log in LOGS:
        assert (folder / "runs/0" / log).read_bytes() != (folder / "runs/1" / log).read_bytes(), log
    assert not same(load(folder / "runs/0/last.pt")["agent"], load(folder / "runs/1/last.pt")["agent"])


@pytest.mark.parametrize("env_id", ["LunarLanderContinuous-v3", "point_environments:Point-v0"])
def test_evaluation_disturbs_nothing(env_id, command, folder):
    flags = ("--env-id", env_id, *SMALL, "--total-timesteps", 400, "--checkpoint-every", 150)
    for every in (0, 100):
        assert command(*flags, "--eval-every", every, "--run-name", every)[0] == 0
    without, with_it = folder / "runs/0", folder / "runs/100"
    assert (without / "episodes.csv").read_bytes() == (with_it / "episodes.csv").read_bytes()
    assert (without / "updates.csv").read_bytes() == (with_it / "updates.csv").read_bytes()
    assert same(load(without / "last.pt")["agent"], load(with_it / "last.pt")["agent"])
    assert not (without / "evaluations.csv").exists()
    assert not (without / "best.pt").exists()


# --------------------------------------------------------------------------------------------------- kill and resume
class Killed(BaseException):
    """As SIGKILL: nothing in the script may catch it."""


@pytest.fixture
def stop_before(monkeypatch):
    """Makes the script's writing to disk fail from the given time on with the given error; counts how often it does."""
    writes, at, error = [0], [math.inf], [Killed]

    def counted(write):
        def writing(*args, **kwargs):
            writes[0] += 1
            if writes[0] == at[0]:
                raise error[0]
            return write(*args, **kwargs)

        return writing

    monkeypatch.setattr(script, "save", counted(script.save))
    monkeypatch.setattr(script.Run, "log", counted(script.Run.log))

    def prepare(number=math.inf, kind=Killed):
        before, writes[0], at[0], error[0] = writes[0], 0, number, kind
        return before

    return prepare


SHORT = (*POINT, "--learning-starts", 15, "--total-timesteps", 55, "--checkpoint-every", 20, "--eval-every", 18)
SHORT = (*SHORT, "--eval-episodes", 1, "--buffer-size", 30, "--noise-decay-steps", 100, "--norm", "batch")  # most state


def test_a_run_killed_before_any_of_its_writes_and_resumed_equals_one_never_killed(
    command, folder, stop_before, monkeypatch
):
    monkeypatch.setattr(script, "LOG_EVERY", 5)
    runs = folder / "runs"
    assert command(*SHORT, "--run-name", "reference")[0] == 0
    writes = stop_before()
    assert writes > 20
    for write in range(2, writes + 1):  # before the first there is nothing to resume
        stop_before(write)
        with pytest.raises(Killed):
            command(*SHORT, "--run-name", write)
        stop_before()
        status, _, err = command("--resume", f"runs/{write}")
        assert (status, err) == (0, ""), f"killed before write {write}"
        assert_same_run(runs / str(write), runs / "reference")


def test_a_run_killed_again_and_again_equals_one_never_killed(command, folder, stop_before, monkeypatch):
    monkeypatch.setattr(script, "LOG_EVERY", 5)
    assert command(*SHORT, "--run-name", "reference")[0] == 0
    stop_before(12)
    with pytest.raises(Killed):
        command(*SHORT, "--run-name", "killed")
    for write in (3, 10, 11, 9):
        stop_before(write)
        with pytest.raises(Killed):
            command("--resume", "runs/killed")
    stop_before()
    assert command("--resume", "runs/killed")[0] == 0
    assert_same_run(folder / "runs/killed", folder / "runs/reference")
    assert command("--resume", "runs/killed")[0] == 0  # once more, though complete: nothing changes
    assert_same_run(folder / "runs/killed", folder / "runs/reference")


WALKER = ("--env-id", "BipedalWalker-v3", *SMALL, "--learning-starts", 350, "--eval-episodes", 1, "--seed", 11)
WALKER = (*WALKER, "--total-timesteps", 500, "--eval-every", 200, "--checkpoint-every", 40)


def test_a_bipedal_walker_killed_after_each_of_its_checkpoints_equals_one_never_killed(command, folder, monkeypatch):
    """Its Box2D world remembers, across resets, what a new one cannot know."""
    assert command(*WALKER, "--run-name", "reference")[0] == 0
    checkpoint, kills = script.Run.checkpoint, 0

    def last_deed(run):
        checkpoint(run)
        raise Killed

    monkeypatch.setattr(script.Run, "checkpoint", last_deed)
    flags = (*WALKER, "--run-name", "killed")
    while True:
        try:
            assert command(*flags)[0] == 0
            break
        except Killed:
            flags, kills = ("--resume", "runs/killed"), kills + 1
    assert kills >= 4
    assert_same_run(folder / "runs/killed", folder / "runs/reference")


def test_a_bipedal_walker_killed_by_sigkill_at_various_moments_equals_one_never_killed(command, start, folder):
    assert command(*WALKER, "--run-name", "reference")[0] == 0
    run = folder / "runs/killed"

    def kill(process, condition, delay=0.0):
        wait_for(condition, process)
        time.sleep(delay)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was to be killed while it runs"

    kill(start(*WALKER, "--run-name", "killed"), (run / "args.json").exists)  # before its first checkpoint
    kill(start("--resume", run), (run / "checkpoint.pt").exists)
    known = set(run.glob("events.*"))
    kill(start("--resume", run), lambda: set(run.glob("events.*")) - known, delay=random.Random().uniform(0, 0.2))
    assert command("--resume", run)[0] == 0
    assert_same_run(run, folder / "runs/reference")


def snapshot(path):
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_a_run_directory_is_locked_while_a_process_writes_to_it_and_free_once_that_is_killed(command, start, folder):
    flags = ("--env-id", "LunarLanderContinuous-v3", *SMALL, "--total-timesteps", 700, "--eval-every", 200)
    flags = (*flags, "--checkpoint-every", 150)
    run = folder / "runs/locked"
    process = start(*flags, "--run-name", "locked")
    wait_for((run / "checkpoint.pt").exists, process)
    process.send_signal(signal.SIGSTOP)
    before = snapshot(run)
    status, _, err = command("--resume", run)
    assert status == 2
    assert "is in use" in one_line(err)
    assert snapshot(run) == before

    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert command("--resume", run)[0] == 0
    assert command(*flags, "--run-name", "reference")[0] == 0
    assert_same_run(run, folder / "runs/reference")


@pytest.mark.parametrize("noise", ["ou", "gaussian"])
def test_a_run_resumed_with_more_steps_equals_one_that_had_them_from_the_start(noise, command, folder, monkeypatch):
    monkeypatch.setattr(script, "LOG_EVERY", 10)
    flags = (*POINT, "--checkpoint-every", 60, "--eval-every", 50, "--noise", noise)
    flags = (*flags, "--no-anneal")  # learning rates that fall until the last step would fall more slowly
    assert command(*flags, "--total-timesteps", 130, "--run-name", "resumed")[0] == 0
    assert command("--resume", "runs/resumed", "--total-timesteps", 210)[0] == 0
    assert command(*flags, "--total-timesteps", 210, "--run-name", "reference")[0] == 0
    for log in LOGS:
        assert (folder / "runs/resumed" / log).read_bytes() == (folder / "runs/reference" / log).read_bytes(), log
    assert same(load(folder / "runs/resumed/last.pt")["agent"], load(folder / "runs/reference/last.pt")["agent"])
    assert_events_equal_csvs(folder / "runs/resumed")
    assert json.loads((folder / "runs/resumed/args.json").read_text())["args"]["total_timesteps"] == 210


def test_the_best_weights_are_those_of_the_best_evaluation_after_a_resume_too(command, folder, monkeypatch):
    means, weights = {0: 1.0, 50: 5.0, 65: 9.0, 100: 3.0, 120: 4.0}, {}  # 65: the end of the shorter run
    evaluate = script.Run.evaluate

    def noting_the_weights(run):
        weights[run.step] = run.agent.actor.output.weight.clone()
        evaluate(run)

    monkeypatch.setattr(script.Run, "evaluate", noting_the_weights)
    monkeypatch.setattr(script, "evaluate", lambda *_: [means[max(weights)]] * 2)
    flags = (*POINT, "--checkpoint-every", 60, "--eval-every", 50, "--run-name", "run", "--total-timesteps", 65)
    for arguments in (flags, ("--resume", "runs/run", "--total-timesteps", 120)):
        assert command(*arguments)[0] == 0
        best = summary(folder / "runs/run")["best_evaluation"]
        assert best["mean"] == means[best["step"]]
        kept = load(folder / "runs/run/best.pt")["agent"]["networks"]["actor.output.weight"]
        assert torch.equal(kept, weights[best["step"]]), "best.pt holds other weights than the summary says"


def test_a_run_killed_before_its_first_checkpoint_starts_again(command, folder, stop_before):
    stop_before(6)
    with pytest.raises(Killed):
        command(*POINT, "--total-timesteps", 130, "--eval-every", 20, "--run-name", "killed")
    stop_before()
    assert len(pd.read_csv(folder / "runs/killed/evaluations.csv")) > 1
    assert not (folder / "runs/killed/checkpoint.pt").exists()
    assert command("--resume", "runs/killed")[0] == 0
    assert list(pd.read_csv(folder / "runs/killed/evaluations.csv")["step"]) == [0, 20, 40, 60, 80, 100, 120, 130]


def test_summary_and_plots_are_refreshed_at_every_checkpoint_and_at_the_end(command, monkeypatch):
    steps = []
    monkeypatch.setattr(script, "plot", lambda path, *_: steps.append(summary(path)["steps"]))
    assert command(*POINT, "--total-timesteps", 140, "--eval-every", 0, "--checkpoint-every", 45)[0] == 0
    assert steps == [50, 90, 140, 140]


def test_a_resume_deletes_no_file_that_is_not_its_own(command, folder):
    flags = (*POINT, "--checkpoint-every", 60, "--run-name", "run", "--eval-every", 0)
    assert command(*flags, "--total-timesteps", 70)[0] == 0
    notes = folder / "runs/run/notes.csv"
    notes.write_text("seed,remark\n0,lands softly\n")
    assert command("--resume", "runs/run", "--total-timesteps", 80)[0] == 0
    assert notes.read_text() == "seed,remark\n0,lands softly\n"


def test_checkpoints_fall_on_the_first_episode_end_after_every_so_many_steps(command, monkeypatch):
    steps, checkpoint = [], script.Run.checkpoint
    monkeypatch.setattr(script.Run, "checkpoint", lambda run: (steps.append(run.step), checkpoint(run)))
    assert command(*POINT, "--total-timesteps", 140, "--eval-every", 0, "--checkpoint-every", 35)[0] == 0
    assert steps == [40, 70, 110, 140]  # episodes have 10 steps


# -------------------------------------------------------------------------------------------- Ctrl-C and a full disk
def test_ctrl_c_leaves_plots_and_summary_says_where_they_are_and_the_run_can_go_on(start, command, folder):
    def with_sigint():  # which the shell that started pytest may have switched off
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    run = folder / "runs/stopped"
    flags = (*POINT, "--total-timesteps", 1500, "--eval-every", 700, "--checkpoint-every", 300, "--run-name", "stopped")
    process = start(*flags, program=(script.__file__,), preexec_fn=with_sigint)
    wait_for((run / "checkpoint.pt").exists, process)
    for file in run.glob("learning_curve.*"):
        file.unlink()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    steps = re.search(r"after (\d+) steps: .*stopped", out.splitlines()[-1])
    assert summary(run)["steps"] == int(steps[1])
    assert 300 <= int(steps[1]) < 1500
    assert matplotlib.image.imread(run / "learning_curve.png").std() > 0.01
    assert (run / "learning_curve.pdf").read_bytes().startswith(b"%PDF-")
    assert command("--resume", run)[0] == 0
    assert pd.read_csv(run / "episodes.csv")["step"].iloc[-1] == summary(run)["steps"] == 1500


def test_ctrl_c_before_any_write_changes_nothing_in_the_resumed_run(command, folder, stop_before, monkeypatch):
    monkeypatch.setattr(script, "LOG_EVERY", 5)
    assert command(*SHORT, "--run-name", "reference")[0] == 0
    for write in (7, 12, 17):
        stop_before(write, KeyboardInterrupt)
        assert command(*SHORT, "--run-name", write)[0] == 130
        stop_before()
        assert command("--resume", f"runs/{write}")[0] == 0
        assert_same_run(folder / "runs" / str(write), folder / "runs/reference")


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_the_last_one(command, folder, monkeypatch):
    replace = os.replace

    def full_from_the_second_checkpoint_on(source, target):
        if Path(target).name == "checkpoint.pt" and Path(target).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_from_the_second_checkpoint_on)
    flags = (*POINT, "--total-timesteps", 100, "--checkpoint-every", 30, "--eval-every", 0, "--run-name", "full")
    status, _, err = command(*flags)
    assert status == 2
    assert "No space left" in one_line(err)
    assert "step 60" in err
    assert load(folder / "runs/full/checkpoint.pt")["run"]["step"] == 30
    monkeypatch.setattr(os, "replace", replace)
    assert command("--resume", "runs/full")[0] == 0
    assert load(folder / "runs/full/checkpoint.pt")["run"]["step"] == 90


def limit_file_size(size):
    """What a process of its own does first, so that no file can grow beyond `size`: writes fail half-way, as on a disk
    that is full. (Python ignores the signal that comes with it.)"""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    ("flags", "size"),
    [
        # Replay and with it checkpoint.pt grow by 80 bytes per step: the first fits, a later one is cut off half-way
        (
            ("--env-id", "LunarLanderContinuous-v3", *SMALL, "--learning-starts", 2000, "--checkpoint-every", 300),
            90_000,
        ),
        # Replay stays small: the logs, CSV and TensorBoard, outgrow the disk
        ((*QUICK, "--buffer-size", 50, "--checkpoint-every", 100), 50_000),
    ],
    ids=["checkpoint", "logs"],
)
def test_a_full_disk_ends_the_run_with_one_line_and_leaves_the_last_checkpoint(flags, size, start, command, folder):
    flags = (*flags, "--total-timesteps", 20_000, "--eval-every", 0, "--run-name", "full")
    process = start(*flags, preexec_fn=limit_file_size(size))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "File too large" in one_line(err)
    assert re.search(r"\bstep \d+", err)
    step = load(folder / "runs/full/checkpoint.pt")["run"]["step"]
    assert 100 <= step < 20_000
    assert (folder / "runs/full/checkpoint.pt").stat().st_size < size

    arguments = json.loads((folder / "runs/full/args.json").read_text())
    arguments["args"]["total_timesteps"] = step + 60  # for the resumed run to be short
    (folder / "runs/full/args.json").write_text(json.dumps(arguments))
    assert command("--resume", "runs/full")[0] == 0
    assert summary(folder / "runs/full")["steps"] == step + 60


# ------------------------------------------------------------------------------------------------- NaN and infinities
@pytest.mark.parametrize(
    ("name", "every", "step", "cause"),
    [
        ("NanReward", 30, 75, "reward"),
        ("InfiniteReward", 30, 75, "reward"),
        ("OverflowingReward", 30, 75, "reward"),  # too large for the replay memory's float32
        ("NanObservation", 30, 75, "observation"),
        ("HugeReward", 30, 150, "moments"),  # its square is infinite, as the next checkpoint notices ...
        ("HugeReward", 110, 200, "critic_loss"),  # ... or whoever reads the losses, every 100 steps
    ],
)
def test_a_nan_or_infinity_stops_the_run_and_one_line_names_step_and_cause(name, every, step, cause, command, folder):
    flags = ("--env-id", f"point_environments:{name}-v0", *SMALL, "--total-timesteps", 400, "--eval-every", 0)
    status, _, err = command(*flags, "--checkpoint-every", every, "--run-name", "broken")
    assert status == 2
    assert f"step {step}:" in one_line(err)
    assert cause in err
    assert "nan" in err or "inf" in err
    good = load(folder / "runs/broken/checkpoint.pt")["run"]["step"]
    assert f"checkpoint of step {good}" in err
    assert every <= good < step
    assert not list((folder / "runs/broken").glob("*.new"))


def test_the_checkpoint_that_an_infinite_loss_leaves_is_finite_everywhere(command, folder):
    flags = ("--env-id", "point_environments:HugeReward-v0", *SMALL, "--total-timesteps", 400, "--eval-every", 0)
    assert command(*flags, "--checkpoint-every", 30, "--run-name", "broken")[0] == 2
    content = load(folder / "runs/broken/checkpoint.pt")
    assert all(bool(leaf.isfinite().all()) for leaf in leaves([content["agent"], content["rows"]]))


def test_a_nan_while_evaluating_names_the_step_too(command):
    flags = ("--env-id", "point_environments:NanInEvaluation-v0", *SMALL, "--total-timesteps", 400)
    status, _, err = command(*flags, "--eval-every", 100)
    assert status == 2
    assert "step 100:" in one_line(err)
    assert "reward" in err


@pytest.mark.parametrize(("name", "step"), [("NanAtOnce", 0), ("NanInEvaluation", 60)])
def test_a_nan_in_the_first_or_last_evaluation_names_the_step_and_that_nothing_was_saved_yet(name, step, command):
    flags = ("--env-id", f"point_environments:{name}-v0", *SMALL, "--total-timesteps", 60, "--eval-every", 1000)
    status, out, err = command(*flags)
    assert status == 2
    assert f"step {step}:" in one_line(err)
    assert "reward" in err
    assert "no checkpoint yet" in err
    assert "finished" not in out


def test_weights_that_have_become_nan_are_never_written_to_a_checkpoint(command, folder, monkeypatch):
    updates, update = [], script.DDPG.update

    def diverging(agent, *args, **kwargs):
        values = update(agent, *args, **kwargs)
        updates.append(values)
        if len(updates) == 20:
            agent.actor.layer_1.weight.data.fill_(math.nan)
        return values

    monkeypatch.setattr(script.DDPG, "update", diverging)
    flags = (*POINT, "--total-timesteps", 400, "--eval-every", 0, "--checkpoint-every", 10, "--run-name", "nan")
    status, _, err = command(*flags)
    assert status == 2
    assert "not finite" in one_line(err)
    content = load(folder / "runs/nan/checkpoint.pt")
    assert content["run"]["step"] == 60
    assert all(bool(leaf.isfinite().all()) for leaf in leaves(content["agent"]))


# ------------------------------------------------------------------------------------------------------ playing back
def test_evaluate_prints_every_episode_and_their_mean_and_std(smoke, command):
    best = smoke[0] / "best.pt"
    status, out, err = command("--evaluate", best, "--eval-episodes", 3, "--seed", 5)
    assert (status, err) == (0, "")
    policy, args = script.load_policy(best)
    returns = script.evaluate(script.make_env(args.env_id), policy, 3, seed=5)
    assert len(set(returns)) == 3
    printed = [float(re.search(r"return (-?\d+\.\d+)", line)[1]) for line in out.splitlines()[:3]]
    assert printed == [round(x, 1) for x in returns]
    assert f"mean {np.mean(returns):.1f} ± {np.std(returns):.1f}" in out.splitlines()[-1]
    assert command("--evaluate", best, "--eval-episodes", 3, "--seed", 5) == (status, out, err)


def test_evaluate_changes_nothing_in_the_run_directory(smoke, command):
    before = snapshot(smoke[0])
    assert command("--evaluate", smoke[0] / "last.pt", "--eval-episodes", 1)[0] == 0
    assert snapshot(smoke[0]) == before


def test_evaluate_records_the_first_episode(smoke, command, folder):
    shutil.copy(smoke[0] / "best.pt", folder)
    status, _, err = command("--evaluate", "best.pt", "--eval-episodes", 2, "--capture-video")
    assert (status, err) == (0, "")
    (video,) = folder.rglob("*.mp4")
    assert_shows_something_moving(video)


def test_evaluate_shows_a_window(smoke, command, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    modes, make = [], gym.make
    monkeypatch.setattr(gym, "make", lambda *args, **kwargs: (modes.append(kwargs), make(*args, **kwargs))[1])
    monkeypatch.setattr(importlib.import_module("pygame").time, "Clock", lambda: type("", (), {"tick": lambda *_: 0})())
    status, out, err = command("--evaluate", smoke[0] / "best.pt", "--eval-episodes", 1, "--render")
    assert (status, err) == (0, "")
    assert {"render_mode": "human"} in modes
    assert "mean" in out


def test_training_records_the_first_episode_of_every_evaluation_and_is_not_changed_by_it(command, folder):
    flags = (*POINT, "--total-timesteps", 200, "--eval-every", 100)
    assert command(*flags, "--run-name", "seen", "--capture-video")[0] == 0
    assert command(*flags, "--run-name", "unseen")[0] == 0
    videos = sorted(folder.rglob("*.mp4"))
    assert [int(re.search(r"step-(\d+)", video.name)[1]) for video in videos] == [0, 100, 200]
    for video in videos:
        assert_shows_something_moving(video)
    assert_same_run(folder / "runs/seen", folder / "runs/unseen")


def test_a_policy_loads_in_ones_own_program(smoke):
    policy, args = script.load_policy(smoke[0] / "best.pt")
    env = script.make_env(args.env_id)
    observation, _ = env.reset(seed=1)
    action = policy(observation)
    assert action.shape == env.action_space.shape
    assert (np.abs(action) <= 1).all()
    assert (policy(observation) == action).all()
    observation, reward, *_ = env.step(action)
    assert observation.shape == (8,)
    assert isinstance(reward, float)


# ---------------------------------------------------------------------------------------------------------- progress
REACHED = "100-episode mean of the training return has reached"


def test_the_readmes_program_runs_as_it_stands(smoke):
    readme = Path(script.__file__).with_name("README.md").read_text(encoding="utf-8")
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "load_policy" in block)
    names = {}
    exec(program.replace("runs/NAME", str(smoke[0])), names)
    assert names["observation"].shape == names["env"].observation_space.shape
    assert math.isfinite(names["reward"])


def test_reaching_the_threshold_in_training_is_said_once_and_not_again_after_a_resume(command, folder):
    flags = (*QUICK, "--checkpoint-every", 50, "--run-name", "quick")
    status, out, _ = command(*flags, "--total-timesteps", 298)
    assert status == 0
    (line,) = [line for line in out.splitlines() if REACHED in line]
    assert "step 200" in line  # episodes have two steps, a return of about 2, and a threshold of 1.5
    assert summary(folder / "runs/quick")["solved_at_step_by"] == {"training": 200}
    status, out, _ = command("--resume", "runs/quick", "--total-timesteps", 420)
    assert status == 0
    assert REACHED not in out
    assert summary(folder / "runs/quick")["solved_at_step_by"] == {"training": 200}


def test_the_hundred_episodes_of_that_mean_go_on_counting_after_a_resume(command):
    assert command(*QUICK, "--checkpoint-every", 50, "--run-name", "quick", "--total-timesteps", 160)[0] == 0
    status, out, _ = command("--resume", "runs/quick", "--total-timesteps", 240)
    assert status == 0
    (line,) = [line for line in out.splitlines() if REACHED in line]
    assert "step 200" in line


def test_ninety_nine_episodes_above_the_threshold_are_not_enough(command):
    status, out, _ = command(*QUICK, "--total-timesteps", 199)
    assert status == 0
    assert REACHED not in out


def test_solved_by_evaluation_is_the_first_evaluation_at_the_threshold(command, folder, monkeypatch):
    returns = iter([[1.0, 1.0], [2.0, 0.9], [1.0, 2.0], [0.0, 0.0], [9.0, 9.0]])  # the threshold is 1.5
    monkeypatch.setattr(script, "evaluate", lambda *_: next(returns))
    flags = (*QUICK, "--eval-every", 20, "--total-timesteps", 80, "--run-name", "quick")
    assert command(*flags)[0] == 0
    content = summary(folder / "runs/quick")
    assert content["solved_at_step_by"] == {"evaluation": 40}
    assert content["best_evaluation"] == content["final_evaluation"] == {"step": 80, "mean": 9.0, "std": 0.0}


def test_a_terminal_shows_a_progress_bar_and_the_threshold_line(start):
    terminal, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))
    process = start(*QUICK, "--total-timesteps", 600, stdout=slave, stderr=slave)
    os.close(slave)
    output = b""
    try:
        while chunk := os.read(terminal, 10_000):
            output += chunk
    except OSError:  # Linux: the other end is closed
        pass
    os.close(terminal)
    assert process.wait() == 0, output
    output = output.decode()
    bars = [part for part in re.split(r"[\r\n]+", output) if "/600" in part]
    assert len(bars) > 1, "it is redrawn"
    full = next(bar for bar in bars if "100-episode mean" in bar)
    for part in (r"episode\W+\d", r"\breturn\W+\d", r"100-episode mean\W+\d", r"steps?/s", r"<[\d:]+"):
        assert re.search(part, full), full
    assert output.count(REACHED) == 1
    assert "Traceback" not in output


# ------------------------------------------------------------------------------------------- Weights & Biases, import
def wandb_records(file):
    """The records of a .wandb file: LevelDB's log format in blocks of 32 KiB, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, record = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole one, or the last part
            yield Record.FromString(record)
            record = b""


def wandb_points(file):
    """Every value logged, by key and step."""
    points = {}
    for record in wandb_records(file):
        items = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        points |= {(key, items["_step"]): value for key, value in items.items() if not key.startswith("_")}
    return points


def test_weights_and_biases_gets_the_values_of_the_csvs_and_a_resumed_run_keeps_its_id(start, folder):
    environment = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    environment |= {f"WANDB_{name}_DIR": str(folder / name) for name in ("CONFIG", "CACHE", "DATA")}
    run, files = folder / "runs/tracked", []
    flags = (*POINT, "--no-anneal", "--total-timesteps", 200, "--eval-every", 100, "--checkpoint-every", 120)
    flags = (*flags, "--run-name", "tracked")
    for arguments in ((*flags, "--track"), ("--resume", run, "--total-timesteps", 400)):
        process = start(*arguments, env=environment)
        _, err = process.communicate()
        assert process.returncode == 0, err
        files.append(next(file for file in folder.rglob("*.wandb") if file not in files))
    first, second = map(wandb_points, files)
    assert {step for _, step in first} == {*range(0, 201, 10)}
    assert {**first, **second} == pytest.approx(points_in_csvs(run), abs=1e-12)
    assert all(first[point] == second[point] for point in first.keys() & second.keys())
    ids = {record.run.run_id for file in files for record in wandb_records(file) if record.HasField("run")}
    assert ids == {"tracked"}
    logged = next(record.run.config for record in wandb_records(files[0]) if record.HasField("run"))
    assert any(update.key == "actor_learning_rate" and update.value_json == "0.0001" for update in logged.update)


def test_importing_the_script_does_nothing_and_wandb_is_imported_only_for_track(start, folder):
    program = """if True:
        import sys
        import ddpg_continuous
        print("imported")
        sys.argv = ["ddpg_continuous.py", *sys.argv[1:]]
        ddpg_continuous.main()
        print("wandb" in sys.modules)
    """
    flags = (*POINT, "--total-timesteps", 60, "--eval-every", 0)
    process = start(*flags, program=("-c", program))
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[0] == "imported"
    assert out.splitlines()[-1] == "False"


# ---------------------------------------------------------------------------------------------------------- the flags
def test_help_has_a_sentence_and_the_default_of_every_flag(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    status, out, _ = command("--help")
    assert status == 0
    text = " ".join(out.replace("│", " ").split())
    for field in fields(script.Args):
        flag = "--" + field.name.replace("_", "-")
        entry = re.search(rf"(?<= ){flag}(?: |,)(.*?)\(default: ", text)
        assert entry, flag
        words = [word for word in entry[1].split() if re.match(r"[a-z(]", word) and not word.startswith("--")]
        assert len(words) >= 3, f"{flag} is not explained: {entry[1]}"


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("noise", ["ou", "gaussian"])
def test_every_normalisation_trains_with_every_noise(norm, noise, command, folder):
    flags = (*POINT, "--norm", norm, "--noise", noise, "--total-timesteps", 200, "--eval-every", 200)
    assert command(*flags, "--run-name", "run")[0] == 0
    start, end = load(folder / "runs/run/best.pt")["agent"], load(folder / "runs/run/last.pt")["agent"]
    layers = {name.rpartition(".")[0] for name in end["networks"] if name.startswith("actor.norm")}
    assert bool(layers) == (norm != "none")
    assert not same(start["networks"], end["networks"]), "nothing was learned"
    assert np.isfinite(pd.read_csv(folder / "runs/run/updates.csv").to_numpy()).all()


def test_noise_of_another_kind_or_size_gives_another_run_and_falls_linearly(command, folder):
    flags = (*POINT, "--noise-sigma", 0.3, "--total-timesteps", 300, "--eval-every", 0)
    variants = {"constant": ("--noise-decay-steps", 0), "falling": ("--noise-decay-steps", 250)}
    variants |= {"gaussian": ("--noise", "gaussian"), "weak": ("--noise-sigma", 0.1)}
    for name, more in variants.items():
        assert command(*flags, *more, "--run-name", name)[0] == 0
    assert len({(folder / "runs" / name / "episodes.csv").read_bytes() for name in variants}) == 4
    for name, sigmas in (("constant", [0.3, 0.3, 0.3]), ("falling", [0.3 * 150 / 250, 0.3 * 50 / 250, 0.0])):
        logged = pd.read_csv(folder / "runs" / name / "updates.csv")["noise_sigma"]
        np.testing.assert_allclose(logged, sigmas, atol=1e-12)


def test_learning_rates_fall_to_zero_at_the_last_step_unless_told_otherwise(command, folder):
    for name, flags in {"falling": (), "constant": ("--no-anneal",)}.items():
        assert command(*POINT, *flags, "--total-timesteps", 200, "--eval-every", 0, "--run-name", name)[0] == 0
    rates = {
        name: [
            group["lr"]
            for optimizer in load(folder / "runs" / name / "last.pt")["agent"]["optimizers"]
            for group in optimizer["param_groups"]
        ]
        for name in ("falling", "constant")
    }
    assert rates == {"falling": [0.0, 0.0], "constant": [1e-4, 1e-3]}
