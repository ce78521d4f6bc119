"""What the algorithm in ddpg_tf_explicit.py guarantees.

Its values beside those of ddpg_continuous.py: test_parity.py; its runs: test_npz.py.
"""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import (
    SHORT_NPZ,
    algorithm_of,
    continuous_batch,
    identical,
    process_variables,
    refused,
)

if keras.config.backend() != "tensorflow":
    pytest.skip("the script is TensorFlow's", allow_module_level=True)
import ddpg_tf_explicit

every_norm = pytest.mark.parametrize("norm", ["batch", "layer", "none"])

OBSERVATION_SIZE, ACTION_SIZE = 3, 2
RATES = {"actor_learning_rate": 3e-3, "critic_learning_rate": 1e-2}
FINISHED_RUNS = [(ddpg_tf_explicit, SHORT_NPZ)]
shared_agents = {}
pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def script():
    return ddpg_tf_explicit


def new_agent(norm="batch", hidden_sizes=(16, 12), **args):
    """As the script makes it."""
    keras.utils.set_random_seed(0)
    args = ddpg_tf_explicit.Args(norm=norm, hidden_sizes=hidden_sizes, **args)
    return ddpg_tf_explicit.DDPG(OBSERVATION_SIZE, ACTION_SIZE, args)


def shared_agent(norm="batch"):
    """An agent at its start that is compiled only once for all tests."""
    if norm not in shared_agents:
        agent = new_agent(norm, tau=0.3, **RATES)
        shared_agents[norm] = (agent, agent.state())
    agent, start = shared_agents[norm]
    agent.set_state(start)
    return agent


def arrays(variables):
    return [x.numpy() for x in variables]


def online(agent):
    return arrays(agent.actor.trainable_variables + agent.critic.trainable_variables)


def targets(agent):
    networks = (agent.target_actor, agent.target_critic)
    return arrays(x for network in networks for x in network.trainable_variables)


def everything(agent):
    return list(agent.state().values())


def numbers(metrics):
    return {name: float(value) for name, value in metrics.items()}


def uncompiled(agent, batch, scale=1.0):
    """The update, line by line: its metrics."""
    return numbers(agent.learn([tf.constant(x) for x in batch], tf.constant(scale)))


# ------------------------------------------------------------------------------------- the networks
@every_norm
def test_layers_start_uniformly_within_one_over_root_fan_in_and_the_last_within_3e_3(norm):
    agent = new_agent(norm, hidden_sizes=(400, 300))
    bounds_of = [
        (agent.actor, (3**-0.5, 400**-0.5, 3e-3)),
        (agent.critic, (3**-0.5, 402**-0.5, 3e-3)),
    ]
    for model, bounds in bounds_of:
        layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        assert [layer.units for layer in layers] == [400, 300, model.output_shape[-1]]
        for layer, bound in zip(layers, bounds, strict=True):
            for x in arrays(layer.trainable_variables):
                assert np.abs(x).max() <= bound
                if x.size >= 20:
                    assert np.abs(x).max() > 0.9 * bound
                if x.size >= 300:
                    assert x.std() == pytest.approx(bound / 3**0.5, rel=0.15)


@every_norm
def test_the_targets_start_equal_to_the_online_networks_and_follow_by_tau(norm):
    agent = shared_agent(norm)
    identical(online(agent), targets(agent))
    before = targets(agent)
    agent.update(continuous_batch())
    for old, new, x in zip(before, targets(agent), online(agent), strict=True):
        np.testing.assert_allclose(new, 0.3 * x + 0.7 * old, rtol=1e-5, atol=1e-7)
        assert np.abs(new - old).max() > 0


def test_only_the_network_that_acts_has_running_averages_and_only_acting_reads_them():
    agent, batch = shared_agent("batch"), continuous_batch()
    # Mean and variance of the observation and both hidden layers
    assert len(agent.actor.non_trainable_variables) == 6
    for model in (agent.critic, agent.target_actor, agent.target_critic):
        assert not model.non_trainable_variables
    start = agent.state()
    expected, action = numbers(agent.update(batch)), agent.act(batch[0][0])
    agent.set_state(start)
    for x in agent.actor.non_trainable_variables:
        x.assign(x + 7.0)
    assert numbers(agent.update(batch)) == expected
    assert np.abs(agent.act(batch[0][0]) - action).max() > 1e-5


def test_acting_leaves_everything_as_it_is():
    agent = shared_agent("batch")
    agent.update(continuous_batch())
    before = everything(agent)
    action = agent.act(continuous_batch()[0][0])
    assert action.shape == (ACTION_SIZE,)
    assert action.dtype == np.float32
    identical(before, everything(agent))


