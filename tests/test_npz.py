"""What the runs of the scripts on Keras guarantee: ddpg_tf_explicit.py, and ddpg_keras.py.

The latter on the backend at hand; test_backends.py runs this file on the other ones. What stands
letter for letter in all scripts (test_repository.py) is tested with ddpg_continuous.py.
"""

import json
import pickle
import shutil
import signal
import zipfile
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from helpers import (
    LOGS,
    SHORT_NPZ,
    Hostile,
    assert_same_logs,
    cut_off,
    identical,
    note_terminated,
    refused,
    run_until_killed,
    snapshot,
    wait_for,
)
from toy_environments import EVENTS
from walk import differences_after_restoring

import ddpg_continuous
import ddpg_keras

SCRIPTS = [ddpg_keras]
if ddpg_keras.BACKEND == "tensorflow":
    import ddpg_tf_explicit

    SCRIPTS.append(ddpg_tf_explicit)

FINISHED_RUNS = [(script, SHORT_NPZ) for script in SCRIPTS]
METRICS = {
    "ddpg_keras": ["critic_loss", "actor_loss", "q", "saturation"],
    "ddpg_tf_explicit": ["critic_loss", "dq_da_norm", "q", "saturation", "dq_da_outward"],
}
pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(scope="module", params=SCRIPTS, ids=lambda script: script.SCRIPT)
def script(request):
    return request.param


@pytest.fixture(scope="module")
def short(script, finished_run):
    """A run of a few hundred steps: its directory, stdout and stderr."""
    return finished_run(script, *SHORT_NPZ)


@pytest.fixture
def run(short, folder):
    """The directory of that run, one's own copy."""
    return Path(shutil.copytree(short[0], folder / "runs" / "run"))


def assert_same_run(script, run, reference):
    assert_same_logs(run, reference)
    for name in ("last.npz", "best.npz"):
        one, other = [script.load_weights(path / name)["agent"] for path in (run, reference)]
        assert list(one) == list(other)
        identical(list(one.values()), list(other.values()))
    for file in reference.glob("*.keras"):
        one, other = [keras.saving.load_model(path / file.name) for path in (run, reference)]
        identical(one.get_weights(), other.get_weights())


# ------------------------------------------------------------------------------------------ the run
def test_only_a_terminal_state_is_stored_as_one_also_where_a_time_limit_comes_at_once(
    script, toy, command, monkeypatch
):
    stored = note_terminated(script, monkeypatch)
    flags = ("--total-timesteps", 96, "--learning-starts", 96, "--eval-every", 0)
    assert command(*SHORT_NPZ, "--env-id", toy(), *flags, "--run-name", "run")[0] == 0
    happened = [event for event in EVENTS if event.what == "step"]
    assert stored == [event.terminated for event in happened]
    assert sum(event.terminated and event.truncated for event in happened) == 1


def test_a_run_leaves_the_same_files_as_the_other_scripts_but_for_the_format_of_the_weights(
    short, script
):
    names = {file.name for file in short[0].iterdir()}
    names = {name for name in names if not name.startswith(("events", "."))}
    weights = {"best.npz", "last.npz", "checkpoint.npz"}
    deciding = {"gymnasium", "numpy", "keras", keras.config.backend()}
    if script is ddpg_keras:
        deciding.add("threads")
        weights |= {"best_actor.keras", "best_critic.keras"}
        weights |= {"last_actor.keras", "last_critic.keras"}
    others = {"args.json", "summary.json", "learning_curve.png", "learning_curve.pdf"}
    assert names == {*LOGS, *others, *weights}
    versions = json.loads((short[0] / "args.json").read_text())["versions"]
    assert set(versions) == {"python", "box2d", "mujoco", "pygame-ce", *deciding}


def test_every_hundred_steps_the_metrics_of_an_update_are_logged(short, script):
    updates = pd.read_csv(short[0] / "updates.csv")
    assert list(updates) == ["step", *METRICS[script.SCRIPT]]
    assert list(updates["step"]) == [100, 200, 300, 400]
    assert np.isfinite(updates.to_numpy()).all()
    assert (updates["critic_loss"] > 0).all()
    if script is not ddpg_keras:
        assert (updates["dq_da_norm"] > 0).all()


