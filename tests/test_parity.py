"""ddpg_tf_explicit.py beside ddpg_continuous.py: from the same weights and minibatch the same values, gradients, steps.

Tolerances are of the norm of a tensor's difference, relative to its norm.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from helpers import adam, relative_error

import ddpg_continuous as pytorch
import ddpg_tf_explicit as tensorflow

S, A, N = 5, 3, 32
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
NETWORKS = ("actor", "critic", "target_actor", "target_critic")


@pytest.fixture(params=["batch", "layer", "none"])
def norm(request):
    return request.param


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def pair(norm, dtype):
    """Both agents: four networks of different weights (so that no mix-up passes), which the other agent has as well."""
    torch.manual_seed(0)
    settings = {"norm": norm, "weight_decay": 0.03, "tau": 0.1, "gamma": 0.9, "hidden_sizes": (40, 30)}
    one = pytorch.DDPG(S, A, pytorch.Args(**settings)).to(getattr(torch, dtype))
    other = tensorflow.DDPG(S, A, tensorflow.Args(**settings))
    for name in NETWORKS:
        for x, y in parameters(one, other, name):
            x.data += 0.05 * torch.randn_like(x)
            y.assign(x.data.numpy().T)
    return one, other


@pytest.fixture
def batch(dtype):
    rng = np.random.default_rng(1)
    shapes = ((N, S), (N, A), (N, 1), (N, 1), (N, S))
    s, a, r, terminated, next_s = (rng.uniform(-1, 1, shape).astype(dtype) for shape in shapes)
    return [s, a, 10 * r, (terminated > 0.5).astype(dtype), next_s]


def parameters(one, other, name):
    """Pairs of one network's parameters, in both frameworks."""
    return zip(getattr(one, name).parameters(), getattr(other, name).trainable_variables, strict=True)


def record(one, other, step=False):
    """Replaces the optimisers: they note their gradients, L2 included, and with `step` take a step by adam()."""
    noted = {"torch": {}, "tensorflow": {}}
    for name, decay in (("critic", 0.03), ("actor", 0.0)):
        weights, states = list(getattr(one, name).parameters()), ({}, {})

        def torch_step(name=name, weights=weights, decay=decay, state=states[0]):
            gradients = [(x.grad + decay * x.data).numpy().copy() for x in weights]
            noted["torch"][name] = gradients
            if step:
                for x, new in zip(weights, adam([x.data.numpy() for x in weights], gradients, state), strict=True):
                    x.data.copy_(torch.from_numpy(new))

        def tensorflow_apply(gradients, weights, name=name, state=states[1]):
            noted["tensorflow"][name] = gradients = [x.numpy() for x in gradients]
            if step:
                for x, new in zip(weights, adam([x.numpy() for x in weights], gradients, state), strict=True):
                    x.assign(new)

        assert getattr(one, f"{name}_optimizer").defaults["weight_decay"] == decay
        getattr(one, f"{name}_optimizer").step = torch_step
        getattr(other, f"{name}_optimizer").apply = tensorflow_apply
    return noted


def uncompiled(agent, batch):
    """The update, line by line, so that what it calls can be watched."""
    return agent.learn([tf.constant(x) for x in batch], 1.0)


@pytest.fixture
def output_gradients(monkeypatch):
    """What is handed to a tape as the gradient of an output: the update does so once, for the actor."""
    seen, gradient = [], tf.GradientTape.gradient

    def watched(tape, target, sources, output_gradients=None, **options):
        if output_gradients is not None:
            seen.append(output_gradients.numpy())
        return gradient(tape, target, sources, output_gradients, **options)

    monkeypatch.setattr(tf.GradientTape, "gradient", watched)
    return seen


