"""What a run of dqn.py guarantees, and the bad input that it refuses.

What stands in ddpg_continuous.py letter for letter (test_repository.py) is tested there.
"""

import pickle
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from discrete_environments import Counting, Ending
from helpers import (
    Hostile,
    arguments,
    assert_same_logs,
    change_arguments,
    cut_off,
    is_same,
    kill_after_its_first_checkpoint,
    load,
    refused,
    run_until_killed,
    snapshot,
)

import ddpg_continuous
import dqn

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("folder")

SMALL = ("--hidden-sizes", 16, 12, "--batch-size", 8, "--eval-episodes", 1)
SHORT = (
    *("--env-id", "CartPole-v1", *SMALL, "--total-timesteps", 650, "--eval-every", 300),
    *("--checkpoint-every", 400, "--epsilon-decay-steps", 400, "--epsilon-end", 0.01),
    *("--target-network", "hard", "--target-period", 50),
)
FINISHED_RUNS = [(dqn, SHORT)]
CARTPOLE = ("--env-id", "CartPole-v1", *SMALL, "--eval-every", 0, "--run-name", "run")


@pytest.fixture
def script():
    return dqn


@pytest.fixture
def short(finished_run):
    """A run of a few hundred steps: its directory, stdout and stderr."""
    return finished_run(dqn, *SHORT)


@pytest.fixture
def run(short, folder):
    """The directory of that run, one's own copy."""
    return Path(shutil.copytree(short[0], folder / "runs" / "run"))


def assert_same_run(run, reference):
    assert_same_logs(run, reference)
    for name in ("last.pt", "best.pt"):
        assert is_same(load(run / name)["agent"], load(reference / name)["agent"])


# -------------------------------------------------------------------------------- actions, learning
def test_actions_that_do_not_start_at_zero_reach_the_environment_as_it_numbers_them(command):
    Counting.taken.clear()
    flags = (
        *("--env-id", "discrete_environments:From5-v0", *SMALL, "--total-timesteps", 300),
        *("--epsilon-end", 0.3, "--epsilon-decay-steps", 100, "--gamma", 0),
        *("--learning-rate", 0.01),
    )
    assert command(*flags)[0] == 0
    assert set(Counting.taken) == {5, 6, 7}
    assert np.mean(np.array(Counting.taken[-150:]) == 7) > 0.6  # the best paid one


def test_a_time_limit_ends_the_episode_but_is_stored_as_no_terminal_state(command, folder):
    flags = (
        *("--env-id", "discrete_environments:Ending-v0", *SMALL, "--total-timesteps", 240),
        *("--eval-every", 0, "--checkpoint-every", 240, "--run-name", "run"),
    )
    Ending.taken.clear()
    assert command(*flags)[0] == 0
    run = folder / "runs/run"
    assert list(pd.read_csv(run / "episodes.csv")["length"]) == [7, 5] * 20
    rows = load(run / "checkpoint.pt")["replay"]["rows"].numpy()  # s (2), a, r, terminated, s' (2)
    ages = np.array([1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5] * 20)
    terminated = np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] * 20)
    np.testing.assert_array_equal(rows[:, 0], ages - 1)
    np.testing.assert_array_equal(rows[:, 2], Ending.taken)
    np.testing.assert_array_equal(rows[:, 3], ages)
    np.testing.assert_array_equal(rows[:, 4], terminated)
    np.testing.assert_array_equal(rows[:, 5], ages)  # at a time limit, too, the true next one


def test_the_logged_epsilon_is_the_one_acted_with(command, folder, monkeypatch):
    acted_with = []
    epsilon_greedy = dqn.epsilon_greedy

    def noting_epsilon(policy, s, epsilon, *rest):
        acted_with.append(epsilon)
        return epsilon_greedy(policy, s, epsilon, *rest)

    monkeypatch.setattr(dqn, "epsilon_greedy", noting_epsilon)
    assert command(*SHORT, "--run-name", "run")[0] == 0
    updates = pd.read_csv(folder / "runs/run/updates.csv")
    assert list(updates["epsilon"]) == [acted_with[step - 1] for step in updates["step"]]
    expected = [max(0.01, 1 - 0.99 * step / 400) for step in range(1, 651)]
    assert acted_with == pytest.approx(expected)


@pytest.mark.parametrize("every", [1, 3, 7])
def test_updates_begin_with_the_first_whole_minibatch_and_come_every_so_many_steps(
    every, command, folder, monkeypatch
):
    sizes = []
    update = dqn.DQN.update
    sample = dqn.ReplayBuffer.sample

    def noting_the_size(replay, batch_size):
        sizes.append(replay.num_added)
        return sample(replay, batch_size)

    def counted(agent, batch):
        assert len(sizes) == agent.num_updates + 1
        assert {len(column) for column in batch} == {8}  # --batch-size
        return update(agent, batch)

    monkeypatch.setattr(dqn.ReplayBuffer, "sample", noting_the_size)
    monkeypatch.setattr(dqn.DQN, "update", counted)
    assert command(*CARTPOLE, "--total-timesteps", 250, "--train-every", every)[0] == 0
    assert sizes == [step for step in range(8, 251) if step % every == 0]
    # Logged every hundred steps, however rare they are
    first_of_100 = next(step for step in sizes if step >= 100)
    first_of_200 = next(step for step in sizes if step >= 200)
    logged = pd.read_csv(folder / "runs/run/updates.csv")["step"]
    assert list(logged) == [first_of_100, first_of_200]


