"""What is on disk is never lost: what a resume, a plot or somebody's hand could spoil."""

import importlib.metadata
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from helpers import (
    POINT,
    Killed,
    assert_same_logs,
    assert_same_run,
    checkpoint_step,
    load,
    refused,
    snapshot,
    summary,
    train_in,
)

import ddpg_continuous as script

pytestmark = pytest.mark.usefixtures("folder")
FLAGS = (
    *(*POINT, "--total-timesteps", 130, "--eval-every", 50, "--checkpoint-every", 60),
    *("--no-anneal", "--run-name", "run"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a finished run: never changed, but copied."""
    return train_in(tmp_path_factory.mktemp("finished"), script, *FLAGS)


@pytest.fixture
def run(finished, folder):
    """The directory of a finished run, one's own copy."""
    return Path(shutil.copytree(finished, folder / "runs/run"))


# -------------------------------------------------------------------------------------- checkpoints
@pytest.mark.parametrize("left", ["all of them", "last.pt", "learning_curve.png"])
def test_results_without_a_checkpoint_are_refused_and_left_as_they_are(left, command, run):
    (run / "checkpoint.pt").unlink()
    (run / "learning_curve.png").touch()
    for file in run.iterdir():
        if left not in ("all of them", file.name) and file.name not in ("args.json", ".lock"):
            file.unlink()
    before = snapshot(run)
    result = command("--resume", run, "--total-timesteps", 200)
    refused(result, "run has results", "no checkpoint", "--run-name")
    assert snapshot(run) == before


def test_a_run_that_is_shorter_than_a_checkpoints_distance_can_be_lengthened(command, folder):
    flags = (*FLAGS, "--checkpoint-every", 10_000)
    assert command(*flags)[0] == 0
    run = folder / "runs/run"
    assert checkpoint_step(run) == 0
    assert load(run / "checkpoint.pt")["progress"]["step"] == 0
    assert command("--resume", run, "--total-timesteps", 200)[0] == 0
    flags = (*flags, "--total-timesteps", 200, "--run-name", "reference")
    assert command(*flags)[0] == 0
    assert_same_logs(run, folder / "runs/reference")


def test_a_run_killed_before_its_first_results_begins_again(command, folder, monkeypatch):
    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(script, "write_checkpoint", killed)
        with pytest.raises(Killed):
            command(*FLAGS)
    assert not (folder / "runs/run/checkpoint.pt").exists()
    (folder / "runs/run/checkpoint.pt.new").write_bytes(b"half of a checkpoint")
    assert command("--resume", "runs/run")[0] == 0
    assert command(*FLAGS, "--run-name", "reference")[0] == 0
    assert_same_run(folder / "runs/run", folder / "runs/reference")


def test_a_finished_run_is_left_as_it_is_until_it_is_to_go_on(command, folder):
    """Its only checkpoint is that of step 0: a resume would train it again from there."""
    assert command(*FLAGS, "--checkpoint-every", 10_000)[0] == 0
    run = folder / "runs/run"
    before = snapshot(run)
    status, out, err = command("--resume", run)
    assert (status, err) == (0, "")
    assert "finished" in out
    assert "--total-timesteps" in out
    assert snapshot(run) == before


def test_a_lengthened_run_that_stops_at_its_last_step_is_not_finished(command, run, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    last = (run / "last.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(script.Run, "save_last", interrupted)
        assert command("--resume", run, "--total-timesteps", 140)[0] == 130
    assert summary(run)["steps"] == 140
    assert (run / "last.pt").read_bytes() == last, "until there is another one, it is kept"
    status, out, _ = command("--resume", run)
    assert status == 0
    assert "is finished" not in out
    assert (run / "last.pt").read_bytes() != last


def test_weights_are_kept_until_there_are_others(command, run, monkeypatch):
    """Its environment is broken since; its only checkpoint is that of step 0."""
    assert command(*FLAGS, "--checkpoint-every", 10_000, "--run-name", "short")[0] == 0
    short = run.with_name("short")
    weights = [(short / name).read_bytes() for name in ("best.pt", "last.pt")]

    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(script.CheckedEnv, "reset", broken)
    with pytest.raises(RuntimeError):
        command("--resume", short, "--total-timesteps", 200)
    assert [(short / name).read_bytes() for name in ("best.pt", "last.pt")] == weights


@pytest.mark.parametrize("content", ["{", '{"script": "ddpg_continuous", "finished": true}'])
def test_a_summary_that_is_damaged_keeps_no_run_from_going_on(content, command, run):
    (run / "summary.json").write_text(content)
    assert command("--resume", run)[0] == 0
    assert summary(run)["steps"] == 130


def test_a_resume_that_is_refused_has_changed_no_file(command, run):
    content = json.loads((run / "args.json").read_text())
    del content["versions"]
    (run / "args.json").write_text(json.dumps(content))
    (run / "best.pt").write_bytes(b"later")
    before = snapshot(run)
    refused(command("--resume", run, "--total-timesteps", 200), "args.json", "versions")
    assert snapshot(run) == before


def test_a_write_that_fails_leaves_no_half_of_a_file(folder, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(script.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        script.save_json(folder / "content.json", {"x": 1})
    assert not list(folder.iterdir())


# --------------------------------------------------------------------------------------------- logs
def shortened(log):
    log.write_bytes(log.read_bytes()[:-200])


def with_a_spreadsheets_line_ends(log):
    log.write_bytes(log.read_bytes().replace(b"\n", b"\r\n"))


def with_other_numbers(log):
    log.write_bytes(log.read_bytes().replace(b"1", b"2", 1))


def emptied(log):
    log.write_bytes(b"")


@pytest.mark.parametrize(
    "change", [shortened, with_a_spreadsheets_line_ends, with_other_numbers, emptied]
)
@pytest.mark.parametrize("name", ["episodes.csv", "evaluations.csv"])
def test_a_log_that_somebody_changed_is_neither_cut_nor_extended(name, change, command, run):
    change(run / name)
    before = snapshot(run)
    refused(command("--resume", run, "--total-timesteps", 200), name, "changed", "put it back")
    assert snapshot(run) == before


def test_a_log_that_is_missing_is_named(command, run):
    (run / "episodes.csv").unlink()
    before = snapshot(run)
    refused(command("--resume", run, "--total-timesteps", 200), "episodes.csv is missing")
    assert snapshot(run) == before


def test_a_tensorboard_file_that_was_changed_is_named(command, run):
    file = next(run.glob("events.*"))
    file.write_bytes(file.read_bytes()[::-1])
    before = snapshot(run)
    refused(command("--resume", run, "--total-timesteps", 200), file.name, "changed")
    assert snapshot(run) == before


def test_without_tensorboards_files_a_run_goes_on(command, run):
    """They only repeat the CSVs."""
    for file in run.glob("events.*"):
        file.unlink()
    assert command("--resume", run, "--total-timesteps", 200)[0] == 0
    assert pd.read_csv(run / "evaluations.csv")["step"].tolist() == [0, 50, 100, 150, 200]


# -------------------------------------------------------------------------------------- other files
def test_a_plot_that_fails_ends_no_training(command, folder, monkeypatch):
    def plot(*_):
        raise ValueError("no font")

    monkeypatch.setattr(script, "plot", plot)
    status, out, _ = command(*FLAGS)
    assert status == 0
    assert "no learning curve: no font" in out
    assert summary(folder / "runs/run")["steps"] == 130


def test_a_run_whose_summary_cannot_be_written_is_not_said_to_be_finished(command, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(script.Run, "save_summary", full)
    result = command(*FLAGS, "--checkpoint-every", 1000)
    refused(result, "step 130:", "No space left")
    assert "stopped after 130 steps" in result[1]
    assert "finished" not in result[1]


def test_best_weights_that_somebody_moves_away_end_no_training(command, folder, monkeypatch):
    after_episode = script.Run.after_episode

    def moving(run):
        after_episode(run)
        (run.path / "best.pt").unlink(missing_ok=True)

    monkeypatch.setattr(script.Run, "after_episode", moving)
    assert command(*FLAGS)[0] == 0
    monkeypatch.setattr(script.Run, "after_episode", after_episode)
    assert command("--resume", "runs/run", "--total-timesteps", 200)[0] == 0


# ----------------------------------------------------------------------------------------- versions
def test_a_run_notes_the_versions_of_the_simulators_that_are_installed(monkeypatch):
    assert {"box2d", "mujoco"} <= script.versions().keys()

    def version(_):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert set(script.versions()) == {"python", "gymnasium", "numpy", "torch"}


def test_the_same_version_built_on_another_day_is_no_other_version():
    old = {"python": "3.11.7 (main, May 1) [GCC 12]", "numpy": "2.4.6"}
    new = {"python": "3.11.7 (main, Jun 2) [GCC 13]", "numpy": "2.4.6", "box2d": "2.3.10"}
    assert script.changed_versions(old, new) == ""
    new["python"] = "3.12.1 (main, Jun 2) [GCC 13]"
    assert script.changed_versions(old, new) == "python 3.12.1 instead of 3.11.7"


def test_a_resume_with_other_versions_says_so_once_and_keeps_the_old_ones(
    command, run, folder, monkeypatch
):
    began_with = json.loads((run / "args.json").read_text())["versions"]
    shutil.copytree(run, folder / "runs/copy")
    _, out, _ = command("--resume", "runs/copy", "--total-timesteps", 140)
    assert "other versions" not in out
    assert "resumed" not in json.loads((folder / "runs/copy/args.json").read_text())

    monkeypatch.setattr(script.np, "__version__", "9.9.9")
    _, out, _ = command("--resume", run, "--total-timesteps", 140)
    (line,) = [line for line in out.splitlines() if "other versions" in line]
    assert f"numpy 9.9.9 instead of {began_with['numpy']}" in line
    _, out, _ = command("--resume", run, "--total-timesteps", 150)
    assert "other versions" not in out
    content = json.loads((run / "args.json").read_text())
    assert content["versions"] == began_with
    (resumed,) = content["resumed"]
    assert resumed["step"] == 120
    assert resumed["versions"]["numpy"] == "9.9.9"
