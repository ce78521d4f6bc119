"""Whatever is wrong on the command line or in a file ends with exit status 2 and one clear line, and loses nothing."""

import errno
import importlib
import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from helpers import Hostile

import ddpg_continuous as script

MODULES = {
    "unsuitable_environments": '''
"""Environments that DDPG cannot take, and two that it can."""
import gymnasium as gym
import numpy as np


class Still(gym.Env):
    """Nothing happens, for ten steps."""

    def __init__(self, observation, action, render_mode=None):
        self.observation_space, self.action_space, self.render_mode = observation, action, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.age += 1
        return self.observation_space.sample(), 0.0, False, self.age == 10, {}


vector, box = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-1, 1, (1,))
gym.register("Still-v0", Still, kwargs={"observation": vector, "action": box})
gym.register("Twin-v0", Still, kwargs={"observation": vector, "action": box})
gym.register("TwoActions-v0", Still, kwargs={"observation": vector, "action": gym.spaces.Box(-1, 1, (2,))})
gym.register("Dict-v0", Still, kwargs={"observation": gym.spaces.Dict({"x": vector}), "action": box})
gym.register("Unbounded-v0", Still, kwargs={"observation": vector, "action": gym.spaces.Box(-np.inf, np.inf, (1,))})
gym.register("HalfBounded-v0", Still, kwargs={"observation": vector, "action": gym.spaces.Box(0, np.inf, (1,))})
gym.register("Matrix-v0", Still, kwargs={"observation": vector, "action": gym.spaces.Box(-1, 1, (2, 2))})
'''
}
pytestmark = pytest.mark.usefixtures("folder")
SMALL = ("--hidden-sizes", 16, 16, "--batch-size", 8, "--learning-starts", 20, "--eval-episodes", 1)
STILL = ("--env-id", "unsuitable_environments:Still-v0", *SMALL, "--total-timesteps", 60)
ABSENT = "mps" if torch.cuda.is_available() else "cuda"


@pytest.fixture
def refused(command):
    """Runs the command line, which has to end with status 2 and one line that has the given parts, as it returns."""

    def run(flags, *parts):
        status, _, err = command(*flags)
        assert status == 2, err
        assert len(err.splitlines()) == 1, err
        for part in ("", *parts):
            assert re.search(part, err, re.IGNORECASE), f"{part!r} is not in: {err}"
        assert "Traceback" not in err
        return err

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run: never changed, but copied."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "unsuitable_environments.py").write_text(MODULES["unsuitable_environments"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        patch.setattr(script, "plot", lambda *_: None)
        flags = {"hidden_sizes": (16, 16), "batch_size": 8, "learning_starts": 20, "eval_episodes": 1}
        flags |= {"total_timesteps": 60, "eval_every": 30, "checkpoint_every": 20, "runs_dir": str(folder)}
        for env_id, name in (("Still", "run"), ("Twin", "twin")):
            env_id = f"unsuitable_environments:{env_id}-v0"
            script.train(script.Args(env_id=env_id, run_name=name, **flags))
        script.train(script.Args(env_id="Pendulum-v1", run_name="pendulum", **{**flags, "total_timesteps": 400}))
        script.train(script.Args(**{**flags, "env_id": env_id, "run_name": "wider", "hidden_sizes": (32, 16)}))
    return folder


@pytest.fixture
def run(finished, folder):
    """The directory of a finished run, one's own copy."""
    return Path(shutil.copytree(finished / "run", folder / "runs" / "run"))


def snapshot(path):
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def change(path, **values):
    content = json.loads(path.read_text())
    content["args"].update(values)
    path.write_text(json.dumps(content))


