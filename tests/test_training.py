"""The training loop of ddpg_continuous.py and the environment around it, on a Toy that notes all.

What an agent learns from a minibatch: test_algorithm.py.
"""

import math
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import load
from toy_environments import EVENTS, HIGH, LOW, OBSERVATION_SIZE

import ddpg_continuous as script

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*WARN", "ignore:overflow")
ACTION_SIZE = len(LOW)
RANDOM_STEPS = 64


def steps(events=EVENTS):
    return [event for event in events if event.what == "step"]


def identical(one, other):
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)


def to_unit_box(actions):
    """Actions of a Toy, in [-1, 1]."""
    return 2 * (actions - LOW) / (HIGH - LOW) - 1


# -------------------------------------------------------------------------------------- the actions
def test_actions_are_scaled_to_an_asymmetric_box_exactly_at_both_ends(toy):
    env = script.make_env(toy())
    env.reset(seed=0)
    for action in (-1, 1, 0):
        env.step(np.full(ACTION_SIZE, action, np.float32))
    env.step(np.array([1, -0.5], np.float32))  # each dimension by its own bounds
    low, high, middle, mixed = [event.action for event in steps()]
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
    nearly_1 = np.nextafter(np.float32(1), 0)
    at_the_ends = rng.choice(np.array([-1, 1, nearly_1], np.float32), (500, 6))
    anywhere = rng.uniform(-1, 1, (500, 6)).astype(np.float32)
    for action in np.concatenate([at_the_ends, anywhere]):
        env.step(action)
    assert len(steps()) == 1000
    assert all(box.contains(event.action) for event in steps())


# ------------------------------------------------------------------------- observations and rewards
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_observations_become_float32_copies_and_rewards_plain_numbers(toy, dtype):
    observations = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), dtype)
    env = script.make_env(toy(observations=observations))
    first, _ = env.reset(seed=0)
    second, reward, *_ = env.step(np.zeros(ACTION_SIZE, np.float32))  # the Toy reuses its array
    for observation, event in zip((first, second), EVENTS, strict=True):
        assert observation.dtype == np.float32
        assert np.array_equal(observation, event.observation.astype(np.float32))
    assert type(reward) is float
    assert reward == pytest.approx(EVENTS[-1].reward, rel=1e-6)


@pytest.mark.parametrize("by", [np.nan, np.inf, -np.inf, 1e39])  # the last: in float32
@pytest.mark.parametrize(
    ("spoilt", "name"),
    [("reset", "observation"), ("step", "observation"), ("reward", "reward"), ("action", "actor")],
)
def test_what_is_not_finite_ends_the_run_with_its_name(toy, spoilt, name, by):
    env = script.make_env(toy(spoilt=spoilt, by=by))
    action = np.zeros(ACTION_SIZE, np.float32)
    if spoilt == "action":
        action[1] = by
    with pytest.raises(script.RunError, match=rf"{name}.* is not finite"):
        env.reset(seed=0)  # may raise it, too
        env.step(action)
    reached = spoilt in ("step", "reward")
    assert bool(steps()) == reached, "a NaN action never reaches the environment"


# --------------------------------------------------------------------------- which environments fit
BOX = gym.spaces.Box(-1, 1, (2,))
HALF_BOUNDED = gym.spaces.Box(np.array([-1, -np.inf], np.float32), np.ones(2, np.float32))


@pytest.mark.parametrize(
    "actions",
    [
        gym.spaces.Discrete(4),
        gym.spaces.MultiDiscrete([3, 3]),
        gym.spaces.Box(-1, 1, (2, 2)),
        gym.spaces.Box(-np.inf, np.inf, (2,)),
        HALF_BOUNDED,
    ],
    ids=str,
)
def test_unsuitable_actions_are_refused_by_a_message_that_names_the_environment(toy, actions):
    env_id = toy(actions=actions, observations=BOX)
    with pytest.raises(script.RunError, match=r"^Toy-v0 has the actions .*continuous"):
        script.make_env(env_id)


@pytest.mark.parametrize(
    "observations",
    [
        gym.spaces.Discrete(4),
        gym.spaces.Box(0, 255, (96, 96, 3), np.uint8),
        gym.spaces.Dict(position=BOX, goal=BOX),
    ],
    ids=str,
)
def test_unsuitable_observations_are_refused_by_a_message_that_names_the_environment(
    toy, observations
):
    env_id = toy(actions=BOX, observations=observations)
    with pytest.raises(script.RunError, match=r"^Toy-v0 observes .*vector"):
        script.make_env(env_id)


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


