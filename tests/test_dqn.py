"""What dqn.py guarantees. What stands letter for letter in ddpg_continuous.py (test_repository.py) is tested there."""

import importlib
import json
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Hostile, algorithm_of, assert_same_logs, refused, run_until_killed, truncated

import ddpg_continuous
import dqn

torch.set_num_threads(1)

OBSERVATION_SIZE, ACTIONS = 3, 4
SMALL = ("--hidden-sizes", 16, 12, "--batch-size", 8, "--eval-episodes", 1)
SHORT = ("--env-id", "CartPole-v1", *SMALL, "--total-timesteps", 650, "--eval-every", 300, "--checkpoint-every", 200)
SHORT = (*SHORT, "--epsilon-decay-steps", 400, "--epsilon-end", 0.01, "--target-network", "hard", "--target-period", 50)

MODULES = {
    "counting_environments": '''
"""Environments of one's own: two with actions that do not start at 0, and some that DQN cannot take."""
import gymnasium as gym
import numpy as np


class Counting(gym.Env):
    """The reward is the action itself; ten steps."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    taken = []

    def __init__(self, action, render_mode=None):
        self.action_space, self.render_mode = action, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        Counting.taken.append(int(action))
        self.age += 1
        return self.observation_space.sample(), float(action), False, self.age == 10, {}


class Ending(gym.Env):
    """Every other episode ends in a terminal state after 5 steps, the rest at a time limit of 7. Rewards 1, 2, 3, …"""

    observation_space, action_space = gym.spaces.Box(-100, 100, (2,)), gym.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode, self.episode = render_mode, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age, self.episode = 0, self.episode + 1
        return np.float32([0, self.episode]), {}

    def step(self, action):
        self.age += 1
        terminated = self.episode % 2 == 0 and self.age == 5
        return np.float32([self.age, self.episode]), float(self.age), terminated, self.age == 7, {}


gym.register("Ending-v0", Ending)
gym.register("From5-v0", Counting, kwargs={"action": gym.spaces.Discrete(3, start=5)})
gym.register("Four-v0", Counting, kwargs={"action": gym.spaces.Discrete(4)})
gym.register("Multi-v0", Counting, kwargs={"action": gym.spaces.MultiDiscrete([2, 3])})
'''
}
pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def script():
    return dqn


def new_agent(**args):
    """As the script makes it, in float64, in which derivatives can be told from rounding."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        return dqn.DQN(OBSERVATION_SIZE, ACTIONS, dqn.Args(**{"hidden_sizes": (16, 12), **args}))
    finally:
        torch.set_default_dtype(torch.float32)


def new_batch(size=16, seed=0):
    rng = np.random.default_rng(seed)
    s, next_s = rng.normal(size=(2, size, OBSERVATION_SIZE))
    a, r = rng.integers(ACTIONS, size=(size, 1)).astype(np.float64), rng.normal(size=(size, 1))
    return [s, a, r, (rng.random((size, 1)) < 0.3).astype(np.float64), next_s]


def q_values(network, observations):
    """By hand: two hidden layers with ReLU, then a value per action."""
    x, layers = observations, (network.layer_1, network.layer_2, network.output)
    for i, layer in enumerate(layers):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        x = x if i == 2 else np.maximum(x, 0)
    return x


def weights(network):
    return [x.detach().clone() for x in network.parameters()]


def equal(one, other):
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def part_ways(agent):
    """Gives the target other weights than the Q-network's, as in the middle of a training."""
    with torch.no_grad():
        for x in agent.target_network.parameters():
            x += 0.1 * torch.randn_like(x)


# ------------------------------------------------------------------------------------------------------- exploration
def test_epsilon_falls_linearly_and_then_stays():
    args = dqn.Args(epsilon_start=0.9, epsilon_end=0.1, epsilon_decay_steps=200)
    assert [dqn.epsilon_at(step, args) for step in (0, 50, 100, 200, 201, 10**6)] == pytest.approx(
        [0.9, 0.7, 0.5, 0.1, 0.1, 0.1]
    )


