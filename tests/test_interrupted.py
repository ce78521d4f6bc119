"""Ctrl-C, and a disk that is full: the run says where it stands, and can go on."""

import errno
import os
import re
import signal
from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest
from helpers import (
    POINT,
    QUICK,
    arguments,
    change_arguments,
    checkpoint_step,
    heed_sigint,
    refused,
    summary,
    wait_for,
)

import ddpg_continuous as script

resource = pytest.importorskip("resource")  # not on Windows
pytestmark = pytest.mark.usefixtures("folder")


def test_ctrl_c_leaves_plots_and_summary_says_where_they_are_and_the_run_can_go_on(
    start, command, folder
):
    run = folder / "runs/stopped"
    flags = (
        *(*POINT, "--total-timesteps", 50_000, "--eval-every", 700, "--checkpoint-every", 1000),
        *("--run-name", "stopped"),
    )
    process = start(*flags, program=(script.__file__,), preexec_fn=heed_sigint)
    wait_for(lambda: checkpoint_step(run) > 0, process)
    for file in run.glob("learning_curve.*"):
        file.unlink()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    last_line = out.splitlines()[-1]
    steps = int(re.search(r"stopped after (\d+) steps: .*stopped$", last_line)[1])
    assert summary(run)["steps"] == steps
    assert 1000 <= steps < 50_000
    assert matplotlib.image.imread(run / "learning_curve.png").std() > 0.01
    assert (run / "learning_curve.pdf").read_bytes().startswith(b"%PDF-")
    total = 10 * (steps // 10) + 20
    change_arguments(run, total_timesteps=total)  # for the resumed run to be short
    assert command("--resume", run)[0] == 0
    assert pd.read_csv(run / "episodes.csv")["step"].iloc[-1] == summary(run)["steps"] == total


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_the_last_one(
    command, folder, monkeypatch
):
    replace = os.replace

    def full_from_the_third_checkpoint_on(source, target):
        is_checkpoint = Path(target).name == "checkpoint.pt"
        if is_checkpoint and Path(target).exists() and checkpoint_step(run) == 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    run = folder / "runs/full"
    flags = (*POINT, "--total-timesteps", 100, "--checkpoint-every", 30, "--eval-every", 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_from_the_third_checkpoint_on)
        result = command(*flags, "--run-name", "full")
    message = refused(result, "step 60:", "No space left", "checkpoint of step 30 is intact")
    assert message.startswith("step 60:")
    assert checkpoint_step(run) == 30
    assert command("--resume", run)[0] == 0
    assert checkpoint_step(run) == 90


def limit_file_size(size):
    """What a process does first, so that no file can grow beyond `size`.

    Writes fail half-way, as on a disk that is full. Python ignores the signal that comes with it.
    """
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    ("flags", "size", "is_of_checkpoint"),
    [
        # Buffer and checkpoint.pt grow by 28 bytes per step: the first fits, a later one does not
        ((*POINT, "--learning-starts", 9000, "--checkpoint-every", 500), 90_000, True),
        # The buffer stays small: the logs, CSV and TensorBoard, outgrow the disk
        pytest.param(
            *((*QUICK, "--buffer-size", 50, "--checkpoint-every", 100), 50_000, False),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["checkpoint", "logs"],
)
def test_a_full_disk_ends_the_run_with_one_line_and_leaves_the_last_checkpoint(
    flags, size, is_of_checkpoint, start, command, folder
):
    run = folder / "runs/full"
    flags = (*flags, "--total-timesteps", 20_000, "--eval-every", 0, "--run-name", "full")
    process = start(*flags, preexec_fn=limit_file_size(size))
    _, err = process.communicate(timeout=300)
    message = refused((process.returncode, "", err), "File too large")
    assert re.match(r"step \d+: ", message)
    step = script.load_weights(run / "checkpoint.pt")["progress"]["step"]  # it is whole
    assert 100 <= step < 20_000
    if is_of_checkpoint:
        room = size - (run / "checkpoint.pt").stat().st_size
        assert room < 28 * 500, "the next one would have fitted"

    assert arguments(run)["total_timesteps"] == 20_000
    change_arguments(run, total_timesteps=step + 60)  # for the resumed run to be short
    assert command("--resume", run)[0] == 0
    assert summary(run)["steps"] == step + 60
