"""What the algorithm in ddpg_keras.py guarantees, on the backend that KERAS_BACKEND names.

Beside ddpg_continuous.py: from the same weights and minibatch the same values, gradients, steps.
Tolerances are of the norm of a tensor's difference, relative to its norm. Its runs: test_npz.py.
test_backends.py runs this file on the other backends.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from helpers import (
    SHORT_NPZ,
    adam,
    algorithm_of,
    continuous_batch,
    identical,
    refused,
    relative_error,
    snapshot,
)
from keras import ops

import ddpg_continuous as pytorch
import ddpg_keras

torch.set_num_threads(1)
every_norm = pytest.mark.parametrize("norm", ["batch", "layer", "none"])
S, A, N = 3, 2, 16
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
if ddpg_keras.BACKEND != "tensorflow":
    # Keras 3.15 takes some 64-bit operations to 32 bits there (keras.backend.result_type)
    del TOLERANCE["float64"]
RATES = {"actor_learning_rate": 3e-3, "critic_learning_rate": 1e-2}
METRICS = ["critic_loss", "actor_loss", "q", "saturation"]
FINISHED_RUNS = [(ddpg_keras, SHORT_NPZ)]
shared_agents = {}


class CountingDDPG(ddpg_keras.DDPG):
    """Counts how often its methods run as Python, and not as a graph."""

    def __init__(self, *args):
        self.calls = Counter()
        super().__init__(*args)

    def learn(self, *inputs):
        self.calls["learn"] += 1
        return super().learn(*inputs)

    def policy(self, s):
        self.calls["policy"] += 1
        return super().policy(s)


def new_agent(norm="batch", hidden_sizes=(16, 12), kind=ddpg_keras.DDPG, **args):
    """As the script makes it."""
    keras.utils.set_random_seed(0)
    return kind(S, A, ddpg_keras.Args(norm=norm, hidden_sizes=hidden_sizes, **args))


def shared_agent(norm="batch", **args):
    """An agent at its start that is compiled only once for all tests."""
    args = {"tau": 0.3, **RATES, **args}
    key = str(ddpg_keras.Args(norm=norm, **args))
    if key not in shared_agents:
        agent = new_agent(norm, kind=CountingDDPG, **args)
        shared_agents[key] = (agent, agent.state())
    agent, start = shared_agents[key]
    agent.set_state(start)
    return agent


def arrays(variables):
    return [np.array(x.numpy()) for x in variables]


def online(agent):
    return agent.actor.trainable_variables + agent.critic.trainable_variables


def targets(agent):
    return agent.target_actor + agent.target_critic


def everything(agent):
    return list(agent.state().values())


def numbers(metrics):
    return {name: float(ops.convert_to_numpy(value)) for name, value in metrics.items()}


def uncompiled(agent, batch, scale=1.0):
    """The update, line by line, so that what it calls can be watched: its metrics."""
    tensors = [ops.convert_to_tensor(x) for x in batch]
    values = agent.learn(tensors, ops.convert_to_tensor(batch[0].dtype.type(scale)))
    return numbers(dict(zip(METRICS, values, strict=True)))


def record_gradients(agent):
    """The gradients that the optimisers are handed, by network."""
    noted = {}

    def watch(name, optimizer):
        apply = optimizer.apply

        def watched(gradients, weights):
            noted[name] = [np.array(ops.convert_to_numpy(x)) for x in gradients]
            apply(gradients, weights)

        optimizer.apply = watched

    watch("critic", agent.critic_optimizer)
    watch("actor", agent.actor_optimizer)
    return noted


# ------------------------------------------------------------------------------------- the networks
@every_norm
def test_layers_start_uniformly_within_one_over_root_fan_in_and_the_last_within_3e_3(norm):
    agent = new_agent(norm, hidden_sizes=(400, 300))
    bounds_of = [
        (agent.actor, (S**-0.5, 400**-0.5, 3e-3)),
        (agent.critic, (S**-0.5, 402**-0.5, 3e-3)),
    ]
    for model, bounds in bounds_of:
        dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        assert [layer.units for layer in dense] == [400, 300, model.output_shape[-1]]
        for layer, bound in zip(dense, bounds, strict=True):
            for x in arrays(layer.trainable_variables):
                assert np.abs(x).max() <= bound
                if x.size >= 20:
                    assert np.abs(x).max() > 0.9 * bound
                if x.size >= 300:
                    assert x.std() == pytest.approx(bound / 3**0.5, rel=0.15)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [("batch", [False, False, True, False, True, True]), ("layer", [True] * 6)],
)
def test_a_bias_stands_everywhere_but_before_a_batch_norm(norm, expected):
    agent = new_agent(norm)
    layers = agent.actor.layers + agent.critic.layers
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.use_bias for layer in dense] == expected


@every_norm
def test_the_targets_start_as_copies_and_follow_by_tau(norm):
    agent = shared_agent(norm)
    identical(arrays(online(agent)), arrays(targets(agent)))
    before = arrays(targets(agent))
    agent.update(continuous_batch())
    after = zip(before, arrays(targets(agent)), arrays(online(agent)), strict=True)
    for old, new, x in after:
        np.testing.assert_allclose(new, 0.3 * x + 0.7 * old, rtol=1e-5, atol=1e-7)
        assert np.abs(new - old).max() > 0


def test_both_networks_keep_running_averages_which_only_acting_reads():
    agent, batch = shared_agent("batch"), continuous_batch()
    start = agent.state()
    expected, action = numbers(agent.update(batch)), agent.act(batch[0][0])
    # Of the observation, and of each layer before the action enters
    for model, num_layers in ((agent.actor, 3), (agent.critic, 2)):
        averages = arrays(model.non_trainable_variables)
        assert len(averages) == 2 * num_layers
        for x, at_the_start in zip(averages, [0, 1] * num_layers, strict=True):
            assert (x != at_the_start).any()
    agent.set_state(start)
    for x in agent.actor.non_trainable_variables + agent.critic.non_trainable_variables:
        x.assign(x + 7.0)
    assert numbers(agent.update(batch)) == expected
    assert np.abs(agent.act(batch[0][0]) - action).max() > 1e-5


def test_in_the_end_the_running_averages_stand_for_the_minibatchs_own():
    agent = shared_agent("batch")
    s, a, r, terminated, next_s = continuous_batch(N)
    batch = [3.0 * s + 5.0, a, r, terminated, 3.0 * next_s + 5.0]
    for _ in range(1200):
        agent.update(batch, learning_rate_scale=0.0)
    states = np.concatenate([batch[0], batch[4]])  # the critic normalises both in one minibatch
    of_both = [states, np.concatenate([a, a])]
    for model, inputs in ((agent.actor, batch[0]), (agent.critic, of_both)):
        by_averages = ops.convert_to_numpy(model(inputs, training=False))
        by_minibatch = ops.convert_to_numpy(model(inputs, training=True))
        assert np.abs(by_averages - by_minibatch).max() < 0.02 * by_minibatch.std()


def test_acting_leaves_everything_as_it_is():
    agent, (s, *_) = shared_agent("batch"), continuous_batch()
    agent.update(continuous_batch())
    before = everything(agent)
    action = agent.act(s[0])
    assert action.shape == (A,)
    assert action.dtype == np.float32
    assert np.abs(action).max() <= 1
    identical(before, everything(agent))


# --------------------------------------------------------------------------------------- the update
@every_norm
def test_the_critic_is_bit_for_bit_the_same_before_and_after_the_actors_step(norm):
    agent, after_its_own_step = new_agent(norm, **RATES), []
    apply = agent.critic_optimizer.apply

    def watched(*args):
        apply(*args)
        after_its_own_step.extend(arrays(agent.critic.variables))

    agent.critic_optimizer.apply = watched
    before = arrays(online(agent))
    uncompiled(agent, continuous_batch())
    identical(after_its_own_step, arrays(agent.critic.variables))
    for x, y in zip(before, arrays(online(agent)), strict=True):
        assert (x != y).any(), "both have learned"


@pytest.mark.slow
@every_norm
def test_compiled_too_the_actors_step_leaves_the_critic_alone(norm):
    agent = new_agent(norm, critic_learning_rate=0.0, actor_learning_rate=0.1)
    critic = arrays(agent.critic.trainable_variables)
    actor = arrays(agent.actor.trainable_variables)
    for seed in range(3):
        agent.update(continuous_batch(seed=seed))
    identical(critic, arrays(agent.critic.trainable_variables))
    for x, y in zip(actor, arrays(agent.actor.trainable_variables), strict=True):
        assert np.abs(x - y).max() > 0


@pytest.mark.skipif(ddpg_keras.BACKEND == "torch", reason="there it runs line by line")
def test_the_update_and_the_policy_are_traced_once_whatever_the_learning_rate():
    agent = shared_agent("batch")
    s, *_ = batch = continuous_batch()
    agent.update(batch)
    agent.act(s[0])
    before = agent.calls.copy()
    assert set(before) == {"learn", "policy"}
    for seed in range(5):
        s, *_ = batch = continuous_batch(seed=seed)
        agent.update(batch, learning_rate_scale=1 - seed / 5)
        agent.act(s[0])
        agent.set_state(agent.state())
    assert agent.calls == before


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
    assert list(metrics) == METRICS
    for name, value in metrics.items():
        assert ops.is_tensor(value), name
        assert value.shape == (), name
        assert np.isfinite(ops.convert_to_numpy(value)), name


def test_a_learning_rate_of_zero_moves_nothing_but_targets_and_running_averages():
    agent = shared_agent("batch")
    agent.update(continuous_batch())  # the targets are others now
    before = arrays(online(agent))
    old_targets = [arrays(weights) for weights in (agent.target_actor, agent.target_critic)]
    agent.update(continuous_batch(), learning_rate_scale=0.0)
    identical(before, arrays(online(agent)))
    for weights, old in zip((agent.target_actor, agent.target_critic), old_targets, strict=True):
        assert np.abs(arrays(weights)[0] - old[0]).max() > 0


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_the_policy_learns_which_way_the_reward_grows(optimizer):
    agent = shared_agent("batch", optimizer=optimizer)
    for seed in range(150):
        s, a, _, terminated, next_s = continuous_batch(seed=seed)
        agent.update([s, a, a[:, :1] - a[:, 1:], np.ones_like(terminated), next_s])
    actions = np.array([agent.act(s) for s in continuous_batch(50, 1000)[0]])
    assert actions[:, 0].mean() > 0.8
    assert actions[:, 1].mean() < -0.8


def test_batch_norm_removes_what_all_observations_of_a_minibatch_have_in_common():
    """But on PyTorch, where Keras 3.15 takes a variance as E[x²] − E[x]²: docs/gradient.md says so.

    100 is ten thousand times the spread, and leaves it three digits of float32.
    """
    agent = new_agent("batch")
    s = 0.01 * continuous_batch(100)[0]
    weights = agent.actor.trainable_variables
    mu = [ddpg_keras.forward(agent.actor, weights, x)[0] for x in (s, s + np.float32(100))]
    here, far_away = [ops.convert_to_numpy(x) for x in mu]
    is_removed = np.allclose(far_away, here, rtol=0, atol=0.01 * np.abs(here).max())
    assert is_removed == (ddpg_keras.BACKEND != "torch")


def aligned(array):
    """A copy that begins at a multiple of 64 bytes: JAX shares such memory."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def test_what_set_state_was_given_is_copied():
    agent = new_agent()
    state = {name: aligned(array) for name, array in agent.state().items()}
    agent.set_state(state)
    before = arrays(agent.actor.variables)
    for array in state.values():
        array += 1
    for old, new in zip(before, arrays(agent.actor.variables), strict=True):
        np.testing.assert_array_equal(old, new)