@pytest.mark.parametrize(
    ("every", "length", "learns"), [(1, 7, False), (1, 8, True), (5, 9, False), (5, 10, True)]
)
def test_a_run_that_ends_before_its_first_update_says_so(every, length, learns, command, folder):
    """The minibatch is of 8."""
    flags = ("--train-every", every, "--total-timesteps", length, "--eval-every", 0)
    _, out, _ = command(*CARTPOLE, *flags, "--run-name", "run")
    assert ("nothing will be learned" in out) == (not learns)
    updates = 1 if learns else 0
    assert dqn.load_weights(folder / "runs/run/last.pt")["agent"]["num_updates"] == updates


# ------------------------------------------------------------------------------------------ the run
def test_a_run_leaves_the_same_files_as_the_other_scripts(short):
    run, _, err = short
    names = {file.name for file in run.iterdir()}
    names = {name for name in names if not name.startswith(("events", "."))}
    assert names == {
        *("args.json", "summary.json", "episodes.csv", "evaluations.csv", "updates.csv"),
        *("best.pt", "last.pt", "checkpoint.pt", "learning_curve.png", "learning_curve.pdf"),
    }
    assert err == ""


def test_args_json_names_the_script(short):
    content = dqn.load_json(short[0] / "args.json")
    assert content["script"] == "dqn"
    assert gym.spec(content["args"]["env_id"]).id == "CartPole-v1"


def test_updates_csv_has_loss_values_and_epsilon_every_hundred_steps(short):
    updates = pd.read_csv(short[0] / "updates.csv")
    assert list(updates) == ["step", "loss", "q", "target", "epsilon"]
    assert list(updates["step"]) == [100, 200, 300, 400, 500, 600]
    assert list(updates["epsilon"]) == pytest.approx([0.7525, 0.505, 0.2575, 0.01, 0.01, 0.01])


