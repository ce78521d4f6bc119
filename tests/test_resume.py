"""A run that is killed at any moment and resumed equals one never killed, bit for bit."""

import json
import math
import signal
import time

import pandas as pd
import pytest
import torch
from helpers import (
    LOGS,
    POINT,
    SMALL,
    Killed,
    arguments,
    assert_events_equal_csvs,
    assert_same_logs,
    assert_same_run,
    change_arguments,
    checkpoint_step,
    is_same,
    load,
    refused,
    snapshot,
    summary,
    wait_for,
)

import ddpg_continuous as script

# 55 steps with evaluations, checkpoints, a buffer that overflows, and running averages
SHORT = (
    *(*POINT, "--learning-starts", 15, "--total-timesteps", 55, "--checkpoint-every", 20),
    *("--eval-every", 18, "--eval-episodes", 1, "--buffer-size", 30, "--norm", "batch"),
)
WALKER = (
    *("--env-id", "BipedalWalker-v3", *SMALL, "--learning-starts", 350, "--eval-episodes", 1),
    *("--seed", 83, "--total-timesteps", 500, "--eval-every", 200, "--checkpoint-every", 40),
)
pytestmark = pytest.mark.usefixtures("folder")


class Writes:
    """Counts what the script writes to disk; before the write number `end_at`, raises `error`."""

    def __init__(self):
        self.expect()

    def expect(self, end_at=math.inf, error=Killed):
        self.count = 0
        self.end_at = end_at
        self.error = error

    def counted(self, write):
        def counting(*args, **options):
            self.count += 1
            if self.count == self.end_at:
                raise self.error
            return write(*args, **options)

        return counting


@pytest.fixture
def writes(monkeypatch):
    writes = Writes()
    monkeypatch.setattr(script, "write_atomically", writes.counted(script.write_atomically))
    monkeypatch.setattr(script.Logger, "log", writes.counted(script.Logger.log))
    monkeypatch.setattr(script, "LOG_EVERY", 5)
    return writes


# ------------------------------------------------------------------------------------- every moment
def test_a_run_killed_before_any_of_its_writes_and_resumed_equals_one_never_killed(
    command, folder, writes
):
    assert command(*SHORT, "--run-name", "reference")[0] == 0
    num_writes = writes.count
    assert num_writes > 20
    for write in range(2, num_writes + 1):  # before the first there is nothing to resume
        writes.expect(end_at=write)
        with pytest.raises(Killed):
            command(*SHORT, "--run-name", write)
        writes.expect()
        status, _, err = command("--resume", f"runs/{write}")
        assert (status, err) == (0, ""), f"killed before write {write}"
        assert_same_run(folder / "runs" / str(write), folder / "runs/reference")


def test_ctrl_c_before_any_write_changes_nothing_in_the_resumed_run(command, folder, writes):
    assert command(*SHORT, "--run-name", "reference")[0] == 0
    for write in (7, 12, 17):
        writes.expect(end_at=write, error=KeyboardInterrupt)
        assert command(*SHORT, "--run-name", write)[0] == 130
        writes.expect()
        assert command("--resume", f"runs/{write}")[0] == 0
        assert_same_run(folder / "runs" / str(write), folder / "runs/reference")


def test_a_run_killed_again_and_again_equals_one_never_killed(command, folder, writes):
    assert command(*SHORT, "--run-name", "reference")[0] == 0
    writes.expect(end_at=12)
    with pytest.raises(Killed):
        command(*SHORT, "--run-name", "killed")
    for write in (3, 10, 11, 9):
        writes.expect(end_at=write)
        with pytest.raises(Killed):
            command("--resume", "runs/killed")
    writes.expect()
    for _ in range(2):  # once more, though complete: nothing changes
        assert command("--resume", "runs/killed")[0] == 0
        assert_same_run(folder / "runs/killed", folder / "runs/reference")


def test_a_run_killed_before_its_first_step_or_checkpoint_starts_again(command, folder, writes):
    writes.expect(end_at=8)
    flags = (*POINT, "--total-timesteps", 130, "--eval-every", 20, "--run-name", "killed")
    with pytest.raises(Killed):
        command(*flags)
    writes.expect()
    evaluations = folder / "runs/killed/evaluations.csv"
    assert len(pd.read_csv(evaluations)) > 1
    assert load(folder / "runs/killed/checkpoint.pt")["progress"]["step"] == 0
    assert command("--resume", "runs/killed")[0] == 0
    steps = [0, 20, 40, 60, 80, 100, 120, 130]
    assert list(pd.read_csv(evaluations)["step"]) == steps


