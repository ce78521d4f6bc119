"""What the algorithm in ddpg_keras.py guarantees, on the backend that KERAS_BACKEND names; its runs: test_npz.py.

Beside ddpg_continuous.py: from the same weights and minibatch the same values, gradients, steps. Tolerances are of the
norm of a tensor's difference, relative to its norm. test_backends.py runs this file on the other backends.
"""

import json
import shutil

import keras
import numpy as np
import pytest
import torch
from helpers import adam, algorithm_of, continuous_batch, identical, refused, relative_error
from keras import ops

import ddpg_continuous as pytorch
import ddpg_keras

torch.set_num_threads(1)
every_norm = pytest.mark.parametrize("norm", ["batch", "layer", "none"])
S, A, N = 3, 2, 16
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
if ddpg_keras.BACKEND != "tensorflow":
    del TOLERANCE["float64"]  # Keras 3.15 takes some 64-bit operations to 32 bits there (keras.backend.result_type)
RATES = {"actor_learning_rate": 3e-3, "critic_learning_rate": 1e-2}


def new_agent(norm="batch", hidden_sizes=(16, 12), **args):
    """As the script makes it."""
    keras.utils.set_random_seed(0)
    return ddpg_keras.DDPG(S, A, ddpg_keras.Args(norm=norm, hidden_sizes=hidden_sizes, **args))


def arrays(variables):
    return [np.array(x.numpy()) for x in variables]


def uncompiled(agent, batch, scale=1.0):
    """The update, line by line, so that what it calls can be watched: the values that it would log."""
    values = agent.learn(*(ops.convert_to_tensor(x) for x in (*batch, batch[0].dtype.type(scale))))
    return [float(ops.convert_to_numpy(x)) for x in values]


def record_gradients(agent):
    """The gradients that the optimisers are handed, by network."""
    noted = {}
    for name in ("critic", "actor"):
        optimizer = getattr(agent, f"{name}_optimizer")

        def apply(gradients, weights, name=name, apply=optimizer.apply):
            noted[name] = [np.array(ops.convert_to_numpy(x)) for x in gradients]
            apply(gradients, weights)

        optimizer.apply = apply
    return noted


# ---------------------------------------------------------------------------------------------------- the networks
@every_norm
def test_layers_start_uniformly_within_one_over_root_fan_in_and_the_last_within_3e_3(norm):
    agent = new_agent(norm, hidden_sizes=(400, 300))
    for model, bounds in ((agent.actor, (S**-0.5, 400**-0.5, 3e-3)), (agent.critic, (S**-0.5, 402**-0.5, 3e-3))):
        dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
        assert [layer.units for layer in dense] == [400, 300, model.output_shape[-1]]
        for layer, bound in zip(dense, bounds, strict=True):
            for x in arrays(layer.trainable_variables):
                assert np.abs(x).max() <= bound
                assert np.abs(x).max() > 0.9 * bound or x.size < 20
                assert x.size < 300 or x.std() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_a_bias_stands_everywhere_but_before_a_batch_norm():
    for norm, expected in (("batch", [False, False, True, False, True, True]), ("layer", [True] * 6)):
        agent = new_agent(norm)
        layers = [layer for model in (agent.actor, agent.critic) for layer in model.layers]
        assert [layer.use_bias for layer in layers if isinstance(layer, keras.layers.Dense)] == expected


@every_norm
def test_the_targets_start_as_copies_and_follow_by_tau(norm):
    agent = new_agent(norm, tau=0.3)
    online = agent.actor.trainable_variables + agent.critic.trainable_variables
    targets = agent.target_actor + agent.target_critic
    identical(arrays(online), arrays(targets))
    before = arrays(targets)
    agent.update(continuous_batch())
    for old, new, x in zip(before, arrays(targets), arrays(online), strict=True):
        np.testing.assert_allclose(new, 0.3 * x + 0.7 * old, rtol=1e-5, atol=1e-7)
        assert np.abs(new - old).max() > 0