def test_the_libraries_do_not_chatter(short):
    assert short[2] == ""


@pytest.mark.slow
def test_a_seed_fixes_everything_whatever_the_process_did_before(short, script, command, folder):
    keras.random.normal((3,))
    assert command(*SHORT_NPZ, "--run-name", "again")[0] == 0
    assert_same_run(script, folder / "runs/again", short[0])


@pytest.mark.slow
def test_another_seed_gives_another_run(short, command, folder):
    assert command(*SHORT_NPZ, "--seed", 1, "--run-name", "other")[0] == 0
    log = "updates.csv"
    assert (folder / "runs/other" / log).read_bytes() != (short[0] / log).read_bytes()


@pytest.mark.parametrize("kill_at", [pytest.param(120, marks=pytest.mark.slow), 430])
def test_a_run_killed_before_its_first_checkpoint_or_after_it_equals_one_never_killed(
    kill_at, short, script, command, folder, monkeypatch
):
    keras.random.normal((3,))  # whatever the process did before
    run_until_killed(script, kill_at, command, monkeypatch, *SHORT_NPZ, "--run-name", "killed")
    run = folder / "runs/killed"
    for file in run.glob("best*"):  # as if a better policy had been found since the checkpoint
        file.write_bytes(b"another one")
    status, _, err = command("--resume", "runs/killed")
    assert (status, err) == (0, "")
    assert_same_run(script, run, short[0])