def test_a_bipedal_walker_killed_after_each_of_its_checkpoints_equals_one_never_killed(
    command, folder, monkeypatch
):
    """Its Box2D world remembers, across resets, what a new one cannot know."""
    assert command(*WALKER, "--run-name", "reference")[0] == 0
    save_checkpoint = script.Run.save_checkpoint

    def last_deed(run):
        save_checkpoint(run)
        raise Killed

    monkeypatch.setattr(script.Run, "save_checkpoint", last_deed)
    flags = (*WALKER, "--run-name", "killed")
    kills = 0
    while True:
        try:
            assert command(*flags)[0] == 0
            break
        except Killed:
            flags = ("--resume", "runs/killed")
            kills += 1
    assert kills >= 4
    assert_same_run(folder / "runs/killed", folder / "runs/reference")


def test_a_bipedal_walker_depends_on_the_world_that_is_renewed_after_a_checkpoint(
    command, folder, monkeypatch
):
    """So that the test above could fail."""
    assert command(*WALKER, "--run-name", "reference")[0] == 0
    monkeypatch.setattr(script.CheckedEnv, "renew", lambda env: None)
    assert command(*WALKER, "--run-name", "kept")[0] == 0
    log = "episodes.csv"
    assert (folder / "runs/kept" / log).read_bytes() != (
        folder / "runs/reference" / log
    ).read_bytes()


@pytest.mark.slow
def test_a_bipedal_walker_killed_by_sigkill_at_various_moments_equals_one_never_killed(
    command, start, folder
):
    assert command(*WALKER, "--run-name", "reference")[0] == 0
    run = folder / "runs/killed"

    def kill(process, condition, delay=0.0):
        wait_for(condition, process)
        time.sleep(delay)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was to be killed while it runs"

    # Before its first checkpoint, after it, and once more at any moment
    kill(start(*WALKER, "--run-name", "killed"), (run / "args.json").exists)
    kill(start("--resume", run), lambda: checkpoint_step(run) > 0)
    known = set(run.glob("events.*"))
    delay = 0.1  # seconds after it has begun: whatever it does then
    kill(start("--resume", run), lambda: set(run.glob("events.*")) - known, delay)
    assert command("--resume", run)[0] == 0
    assert_same_run(run, folder / "runs/reference")


def test_the_wall_time_goes_on_after_a_resume(command, folder):
    flags = (*POINT, "--no-anneal", "--eval-every", 0, "--checkpoint-every", 60)
    assert command(*flags, "--total-timesteps", 70, "--run-name", "run")[0] == 0
    checkpoint = folder / "runs/run/checkpoint.pt"
    content = script.load_weights(checkpoint)
    assert content["progress"]["seconds"] > 0
    content["progress"]["seconds"] = 1000.0
    script.save_weights(checkpoint, content)
    assert command("--resume", "runs/run", "--total-timesteps", 130)[0] == 0
    assert 1000 < summary(folder / "runs/run")["wall_time_seconds"] < 1300
    assert 1000 < load(checkpoint)["progress"]["seconds"] < 1300


# ------------------------------------------------------------------------------------ the directory
def test_a_run_directory_is_locked_while_a_process_writes_to_it_and_free_once_that_is_killed(
    command, start, folder
):
    flags = (*POINT, "--no-anneal", "--eval-every", 200, "--checkpoint-every", 150)
    run = folder / "runs/locked"
    process = start(*flags, "--total-timesteps", 100_000, "--run-name", "locked")
    wait_for(lambda: checkpoint_step(run) > 0, process)
    process.send_signal(signal.SIGSTOP)
    before = snapshot(run)
    refused(command("--resume", run), "is in use")
    assert snapshot(run) == before

    process.kill()
    assert process.wait() == -signal.SIGKILL
    total = checkpoint_step(run) + 200  # for the rest to be short
    change_arguments(run, total_timesteps=total)
    assert command("--resume", run)[0] == 0
    assert command(*flags, "--total-timesteps", total, "--run-name", "reference")[0] == 0
    assert_same_run(run, folder / "runs/reference")


