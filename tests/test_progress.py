"""What a run says of its progress: the bar, the lines, and when it counts as solved."""

import os
import re
import struct
from types import SimpleNamespace

import pytest
from helpers import POINT, QUICK, summary
from tqdm import tqdm

import ddpg_continuous as script

fcntl = pytest.importorskip("fcntl")  # none of these is there on Windows
pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")
REACHED = "100-episode mean of the training return has reached"
pytestmark = pytest.mark.usefixtures("folder")


def assert_shows_how_far_it_is(bar):
    for part in (
        r"episode\W+\d",
        r"\breturn\W+\d",
        r"100-episode mean\W+\d",
        r"steps?/s",
        r"<[\d:]+",  # the time left
    ):
        assert re.search(part, bar), bar


# ------------------------------------------------------------------------------------------ the bar
def test_without_a_terminal_a_line_every_ten_seconds_says_how_far_it_is(command, monkeypatch):
    intervals = []

    def impatient(**options):
        intervals.append(options.pop("mininterval"))
        return tqdm(**options, mininterval=0)

    monkeypatch.setattr(script, "tqdm", impatient)
    _, out, err = command(*POINT, "--total-timesteps", 60)
    assert err == ""
    assert intervals == [10]
    lines = [line for line in out.splitlines() if "/60 [" in line]
    assert len(lines) == 60
    assert_shows_how_far_it_is(lines[-1])


def read_all(terminal):
    """What a process writes to a terminal until it ends."""
    output = b""
    while True:
        try:
            chunk = os.read(terminal, 10_000)
        except OSError:  # Linux: the other end is closed
            return output.decode()
        if not chunk:
            return output.decode()
        output += chunk


def test_a_terminal_shows_a_progress_bar_and_the_threshold_line(start):
    terminal, other_end = pty.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 160, 0, 0))
    process = start(*QUICK, "--total-timesteps", 300, stdout=other_end, stderr=other_end)
    os.close(other_end)
    output = read_all(terminal)
    os.close(terminal)
    assert process.wait() == 0, output
    bars = [part for part in re.split(r"[\r\n]+", output) if "/300" in part]
    assert len(bars) > 1, "it is redrawn"
    assert_shows_how_far_it_is(next(bar for bar in bars if "100-episode mean" in bar))
    assert output.count(REACHED) == 1
    assert "Traceback" not in output


# ------------------------------------------------------------------------------------------- solved
def lines_of_the_threshold(out):
    return [line for line in out.splitlines() if REACHED in line]


def test_reaching_the_threshold_in_training_is_said_once_and_not_again_after_a_resume(
    command, folder
):
    run = folder / "runs/quick"
    flags = (*QUICK, "--checkpoint-every", 50, "--run-name", "quick")
    status, out, _ = command(*flags, "--total-timesteps", 298)
    assert status == 0
    (line,) = lines_of_the_threshold(out)
    # Episodes have two steps, a return of about 2, and a threshold of 1.5
    assert "step 200" in line
    assert summary(run)["solved_at_step_by"] == {"training": 200}
    status, out, _ = command("--resume", run, "--total-timesteps", 420)
    assert status == 0
    assert not lines_of_the_threshold(out)
    assert summary(run)["solved_at_step_by"] == {"training": 200}


def test_the_hundred_episodes_of_that_mean_go_on_counting_after_a_resume(command):
    flags = (*QUICK, "--checkpoint-every", 50, "--run-name", "quick")
    assert command(*flags, "--total-timesteps", 160)[0] == 0
    status, out, _ = command("--resume", "runs/quick", "--total-timesteps", 240)
    assert status == 0
    (line,) = lines_of_the_threshold(out)
    assert "step 200" in line


def test_ninety_nine_episodes_above_the_threshold_are_not_enough(command):
    status, out, _ = command(*QUICK, "--total-timesteps", 199)
    assert status == 0
    assert not lines_of_the_threshold(out)


def test_the_mean_is_that_of_the_last_hundred_episodes_alone(tmp_path):
    """A hundred returns of 0, then of 3: the 67th of these brings the mean to 2.01."""
    progress = script.Progress()
    logger = SimpleNamespace(**dict.fromkeys(("log", "show", "message"), lambda *_: None))
    training = SimpleNamespace(progress=progress)
    run = script.Run(script.Args(), training, tmp_path, logger, threshold=2.0)
    for episode in range(1, 201):
        progress.step = episode
        progress.episodic_return = 0.0 if episode <= 100 else 3.0
        run.after_episode()
    assert progress.solved_at_step_by == {"training": 167}
    assert len(progress.last_returns) == 100


def test_solved_by_evaluation_is_the_first_evaluation_at_the_threshold(
    command, folder, monkeypatch
):
    # The threshold is 1.5
    returns = iter([[1.0, 1.0], [2.0, 0.9], [1.0, 2.0], [0.0, 0.0], [9.0, 9.0]])
    monkeypatch.setattr(script, "episodic_returns", lambda *_: next(returns))
    flags = (*QUICK, "--eval-every", 20, "--total-timesteps", 80, "--run-name", "quick")
    assert command(*flags)[0] == 0
    content = summary(folder / "runs/quick")
    last = {"step": 80, "mean": 9.0, "std": 0.0}
    assert content["solved_at_step_by"] == {"evaluation": 40}
    assert content["best_evaluation"] == content["final_evaluation"] == last
