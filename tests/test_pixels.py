"""What the algorithm in ddpg_pixels.py guarantees. Its runs: test_pixels_run.py."""

import copy
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import adam, algorithm_of, resident_bytes

import ddpg_pixels as script

torch.set_num_threads(1)
every_norm = pytest.mark.parametrize("norm", ["batch", "layer", "none"])

SIZE, CHANNELS, ACTION_SIZE = 16, 9, 2
CLOCK = "pixel_environments:Clock-v0"


def new_agent(norm="batch", **args):
    """As the script makes it."""
    torch.manual_seed(0)
    args = {"hidden_sizes": (20, 12), "frame_size": SIZE, **args}
    return script.DDPG(CHANNELS, ACTION_SIZE, script.Args(norm=norm, **args))


@pytest.fixture
def exact_agent(monkeypatch):
    """In float64, and as if long trained: large parameters everywhere, others in the targets."""

    def as_exact_input(observations):
        return observations.permute(0, 3, 1, 2).double() / 255

    def make(norm="batch", **args):
        monkeypatch.setattr(script, "as_input", as_exact_input)
        agent = new_agent(norm, **args).double()
        for parameter in agent.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        return agent

    return make


def new_batch(size=8, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    s, next_s = rng.integers(256, size=(2, size, SIZE, SIZE, CHANNELS)).astype(np.uint8)
    a = rng.uniform(-1, 1, (size, ACTION_SIZE)).astype(dtype)
    r = rng.normal(size=(size, 1)).astype(dtype)
    terminated = (rng.random((size, 1)) < 0.3).astype(dtype)
    return [s, a, r, terminated, next_s]


def as_pictures(observations):
    return torch.from_numpy(observations).permute(0, 3, 1, 2).double() / 255


def values(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def gradient(network):
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def identical(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


# ----------------------------------------------------------------------------------- replay buffer
class Numbered:
    """Adds transitions whose parts can be told from each other; notes them."""

    def __init__(self, capacity):
        self.replay = script.ReplayBuffer(capacity, (4, 4, 3), 1, np.random.default_rng(0))
        self.added = []
        self.number = 0

    def observation(self):
        self.number += 1
        return np.full((4, 4, 3), self.number, np.uint8)

    def episode(self, length, terminated):
        s = self.observation()
        for step in range(length):
            next_s = self.observation()
            number = len(self.added)
            is_last = terminated and step == length - 1
            self.replay.add(s, np.float32([number]), float(-number), is_last, next_s)
            self.added.append((s[0, 0, 0], number, -number, is_last, next_s[0, 0, 0]))
            s = next_s

    def sampled(self, count):
        s, a, r, terminated, next_s = self.replay.sample(count)
        assert s.shape == next_s.shape == (count, 4, 4, 3)
        assert s.dtype == next_s.dtype == np.uint8
        assert a.shape == r.shape == terminated.shape == (count, 1)
        assert (s == s[:, :1, :1, :1]).all(), "a picture in one piece"
        columns = [s[:, 0, 0, 0], a[:, 0], r[:, 0], terminated[:, 0], next_s[:, 0, 0, 0]]
        return set(zip(*columns, strict=True))


def test_what_is_sampled_are_the_transitions_that_were_added_and_all_of_them():
    numbered = Numbered(capacity=60)
    for length, terminated in ((5, True), (1, False), (1, True), (9, False), (12, True)):
        numbered.episode(length, terminated)
    assert numbered.sampled(3_000) == set(numbered.added)


def test_an_observation_stands_once_and_one_more_for_each_episode():
    numbered = Numbered(capacity=60)
    for length in (5, 1, 9):
        numbered.episode(length, True)
    assert numbered.replay.num_added == 5 + 1 + 9 + 3
    assert len(numbered.replay) == 18


def test_an_episode_that_begins_with_the_picture_that_the_last_one_ended_with():
    numbered = Numbered(capacity=60)
    numbered.episode(3, True)
    numbered.number -= 1
    numbered.episode(2, False)
    assert numbered.sampled(1_000) == set(numbered.added)
    assert numbered.replay.num_added == 3 + 2 + 1


@pytest.mark.parametrize("lengths", [[30], [7, 5, 8, 11], [1] * 20, [2, 25, 1, 1]])
def test_a_full_buffer_holds_the_newest_observations_and_mixes_no_two_episodes(lengths):
    numbered = Numbered(capacity=10)
    for length in lengths:
        numbered.episode(length, False)
        oldest = numbered.number - 10  # the number of the newest observation that is gone
        kept = {x for x in numbered.added if x[0] > oldest}
        assert numbered.sampled(2_000) == kept


def test_every_transition_is_sampled_as_often():
    numbered = Numbered(capacity=40)
    for length in (1, 1, 1, 17):
        numbered.episode(length, False)
    _, a, *_ = numbered.replay.sample(20_000)
    counts = np.bincount(a[:, 0].astype(int), minlength=20)
    assert abs(counts - 1_000).max() < 5 * math.sqrt(1_000)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_touched_only_as_the_buffer_fills():
    before = resident_bytes()
    replay = script.ReplayBuffer(100_000, (64, 64, 9), 1, np.random.default_rng(0))
    assert replay.observations.nbytes > 3.6e9
    assert resident_bytes() - before < 50e6
    assert len(replay) == 0


# ---------------------------------------------------------------------------------------- networks
def test_the_sizes_of_the_networks_are_those_that_the_docstring_names():
    agent = script.DDPG(9, 1, script.Args())
    weights = sum(p.numel() for p in agent.actor.parameters())
    assert 375.5e3 < weights < 376.5e3
    assert agent.actor.layer_1.in_features == 1568
    assert agent.critic.layer_2.in_features == 201, "the action enters at the second dense layer"


@every_norm
def test_layers_start_uniformly_within_one_over_root_fan_in_and_the_last_within_3e_4(norm):
    agent = new_agent(norm, hidden_sizes=(200, 100))
    features = 32  # of pictures of 16 by 16
    fans = {"convolutions.0": 9 * 9, "convolutions.3": 9 * 32, "convolutions.6": 9 * 32}
    fans |= {"layer_1": features}
    for network, fan_in_2 in ((agent.actor, 200), (agent.critic, 200 + ACTION_SIZE)):
        for name, fan_in in {**fans, "layer_2": fan_in_2}.items():
            weight = network.get_submodule(name).weight
            assert weight[0].numel() == fan_in
            assert 0.98 * fan_in**-0.5 < weight.abs().max() <= fan_in**-0.5
        assert 0.9 * 3e-4 < network.output.weight.abs().max() <= 3e-4
        assert network.output.bias.abs().max() <= 3e-4


def test_running_averages_move_by_0_05_of_the_way_at_each_update():
    agent = new_agent()
    s = script.as_input(torch.from_numpy(new_batch(dtype=np.float32)[0]))
    x = agent.actor.convolutions[0](s).detach()
    agent.update(new_batch(dtype=np.float32))
    averages = agent.actor.convolutions[1]
    torch.testing.assert_close(averages.running_mean, 0.05 * x.mean(dim=(0, 2, 3)))
    variance = 0.95 + 0.05 * x.var(dim=(0, 2, 3))
    torch.testing.assert_close(averages.running_var, variance)


def test_running_averages_of_dense_layers_move_as_far():
    agent = new_agent(actor_learning_rate=0.0)
    s = script.as_input(torch.from_numpy(new_batch(dtype=np.float32)[0]))
    agent.update(new_batch(dtype=np.float32))
    moved = agent.actor.norm_1.running_mean.clone()
    x = agent.actor.layer_1(agent.actor.convolutions(s)).detach()
    torch.testing.assert_close(moved, 0.05 * x.mean(dim=0))


def test_layer_norm_is_over_the_whole_of_one_observation():
    agent = new_agent("layer")
    s = script.as_input(torch.from_numpy(new_batch(dtype=np.float32)[0]))
    x = agent.actor.convolutions[1](agent.actor.convolutions[0](s)).detach().flatten(1)  # (N, …)
    torch.testing.assert_close(x.mean(dim=1), torch.zeros(len(x)), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.var(dim=1, correction=0), torch.ones(len(x)), rtol=0, atol=1e-2)


def test_batch_norm_stands_behind_every_layer_before_the_action_and_nowhere_else():
    agent = new_agent()
    kinds = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    for network, dense in ((agent.actor, ["norm_1", "norm_2"]), (agent.critic, ["norm_1"])):
        norms = {name for name, module in network.named_modules() if isinstance(module, kinds)}
        assert norms == {*dense, *(f"convolutions.{i}" for i in (1, 4, 7))}
    averages = {name for name in agent.state_dict() if "running" in name}
    assert len(averages) == 10
    assert all(name.startswith("actor.") for name in averages), "only to act"


def normalised(x, norm):
    """By the minibatch's own mean and variance, of each channel or unit; then scaled, shifted."""
    dims = (0, 2, 3) if x.dim() == 4 else (0,)
    shape = (1, -1, 1, 1) if x.dim() == 4 else (1, -1)
    mean = x.mean(dim=dims, keepdim=True)
    variance = x.var(dim=dims, keepdim=True, correction=0)
    x = (x - mean) / (variance + 1e-5).sqrt()
    return norm.weight.view(shape) * x + norm.bias.view(shape)


def features(network, s):
    """What the convolutions and the first dense layer make of observations."""
    for i in (0, 3, 6):
        convolved = F.conv2d(s, network.convolutions[i].weight, stride=2)
        s = F.relu(normalised(convolved, network.convolutions[i + 1]))
    x = s.flatten(1) @ network.layer_1.weight.T
    return F.relu(normalised(x, network.norm_1))


def test_the_networks_worked_out_by_hand(exact_agent):
    """Batch norm stands in front of each ReLU up to the action, which enters at layer 2."""
    agent = exact_agent()
    s, a, *_ = new_batch()
    s, a = as_pictures(s), torch.from_numpy(a)
    actor, critic = agent.actor, agent.critic
    x = F.relu(normalised(features(actor, s) @ actor.layer_2.weight.T, actor.norm_2))
    close(actor(s), torch.tanh(x @ actor.output.weight.T + actor.output.bias))
    x = torch.cat([features(critic, s), a], dim=1)
    x = F.relu(x @ critic.layer_2.weight.T + critic.layer_2.bias)
    close(critic(s, a), x @ critic.output.weight.T + critic.output.bias)


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_without_batch_norm_observations_do_not_influence_each_other(norm):
    agent = new_agent(norm)
    s, a, *_ = new_batch(dtype=np.float32)
    pictures = script.as_input(torch.from_numpy(s))
    q = agent.critic(pictures, torch.from_numpy(a))
    alone = agent.critic(pictures[:3], torch.from_numpy(a[:3]))
    torch.testing.assert_close(q[:3], alone)
    among_others = agent.critic(pictures, torch.from_numpy(a[:3]))  # further rows have no value
    torch.testing.assert_close(among_others, alone)


def test_pictures_become_floats_from_0_to_1_whose_channels_stay_last_in_memory():
    observations = torch.arange(2 * 3 * 5 * 9, dtype=torch.uint8).reshape(2, 3, 5, 9)
    pictures = script.as_input(observations)
    assert pictures.shape == (2, 9, 3, 5)
    assert pictures.dtype == torch.float32
    assert pictures[1, 7, 2, 4] == observations[1, 2, 4, 7] / 255
    assert script.as_input(torch.full((1, 1, 1, 9), 255, dtype=torch.uint8)).max() == 1
    assert pictures.is_contiguous(memory_format=torch.channels_last)


# -------------------------------------------------------------------------------------- the update
def both(s, next_s, agent):
    """What batch norm takes as one minibatch; without it, s alone."""
    return torch.cat([s, next_s]) if agent.has_batch_norm else s


@every_norm
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_loss_and_the_gradients_worked_out_by_hand(norm, scale, exact_agent):
    agent = exact_agent(norm, gamma=0.9, critic_learning_rate=0.0, reward_scale=scale)
    batch = new_batch()
    s, a, r, terminated, next_s = batch
    before = copy.deepcopy(agent)
    s, next_s = as_pictures(s), as_pictures(next_s)
    a, r, terminated = map(torch.from_numpy, (a, r, terminated))
    next_a = before.target_actor(both(next_s, s, agent))[: len(s)]
    next_q = before.target_critic(both(next_s, s, agent), next_a)
    y = torch.where(terminated == 1, scale * r, scale * r + 0.9 * next_q).detach()
    critic_loss = ((y - before.critic(both(s, next_s, agent), a)) ** 2).mean()
    critic_loss.backward()
    expected = gradient(before.critic)
    actor_loss = -before.critic(s, before.actor(s)).mean()
    actor_loss.backward()
    metrics = agent.update(batch)
    close(metrics["critic_loss"], critic_loss.detach())
    close(metrics["actor_loss"], actor_loss.detach())
    close(gradient(agent.critic), expected)
    close(gradient(agent.actor), gradient(before.actor))


@every_norm
def test_the_actor_gradient_is_the_slope_of_the_mean_q_by_finite_differences(norm, exact_agent):
    agent = exact_agent(norm, actor_learning_rate=0.0)
    batch, step = new_batch(), 1e-6
    s = as_pictures(batch[0])
    agent.update(batch)
    for name, parameter in agent.actor.named_parameters():
        i = parameter.grad.abs().flatten().argmax().item()
        flat = parameter.data.view(-1)
        found = []
        for sign in (1, -1):
            flat[i] += sign * step
            with torch.no_grad():
                found.append(agent.critic(s, agent.actor(s)).mean().item())
            flat[i] -= sign * step
        slope = (found[0] - found[1]) / (2 * step)
        assert -parameter.grad.flatten()[i].item() == pytest.approx(slope, rel=1e-4), name


@every_norm
def test_the_targets_start_equal_to_the_online_networks(norm):
    agent = new_agent(norm)
    for network in ("actor", "critic"):
        for name, parameter in getattr(agent, network).named_parameters():
            identical(agent.get_parameter(f"target_{network}.{name}").data, parameter.data)


@pytest.mark.parametrize(
    ("network", "rate", "decay"), [("actor", 0.02, 0.0), ("critic", 0.05, 0.3)]
)
def test_adam_steps_by_hand_with_l2_in_the_gradient_of_the_critic_alone(
    network, rate, decay, exact_agent
):
    agent = exact_agent(actor_learning_rate=0.02, critic_learning_rate=0.05, weight_decay=0.3)
    parameters = list(getattr(agent, network).parameters())
    expected, memory = [x.detach().numpy().copy() for x in parameters], {}
    for seed in range(3):
        agent.update(new_batch(seed=seed), learning_rate_scale=0.5)
        step = [x.grad.numpy() + decay * w for x, w in zip(parameters, expected, strict=True)]
        expected = adam(expected, step, memory, 0.5 * rate)
        for x, w in zip(parameters, expected, strict=True):
            np.testing.assert_allclose(x.detach().numpy(), w, rtol=1e-8, atol=1e-11)


def test_targets_follow_slowly():
    agent = new_agent(tau=0.25)
    before = values(agent)
    agent.update(new_batch(dtype=np.float32))
    for network in ("actor", "critic"):
        for name, new in getattr(agent, network).named_parameters():
            target = agent.get_parameter(f"target_{network}.{name}")
            old = before[f"target_{network}.{name}"]
            torch.testing.assert_close(target.data, old + 0.25 * (new.data - old))


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
    identical(values(one), values(other))


@every_norm
def test_the_critic_looks_where_a_pixel_changes_the_value_of_its_own_observation(norm, exact_agent):
    agent = exact_agent(norm)
    s, a, *_ = new_batch(4)
    influence = script.influence_of_pixels(agent, s, a, [2, 3])
    assert influence.shape == (2, SIZE, SIZE)
    pictures, step = as_pictures(s), 1e-6
    actions = torch.from_numpy(a)
    by_hand = 0.0
    for channel in range(CHANNELS):
        moved = pictures.clone()
        moved[2, channel, 7, 5] += step
        with torch.no_grad():
            slope = (agent.critic(moved, actions) - agent.critic(pictures, actions))[2] / step
        by_hand += abs(slope.item())
    assert influence[0, 7, 5] == pytest.approx(by_hand, rel=1e-3)


def test_the_algorithm_cut_out_of_the_file_stands_alone():
    alone = algorithm_of(script)
    torch.manual_seed(0)
    args = alone["Args"](norm="batch", hidden_sizes=(20, 12), frame_size=SIZE)
    agent, same = alone["DDPG"](CHANNELS, ACTION_SIZE, args), new_agent()
    batch = new_batch(dtype=np.float32)
    identical(agent.update(batch), same.update(batch))
    identical(values(agent), values(same))


# --------------------------------------------------------------------------------- the environment
def brightness(observation):
    """Of each picture in an observation of the clock: how old it is."""
    assert (observation == observation[:1, :1]).all()
    return list(observation[0, 0, ::3] // 10)


def make(env_id, **args):
    return script.make_env(env_id, script.Args(**args))


def test_an_action_is_repeated_and_the_pictures_after_each_repeat_are_one_observation():
    env = make(CLOCK)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (64, 64, 9)
    assert observation.dtype == np.uint8
    assert env.observation_space.contains(observation)
    assert brightness(observation) == [0, 0, 0]
    env.unwrapped.taken.clear()
    observation, reward, *_ = env.step(np.float32([0.5]))
    assert brightness(observation) == [1, 2, 3], "the oldest first"
    assert reward == 1 + 2 + 3
    observation, reward, *_ = env.step(np.float32([-0.5]))
    assert brightness(observation) == [4, 5, 6]
    assert reward == 4 + 5 + 6
    assert env.unwrapped.taken == [0.5] * 3 + [-0.5] * 3


def test_repeating_stops_where_an_episode_ends_and_its_last_three_pictures_are_given():
    env = make(CLOCK)
    for num_steps, is_terminated in ((7, True), (5, False)):
        observation, _ = env.reset(seed=0)
        assert brightness(observation) == [0, 0, 0], "nothing of the episode before"
        env.unwrapped.taken.clear()
        terminated = truncated = False
        while not (terminated or truncated):
            observation, reward, terminated, truncated, _ = env.step(np.float32([0]))
        assert len(env.unwrapped.taken) == num_steps
        assert (terminated, truncated) == (is_terminated, not is_terminated)
        if is_terminated:
            assert brightness(observation) == [5, 6, 7]
            assert reward == 7
        else:
            assert brightness(observation) == [3, 4, 5]
            assert reward == 4 + 5


def play(env, num_decisions, action=0.0):
    """The observations of decisions all alike, from a reset on."""
    observations = [env.reset(seed=0)[0]]
    for _ in range(num_decisions):
        observation, _, terminated, truncated, _ = env.step(np.full(env.action_space.shape, action))
        assert not (terminated or truncated)
        observations.append(observation)
    return np.array(observations)


def see_beside_others(env_id):
    """AssertionError if other environments change what there is to see in this one."""
    script.prepare_rendering()
    with make(env_id) as env:
        expected = play(env, 4)
    assert all(observation.any() for observation in expected)
    with make(env_id) as env:
        env.reset(seed=0)
        with make(env_id) as other:
            play(other, 4)
        np.testing.assert_array_equal(play(env, 4), expected)
        env.renew()
        play(env, 4)
        with make(env_id) as other:
            play(other, 4)
        np.testing.assert_array_equal(play(env, 4), expected)


def see_from_one_place(env_id):
    """AssertionError if the camera's place depends on the first episode that was drawn."""
    script.prepare_rendering()
    pictures = []
    for first_seed in (0, 3):
        with make(env_id, crop=1.0) as env:
            env.reset(seed=first_seed)
            pictures.append(env.reset(seed=5)[0])
    np.testing.assert_array_equal(*pictures)


def test_a_state_looks_the_same_whatever_other_environments_do_and_whatever_was_seen_first():
    """MuJoCo draws in the process's current context, which the other one's end would take away.

    And gymnasium points its camera at the middle of what it draws first. In a process of its own:
    where TensorFlow has been used, drawing by software crashes.
    """
    program = """if True:
        from test_pixels import see_beside_others, see_from_one_place

        see_beside_others("InvertedPendulum-v5")
        see_beside_others("LunarLanderContinuous-v3")
        see_from_one_place("InvertedPendulum-v5")
        see_from_one_place("Reacher-v5")
    """
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if sys.platform == "linux":
        variables.setdefault("MUJOCO_GL", "egl")
    can_render = "import mujoco; mujoco.GLContext(8, 8).make_current()"
    probe = subprocess.run([sys.executable, "-c", can_render], env=variables, capture_output=True)
    if probe.returncode != 0:
        pytest.skip("MuJoCo cannot render here")
    subprocess.run([sys.executable, "-c", program], env=variables, check=True, timeout=300)


def test_another_environment_that_draws_with_mujoco_is_left_as_it_is():
    """Those of gymnasium-robotics have the renderer, but no set_state()."""
    raw = gym.make("pixel_environments:Clock-v0", render_mode="rgb_array")
    raw.unwrapped.mujoco_renderer = SimpleNamespace(default_cam_config=None, viewer=None)
    env = script.Camera(raw)
    env.reset(seed=0)
    assert env.render().dtype == np.uint8
    assert env.unwrapped.mujoco_renderer.default_cam_config is None


def test_a_camera_that_the_environment_points_itself_stays_as_it_is():
    with make("Hopper-v5") as env:
        camera = env.unwrapped.mujoco_renderer.default_cam_config
        np.testing.assert_array_equal(camera["lookat"], [0, 0, 1.15])
        assert camera["distance"] == 3


def test_a_video_and_whoever_else_renders_change_nothing_of_what_is_seen(tmp_path):
    """LunarLander's sparks age by being rendered."""
    env_id = "LunarLanderContinuous-v3"
    args = script.Args(crop=1.0)
    with script.make_env(env_id, args) as env:
        expected = play(env, 6, action=1.0)
    with script.make_env(env_id, args, video=tmp_path / "video") as env:
        np.testing.assert_array_equal(play(env, 6, action=1.0), expected)
    with script.make_env(env_id, args) as env:
        step = env.unwrapped.step

        def rendered_step(action):
            result = step(action)
            env.render()
            return result

        env.unwrapped.step = rendered_step
        np.testing.assert_array_equal(play(env, 6, action=1.0), expected)


def test_action_repeat_and_frame_size_decide_the_shape():
    env = make(CLOCK, action_repeat=2, frame_size=20)
    env.reset(seed=0)
    observation, *_ = env.step(np.float32([0]))
    assert observation.shape == (20, 20, 6)
    assert brightness(observation) == [1, 2]
    assert script.sizes_of(env) == [6, 1]


def test_an_image_is_taken_as_it_is_and_nothing_is_rendered():
    env = make("pixel_environments:ColumnImage-v0", frame_size=15, crop=1.0)
    observation, _ = env.reset(seed=0)
    expected = np.zeros((15, 15, 9), np.uint8)
    expected[:, env.unwrapped.column] = 255
    np.testing.assert_array_equal(observation, expected)


@pytest.mark.filterwarnings("ignore:.*obs returned")  # gymnasium sees it, too
@pytest.mark.parametrize(("value", "text"), [(0.9, "0.9 to 0.9"), (300, "300 to 300")])
def test_an_image_of_other_values_than_it_declares_is_refused(value, text, monkeypatch):
    env = make("pixel_environments:ColumnImage-v0")
    monkeypatch.setattr(env.unwrapped, "observation", lambda: np.full((15, 15, 3), value))
    with pytest.raises(script.RunError, match=f"values from {text}"):
        env.reset(seed=0)


def test_pictures_are_made_smaller_by_the_mean_over_areas():
    env = make("pixel_environments:Middle-v0", frame_size=20, crop=1.0)  # rows two by two
    observation, _ = env.reset(seed=0)
    expected = np.zeros((20, 20), np.uint8)
    expected[7, 5:15] = expected[12, 5:15] = 128  # half in, half out
    expected[8:12, 5:15] = 255
    np.testing.assert_allclose(observation[:, :, 0].astype(int), expected, atol=1)


def test_crop_keeps_the_middle():
    env = make("pixel_environments:Middle-v0", crop=0.25, frame_size=16)
    observation, _ = env.reset(seed=0)
    assert (observation == 255).all()
    env = make("pixel_environments:Middle-v0", crop=0.5, frame_size=20)  # 20 by 10 around it
    observation, _ = env.reset(seed=0)
    assert (observation[10, :, 0] == 255).all()
    assert observation[0, 0, 0] == observation[-1, -1, 0] == 0


def test_a_renewed_environment_goes_on_giving_pictures():
    with make("Pendulum-v1") as env:
        first, _ = env.reset(seed=3)
        raw = env.unwrapped
        env.renew()
        assert env.unwrapped is not raw
        again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    assert first.min() < 200, "there is a pendulum"
