"""One rule for every path, flag, stream and signal of the command line."""

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import (
    POINT,
    SMALL,
    change_arguments,
    checkpoint_step,
    heed_sigint,
    process_variables,
    refused,
    snapshot,
    summary,
    train_in,
    wait_for,
)

import ddpg_continuous as script

pytestmark = pytest.mark.usefixtures("folder")
FLAGS = (*POINT, "--total-timesteps", 60, "--eval-every", 30)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a finished run: never changed, but copied."""
    return train_in(tmp_path_factory.mktemp("finished"), script, *FLAGS, "--run-name", "run")


@pytest.fixture
def run(finished, folder):
    """The directory of a finished run, one's own copy."""
    return Path(shutil.copytree(finished, folder / "runs/run"))


# -------------------------------------------------------------------------------------------- paths
def test_the_home_folder_is_meant_by_a_tilde_in_every_path(command, folder, monkeypatch):
    """The shell leaves it in --runs-dir=~/x."""
    monkeypatch.setenv("HOME", str(folder / "home"))
    assert command(*FLAGS, "--runs-dir=~/x", "--run-name", "run")[0] == 0
    run = folder / "home/x/run"
    assert {"args.json", "episodes.csv", "best.pt"} <= {file.name for file in run.iterdir()}
    assert command("--resume=~/x/run", "--total-timesteps", "80")[0] == 0
    assert summary(run)["steps"] == 80
    assert command("--evaluate=~/x/run/best.pt", "--eval-episodes", "1")[0] == 0
    assert [path.name for path in folder.iterdir()] == ["home"]


@pytest.mark.parametrize("flag", ["--resume", "--evaluate", "--runs-dir", "--run-name", "--env-id"])
def test_an_empty_value_as_of_an_unset_variable_trains_nothing(flag, command, folder):
    refused(command(*FLAGS, flag, ""), flag, "empty")
    assert not list(folder.iterdir())


def test_a_folder_without_a_run_is_no_run_whichever_flag_names_it(command, folder):
    (folder / "runs/notes").mkdir(parents=True)
    (folder / "runs/notes/notes.txt").write_text("mine")
    before = snapshot(folder)
    message = refused(command("--resume", "runs/notes"), "runs/notes holds no run", "args.json")
    assert "--run-name" not in message
    message = refused(command(*FLAGS, "--run-name", "notes"), "notes exists", "holds no run")
    assert "--resume" not in message
    assert snapshot(folder) == before


def test_an_empty_folder_or_one_of_a_run_killed_at_once_is_taken(command, folder):
    for name in ("empty", "killed"):
        (folder / "runs" / name).mkdir(parents=True)
    (folder / "runs/killed/.lock").touch()
    (folder / "runs/killed/args.json.new").write_text('{"script":')
    for name in ("empty", "killed"):
        assert command(*FLAGS, "--run-name", name)[0] == 0


def test_a_run_that_another_process_begins_at_the_same_time_is_not_written_to(
    command, folder, monkeypatch
):
    acquire = script.filelock.FileLock.acquire

    def too_late(lock, **options):
        (folder / "runs/run/args.json").write_text("{}")
        return acquire(lock, **options)

    monkeypatch.setattr(script.filelock.FileLock, "acquire", too_late)
    refused(command(*FLAGS, "--run-name", "run"), "holds a run")
    assert (folder / "runs/run/args.json").read_text() == "{}"


def test_a_file_in_the_place_of_the_run_is_refused(command, folder):
    (folder / "runs").mkdir()
    (folder / "runs/run").write_text("mine")
    refused(command(*FLAGS, "--run-name", "run"), "run exists")
    assert (folder / "runs/run").read_text() == "mine"


# ---------------------------------------------------------------------------------------- args.json
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_sizes", [16.0, 16]),
        ("hidden_sizes", [16]),
        ("hidden_sizes", 16),
        ("total_timesteps", 60.0),
        ("total_timesteps", None),
        ("batch_size", "8"),
        ("device", "gpu"),
        ("noise", "foo"),
        ("norm", None),
        ("anneal", "false"),
        ("gamma", "0.99"),
        ("env_id", 3),
        ("run_name", 7),
        ("hidden_sizes", [True, 16]),
        ("seed", True),
    ],
)
def test_an_args_json_edited_by_hand_is_held_to_the_types_that_args_declares(
    name, value, command, run
):
    change_arguments(run, **{name: value})
    before = snapshot(run)
    refused(command("--resume", "runs/run"), "args.json", name)
    assert snapshot(run) == before


def test_an_integer_where_args_declares_a_float_is_accepted(command, run):
    change_arguments(run, gamma=1)
    assert command("--resume", "runs/run")[0] == 0


# ---------------------------------------------------------------------------------- flags, evaluate
@pytest.mark.usefixtures("run")
def test_flags_at_their_defaults_are_allowed_beside_evaluate(command):
    flags = ("--eval-episodes", 1, "--no-render", "--no-capture-video")
    assert command("--evaluate", "runs/run/best.pt", *flags)[0] == 0


# ------------------------------------------------------------------------------------------ streams
def test_a_notebooks_stdout_without_reconfigure_will_do(command):
    stdout = io.StringIO()
    assert not hasattr(stdout, "reconfigure")
    with contextlib.redirect_stdout(stdout):
        assert command(*FLAGS)[0] == 0
    assert "finished after 60 steps" in stdout.getvalue()