def test_a_resume_deletes_no_file_that_is_not_its_own(command, folder):
    flags = (*POINT, "--checkpoint-every", 60, "--run-name", "run", "--eval-every", 0)
    assert command(*flags, "--total-timesteps", 70)[0] == 0
    notes = folder / "runs/run/notes.csv"
    notes.write_text("seed,remark\n0,lands softly\n")
    assert command("--resume", "runs/run", "--total-timesteps", 80)[0] == 0
    assert notes.read_text() == "seed,remark\n0,lands softly\n"


# --------------------------------------------------------------------------------------- more steps
@pytest.mark.parametrize("noise", ["ou", "gaussian"])
def test_a_run_resumed_with_more_steps_equals_one_that_had_them_from_the_start(
    noise, command, folder, monkeypatch
):
    monkeypatch.setattr(script, "LOG_EVERY", 10)
    flags = (*POINT, "--checkpoint-every", 60, "--eval-every", 50, "--noise", noise)
    flags = (*flags, "--no-anneal")  # rates that fall until the last step would fall more slowly
    assert command(*flags, "--total-timesteps", 130, "--run-name", "resumed")[0] == 0
    assert command("--resume", "runs/resumed", "--total-timesteps", 210)[0] == 0
    assert command(*flags, "--total-timesteps", 210, "--run-name", "reference")[0] == 0
    run, reference = folder / "runs/resumed", folder / "runs/reference"
    assert_same_logs(run, reference)
    assert is_same(load(run / "last.pt")["agent"], load(reference / "last.pt")["agent"])
    assert_events_equal_csvs(run)
    assert arguments(run)["total_timesteps"] == 210
    (extension,) = json.loads((run / "args.json").read_text())["extended"]
    assert extension["total_timesteps"] == 130
    assert 60 <= extension["step"] <= 130  # that of the checkpoint
    assert "extended" not in json.loads((reference / "args.json").read_text())


def test_the_best_weights_are_those_of_the_best_evaluation_after_a_resume_too(
    command, folder, monkeypatch
):
    means = {0: 1.0, 50: 5.0, 65: 9.0, 100: 3.0, 120: 4.0}  # 65: the end of the shorter run
    weights = {}
    evaluate = script.Run.evaluate

    def noting_the_weights(run):
        weights[run.progress.step] = run.training.agent.actor.output.weight.clone()
        evaluate(run)

    monkeypatch.setattr(script.Run, "evaluate", noting_the_weights)
    monkeypatch.setattr(script, "episodic_returns", lambda *_: [means[max(weights)]] * 2)
    flags = (*POINT, "--checkpoint-every", 60, "--eval-every", 50, "--run-name", "run")
    run = folder / "runs/run"
    for words in (
        (*flags, "--total-timesteps", 65),
        ("--resume", "runs/run", "--total-timesteps", 120),
    ):
        assert command(*words)[0] == 0
        best = summary(run)["best_evaluation"]
        assert best["mean"] == means[best["step"]]
        kept = load(run / "best.pt")["agent"]["networks"]["actor.output.weight"]
        assert torch.equal(kept, weights[best["step"]]), "other weights than the summary says"


# -------------------------------------------------------------------------------------- checkpoints
def test_checkpoints_fall_on_the_first_episode_end_after_every_so_many_steps(command, monkeypatch):
    steps = []
    save_checkpoint = script.Run.save_checkpoint

    def noting_the_step(run):
        steps.append(run.progress.step)
        save_checkpoint(run)

    monkeypatch.setattr(script.Run, "save_checkpoint", noting_the_step)
    flags = (*POINT, "--total-timesteps", 140, "--eval-every", 0, "--checkpoint-every", 35)
    assert command(*flags)[0] == 0
    assert steps == [40, 70, 110, 140]  # episodes have 10 steps


def test_a_resume_takes_from_the_logs_what_came_after_the_checkpoint(command, folder, writes):
    flags = (*POINT, "--checkpoint-every", 60, "--eval-every", 0, "--total-timesteps", 115)
    assert command(*flags, "--run-name", "run")[0] == 0
    run = folder / "runs/run"
    logged = {log: (run / log).read_bytes() for log in LOGS if (run / log).exists()}
    writes.expect(end_at=2)  # the first is that of args.json, the second a line of a log
    with pytest.raises(Killed):
        command("--resume", run, "--total-timesteps", 120)
    for log, content in logged.items():
        left = (run / log).read_bytes()
        assert content.startswith(left)
        assert pd.read_csv(run / log)["step"].max() == 60
    assert_events_equal_csvs(run)
