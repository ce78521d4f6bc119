"""What ddpg_continuous.py guarantees about the method: Algorithm 1 of the paper, and the places where it goes wrong."""

import copy
import math
import re
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import ddpg_continuous as script

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*WARN", "ignore:builtin type [Ss]wig", "ignore:overflow")
every_norm = pytest.mark.parametrize("norm", ["batch", "layer", "none"])

OBSERVATION_SIZE, ACTION_SIZE = 3, 2


def new_agent(norm="batch", hidden_sizes=(16, 12), **args):
    """As the script makes it."""
    torch.manual_seed(0)
    return script.DDPG(OBSERVATION_SIZE, ACTION_SIZE, script.Args(norm=norm, hidden_sizes=hidden_sizes, **args))


def exact_agent(norm="batch", **args):
    """In float64, and as if long trained: large parameters everywhere, others in the targets."""
    agent = new_agent(norm, **args).double()
    for parameter in agent.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return agent


def new_batch(size=16, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    s, next_s = rng.normal(size=(2, size, OBSERVATION_SIZE))
    a, r = rng.uniform(-1, 1, (size, ACTION_SIZE)), rng.normal(size=(size, 1))
    return [x.astype(dtype) for x in (s, a, r, rng.random((size, 1)) < 0.3, next_s)]


def gradients(network):
    return [parameter.grad.clone() for parameter in network.parameters()]


def values(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def identical(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- initialisation
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
                assert abs(parameter.std() - bound / math.sqrt(3)) < 0.15 * bound  # uniform's standard deviation


@every_norm
def test_the_targets_start_equal_to_the_online_networks(norm):
    agent = new_agent(norm)
    for online, target in ((agent.actor, agent.target_actor), (agent.critic, agent.target_critic)):
        for parameter, copied in zip(online.parameters(), target.parameters(), strict=True):
            identical(copied, parameter.detach())
            assert copied is not parameter


# ------------------------------------------------------------------------------------------------------ architecture
@every_norm
def test_the_actor_gives_n_actions_within_one_and_the_critic_n_by_1_values(norm):
    agent = exact_agent(norm)
    s = 1000 * torch.randn(16, OBSERVATION_SIZE, dtype=torch.float64)
    mu = agent.actor(s)
    assert mu.shape == (16, ACTION_SIZE)
    assert 0.5 < mu.abs().max() <= 1
    assert agent.critic(s, mu).shape == (16, 1)


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
    normalised = {
        network: [
            name for name, layer in getattr(agent, network).named_children() if isinstance(layer, torch.nn.BatchNorm1d)
        ]
        for network in ("actor", "critic")
    }
    assert normalised == {"actor": ["norm_0", "norm_1", "norm_2"], "critic": ["norm_0", "norm_1"]}


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
            assert parameter.grad.abs().max() > 1e-6, name  # a bias before a batch norm: 1e-17, rounding noise


# ------------------------------------------------------------------------------------------------- exploration noise
PROCESSES = [(0.15, 0.3, 1.0), (0.15, 0.2, 0.1), (0.6, 0.1, 0.5), (2.0, 0.4, 0.01)]  # θ, σ, dt


def new_noise(theta=0.15, sigma=0.2, dt=1.0, size=5000, seed=0):
    return script.OrnsteinUhlenbeckNoise(size, sigma, theta, dt, np.random.default_rng(seed))


@pytest.mark.parametrize(("theta", "sigma", "dt"), PROCESSES)
def test_ou_noise_has_the_mean_spread_and_memory_of_the_process(theta, sigma, dt):
    noise, memory = new_noise(theta, sigma, dt), 1 - theta * dt
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


def test_ou_noise_forgets_everything_at_a_restart():
    noise = new_noise()
    for _ in range(10):
        noise.sample()
    noise.restart()
    new = new_noise()
    new.rng = copy.deepcopy(noise.rng)
    assert not noise.x.any()
    assert np.array_equal(noise.sample(), new.sample())


def test_noise_with_theta_dt_1_is_independent_gaussian():
    sigma, dt = 0.3, 0.25
    noise = new_noise(1 / dt, sigma, dt)
    path = np.array([noise.sample() for _ in range(10)])
    assert path.std(axis=1) == pytest.approx(sigma * math.sqrt(dt), rel=0.05)
    between = np.corrcoef(path) - np.eye(10)
    assert np.abs(between).max() < 0.06


def test_noise_is_reproducible_by_its_generator_alone():
    one, same, other = new_noise(seed=1), new_noise(seed=1), new_noise(seed=2)
    np.random.seed(5)  # noqa: NPY002 - the global generator must not matter
    x = one.sample()
    assert np.array_equal(x, same.sample())
    assert not np.array_equal(x, other.sample())


# ----------------------------------------------------------------------------------------------------- replay memory
def filled_replay(capacity, added):
    """The transition number i is (i, ...), (i + 0.25, ...), -i, i % 3 == 0, (i + 0.5, ...)."""
    replay = script.ReplayMemory(capacity, OBSERVATION_SIZE, ACTION_SIZE, np.random.default_rng(0))
    for i in range(added):
        s, a = np.full(OBSERVATION_SIZE, i, np.float32), np.full(ACTION_SIZE, i + 0.25, np.float32)
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


@pytest.mark.parametrize(("added", "kept"), [(1, range(1)), (30, range(30)), (50, range(50)), (127, range(77, 127))])
def test_replay_samples_uniformly_from_the_newest_transitions_and_nothing_else(added, kept):
    replay = filled_replay(50, added)
    counts = Counter(replay.sample(100_000)[0][:, 0].tolist())
    assert len(replay) == len(kept)
    assert set(counts) == set(kept)
    expected = 100_000 / len(kept)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < len(kept) + 5 * math.sqrt(2 * len(kept))


def test_an_empty_replay_of_a_million_transitions_takes_no_memory():
    import resource  # Linux and macOS

    def peak_megabytes():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes there, KiB here

    before = peak_megabytes()
    replay = script.ReplayMemory(1_000_000, 150, 50, np.random.default_rng(0))
    replay.add(np.ones(150), np.ones(50), 1.0, False, np.ones(150))
    assert replay.rows.nbytes > 1.4e9
    assert peak_megabytes() - before < 100


# ------------------------------------------------------------------------------------------------- the critic's step
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
    constant_output(agent.target_critic, 10)  # so y = 1 + 0.5 * 10 and 2 + 0.5 * 10, or just 1 and 2
    constant_output(agent.critic, 3)
    s, a, _, _, next_s = new_batch(2)
    batch = [s, a, np.array([[1.0], [2.0]]), np.array(terminated, float)[:, None], next_s]
    logged = agent.update(batch, read=True)
    assert logged["critic_loss"] == pytest.approx(loss)
    assert logged["q"] == pytest.approx(3)


@every_norm
def test_the_critic_loss_is_the_mean_of_n_squared_errors_not_of_n_by_n(norm):
    agent = exact_agent(norm, gamma=0.9)
    batch = new_batch()
    s, a, r, terminated, next_s = map(torch.from_numpy, batch)
    q = agent.critic(s, a).flatten().tolist()
    next_q = agent.target_critic(next_s, agent.target_actor(next_s)).flatten().tolist()
    r, terminated = r.flatten().tolist(), terminated.flatten().tolist()
    errors = [(r[i] + (0 if terminated[i] else 0.9 * next_q[i]) - q[i]) ** 2 for i in range(16)]
    assert agent.update(batch, read=True)["critic_loss"] == pytest.approx(sum(errors) / 16, rel=1e-9)


@every_norm
def test_the_critics_gradient_is_that_of_its_loss_alone_the_target_being_a_constant(norm):
    agent = exact_agent(norm, gamma=0.9, weight_decay=0.5)
    before, batch = copy.deepcopy(agent), new_batch()
    s, a, r, terminated, next_s = map(torch.from_numpy, batch)
    y = r + 0.9 * (1 - terminated) * before.target_critic(next_s, before.target_actor(next_s))
    ((y.detach() - before.critic(s, a)) ** 2).mean().backward()
    agent.update(batch)
    close(gradients(agent.critic), gradients(before.critic))  # the actor's step has added nothing to it


@pytest.mark.parametrize(("network", "rate", "decay"), [("actor", 0.02, 0.0), ("critic", 0.05, 0.3)])
def test_adam_steps_by_hand_with_l2_in_the_gradient_of_the_critic_alone(network, rate, decay):
    agent = exact_agent(actor_learning_rate=0.02, critic_learning_rate=0.05, weight_decay=0.3)
    parameters = list(getattr(agent, network).parameters())
    w, m, v = [p.detach().numpy().copy() for p in parameters], [0.0] * len(parameters), [0.0] * len(parameters)
    for t in range(1, 4):
        agent.update(new_batch(seed=t))
        for i, parameter in enumerate(parameters):
            g = parameter.grad.numpy() + decay * w[i]  # decoupled, the decay would not be in m and v
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
            w[i] = w[i] - rate * (m[i] / (1 - 0.9**t)) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
            np.testing.assert_allclose(parameter.detach().numpy(), w[i], rtol=1e-9, atol=1e-12)


# -------------------------------------------------------------------------------------------------- the actor's step
@every_norm
def test_the_actor_gradient_is_the_slope_of_the_mean_q_by_finite_differences(norm):
    agent = exact_agent(norm, actor_learning_rate=0.0, critic_learning_rate=0.1)
    batch, step = new_batch(), 1e-6
    s = torch.from_numpy(batch[0])
    agent.update(batch)  # the actor stays where it is; the critic is the updated one
    for parameter in agent.actor.parameters():
        flat, slopes = parameter.data.view(-1), torch.zeros(parameter.numel(), dtype=torch.float64)
        for i, x in enumerate(flat.tolist()):
            mean_q = []
            for flat[i] in (x + step, x - step):
                with torch.no_grad():
                    mean_q.append(agent.critic(s, agent.actor(s)).mean())
            flat[i], slopes[i] = x, (mean_q[0] - mean_q[1]) / (2 * step)
        torch.testing.assert_close(-parameter.grad.view(-1), slopes, rtol=1e-5, atol=1e-8)  # minus: it ascends


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
def test_the_actor_step_leaves_the_critic_alone(norm):
    still, moving = (exact_agent(norm, actor_learning_rate=rate) for rate in (0.0, 0.1))
    still.update(new_batch())
    moving.update(new_batch())
    identical(values(moving.critic), values(still.critic))
    identical(gradients(moving.critic), gradients(still.critic))
    assert (moving.actor.output.weight - still.actor.output.weight).abs().max() > 0.01


@every_norm
def test_the_policy_learns_which_way_the_reward_grows(norm):
    agent = new_agent(norm, actor_learning_rate=3e-3, critic_learning_rate=1e-2)
    for seed in range(100):
        s, a, _, terminated, next_s = new_batch(seed=seed, dtype=np.float32)
        agent.update([s, a, a[:, :1] - a[:, 1:], np.ones_like(terminated), next_s])
    actions = np.array([agent.act(s) for s in new_batch(50, 1000, np.float32)[0]])
    assert actions[:, 0].mean() > 0.8
    assert actions[:, 1].mean() < -0.8


# ------------------------------------------------------------------------------------------------------- the targets
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
    for online, target in ((agent.actor, agent.target_actor), (agent.critic, agent.target_critic)):
        assert not list(target.buffers())
        assert list(dict(target.named_parameters())) == list(dict(online.named_parameters()))
        assert all(p.grad is None and not p.requires_grad for p in target.parameters())


# --------------------------------------------------------------------------------------------------------- batch norm
def running_averages(network):
    return {name: value for name, value in network.named_buffers() if "num_batches" not in name}


def test_only_the_network_that_acts_has_running_averages():
    agent = new_agent()
    names = {f"norm_{i}.{name}" for i in (0, 1, 2) for name in ("running_mean", "running_var", "num_batches_tracked")}
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
            x = getattr(old, f"layer_{i}")(x) if i else x  # (N, units), of which torch keeps the unbiased variance
            close(new.running_mean, 0.99 * norm.running_mean + 0.01 * x.mean(dim=0))
            close(new.running_var, 0.99 * norm.running_var + 0.01 * x.var(dim=0))
            z = (x - x.mean(dim=0)) / (x.var(dim=0, unbiased=False) + 1e-5).sqrt()
            x = F.relu(norm.weight * z + norm.bias) if i else z


def test_training_passes_normalise_by_the_minibatch_and_never_by_the_running_averages():
    one, other = exact_agent(), exact_agent()
    for average in running_averages(other.actor).values():
        average.uniform_(1, 9)
    assert one.update(new_batch(), read=True) == other.update(new_batch(), read=True)
    for network in ("actor", "critic"):
        identical(gradients(getattr(one, network)), gradients(getattr(other, network)))


@pytest.mark.parametrize("network", ["target_actor", "target_critic"])
def test_the_targets_normalise_by_the_minibatch(network):
    one, other = exact_agent(), exact_agent()
    layer = getattr(other, network).layer_1
    layer.weight.data *= 1000  # which a minibatch's own mean and variance take out again
    s, a, r, terminated, next_s = new_batch(64)
    batch = [s, a, r, np.zeros_like(terminated), next_s]
    expected = one.update(batch, read=True)["critic_loss"]
    assert other.update(batch, read=True)["critic_loss"] == pytest.approx(expected, rel=1e-3)  # but for epsilon


def test_acting_normalises_by_the_running_averages_and_leaves_them_as_they_are():
    agent = new_agent()
    torch.nn.init.normal_(agent.actor.output.weight)
    for name, average in running_averages(agent.actor).items():
        average.uniform_(*((-1, 1) if "mean" in name else (0.5, 2)))
    observation, before = new_batch(1, dtype=np.float32)[0][0], values(agent)
    x = torch.from_numpy(observation)
    for i in (0, 1, 2):
        x, norm = getattr(agent.actor, f"layer_{i}")(x) if i else x, getattr(agent.actor, f"norm_{i}")
        z = (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
        x = F.relu(norm.weight * z + norm.bias) if i else z
    action = agent.act(observation)
    torch.testing.assert_close(torch.from_numpy(action), torch.tanh(agent.actor.output(x)).detach())
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


# ------------------------------------------------------------------------------------------------------- determinism
@every_norm
def test_equal_seeds_and_batches_give_equal_bits_whether_or_not_values_are_read(norm):
    one, other = new_agent(norm), new_agent(norm)
    start = values(one)
    for seed in range(5):
        batch = new_batch(seed=seed, dtype=np.float32)
        assert set(one.update(batch, read=True)) == {"critic_loss", "actor_loss", "q", "saturation"}
        assert not other.update(batch)
    identical(values(one), values(other))
    assert not torch.equal(start["actor.layer_1.weight"], one.actor.layer_1.weight)


# ------------------------------------------------------------------------------------------------------- environments
LOW, HIGH = np.array([-0.3, 5.0], np.float32), np.array([1.7, 7.1], np.float32)
EVENTS = []  # of all Toy environments, in order


class Toy(gym.Env):
    """Random observations, in one array used again and again; 20 steps cut off by a time limit, 12 terminated, 20, …"""

    def __init__(self, actions=None, observations=None, spoilt=None, by=None, render_mode=None):
        self.action_space = actions or gym.spaces.Box(LOW, HIGH)
        self.observation_space = observations or gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float64)
        self.spoilt, self.by, self.episodes = spoilt, by, 0
        self.observation = np.zeros(OBSERVATION_SIZE, self.observation_space.dtype)

    def note(self, what, **more):
        self.observation[:] = self.np_random.normal(size=OBSERVATION_SIZE)
        if self.spoilt == what:
            self.observation[1] = self.by
        EVENTS.append(SimpleNamespace(what=what, env=id(self), observation=self.observation.copy(), **more))
        return self.observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.episodes = 0, self.episodes + 1
        return self.note("reset", seed=seed), {}

    def step(self, action):
        self.steps += 1
        time_limit = self.episodes % 2 == 1
        truncated, terminated = time_limit and self.steps == 20, not time_limit and self.steps == 12
        reward = self.by if self.spoilt == "reward" else float(self.np_random.normal() + action.sum())
        over = SimpleNamespace(terminated=terminated, truncated=truncated)
        observation = self.note("step", action=action, reward=reward, **vars(over))
        return observation, reward, terminated, truncated, {}

    def close(self):
        EVENTS.append(SimpleNamespace(what="close", env=id(self)))


@pytest.fixture
def toy():
    """Registers a Toy with the given arguments."""
    EVENTS.clear()

    def register(**kwargs):
        gym.register("Toy-v0", Toy, kwargs=kwargs)
        return "Toy-v0"

    yield register
    gym.registry.pop("Toy-v0", None)


def steps():
    return [event for event in EVENTS if event.what == "step"]


def test_actions_are_scaled_to_an_asymmetric_box_exactly_at_both_ends(toy):
    env = script.make_env(toy())
    env.reset(seed=0)
    for action in (-1, 1, 0):
        env.step(np.full(ACTION_SIZE, action, np.float32))
    env.step(np.array([1, -0.5], np.float32))  # each dimension by its own bounds
    low, high, middle, mixed = (event.action for event in steps())
    assert np.array_equal(low, LOW)
    assert np.array_equal(high, HIGH)
    assert middle == pytest.approx((LOW + HIGH) / 2)
    assert mixed == pytest.approx([1.7, 5.0 + 0.25 * 2.1])


def test_no_scaled_action_leaves_the_box(toy):
    rng = np.random.default_rng(0)
    low = rng.uniform(-9, 9, 6).astype(np.float32)
    box = gym.spaces.Box(low, low + rng.uniform(1e-3, 9, 6).astype(np.float32))
    env = script.make_env(toy(actions=box))
    env.reset(seed=0)
    ends = rng.choice(np.array([-1, 1, np.nextafter(np.float32(1), 0)], np.float32), (500, 6))
    for action in np.concatenate([ends, rng.uniform(-1, 1, (500, 6)).astype(np.float32)]):
        env.step(action)
    assert len(steps()) == 1000
    assert all(box.contains(event.action) for event in steps())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_observations_become_float32_copies_and_rewards_plain_numbers(toy, dtype):
    env = script.make_env(toy(observations=gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), dtype)))
    first, _ = env.reset(seed=0)
    second, reward, *_ = env.step(np.zeros(ACTION_SIZE, np.float32))  # the Toy overwrites its array
    for observation, event in zip((first, second), EVENTS, strict=True):
        assert observation.dtype == np.float32
        assert np.array_equal(observation, event.observation.astype(np.float32))
    assert type(reward) is float
    assert reward == pytest.approx(EVENTS[-1].reward, rel=1e-6)


@pytest.mark.parametrize("by", [np.nan, np.inf, -np.inf, 1e39])  # the last: in float32
@pytest.mark.parametrize(
    ("spoilt", "name"), [("reset", "observation"), ("step", "observation"), ("reward", "reward"), ("action", "actor")]
)
def test_what_is_not_finite_ends_the_run_with_its_name(toy, spoilt, name, by):
    env = script.make_env(toy(spoilt=spoilt, by=by))
    with pytest.raises(script.RunError, match=rf"{name}.* is not finite"):  # the reset may, too
        env.reset(seed=0)
        env.step(np.array([0, by if spoilt == "action" else 0], np.float32))
    assert len(steps()) == (spoilt in ("step", "reward"))  # a NaN action never reaches the environment


BOX = gym.spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize(
    ("actions", "observations"),
    [
        (gym.spaces.Discrete(4), BOX),
        (gym.spaces.MultiDiscrete([3, 3]), BOX),
        (gym.spaces.Box(-1, 1, (2, 2)), BOX),
        (gym.spaces.Box(-np.inf, np.inf, (2,)), BOX),
        (gym.spaces.Box(np.array([-1, -np.inf], np.float32), np.ones(2, np.float32)), BOX),
        (BOX, gym.spaces.Discrete(4)),
        (BOX, gym.spaces.Box(0, 255, (96, 96, 3), np.uint8)),
        (BOX, gym.spaces.Dict(position=BOX, goal=BOX)),
    ],
)
def test_unsuitable_spaces_are_refused_by_a_message_that_names_the_environment(toy, actions, observations):
    with pytest.raises(script.RunError, match=r"^Toy-v0 (has the actions|observes)") as error:
        script.make_env(toy(actions=actions, observations=observations))
    assert ("needs continuous" in str(error.value)) == (observations is BOX)


@pytest.mark.parametrize(
    ("env_id", "current"),
    [
        ("LunarLanderContinuous-v2", "LunarLanderContinuous-v3"),
        ("Pendulum-v0", "Pendulum-v1"),
        ("BipedalWalker-v2", "BipedalWalker-v3"),
        ("Hopper-v2", "Hopper-v5"),
    ],
)
def test_retired_ids_become_the_current_ones_and_say_so_in_one_line(env_id, current, capsys):
    env = script.make_env(env_id)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"{env_id} is retired: running the current version, {current}"
    assert env.unwrapped.spec.id == current
    env.close()


def test_working_ids_stay_as_they_are_even_where_a_newer_version_exists(capsys):
    for env_id in ("Pendulum-v1", "Hopper-v4"):
        env = script.make_env(env_id)
        assert env.unwrapped.spec.id == env_id
        env.close()
    assert capsys.readouterr().out == ""


# --------------------------------------------------------------------------------------------------------- evaluation
def test_evaluation_plays_the_policy_itself_from_its_own_start_states_and_repeatably(toy):
    def policy(observation):
        return np.tanh(observation[:ACTION_SIZE])

    env_id = toy()
    returns = script.evaluate(script.make_env(env_id), policy, episodes=4, seed=7)
    events = EVENTS.copy()
    assert [event.seed for event in events if event.what == "reset"] == [7, 8, 9, 10]
    assert events[-1].what == "close"
    for last, event in pairwise(events):
        if event.what == "step":
            action = policy(last.observation)
            assert event.action == pytest.approx(LOW + (action + 1) / 2 * (HIGH - LOW), abs=1e-5)
    assert len(steps()) == 20 + 12 + 20 + 12
    assert sum(returns) == pytest.approx(sum(event.reward for event in steps()), rel=1e-6)
    assert script.evaluate(script.make_env(env_id), policy, episodes=4, seed=7) == returns


# ------------------------------------------------------------------------------------------------------- the training
RANDOM_STEPS = 64


@pytest.fixture
def train(toy, tmp_path, monkeypatch):
    """Trains on a Toy; gives its events, the checkpoint's transitions and the run's folder."""
    monkeypatch.setattr(script, "plot", lambda *_: None)  # a second per run, and tested elsewhere

    def run(name="run", **args):
        EVENTS.clear()
        few = {"total_timesteps": 320, "learning_starts": RANDOM_STEPS, "eval_every": 0, "eval_episodes": 3}
        small = {"hidden_sizes": (8, 8), "batch_size": 8, "buffer_size": 1000, "checkpoint_every": 320}
        slow = {"actor_learning_rate": 1e-9, "noise_decay_steps": 0}  # the policy stays near 0, the noise as it is
        args = {"env_id": toy(), "runs_dir": str(tmp_path), "run_name": name, **few, **small, **slow, **args}
        script.train(script.Args(**args))
        path = tmp_path / name
        rows = torch.load(path / "checkpoint.pt", weights_only=True)["rows"].numpy()
        split = np.cumsum([OBSERVATION_SIZE, ACTION_SIZE, 1, 1])
        return SimpleNamespace(events=EVENTS.copy(), path=path, rows=rows, columns=np.split(rows, split, axis=1))

    return run


def episodes_of(events):
    """The actions in [-1, 1] of each episode, (T, A), from those that the environment received."""
    found = []
    for event in events:
        if event.what == "reset":
            found.append([])
        elif event.what == "step":
            found[-1].append(2 * (event.action - LOW) / (HIGH - LOW) - 1)
    return [np.array(actions) for actions in found if actions]


def test_the_replay_holds_what_happened_and_only_a_terminal_state_is_marked_as_one(train):
    run = train(noise_sigma=0.8)
    s, a, r, terminated, next_s = run.columns
    expected, observation = [], None
    for event in run.events:
        if event.what == "step":
            expected.append(
                (observation, event.action, event.reward, event.terminated, event.observation, event.truncated)
            )
        observation = getattr(event, "observation", None)  # after a reset, the one that it gave
    observations, actions, rewards, ends, next_observations, time_limits = map(np.array, zip(*expected, strict=True))
    assert len(s) == len(expected) == 320
    assert np.array_equal(s, observations.astype(np.float32))
    assert a == pytest.approx(2 * (actions - LOW) / (HIGH - LOW) - 1, abs=1e-5)
    assert (np.abs(a[RANDOM_STEPS:]) == 1).any()  # clipped before it was executed and stored
    assert r[:, 0] == pytest.approx(rewards, rel=1e-6)
    assert np.array_equal(terminated[:, 0], ends)
    assert np.array_equal(next_s, next_observations.astype(np.float32))  # at a time limit, too: not the reset's
    assert (terminated.sum(), time_limits.sum()) == (10, 10)
    assert not terminated[time_limits].any()


def test_the_first_actions_are_uniformly_random_and_nothing_is_learnt_from_them_yet(train):
    run = train(total_timesteps=640, learning_starts=640, checkpoint_every=640)
    a = run.columns[1]
    for moment, expected in ((1, 0), (2, 1 / 3), (4, 1 / 5)):
        assert (a**moment).mean() == pytest.approx(expected, abs=0.06)
    assert np.abs(a).max() > 0.99
    torch.manual_seed(0)
    args = script.Args(hidden_sizes=(8, 8))
    untrained = script.DDPG(OBSERVATION_SIZE, ACTION_SIZE, args)
    learnt = torch.load(run.path / "last.pt", weights_only=True)["agent"]["networks"]
    identical(dict(learnt), values(untrained))


@pytest.mark.parametrize(("noise", "memory", "spread"), [("ou", 0.6, 0.3 * math.sqrt(0.5)), ("gaussian", 0.0, 0.3)])
def test_training_explores_by_the_chosen_noise(train, noise, memory, spread):
    args = {"ou_theta": 0.8, "ou_dt": 0.5, "noise_sigma": 0.3, "norm": "none", "learning_starts": 0}
    run = train(noise=noise, total_timesteps=960, checkpoint_every=960, **args)
    episodes = episodes_of(run.events)
    before, after = (np.concatenate([e[at] for e in episodes]) for at in (slice(None, -1), slice(1, None)))
    before, after = before - before.mean(axis=0), after - after.mean(axis=0)
    assert (before * after).sum() / (before**2).sum() == pytest.approx(memory, abs=0.08)
    assert (after - memory * before).std() == pytest.approx(spread, rel=0.08)


def test_the_noise_restarts_at_every_episode_and_only_there(train):
    sigma = 0.02
    run = train(ou_theta=0.0, ou_dt=1.0, noise_sigma=sigma, norm="none", learning_starts=0)  # a random walk
    episodes = episodes_of(run.events)
    policy = np.mean([actions[0] for actions in episodes], axis=0)
    for actions in episodes:
        assert np.abs(actions[0] - policy).max() < 5 * sigma  # from the walk's start, not from where the last one led
        assert np.abs(np.diff(actions, axis=0)).max() < 5 * sigma
    ends = np.array([actions[-1] - policy for actions in episodes])
    assert ends.std() > 2 * sigma  # 12 and 20 steps away: 4 σ


def test_the_noise_falls_linearly_to_zero_within_its_decay_steps(train):
    end = 400
    steps = {"total_timesteps": 640, "checkpoint_every": 640, "noise_decay_steps": end}
    run = train(noise_sigma=0.4, norm="none", **steps)
    log = pd.read_csv(run.path / "updates.csv", index_col="step")
    expected = {step: 0.4 * max(0, 1 - step / end) for step in range(100, 640, 100)}
    assert log["noise_sigma"].to_dict() == pytest.approx(expected)
    policy, _ = script.load_policy(run.path / "last.pt")
    s, a, *_ = run.columns
    distance = np.abs(a - np.array([policy(observation) for observation in s])).max(axis=1)
    assert distance[RANDOM_STEPS:300].mean() > 0.1
    assert distance[end - 1 :].max() < 1e-5  # the policy itself


@pytest.mark.parametrize(
    ("anneal", "left"), [(True, {"checkpoint": 1 / 3, "last": 0}), (False, {"checkpoint": 1, "last": 1})]
)
def test_both_learning_rates_fall_linearly_to_zero_at_the_last_step_or_stay(train, anneal, left):
    run = train(anneal=anneal, total_timesteps=480, actor_learning_rate=1e-3, critic_learning_rate=1e-2)
    for name, share in left.items():  # after 320 and 480 steps
        optimizers = torch.load(run.path / f"{name}.pt", weights_only=True)["agent"]["optimizers"]
        rates = [optimizer["param_groups"][0]["lr"] for optimizer in optimizers]
        assert rates == pytest.approx([1e-3 * share, 1e-2 * share])


def test_evaluations_are_noise_free_and_leave_no_trace_in_the_training(train):
    rates = {"actor_learning_rate": 1e-3, "seed": 3}
    without, with_evaluations = train("without", **rates), train("with", eval_every=50, **rates)
    assert np.array_equal(with_evaluations.rows, without.rows)
    one, other = (torch.load(run.path / "last.pt", weights_only=True)["agent"] for run in (without, with_evaluations))
    identical(dict(one["networks"]), dict(other["networks"]))

    training = {event.env for event in without.events}
    assert training
    resets = [event.seed for event in with_evaluations.events if event.what == "reset" and event.seed is not None]
    evaluations = pd.read_csv(with_evaluations.path / "evaluations.csv", index_col="step")
    assert list(evaluations.index) == [0, 50, 100, 150, 200, 250, 300, 320]
    first = script.EVALUATION_SEED + 3
    assert Counter(resets) == {3: 1, **dict.fromkeys(range(first, first + 3), 8)}

    policy, args = script.load_policy(with_evaluations.path / "last.pt")
    returns = script.evaluate(script.make_env(args.env_id), policy, 3, first)
    assert evaluations.loc[320, ["episode_0", "episode_1", "episode_2"]].tolist() == pytest.approx(returns)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_matmul_precision_is_torchs_and_moves_an_update_by_rounding_at_most(precision):
    batch = new_batch(64, dtype=np.float32)
    exact = new_agent("layer", hidden_sizes=(64, 48)).update(batch, read=True)
    try:
        agent = new_agent("layer", hidden_sizes=(64, 48), matmul_precision=precision)
        assert torch.get_float32_matmul_precision() == precision
        for name, value in agent.update(batch, read=True).items():
            assert value == pytest.approx(exact[name], rel=2**-6, abs=1e-3)  # of bfloat16, which has 8 bits
    finally:
        torch.set_float32_matmul_precision("highest")


# ---------------------------------------------------------------------------------------------------------- the file
def test_the_algorithm_cut_out_of_the_file_stands_alone():
    lines = Path(script.__file__).read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if re.fullmatch(r"# -+ the training", line))
    alone = {"__name__": "alone"}
    exec("\n".join(lines[:end]), alone)
    torch.manual_seed(0)
    agent = alone["DDPG"](OBSERVATION_SIZE, ACTION_SIZE, alone["Args"](norm="batch", hidden_sizes=(16, 12)))
    batch, same = new_batch(dtype=np.float32), new_agent()
    assert agent.update(batch, read=True) == same.update(batch, read=True)
    identical(values(agent), values(same))
