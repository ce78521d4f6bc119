"""--evaluate, videos, and policies in programs of one's own."""

import importlib
import math
import re

import gymnasium as gym
import numpy as np
import pytest
from helpers import POINT, ROOT, SMOKE, assert_same_run, refused, snapshot
from moviepy import VideoFileClip

import ddpg_continuous as script

FINISHED_RUNS = [(script, SMOKE)]
pytestmark = pytest.mark.usefixtures("folder")


def assert_shows_something_moving(video):
    with VideoFileClip(str(video)) as clip:
        frames = np.stack(list(clip.iter_frames())).astype(int)
    assert len(frames) >= 9
    assert frames.std(axis=(1, 2, 3)).min() > 5, "a blank frame"
    assert np.abs(frames[-1] - frames[0]).max() > 50, "nothing moves"


def test_evaluate_prints_every_episode_and_their_mean_and_std(smoke, command):
    best = smoke[0] / "best.pt"
    flags = ("--evaluate", best, "--eval-episodes", 3, "--seed", 5)
    status, out, err = command(*flags)
    assert (status, err) == (0, "")
    policy, args = script.load_policy(best)
    returns = script.episodic_returns(script.make_env(args.env_id), policy, 3, seed=5)
    assert len(set(returns)) == 3
    *lines, last_line = out.splitlines()
    printed = [float(re.search(r"return (-?\d+\.\d+)$", line)[1]) for line in lines]
    assert printed == [round(x, 1) for x in returns]
    assert f"mean {np.mean(returns):.1f} ± {np.std(returns):.1f}" in last_line
    assert command(*flags) == (status, out, err)


def test_evaluate_changes_nothing_in_the_run_directory(smoke, command):
    before = snapshot(smoke[0])
    assert command("--evaluate", smoke[0] / "last.pt", "--eval-episodes", 1)[0] == 0
    assert snapshot(smoke[0]) == before


def test_evaluate_with_an_env_id_imports_the_module_of_that_id_alone(smoke, command, folder):
    """The id in a file from somebody else may name a module that does harm."""
    (folder / "harmful.py").write_text("import pathlib\npathlib.Path('harm').mkdir()\n")
    content = script.load_weights(smoke[0] / "best.pt")
    content["args"]["env_id"] = "harmful:Env-v0"
    script.save_weights(folder / "best.pt", content)
    flags = ("--evaluate", "best.pt", "--eval-episodes", 1)
    status, _, err = command(*flags, "--env-id", "LunarLanderContinuous-v3")
    assert (status, err) == (0, "")
    assert not (folder / "harm").exists()
    command(*flags)
    assert (folder / "harm").exists(), "without the flag it is imported"


def test_evaluate_records_the_first_episode(command, folder):
    assert command(*POINT, "--total-timesteps", 20, "--run-name", "run")[0] == 0
    flags = ("--evaluate", "runs/run/best.pt", "--eval-episodes", 2, "--capture-video")
    status, _, err = command(*flags)
    assert (status, err) == (0, "")
    (video,) = folder.rglob("*.mp4")
    assert video.parent == folder / "runs/run/videos"
    assert_shows_something_moving(video)


def test_evaluate_shows_a_window(smoke, command, monkeypatch):
    class Clock:
        def tick(self, _):
            """Waits not, where pygame's would show a video in real time."""

    modes = []
    make = gym.make

    def noting_the_mode(*args, **options):
        modes.append(options)
        return make(*args, **options)

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(gym, "make", noting_the_mode)
    monkeypatch.setattr(importlib.import_module("pygame").time, "Clock", Clock)
    flags = ("--evaluate", smoke[0] / "best.pt", "--eval-episodes", 1, "--render")
    status, out, err = command(*flags)
    assert (status, err) == (0, "")
    assert {"render_mode": "human"} in modes
    assert "mean" in out


def test_training_records_the_first_episode_of_every_evaluation_and_is_not_changed_by_it(
    command, folder
):
    flags = (*POINT, "--total-timesteps", 200, "--eval-every", 100)
    assert command(*flags, "--run-name", "seen", "--capture-video")[0] == 0
    assert command(*flags, "--run-name", "unseen")[0] == 0
    videos = {}
    for video in folder.rglob("*.mp4"):
        videos[int(re.search(r"step-(\d+)", video.name)[1])] = video
    assert sorted(videos) == [0, 100, 200]
    for video in videos.values():
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


def test_to_show_and_to_record_at_once_is_refused(command, smoke):
    result = command("--evaluate", smoke[0] / "best.pt", "--render", "--capture-video")
    refused(result, "one of the two")


def test_the_readmes_program_runs_as_it_stands(smoke):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (program,) = [block for block in blocks if "load_policy" in block]
    names = {}
    exec(program.replace("runs/NAME", smoke[0].as_posix()), names)
    assert names["observation"].shape == names["env"].observation_space.shape
    assert math.isfinite(names["reward"])
