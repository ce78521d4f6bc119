"""What the runs of the scripts on Keras guarantee: ddpg_tf_explicit.py, and ddpg_keras.py on the backend at hand.

Sections that stand letter for letter in all scripts (test_repository.py) are tested with ddpg_continuous.py.
"""

import json
import pickle
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest
from helpers import LOGS, Hostile, assert_same_logs, identical, refused, run_until_killed, truncated

import ddpg_continuous
import ddpg_keras

SCRIPTS = [ddpg_keras]
if ddpg_keras.BACKEND == "tensorflow":
    import ddpg_tf_explicit

    SCRIPTS.append(ddpg_tf_explicit)

SHORT = ("--env-id", "Pendulum-v1", "--hidden-sizes", 16, 16, "--batch-size", 8, "--learning-starts", 50)
SHORT = (*SHORT, "--eval-episodes", 1, "--total-timesteps", 650, "--eval-every", 300, "--checkpoint-every", 200)
SHORT = (*SHORT, "--norm", "batch")
pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(scope="module", params=SCRIPTS, ids=lambda script: script.SCRIPT)
def script(request):
    return request.param


@pytest.fixture(scope="module")
def smoke(script, complete_run):
    """A run of a few hundred steps: its directory, what it printed."""
    return complete_run(script, SHORT)


def contents(path):
    """The arrays in an .npz and, as text, its numbers, as numpy itself reads them."""
    with np.load(path, allow_pickle=False) as file:
        return [file[name] for name in file.files]


def assert_same_run(script, run, reference):
    assert_same_logs(run, reference)
    for name in ("last.npz", "best.npz"):
        one, other = script.load(run / name), script.load(reference / name)
        identical(one["agent"]["variables"], other["agent"]["variables"])


# ---------------------------------------------------------------------------------------------------------- the run
def test_a_run_leaves_the_same_files_as_the_other_scripts_but_for_the_format_of_the_weights(smoke, script):
    names = {file.name for file in smoke[0].iterdir() if not file.name.startswith(("events", "."))}
    weights = {"best.npz", "last.npz", "checkpoint.npz"}
    if script is ddpg_keras:
        names_of = ("best", "last", "checkpoint")
        weights |= {f"{name}_{network}.keras" for name in names_of for network in ("actor", "critic")}
    assert names == {*LOGS, "args.json", "summary.json", "learning_curve.png", "learning_curve.pdf"} | weights
    versions = json.loads((smoke[0] / "args.json").read_text())["versions"]
    assert set(versions) == {"python", "gymnasium", "numpy", "keras", keras.config.backend()}


def test_every_hundred_steps_the_values_of_an_update_are_logged(smoke, script):
    updates = pd.read_csv(smoke[0] / "updates.csv")
    values = ["critic_loss", "actor_loss", "q", "saturation"]
    if script is not ddpg_keras:
        values = ["critic_loss", "dq_da_norm", "q", "saturation", "dq_da_outward"]
        assert (updates["dq_da_norm"] > 0).all()
    assert list(updates) == ["step", *values, "noise_sigma"]
    assert list(updates["step"]) == [100, 200, 300, 400, 500, 600]
    assert (updates["critic_loss"] > 0).all()


def test_the_libraries_do_not_chatter(smoke):
    assert smoke[2] == ""


def test_a_seed_fixes_everything_whatever_the_process_did_before(smoke, script, command, folder):
    keras.random.normal((3,))
    assert command(*SHORT, "--run-name", "again")[0] == 0
    assert_same_run(script, folder / "runs/again", smoke[0])


def test_another_seed_gives_other_weights(smoke, command, folder):
    assert command(*SHORT, "--seed", 1, "--run-name", "other")[0] == 0
    assert (folder / "runs/other/updates.csv").read_bytes() != (smoke[0] / "updates.csv").read_bytes()