# --------------------------------------------------------------------------------------- the update
@pytest.mark.parametrize(
    ("network", "rate", "decay"), [("actor", 0.02, 0.0), ("critic", 0.05, 0.3)]
)
def test_adam_steps_by_hand_with_l2_in_the_gradient_of_the_critic_alone(network, rate, decay):
    """Keras's Adam: ε is added to the root of the second moment before the bias correction."""
    agent = new_agent("none", actor_learning_rate=0.02, critic_learning_rate=0.05, weight_decay=0.3)
    optimizer, model = getattr(agent, f"{network}_optimizer"), getattr(agent, network)
    apply = optimizer.apply
    taken = []

    def watched(gradients, variables):
        taken[:] = arrays(gradients)
        apply(gradients, variables)

    optimizer.apply = watched
    m = [0.0 for _ in model.trainable_variables]
    v = [0.0 for _ in model.trainable_variables]
    for t in range(1, 4):
        before = arrays(model.trainable_variables)
        batch = [tf.constant(x) for x in continuous_batch(seed=t)]
        if network == "critic":
            expected = gradients_of_the_loss(agent, batch)
        agent.learn(batch, 0.5)
        if network == "critic":
            for g, plain, w in zip(taken, expected, before, strict=True):
                np.testing.assert_allclose(g, plain + decay * w, rtol=1e-3, atol=1e-6)
        for i, new in enumerate(arrays(model.trainable_variables)):
            m[i] = 0.9 * m[i] + 0.1 * taken[i]
            v[i] = 0.999 * v[i] + 0.001 * taken[i] ** 2
            step = 0.5 * rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m[i] / (np.sqrt(v[i]) + 1e-8)
            np.testing.assert_allclose(before[i] - new, step, rtol=2e-3, atol=1e-6)


def gradients_of_the_loss(agent, batch):
    """The gradient of the mean squared error, without norm and without L2."""
    s, a, r, terminated, next_s = batch
    next_q = agent.target_critic([next_s, agent.target_actor(next_s)])
    y = r + 0.99 * (1 - terminated) * next_q
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((agent.critic([s, a]) - y) ** 2)
    return arrays(tape.gradient(loss, agent.critic.trainable_variables))


@every_norm
def test_the_policy_learns_which_way_the_reward_grows(norm):
    agent = shared_agent(norm)
    for seed in range(100):
        s, a, _, terminated, next_s = continuous_batch(seed=seed)
        agent.update([s, a, a[:, :1] - a[:, 1:], np.ones_like(terminated), next_s])
    actions = np.array([agent.act(s) for s in continuous_batch(50, 1000)[0]])
    assert actions[:, 0].mean() > 0.8
    assert actions[:, 1].mean() < -0.8


@every_norm
def test_the_compiled_update_is_the_same_mathematics_at_every_step(norm):
    agent = shared_agent(norm)
    start = agent.state()
    scales = [1.0, 0.5, 0.25]
    batches = [continuous_batch(seed=seed) for seed in range(3)]
    expected = [uncompiled(agent, *step) for step in zip(batches, scales, strict=True)]
    after = everything(agent)
    agent.set_state(start)
    for batch, scale, metrics in zip(batches, scales, expected, strict=True):
        logged = numbers(agent.update(batch, scale))
        assert logged == pytest.approx(metrics, rel=1e-4, abs=1e-5)
    for x, y in zip(everything(agent), after, strict=True):
        # Adam's first steps are up to 1e-2 for nearly any gradient
        assert np.abs(x - y).max() <= 1e-4


@every_norm
def test_an_update_gives_scalar_tensors_which_are_finite(norm):
    metrics = shared_agent(norm).update(continuous_batch())
    names = ["critic_loss", "dq_da_norm", "q", "saturation", "dq_da_outward"]
    assert set(metrics) == set(names)
    for name, value in metrics.items():
        assert isinstance(value, tf.Tensor), name
        assert value.shape == (), name
        assert np.isfinite(value.numpy()), name


def test_the_update_and_the_policy_are_traced_once_whatever_the_learning_rate():
    agent = shared_agent("batch")
    for seed in range(5):
        agent.update(continuous_batch(seed=seed), learning_rate_scale=1 - seed / 5)
        agent.act(continuous_batch(seed=seed)[0][0])
        agent.set_state(agent.state())
    assert agent.compiled_update.experimental_get_tracing_count() == 1
    assert agent.compiled_policy.experimental_get_tracing_count() == 1


def test_a_learning_rate_of_zero_moves_nothing_but_the_targets():
    agent = shared_agent("none")
    agent.update(continuous_batch())  # the targets are others now
    before = online(agent)
    targets = [agent.target_actor, agent.target_critic]
    old_targets = [arrays(network.trainable_variables) for network in targets]
    agent.update(continuous_batch(), learning_rate_scale=0.0)
    identical(before, online(agent))
    for network, old in zip(targets, old_targets, strict=True):
        assert np.abs(arrays(network.trainable_variables)[0] - old[0]).max() > 0


def test_a_state_is_a_copy_and_brings_everything_back():
    agent, batch = shared_agent("batch"), continuous_batch()
    agent.update(batch)
    state = agent.state()
    kept = {name: x.copy() for name, x in state.items()}
    expected = [numbers(agent.update(batch)) for _ in range(2)]
    agent.set_state(state)
    assert [numbers(agent.update(batch)) for _ in range(2)] == expected
    identical(list(state.values()), list(kept.values()))


def test_at_the_start_no_action_is_at_an_edge_and_no_slope_counts_as_outward():
    metrics = numbers(shared_agent("batch").update(continuous_batch()))
    assert metrics["dq_da_norm"] > 0
    assert metrics["saturation"] == metrics["dq_da_outward"] == 0