# --------------------------------------------------------------------------------------- evaluation
def test_evaluation_plays_the_policy_itself_from_its_own_start_states_and_repeatably(toy):
    def policy(observation):
        return np.tanh(observation[:ACTION_SIZE])

    env_id = toy()
    returns = script.episodic_returns(script.make_env(env_id), policy, episodes=4, seed=7)
    events = EVENTS.copy()
    assert [event.seed for event in events if event.what == "reset"] == [7, 8, 9, 10]
    for last, event in pairwise(events):
        if event.what == "step":
            action = LOW + (policy(last.observation) + 1) / 2 * (HIGH - LOW)
            assert event.action == pytest.approx(action, abs=1e-5)
    assert len(steps()) == 20 + 12 + 20 + 12
    assert sum(returns) == pytest.approx(sum(event.reward for event in steps()), rel=1e-6)
    again = script.episodic_returns(script.make_env(env_id), policy, episodes=4, seed=7)
    assert again == returns


# ----------------------------------------------------------------------------------------- the loop
@pytest.fixture
def train(toy, tmp_path, monkeypatch):
    """Trains on a Toy; gives its events, the checkpoint's transitions and the run's folder.

    The policy hardly learns, so that its actions stay near zero.
    """
    monkeypatch.setattr(script, "plot", lambda *_: None)

    def run(name="run", **args):
        EVENTS.clear()
        defaults = {
            "env_id": toy(),
            "runs_dir": str(tmp_path),
            "run_name": name,
            "total_timesteps": 320,
            "learning_starts": RANDOM_STEPS,
            "eval_every": 0,
            "eval_episodes": 3,
            "hidden_sizes": (8, 8),
            "batch_size": 8,
            "buffer_size": 1000,
            "checkpoint_every": 320,
            "actor_learning_rate": 1e-9,
        }
        script.train(script.Args(**{**defaults, **args}))
        path = tmp_path / name
        rows = load(path / "checkpoint.pt")["replay"]["rows"].numpy()
        boundaries = np.cumsum([OBSERVATION_SIZE, ACTION_SIZE, 1, 1])
        columns = np.split(rows, boundaries, axis=1)
        return SimpleNamespace(events=EVENTS.copy(), path=path, rows=rows, columns=columns)

    return run


def test_every_minibatch_has_the_size_that_was_asked_for(train, monkeypatch):
    sizes = []
    update = script.DDPG.update

    def noting_the_size(agent, batch, *rest):
        sizes.append({len(column) for column in batch})
        return update(agent, batch, *rest)

    monkeypatch.setattr(script.DDPG, "update", noting_the_size)
    train(batch_size=6)
    assert sizes == [{6}] * (320 - RANDOM_STEPS)


def episodes_of(events):
    """The actions in [-1, 1] of each episode, (T, A), from those that the environment received."""
    found = []
    for event in events:
        if event.what == "reset":
            found.append([])
        elif event.what == "step":
            found[-1].append(to_unit_box(event.action))
    return [np.array(actions) for actions in found if actions]


def test_the_replay_holds_what_happened_and_only_a_terminal_state_is_marked_as_one(train):
    run = train(noise_sigma=0.8)
    s, a, r, terminated, next_s = run.columns
    observations = []
    observation = None
    for event in run.events:
        if event.what == "step":
            observations.append(observation)
        observation = getattr(event, "observation", None)  # after a reset, the one that it gave
    happened = steps(run.events)
    time_limits = np.array([event.truncated for event in happened])
    assert len(s) == len(happened) == 320
    assert np.array_equal(s, np.float32(observations))
    actions = to_unit_box(np.array([event.action for event in happened]))
    assert a == pytest.approx(actions, abs=1e-5)
    assert (np.abs(a[RANDOM_STEPS:]) == 1).any()  # clipped before it was executed and stored
    assert r[:, 0] == pytest.approx([event.reward for event in happened], rel=1e-6)
    ends = np.array([event.terminated for event in happened])
    assert np.array_equal(terminated[:, 0], ends)  # also where a time limit comes at once
    # At a time limit, too: not the observation that the reset gives
    assert np.array_equal(next_s, np.float32([event.observation for event in happened]))
    assert (ends.sum(), time_limits.sum(), (ends & time_limits).sum()) == (10, 15, 5)


def test_the_first_actions_are_uniformly_random_and_nothing_is_learnt_from_them_yet(train):
    run = train(total_timesteps=640, learning_starts=640, checkpoint_every=640)
    a = run.columns[1]
    for moment, expected in ((1, 0), (2, 1 / 3), (4, 1 / 5)):
        assert (a**moment).mean() == pytest.approx(expected, abs=0.06)
    assert np.abs(a).max() > 0.99
    torch.manual_seed(0)
    untrained = script.DDPG(OBSERVATION_SIZE, ACTION_SIZE, script.Args(hidden_sizes=(8, 8)))
    learnt = load(run.path / "last.pt")["agent"]["networks"]
    identical(learnt, untrained.state_dict())