# ------------------------------------------------------------------------------------------------------ environments
@pytest.mark.parametrize(
    ("env_id", "parts"),
    [
        ("LunarLanderContinuos-v3", ["did you mean", "LunarLanderContinuous"]),
        ("LunarLanderContinuous-v99", ["LunarLanderContinuous", "v3"]),
        ("Lunar Lander!", ["malformed", "Lunar Lander!"]),
        ("", ["malformed"]),
        ("CartPole-v1", ["CartPole-v1", "Discrete", "continuous"]),
        ("CarRacing-v3", ["CarRacing-v3", "96", "vector"]),
        ("unsuitable_environments:Dict-v0", ["Dict", "vector", "FlattenObservation"]),
        ("unsuitable_environments:Unbounded-v0", ["bounded", "inf"]),
        ("unsuitable_environments:HalfBounded-v0", ["bounded", "inf"]),
        ("unsuitable_environments:Matrix-v0", ["vector"]),
        ("unsuitable_environments:Stil-v0", ["Stil"]),
        ("nomod:Foo-v0", ["nomod"]),
    ],
)
def test_an_environment_that_is_unknown_or_unsuitable_is_refused(env_id, parts, refused, folder):
    refused((*STILL, "--env-id", env_id), *parts)
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("env_id", "module", "package"),
    [
        ("LunarLanderContinuous-v3", "Box2D", r"box2d"),
        ("Hopper-v5", "mujoco", r"mujoco"),
        ("phys2d/Pendulum-v0", "jax", r"jax"),
    ],
)
def test_an_environment_whose_packages_are_missing_says_how_to_install_them(
    env_id, module, package, refused, folder, monkeypatch
):
    for name in list(sys.modules):
        if name.startswith(("gymnasium.envs.box2d", "gymnasium.envs.mujoco", "gymnasium.envs.phys2d")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    refused((*STILL, "--env-id", env_id), "pip install", package)
    assert not (folder / "runs").exists()


# ------------------------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize(
    "flags",
    [
        ("--tau", 1.5),
        ("--tau", -0.1),
        ("--tau", "nan"),
        ("--gamma", 1.01),
        ("--gamma", -1),
        ("--gamma", "nan"),
        ("--batch-size", 0),
        ("--batch-size", 65, "--buffer-size", 64),
        ("--buffer-size", 0),
        ("--buffer-size", 10**12),
        ("--total-timesteps", 0),
        ("--total-timesteps", -5),
        ("--actor-learning-rate", "nan"),
        ("--critic-learning-rate", "inf"),
        ("--critic-learning-rate", -1e-3),
        ("--weight-decay", -1),
        ("--hidden-sizes", 0, 16),
        ("--hidden-sizes", 16, -1),
        ("--hidden-sizes", 2_000_000, 2_000_000),  # would not fit any memory
        ("--learning-starts", -1),
        ("--noise-sigma", -0.1),
        ("--noise-sigma", "nan"),
        ("--ou-theta", -1),
        ("--ou-dt", -1),
        ("--noise-decay-steps", -1),
        ("--eval-every", -1),
        ("--eval-episodes", 0),
        ("--checkpoint-every", 0),
        ("--num-threads", 0),
        ("--seed", -1),
        ("--device", ABSENT),
    ],
)
def test_a_value_out_of_range_is_refused_and_the_line_names_the_flag(flags, refused, folder):
    refused((*STILL, *flags), flags[0], str(flags[1]).replace("inf", "inf|finite"))
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("flags", [("--nonsense", 3), ("--total-timesteps", "many"), ("--norm", "instance")])
def test_what_tyro_refuses_has_its_own_message_and_status_2(flags, command, folder):
    status, out, err = command(*STILL, *flags)
    assert status == 2
    assert flags[0] in out + err
    assert "Traceback" not in err
    assert not (folder / "runs").exists()


# -------------------------------------------------------------------------------------------------------- directories
def test_a_run_directory_that_exists_is_never_written_to(refused, run):
    before = snapshot(run)
    refused((*STILL, "--run-name", "run"), "exists", "--run-name", "--resume", "run")
    assert snapshot(run) == before