def test_a_slope_counts_as_outward_only_where_it_points_out_of_the_box():
    agent = new_agent("none", weight_decay=0.0, critic_learning_rate=1e-2)
    agent.actor.layers[-1].bias.assign([4.0, -4.0])  # before tanh: both actions at an edge
    agent.actor_optimizer.apply = lambda *_: None  # where they stay
    start = agent.state()
    for sign, share in ((1.0, 1.0), (-1.0, 0.0)):
        agent.set_state(start)
        for seed in range(100):  # the critic learns to like, or to dislike, both
            s, a, _, terminated, next_s = continuous_batch(64, seed)
            r = sign * (a[:, :1] - a[:, 1:])
            metrics = agent.update([s, a, r, np.ones_like(terminated), next_s])
        assert metrics["saturation"] == 1.0
        assert metrics["dq_da_outward"] == share


def test_the_algorithm_cut_out_of_the_file_stands_alone():
    alone = algorithm_of(ddpg_tf_explicit)
    keras.utils.set_random_seed(0)
    args = alone["Args"](norm="batch", hidden_sizes=(16, 12))
    agent, same = alone["DDPG"](OBSERVATION_SIZE, ACTION_SIZE, args), new_agent()
    assert uncompiled(agent, continuous_batch()) == uncompiled(same, continuous_batch())
    identical(everything(agent), everything(same))


# -------------------------------------------------------------------------------------- the process
@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(command, folder):
    refused(command("--device", "gpu"), "--device gpu", "--device cpu")
    assert not (folder / "runs").exists()


A_PROGRAM = """if True:
    import json, os, sys, warnings
    import numpy as np
    import ddpg_tf_explicit as script
    from ddpg_tf_explicit import keras, tf

    def settings():
        return {
            "threads": tf.config.threading.get_intra_op_parallelism_threads(),
            "threads between operations": tf.config.threading.get_inter_op_parallelism_threads(),
            "devices": str(tf.config.get_visible_devices()),
            "type": keras.config.floatx(),
            "variables": dict(os.environ),
            "warnings": str(warnings.filters),
            "numpy's generator": np.random.get_state()[1].tolist(),
        }

    def changed(before):
        return [name for name, value in settings().items() if value != before[name]]

    seen = {"torch is imported": "torch" in sys.modules}
    before = settings()
    seen["threads at the start"] = before["threads"]
    script.DDPG(3, 1, script.Args(num_threads=2, hidden_sizes=(8, 8)))
    seen["changed by a constructor"] = changed(before)
    policy, args = script.load_policy(sys.argv[1])
    policy(np.zeros(3, np.float32))
    seen["changed by load_policy"] = changed(before)
    script.plot = lambda *_: None
    args.runs_dir, args.run_name = "runs", "more"
    args.total_timesteps, args.num_threads, args.checkpoint_every = 120, 2, 1000
    script.train(args)
    seen["threads at the end"] = settings()["threads"]
    print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def a_program(finished_run, tmp_path_factory):
    """What a program of one's own sees that loads a policy, plays it, and then trains."""
    run, _, _ = finished_run(ddpg_tf_explicit, *SHORT_NPZ)
    folder = tmp_path_factory.mktemp("program")
    words = [sys.executable, "-c", A_PROGRAM, str(run / "best.npz")]
    done = subprocess.run(
        words, cwd=folder, env=process_variables(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_the_script_imports_no_torch(a_program):
    _, seen = a_program
    assert not seen["torch is imported"]


def test_neither_a_constructor_nor_load_policy_changes_a_setting_of_the_process(a_program):
    _, seen = a_program
    assert seen["changed by a constructor"] == []
    assert seen["changed by load_policy"] == []


def test_a_program_that_has_loaded_a_policy_can_still_train_though_with_the_threads_it_has(
    a_program,
):
    """TensorFlow refuses other threads once it has begun."""
    folder, seen = a_program
    assert (folder / "runs/more/last.npz").exists()
    assert seen["threads at the end"] == seen["threads at the start"]


def test_a_keras_json_of_ones_own_does_not_change_the_precision(folder):
    (folder / "keras.json").write_text(json.dumps({"floatx": "float64"}))
    program = """if True:
        import ddpg_tf_explicit as script
        agent = script.DDPG(3, 1, script.Args(hidden_sizes=(8, 8)))
        print({x.dtype for x in agent.actor.variables + agent.critic.variables})
    """
    words = [sys.executable, "-c", program]
    variables = {**process_variables(), "KERAS_HOME": str(folder)}
    done = subprocess.run(words, env=variables, capture_output=True, text=True)
    assert done.stdout.strip() == "{'float32'}", done.stderr


def test_a_training_has_the_threads_that_were_asked_for(folder):
    program = """if True:
        import ddpg_tf_explicit as script
        script.prepare_framework(script.Args(num_threads=3))
        print(script.tf.config.threading.get_intra_op_parallelism_threads())
    """
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=process_variables(), capture_output=True, text=True)
    assert done.stdout.strip() == "3", done.stderr