def test_neither_a_constructor_nor_load_policy_seeds_the_process(tmp_path):
    def numpys_generator():
        return str(np.random.get_state())  # noqa: NPY002

    before = numpys_generator()
    args = ddpg_keras.Args(env_id="Pendulum-v1", hidden_sizes=(8, 8))
    agent = ddpg_keras.DDPG(3, 1, args)
    assert numpys_generator() == before
    ddpg_keras.save_agent(tmp_path / "agent.npz", args, agent)
    policy, _ = ddpg_keras.load_policy(tmp_path / "agent.npz")
    policy(np.zeros(3, np.float32))
    assert numpys_generator() == before


def test_another_number_of_threads_is_noted_like_another_version(monkeypatch):
    """JAX rounds differently with another."""
    found = {}
    for number in ("1", "2", ""):
        monkeypatch.setenv("OMP_NUM_THREADS", number)
        found[number] = ddpg_keras.versions()
    assert ddpg_keras.changed_versions(found["1"], found["2"]) == "threads 2 instead of 1"
    assert ddpg_keras.changed_versions(found["1"], found[""]) == "threads unset instead of 1"
    assert list(found["1"])[-1] == ddpg_keras.BACKEND, "by which a resume knows it"


def test_numbers_below_1e_38_count_as_zero():
    """They slow Intel's processors. PyTorch has to be told, the other backends do not."""
    torch.set_flush_denormal(False)  # as a training in this process may have left it
    ddpg_keras.prepare_framework(ddpg_keras.Args())
    tenth = ddpg_keras.compiled(lambda x: x * np.float32(0.1), [])
    tiny = ops.convert_to_tensor(np.float32([9e-39]))
    try:
        assert ops.convert_to_numpy(tenth(tiny)) == [0]
    finally:
        torch.set_flush_denormal(False)