@pytest.mark.parametrize("kill_at", [120, 420])
def test_a_run_killed_before_its_first_checkpoint_or_after_it_equals_one_never_killed(
    kill_at, smoke, script, command, folder, monkeypatch
):
    run_until_killed(script, kill_at, command, monkeypatch, *SHORT, "--run-name", "killed")
    status, _, err = command("--resume", "runs/killed")
    assert (status, err) == (0, "")
    assert_same_run(script, folder / "runs/killed", smoke[0])


def test_a_run_killed_by_sigkill_equals_one_never_killed(smoke, script, command, folder):
    command_line = [sys.executable, script.__file__, *map(str, SHORT), "--run-name", "killed"]
    process = subprocess.Popen(command_line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = folder / "runs/killed/checkpoint.npz"
    while not checkpoint.exists():
        assert process.poll() is None
    process.kill()
    assert process.wait() < 0
    assert command("--resume", "runs/killed")[0] == 0
    assert_same_run(script, folder / "runs/killed", smoke[0])


def test_best_weights_load_in_ones_own_program_and_earn_what_the_csv_says(smoke, script):
    policy, args = script.load_policy(smoke[0] / "last.npz")
    returns = script.evaluate(script.make_env(args.env_id), policy, 1, args.seed + script.EVALUATION_SEED)
    assert pd.read_csv(smoke[0] / "evaluations.csv")["mean"].iloc[-1] == pytest.approx(returns[0], rel=1e-6)


def test_evaluate_prints_every_episode_and_their_mean(smoke, command):
    status, out, _ = command("--evaluate", smoke[0] / "best.npz", "--eval-episodes", 2)
    assert status == 0
    assert len(out.splitlines()) == 3
    assert "mean" in out


# --------------------------------------------------------------------------------------------------------- bad input
@pytest.fixture
def run(smoke, folder):
    return shutil.copytree(smoke[0], folder / "runs" / "run")


def empty(path, _):
    path.write_bytes(b"")


def cut_off(path, _):
    truncated(path)


def hostile_pickle(path, _):
    path.write_bytes(pickle.dumps(Hostile()))


def hostile_array(path, name):
    content = {"script": name, "agent": {"array": "arr_1"}}
    np.savez(path, json.dumps(content), np.array([Hostile()], dtype=object))


def hostile_first_array(path, _):
    np.savez(path, np.array([Hostile()], dtype=object))


def zip_of_something_else(path, _):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("arr_0.npy", b"nothing")


def of_another_network(path, _):
    content = contents(path)
    content[1:] = [x[..., :3] if x.ndim else x for x in content[1:]]
    with open(path, "wb") as file:
        np.savez(file, *content)


@pytest.mark.parametrize(
    "damage",
    [cut_off, empty, hostile_pickle, hostile_array, hostile_first_array, zip_of_something_else, of_another_network],
)
def test_a_checkpoint_that_is_damaged_foreign_or_hostile_is_refused_and_no_code_in_it_runs(
    damage, script, command, run, folder
):
    damage(run / "checkpoint.npz", script.SCRIPT)
    before = {file: file.read_bytes() for file in run.iterdir()}
    refused(command("--resume", run), "checkpoint.npz")
    assert {file: file.read_bytes() for file in run.iterdir()} == before
    damage(run / "best.npz", script.SCRIPT)
    refused(command("--evaluate", run / "best.npz"), "best.npz")
    assert not (folder / "hacked").exists()


def test_each_script_refuses_a_run_of_another_and_says_which_to_use(command, run):
    content = json.loads((run / "args.json").read_text())
    content["script"] = "ddpg_continuous"
    (run / "args.json").write_text(json.dumps(content))
    refused(command("--resume", run), "args.json", "use that script")
    ddpg_continuous.save(run / "best.pt", {"agent": {}})
    refused(command("--evaluate", run / "best.pt"), "best.pt", "foreign")


def test_a_value_out_of_range_is_refused(command, folder):
    refused(command("--tau", 1.5), "--tau")
    assert not (folder / "runs").exists()


def test_help_names_the_script(command, script):
    status, out, _ = command("--help")
    assert status == 0
    assert f"python {script.SCRIPT}.py --env-id" in out
    assert ".pt" not in out