def in_a_shell(folder, flags, rest):
    """Runs the script's file by a line of a shell: exit status, stdout, stderr."""
    line = shlex.join([sys.executable, script.__file__, *map(str, flags)])
    done = subprocess.run(
        ["bash", "-c", f"{line} {rest}"],
        cwd=folder,
        env=process_variables(),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_closed_stream_is_no_reason_to_fail_and_nothing_is_printed_into_a_file(closed, folder):
    status, _, err = in_a_shell(folder, (*FLAGS, "--run-name", "run"), closed)
    assert (status, err) == (0, "")
    assert summary(folder / "runs/run")["steps"] == 60
    assert (folder / "runs/run/episodes.csv").read_text().startswith("step,episode,")


@pytest.mark.parametrize("flags", [("--help",), ("--evaluate", "runs/run/best.pt")])
@pytest.mark.usefixtures("run")
def test_what_nobody_reads_to_its_end_leaves_no_traceback(flags, start):
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = start(*flags, program=(script.__file__,), stdout=write_end)
    os.close(write_end)
    err = process.stderr.read()
    assert (process.wait(), err) == (1, "")


def test_a_training_whose_output_nobody_reads_stops_in_one_line_and_can_go_on(start, command):
    read_end, write_end = os.pipe()
    os.close(read_end)
    flags = ("--env-id", "Pendulum-v1", *SMALL, "--total-timesteps", 210, "--run-name", "run")
    process = start(*flags, program=(script.__file__,), stdout=write_end)
    os.close(write_end)
    err = process.stderr.read()
    refused((process.wait(), "", err), "step 0:", "Broken pipe", "is intact")
    assert command("--resume", "runs/run")[0] == 0


def test_logs_that_cannot_be_closed_hide_no_earlier_error(command, monkeypatch):
    def fail(*_, **__):
        raise ValueError("queue lost")

    monkeypatch.setattr(script.Logger, "close", fail)
    status, out, err = command(*FLAGS)
    assert status == 0
    assert "the logs were not closed: queue lost" in err
    assert "finished after 60 steps" in out


def test_each_line_is_printed_at_once_and_in_the_signs_that_the_stream_has(folder, monkeypatch):
    with (folder / "output").open("w", encoding="ascii", newline="\n") as output:
        monkeypatch.setattr(sys, "stdout", output)
        script.prepare_streams()
        print("1 ± 2")
        assert (folder / "output").read_bytes() == b"1 ? 2\n"


# ------------------------------------------------------------------------------------------ signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_shell_has_switched_off_stays_off(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        script.prepare_signals()
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_in_another_thread_than_the_main_one_signals_stay_as_they_are():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(script.prepare_signals).result()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_while_the_libraries_are_imported_leaves_no_traceback(start, folder):
    slow = "open('importing', 'w').close(); import time; time.sleep(60)"
    (folder / "typeguard.py").write_text(slow)  # imported after torch
    process = start(
        program=(script.__file__,),
        variables={"PYTHONPATH": str(folder)},
        preexec_fn=heed_sigint,
    )
    wait_for((folder / "importing").exists, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (-signal.SIGINT, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_tensorboards_code_waits_for_its_end(
    number, command, folder, monkeypatch
):
    """An exception there could leave a lock held, for which closing would wait for ever."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    add_scalar = script.tensorboard.summary.Writer.add_scalar
    whole = []

    def interrupted(writer, *values):
        os.kill(os.getpid(), number)
        add_scalar(writer, *values)
        whole.append(values)

    monkeypatch.setattr(script.tensorboard.summary.Writer, "add_scalar", interrupted)
    status, out, _ = command(*FLAGS, "--run-name", "run")
    assert status == 128 + number
    assert "stopped after 0 steps" in out
    assert len(whole) == 2  # mean and standard deviation of the evaluation at step 0


FORKS = """if True:
    import os, signal
    import ddpg_continuous as script
    script.prepare_signals()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write_end, b"ready")
        signal.pause()
    os.read(read_end, 5)
    os.kill(pid, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_process_that_an_environment_forks_ends_at_sigterm_at_once(start):
    out, err = start(program=("-c", FORKS)).communicate()
    assert (out.strip(), err) == (str(-signal.SIGTERM), "")


def test_sigterm_does_what_ctrl_c_does_and_exits_with_143(start, command, folder):
    run = folder / "runs/stopped"
    flags = (
        *(*POINT, "--total-timesteps", 50_000, "--eval-every", 700, "--checkpoint-every", 1000),
        *("--run-name", "stopped"),
    )
    process = start(*flags, program=(script.__file__,))
    wait_for(lambda: checkpoint_step(run) > 0, process)
    for file in run.glob("learning_curve.*"):
        file.unlink()
    process.terminate()
    out, err = process.communicate()
    assert (process.returncode, err) == (143, "")
    last_line = out.splitlines()[-1]
    steps = int(re.search(r"stopped after (\d+) steps: .*stopped$", last_line)[1])
    assert summary(run)["steps"] == steps
    assert (run / "learning_curve.png").exists()
    change_arguments(run, total_timesteps=steps + 20)  # for the resumed run to be short
    assert command("--resume", run)[0] == 0
    assert summary(run)["steps"] == steps + 20