# ------------------------------------------------------------------------------------------------- the same numbers
def test_both_act_value_and_aim_at_the_same(pair, batch, dtype):
    (one, other), (s, a, r, terminated, next_s) = pair, [tf.constant(x) for x in batch]
    t = [torch.from_numpy(x) for x in batch]
    assert relative_error(one.actor(t[0]), other.actor(s, training=True)) <= TOLERANCE[dtype]
    assert relative_error(one.critic(t[0], t[1]), other.critic([s, a], training=True)) <= TOLERANCE[dtype]
    y = t[2] + 0.9 * (1 - t[3]) * one.target_critic(t[4], one.target_actor(t[4]))
    next_q = other.target_critic([next_s, other.target_actor(next_s, training=True)], training=True)
    assert relative_error(y, r + 0.9 * (1 - terminated) * next_q) <= TOLERANCE[dtype]


def test_one_update_has_the_same_losses_values_and_gradients(pair, batch, dtype):
    one, other = pair
    noted = record(one, other)
    values, others = one.update(batch, read=True), uncompiled(other, batch)
    for name in ("critic_loss", "q"):
        assert relative_error(values[name], others[name]) <= TOLERANCE[dtype]
    for network in ("critic", "actor"):
        for x, y in zip(noted["torch"][network], noted["tensorflow"][network], strict=True):
            assert relative_error(x, y) <= TOLERANCE[dtype]


def test_the_explicit_slope_of_q_is_torchs_at_the_actors_own_actions(pair, batch, dtype, output_gradients):
    one, other = pair
    record(one, other)
    logged = uncompiled(other, batch)
    s = torch.from_numpy(batch[0])
    mu = one.actor(s).detach().requires_grad_()
    one.critic(s, mu).sum().backward()
    (output_gradient,) = output_gradients
    assert relative_error(-mu.grad / N, output_gradient) <= TOLERANCE[dtype]
    assert relative_error(mu.grad.norm(dim=1).mean(), logged["dq_da_norm"]) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", ["float64"], indirect=True)
def test_after_ten_updates_by_one_adam_all_four_networks_and_the_running_averages_are_the_same(pair, batch, norm):
    one, other = pair
    record(one, other, step=True)
    rng = np.random.default_rng(2)
    for _ in range(10):
        minibatch = [x[rows] for rows in [rng.permutation(N)[: N // 2]] for x in batch]
        one.update(minibatch)
        uncompiled(other, minibatch)
    for name in NETWORKS:
        for x, y in parameters(one, other, name):
            assert relative_error(x, y) <= 1e-10
    averages = [x for name, x in one.actor.named_buffers() if "running" in name]
    assert len(averages) == (6 if norm == "batch" else 0)
    for x, y in zip(averages, other.actor.non_trainable_variables, strict=True):
        assert np.abs(x.numpy() - y.numpy()).max() <= 1e-10, "of the same momentum and the same kind of variance"


def test_both_act_by_the_running_averages(pair, batch, dtype):
    one, other = pair
    for _ in range(3):
        one.actor(torch.from_numpy(batch[0]))
        other.actor(tf.constant(batch[0]), training=True)
    for s in batch[0][:3]:
        assert relative_error(one.act(s), other.act(s)) <= TOLERANCE[dtype]


# -------------------------------------------------------------------------------------------- one gradient, two ways
def test_the_explicit_gradient_is_that_of_minus_the_mean_q_of_the_actors_own_actions(pair, batch, dtype):
    _, agent = pair
    noted = record(*pair)
    uncompiled(agent, batch)
    s = tf.constant(batch[0])
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(agent.critic([s, agent.actor(s, training=True)], training=True))
    composed = tape.gradient(loss, agent.actor.trainable_variables)
    for x, y in zip(noted["tensorflow"]["actor"], composed, strict=True):
        assert relative_error(x, y) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_the_compiled_update_is_the_same_mathematics(pair, batch):
    _, agent = pair
    before = [x.numpy() for x in agent.variables]
    expected = uncompiled(agent, batch)
    after = [x.numpy() for x in agent.variables]
    agent.set_state({"variables": before})
    logged = agent.update(batch, read=True)
    assert logged == {name: pytest.approx(float(value), rel=1e-4, abs=1e-5) for name, value in expected.items()}
    for x, y in zip(agent.variables, after, strict=True):
        assert np.abs(x.numpy() - y).max() <= 1e-5, "Adam's first step is 1e-4 or 1e-3 for nearly any gradient"
