"""Whatever is wrong on the command line or in a file: exit status 2, a clear last line, no loss."""

import errno
import importlib
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from helpers import Hostile, change_arguments, refused, snapshot, summary

import ddpg_continuous as script

pytestmark = pytest.mark.usefixtures("folder")
SETTINGS = {
    "hidden_sizes": (16, 16),
    "batch_size": 8,
    "learning_starts": 20,
    "eval_episodes": 1,
    "total_timesteps": 60,
    "eval_every": 30,
    "checkpoint_every": 20,
}
STILL = ("--env-id", "unsuitable_environments:Still-v0", "--total-timesteps", 60)
ABSENT = "mps" if torch.cuda.is_available() else "cuda"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of some finished runs: never changed, but copied."""
    folder = tmp_path_factory.mktemp("finished")
    still = "unsuitable_environments:Still-v0"
    twin = "unsuitable_environments:Twin-v0"
    runs = {
        "run": {"env_id": still},
        "twin": {"env_id": twin},
        "wider": {"env_id": still, "hidden_sizes": (32, 16)},
        "pendulum": {"env_id": "Pendulum-v1", "total_timesteps": 400},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "plot", lambda *_: None)
        for name, settings in runs.items():
            settings = {**SETTINGS, **settings}
            script.train(script.Args(runs_dir=str(folder), run_name=name, **settings))
    return folder


@pytest.fixture
def run(finished, folder):
    """The directory of a finished run, one's own copy."""
    return Path(shutil.copytree(finished / "run", folder / "runs" / "run"))


def assert_nothing_is_left(folder):
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())


# ------------------------------------------------------------------------------------- environments
@pytest.mark.parametrize(
    ("env_id", "parts"),
    [
        ("LunarLanderContinuos-v3", ["Did you mean", "LunarLanderContinuous"]),
        ("LunarLanderContinuous-v99", ["LunarLanderContinuous", "v3"]),
        ("Lunar Lander!", ["Malformed", "Lunar Lander!"]),
        ("", ["--env-id", "empty"]),
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
def test_an_environment_that_is_unknown_or_unsuitable_is_refused(env_id, parts, command, folder):
    refused(command(*STILL, "--env-id", env_id), *parts)
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("env_id", "module", "package"),
    [
        ("LunarLanderContinuous-v3", "Box2D", "box2d"),
        ("Hopper-v5", "mujoco", "mujoco"),
        ("phys2d/Pendulum-v0", "jax", "jax"),
    ],
)
def test_an_environment_whose_packages_are_missing_says_how_to_install_them(
    env_id, module, package, command, folder, monkeypatch
):
    kinds = ("gymnasium.envs.box2d", "gymnasium.envs.mujoco", "gymnasium.envs.phys2d")
    for name in list(sys.modules):
        if name.startswith(kinds):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    refused(command(*STILL, "--env-id", env_id), "pip install", package)
    assert not (folder / "runs").exists()


# ------------------------------------------------------------------------------------------- values
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
        ("--ou-dt", 5, "--ou-theta", 0.5),  # OU noise would grow without end
        ("--eval-every", -1),
        ("--eval-episodes", 0),
        ("--checkpoint-every", 0),
        ("--num-threads", 0),
        ("--num-threads", 2**31),
        ("--seed", -1),
        ("--device", ABSENT),
    ],
)
def test_a_value_out_of_range_is_refused_and_the_line_names_the_flag(flags, command, folder):
    refused(command(*STILL, *flags), flags[0], str(flags[1]))
    assert not (folder / "runs").exists()


def test_batch_norm_needs_a_minibatch_of_two(command):
    refused(command(*STILL, "--norm", "batch", "--batch-size", 1), "--batch-size", "from 2")


@pytest.mark.parametrize(
    "flags", [("--nonsense", 3), ("--total-timesteps", "many"), ("--norm", "instance")]
)
def test_what_tyro_refuses_has_its_own_message_and_status_2(flags, command, folder):
    status, out, err = command(*STILL, *flags)
    assert status == 2
    assert flags[0] in out + err
    assert "Traceback" not in err
    assert not (folder / "runs").exists()


