"""What ddpg_continuous.py guarantees about the method: Algorithm 1, and where it goes wrong.

The training around it: test_training.py.
"""

import copy
import math
import sys
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import adam, algorithm_of, continuous_batch, resident_bytes

import ddpg_continuous as script

torch.set_num_threads(1)
every_norm = pytest.mark.parametrize("norm", ["batch", "layer", "none"])

OBSERVATION_SIZE, ACTION_SIZE = 3, 2


def new_agent(norm="batch", hidden_sizes=(16, 12), **args):
    """As the script makes it."""
    torch.manual_seed(0)
    args = script.Args(norm=norm, hidden_sizes=hidden_sizes, **args)
    return script.DDPG(OBSERVATION_SIZE, ACTION_SIZE, args)


def exact_agent(norm="batch", **args):
    """In float64, and as if long trained: large parameters everywhere, others in the targets."""
    agent = new_agent(norm, **args).double()
    for parameter in agent.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return agent


def new_batch(size=16, seed=0, dtype=np.float64):
    return continuous_batch(size, seed, OBSERVATION_SIZE, ACTION_SIZE, dtype)


def gradients(network):
    return [parameter.grad.clone() for parameter in network.parameters()]


def values(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def pairs_of_networks(agent):
    """Each network and its target."""
    return [(agent.actor, agent.target_actor), (agent.critic, agent.target_critic)]


def identical(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


# ----------------------------------------------------------------------------------- initialisation
@every_norm
def test_layers_start_uniformly_within_one_over_root_fan_in_and_the_last_within_3e_3(norm):
    agent = new_agent(norm, hidden_sizes=(200, 100))
    fans = {("actor", "layer_1"): OBSERVATION_SIZE, ("actor", "layer_2"): 200}
    fans |= {("critic", "layer_1"): OBSERVATION_SIZE, ("critic", "layer_2"): 200 + ACTION_SIZE}
    bounds = {key: 1 / math.sqrt(fan_in) for key, fan_in in fans.items()}
    bounds |= {("actor", "output"): 3e-3, ("critic", "output"): 3e-3}
    for (network, layer), bound in bounds.items():
        for parameter in getattr(getattr(agent, network), layer).parameters():
            assert parameter.abs().max() <= bound
            if parameter.numel() >= 100:
                assert parameter.abs().max() > 0.9 * bound
                uniform_std = bound / math.sqrt(3)
                assert abs(parameter.std() - uniform_std) < 0.15 * bound


@every_norm
def test_the_targets_start_equal_to_the_online_networks(norm):
    agent = new_agent(norm)
    for online, target in pairs_of_networks(agent):
        for parameter, copied in zip(online.parameters(), target.parameters(), strict=True):
            identical(copied, parameter.detach())
            assert copied is not parameter


# ------------------------------------------------------------------------------------- architecture
@every_norm
def test_the_actor_gives_n_actions_within_one_and_the_critic_n_by_1_values(norm):
    agent = exact_agent(norm)
    s = 1000 * torch.randn(16, OBSERVATION_SIZE, dtype=torch.float64)
    mu = agent.actor(s)
    assert mu.shape == (16, ACTION_SIZE)
    assert 0.5 < mu.abs().max() <= 1
    assert agent.critic(s, mu).shape == (16, 1)


def normalised(x, norm, layer):
    """What the layer in front of a ReLU does, by hand."""
    if norm == "none":
        return x
    axis = {"batch": 0, "layer": 1}[norm]
    mean = x.mean(axis, keepdims=True)
    variance = x.var(axis, keepdims=True)
    x = (x - mean) / np.sqrt(variance + 1e-5)
    if layer.weight is not None:
        x = x * layer.weight.numpy() + layer.bias.numpy()
    return x


def product(x, layer):
    y = x @ layer.weight.numpy().T
    if layer.bias is not None:
        y = y + layer.bias.numpy()
    return y


@every_norm
@torch.no_grad()
def test_both_networks_by_hand_with_400_and_300_units_relu_and_tanh(norm):
    assert script.Args().hidden_sizes == (400, 300)
    agent = exact_agent(norm, hidden_sizes=script.Args().hidden_sizes)
    s, a, *_ = new_batch()
    first = {"batch": "batch", "layer": "none", "none": "none"}[norm]  # on the observation

    actor = agent.actor
    x = normalised(s, first, actor.norm_0)
    x = np.maximum(normalised(product(x, actor.layer_1), norm, actor.norm_1), 0)
    assert x.shape == (16, 400)
    x = np.maximum(normalised(product(x, actor.layer_2), norm, actor.norm_2), 0)
    assert x.shape == (16, 300)
    torch.nn.init.normal_(actor.output.weight, std=0.02)  # not at an edge, where tanh is flat
    mu = np.tanh(product(x, actor.output))
    assert 0.01 < np.median(np.abs(mu)) < 0.9
    close(actor(torch.from_numpy(s)), torch.from_numpy(mu))

    critic = agent.critic
    x = normalised(s, first, critic.norm_0)
    x = np.maximum(normalised(product(x, critic.layer_1), norm, critic.norm_1), 0)
    assert x.shape == (16, 400)
    x = np.maximum(product(np.hstack([x, a]), critic.layer_2), 0)
    assert x.shape == (16, 300)
    q = product(x, critic.output)
    close(critic(torch.from_numpy(s), torch.from_numpy(a)), torch.from_numpy(q))


@every_norm
def test_the_action_enters_the_critic_at_the_second_hidden_layer(norm):
    critic, seen = exact_agent(norm).critic, []
    critic.layer_2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    s, a, *_ = map(torch.from_numpy, new_batch())
    q, other_q = critic(s, a), critic(s, -a)
    features, actions = seen[0].split([16, ACTION_SIZE], dim=1)
    identical(features, seen[1][:, :16])
    identical(actions, a)
    assert ((q - other_q).abs() > 1e-6).all()


def test_batch_norm_stands_on_the_observation_and_before_every_relu_but_the_critics_last():
    agent = new_agent("batch")

    def normalised(network):
        layers = network.named_children()
        return [name for name, layer in layers if isinstance(layer, torch.nn.BatchNorm1d)]

    assert normalised(agent.actor) == ["norm_0", "norm_1", "norm_2"]
    assert normalised(agent.critic) == ["norm_0", "norm_1"]


def test_layer_norm_leaves_the_observation_as_it_is():
    agent = new_agent("layer")
    s = torch.randn(5, OBSERVATION_SIZE)
    identical(agent.actor.norm_0(s), s)
    identical(agent.critic.norm_0(s), s)


@every_norm
def test_every_parameter_has_a_gradient_and_none_stands_idle_before_a_batch_norm(norm):
    agent = exact_agent(norm)
    agent.update(new_batch(256))
    for network in (agent.actor, agent.critic):
        for name, parameter in network.named_parameters():
            # A bias before a batch norm would have 1e-17, rounding noise
            assert parameter.grad.abs().max() > 1e-6, name


# -------------------------------------------------------------------------------- exploration noise
PROCESSES = [(0.15, 0.3, 1.0), (0.15, 0.2, 0.1), (0.6, 0.1, 0.5), (2.0, 0.4, 0.01)]  # θ, σ, dt


def new_noise(theta=0.15, sigma=0.2, dt=1.0, size=5000, seed=0):
    return script.OrnsteinUhlenbeckNoise(size, sigma, theta, dt, np.random.default_rng(seed))


@pytest.mark.parametrize(("theta", "sigma", "dt"), PROCESSES)
def test_ou_noise_has_the_mean_spread_and_memory_of_the_process(theta, sigma, dt):
    noise = new_noise(theta, sigma, dt)
    memory = 1 - theta * dt
    for _ in range(int(5 / (theta * dt))):  # until the start is forgotten
        noise.sample()
    lag = math.ceil(0.5 / (theta * dt))
    path = np.array([noise.sample() for _ in range(lag + 1)])
    spread = sigma * math.sqrt(dt) / math.sqrt(1 - memory**2)
    assert abs(path[0].mean()) < 0.05 * spread
    assert path[0].std() == pytest.approx(spread, rel=0.05)
    assert np.corrcoef(path[0], path[1])[0, 1] == pytest.approx(memory, abs=0.05)
    assert np.corrcoef(path[0], path[lag])[0, 1] == pytest.approx(memory**lag, abs=0.05)
    assert path.dtype == np.float32


def test_ou_noise_grows_from_zero_by_normal_increments():
    sigma, dt = 0.3, 0.25
    noise = new_noise(0.0, sigma, dt, size=100_000)
    first, second = noise.sample(), noise.sample()
    for increment in (first, second - first):
        z = increment / (sigma * math.sqrt(dt))
        assert z.mean() == pytest.approx(0, abs=0.02)
        assert z.std() == pytest.approx(1, abs=0.02)
        assert (z**3).mean() == pytest.approx(0, abs=0.05)
        assert (z**4).mean() == pytest.approx(3, abs=0.15)  # uniform increments: 1.8


def test_ou_noise_forgets_everything_at_a_reset():
    noise = new_noise()
    for _ in range(10):
        noise.sample()
    noise.reset()
    new = new_noise()
    new.rng = copy.deepcopy(noise.rng)
    assert not noise.x.any()
    assert np.array_equal(noise.sample(), new.sample())


def test_ou_noise_with_theta_dt_1_is_independent_gaussian():
    sigma, dt = 0.3, 0.25
    assert_is_independent_gaussian(new_noise(1 / dt, sigma, dt), sigma * math.sqrt(dt))


def test_gaussian_noise_is_independent_gaussian():
    rng = np.random.default_rng(0)
    assert_is_independent_gaussian(script.GaussianNoise(5000, 0.3, rng), 0.3)


def assert_is_independent_gaussian(noise, sigma):
    path = np.array([noise.sample() for _ in range(10)])
    assert path.mean(axis=1) == pytest.approx(0, abs=0.06 * sigma)
    assert path.std(axis=1) == pytest.approx(sigma, rel=0.05)
    assert ((path / sigma) ** 4).mean() == pytest.approx(3, abs=0.15)  # uniform noise: 1.8
    between = np.corrcoef(path) - np.eye(10)
    assert np.abs(between).max() < 0.06


def test_gaussian_noise_draws_the_same_numbers_as_ou_noise_with_theta_and_dt_1():
    ou = new_noise(1.0, 0.3, 1.0, size=3, seed=4)
    gaussian = script.GaussianNoise(3, 0.3, np.random.default_rng(4))
    for step in range(20):
        one, other = gaussian.sample(), ou.sample()
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype == np.float32
        if step == 10:
            gaussian.reset()
            ou.reset()


def test_make_noise_makes_what_the_arguments_name():
    settings = {"noise_sigma": 0.4, "ou_theta": 0.3, "ou_dt": 0.2}
    rngs = [np.random.default_rng(0) for _ in range(4)]
    pairs = [
        (
            script.make_noise(2, script.Args(noise="ou", **settings), rngs[0]),
            script.OrnsteinUhlenbeckNoise(2, 0.4, 0.3, 0.2, rngs[1]),
        ),
        (
            script.make_noise(2, script.Args(noise="gaussian", **settings), rngs[2]),
            script.GaussianNoise(2, 0.4, rngs[3]),
        ),
    ]
    for made, expected in pairs:
        assert type(made) is type(expected)
        for _ in range(5):
            assert np.array_equal(made.sample(), expected.sample())


def test_noise_is_reproducible_by_its_generator_alone():
    one, same, other = new_noise(seed=1), new_noise(seed=1), new_noise(seed=2)
    np.random.seed(5)  # noqa: NPY002 - the global generator must not matter
    x = one.sample()
    assert np.array_equal(x, same.sample())
    assert not np.array_equal(x, other.sample())


# ------------------------------------------------------------------------------------ replay buffer
def filled_replay(capacity, added):
    """The transition number i is (i, ...), (i + 0.25, ...), -i, i % 3 == 0, (i + 0.5, ...)."""
    replay = script.ReplayBuffer(capacity, OBSERVATION_SIZE, ACTION_SIZE, np.random.default_rng(0))
    for i in range(added):
        s = np.full(OBSERVATION_SIZE, i, np.float32)
        a = np.full(ACTION_SIZE, i + 0.25, np.float32)
        replay.add(s, a, -float(i), i % 3 == 0, s + 0.5)
    return replay


def test_replay_returns_whole_transitions_as_they_were_stored():
    s, a, r, terminated, next_s = filled_replay(100, 70).sample(500)
    number = s[:, :1]
    assert np.array_equal(s, number.repeat(OBSERVATION_SIZE, axis=1))
    assert np.array_equal(a, (number + 0.25).repeat(ACTION_SIZE, axis=1))
    assert np.array_equal(r, -number)
    assert np.array_equal(terminated, number % 3 == 0)
    assert np.array_equal(next_s, s + 0.5)


def test_replay_gives_float32_columns_that_cannot_broadcast_by_mistake():
    batch = filled_replay(100, 70).sample(64)
    assert [x.shape for x in batch] == [
        (64, OBSERVATION_SIZE),
        (64, ACTION_SIZE),
        (64, 1),
        (64, 1),
        (64, OBSERVATION_SIZE),
    ]
    assert {x.dtype for x in batch} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("added", "kept"),
    [(1, range(1)), (30, range(30)), (50, range(50)), (127, range(77, 127))],
)
def test_replay_samples_uniformly_from_the_newest_transitions_and_nothing_else(added, kept):
    replay = filled_replay(50, added)
    counts = Counter(replay.sample(100_000)[0][:, 0].tolist())
    assert len(replay) == len(kept)
    assert set(counts) == set(kept)
    expected = 100_000 / len(kept)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < len(kept) + 5 * math.sqrt(2 * len(kept))


def test_the_replay_begins_empty_and_its_first_transition_is_all_there_is_to_sample():
    replay = script.ReplayBuffer(10, 1, 1, np.random.default_rng(0))
    assert len(replay) == 0
    replay.add(np.array([1]), np.array([2]), 3.0, False, np.array([4]))
    assert len(replay) == 1
    s, a, r, terminated, next_s = replay.sample(100)
    expected = ((s, 1), (a, 2), (r, 3), (terminated, 0), (next_s, 4))
    assert all((column == value).all() for column, value in expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_empty_replay_of_a_million_transitions_takes_no_memory():
    before = resident_bytes()
    replay = script.ReplayBuffer(1_000_000, 150, 50, np.random.default_rng(0))
    replay.add(np.ones(150), np.ones(50), 1.0, False, np.ones(150))
    assert replay.rows.nbytes > 1.4e9
    assert resident_bytes() - before < 100e6


# -------------------------------------------------------------------------------- the critic's step
def constant_output(network, value):
    torch.nn.init.zeros_(network.output.weight)
    torch.nn.init.constant_(network.output.bias, value)


@every_norm
@pytest.mark.parametrize(
    ("terminated", "loss"),
    [
        ([0, 0], ((6 - 3) ** 2 + (7 - 3) ** 2) / 2),  # a time limit's transition is one of these
        ([1, 1], ((1 - 3) ** 2 + (2 - 3) ** 2) / 2),
        ([1, 0], ((1 - 3) ** 2 + (7 - 3) ** 2) / 2),
    ],
)
def test_the_bellman_target_worked_out_by_hand(norm, terminated, loss):
    agent = exact_agent(norm, gamma=0.5)
    constant_output(agent.target_critic, 10)  # so y = 1 + 0.5 * 10, 2 + 0.5 * 10; or just 1, 2
    constant_output(agent.critic, 3)
    s, a, _, _, next_s = new_batch(2)
    batch = [s, a, np.array([[1.0], [2.0]]), np.array(terminated, float)[:, None], next_s]
    metrics = agent.update(batch)
    assert metrics["critic_loss"].item() == pytest.approx(loss)
    assert metrics["q"].item() == pytest.approx(3)


def values_of_the_minibatch(agent, s, a, next_s):
    """Q(s, a) and Q'(s', μ'(s')), each network once on all 2N rows: batch norm sees all of them."""
    states = torch.cat([s, next_s])
    next_a = agent.target_actor(states)[len(s) :]
    actions = torch.cat([a, next_a])
    return agent.critic(states, actions)[: len(s)], agent.target_critic(states, actions)[len(s) :]


@every_norm
def test_the_critic_loss_is_the_mean_of_n_squared_errors_not_of_n_by_n(norm):
    agent = exact_agent(norm, gamma=0.9)
    batch = new_batch()
    s, a, r, terminated, next_s = map(torch.from_numpy, batch)
    q, next_q = values_of_the_minibatch(agent, s, a, next_s)
    errors = []
    for i in range(16):
        y = r[i].item()
        if not terminated[i]:
            y += 0.9 * next_q[i].item()
        errors.append((y - q[i].item()) ** 2)
    loss = agent.update(batch)["critic_loss"].item()
    assert loss == pytest.approx(sum(errors) / 16, rel=1e-9)


@every_norm
def test_the_critics_gradient_is_that_of_its_loss_alone_the_target_being_a_constant(norm):
    agent = exact_agent(norm, gamma=0.9, weight_decay=0.5)
    before, batch = copy.deepcopy(agent), new_batch()
    s, a, r, terminated, next_s = map(torch.from_numpy, batch)
    q, next_q = values_of_the_minibatch(before, s, a, next_s)
    y = r + 0.9 * (1 - terminated) * next_q
    ((y.detach() - q) ** 2).mean().backward()
    agent.update(batch)
    # The actor's step has added nothing to it
    close(gradients(agent.critic), gradients(before.critic))


@pytest.mark.parametrize(
    ("network", "rate", "decay"), [("actor", 0.02, 0.0), ("critic", 0.05, 0.3)]
)
def test_adam_steps_by_hand_with_l2_in_the_gradient_of_the_critic_alone(network, rate, decay):
    agent = exact_agent(actor_learning_rate=0.02, critic_learning_rate=0.05, weight_decay=0.3)
    parameters = list(getattr(agent, network).parameters())
    expected, memory = [x.detach().numpy().copy() for x in parameters], {}
    for seed in range(3):
        agent.update(new_batch(seed=seed))
        # Decoupled, the L2 term would not be in Adam's memory
        gradient = [x.grad.numpy() + decay * w for x, w in zip(parameters, expected, strict=True)]
        expected = adam(expected, gradient, memory, rate)
        for x, w in zip(parameters, expected, strict=True):
            np.testing.assert_allclose(x.detach().numpy(), w, rtol=1e-9, atol=1e-12)


# --------------------------------------------------------------------------------- the actor's step
@every_norm
def test_the_actor_gradient_is_the_slope_of_the_mean_q_by_finite_differences(norm):
    agent = exact_agent(norm, actor_learning_rate=0.0, critic_learning_rate=0.1)
    batch, step = new_batch(), 1e-6
    s = torch.from_numpy(batch[0])
    agent.update(batch)  # the actor stays where it is; the critic is the updated one

    def mean_q():
        with torch.no_grad():
            return agent.critic(s, agent.actor(s)).mean()

    for parameter in agent.actor.parameters():
        flat = parameter.data.view(-1)
        slopes = torch.zeros_like(flat)
        for i, x in enumerate(flat.tolist()):
            flat[i] = x + step
            above = mean_q()
            flat[i] = x - step
            below = mean_q()
            flat[i] = x
            slopes[i] = (above - below) / (2 * step)
        ascent = -parameter.grad.view(-1)
        torch.testing.assert_close(ascent, slopes, rtol=1e-5, atol=1e-8)


@every_norm
def test_the_actor_gradient_is_the_chain_rule_at_its_own_actions_through_the_updated_critic(norm):
    agent = exact_agent(norm, critic_learning_rate=0.1)
    before, batch = copy.deepcopy(agent), new_batch()
    s = torch.from_numpy(batch[0])
    agent.update(batch)

    def chain_rule(critic):
        actor = copy.deepcopy(before.actor)
        mu = actor(s)
        a = mu.detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(s, a).sum(), a)  # ∇ₐQ(s, a) of each sample
        mu.backward(-slope / len(s))
        return gradients(actor)

    close(gradients(agent.actor), chain_rule(agent.critic))
    assert (gradients(agent.actor)[0] - chain_rule(before.critic)[0]).abs().max() > 1e-3


@every_norm
def test_the_actor_gradient_does_not_depend_on_the_replayed_actions(norm):
    one, other = (exact_agent(norm, critic_learning_rate=0.0) for _ in range(2))
    s, a, *rest = new_batch()
    one.update([s, a, *rest])
    other.update([s, -a, *rest])
    identical(gradients(one.actor), gradients(other.actor))
    assert gradients(one.actor)[0].abs().max() > 1e-3


@every_norm
def test_a_batch_given_twice_has_the_same_gradients_so_1_over_n_stands_once(norm):
    one, other = exact_agent(norm), exact_agent(norm)
    batch = new_batch()
    one.update(batch)
    other.update([np.concatenate([x, x]) for x in batch])
    close(gradients(one.critic), gradients(other.critic))
    close(gradients(one.actor), gradients(other.actor))


@every_norm
def test_the_actor_step_leaves_the_critic_and_its_gradient_alone(norm, monkeypatch):
    agent = exact_agent(norm, actor_learning_rate=0.1)
    output = agent.actor.output.weight.detach().clone()
    critic_step = agent.critic_optimizer.step
    after_it = {}

    def noted_step():
        critic_step()
        after_it.update(values=values(agent.critic), gradients=gradients(agent.critic))

    monkeypatch.setattr(agent.critic_optimizer, "step", noted_step)
    agent.update(new_batch())
    identical(values(agent.critic), after_it["values"])
    identical(gradients(agent.critic), after_it["gradients"])
    assert (agent.actor.output.weight - output).abs().max() > 0.01


@every_norm
def test_the_policy_learns_which_way_the_reward_grows(norm):
    agent = new_agent(norm, actor_learning_rate=3e-3, critic_learning_rate=1e-2)
    for seed in range(100):
        s, a, _, terminated, next_s = new_batch(seed=seed, dtype=np.float32)
        agent.update([s, a, a[:, :1] - a[:, 1:], np.ones_like(terminated), next_s])
    actions = np.array([agent.act(s) for s in new_batch(50, 1000, np.float32)[0]])
    assert actions[:, 0].mean() > 0.8
    assert actions[:, 1].mean() < -0.8


# -------------------------------------------------------------------------------------- the targets
@every_norm
@pytest.mark.parametrize("tau", [0.005, 0.3, 1.0])
def test_after_an_update_each_target_is_tau_online_plus_the_rest_of_itself(norm, tau):
    agent = exact_agent(norm, tau=tau, actor_learning_rate=0.1, critic_learning_rate=0.1)
    before = copy.deepcopy(agent)
    agent.update(new_batch())
    for name in ("actor", "critic"):
        online, old = values(getattr(agent, name)), values(getattr(before, f"target_{name}"))
        expected = {key: tau * online[key] + (1 - tau) * old[key] for key in old}
        close(values(getattr(agent, f"target_{name}")), expected)


@every_norm
def test_targets_have_no_gradients_and_nothing_but_parameters_that_could_be_forgotten(norm):
    agent = exact_agent(norm)
    agent.update(new_batch())
    for online, target in pairs_of_networks(agent):
        assert not list(target.buffers())
        assert list(dict(target.named_parameters())) == list(dict(online.named_parameters()))
        assert all(p.grad is None and not p.requires_grad for p in target.parameters())


# --------------------------------------------------------------------------------------- batch norm
def running_averages(network):
    return {name: value for name, value in network.named_buffers() if "num_batches" not in name}


def test_only_the_network_that_acts_has_running_averages():
    agent = new_agent()
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    names = {f"norm_{i}.{kind}" for i in (0, 1, 2) for kind in kinds}
    for network in ("actor", "critic", "target_actor", "target_critic"):
        buffers = {name for name, _ in getattr(agent, network).named_buffers()}
        assert buffers == (names if network == "actor" else set())


def test_running_averages_move_once_per_update_with_momentum_0_01():
    agent = exact_agent()
    for seed in range(3):
        old, batch = copy.deepcopy(agent.actor), new_batch(seed=seed)
        agent.update(batch)
        x = torch.from_numpy(batch[0])
        for i in (0, 1, 2):
            norm, new = getattr(old, f"norm_{i}"), getattr(agent.actor, f"norm_{i}")
            if i > 0:
                x = getattr(old, f"layer_{i}")(x)  # (N, units)
            close(new.running_mean, 0.99 * norm.running_mean + 0.01 * x.mean(dim=0))
            # torch keeps the unbiased variance
            close(new.running_var, 0.99 * norm.running_var + 0.01 * x.var(dim=0))
            x = (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-5).sqrt()
            if i > 0:
                x = F.relu(norm.weight * x + norm.bias)


def test_training_passes_normalise_by_the_minibatch_and_never_by_the_running_averages():
    one, other = exact_agent(), exact_agent()
    for average in running_averages(other.actor).values():
        average.uniform_(1, 9)
    identical(one.update(new_batch()), other.update(new_batch()))
    for network in ("actor", "critic"):
        identical(gradients(getattr(one, network)), gradients(getattr(other, network)))


@pytest.mark.parametrize("network", ["target_actor", "target_critic"])
def test_the_targets_normalise_by_the_minibatch(network):
    one, other = exact_agent(), exact_agent()
    layer = getattr(other, network).layer_1
    layer.weight.data *= 1000  # which a minibatch's own mean and variance take out again
    s, a, r, terminated, next_s = new_batch(64)
    batch = [s, a, r, np.zeros_like(terminated), next_s]
    expected = one.update(batch)["critic_loss"].item()
    loss = other.update(batch)["critic_loss"].item()
    assert loss == pytest.approx(expected, rel=1e-3)  # but for epsilon


def test_next_states_are_normalised_beside_the_states_and_not_apart_from_them():
    """Apart, a shift of all next states would be taken out with their mean."""
    s, a, r, _, next_s = new_batch()
    still = np.zeros_like(r)  # no end: the next states' values count
    losses = {}
    for name, shift, next_shift in (("none", 0, 0), ("next", 0, 2), ("both", 2, 2)):
        batch = [s + shift, a, r, still, next_s + next_shift]
        losses[name] = exact_agent().update(batch)["critic_loss"].item()
    assert losses["both"] == pytest.approx(losses["none"], rel=1e-9)
    assert abs(losses["next"] / losses["none"] - 1) > 0.01


def test_acting_normalises_by_the_running_averages_and_leaves_them_as_they_are():
    agent = new_agent()
    torch.nn.init.normal_(agent.actor.output.weight)
    for name, average in running_averages(agent.actor).items():
        low, high = (-1, 1) if "mean" in name else (0.5, 2)
        average.uniform_(low, high)
    observation, before = new_batch(1, dtype=np.float32)[0][0], values(agent)
    x = torch.from_numpy(observation)
    for i in (0, 1, 2):
        norm = getattr(agent.actor, f"norm_{i}")
        if i > 0:
            x = getattr(agent.actor, f"layer_{i}")(x)
        x = (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
        if i > 0:
            x = F.relu(norm.weight * x + norm.bias)
    action = torch.from_numpy(agent.act(observation))
    torch.testing.assert_close(action, torch.tanh(agent.actor.output(x)).detach())
    identical(values(agent), before)


@every_norm
def test_acting_gives_one_action_and_changes_no_later_update(norm):
    one, other = new_agent(norm), new_agent(norm)
    for seed in range(3):
        batch = new_batch(seed=seed, dtype=np.float32)
        action = one.act(batch[0][0])
        assert action.shape == (ACTION_SIZE,)
        assert action.dtype == np.float32
        one.update(batch)
        other.update(batch)
        assert all(module.training for module in one.modules())
    identical(values(one), values(other))


# ----------------------------------------------------------------------------- metrics, determinism
@every_norm
def test_an_update_gives_scalar_tensors_which_are_finite(norm):
    metrics = new_agent(norm).update(new_batch(dtype=np.float32))
    assert list(metrics) == ["critic_loss", "actor_loss", "q", "saturation"]
    for name, value in metrics.items():
        assert isinstance(value, torch.Tensor), name
        assert value.shape == (), name
        assert value.isfinite(), name
        assert not value.requires_grad, name


def test_the_metrics_are_those_of_the_update():
    agent = exact_agent("none", actor_learning_rate=0.0)
    batch = new_batch()
    agent.actor.output.weight.data *= 3  # so that some actions, not all, are at an edge of the box
    s, a, *_ = map(torch.from_numpy, batch)
    q = agent.critic(s, a).mean()
    mu = agent.actor(s)
    saturated = (mu.abs() > 0.99).sum() / mu.numel()
    metrics = agent.update(batch)
    close(metrics["q"], q.detach())
    close(metrics["actor_loss"], -agent.critic(s, mu).mean().detach())  # by the updated critic
    assert 0 < saturated < 1
    assert metrics["saturation"] == saturated


@every_norm
def test_equal_seeds_and_batches_give_equal_bits(norm):
    one, other = new_agent(norm), new_agent(norm)
    start = values(one)
    for seed in range(5):
        batch = new_batch(seed=seed, dtype=np.float32)
        identical(one.update(batch), other.update(batch))
    identical(values(one), values(other))
    assert not torch.equal(start["actor.layer_1.weight"], one.actor.layer_1.weight)


def test_the_learning_rate_scale_is_of_both_rates_and_of_this_update_alone():
    rates = {"actor_learning_rate": 0.02, "critic_learning_rate": 0.05}
    once, scaled = exact_agent("none", **rates), exact_agent("none", **rates)
    before = values(once)
    once.update(new_batch())
    scaled.update(new_batch(), learning_rate_scale=0.5)
    parameter = "critic.layer_1.weight"  # the actor's step is by another critic
    steps = [values(agent)[parameter] - before[parameter] for agent in (once, scaled)]
    close(steps[1], 0.5 * steps[0])
    for agent, scale in ((once, 1.0), (scaled, 0.5)):
        used = [optimizer.param_groups[0]["lr"] for optimizer in agent.optimizers]
        assert used == [0.02 * scale, 0.05 * scale]
    scaled.update(new_batch())
    used = [optimizer.param_groups[0]["lr"] for optimizer in scaled.optimizers]
    assert used == [0.02, 0.05]


def test_the_algorithm_cut_out_of_the_file_stands_alone():
    alone = algorithm_of(script)
    torch.manual_seed(0)
    args = alone["Args"](norm="batch", hidden_sizes=(16, 12))
    agent, same = alone["DDPG"](OBSERVATION_SIZE, ACTION_SIZE, args), new_agent()
    batch = new_batch(dtype=np.float32)
    identical(agent.update(batch), same.update(batch))
    identical(values(agent), values(same))