def test_nothing_is_left_of_a_network_that_could_not_be_exported(folder, monkeypatch):
    def full(*paths):
        raise OSError("no space left")

    monkeypatch.setattr(ddpg_keras.os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        ddpg_keras.export_networks(folder / "best.npz", new_agent())
    assert not list(folder.iterdir())


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_the_first_step_by_hand_at_half_the_rate_with_l2_in_the_gradient_of_the_critic_alone(
    optimizer,
):
    settings = {"norm": "none", "optimizer": optimizer, "weight_decay": 0.3, **RATES}
    agent, without = new_agent(**settings), new_agent(**{**settings, "weight_decay": 0.0})
    noted, noted_without = record_gradients(agent), record_gradients(without)
    critic = arrays(agent.critic.trainable_variables)
    actor = arrays(agent.actor.trainable_variables)
    for x in (agent, without):
        uncompiled(x, continuous_batch(), scale=0.5)

    def assert_stepped(before, model, gradients, rate):
        after = arrays(model.trainable_variables)
        for old, new, g in zip(before, after, gradients, strict=True):
            if optimizer == "adam":
                size = np.abs(g) + 1e-8 / 0.001**0.5
            else:
                size = np.sqrt(0.1 * g * g + 1e-16)
            np.testing.assert_allclose(old - new, 0.5 * rate * g / size, rtol=2e-3, atol=1e-6)

    assert_stepped(critic, agent.critic, noted["critic"], rate=1e-2)
    assert_stepped(actor, agent.actor, noted["actor"], rate=3e-3)
    for w, g, plain in zip(critic, noted["critic"], noted_without["critic"], strict=True):
        np.testing.assert_allclose(g, plain + 0.3 * w, rtol=1e-4, atol=1e-6)


def test_a_state_is_a_copy_and_brings_everything_back():
    agent, batch = shared_agent("batch"), continuous_batch()
    agent.update(batch)
    state = agent.state()
    kept = {name: x.copy() for name, x in state.items()}
    expected = [numbers(agent.update(batch)) for _ in range(2)]
    identical(list(state.values()), list(kept.values()))
    agent.set_state(state)
    assert [numbers(agent.update(batch)) for _ in range(2)] == expected
    identical(list(state.values()), list(kept.values()))


def test_the_algorithm_cut_out_of_the_file_stands_alone():
    alone = algorithm_of(ddpg_keras)
    keras.utils.set_random_seed(0)
    args = alone["Args"](norm="batch", hidden_sizes=(16, 12))
    agent, same = alone["DDPG"](S, A, args), new_agent()
    assert uncompiled(agent, continuous_batch()) == uncompiled(same, continuous_batch())
    identical(everything(agent), everything(same))


# -------------------------------------------------------------- the same numbers as ddpg_continuous
@pytest.fixture(params=TOLERANCE)
def dtype(request):
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def parameters(one, other):
    """Pairs of the parameters of all four networks."""
    pairs = [
        (one.actor, other.actor.trainable_variables),
        (one.critic, other.critic.trainable_variables),
        (one.target_actor, other.target_actor),
        (one.target_critic, other.target_critic),
    ]
    for network, variables in pairs:
        yield from zip(network.parameters(), variables, strict=True)


@pytest.fixture
def pair(norm, dtype):
    """Both agents: four networks of different weights, so that no mix-up passes."""
    torch.manual_seed(0)
    settings = {
        "norm": norm,
        "weight_decay": 0.03,
        "tau": 0.1,
        "gamma": 0.9,
        "hidden_sizes": (40, 30),
    }
    one = pytorch.DDPG(S, A, pytorch.Args(**settings)).to(getattr(torch, dtype))
    other = ddpg_keras.DDPG(S, A, ddpg_keras.Args(**settings))
    for x, y in parameters(one, other):
        x.data += 0.05 * torch.randn_like(x)
        # A copy: JAX would share torch's memory, which the update writes into
        y.assign(np.array(x.data.numpy().T))
    return one, other


@pytest.fixture
def batch(dtype):
    s, a, r, terminated, next_s = [x.astype(dtype) for x in continuous_batch(32, seed=1)]
    return [s, a, 10 * r, terminated, next_s]


def record(one, other, step=False):
    """Replaces the optimisers: they note their gradients, L2 included.

    With `step` they take a step, too, by adam().
    """
    noted = {}

    def replace_torchs(name, optimizer):
        weights = optimizer.param_groups[0]["params"]
        decay = optimizer.defaults["weight_decay"]
        state = {}

        def torch_step():
            gradients = [(x.grad + decay * x.data).numpy().copy() for x in weights]
            noted["torch", name] = gradients
            if step:
                new = adam([x.data.numpy() for x in weights], gradients, state)
                for x, value in zip(weights, new, strict=True):
                    x.data.copy_(torch.from_numpy(value))

        optimizer.step = torch_step

    def replace_keras(name, optimizer):
        state = {}

        def keras_apply(gradients, weights):
            gradients = [np.array(ops.convert_to_numpy(x)) for x in gradients]
            noted["keras", name] = gradients
            if step:
                new = adam(arrays(weights), gradients, state)
                for x, value in zip(weights, new, strict=True):
                    x.assign(value)

        optimizer.apply = keras_apply

    assert one.critic_optimizer.defaults["weight_decay"] == 0.03
    assert one.actor_optimizer.defaults["weight_decay"] == 0.0
    replace_torchs("critic", one.critic_optimizer)
    replace_torchs("actor", one.actor_optimizer)
    replace_keras("critic", other.critic_optimizer)
    replace_keras("actor", other.actor_optimizer)
    return noted


@every_norm
def test_one_update_has_the_same_losses_values_and_gradients(pair, batch, dtype):
    one, other = pair
    mu = one.actor(torch.from_numpy(batch[0])).detach()
    median = torch.atanh(mu).abs().median()
    output = one.actor.output
    for name, x in (("kernel", output.weight), ("bias", output.bias)):
        x.data *= np.arctanh(0.99) / median  # so that about half of the actions come to an edge
        getattr(other.actor.layers[-2], name).assign(np.array(x.data.numpy().T))
    noted = record(one, other)
    metrics, others = one.update(batch), uncompiled(other, batch)
    assert 0 < metrics["saturation"] < 1
    assert list(metrics) == list(others)
    for name, value in metrics.items():
        assert relative_error(value, others[name]) <= TOLERANCE[dtype]
    for network in ("critic", "actor"):
        for x, y in zip(noted["torch", network], noted["keras", network], strict=True):
            assert relative_error(x, y) <= TOLERANCE[dtype]


@every_norm
def test_after_ten_updates_by_one_adam_all_four_networks_and_the_running_averages_are_the_same(
    pair, batch, norm, dtype
):
    one, other = pair
    record(one, other, step=True)
    rng, n = np.random.default_rng(2), 16
    # In float32, Adam's first steps blow up the rounding of small gradients
    tolerance = {"float64": 1e-10, "float32": 1e-3}[dtype]
    for _ in range(10):
        rows = rng.permutation(32)[:n]
        minibatch = [x[rows] for x in batch]
        one.update(minibatch)
        uncompiled(other, minibatch)
    for x, y in parameters(one, other):
        assert relative_error(x.detach(), y.numpy()) <= tolerance
    averages = arrays(other.actor.non_trainable_variables)
    assert len(averages) == (6 if norm == "batch" else 0)
    means = [x.numpy() for name, x in one.actor.named_buffers() if "mean" in name]
    variances = [x.numpy() for name, x in one.actor.named_buffers() if "var" in name]
    for x, y in zip(means, averages[::2], strict=True):
        assert np.abs(x - y).max() <= tolerance
    # A running variance starts at 1; torch adds n / (n − 1) times what Keras adds
    kept = 0.99**10
    for x, y in zip(variances, averages[1::2], strict=True):
        assert np.abs((x - kept) * (n - 1) / n - (y - kept)).max() <= tolerance


@every_norm
def test_both_act_by_their_running_averages(pair, batch, dtype):
    one, other = pair
    buffers = [x for name, x in one.actor.named_buffers() if "running" in name]
    for x, y in zip(buffers, other.actor.non_trainable_variables, strict=True):
        x.copy_(torch.rand_like(x) + 0.5)
        y.assign(np.array(x.numpy()))
    for s in batch[0][:3]:
        assert relative_error(one.act(s), other.act(s)) <= TOLERANCE[dtype]


# ------------------------------------------------------------------------------------ its own files
@pytest.fixture
def script():
    return ddpg_keras


@pytest.fixture
def run(finished_run, folder):
    """The directory of a finished run, one's own copy."""
    finished, _, _ = finished_run(ddpg_keras, *SHORT_NPZ)
    return Path(shutil.copytree(finished, folder / "runs" / "run"))


@pytest.mark.parametrize("name", ["best", "last"])
def test_the_keras_files_are_the_actor_and_the_critic_of_the_weights_beside_them(run, name):
    agent, _ = ddpg_keras.load_agent(run / f"{name}.npz")
    actor = keras.saving.load_model(run / f"{name}_actor.keras")
    critic = keras.saving.load_model(run / f"{name}_critic.keras")
    for s in np.random.default_rng(0).normal(size=(3, 1, 3)).astype(np.float32):
        action = ops.convert_to_numpy(actor(s))
        np.testing.assert_allclose(action[0], agent.act(s[0]), rtol=1e-5, atol=1e-6)
        q = ops.convert_to_numpy(critic([s, action]))
        expected = ops.convert_to_numpy(agent.critic([s, action]))
        np.testing.assert_allclose(q, expected, rtol=1e-5, atol=1e-6)


def test_a_run_goes_on_only_in_the_backend_that_began_it(run, command):
    content = json.loads((run / "args.json").read_text())
    versions = content["versions"]
    versions["mxnet"] = versions.pop(ddpg_keras.BACKEND)
    (run / "args.json").write_text(json.dumps(content))
    before = snapshot(run)
    refused(command("--resume", run, "--total-timesteps", 500), "KERAS_BACKEND=mxnet")
    assert snapshot(run) == before
    assert command("--evaluate", run / "best.npz", "--eval-episodes", 1)[0] == 0