def test_epsilon_stands_on_the_learning_curve(run, monkeypatch):
    figures = []
    monkeypatch.setattr(dqn.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    dqn.plot(run, 475.0)
    axes = {axes.get_ylabel(): axes for axes in figures[0].axes}
    returns = axes["return"]
    (epsilon,) = [axes[label] for label in axes if label.startswith("ε")]
    assert epsilon.get_position().bounds == returns.get_position().bounds
    updates = pd.read_csv(run / "updates.csv")
    np.testing.assert_array_equal(epsilon.lines[0].get_xydata(), updates[["step", "epsilon"]])


def test_a_seed_fixes_everything(short, command, folder):
    torch.rand(3)
    assert command(*SHORT, "--run-name", "again")[0] == 0
    assert_same_run(folder / "runs/again", short[0])
    assert command(*SHORT, "--seed", 1, "--run-name", "other")[0] == 0
    log = "updates.csv"
    assert (folder / "runs/other" / log).read_bytes() != (short[0] / log).read_bytes()


def test_evaluation_disturbs_nothing(short, command, folder):
    assert command(*SHORT, "--eval-every", 0, "--run-name", "unseen")[0] == 0
    for log in ("episodes.csv", "updates.csv"):
        assert (folder / "runs/unseen" / log).read_bytes() == (short[0] / log).read_bytes()


@pytest.mark.parametrize("target", ["none", "hard", "soft"])
def test_a_run_killed_before_its_first_checkpoint_or_after_it_equals_one_never_killed(
    target, command, folder, monkeypatch
):
    # So that a copy falls between checkpoints
    flags = (*SHORT, "--target-network", target, "--target-period", 90)
    assert command(*flags, "--run-name", "whole")[0] == 0
    for step in (120, 530):
        name = f"killed-at-{step}"
        run_until_killed(dqn, step, command, monkeypatch, *flags, "--run-name", name)
        status, _, err = command("--resume", f"runs/{name}")
        assert (status, err) == (0, "")
        assert_same_run(folder / "runs" / name, folder / "runs/whole")
        assert load(folder / "runs" / name / "last.pt")["agent"]["num_updates"] == 643


@pytest.mark.slow
def test_a_lander_killed_by_sigkill_equals_one_never_killed(command, start, folder):
    flags = (
        *("--env-id", "LunarLander-v2", *SMALL, "--total-timesteps", 1_500),
        *("--checkpoint-every", 200, "--eval-every", 400),
    )
    assert command(*flags, "--run-name", "whole")[0] == 0
    kill_after_its_first_checkpoint(start, folder / "runs/killed", *flags)
    assert command("--resume", "runs/killed")[0] == 0
    assert_same_run(folder / "runs/killed", folder / "runs/whole")


def test_a_policy_loads_in_ones_own_program_is_greedy_and_earns_what_the_csv_says(short):
    policy, args = dqn.load_policy(short[0] / "last.pt")
    seed = args.seed + dqn.EVALUATION_SEED
    returns = dqn.episodic_returns(dqn.make_env(args.env_id), policy, 1, seed)
    means = pd.read_csv(short[0] / "evaluations.csv")["mean"]
    assert means.iloc[-1] == pytest.approx(returns[0], rel=1e-6)


def test_evaluate_prints_every_episode_and_their_mean_and_films_the_first(run, command):
    flags = ("--evaluate", run / "best.pt", "--eval-episodes", 2, "--capture-video")
    status, out, _ = command(*flags)
    assert status == 0
    assert len([line for line in out.splitlines() if "return" in line]) == 2
    assert "mean" in out
    (video,) = (run / "videos").glob("*.mp4")
    assert video.stat().st_size > 1_000


@pytest.mark.parametrize("env_id", ["Acrobot-v1", "MountainCar-v0", "LunarLander-v3"])
def test_other_discrete_environments_train(env_id, command, folder):
    run = folder / "runs/run"
    assert command(*CARTPOLE, "--env-id", env_id, "--total-timesteps", 230)[0] == 0
    start, end = load(run / "checkpoint.pt"), load(run / "last.pt")  # of step 0, the only one
    assert start["progress"]["step"] == 0
    assert not is_same(start["agent"]["networks"], end["agent"]["networks"])
    assert np.isfinite(pd.read_csv(run / "updates.csv").to_numpy()).all()


# ---------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("env_id", ["LunarLanderContinuous-v3", "Pendulum-v1"])
def test_continuous_actions_are_refused_and_the_line_names_the_script_for_them(
    env_id, command, folder
):
    refused(command("--env-id", env_id), env_id, "Box", "Discrete", "ddpg_continuous.py")
    assert not (folder / "runs").exists()


def test_several_discrete_actions_at_once_are_refused(command, folder):
    refused(command("--env-id", "discrete_environments:Multi-v0"), "MultiDiscrete")
    assert not (folder / "runs").exists()


def test_ddpg_names_this_script_where_actions_are_discrete():
    with pytest.raises(ddpg_continuous.RunError, match=r"dqn\.py"):
        ddpg_continuous.make_env("CartPole-v1")


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
        ("--learning-rate", "nan"),
        ("--batch-size", 65, "--buffer-size", 64),
        ("--buffer-size", 0),
        ("--hidden-sizes", 0, 16),
        ("--total-timesteps", 0),
        ("--seed", -1),
    ],
)
def test_a_value_out_of_range_is_refused_and_the_line_names_the_flag(flags, command, folder):
    refused(command("--env-id", "CartPole-v1", *flags), flags[0])
    assert not (folder / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(command, folder):
    result = command("--env-id", "CartPole-v1", "--device", "cuda")
    refused(result, "--device cuda", "--device cpu")
    assert not (folder / "runs").exists()


def test_a_kind_of_target_that_is_unknown_in_args_json_is_refused(command, run):
    change_arguments(run, target_network="medium")
    refused(command("--resume", run), "target_network", "medium", "soft")
    assert arguments(run)["target_network"] == "medium"


def hostile(path):
    path.write_bytes(pickle.dumps(Hostile()))


def of_ddpg(path):
    torch.save({"script": "ddpg_continuous"}, path)


def of_another_network(path):
    content = load(path)
    networks = content["agent"]["networks"]
    content["agent"]["networks"] = {name: x[..., :3] for name, x in networks.items()}
    torch.save(content, path)


@pytest.mark.parametrize("damage", [cut_off, hostile, of_ddpg, of_another_network])
def test_a_checkpoint_that_is_damaged_foreign_or_hostile_is_refused_and_no_code_in_it_runs(
    damage, run, command, folder
):
    for name in ("checkpoint.pt", "best.pt"):
        damage(run / name)
    before = snapshot(run)
    refused(command("--resume", run, "--total-timesteps", 700), "checkpoint.pt")
    refused(command("--evaluate", run / "best.pt"), "best.pt")
    assert snapshot(run) == before
    assert not (folder / "hacked").exists()


@pytest.mark.parametrize(
    "env_id",
    [
        "LunarLander-v3",
        "Acrobot-v1",
        "discrete_environments:Four-v0",
        "discrete_environments:ThreeActions-v0",  # the same observations, an action more
    ],
)
def test_evaluate_refuses_an_environment_of_another_shape(env_id, run, command):
    result = command("--evaluate", run / "best.pt", "--env-id", env_id)
    refused(result, "best.pt", "cannot play", env_id, "[4, 2]")


def test_a_nan_in_the_loss_stops_the_run_and_names_the_step(command):
    flags = (*CARTPOLE, "--total-timesteps", 2_000, "--learning-rate", 1e9)
    refused(command(*flags), "step", "not finite", "learning rates")


def test_weights_that_are_not_finite_are_never_saved(command, folder):
    """After the last logged update, too: argmax of NaN is an action like any other."""
    flags = (*CARTPOLE, "--total-timesteps", 99, "--learning-rate", 1e9)
    refused(command(*flags), "not finite", "learning rates")
    assert not (folder / "runs/run/last.pt").exists()