@pytest.mark.parametrize(
    ("noise", "memory", "spread"), [("ou", 0.6, 0.3 * math.sqrt(0.5)), ("gaussian", 0.0, 0.3)]
)
def test_training_explores_by_the_chosen_noise(train, noise, memory, spread):
    args = {"ou_theta": 0.8, "ou_dt": 0.5, "noise_sigma": 0.3, "norm": "none", "learning_starts": 0}
    run = train(noise=noise, total_timesteps=960, checkpoint_every=960, **args)
    episodes = episodes_of(run.events)
    before = np.concatenate([actions[:-1] for actions in episodes])
    after = np.concatenate([actions[1:] for actions in episodes])
    before = before - before.mean(axis=0)
    after = after - after.mean(axis=0)
    correlation = (before * after).sum() / (before**2).sum()
    assert correlation == pytest.approx(memory, abs=0.08)
    assert (after - memory * before).std() == pytest.approx(spread, rel=0.08)


def test_the_noise_restarts_at_every_episode_and_only_there(train):
    sigma = 0.02
    random_walk = {"ou_theta": 0.0, "ou_dt": 1.0, "noise_sigma": sigma}
    run = train(norm="none", learning_starts=0, **random_walk)
    episodes = episodes_of(run.events)
    policy = np.mean([actions[0] for actions in episodes], axis=0)
    for actions in episodes:
        # From the walk's start, not from where the last one led
        assert np.abs(actions[0] - policy).max() < 5 * sigma
        assert np.abs(np.diff(actions, axis=0)).max() < 5 * sigma
    ends = np.array([actions[-1] - policy for actions in episodes])
    assert ends.std() > 2 * sigma  # 12 and 20 steps away: 4 σ


@pytest.mark.parametrize(
    ("anneal", "left"),
    [(True, {"checkpoint": 1 / 3, "last": 0}), (False, {"checkpoint": 1, "last": 1})],
)
def test_both_learning_rates_fall_linearly_to_zero_at_the_last_step_or_stay(train, anneal, left):
    rates = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-2}
    run = train(anneal=anneal, total_timesteps=480, **rates)
    for name, share in left.items():  # after 320 and 480 steps
        optimizers = load(run.path / f"{name}.pt")["agent"]["optimizers"]
        used = [optimizer["param_groups"][0]["lr"] for optimizer in optimizers]
        assert used == pytest.approx([1e-3 * share, 1e-2 * share])


@pytest.mark.parametrize("noise", ["ou", "gaussian"])
def test_the_noise_is_as_strong_at_the_end_as_at_the_beginning(train, noise):
    args = {"ou_theta": 1.0, "ou_dt": 1.0, "noise_sigma": 0.2, "norm": "none"}  # no memory
    run = train(noise=noise, learning_starts=0, total_timesteps=960, **args)
    actions = np.concatenate(episodes_of(run.events))
    thirds = np.split(actions - actions.mean(axis=0), 3)
    assert [third.std() / 0.2 for third in thirds] == pytest.approx([1, 1, 1], abs=0.06)


def test_evaluations_are_noise_free_and_leave_no_trace_in_the_training(train):
    settings = {"actor_learning_rate": 1e-3, "seed": 3}
    without = train("without", **settings)
    with_evaluations = train("with", eval_every=50, **settings)
    assert np.array_equal(with_evaluations.rows, without.rows)
    agents = [load(run.path / "last.pt")["agent"] for run in (without, with_evaluations)]
    identical(agents[0]["networks"], agents[1]["networks"])

    log = pd.read_csv(with_evaluations.path / "evaluations.csv", index_col="step")
    assert list(log.index) == [0, 50, 100, 150, 200, 250, 300, 320]
    resets = [event.seed for event in with_evaluations.events if event.what == "reset"]
    training = [event.seed for event in without.events if event.what == "reset"]
    assert training == [script.episode_seed(3, episode) for episode in range(len(training))]
    first = script.EVALUATION_SEED + 3
    evaluations = {first: 8, first + 1: 8, first + 2: 8}
    assert Counter(resets) == {**Counter(training), **evaluations}

    policy, args = script.load_policy(with_evaluations.path / "last.pt")
    returns = script.episodic_returns(script.make_env(args.env_id), policy, 3, first)
    episodes = log.loc[320, ["episode_0", "episode_1", "episode_2"]]
    assert episodes.tolist() == pytest.approx(returns)
