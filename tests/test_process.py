"""What a script does to the process around it: no more than it has to."""

import os
import shutil
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import filelock
import numpy as np
import pytest
import torch
from helpers import ENVIRONMENTS, POINT, QUICK, Killed, refused, summary
from point_environments import Point

import ddpg_continuous
import ddpg_pixels
import dqn

pytestmark = pytest.mark.usefixtures("folder")


# --------------------------------------------------------------------------------- what is imported
IMPORT_AND_RUN = """if True:
    import sys
    import ddpg_continuous
    print("imported")
    ddpg_continuous.main()
    print(sorted({"wandb", "tensorflow", "keras", "moviepy"} & set(sys.modules)))
"""


def test_importing_does_nothing_and_a_run_loads_neither_wandb_nor_tensorflow(start, folder):
    """The environment is one's own, in a file of the current folder."""
    shutil.copy(ENVIRONMENTS / "point_environments.py", folder / "my_module.py")
    flags = (*QUICK, "--env-id", "my_module:Quick-v0", "--total-timesteps", 60)
    process = start(*flags, program=("-c", IMPORT_AND_RUN))
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "imported"
    assert lines[-1] == "[]"


# ---------------------------------------------------------------------------- process-wide settings
@pytest.fixture(scope="module", autouse=True)
def loaded_torch():
    """torch imports parts of itself at the first optimiser, and those change settings."""
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], fused=True)


@pytest.fixture
def two_threads():
    """torch uses two threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def settings():
    """What one part of a program can change under another's feet."""
    _, keys, *position = np.random.get_state()  # noqa: NPY002
    return {
        "threads": torch.get_num_threads(),
        "threads between operations": torch.get_num_interop_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "determinism": torch.are_deterministic_algorithms_enabled(),
        "type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "smallest numbers are zero": are_small_numbers_zero(),
        "numpy's generator": (keys.tolist(), position),
        "warnings": list(warnings.filters),
        "hooks": (sys.excepthook, threading.excepthook),
        "path": list(sys.path),
        "variables": dict(os.environ),
    }


@pytest.mark.parametrize(
    ("script", "algorithm"),
    [
        (ddpg_continuous, ddpg_continuous.DDPG),
        (ddpg_pixels, ddpg_pixels.DDPG),
        (dqn, dqn.DQN),
    ],
    ids=["ddpg_continuous", "ddpg_pixels", "dqn"],
)
def test_neither_a_constructor_nor_load_policy_changes_a_setting_of_the_process(
    script, algorithm, two_threads, ordinary_floats, folder
):
    observation = np.zeros(3, np.float32)
    if script is ddpg_pixels:
        observation = np.zeros((64, 64, 3), np.uint8)
    before = settings()
    args = script.Args(num_threads=1, hidden_sizes=(8, 8))
    agent = algorithm(3, 2, args)
    assert settings() == before
    script.save_agent(folder / "agent.pt", args, agent)
    policy, _ = script.load_policy(folder / "agent.pt")
    policy(observation)
    assert settings() == before


@pytest.fixture
def ordinary_floats():
    """Numbers below 1e-38 are what they are; afterwards, too."""
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


def are_small_numbers_zero():
    return (torch.tensor([1e-38]) * 1e-2).item() == 0


def test_a_training_and_evaluate_set_torchs_threads_and_count_smallest_numbers_as_zero(
    command, two_threads, ordinary_floats, folder
):
    assert not are_small_numbers_zero()
    flags = (*POINT, "--total-timesteps", 20, "--run-name", "run")
    assert command(*flags, "--num-threads", 3)[0] == 0
    assert torch.get_num_threads() == 3  # neither the default nor as many as before
    assert are_small_numbers_zero()
    torch.set_num_threads(2)
    torch.set_flush_denormal(False)
    assert command("--evaluate", "runs/run/last.pt", "--eval-episodes", 1)[0] == 0
    assert torch.get_num_threads() == 1
    assert are_small_numbers_zero()