# -------------------------------------------------------------------------------------- directories
def test_a_run_directory_that_exists_is_never_written_to(command, run):
    before = snapshot(run)
    refused(command(*STILL, "--run-name", "run"), "holds a run", "--run-name", "--resume", "run")
    assert snapshot(run) == before


def test_a_runs_dir_that_cannot_be_made_is_named(command, folder):
    (folder / "file").write_text("")
    refused(command(*STILL, "--runs-dir", "file/runs"), "Not a directory", "file")
    assert (folder / "file").read_text() == ""


def test_a_directory_without_permission_to_write_is_named(command, folder, monkeypatch):
    def denied(path, *_, **__):  # root may write anywhere
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    refused(command(*STILL), "Permission denied", "runs")
    assert not (folder / "runs").exists()


def test_without_wandb_track_says_how_to_install_it_and_leaves_nothing(
    command, folder, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused(command(*STILL, "--track"), "pip install wandb")
    assert_nothing_is_left(folder)


def test_an_environment_that_cannot_be_filmed_is_refused_and_nothing_left(command, folder):
    refused(command(*STILL, "--capture-video"), "render", "--capture-video")
    assert_nothing_is_left(folder)


# ------------------------------------------------------------------------------------------- resume
def test_resume_refuses_a_directory_that_does_not_exist(command, folder):
    refused(command("--resume", "runs/nothing"), "nothing")
    assert not (folder / "runs").exists()


def test_resume_refuses_a_directory_without_args_json(command, run):
    (run / "args.json").unlink()
    before = snapshot(run)
    refused(command("--resume", run), "args.json")
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"script": "ddpg_continuous", "args": {"seed": 0', "damaged"),
        ("", "damaged"),
        ("[1, 2]", "damaged"),
        ('{"script": "ddpg_continuous"}', "args.json"),
        ('{"script": "ddpg_continuous", "args": {"seed": 0, "unknown_field": 3}}', "unknown_field"),
        ('{"script": "ddpg_continuous", "args": {"total_timesteps": "many"}}', "args.json"),
        ('{"script": "ddpg_continuous", "args": {"total_timesteps": null}}', "args.json"),
        ('{"script": "ddpg_continuous", "args": {"tau": 7}}', "tau"),
        ('{"script": "dqn", "args": {"seed": 0}}', "dqn"),
    ],
)
def test_resume_refuses_a_damaged_or_foreign_args_json(text, part, command, run):
    (run / "args.json").write_text(text)
    before = snapshot(run)
    refused(command("--resume", run), part)
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--seed", 3), "--seed"),
        (("--seed=3",), "--seed"),
        (("--batch_size", 8), "--batch-size"),
        (("--track",), "--track"),
        (("--run-name", "x"), "--run-name"),
    ],
)
def test_resume_refuses_other_flags_beside_it_and_names_them(flags, named, command, run):
    before = snapshot(run)
    refused(command("--resume", run, *flags), "args.json", named)
    assert snapshot(run) == before


def test_resume_refuses_a_total_that_is_smaller(command, run):
    before = snapshot(run)
    result = command("--resume", run, "--total-timesteps", 59)
    refused(result, "--total-timesteps", "59", "60")
    assert snapshot(run) == before


def test_the_command_that_lengthens_a_run_may_be_given_twice(command, run):
    for _ in range(2):
        assert command("--resume", run, "--total-timesteps", 80)[0] == 0
        assert summary(run)["steps"] == 80


def truncated(run, _):
    file = run / "checkpoint.pt"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def truncated_at_the_start(run, _):
    file = run / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:100])


def truncated_at_the_end(run, _):
    file = run / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-1])


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
    change_arguments(run, buffer_size=30)


