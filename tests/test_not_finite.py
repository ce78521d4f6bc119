"""NaN and infinities: the run stops, says where they are from, and never saves them."""

import math

import gymnasium as gym
import numpy as np
import pytest
from helpers import POINT, SMALL, is_all_finite, load, refused
from point_environments import Point

import ddpg_continuous as script


@pytest.fixture(autouse=True)
def no_steps_yet(folder, monkeypatch):
    monkeypatch.setattr(Point, "num_steps", 0)


def faulty(name, *flags):
    """The flags of a run in one of the point_environments with a fault."""
    env_id = f"point_environments:{name}-v0"
    return ("--env-id", env_id, *SMALL, "--total-timesteps", 400, "--run-name", "broken", *flags)


@pytest.mark.parametrize(
    ("name", "every", "step", "cause"),
    [
        ("NanReward", 30, 75, "reward is not finite: nan"),
        ("InfiniteReward", 30, 75, "reward is not finite: -inf"),
        ("OverflowingReward", 30, 75, "reward is not finite: inf"),  # in the buffer's float32
        ("NanObservation", 30, 75, "observation is not finite"),
        ("HugeReward", 30, 150, "moments are not finite"),  # its square, at the next checkpoint
        ("HugeReward", 110, 200, "critic_loss of the update"),  # or at the next logged update
    ],
)
def test_a_nan_or_infinity_stops_the_run_and_one_line_names_step_and_cause(
    name, every, step, cause, command, folder
):
    result = command(*faulty(name, "--eval-every", 0, "--checkpoint-every", every))
    message = refused(result, f"step {step}:", cause)
    good = load(folder / "runs/broken/checkpoint.pt")["progress"]["step"]
    assert f"checkpoint of step {good} is intact" in message
    assert every <= good < step
    assert not list((folder / "runs/broken").glob("*.new"))


def test_what_float32_cannot_hold_is_refused_without_a_warning_in_front(recwarn):
    class Large(gym.Wrapper):
        def step(self, action):
            _, *others = self.env.step(action)
            return np.full(2, 1e39), *others

    env = script.CheckedEnv(Large(Point()))
    env.reset(seed=0)
    with pytest.raises(script.RunError, match="the observation is not finite"):
        env.step(np.float32([0]))
    env = script.CheckedEnv(Point(fault_at=0, reward=-1e39))
    env.reset(seed=0)
    with pytest.raises(script.RunError, match="the reward is not finite: -inf"):
        env.step(np.float32([0]))
    assert not [str(warning.message) for warning in recwarn]


def test_the_checkpoint_that_an_infinite_loss_leaves_is_finite_everywhere(command, folder):
    refused(command(*faulty("HugeReward", "--eval-every", 0, "--checkpoint-every", 30)))
    content = load(folder / "runs/broken/checkpoint.pt")
    assert is_all_finite([content["agent"], content["replay"]["rows"]])


def test_a_nan_while_evaluating_names_the_step_too(command):
    refused(command(*faulty("NanInEvaluation", "--eval-every", 100)), "step 100:", "reward")


@pytest.mark.parametrize(("name", "step"), [("NanAtOnce", 0), ("NanInEvaluation", 60)])
def test_a_nan_in_the_first_or_last_evaluation_names_the_step_and_what_was_saved(
    name, step, command
):
    flags = faulty(name, "--total-timesteps", 60, "--eval-every", 1000)
    status, out, err = command(*flags)
    refused((status, out, err), f"step {step}:", "reward", "checkpoint of step 0 is intact")
    assert "finished" not in out


@pytest.fixture
def spoil(monkeypatch):
    """Makes the actor's weights NaN in the update of the given number."""
    update = script.DDPG.update
    updates = []

    def prepare(number):
        def diverge(agent, *args):
            metrics = update(agent, *args)
            updates.append(metrics)
            if len(updates) == number:
                agent.actor.layer_1.weight.data.fill_(math.nan)
            return metrics

        monkeypatch.setattr(script.DDPG, "update", diverge)

    return prepare


def test_weights_that_have_become_nan_are_never_written_to_a_checkpoint(command, folder, spoil):
    spoil(20)
    flags = (*POINT, "--total-timesteps", 400, "--eval-every", 0, "--checkpoint-every", 10)
    message = refused(command(*flags, "--run-name", "nan"), "weights", "not finite")
    assert message.startswith("step 70:")
    content = load(folder / "runs/nan/checkpoint.pt")
    assert content["progress"]["step"] == 60
    assert is_all_finite(content["agent"])


def test_weights_that_become_nan_in_the_last_update_are_not_saved_either(command, folder, spoil):
    """No action has shown it, and no logged loss."""
    spoil(49)
    flags = (*POINT, "--total-timesteps", 99, "--eval-every", 0, "--run-name", "nan")
    refused(command(*flags), "step 99:", "weights", "not finite", "learning rates")
    assert not (folder / "runs/nan/last.pt").exists()