def test_both_networks_keep_running_averages_which_only_acting_reads():
    agent, batch = new_agent("batch"), continuous_batch()
    start = agent.state()
    expected, at = agent.update(batch, read=True), agent.act(batch[0][0])
    for model, layers in ((agent.actor, 3), (agent.critic, 2)):  # the observation, and each layer before the action
        assert len(model.non_trainable_variables) == 2 * layers
        assert all((x != y).any() for x, y in zip(arrays(model.non_trainable_variables), [0, 1] * layers, strict=True))
    agent.set_state(start)
    for x in agent.actor.non_trainable_variables + agent.critic.non_trainable_variables:
        x.assign(x + 7.0)
    assert agent.update(batch, read=True) == expected
    assert np.abs(agent.act(batch[0][0]) - at).max() > 1e-5


def test_in_the_end_the_running_averages_stand_for_the_minibatchs_own():
    agent = new_agent("batch", tau=0.0)
    s, a, *others = continuous_batch(64)
    batch = [3.0 * s + 5.0, a, *others]
    for _ in range(800):
        agent.update(batch, scale=0.0)
    for model, inputs in ((agent.actor, batch[0]), (agent.critic, batch[:2])):
        by_averages, by_minibatch = (ops.convert_to_numpy(model(inputs, training=x)) for x in (False, True))
        assert np.abs(by_averages - by_minibatch).max() < 0.02 * by_minibatch.std()


def test_acting_leaves_everything_as_it_is():
    agent, (s, *_) = new_agent("batch"), continuous_batch()
    agent.update(continuous_batch())
    before = arrays(agent.variables)
    action = agent.act(s[0])
    assert action.shape == (A,)
    assert action.dtype == np.float32
    assert np.abs(action).max() <= 1
    identical(before, arrays(agent.variables))


# ------------------------------------------------------------------------------------------------------- the update
@every_norm
def test_the_critic_is_bit_for_bit_the_same_before_and_after_the_actors_step(norm):
    agent, after_its_own_step = new_agent(norm, **RATES), []
    apply = agent.critic_optimizer.apply

    def watched(*args):
        apply(*args)
        after_its_own_step.append(arrays(agent.critic.variables))

    agent.critic_optimizer.apply = watched
    critic, actor = arrays(agent.critic.trainable_variables), arrays(agent.actor.trainable_variables)
    uncompiled(agent, continuous_batch())
    identical(after_its_own_step[0], arrays(agent.critic.variables))
    for before, model in ((critic, agent.critic), (actor, agent.actor)):
        for x, y in zip(before, arrays(model.trainable_variables), strict=True):
            assert (x != y).any(), "both have learned"


@every_norm
def test_compiled_too_the_actors_step_leaves_the_critic_alone(norm):
    agent = new_agent(norm, critic_learning_rate=0.0, actor_learning_rate=0.1)
    critic, actor = arrays(agent.critic.trainable_variables), arrays(agent.actor.trainable_variables)
    for seed in range(3):
        agent.update(continuous_batch(seed=seed))
    identical(critic, arrays(agent.critic.trainable_variables))
    assert all(np.abs(x - y).max() > 0 for x, y in zip(actor, arrays(agent.actor.trainable_variables), strict=True))


def test_the_update_and_the_policy_are_traced_once_whatever_the_rate_and_whether_or_not_values_are_read(monkeypatch):
    traced, compiled = [], ddpg_keras.compiled

    def counting(function, variables):
        return compiled(lambda *inputs: (traced.append(function), function(*inputs))[1], variables)

    monkeypatch.setattr(ddpg_keras, "compiled", counting)
    agent = new_agent()
    for seed in range(5):
        agent.update(continuous_batch(seed=seed), scale=1 - seed / 5, read=seed % 2 == 0)
        agent.act(continuous_batch(seed=seed)[0][0])
        agent.set_state(agent.state())
    assert len(traced) == len(set(traced)) == 2