def test_a_runs_dir_that_cannot_be_made_is_named(refused, folder):
    (folder / "file").write_text("")
    refused((*STILL, "--runs-dir", "file/runs"), "not a directory|exists|cannot", "file")
    assert (folder / "file").read_text() == ""


def test_a_directory_without_permission_to_write_is_named(refused, folder, monkeypatch):
    def denied(path, *args, **kwargs):  # root may write anywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    refused(STILL, "Permission denied", "runs")
    assert not (folder / "runs").exists()


def test_without_wandb_track_says_how_to_install_it_and_leaves_nothing(refused, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused((*STILL, "--track"), "pip install wandb")
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())


def test_an_environment_that_cannot_be_filmed_is_refused_and_nothing_left(refused, folder):
    refused((*STILL, "--capture-video"), "render", "--capture-video")
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())


# ------------------------------------------------------------------------------------------------------------ resume
def test_resume_refuses_a_directory_that_does_not_exist(refused, folder):
    refused(("--resume", "runs/nothing"), "nothing")
    assert not (folder / "runs").exists()


def test_resume_refuses_a_directory_without_args_json(refused, run):
    (run / "args.json").unlink()
    before = snapshot(run)
    refused(("--resume", run), "args.json")
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"script": "ddpg_continuous", "args": {"seed": 0', "damaged"),
        ("", "damaged"),
        ("[1, 2]", "damaged"),
        ('{"script": "ddpg_continuous"}', "damaged"),
        ('{"script": "ddpg_continuous", "args": {"seed": 0, "unknown_field": 3}}', "unknown_field"),
        ('{"script": "ddpg_continuous", "args": {"total_timesteps": "many"}}', "args.json"),
        ('{"script": "ddpg_continuous", "args": {"total_timesteps": null}}', "args.json"),
        ('{"script": "ddpg_continuous", "args": {"tau": 7}}', "tau"),
        ('{"script": "dqn", "args": {"seed": 0}}', "dqn"),
    ],
)
def test_resume_refuses_a_damaged_or_foreign_args_json(text, part, refused, run):
    (run / "args.json").write_text(text)
    before = snapshot(run)
    refused(("--resume", run), part)
    assert snapshot(run) == before


@pytest.mark.parametrize(
    "flags", [("--seed", 3), ("--seed=3",), ("--batch_size", 8), ("--track",), ("--run-name", "x")]
)
def test_resume_refuses_other_flags_beside_it_and_names_them(flags, refused, run):
    before = snapshot(run)
    refused(("--resume", run, *flags), "args.json", flags[0].partition("=")[0].replace("_", "."))
    assert snapshot(run) == before


@pytest.mark.parametrize("steps", [59, 60])
def test_resume_refuses_a_total_that_is_not_larger(steps, refused, run):
    before = snapshot(run)
    refused(("--resume", run, "--total-timesteps", steps), "--total-timesteps", str(steps), "60")
    assert snapshot(run) == before


def truncated(run, _):
    data = (run / "checkpoint.pt").read_bytes()
    (run / "checkpoint.pt").write_bytes(data[: len(data) // 2])


def truncated_at_the_start(run, _):
    (run / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:100])


def truncated_at_the_end(run, _):
    (run / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:-1])


def empty(run, _):
    (run / "checkpoint.pt").write_bytes(b"")


def of_something_else(run, _):
    torch.save({"weights": torch.zeros(3)}, run / "checkpoint.pt")


def hostile(run, _):
    (run / "checkpoint.pt").write_bytes(pickle.dumps(Hostile()))


def hostile_for_torch(run, _):
    torch.save({"script": "ddpg_continuous", "agent": Hostile()}, run / "checkpoint.pt")


def weights_only(run, _):
    shutil.copy(run / "last.pt", run / "checkpoint.pt")


def of_another_environment(run, finished):
    shutil.copy(finished / "pendulum" / "checkpoint.pt", run)


