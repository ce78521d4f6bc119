"""ddpg_tf_explicit.py beside ddpg_continuous.py: the same values, gradients and steps.

From the same weights and minibatch. Tolerances are of the norm of a tensor's difference, relative
to its norm.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from helpers import adam, relative_error

import ddpg_continuous as pytorch

if keras.config.backend() != "tensorflow":
    pytest.skip("the script is TensorFlow's", allow_module_level=True)
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
    other = tensorflow.DDPG(S, A, tensorflow.Args(**settings))
    for name in NETWORKS:
        for x, y in parameters(one, other, name):
            x.data += 0.05 * torch.randn_like(x)
            y.assign(x.data.numpy().T)
    return one, other


@pytest.fixture
def batch(dtype):
    rng = np.random.default_rng(1)
    shapes = [(N, S), (N, A), (N, 1), (N, 1), (N, S)]
    s, a, r, terminated, next_s = [rng.uniform(-1, 1, x).astype(dtype) for x in shapes]
    return [s, a, 10 * r, (terminated > 0.5).astype(dtype), next_s]


def parameters(one, other, name):
    """Pairs of one network's parameters, in both frameworks."""
    return zip(
        getattr(one, name).parameters(), getattr(other, name).trainable_variables, strict=True
    )


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

    def replace_tensorflows(name, optimizer):
        state = {}

        def tensorflow_apply(gradients, weights):
            gradients = [x.numpy() for x in gradients]
            noted["tensorflow", name] = gradients
            if step:
                new = adam([x.numpy() for x in weights], gradients, state)
                for x, value in zip(weights, new, strict=True):
                    x.assign(value)

        optimizer.apply = tensorflow_apply

    assert one.critic_optimizer.defaults["weight_decay"] == 0.03
    assert one.actor_optimizer.defaults["weight_decay"] == 0.0
    replace_torchs("critic", one.critic_optimizer)
    replace_torchs("actor", one.actor_optimizer)
    replace_tensorflows("critic", other.critic_optimizer)
    replace_tensorflows("actor", other.actor_optimizer)
    return noted


def uncompiled(agent, batch):
    """The update, line by line, so that what it calls can be watched."""
    return agent.learn([tf.constant(x) for x in batch], 1.0)


@pytest.fixture
def output_gradients(monkeypatch):
    """What is handed to a tape as the gradient of an output: once, for the actor."""
    seen = []
    gradient = tf.GradientTape.gradient

    def watched(tape, target, sources, output_gradients=None, **options):
        if output_gradients is not None:
            seen.append(output_gradients.numpy())
        return gradient(tape, target, sources, output_gradients, **options)

    monkeypatch.setattr(tf.GradientTape, "gradient", watched)
    return seen


# --------------------------------------------------------------------------------- the same numbers
def test_all_four_networks_compute_the_same(pair, batch, dtype):
    one, other = pair
    s, a, *_ = [torch.from_numpy(x) for x in batch]
    other_s, other_a, *_ = [tf.constant(x) for x in batch]
    for name in ("actor", "target_actor"):
        mu, other_mu = getattr(one, name)(s), getattr(other, name)(other_s, training=True)
        assert relative_error(mu, other_mu) <= TOLERANCE[dtype]
    for name in ("critic", "target_critic"):
        q = getattr(one, name)(s, a)
        other_q = getattr(other, name)([other_s, other_a], training=True)
        assert relative_error(q, other_q) <= TOLERANCE[dtype]


def test_one_update_has_the_same_losses_values_and_gradients(pair, batch, dtype):
    one, other = pair
    noted = record(one, other)
    metrics, others = one.update(batch), uncompiled(other, batch)
    for name in ("critic_loss", "q"):
        assert relative_error(metrics[name], others[name]) <= TOLERANCE[dtype]
    for network in ("critic", "actor"):
        for x, y in zip(noted["torch", network], noted["tensorflow", network], strict=True):
            assert relative_error(x, y) <= TOLERANCE[dtype]


def test_the_explicit_slope_of_q_is_torchs_at_the_actors_own_actions(
    pair, batch, dtype, output_gradients
):
    one, other = pair
    record(one, other)
    metrics = uncompiled(other, batch)
    s = torch.from_numpy(batch[0])
    mu = one.actor(s).detach().requires_grad_()
    one.critic(s, mu).sum().backward()
    (output_gradient,) = output_gradients
    assert relative_error(-mu.grad / N, output_gradient) <= TOLERANCE[dtype]
    norm = mu.grad.norm(dim=1).mean()
    assert relative_error(norm, metrics["dq_da_norm"]) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", ["float64"], indirect=True)
def test_after_ten_updates_by_one_adam_all_four_networks_and_the_running_averages_are_the_same(
    pair, batch, norm
):
    one, other = pair
    record(one, other, step=True)
    rng = np.random.default_rng(2)
    for _ in range(10):
        rows = rng.permutation(N)[: N // 2]
        minibatch = [x[rows] for x in batch]
        one.update(minibatch)
        uncompiled(other, minibatch)
    for name in NETWORKS:
        for x, y in parameters(one, other, name):
            assert relative_error(x, y) <= 1e-10
    averages = [x for name, x in one.actor.named_buffers() if "running" in name]
    assert len(averages) == (6 if norm == "batch" else 0)
    for x, y in zip(averages, other.actor.non_trainable_variables, strict=True):
        # Of the same momentum and the same kind of variance
        assert np.abs(x.numpy() - y.numpy()).max() <= 1e-10


def test_both_act_by_the_running_averages(pair, batch, dtype):
    one, other = pair
    for _ in range(3):
        one.actor(torch.from_numpy(batch[0]))
        other.actor(tf.constant(batch[0]), training=True)
    for s in batch[0][:3]:
        assert relative_error(one.act(s), other.act(s)) <= TOLERANCE[dtype]


# --------------------------------------------------------------------------- one gradient, two ways
def test_the_explicit_gradient_is_that_of_minus_the_mean_q_of_the_actors_own_actions(
    pair, batch, dtype
):
    _, agent = pair
    noted = record(*pair)
    uncompiled(agent, batch)
    s = tf.constant(batch[0])
    with tf.GradientTape() as tape:
        mu = agent.actor(s, training=True)
        loss = -tf.reduce_mean(agent.critic([s, mu], training=True))
    composed = tape.gradient(loss, agent.actor.trainable_variables)
    for x, y in zip(noted["tensorflow", "actor"], composed, strict=True):
        assert relative_error(x, y) <= TOLERANCE[dtype]