def test_a_whole_training_traces_once_too(script, command, monkeypatch, folder):
    traced = []
    learn = script.DDPG.learn
    monkeypatch.setattr(script.DDPG, "learn", lambda *args: (traced.append(1), learn(*args))[1])
    flags = ("--hidden-sizes", 16, 16, "--batch-size", 8, "--learning-starts", 50, "--eval-every", 0)
    assert command(*flags, "--total-timesteps", 120)[0] == 0
    assert len(traced) == 1


@every_norm
def test_the_compiled_update_is_the_same_mathematics_at_every_step(norm):
    agent, start = new_agent(norm, **RATES), new_agent(norm, **RATES).state()
    steps = [(continuous_batch(seed=seed), scale) for seed, scale in ((0, 1.0), (1, 0.5), (2, 0.25))]
    expected = [uncompiled(agent, batch, scale) for batch, scale in steps]
    after = arrays(agent.variables)
    agent.set_state(start)
    for (batch, scale), values in zip(steps, expected, strict=True):
        logged = agent.update(batch, scale, read=True)
        assert list(logged) == ["critic_loss", "actor_loss", "q", "saturation"]
        assert list(logged.values()) == pytest.approx(values, rel=1e-4, abs=1e-5)
    for x, y in zip(arrays(agent.variables), after, strict=True):
        assert np.abs(x - y).max() <= 1e-4, "Adam's first steps are up to 1e-2 for nearly any gradient"


def test_a_learning_rate_of_zero_moves_nothing_but_running_averages():
    agent = new_agent("batch", tau=0.0)
    weights = agent.actor.trainable_variables + agent.critic.trainable_variables
    before = arrays(weights)
    agent.update(continuous_batch(), scale=0.0)
    identical(before, arrays(weights))


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_the_policy_learns_which_way_the_reward_grows(optimizer):
    agent = new_agent("batch", optimizer=optimizer, **RATES)
    for seed in range(150):
        s, a, _, terminated, next_s = continuous_batch(seed=seed)
        agent.update([s, a, a[:, :1] - a[:, 1:], np.ones_like(terminated), next_s])
    actions = np.array([agent.act(s) for s in continuous_batch(50, 1000)[0]])
    assert actions[:, 0].mean() > 0.8
    assert actions[:, 1].mean() < -0.8


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_the_first_step_by_hand_at_half_the_rate_with_l2_in_the_gradient_of_the_critic_alone(optimizer):
    settings = {"norm": "none", "optimizer": optimizer, "weight_decay": 0.3, **RATES}
    agent, without = new_agent(**settings), new_agent(**{**settings, "weight_decay": 0.0})
    gradients = [record_gradients(x) for x in (agent, without)]
    before = {name: arrays(getattr(agent, name).trainable_variables) for name in ("critic", "actor")}
    for x in (agent, without):
        uncompiled(x, continuous_batch(), scale=0.5)
    for name, rate in (("critic", 1e-2), ("actor", 3e-3)):
        after = arrays(getattr(agent, name).trainable_variables)
        for old, new, g in zip(before[name], after, gradients[0][name], strict=True):
            size = np.abs(g) + 1e-8 / 0.001**0.5 if optimizer == "adam" else np.sqrt(0.1 * g * g + 1e-8)
            np.testing.assert_allclose(old - new, 0.5 * rate * g / size, rtol=2e-3, atol=1e-6)
    for old, g, plain in zip(before["critic"], gradients[0]["critic"], gradients[1]["critic"], strict=True):
        np.testing.assert_allclose(g, plain + 0.3 * old, rtol=1e-4, atol=1e-6)