def of_another_environment_of_the_same_shape(run, finished):
    shutil.copy(finished / "twin" / "checkpoint.pt", run)


def of_another_network(run, finished):
    shutil.copy(finished / "wider" / "checkpoint.pt", run)


def with_a_smaller_buffer(run, _):
    change(run / "args.json", buffer_size=30)


def with_another_norm(run, _):
    change(run / "args.json", norm="batch")


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        truncated_at_the_start,
        truncated_at_the_end,
        empty,
        of_something_else,
        hostile,
        hostile_for_torch,
        weights_only,
        of_another_environment,
        of_another_environment_of_the_same_shape,
        of_another_network,
        with_a_smaller_buffer,
        with_another_norm,
    ],
)
def test_resume_refuses_a_checkpoint_that_is_damaged_foreign_or_hostile(damage, refused, run, finished, folder):
    damage(run, finished)
    before = snapshot(run)
    refused(("--resume", run), "checkpoint.pt")
    assert snapshot(run) == before
    assert not (folder / "hacked").exists(), "code in the file ran"


# ---------------------------------------------------------------------------------------------------------- evaluate
def test_evaluate_refuses_a_file_that_is_absent(refused):
    refused(("--evaluate", "runs/nothing/best.pt"), "no such file", "nothing")


def test_evaluate_refuses_a_directory(refused, run):
    refused(("--evaluate", run), "directory", "run")


@pytest.mark.parametrize("damage", [truncated, empty, of_something_else, hostile, hostile_for_torch])
def test_evaluate_refuses_a_file_that_is_damaged_foreign_or_hostile(damage, refused, run, finished, folder):
    damage(run, finished)
    refused(("--evaluate", run / "checkpoint.pt"), "checkpoint.pt", "damaged|foreign|no policy")
    assert not (folder / "hacked").exists(), "code in the file ran"


def test_evaluate_refuses_a_text_file_and_an_args_json(refused, run):
    (run / "text.pt").write_text("return 200, solved\n" * 50)
    refused(("--evaluate", run / "text.pt"), "text.pt", "damaged or foreign")
    refused(("--evaluate", run / "args.json"), "args.json", "no policy")


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "unsuitable_environments:TwoActions-v0"])
def test_evaluate_refuses_an_environment_of_another_shape(env_id, refused, run):
    refused(("--evaluate", run / "best.pt", "--env-id", env_id), "best.pt", "cannot play", env_id)


def test_evaluate_refuses_an_unknown_environment(refused, run):
    refused(("--evaluate", run / "best.pt", "--env-id", "LunarLanderContinuos-v3"), "LunarLanderContinuous")


@pytest.mark.parametrize("flag", ["--render", "--capture-video"])
def test_evaluate_refuses_to_show_an_environment_that_cannot_be_shown(flag, refused, run):
    refused(("--evaluate", run / "best.pt", flag), "render", flag)


@pytest.mark.parametrize("flags", [("--tau", 0.1), ("--no-anneal",), ("--resume", "runs/run")])
def test_evaluate_refuses_flags_of_training_and_names_them(flags, refused, run):
    refused(("--evaluate", run / "best.pt", *flags), "--evaluate", flags[0])


def test_render_without_evaluate_is_refused_before_anything_is_written(refused, folder):
    refused((*STILL, "--render"), "--render", "--evaluate")
    assert not (folder / "runs").exists()


def test_evaluate_without_a_display_to_render_on_says_so_in_one_line(refused, finished, monkeypatch):
    pygame = importlib.import_module("pygame")
    pygame.display.quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    refused(("--evaluate", finished / "pendulum" / "best.pt", "--render", "--eval-episodes", 1), "nonsense")


def test_an_undamaged_run_is_accepted(command, run):
    assert command("--evaluate", run / "best.pt", "--eval-episodes", 1)[0] == 0
    assert command("--resume", run, "--total-timesteps", 80)[0] == 0
    assert command("--resume", run)[0] == 0
