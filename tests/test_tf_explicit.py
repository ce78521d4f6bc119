"""What the algorithm in ddpg_tf_explicit.py guarantees. Its values: test_parity.py; its runs: test_npz.py."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import algorithm_of, continuous_batch, identical, refused

import ddpg_tf_explicit

tf.config.threading.set_intra_op_parallelism_threads(1)
every_norm = pytest.mark.parametrize("norm", ["batch", "layer", "none"])

OBSERVATION_SIZE, ACTION_SIZE = 3, 2
SHORT = ("--hidden-sizes", 16, 16, "--batch-size", 8, "--learning-starts", 50, "--total-timesteps", 120)
pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def script():
    return ddpg_tf_explicit


def new_agent(norm="batch", hidden_sizes=(16, 12), **args):
    """As the script makes it."""
    keras.utils.set_random_seed(0)
    args = ddpg_tf_explicit.Args(norm=norm, hidden_sizes=hidden_sizes, **args)
    return ddpg_tf_explicit.DDPG(OBSERVATION_SIZE, ACTION_SIZE, args)


def weights(model):
    return [x.numpy() for x in model.trainable_variables]


# ---------------------------------------------------------------------------------------------------- the networks
@every_norm
def test_layers_start_uniformly_within_one_over_root_fan_in_and_the_last_within_3e_3(norm):
    agent = new_agent(norm, hidden_sizes=(400, 300))
    for model, fan_ins in ((agent.actor, (3, 400, 3e-3)), (agent.critic, (3, 402, 3e-3))):
        layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        assert [layer.units for layer in layers] == [400, 300, model.output_shape[-1]]
        for layer, fan_in in zip(layers, fan_ins, strict=True):
            bound = fan_in if fan_in < 1 else fan_in**-0.5
            for x in weights(layer):
                assert np.abs(x).max() <= bound
                assert np.abs(x).max() > 0.9 * bound or x.size < 20
                assert x.size < 300 or x.std() == pytest.approx(bound / 3**0.5, rel=0.15)


@every_norm
def test_the_targets_start_equal_to_the_online_networks_and_follow_by_tau(norm):
    agent = new_agent(norm, tau=0.3)
    identical(weights(agent.actor), weights(agent.target_actor))
    identical(weights(agent.critic), weights(agent.target_critic))
    before = weights(agent.target_actor) + weights(agent.target_critic)
    agent.update(continuous_batch())
    online = weights(agent.actor) + weights(agent.critic)
    for old, new, x in zip(before, weights(agent.target_actor) + weights(agent.target_critic), online, strict=True):
        np.testing.assert_allclose(new, 0.3 * x + 0.7 * old, rtol=1e-5, atol=1e-7)


def test_only_the_network_that_acts_has_running_averages_and_only_acting_reads_them():
    agent = new_agent("batch")
    assert len(agent.actor.non_trainable_variables) == 6  # mean and variance of the observation and both hidden layers
    for model in (agent.critic, agent.target_actor, agent.target_critic):
        assert not model.non_trainable_variables
    start, batch = [x.numpy() for x in agent.variables], continuous_batch()
    expected, at = agent.update(batch, read=True), agent.act(batch[0][0])
    agent.set_state({"variables": start})
    for x in agent.actor.non_trainable_variables:
        x.assign(x + 7.0)
    assert agent.update(batch, read=True) == expected
    assert np.abs(agent.act(batch[0][0]) - at).max() > 1e-5


def test_acting_leaves_everything_as_it_is():
    agent = new_agent("batch")
    agent.update(continuous_batch())
    before = [x.numpy() for x in agent.variables]
    action = agent.act(continuous_batch()[0][0])
    assert action.shape == (ACTION_SIZE,)
    assert action.dtype == np.float32
    identical(before, [x.numpy() for x in agent.variables])


# ------------------------------------------------------------------------------------------------------- the update
@pytest.mark.parametrize(("network", "rate", "decay"), [("actor", 0.02, 0.0), ("critic", 0.05, 0.3)])
def test_adam_steps_by_hand_with_l2_in_the_gradient_of_the_critic_alone(network, rate, decay):
    """Keras's Adam: ε is added to the root of the second moment before the bias correction."""
    agent = new_agent("none", actor_learning_rate=0.02, critic_learning_rate=0.05, weight_decay=0.3)
    optimizer, model = getattr(agent, f"{network}_optimizer"), getattr(agent, network)
    taken, apply = [], optimizer.apply
    optimizer.apply = lambda gradients, variables: (
        taken.extend(x.numpy() for x in gradients),
        apply(gradients, variables),
    )
    before = weights(model)
    batch = [tf.constant(x) for x in continuous_batch()]
    s, a, r, terminated, next_s = batch
    with tf.GradientTape() as tape:
        if network == "critic":
            y = r + 0.99 * (1 - terminated) * agent.target_critic([next_s, agent.target_actor(next_s)])
            loss = tf.reduce_mean((agent.critic([s, a]) - y) ** 2)
    expected = tape.gradient(loss, model.trainable_variables) if network == "critic" else None
    agent.learn(batch, 0.5)
    for i, (x, g) in enumerate(zip(weights(model), taken, strict=True)):
        if network == "critic":
            np.testing.assert_allclose(g, expected[i] + decay * before[i], rtol=1e-3, atol=1e-6)
        m, v = 0.1 * g, 0.001 * g * g
        step = 0.5 * rate * np.sqrt(1 - 0.999) / (1 - 0.9) * m / (np.sqrt(v) + 1e-8)
        np.testing.assert_allclose(before[i] - x, step, rtol=2e-3, atol=1e-6)