def test_a_state_is_a_copy_and_brings_everything_back():
    agent, batch = new_agent("batch", **RATES), continuous_batch()
    agent.update(batch)
    state = agent.state()
    kept = [x.copy() for x in state["variables"]]
    expected = [agent.update(batch, read=True), agent.update(batch, read=True)]
    identical(state["variables"], kept)
    agent.set_state(state)
    assert [agent.update(batch, read=True), agent.update(batch, read=True)] == expected
    identical(state["variables"], kept)


def test_the_algorithm_cut_out_of_the_file_stands_alone():
    alone = algorithm_of(ddpg_keras)
    keras.utils.set_random_seed(0)
    agent, same = alone["DDPG"](S, A, alone["Args"](norm="batch", hidden_sizes=(16, 12))), new_agent()
    assert agent.update(continuous_batch(), read=True) == same.update(continuous_batch(), read=True)
    identical(arrays(agent.variables), arrays(same.variables))


# -------------------------------------------------------------------------------- the same numbers as ddpg_continuous
@pytest.fixture(params=TOLERANCE)
def dtype(request):
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def parameters(one, other):
    """Pairs of the parameters of all four networks."""
    for name in ("actor", "critic", "target_actor", "target_critic"):
        ours = getattr(other, name)
        yield from zip(getattr(one, name).parameters(), getattr(ours, "trainable_variables", ours), strict=True)


@pytest.fixture
def pair(norm, dtype):
    """Both agents: four networks of different weights (so that no mix-up passes), which the other agent has as well."""
    torch.manual_seed(0)
    settings = {"norm": norm, "weight_decay": 0.03, "tau": 0.1, "gamma": 0.9, "hidden_sizes": (40, 30)}
    one = pytorch.DDPG(S, A, pytorch.Args(**settings)).to(getattr(torch, dtype))
    other = ddpg_keras.DDPG(S, A, ddpg_keras.Args(**settings))
    for x, y in parameters(one, other):
        x.data += 0.05 * torch.randn_like(x)
        y.assign(np.array(x.data.numpy().T))  # a copy: JAX would share torch's memory, which the update writes into
    return one, other


@pytest.fixture
def batch(dtype):
    s, a, r, terminated, next_s = (x.astype(dtype) for x in continuous_batch(32, seed=1))
    return [s, a, 10 * r, terminated, next_s]


def record(one, other, step=False):
    """Replaces the optimisers: they note their gradients, L2 included, and with `step` take a step by adam()."""
    noted = {}
    for name, decay in (("critic", 0.03), ("actor", 0.0)):
        weights, states = list(getattr(one, name).parameters()), ({}, {})

        def torch_step(name=name, weights=weights, decay=decay, state=states[0]):
            noted["torch", name] = gradients = [(x.grad + decay * x.data).numpy().copy() for x in weights]
            new = adam([x.data.numpy() for x in weights], gradients, state) if step else []
            for x, value in zip(weights, new, strict=False):
                x.data.copy_(torch.from_numpy(value))

        def keras_apply(gradients, weights, name=name, state=states[1]):
            noted["keras", name] = gradients = [np.array(ops.convert_to_numpy(x)) for x in gradients]
            new = adam(arrays(weights), gradients, state) if step else []
            for x, value in zip(weights, new, strict=False):
                x.assign(value)

        assert getattr(one, f"{name}_optimizer").defaults["weight_decay"] == decay
        getattr(one, f"{name}_optimizer").step = torch_step
        getattr(other, f"{name}_optimizer").apply = keras_apply
    return noted