@pytest.mark.slow
def test_a_run_killed_by_sigkill_equals_one_never_killed(short, command, start, script, folder):
    process = start(*SHORT_NPZ, "--checkpoint-every", 200, "--run-name", "killed")
    checkpoint = folder / "runs/killed/checkpoint.npz"
    wait_for(checkpoint.exists, process)
    wait_for(lambda: script.load_weights(checkpoint)["progress"]["step"] > 0, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert command("--resume", "runs/killed")[0] == 0
    assert_same_run(script, folder / "runs/killed", short[0])


def test_last_weights_load_in_ones_own_program_and_earn_what_the_csv_says(short, script):
    policy, args = script.load_policy(short[0] / "last.npz")
    seed = args.seed + script.EVALUATION_SEED
    returns = script.episodic_returns(script.make_env(args.env_id), policy, 1, seed)
    means = pd.read_csv(short[0] / "evaluations.csv")["mean"]
    assert means.iloc[-1] == pytest.approx(returns[0], rel=1e-6)


def test_evaluate_prints_every_episode_and_their_mean(short, command):
    status, out, err = command("--evaluate", short[0] / "best.npz", "--eval-episodes", 2)
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 3
    assert "mean" in out


# ---------------------------------------------------------------------------------------- its state
def small_args(script, folder):
    """300 steps in which the buffer overflows, with evaluations and two checkpoints."""
    return script.Args(
        env_id="point_environments:Point-v0",
        runs_dir=str(folder),
        norm="batch",
        hidden_sizes=(8, 8),
        batch_size=8,
        buffer_size=80,
        learning_starts=50,
        total_timesteps=300,
        eval_every=60,
        eval_episodes=1,
        checkpoint_every=100,
    )


def names(found):
    """The fields of Training that differ."""
    return {path.split(".")[1] for path in found}


@pytest.fixture(scope="module")
def observed(script, tmp_path_factory):
    """Of a training: what its checkpoints had not, and what ran as Python, not as a graph."""
    ran = []

    def noting(function):
        def noted(*args):
            ran.append(function.__name__)
            return function(*args)

        return noted

    with pytest.MonkeyPatch.context() as patch:
        for function in (script.DDPG.learn, script.DDPG.policy):
            patch.setattr(script.DDPG, function.__name__, noting(function))
        args = small_args(script, tmp_path_factory.mktemp("observed"))
        found, found_without = differences_after_restoring(script, args)
    return SimpleNamespace(ran=ran, found=found, found_without=found_without)


@pytest.mark.skipif(ddpg_keras.BACKEND == "torch", reason="there both run as Python")
def test_a_whole_training_traces_its_update_and_its_policy_once(observed):
    assert sorted(observed.ran) == ["learn", "policy"]


def test_all_that_changes_during_training_is_in_the_checkpoint(observed):
    assert len(observed.found) >= 2
    for restored, not_restored in zip(observed.found, observed.found_without, strict=True):
        assert restored == []
        assert names(not_restored) == {"agent", "replay", "progress"}
        assert any(path.startswith("training.replay.rng") for path in not_restored)
        for part in ("actor", "critic", "target_actor", "actor_optimizer", "critic_optimizer"):
            path = f"training.agent.{part}."
            assert any(place.startswith(path) for place in not_restored), part


def test_what_changes_and_is_not_restored_is_found(script, folder, monkeypatch):
    """An update that does nothing but to change a variable and an array."""

    def update(agent, *_):
        if not hasattr(agent, "running_mean"):
            agent.running_mean = keras.Variable(0.0)
            agent.counts = np.zeros(3)
        agent.running_mean.assign(agent.running_mean + 1.0)
        agent.counts += 1.0
        return {}

    monkeypatch.setattr(script.DDPG, "update", update)
    monkeypatch.setattr(script.DDPG, "act", lambda *_: np.zeros(1, np.float32))
    found, _ = differences_after_restoring(script, small_args(script, folder))
    assert len(found) >= 2
    for restored in found:
        assert restored == ["training.agent.running_mean", "training.agent.counts"]


# ---------------------------------------------------------------------------------------- bad input
def empty(path, _):
    path.write_bytes(b"")


def without_its_end(path, _):
    cut_off(path)


def hostile_pickle(path, _):
    path.write_bytes(pickle.dumps(Hostile()))


def hostile_array(path, script):
    objects = np.array([Hostile()], dtype=object)
    np.savez(path, **{"script": np.array(json.dumps(script.SCRIPT)), "agent/actor.0": objects})


def hostile_first_array(path, _):
    np.savez(path, np.array([Hostile()], dtype=object))


def zip_of_something_else(path, _):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("script.npy", b"nothing")


def of_another_network(path, _):
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    for name, x in arrays.items():
        if name.startswith("agent/") and x.ndim:
            arrays[name] = x[..., :3]
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "damage",
    [
        without_its_end,
        empty,
        hostile_pickle,
        hostile_array,
        hostile_first_array,
        zip_of_something_else,
        of_another_network,
    ],
)
def test_a_checkpoint_that_is_damaged_foreign_or_hostile_is_refused_and_no_code_in_it_runs(
    damage, script, command, run, folder
):
    damage(run / "checkpoint.npz", script)
    before = snapshot(run)
    refused(command("--resume", run, "--total-timesteps", 500), "checkpoint.npz")
    assert snapshot(run) == before
    damage(run / "best.npz", script)
    refused(command("--evaluate", run / "best.npz"), "best.npz")
    assert not (folder / "hacked").exists()


def test_each_script_refuses_a_run_of_another_and_says_which_to_use(command, run):
    content = json.loads((run / "args.json").read_text())
    content["script"] = "ddpg_continuous"
    (run / "args.json").write_text(json.dumps(content))
    refused(command("--resume", run), "args.json", "use that script")
    ddpg_continuous.save_weights(run / "best.pt", {"agent": {}})
    refused(command("--evaluate", run / "best.pt"), "best.pt", "foreign")


def test_a_value_out_of_range_is_refused(command, folder):
    refused(command("--tau", 1.5), "--tau")
    assert not (folder / "runs").exists()


def test_help_names_the_script(command, script):
    status, out, _ = command("--help")
    assert status == 0
    assert f"python {script.SCRIPT}.py --env-id" in out
    assert ".pt" not in out
