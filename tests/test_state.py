"""Everything that changes while a run trains is in its checkpoint."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from walk import differences_after_restoring

import ddpg_continuous
import dqn

pytestmark = pytest.mark.usefixtures("folder")
ALGORITHMS = {ddpg_continuous: ddpg_continuous.DDPG, dqn: dqn.DQN}
each_script = pytest.mark.parametrize("script", ALGORITHMS, ids=lambda script: script.SCRIPT)


def small_args(script):
    """300 steps in which the buffer overflows, with evaluations and two checkpoints."""
    settings = {"env_id": "point_environments:Point-v0", "norm": "batch", "learning_starts": 50}
    if script is dqn:
        settings = {"env_id": "CartPole-v1", "target_network": "soft"}
    return script.Args(
        **settings,
        hidden_sizes=(8, 8),
        batch_size=8,
        buffer_size=80,
        total_timesteps=300,
        eval_every=60,
        eval_episodes=1,
        checkpoint_every=100,
    )


def names(found):
    """The fields of Training that differ.

    Its generator is the buffer's own, and the walk through the training reaches it there.
    """
    fields = {path.split(".")[1] for path in found}
    if any(path.startswith("training.replay.rng") for path in found):
        fields.add("rng")
    return fields


@each_script
def test_all_that_changes_during_training_is_in_the_checkpoint(script):
    found, found_without = differences_after_restoring(script, small_args(script))
    assert len(found) >= 2
    for restored, not_restored in zip(found, found_without, strict=True):
        assert restored == []
        assert names(not_restored) == {"agent", "replay", "rng", "progress"}


# ---------------------------------------------------- the test sees what is missing in a checkpoint
def add_priorities(script, monkeypatch):
    """To the buffer: an array."""
    add = script.ReplayBuffer.add

    def add_with_priority(replay, *transition):
        if replay.num_added == 0:
            replay.priorities = np.zeros(len(replay.rows))
        replay.priorities[replay.num_added % len(replay.rows)] = replay.num_added
        add(replay, *transition)

    monkeypatch.setattr(script.ReplayBuffer, "add", add_with_priority)
    return "training.replay.priorities"


def add_a_running_mean(script, monkeypatch):
    """To the agent: a tensor in an object of its own."""
    algorithm = ALGORITHMS[script]
    update = algorithm.update

    def update_with_mean(agent, batch, *rest):
        if not hasattr(agent, "normaliser"):
            agent.normaliser = SimpleNamespace(mean=torch.zeros(batch[0].shape[1]))
        agent.normaliser.mean += 0.01 * torch.from_numpy(batch[0].mean(axis=0))
        return update(agent, batch, *rest)

    monkeypatch.setattr(algorithm, "update", update_with_mean)
    return "training.agent.normaliser"


def forget_the_optimisers(script, monkeypatch):
    """They are saved, and not restored."""
    algorithm = ALGORITHMS[script]

    def set_state(agent, state):
        agent.load_state_dict(state["networks"])

    monkeypatch.setattr(algorithm, "set_state", set_state)
    return "training.agent."  # in its optimisers


def copy_the_generator(script, monkeypatch):
    """The buffer's generator no longer is the one that the training draws from."""
    set_state = script.Training.set_state

    def set_state_and_copy(training, state):
        set_state(training, state)
        training.rng = np.random.default_rng()
        training.rng.bit_generator.state = state["rng"]

    monkeypatch.setattr(script.Training, "set_state", set_state_and_copy)
    return "training.rng (shared)"


@each_script
@pytest.mark.parametrize(
    "change",
    [add_priorities, add_a_running_mean, forget_the_optimisers, copy_the_generator],
)
def test_what_changes_and_is_not_restored_is_found(change, script, monkeypatch):
    path = change(script, monkeypatch)
    found, _ = differences_after_restoring(script, small_args(script))
    assert len(found) >= 2
    for restored in found:
        assert any(place.startswith(path) for place in restored), restored