@every_norm
def test_one_update_has_the_same_losses_values_and_gradients(pair, batch, dtype):
    one, other = pair
    median = torch.atanh(one.actor(torch.from_numpy(batch[0]))).detach().abs().median()
    for name, x in (("kernel", one.actor.output.weight), ("bias", one.actor.output.bias)):
        x.data *= np.arctanh(0.99) / median  # so that about half of the actions come to either edge
        getattr(other.actor.layers[-2], name).assign(np.array(x.data.numpy().T))
    noted = record(one, other)
    values = one.update(batch, read=True)
    assert 0 < values["saturation"] < 1
    logged = dict(zip(("critic_loss", "actor_loss", "q", "saturation"), uncompiled(other, batch), strict=True))
    for name in values:
        assert relative_error(values[name], logged[name]) <= TOLERANCE[dtype]
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
    tolerance = {"float64": 1e-10, "float32": 1e-3}[dtype]  # Adam's first steps blow up the rounding of small gradients
    for _ in range(10):
        minibatch = [x[rows] for rows in [rng.permutation(32)[:n]] for x in batch]
        one.update(minibatch)
        uncompiled(other, minibatch)
    for x, y in parameters(one, other):
        assert relative_error(x.detach(), y.numpy()) <= tolerance
    averages = arrays(other.actor.non_trainable_variables)
    assert len(averages) == (6 if norm == "batch" else 0)
    means, variances = ([x for name, x in one.actor.named_buffers() if kind in name] for kind in ("mean", "var"))
    for x, y in zip(means, averages[::2], strict=True):
        assert np.abs(x.numpy() - y).max() <= tolerance
    kept = 0.99**10  # of the 1 at which a running variance starts; torch adds n / (n − 1) times what Keras adds
    for x, y in zip(variances, averages[1::2], strict=True):
        assert np.abs((x.numpy() - kept) * (n - 1) / n - (y - kept)).max() <= tolerance


@every_norm
def test_both_act_by_their_running_averages(pair, batch, dtype):
    one, other = pair
    buffers = [x for name, x in one.actor.named_buffers() if "running" in name]
    for x, y in zip(buffers, other.actor.non_trainable_variables, strict=True):
        x.copy_(torch.rand_like(x) + 0.5)
        y.assign(np.array(x.numpy()))
    for s in batch[0][:3]:
        assert relative_error(one.act(s), other.act(s)) <= TOLERANCE[dtype]


# ---------------------------------------------------------------------------------------------------------- the run
@pytest.fixture
def script():
    return ddpg_keras


@pytest.fixture(scope="module")
def smoke(complete_run):
    """A run of a few hundred steps: its directory, what it printed."""
    flags = ("--env-id", "Pendulum-v1", "--hidden-sizes", 16, 16, "--batch-size", 8, "--learning-starts", 50)
    return complete_run(ddpg_keras, (*flags, "--total-timesteps", 420, "--eval-episodes", 1, "--eval-every", 400))


@pytest.mark.parametrize("name", ["best", "last"])
def test_the_keras_files_are_the_actor_and_the_critic_of_the_weights_beside_them(smoke, name):
    policy, _ = ddpg_keras.load_policy(smoke[0] / f"{name}.npz")
    actor, critic = (keras.saving.load_model(smoke[0] / f"{name}_{network}.keras") for network in ("actor", "critic"))
    agent = policy.__self__
    for s in np.random.default_rng(0).normal(size=(3, 1, 3)).astype(np.float32):
        action = ops.convert_to_numpy(actor(s))
        np.testing.assert_allclose(action[0], policy(s[0]), rtol=1e-5, atol=1e-6)
        q = ops.convert_to_numpy(agent.critic([s, action]))
        np.testing.assert_allclose(ops.convert_to_numpy(critic([s, action])), q, rtol=1e-5, atol=1e-6)


def test_a_run_goes_on_only_in_the_backend_that_began_it(smoke, command, folder):
    run = shutil.copytree(smoke[0], folder / "runs" / "run")
    content = json.loads((run / "args.json").read_text())
    versions = content["versions"]
    versions["mxnet"] = versions.pop(ddpg_keras.BACKEND)
    (run / "args.json").write_text(json.dumps(content))
    before = {file: file.read_bytes() for file in run.iterdir()}
    refused(command("--resume", run), "KERAS_BACKEND=mxnet")
    assert {file: file.read_bytes() for file in run.iterdir()} == before
    assert command("--evaluate", run / "best.npz", "--eval-episodes", 1)[0] == 0
