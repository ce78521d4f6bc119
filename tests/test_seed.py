"""What the seed fixes, and that to evaluate changes nothing in the training."""

import random

import numpy as np
import pytest
import torch
from helpers import LOGS, POINT, SMALL, SMOKE, assert_same_run, is_same, load

import ddpg_continuous

FINISHED_RUNS = [(ddpg_continuous, SMOKE)]
pytestmark = pytest.mark.usefixtures("folder")


def test_a_seed_fixes_everything_whatever_the_process_did_before(smoke, command, folder):
    torch.manual_seed(99)
    torch.rand(3)
    np.random.seed(7)  # noqa: NPY002
    random.seed(5)
    assert command(*SMOKE, "--run-name", "again")[0] == 0
    assert_same_run(folder / "runs/again", smoke[0])


def test_another_seed_gives_another_run(command, folder):
    flags = (*POINT, "--total-timesteps", 200, "--eval-every", 100)
    for seed in (0, 1):
        assert command(*flags, "--seed", seed, "--run-name", seed)[0] == 0
    one, other = folder / "runs/0", folder / "runs/1"
    for log in LOGS:
        assert (one / log).read_bytes() != (other / log).read_bytes(), log
    assert not is_same(load(one / "last.pt")["agent"], load(other / "last.pt")["agent"])


@pytest.mark.parametrize("env_id", ["LunarLanderContinuous-v3", "point_environments:Point-v0"])
def test_evaluation_disturbs_nothing(env_id, command, folder):
    flags = ("--env-id", env_id, *SMALL, "--total-timesteps", 400, "--checkpoint-every", 150)
    for every in (0, 100):
        assert command(*flags, "--eval-every", every, "--run-name", every)[0] == 0
    without, with_it = folder / "runs/0", folder / "runs/100"
    for log in ("episodes.csv", "updates.csv"):
        assert (without / log).read_bytes() == (with_it / log).read_bytes()
    assert is_same(load(without / "last.pt")["agent"], load(with_it / "last.pt")["agent"])
    assert not (without / "evaluations.csv").exists()
    assert not (without / "best.pt").exists()