def test_with_probability_epsilon_every_action_is_equally_likely_and_else_it_is_the_policys():
    rng, n = np.random.default_rng(0), 20_000
    taken = [dqn.epsilon_greedy(lambda s: 2, None, 0.4, 4, rng) for _ in range(n)]
    shares = np.bincount(taken, minlength=4) / n
    np.testing.assert_allclose(shares, [0.1, 0.1, 0.7, 0.1], atol=0.01)


def test_the_seed_fixes_the_epsilon_greedy_choices_and_their_extremes_are_pure():
    def choices(seed, epsilon=0.5):
        rng = np.random.default_rng(seed)
        return [dqn.epsilon_greedy(lambda s: 0, None, epsilon, 4, rng) for _ in range(200)]

    assert choices(1) == choices(1)
    assert choices(1) != choices(2)
    assert set(choices(1, 0.0)) == {0}
    assert {*choices(1, 1.0)} == {0, 1, 2, 3}


def test_acting_takes_the_action_of_the_highest_value():
    agent, observations = new_agent(), new_batch(50)[0]
    torch.nn.init.normal_(agent.q_network.output.weight)  # so that not one action is the best everywhere
    actions = [agent.act(s) for s in observations]
    assert actions == list(q_values(agent.q_network, observations).argmax(axis=1))
    assert all(type(action) is int for action in actions)
    assert len(set(actions)) > 1


# ------------------------------------------------------------------------------------------------------- the network
def test_the_network_has_two_hidden_layers_and_a_value_for_every_action():
    agent = new_agent(hidden_sizes=(16, 12))
    s = new_batch()[0]
    values = agent.q_network(torch.from_numpy(s))
    assert values.shape == (16, ACTIONS)
    np.testing.assert_allclose(values.detach().numpy(), q_values(agent.q_network, s), atol=1e-12)


def test_layers_start_uniformly_within_one_over_root_fan_in():
    agent = new_agent(hidden_sizes=(400, 300))
    for layer, fan_in in ((agent.q_network.layer_1, 3), (agent.q_network.layer_2, 400), (agent.q_network.output, 300)):
        for x in (layer.weight, layer.bias):
            assert x.abs().max() <= fan_in**-0.5
        assert layer.weight.std().item() == pytest.approx(fan_in**-0.5 / 3**0.5, rel=0.1)


# -------------------------------------------------------------------------------------------------------- the update
def target_by_hand(agent, batch, gamma=0.99):
    """y = r + γ max Q'(s', a'), a transition at a time."""
    next_values, y = q_values(agent.target_network, batch[4]), np.zeros(len(batch[0]))
    for i, (reward, terminated) in enumerate(zip(batch[2][:, 0], batch[3][:, 0], strict=True)):
        y[i] = reward if terminated else reward + gamma * max(next_values[i])
    return y


def test_the_target_is_the_reward_and_the_discounted_best_value_of_the_target_network():
    agent, batch = new_agent(), new_batch()
    part_ways(agent)
    y = target_by_hand(agent, batch)
    assert agent.update(batch, read=True)["target"] == pytest.approx(y.mean(), abs=1e-12)


def test_a_terminal_state_is_worth_its_reward_alone():
    for terminated in (0.0, 1.0):
        agent, batch = new_agent(), new_batch()
        batch[2][:], batch[3][:] = 1.0, terminated
        best = q_values(agent.target_network, batch[4]).max(axis=1).mean()
        y = agent.update(batch, read=True)["target"]
        assert y == pytest.approx(1.0 if terminated else 1.0 + 0.99 * best, abs=1e-12)


def test_the_loss_is_the_mean_of_n_squared_errors_of_the_actions_taken_not_of_n_by_n():
    agent, batch = new_agent(), new_batch()
    part_ways(agent)
    torch.nn.init.normal_(agent.q_network.output.weight)  # the values of the 16 differ
    q = q_values(agent.q_network, batch[0])[np.arange(16), batch[1][:, 0].astype(int)]
    batch[2][:, 0] = q  # and so do the targets, alike
    y = target_by_hand(agent, batch)
    n_by_n = np.mean((q[:, None] - y[None, :]) ** 2)
    loss = agent.update(batch, read=True)["loss"]
    assert loss == pytest.approx(np.mean((q - y) ** 2), abs=1e-12)
    assert abs(loss - n_by_n) > 0.05