# ----------------------------------------------------------------------------------- the run's lock
def is_locked(run):
    lock = filelock.FileLock(run / ".lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return True
    lock.release()
    return False


SIXTY_STEPS = ddpg_continuous.Args(
    env_id="point_environments:Point-v0",
    hidden_sizes=(8, 8),
    batch_size=8,
    learning_starts=20,
    total_timesteps=60,
    eval_every=0,
    checkpoint_every=20,
)


def test_one_process_trains_twice_and_resumes(folder, monkeypatch):
    monkeypatch.setattr(ddpg_continuous, "plot", lambda *_: None)
    for name in ("one", "two"):
        ddpg_continuous.train(replace(SIXTY_STEPS, run_name=name))
        assert not is_locked(folder / "runs" / name)
    ddpg_continuous.train(replace(SIXTY_STEPS, total_timesteps=80, resume="runs/one"))
    assert not is_locked(folder / "runs/one")
    assert summary(folder / "runs/one")["steps"] == 80
    assert summary(folder / "runs/two")["steps"] == 60


def test_a_training_in_another_thread_than_the_main_one_runs_through(folder, monkeypatch):
    """Signals belong to the main one."""
    monkeypatch.setattr(ddpg_continuous, "plot", lambda *_: None)
    args = replace(SIXTY_STEPS, eval_every=30, eval_episodes=1, run_name="run")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ddpg_continuous.train, args).result()
    assert summary(folder / "runs/run")["steps"] == 60


@pytest.mark.parametrize(
    ("error", "status"), [(None, 0), (OSError("disk full"), 2), (KeyboardInterrupt(), 130)]
)
def test_a_run_is_locked_until_its_end_whatever_ends_it(
    error, status, command, folder, monkeypatch
):
    seen = []

    def after_episode(run):
        seen.append(is_locked(run.path))
        if error and run.progress.step == 30:
            raise error

    monkeypatch.setattr(ddpg_continuous.Run, "after_episode", after_episode)
    flags = (*POINT, "--total-timesteps", 60, "--eval-every", 0, "--run-name", "run")
    assert command(*flags)[0] == status
    assert len(seen) >= 3
    assert all(seen)
    assert not is_locked(folder / "runs/run")


def test_a_run_that_fails_can_be_resumed_in_the_same_process(command, folder, monkeypatch):
    monkeypatch.setattr(Point, "num_steps", 0)
    failing = ("--env-id", "point_environments:NanReward-v0")
    flags = (*POINT, *failing, "--total-timesteps", 90, "--eval-every", 0)
    refused(command(*flags, "--checkpoint-every", 30, "--run-name", "run"), "step 75:")
    monkeypatch.setattr(Point, "num_steps", -100)
    assert command("--resume", "runs/run")[0] == 0


def test_the_lock_is_released_after_an_error_that_nobody_foresaw(command, folder, monkeypatch):
    def after_episode(_):
        raise Killed

    monkeypatch.setattr(ddpg_continuous.Run, "after_episode", after_episode)
    with pytest.raises(Killed):
        command(*POINT, "--total-timesteps", 60, "--eval-every", 0, "--run-name", "run")
    assert not is_locked(folder / "runs/run")


# ------------------------------------------------------------------------------------- its warnings
BLUNT = "UserWarning: the point is blunt"


def test_a_warning_of_a_users_environment_is_shown(command):
    flags = (*POINT, "--env-id", "point_environments:Warning-v0", "--total-timesteps", 30)
    status, _, err = command(*flags)
    assert status == 0
    assert BLUNT in err


def test_below_the_warnings_the_last_line_says_what_is_wrong(command):
    result = command("--env-id", "point_environments:WarningDiscrete-v0")
    refused(result, "WarningDiscrete-v0", "Discrete", "continuous")
    assert BLUNT in result[2]