def with_another_norm(run, _):
    change_arguments(run, norm="layer")


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
def test_resume_refuses_a_checkpoint_that_is_damaged_foreign_or_hostile(
    damage, command, run, finished, folder
):
    damage(run, finished)
    before = snapshot(run)
    refused(command("--resume", run, "--total-timesteps", 80), "checkpoint.pt")
    assert snapshot(run) == before
    assert not (folder / "hacked").exists(), "code in the file ran"


# ----------------------------------------------------------------------------------------- evaluate
def test_evaluate_refuses_a_file_that_is_absent(command):
    refused(command("--evaluate", "runs/nothing/best.pt"), "No such file", "nothing")


def test_evaluate_refuses_a_directory(command, run):
    refused(command("--evaluate", run), "directory", "run")


@pytest.mark.parametrize(
    "damage", [truncated, empty, of_something_else, hostile, hostile_for_torch]
)
def test_evaluate_refuses_a_file_that_is_damaged_foreign_or_hostile(
    damage, command, run, finished, folder
):
    damage(run, finished)
    result = command("--evaluate", run / "checkpoint.pt")
    refused(result, "checkpoint.pt", "missing, damaged or foreign")
    assert not (folder / "hacked").exists(), "code in the file ran"


def test_evaluate_refuses_a_text_file_and_an_args_json(command, run):
    (run / "text.pt").write_text("return 200, solved\n" * 50)
    refused(command("--evaluate", run / "text.pt"), "text.pt", "damaged or foreign")
    refused(command("--evaluate", run / "args.json"), "args.json", "damaged or foreign")


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "unsuitable_environments:TwoActions-v0"])
def test_evaluate_refuses_an_environment_of_another_shape(env_id, command, run):
    result = command("--evaluate", run / "best.pt", "--env-id", env_id)
    refused(result, "best.pt", "cannot play", env_id)


def test_evaluate_refuses_an_unknown_environment(command, run):
    result = command("--evaluate", run / "best.pt", "--env-id", "LunarLanderContinuos-v3")
    refused(result, "LunarLanderContinuous")


@pytest.mark.parametrize(
    ("flag", "mode"), [("--render", "human"), ("--capture-video", "rgb_array")]
)
def test_evaluate_refuses_to_show_an_environment_that_cannot_be_shown(
    flag, mode, command, run, monkeypatch
):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")  # else the missing display is refused first
    refused(command("--evaluate", run / "best.pt", flag), f"no render mode {mode}", flag)


@pytest.mark.parametrize("flags", [("--tau", 0.1), ("--no-anneal",), ("--resume", "runs/run")])
def test_evaluate_refuses_flags_of_training_and_names_them(flags, command, run):
    refused(command("--evaluate", run / "best.pt", *flags), "--evaluate", flags[0])


def test_render_without_evaluate_is_refused_before_anything_is_written(command, folder):
    refused(command(*STILL, "--render"), "--render", "--evaluate")
    assert not (folder / "runs").exists()


def test_evaluate_with_a_driver_that_is_not_there_says_so_in_one_line(
    command, finished, monkeypatch
):
    pygame = importlib.import_module("pygame")
    pygame.display.quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    best = finished / "pendulum" / "best.pt"
    refused(command("--evaluate", best, "--render", "--eval-episodes", 1), "nonsense")


def test_too_little_memory_is_one_line_and_no_file_is_called_damaged(command, run, monkeypatch):
    def full(*_, **__):
        raise MemoryError("Unable to allocate 99 GiB")

    monkeypatch.setattr(script.torch, "load", full)
    message = refused(command("--evaluate", run / "best.pt"), "Unable to allocate")
    assert "damaged" not in message


def test_an_undamaged_run_is_accepted(command, run):
    assert command("--evaluate", run / "best.pt", "--eval-episodes", 1)[0] == 0
    assert command("--evaluate", run / "checkpoint.pt", "--eval-episodes", 1)[0] == 0
    assert command("--resume", run, "--total-timesteps", 80)[0] == 0
    assert command("--resume", run)[0] == 0