def test_the_gradient_treats_the_target_as_a_constant():
    """By finite differences of the loss with y held still; through y, too, it would be another one."""
    agent, batch = new_agent(), new_batch()  # whose target still is a copy, so that y depends on the same numbers
    y, parameters = target_by_hand(agent, batch), list(agent.q_network.parameters())
    y = y[:, None]
    taken = batch[1].astype(int)

    def loss():
        return np.mean((np.take_along_axis(q_values(agent.q_network, batch[0]), taken, 1) - y) ** 2)

    slopes = []
    for x in parameters:
        flat = x.data.view(-1)
        for i in (0, len(flat) // 2, len(flat) - 1):
            value, losses = flat[i].item(), []
            for moved in (value + 1e-5, value - 1e-5):
                flat[i] = moved
                losses.append(loss())
            flat[i] = value
            slopes.append((losses[0] - losses[1]) / 2e-5)
    agent.optimizer.step = lambda: None  # so that the gradients can be read where the weights still are the same
    agent.update(batch)
    gradients = [x.grad.view(-1)[i].item() for x in parameters for i in (0, x.numel() // 2, x.numel() - 1)]
    np.testing.assert_allclose(gradients, slopes, atol=1e-8)
    assert np.abs(slopes).max() > 0.01


@pytest.mark.parametrize("target_network", ["none", "hard", "soft"])
def test_no_gradient_reaches_the_target_network(target_network):
    agent = new_agent(target_network=target_network)
    agent.update(new_batch())
    assert all(x.grad is None and not x.requires_grad for x in agent.target_network.parameters())
    stepped = {id(x) for group in agent.optimizer.param_groups for x in group["params"]}
    assert stepped == {id(x) for x in agent.q_network.parameters()}


def test_adam_steps_by_hand():
    agent, batch = new_agent(learning_rate=0.01), new_batch()
    before = weights(agent.q_network)
    agent.update(batch)
    for old, new in zip(before, agent.q_network.parameters(), strict=True):
        step = 0.01 * new.grad / (new.grad.abs() + 1e-8)  # Adam's first: m and v are g and g², bias corrected
        torch.testing.assert_close(old - new.detach(), step, rtol=1e-6, atol=1e-9)


# -------------------------------------------------------------------------------------------------------- the target
def test_the_target_starts_as_a_copy():
    agent = new_agent()
    assert equal(weights(agent.q_network), weights(agent.target_network))


def test_without_a_target_network_the_target_is_the_q_network_after_every_update():
    agent = new_agent(target_network="none")
    for seed in range(3):
        agent.update(new_batch(seed=seed))
        assert equal(weights(agent.q_network), weights(agent.target_network))


def test_a_hard_target_is_a_copy_every_so_many_updates_and_stays_in_between():
    agent = new_agent(target_network="hard", target_period=3)
    held = weights(agent.q_network)
    for update in range(1, 8):
        agent.update(new_batch(seed=update))
        held = weights(agent.q_network) if update in (3, 6) else held
        assert equal(held, weights(agent.target_network))
        assert equal(held, weights(agent.q_network)) == (update in (3, 6))


def test_a_soft_target_is_tau_online_plus_the_rest_of_itself_after_every_update():
    agent = new_agent(target_network="soft", tau=0.3)
    for seed in range(3):
        before = weights(agent.target_network)
        agent.update(new_batch(seed=seed))
        for old, online, new in zip(before, weights(agent.q_network), weights(agent.target_network), strict=True):
            torch.testing.assert_close(new, 0.3 * online + 0.7 * old)


# ------------------------------------------------------------------------------------------------------ what it learns
@pytest.mark.parametrize("target_network", ["none", "hard", "soft"])
def test_q_approaches_the_values_of_value_iteration(target_network):
    """A corridor of five cells: right is +1 at its end, left −0.2 at the other; both end it; γ 0.9. Exact values."""
    cells, gamma = 5, 0.9
    exact = np.zeros((cells, 2))
    for _ in range(100):
        best = [0.0, *exact.max(axis=1), 0.0]
        for cell in range(cells):
            exact[cell] = [gamma * best[cell] - 0.2 * (cell == 0), gamma * best[cell + 2] + (cell == cells - 1)]
    torch.manual_seed(0)
    args = dqn.Args(hidden_sizes=(32, 32), gamma=gamma, learning_rate=3e-3, target_network=target_network)
    args.target_period, args.tau = 20, 0.05
    agent, one_hot, rng = dqn.DQN(cells, 2, args), np.eye(cells, dtype=np.float32), np.random.default_rng(0)
    for _ in range(1_000):
        cell, a = rng.integers(cells, size=64), rng.integers(2, size=64)
        following = cell + 2 * a - 1
        terminated, r = (following < 0) | (following >= cells), 1.0 * (following >= cells) - 0.2 * (following < 0)
        next_s = one_hot[np.clip(following, 0, cells - 1)]
        column = (x[:, None].astype(np.float32) for x in (a, r, terminated))
        agent.update([one_hot[cell], *column, next_s])
    np.testing.assert_allclose(agent.q_network(torch.from_numpy(one_hot)).detach().numpy(), exact, atol=0.05)
    assert [agent.act(x) for x in one_hot] == [1] * cells


def test_the_pole_is_balanced_for_longer_after_a_few_thousand_steps(command, folder):
    flags = ("--env-id", "CartPole-v1", "--total-timesteps", 5_000, "--epsilon-decay-steps", 2_000)
    assert command(*flags, "--learning-rate", 1e-3, "--eval-every", 2_500, "--run-name", "run")[0] == 0
    evaluations = pd.read_csv(folder / "runs/run/evaluations.csv")["mean"]
    assert evaluations.iloc[0] < 60  # falls over at once
    assert evaluations.iloc[1:].max() > 100


# ------------------------------------------------------------------------------------------------- actions, learning
def test_actions_that_do_not_start_at_zero_reach_the_environment_as_it_numbers_them(command):
    flags = ("--env-id", "counting_environments:From5-v0", *SMALL, "--total-timesteps", 300, "--epsilon-end", 0.3)
    Counting = importlib.import_module("counting_environments").Counting
    Counting.taken.clear()
    flags = (*flags, "--epsilon-decay-steps", 100, "--gamma", 0, "--learning-rate", 0.01)
    assert command(*flags)[0] == 0
    assert set(Counting.taken) == {5, 6, 7}
    assert np.mean(np.array(Counting.taken[-150:]) == 7) > 0.6  # the best paid one


def test_a_time_limit_ends_the_episode_but_is_stored_as_no_terminal_state(command, folder):
    flags = ("--env-id", "counting_environments:Ending-v0", *SMALL, "--total-timesteps", 240, "--eval-every", 0)
    assert command(*flags, "--checkpoint-every", 240, "--run-name", "run")[0] == 0
    assert list(pd.read_csv(folder / "runs/run/episodes.csv")["length"]) == [7, 5] * 20
    rows = dqn.load(folder / "runs/run/checkpoint.pt")["rows"].numpy()  # s (2), a, r, terminated, s' (2)
    ages = np.concatenate([[*range(1, 8), *range(1, 6)]] * 20)
    np.testing.assert_array_equal(rows[:, 3], ages)
    np.testing.assert_array_equal(rows[:, 5], ages)  # at a time limit, too, the true next observation
    np.testing.assert_array_equal(rows[:, 0], ages - 1)
    np.testing.assert_array_equal(rows[:, 4], np.concatenate([[0] * 7, [0, 0, 0, 0, 1]] * 20))


def test_the_logged_epsilon_is_the_one_acted_with(command, folder, monkeypatch):
    acted, choose = [], dqn.epsilon_greedy
    monkeypatch.setattr(dqn, "epsilon_greedy", lambda *args: (acted.append(args[2]), choose(*args))[1])
    assert command(*SHORT, "--run-name", "run")[0] == 0
    updates = pd.read_csv(folder / "runs/run/updates.csv")
    assert list(updates["epsilon"]) == [acted[step - 1] for step in updates["step"]]
    assert acted == pytest.approx([max(0.01, 1 - 0.99 * step / 400) for step in range(1, 651)])


def test_weights_that_are_not_finite_are_never_saved(command, folder):
    """After the last reading of the loss, too: argmax of NaN is an action like any other."""
    flags = ("--env-id", "CartPole-v1", *SMALL, "--total-timesteps", 99, "--learning-rate", 1e9, "--eval-every", 0)
    refused(command(*flags, "--run-name", "run"), "not finite", "learning rates")
    assert not (folder / "runs/run/last.pt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(command, folder):
    refused(command("--env-id", "CartPole-v1", "--device", "cuda"), "--device cuda", "--device cpu")
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("every", [1, 3, 7])
def test_updates_begin_with_the_first_whole_minibatch_and_come_every_so_many_steps(every, command, monkeypatch):
    at, update, add = [], dqn.DQN.update, dqn.ReplayMemory.add
    steps = []
    monkeypatch.setattr(dqn.ReplayMemory, "add", lambda *args: (steps.append(len(steps) + 1), add(*args))[1])
    monkeypatch.setattr(dqn.DQN, "update", lambda *args, **more: (at.append(steps[-1]), update(*args, **more))[1])
    assert command("--env-id", "CartPole-v1", *SMALL, "--total-timesteps", 250, "--train-every", every)[0] == 0
    assert at == [step for step in range(8, 251) if step % every == 0]
    log = pd.read_csv(next(Path("runs").glob("*/updates.csv")))
    assert list(log["step"]) == [every * -(-x // every) for x in (100, 200)]  # every hundred, however rare they are


# ----------------------------------------------------------------------------------------------------------- the run
@pytest.fixture(scope="module")
def smoke(complete_run):
    """A run of a few hundred steps: its directory, what it printed."""
    return complete_run(dqn, SHORT)


def assert_same_run(run, reference):
    assert_same_logs(run, reference)
    for name in ("last.pt", "best.pt"):
        one, other = (dqn.load(path / name)["agent"]["networks"] for path in (run, reference))
        assert equal(one.values(), other.values())


def test_a_run_leaves_the_same_files_as_the_other_scripts(smoke):
    names = {file.name for file in smoke[0].iterdir() if not file.name.startswith(("events", "."))}
    logs = {"episodes.csv", "evaluations.csv", "updates.csv", "args.json", "summary.json"}
    assert names == logs | {"learning_curve.png", "learning_curve.pdf", "best.pt", "last.pt", "checkpoint.pt"}
    assert smoke[2] == ""


def test_updates_csv_has_loss_values_and_epsilon_every_hundred_steps(smoke):
    updates = pd.read_csv(smoke[0] / "updates.csv")
    assert list(updates) == ["step", "loss", "q", "target", "epsilon"]
    assert list(updates["step"]) == [100, 200, 300, 400, 500, 600]
    assert list(updates["epsilon"]) == pytest.approx([0.7525, 0.505, 0.2575, 0.01, 0.01, 0.01])


def test_epsilon_stands_on_the_learning_curve(smoke, folder, monkeypatch):
    figures = []
    monkeypatch.setattr(dqn.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    dqn.plot(folder, list(smoke[0].glob("*.csv")), 475.0)
    (axes,) = (axes for axes in figures[0].axes if axes.get_ylabel().startswith("ε"))
    (returns,) = (axes for axes in figures[0].axes if axes.get_ylabel() == "return")
    assert axes.get_position().bounds == returns.get_position().bounds
    updates = pd.read_csv(smoke[0] / "updates.csv")
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), updates[["step", "epsilon"]])


def test_a_seed_fixes_everything(smoke, command, folder):
    torch.rand(3)
    assert command(*SHORT, "--run-name", "again")[0] == 0
    assert_same_run(folder / "runs/again", smoke[0])
    assert command(*SHORT, "--seed", 1, "--run-name", "other")[0] == 0
    assert (folder / "runs/other/updates.csv").read_bytes() != (smoke[0] / "updates.csv").read_bytes()


def test_evaluation_disturbs_nothing(smoke, command, folder):
    assert command(*SHORT, "--eval-every", 0, "--run-name", "unseen")[0] == 0
    for log in ("episodes.csv", "updates.csv"):
        assert (folder / "runs/unseen" / log).read_bytes() == (smoke[0] / log).read_bytes()


@pytest.mark.parametrize("kill_at", [120, 430])
@pytest.mark.parametrize("target", ["none", "hard", "soft"])
def test_a_run_killed_before_its_first_checkpoint_or_after_it_equals_one_never_killed(
    kill_at, target, command, folder, monkeypatch
):
    flags = (*SHORT, "--target-network", target, "--target-period", 90)  # so that a copy falls between checkpoints
    assert command(*flags, "--run-name", "whole")[0] == 0
    run_until_killed(dqn, kill_at, command, monkeypatch, *flags, "--run-name", "killed")
    status, _, err = command("--resume", "runs/killed")
    assert (status, err) == (0, "")
    assert_same_run(folder / "runs/killed", folder / "runs/whole")
    one, other = (dqn.load(folder / "runs" / name / "last.pt")["agent"]["updates"] for name in ("whole", "killed"))
    assert one == other == 643


def test_a_lander_killed_by_sigkill_equals_one_never_killed(command, folder):
    flags = ("--env-id", "LunarLander-v2", *SMALL, "--total-timesteps", 1_500, "--checkpoint-every", 200)
    flags = (*flags, "--eval-every", 400)
    assert command(*flags, "--run-name", "whole")[0] == 0
    command_line = [sys.executable, dqn.__file__, *map(str, flags), "--run-name", "killed"]
    process = subprocess.Popen(command_line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (folder / "runs/killed/checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() < 0
    assert command("--resume", "runs/killed")[0] == 0
    assert_same_run(folder / "runs/killed", folder / "runs/whole")


def test_a_retired_id_runs_as_the_current_version_and_says_so(command):
    status, out, _ = command("--env-id", "LunarLander-v2", *SMALL, "--total-timesteps", 20, "--run-name", "run")
    assert status == 0
    assert "LunarLander-v2 is retired: running the current version, LunarLander-v3" in out


def test_a_policy_loads_in_ones_own_program_is_greedy_and_earns_what_the_csv_says(smoke):
    policy, args = dqn.load_policy(smoke[0] / "last.pt")
    returns = dqn.evaluate(dqn.make_env(args.env_id), policy, 1, args.seed + dqn.EVALUATION_SEED)
    assert pd.read_csv(smoke[0] / "evaluations.csv")["mean"].iloc[-1] == pytest.approx(returns[0], rel=1e-6)


def test_evaluate_prints_every_episode_and_their_mean_and_films_the_first(smoke, command, folder):
    run = shutil.copytree(smoke[0], folder / "runs" / "run")
    status, out, _ = command("--evaluate", run / "best.pt", "--eval-episodes", 2, "--capture-video")
    assert status == 0
    assert len([line for line in out.splitlines() if "return" in line]) == 2
    assert "mean" in out
    (video,) = (run / "videos").glob("*.mp4")
    assert video.stat().st_size > 1_000


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "MountainCar-v0", "LunarLander-v3"])
def test_other_discrete_environments_run(env_id, command, folder):
    assert command("--env-id", env_id, *SMALL, "--total-timesteps", 230, "--eval-every", 0, "--run-name", "run")[0] == 0
    assert (folder / "runs/run/last.pt").exists()


def test_the_algorithm_cut_out_of_the_file_stands_alone():
    alone = algorithm_of(dqn)
    agents = []
    for module in (alone, vars(dqn)):
        torch.manual_seed(0)
        agents.append(module["DQN"](OBSERVATION_SIZE, ACTIONS, module["Args"]()))
    batch = [x.astype(np.float32) for x in new_batch()]
    assert agents[0].update(batch, read=True) == agents[1].update(batch, read=True)


# --------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("env_id", ["LunarLanderContinuous-v3", "Pendulum-v1"])
def test_continuous_actions_are_refused_and_the_line_names_the_script_for_them(env_id, command, folder):
    refused(command("--env-id", env_id), env_id, "Box", "Discrete", "ddpg_continuous.py")
    assert not (folder / "runs").exists()


def test_several_discrete_actions_at_once_are_refused(command, folder):
    refused(command("--env-id", "counting_environments:Multi-v0"), "MultiDiscrete")
    assert not (folder / "runs").exists()


def test_ddpg_names_this_script_where_actions_are_discrete(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ddpg_continuous.py", "--env-id", "CartPole-v1"])
    with pytest.raises(SystemExit):
        ddpg_continuous.main()
    assert "dqn.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ("--gamma", 1.01),
        ("--tau", "nan"),
        ("--epsilon-start", 1.5),
        ("--epsilon-end", -0.1),
        ("--epsilon-decay-steps", 0),
        ("--target-period", 0),
        ("--train-every", 0),
        ("--train-every", 151, "--total-timesteps", 150),
        ("--batch-size", 151, "--total-timesteps", 150),
        ("--learning-rate", "nan"),
        ("--batch-size", 65, "--buffer-size", 64),
        ("--hidden-sizes", 0, 16),
        ("--total-timesteps", 0),
        ("--seed", -1),
    ],
)
def test_a_value_out_of_range_is_refused_and_the_line_names_the_flag(flags, command, folder):
    refused(command("--env-id", "CartPole-v1", *flags), flags[0])
    assert not (folder / "runs").exists()


def hostile(path):
    path.write_bytes(pickle.dumps(Hostile()))


def of_ddpg(path):
    torch.save({"script": "ddpg_continuous"}, path)


def of_another_network(path):
    content = torch.load(path, weights_only=True)
    networks = content["agent"]["networks"]
    content["agent"]["networks"] = {name: x[..., :3] for name, x in networks.items()}
    torch.save(content, path)


@pytest.mark.parametrize("damage", [truncated, hostile, of_ddpg, of_another_network])
def test_a_checkpoint_that_is_damaged_foreign_or_hostile_is_refused_and_no_code_in_it_runs(
    damage, smoke, command, folder
):
    run = shutil.copytree(smoke[0], folder / "runs" / "run")
    for name in ("checkpoint.pt", "best.pt"):
        damage(run / name)
    before = {file: file.read_bytes() for file in run.iterdir()}
    refused(command("--resume", run), "checkpoint.pt")
    refused(command("--evaluate", run / "best.pt"), "best.pt")
    assert {file: file.read_bytes() for file in run.iterdir()} == before
    assert not (folder / "hacked").exists()


@pytest.mark.parametrize("env_id", ["LunarLander-v3", "counting_environments:Four-v0", "Acrobot-v1"])
def test_evaluate_refuses_an_environment_of_another_shape(env_id, smoke, command):
    refused(command("--evaluate", smoke[0] / "best.pt", "--env-id", env_id), "best.pt", "cannot play", env_id)


def test_an_environment_with_the_same_observations_but_more_actions_is_refused_too(smoke, command, folder):
    (folder / "three_actions.py").write_text(
        "import gymnasium as gym\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Three(CartPoleEnv):\n"
        "    def __init__(self, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
        "        self.action_space = gym.spaces.Discrete(3)\n"
        "gym.register('Three-v0', Three)\n"
    )
    result = command("--evaluate", smoke[0] / "best.pt", "--env-id", "three_actions:Three-v0")
    refused(result, "best.pt", "cannot play", "(4, 2)")


def test_a_nan_in_the_loss_stops_the_run_and_names_the_step(command, folder):
    flags = ("--env-id", "CartPole-v1", *SMALL, "--total-timesteps", 2_000, "--learning-rate", 1e9, "--eval-every", 0)
    refused(command(*flags, "--run-name", "run"), "step", "not finite", "learning rates")


def test_args_json_names_the_script(smoke):
    content = json.loads((smoke[0] / "args.json").read_text())
    assert content["script"] == "dqn"
    assert gym.spec(content["args"]["env_id"]).id == "CartPole-v1"