@every_norm
def test_the_policy_learns_which_way_the_reward_grows(norm):
    agent = new_agent(norm, actor_learning_rate=3e-3, critic_learning_rate=1e-2)
    for seed in range(100):
        s, a, _, terminated, next_s = continuous_batch(seed=seed)
        agent.update([s, a, a[:, :1] - a[:, 1:], np.ones_like(terminated), next_s])
    actions = np.array([agent.act(s) for s in continuous_batch(50, 1000)[0]])
    assert actions[:, 0].mean() > 0.8
    assert actions[:, 1].mean() < -0.8


def test_the_update_and_the_policy_are_traced_once_whatever_the_rate_and_whether_or_not_values_are_read():
    agent = new_agent()
    for seed in range(5):
        agent.update(continuous_batch(seed=seed), scale=1 - seed / 5, read=seed % 2 == 0)
        agent.act(continuous_batch(seed=seed)[0][0])
    assert agent.compiled_update.experimental_get_tracing_count() == 1
    assert agent.compiled_policy.experimental_get_tracing_count() == 1


def test_a_whole_training_traces_once_too(command, script, monkeypatch):
    agents = []
    make = script.DDPG
    monkeypatch.setattr(script, "DDPG", lambda *args: agents.append(make(*args)) or agents[-1])
    assert command(*SHORT, "--eval-every", 60, "--eval-episodes", 1)[0] == 0
    assert agents[0].compiled_update.experimental_get_tracing_count() == 1
    assert agents[0].compiled_policy.experimental_get_tracing_count() == 1


def test_a_learning_rate_of_zero_moves_nothing_but_the_targets():
    agent = new_agent("none", tau=0.0)
    before = [x.numpy() for model in (agent.actor, agent.critic) for x in model.trainable_variables]
    agent.update(continuous_batch(), scale=0.0)
    identical(before, [x.numpy() for model in (agent.actor, agent.critic) for x in model.trainable_variables])


def test_at_the_start_no_action_is_at_an_edge_and_no_slope_counts_as_outward():
    logged = new_agent().update(continuous_batch(), read=True)
    assert logged["dq_da_norm"] > 0
    assert logged["saturation"] == logged["dq_da_outward"] == 0


@pytest.mark.parametrize(("sign", "share"), [(1.0, 1.0), (-1.0, 0.0)])
def test_a_slope_counts_as_outward_only_where_it_points_out_of_the_box(sign, share):
    agent = new_agent("none", weight_decay=0.0, critic_learning_rate=1e-2)
    agent.actor.layers[-1].bias.assign([4.0, -4.0])  # in front of tanh: both actions at an edge
    agent.actor_optimizer.apply = lambda *_: None  # where they stay
    for seed in range(100):  # the critic learns to like, or to dislike, both
        s, a, _, terminated, next_s = continuous_batch(64, seed)
        logged = agent.update([s, a, sign * (a[:, :1] - a[:, 1:]), np.ones_like(terminated), next_s], read=True)
    assert logged["saturation"] == 1.0
    assert logged["dq_da_outward"] == share


def test_the_algorithm_cut_out_of_the_file_stands_alone():
    alone = algorithm_of(ddpg_tf_explicit)
    keras.utils.set_random_seed(0)
    args = alone["Args"](norm="batch", hidden_sizes=(16, 12))
    agent, same = alone["DDPG"](OBSERVATION_SIZE, ACTION_SIZE, args), new_agent()
    assert agent.update(continuous_batch(), read=True) == same.update(continuous_batch(), read=True)
    identical([x.numpy() for x in agent.variables], [x.numpy() for x in same.variables])


# ---------------------------------------------------------------------------------------------------------- the run
def test_the_script_imports_no_torch():
    code = "import sys, ddpg_tf_explicit; sys.exit('torch' in sys.modules)"
    folder = os.path.dirname(ddpg_tf_explicit.__file__)
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True).returncode == 0


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(command, folder):
    refused(command("--device", "gpu"), "--device gpu", "--device cpu")
    assert not (folder / "runs").exists()


def test_a_program_that_has_loaded_a_policy_can_still_train_with_other_threads(command, folder):
    assert command(*SHORT, "--run-name", "run")[0] == 0
    code = "import ddpg_tf_explicit as d, sys; policy, args = d.load_policy(sys.argv[1]); policy(d.np.zeros(3, 'f'))"
    code += "; args.run_name, args.num_threads = 'more', 2; d.train(args)"
    environment = {**os.environ, "PYTHONPATH": str(Path(ddpg_tf_explicit.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code, "runs/run/best.npz"], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "runs/more/last.npz").exists()
