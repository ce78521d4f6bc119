"""benchmark/sweep.py and study.py: which runs there are, that none is lost, what one is told.

The tests that let Ray train are marked slow; the others start nothing that lasts.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import filelock
import pytest
import study
from helpers import LOGS, ROOT, assert_same_logs, checkpoint_step, heed_sigint, pretend, refused

import ddpg_continuous

pytest.importorskip("ray")  # both are in requirements-dev.txt
pytest.importorskip("rich")

import sweep

SMALL = """
question = "Does a small sweep end?"
script = "ddpg_continuous.py"
seeds = [0, 1]

[environments.Pendulum-v1]
solved = -170
total-timesteps = 4_000
learning-starts = 200
hidden-sizes = [16, 16]
batch-size = 8
eval-every = 1_000
eval-episodes = 2
checkpoint-every = 400

[settings.default]
"""
PEERS = """
question = "Which library is faster?"
peers = true
seeds = [0]

[environments.Pendulum-v1]
total-timesteps = 100
eval-every = 50
eval-episodes = 2
[settings.sb3-ddpg]
"""


@pytest.fixture
def file(tmp_path):
    """A study of two runs of a few seconds each."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def start(file, tmp_path):
    """Starts a sweep in a process of its own, which the end of the test ends too."""
    processes = []
    script = str(ROOT / "benchmark" / "sweep.py")

    def run(*flags):
        command = [sys.executable, script, str(file), "--results", str(tmp_path / "res")]
        output = tmp_path / f"out-{len(processes)}"
        with output.open("w") as out:
            process = subprocess.Popen(
                [*command, *map(str, flags)],
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=heed_sigint,
            )
        process.output = output
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.terminate()
        process.wait(60)


def run_folder(tmp_path, seed, setting="default"):
    return tmp_path / "res" / "small" / "Pendulum-v1" / setting / f"seed-{seed}"


def log_of(path):
    """What a run has printed."""
    return path.with_suffix(".log").read_text()


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """The same runs by the commands that a dry run prints, pasted into a shell and left alone."""
    path = tmp_path_factory.mktemp("reference")
    (path / "small.toml").write_text(SMALL)
    words = [path / "small.toml", "--results", path / "res", "--dry-run"]
    command = [sys.executable, "benchmark/sweep.py", *words]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"(?m)^  python (.*)", printed)
    assert len(lines) == 2
    processes = []
    for line in lines:
        pasted = f"{shlex.quote(sys.executable)} {line}"
        process = subprocess.Popen(pasted, cwd=ROOT, shell=True, stdout=subprocess.DEVNULL)
        processes.append(process)
    for process in processes:
        assert process.wait(300) == 0
    return path


def same_as_uninterrupted(tmp_path, reference):
    for seed in (0, 1):
        assert_same_logs(run_folder(tmp_path, seed), run_folder(reference, seed))


def writers(path):
    """Pids and parents' pids of the processes that train in a run's directory."""
    command = ["ps", "-axww", "-o", "pid=,ppid=,stat=,args="]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    begins = f"--runs-dir {re.escape(str(path.parent))} --run-name {path.name}"
    goes_on = f"--resume {re.escape(str(path))}"
    found = []
    for line in listed.splitlines():
        columns = line.split(None, 3)
        is_alive = len(columns) == 4 and not columns[2].startswith("Z")
        if is_alive and "runpy" in line and re.search(rf"({begins}|{goes_on})( |$)", line):
            found.append((int(columns[0]), int(columns[1])))
    return found


def parent(pid):
    command = ["ps", "-o", "ppid=", "-p", str(pid)]
    return int(subprocess.run(command, capture_output=True, text=True).stdout)


def wait_until(condition, process=None, seconds=120):
    """Waits until a condition holds; fails if a sweep ends before."""
    until = time.monotonic() + seconds
    while not condition():
        output = ""
        if process is not None:
            output = process.output.read_text()
            assert process.poll() is None, output
        assert time.monotonic() < until, output
        time.sleep(0.02)


def wait_for_checkpoint(path, process):
    """Waits until a run is going and has a checkpoint: the pids of its process and its worker."""
    wait_until(lambda: checkpoint_step(path) > 0 and writers(path), process)
    return writers(path)[0]


def ends_with(process, status, *paths):
    """Waits for the end of a sweep; meanwhile no run has two processes that train it."""
    until = time.monotonic() + 600
    while process.poll() is None:
        assert time.monotonic() < until, process.output.read_text()
        for path in paths:
            assert len(writers(path)) <= 1
        time.sleep(0.1)
    assert process.returncode == status, process.output.read_text()


# ------------------------------------------------------------------------------------ what may die
@pytest.mark.slow
def test_a_run_whose_worker_is_killed_dies_with_it_and_goes_on_bit_for_bit(
    start, tmp_path, reference
):
    paths = [run_folder(tmp_path, seed) for seed in (0, 1)]
    process = start()
    pid, worker = wait_for_checkpoint(paths[0], process)
    os.kill(worker, signal.SIGKILL)

    wait_until(lambda: pid not in dict(writers(paths[0])), seconds=60)
    ends_with(process, 0, *paths)
    assert log_of(paths[0]).count("$ python ddpg_continuous.py --resume") == 1
    same_as_uninterrupted(tmp_path, reference)


@pytest.mark.slow
def test_when_one_of_two_nodes_dies_at_once_its_run_waits_for_the_lock_and_goes_on_bit_for_bit(
    start, tmp_path, reference
):
    """The node's raylet and worker die before they can clean up; their orphan notices by itself."""
    from ray.cluster_utils import Cluster

    paths = [run_folder(tmp_path, seed) for seed in (0, 1)]
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(num_cpus=1)
        raylet = node.all_processes["raylet"][0].process.pid
        process = start("--address", cluster.address)
        pids = {path: wait_for_checkpoint(path, process) for path in paths}
        (path,) = [path for path, (_, worker) in pids.items() if parent(worker) == raylet]
        orphan, worker = pids[path]
        os.kill(raylet, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        # The lock is free once the orphan has died; then it is held in its place
        with filelock.FileLock(path / ".lock", timeout=60):
            assert orphan not in [pid for pid, _ in writers(path)]
            cluster.remove_node(node, allow_graceful=False)
            wait_until(lambda: "waiting: another process writes there" in log_of(path), process)
            time.sleep(2)
            assert writers(path) == []
            assert log_of(path).count("$ python") == 1, "it waits"
        ends_with(process, 0, *paths)
    finally:
        cluster.shutdown()
    assert sorted(log_of(path).count("$ python") for path in paths) == [1, 2]
    assert log_of(path).count("--resume") == 1
    same_as_uninterrupted(tmp_path, reference)


@pytest.mark.slow
def test_a_sweep_that_is_killed_takes_its_runs_with_it_and_the_same_command_ends_them_bit_for_bit(
    start, tmp_path, reference
):
    paths = [run_folder(tmp_path, seed) for seed in (0, 1)]
    process = start()
    wait_for_checkpoint(paths[0], process)
    process.kill()
    wait_until(lambda: not writers(paths[0]) and not writers(paths[1]), seconds=60)
    ends_with(start(), 0, *paths)
    assert "--resume" in log_of(paths[0])
    same_as_uninterrupted(tmp_path, reference)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_the_runs_and_say_how_to_go_on(number, start, tmp_path):
    paths = [run_folder(tmp_path, seed) for seed in (0, 1)]
    process = start()
    wait_for_checkpoint(paths[0], process)
    process.send_signal(number)
    ends_with(process, 130)
    assert "the same command goes on" in process.output.read_text()
    wait_until(lambda: not writers(paths[0]) and not writers(paths[1]), seconds=60)


@pytest.mark.slow
def test_a_run_that_a_signal_kills_goes_on_bit_for_bit(start, tmp_path, reference):
    path = run_folder(tmp_path, 0)
    process = start("--only", "seed 0")
    pid, worker = wait_for_checkpoint(path, process)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: writers(path) not in ([], [(pid, worker)]), process)
    _, worker_of_new = writers(path)[0]
    assert worker_of_new == worker
    ends_with(process, 0, path)
    assert_same_logs(path, run_folder(reference, 0))


@pytest.mark.slow
def test_a_failed_run_is_shown_with_its_last_lines_the_others_go_on_and_the_status_tells(
    start, file, tmp_path
):
    file.write_text(SMALL.replace("[0, 1]", "[0]") + "[settings.wrong]\ntau = 2\n")
    process = start()
    ends_with(process, 1)
    out = process.output.read_text()
    assert "--tau is 2.0: it has to be from 0 to 1" in out
    assert "failed: Pendulum-v1 wrong seed 0: exit status 2" in out
    assert "1 of 2 runs trained" in out, out
    assert first_run(file, tmp_path).finished()
    machine = json.loads((run_folder(tmp_path, 0) / "machine.json").read_text())
    assert machine == {"starts": [{**sweep.hardware(), **sweep.code_version()}]}


@pytest.mark.slow
def test_the_logs_compared_are_all_of_a_run(reference):
    assert {path.name for path in run_folder(reference, 0).glob("*.csv")} == set(LOGS)


# -------------------------------------------------------------------------------- one run's worker
def first_run(file, tmp_path, seed=0):
    """The first run of a study with this seed."""
    for run in study.load(str(file), tmp_path / "res").runs:
        if run.seed == seed:
            return run


def replace_process(monkeypatch, code):
    """Lets another program run instead of a run's script."""
    monkeypatch.setattr(sweep, "LEASH", code)


def test_a_run_that_signals_kill_again_and_again_has_failed(file, tmp_path, monkeypatch):
    replace_process(monkeypatch, "import os; os.kill(os.getpid(), 9)")
    assert sweep.train(first_run(file, tmp_path), tmp_path) == "killed 3 times, at last by signal 9"


def test_a_run_that_sigterm_ends_is_one_that_was_killed(file, tmp_path, monkeypatch):
    """A script catches SIGTERM, saves its summary, and exits with 143."""
    replace_process(monkeypatch, "import sys; sys.exit(143)")
    ended = sweep.train(first_run(file, tmp_path), tmp_path)
    assert ended == "killed 3 times, at last by signal 15"


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", "args.json.new"]])
def test_a_run_killed_before_its_first_file_begins_again(left, file, tmp_path, monkeypatch):
    replace_process(monkeypatch, "import sys; sys.exit(3)")
    run = first_run(file, tmp_path)
    run.path.mkdir(parents=True)
    for name in left:
        (run.path / name).touch()
    assert sweep.train(run, tmp_path) == "exit status 3"
    assert "--resume" not in log_of(run.path)
    ddpg_continuous.check_is_free(run.path)  # a script takes such a directory


def test_nothing_that_is_not_the_sweeps_own_is_ever_deleted(file, tmp_path, monkeypatch):
    replace_process(monkeypatch, "import sys; sys.exit(3)")
    run = first_run(file, tmp_path)
    run.path.mkdir(parents=True)
    (run.path / "notes.txt").write_text("mine")
    assert sweep.train(run, tmp_path) == "exit status 3"
    assert (run.path / "notes.txt").read_text() == "mine"


def test_a_run_that_another_sweep_has_begun_meanwhile_is_waited_for(file, tmp_path, monkeypatch):
    """Its script is refused the directory; once the other process is done, this one looks again."""
    replace_process(monkeypatch, "import sys; sys.exit(2)")
    answers = iter([False, True, False, False])
    monkeypatch.setattr(sweep, "is_locked", lambda path: next(answers))
    run = first_run(file, tmp_path)
    assert sweep.train(run, tmp_path) == "exit status 2"
    assert log_of(run.path).count("$ python") == 2


def test_a_run_that_found_its_directory_in_use_for_a_moment_is_begun_again(
    file, tmp_path, monkeypatch
):
    """Another sweep has only looked whether it is."""
    for script in ROOT.glob("d*.py"):
        assert sweep.IN_USE in script.read_text(encoding="utf-8")
    first = tmp_path / "first"
    program = f"""if True:
        import pathlib, sys
        first = pathlib.Path({str(first)!r})
        if first.exists():
            sys.exit(3)
        first.touch()
        print("the directory {sweep.IN_USE}")
        print("another node, with its date")  # the other sweep's
        sys.exit(2)
    """
    replace_process(monkeypatch, program)
    run = first_run(file, tmp_path)
    assert sweep.train(run, tmp_path) == "exit status 3"
    assert log_of(run.path).count("$ python") == 2


def test_a_run_finds_an_environment_of_ones_own_in_the_folder_where_the_sweep_was_started(
    file, tmp_path, monkeypatch
):
    replace_process(monkeypatch, "import my_environments")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "my_environments.py").touch()
    run = first_run(file, tmp_path)
    assert sweep.train(run, tmp_path) == "exit status 1"
    assert sweep.train(run, tmp_path / "here") == "it ended before its last step"


def test_what_to_do_next_can_be_pasted_into_a_shell(tmp_path, capsys):
    study_file = tmp_path / "my studies" / "small.toml"
    args = SimpleNamespace(study=str(study_file), results=tmp_path / "my results")
    assert sweep.show_outcome([], args) == 0
    command = capsys.readouterr().out.partition("now: ")[2]
    words = ["python", "benchmark/report.py", str(study_file), "--results", str(args.results)]
    assert shlex.split(command) == words


def test_a_directory_is_locked_while_somebody_holds_its_lock(tmp_path):
    assert not sweep.is_locked(tmp_path / "none")
    code = "import sys, sweep, pathlib; sys.exit(sweep.is_locked(pathlib.Path(sys.argv[1])))"
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "benchmark")}
    with filelock.FileLock(tmp_path / ".lock"):
        asked = subprocess.run([sys.executable, "-c", code, tmp_path], env=variables)
    assert asked.returncode == 1
    assert not sweep.is_locked(tmp_path)


def test_a_run_that_ends_as_another_one_has_failed_and_says_why(file, tmp_path, monkeypatch):
    """As with a retired environment, of which args.json names the current version."""
    replace_process(monkeypatch, "")
    run = first_run(file, tmp_path)
    monkeypatch.setattr(study.Run, "other_arguments", lambda self: "env_id B instead of A")
    assert "env_id B instead of A" in sweep.train(run, tmp_path)


def test_a_run_that_ends_too_early_has_failed(file, tmp_path, monkeypatch):
    replace_process(monkeypatch, "")
    assert sweep.train(first_run(file, tmp_path), tmp_path) == "it ended before its last step"


def test_what_goes_wrong_in_a_worker_is_said(file, tmp_path):
    (tmp_path / "res").write_text("a file")
    assert str(tmp_path / "res") in sweep.train(first_run(file, tmp_path), tmp_path)


class Outcomes:
    """Versions of the code from "a" on, one at each start, and what becomes of the processes."""

    def __init__(self, monkeypatch, *outcomes):
        self.version = "`"
        self.outcomes = iter(outcomes)
        monkeypatch.setattr(sweep, "code_version", self.code_version)
        monkeypatch.setattr(sweep, "run_process", self.run_process)

    def code_version(self):
        self.version = chr(ord(self.version) + 1)
        return {"commit": self.version, "clean": True}

    def run_process(self, run, options, folder, log):
        pretend(run)
        outcome = next(self.outcomes)
        if outcome != 0:
            pretend(run, steps=0)
        return outcome


def commits_of(run):
    """The commits in a run's machine.json."""
    starts = json.loads((run.path / "machine.json").read_text())["starts"]
    assert all(start["cores"] == os.cpu_count() for start in starts)
    return [start["commit"] for start in starts]


def test_a_finished_run_notes_the_machines_and_versions_that_its_processes_were_started_from(
    file, tmp_path, monkeypatch
):
    """The version is the one at the start: the files may change while the run goes on."""
    Outcomes(monkeypatch, 0, -signal.SIGKILL, 0)
    run = first_run(file, tmp_path)
    assert sweep.train(run, tmp_path) == ""
    assert commits_of(run) == ["a"]
    shutil.rmtree(run.path)
    assert sweep.train(run, tmp_path) == ""
    assert commits_of(run) == ["b", "c"]  # without that of the run which was deleted


def test_a_worker_that_dies_at_a_runs_end_leaves_what_it_was_started_from(
    file, tmp_path, monkeypatch
):
    Outcomes(monkeypatch, 0)
    run = first_run(file, tmp_path)
    sweep.train(run, tmp_path)
    (run.path / "machine.json").unlink()
    assert sweep.train(run, tmp_path) == ""
    assert commits_of(run) == ["a"]


def test_of_a_run_that_was_begun_without_a_sweep_the_first_machine_is_not_known(
    file, tmp_path, monkeypatch
):
    Outcomes(monkeypatch, 0)
    run = first_run(file, tmp_path)
    pretend(run, steps=0)
    assert sweep.train(run, tmp_path) == ""
    starts = json.loads((run.path / "machine.json").read_text())["starts"]
    assert [start.get("commit") for start in starts] == [None, "a"]


def git(path, *words):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", path, *identity, *words], check=True, capture_output=True)


def test_the_version_is_the_commit_and_whether_a_file_of_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "ROOT", tmp_path)
    git(tmp_path, "init")
    (tmp_path / "script.py").write_text("1")
    result = tmp_path / "benchmark" / "results" / "evaluations.csv"
    result.parent.mkdir(parents=True)
    result.write_text("of an older run")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    version = sweep.code_version()
    assert re.fullmatch("[0-9a-f]{40}", version["commit"])
    assert version["clean"] is True
    (tmp_path / "results.csv").write_text("new, and not the repository's")
    result.unlink()  # to train it again
    assert sweep.code_version() == version
    (tmp_path / "script.py").write_text("2")
    assert sweep.code_version() == {**version, "clean": False}


@pytest.mark.parametrize("lacks", ["git", "a repository of its own", "a commit"])
def test_without_git_or_a_repository_the_version_is_unknown(lacks, tmp_path, monkeypatch):
    git(tmp_path, "init")
    monkeypatch.setattr(study, "ROOT", tmp_path)
    if lacks != "a commit":
        git(tmp_path, "commit", "--allow-empty", "-m", "first")
    if lacks == "git":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    if lacks == "a repository of its own":
        (tmp_path / "copy").mkdir()
        monkeypatch.setattr(study, "ROOT", tmp_path / "copy")
    assert sweep.code_version() == {"commit": None, "clean": None}


# ------------------------------------------------------------------- what is trained, and what not
@pytest.fixture
def finished(file, tmp_path):
    """Pretends that both runs are finished."""
    for run in study.load(str(file), tmp_path / "res").runs:
        pretend(run)
    study.finished_runs.cache_clear()
    yield file
    study.finished_runs.cache_clear()


class StartsRay(Exception):
    pass


@pytest.fixture
def main(monkeypatch, capsys, tmp_path):
    """Runs the command line in this process, to where it would start Ray: status and output."""

    def init(*args, **options):
        raise StartsRay

    monkeypatch.setattr(sweep.ray, "init", init)

    def run(*flags):
        words = ["sweep.py", *map(str, flags), "--results", str(tmp_path / "res")]
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        status = 0
        try:
            sweep.main()
        except StartsRay:
            status = "trains"
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


def test_finished_runs_are_skipped_and_without_others_ray_is_not_started(finished, main):
    status, out, _ = main(finished)
    assert status == 0
    assert "2 of 2 runs are finished" in out


@pytest.mark.parametrize(
    ("summary", "files"),
    [
        ({"steps": 3_000, "final_evaluation": {"step": 3_000}}, []),  # stopped there
        ({"final_evaluation": {"step": 3_000}}, []),
        ({"final_evaluation": None}, []),
        ({}, ["checkpoint.pt"]),  # at the last step, but before the last weights
    ],
)
def test_a_run_is_not_finished_before_its_last_step_evaluation_and_weights(
    summary, files, finished, main, tmp_path
):
    run = first_run(finished, tmp_path)
    pretend(run, **summary)
    for name in files:
        (run.path / name).touch()
    status, out, _ = main(finished)
    assert status == "trains"
    assert "1 of 2 runs are finished" in out
    (run.path / "last.pt").touch()
    assert run.finished() == bool(files)


def test_a_run_that_another_study_has_is_not_trained_again(finished, main, tmp_path):
    settings = '[settings.same]\nnorm = "batch"\n[settings.none]\nnorm = "none"'
    other = tmp_path / "other.toml"
    other.write_text(SMALL.replace("[settings.default]", settings))
    status, out, _ = main(other, "--only", "same")
    assert status == 0
    assert out.count(f"the same run as {run_folder(tmp_path, 0).parent}") == 2
    assert main(other)[0] == "trains"
    assert main(other, "--only", "none")[1].startswith("to do")


def test_a_directory_with_a_run_of_other_arguments_is_refused_and_left_alone(
    finished, file, main, tmp_path
):
    file.write_text(SMALL.replace("batch-size = 8", "batch-size = 9"))
    run = first_run(file, tmp_path)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    assert not run.finished()
    assert "batch_size 8 instead of 9" in sweep.train(run, tmp_path)
    refused(main(file), str(run.path), "batch_size 8 instead of 9", "--results")
    (run.path / ".lock").unlink()
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def change_args(run, versions=None, **args):
    """Changes what a run's args.json says."""
    file = run.path / "args.json"
    content = json.loads(file.read_text())
    content["args"].update(args)
    if versions is not None:
        content["versions"] = versions
    file.write_text(json.dumps(content))


def test_a_run_that_names_a_flag_that_is_no_more_is_the_same_run(finished, main, tmp_path):
    """Unless the flag had a value with which the script did something else than it does now."""
    run = first_run(finished, tmp_path)
    change_args(run, **study.REMOVED_FLAGS)
    assert main(finished)[0] == 0
    change_args(run, noise_decay_steps=1_000)
    assert run.other_arguments() == "noise_decay_steps 1000 instead of None"
    refused(main(finished), "noise_decay_steps 1000")


def test_a_run_that_was_made_longer_is_another_run_if_its_learning_rates_had_fallen(
    finished, main, tmp_path
):
    run = first_run(finished, tmp_path)
    file = run.path / "args.json"
    content = json.loads(file.read_text())
    content["extended"] = [{"step": 2_000, "total_timesteps": 2_000}]
    file.write_text(json.dumps(content))
    refused(main(finished), "trained to 2000 and then longer")
    finished.write_text(SMALL + "anneal = false\n")
    change_args(run, anneal=False)
    assert run.finished() is False  # of the study with falling rates
    assert first_run(finished, tmp_path).finished()


def test_a_run_of_the_trials_is_nobodys(finished, file, main, tmp_path):
    (tmp_path / "res" / "small").rename(tmp_path / "res" / "other")
    study.finished_runs.cache_clear()
    assert "2 of 2 runs are finished" in main(file)[1]
    (tmp_path / "res" / "other").rename(tmp_path / "res" / "trials")
    study.finished_runs.cache_clear()
    assert "0 of 2 runs are finished" in main(file)[1]


def test_a_run_from_before_a_flag_is_a_run_with_its_default(finished, tmp_path):
    run = first_run(finished, tmp_path)
    file = run.path / "args.json"
    content = json.loads(file.read_text())
    del content["args"]["ou_dt"]
    file.write_text(json.dumps(content))
    assert run.finished()


def test_a_run_on_another_keras_backend_is_another_run(tmp_path):
    text = SMALL.replace("ddpg_continuous", "ddpg_keras")
    (tmp_path / "small.toml").write_text("keras-backend = 'jax'" + text)
    run = first_run(tmp_path / "small.toml", tmp_path)
    pretend(run)
    change_args(run, versions={"python": "3", "jax": "1"})
    assert run.finished()
    change_args(run, versions={"python": "3", "torch": "1"})
    assert not run.finished()
    assert run.other_arguments() == "backend torch instead of jax"
    variables = (
        "KERAS_BACKEND=jax OMP_NUM_THREADS=1"  # another number of threads rounds differently
    )
    assert run.command().startswith(f"{variables} python ddpg_keras.py --env-id Pendulum-v1 ")


def test_flags_are_written_as_the_script_reads_them(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL + "anneal = false\nnorm = 'none'\n")
    command = first_run(tmp_path / "small.toml", tmp_path).command()
    for part in [" --no-anneal ", " --hidden-sizes 16 16 ", " --norm none ", " --seed 0 "]:
        assert part in command


def test_runs_on_a_gpu_say_so_in_their_commands(file, main):
    file.write_text(SMALL + "device = 'cuda'\n")
    status, out, _ = main(file, "--gpus-per-run", 0.25, "--dry-run")
    assert status == 0
    assert out.count("--device cuda") == 2


def test_a_dry_run_writes_nothing(file, main, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert main(file, "--dry-run")[0] == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_two_settings_with_the_same_arguments_are_one_run(file, main):
    file.write_text(SMALL + '[settings.again]\nnorm = "batch"\n')
    _, out, _ = main(file, "--dry-run")
    assert "0 of 4 runs are finished" in out
    assert out.count("to do: ") == 4
    assert out.count("the same run as") == 2


def test_a_study_of_other_libraries_is_not_trained(file, main):
    file.write_text(PEERS)
    refused(main(file), "by hand", "benchmark/results/small/README.md")


# --------------------------------------------------------------------- the studies of this project
@pytest.mark.parametrize("name", study.names())
def test_every_committed_study_can_be_run_and_its_runs_fit_its_arguments(name):
    wanted = study.load(name)
    assert len({run.path for run in wanted.runs}) == len(wanted.runs)
    for run in wanted.runs:
        if isinstance(run, study.Run):
            assert run.other_arguments() == ""


def test_every_committed_run_belongs_to_a_study():
    paths = {run.path for name in study.names() for run in study.load(name).runs}
    assert len(paths) > 200
    for file in study.RESULTS.glob("*/*/*/seed-*/args.json"):
        if file.relative_to(study.RESULTS).parts[0] != "trials":
            assert file.parent in paths


def test_no_committed_run_used_a_flag_that_is_no_more():
    for file in study.RESULTS.rglob("args.json"):
        if study.is_of_our_scripts(file.parent):
            script, _, args, _ = study.identity(file.parent)
            assert args.keys() <= study.defaults(script).keys(), file


# -------------------------------------------------------------------------------- what one is told
def changed(old, new):
    """The small study with something wrong in it."""
    assert old in SMALL
    return SMALL.replace(old, new)


BAD_STUDIES = {
    "not TOML": ("question = ", "small.toml: "),
    "no seeds": (changed("seeds = [0, 1]", ""), "needs seeds"),
    "a text for seeds": (changed("[0, 1]", "'0'"), "needs seeds, a list"),
    "negative seeds": (changed("[0, 1]", "[-1]"), "seeds are a list of whole numbers"),
    "one seed twice": (changed("[0, 1]", "[0, 0]"), "every seed once"),
    "an environment's seeds": (changed("solved = -170", "seeds = 3"), "seeds are a list"),
    "a text for solved": (changed("-170", "'x'"), "solved is a number"),
    "unknown flag": (SMALL + "learning-rat = 1", "learning_rat"),
    "the sweep's own flag": (SMALL + "runs-dir = 'x'", "runs_dir"),
    "a text for a number": (SMALL + "tau = '0.001'", "tau is '0.001'"),
    "a number for two": (changed("[16, 16]", "16"), "hidden_sizes is 16"),
    "unknown key": ("sedes = 1" + SMALL, "unknown keys: sedes"),
    "a number for the answer": ("answer = 1" + SMALL, "answer has to be a str"),
    "no such script": (changed("ddpg_continuous", "ddpg"), "there is no script ddpg.py"),
    "no script": (changed("ddpg_continuous.py", "README.md"), "there is no script README.md"),
    "no class Args": (changed("ddpg_continuous", "benchmark/study"), "has no class Args"),
    "neither script nor peers": (changed('script = "ddpg_continuous.py"', ""), "needs script, or"),
    "script and peers": ("peers = true" + SMALL, "needs script, or peers"),
    "flags of a peer": (PEERS + "tau = 1", "a setting of peers has no flags"),
    "a typing error among peers": (
        PEERS.replace("[settings", "solvd = 1\n[settings"),
        "peers have only total_timesteps, eval_every, eval_episodes, unlike solvd",
    ),
    "no length of peers": (PEERS.replace("eval-every = 50", ""), "has to set total_timesteps"),
    "a peer's odd script": (PEERS + "script = 3", "script is a name, not 3"),
    "a strange glance": ("at-a-glance = ['Mars-v0']" + SMALL, "names Mars-v0"),
    "a list for a glance": ("at-a-glance = [['x']]" + SMALL, "names ['x']"),
    "unknown backend": ("keras-backend = 'jaxx'" + SMALL, "keras-backend is one of"),
    "an environment without seeds": (changed("solved = -170", "seeds = []"), "seeds are a list"),
    "a flag twice": (SMALL + "noise-sigma = 0.1\nnoise_sigma = 0.2", "set twice"),
    "a setting above": (changed("settings.default", "settings.'..'"), "a setting's name"),
    "a setting that is no table": (changed("[settings.default]", "[settings]\na = 3"), "a table"),
    "a setting's odd name": (changed("settings.default", "settings.'[/x]'"), "a setting's name"),
}


@pytest.mark.parametrize("name", BAD_STUDIES)
def test_a_study_that_cannot_be_used_is_one_line(name, file, main):
    text, part = BAD_STUDIES[name]
    file.write_text(text)
    refused(main(file), part)


def test_bad_flags_are_one_line(file, main, tmp_path):
    refused(main(file, "--cpus-per-run", -1), "--cpus-per-run")
    refused(main(file, "--cpus-per-run", 0), "nor both be 0")
    refused(main(file, "--only", "["), "--only [")
    refused(main(file, "--only", "seed 7"), "--only seed 7")
    refused(main("nothing"), "nothing.toml cannot be read", "normalisation")
    refused(main(file, "--gpus-per-run", 0.25), "--gpus-per-run", "device")
    refused(main(file, "--gpus-per-run", 1.5), "--gpus-per-run", "a whole number")
    file.write_text(SMALL + "device = 'cuda'\n")
    refused(main(file), "are on a GPU", "--gpus-per-run")
    file.write_text(SMALL + "num-threads = 2\n")
    refused(main(file), "have 2 threads", "--cpus-per-run")
    assert main(file, "--cpus-per-run", 2, "--dry-run")[0] == 0
    file.write_text(SMALL + "[settings.gpu]\ndevice = 'cuda'\n")
    refused(main(file, "--dry-run"), "are on a GPU")
    assert main(file, "--dry-run", "--only", "default")[0] == 0  # these are on the CPU


def test_paths_on_a_command_line_are_made_absolute(tmp_path, monkeypatch):
    """Else a relative path to the committed results would not be known as theirs."""
    monkeypatch.chdir(study.ROOT / "benchmark")
    assert study.full_path("results") == study.RESULTS
    monkeypatch.setenv("HOME", str(tmp_path))
    assert study.full_path("~/x") == tmp_path.resolve() / "x"


def test_a_study_of_a_committed_ones_name_is_refused(tmp_path, monkeypatch):
    """Its results would be written over those."""
    (tmp_path / "classic.toml").write_text(SMALL)
    with pytest.raises(study.StudyError, match="there is a study classic already"):
        study.load(str(tmp_path / "classic.toml"))
    assert study.load(str(tmp_path / "classic.toml"), tmp_path / "res").runs
    assert study.load(str(study.STUDIES / "classic.toml")).name == "classic"


def test_a_run_that_this_machine_cannot_hold_is_refused_and_a_cluster_may_grow(monkeypatch, capsys):
    args = argparse.Namespace(cpus_per_run=2.0, gpus_per_run=0.0, address="local")
    monkeypatch.setattr(sweep.ray, "nodes", lambda: [{"Resources": {"CPU": 2.0}}])
    sweep.check_room(args)
    args.gpus_per_run = 0.5
    with pytest.raises(study.StudyError, match=r"2 CPUs and 0\.5 GPUs, which this machine"):
        sweep.check_room(args)
    args.address = "auto"
    sweep.check_room(args)
    assert "waiting for a machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"script": "ddpg_continuous", "args": 3}', '{"script": "none"}']
)
def test_a_damaged_run_is_one_line_and_left_alone(content, file, main, tmp_path):
    path = run_folder(tmp_path, 0)
    path.mkdir(parents=True)
    (path / "args.json").write_text(content)
    refused(main(file), str(path), "cannot be used")
    assert (path / "args.json").read_text() == content


def test_a_folder_of_results_that_cannot_be_written_is_one_line(file, main, tmp_path):
    (tmp_path / "res").write_text("a file")
    refused(main(file), str(tmp_path / "res"))


def test_a_cluster_that_is_not_there_is_one_line(start):
    process = start("--address", "127.0.0.1:1")
    ends_with(process, 2)
    out = process.output.read_text()
    assert "no Ray cluster at 127.0.0.1:1" in out.splitlines()[-1]
    assert "Traceback" not in out


# ---------------------------------------------------------------------------------- the live table
def write_csvs(run, episodes, evaluations, updates):
    """What a run has logged: of each log the steps of its rows."""
    run.path.mkdir(parents=True, exist_ok=True)
    logs = {
        "episodes": ["step,episode,return,length", *(f"{step},1,-9,200" for step in episodes)],
        "evaluations": ["step,mean,std", *(f"{step},{-step / 10},1.0" for step in evaluations)],
        "updates": ["step,critic_loss", *(f"{step},0.5" for step in updates)],
    }
    for name, lines in logs.items():
        (run.path / f"{name}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def row(file, tmp_path):
    """The row of a run that is going."""
    run = first_run(file, tmp_path)
    run.path.mkdir(parents=True)
    run.log.write_text("$ python ddpg_continuous.py\n")
    return sweep.Row(run)


def test_the_table_shows_where_each_run_is(row, file, tmp_path):
    waiting = sweep.Row(first_run(file, tmp_path, seed=1))
    write_csvs(row.run, [200, 400, 600], [0, 500], [300, 700])
    row.look(now=100.0)
    write_csvs(row.run, [200, 400, 600], [0, 500, 1_000], [300, 700, 1_100])
    row.look(now=102.0)
    console = sweep.Console(width=120)
    with console.capture() as capture:
        console.print(sweep.table([waiting, row]))
    text = capture.get()
    assert "1 going, 0 failed, 0 finished, 1 waiting" in text
    (line,) = [line for line in text.splitlines() if "seed 0" in line]
    cells = re.sub(r"[│\s]+", " ", line).strip()
    # 400 steps in two seconds; 2,900 steps to go
    assert cells == "Pendulum-v1 default seed 0 going 1100 -100.0 200.0 0:00:14"


def test_the_step_is_the_last_one_in_any_of_the_csvs(row):
    for logs, step in [
        (([], [], []), 0),
        (([], [0], []), 0),
        (([190], [0], []), 190),
        (([190], [0, 200], []), 200),
        (([190], [0, 200], [300]), 300),
    ]:
        write_csvs(row.run, *logs)
        row.look(now=0.0)
        assert row.step == step


def test_the_speed_is_that_of_the_last_minute(row):
    for now, step in [(0.0, 0), (50.0, 50), (100.0, 550), (110.0, 650)]:
        write_csvs(row.run, [step], [], [])
        row.look(now)
    assert row.steps_per_second == pytest.approx((650 - 50) / 60)


def test_a_run_that_repeats_what_was_not_saved_is_measured_anew(row):
    for now, step in [(0.0, 1_000), (1.0, 1_100), (2.0, 800), (3.0, 900)]:
        write_csvs(row.run, [step], [], [])
        row.look(now)
    assert row.steps_per_second == pytest.approx(100)
    assert row.progress()[0] == "900"


def test_a_run_of_which_nothing_has_moved_has_no_speed_yet(row):
    row.look(now=0.0)
    row.look(now=1.0)
    assert row.progress() == ["0", "–", "?", "?"]


@pytest.mark.parametrize("half", ["6", "600", "600,", "600,7"])
def test_a_row_that_is_being_written_is_not_read(half, tmp_path):
    csv = tmp_path / "updates.csv"
    csv.write_text(f"step,q\n500,0.5\n{half}")
    assert sweep.last_row(csv) == {"step": "500", "q": "0.5"}


@pytest.mark.parametrize("text", [None, "", "step", "step,q\n", "step,q\n1"])
def test_a_csv_without_a_row_gives_nothing(text, tmp_path):
    csv = tmp_path / "updates.csv"
    if text is not None:
        csv.write_text(text)
    assert sweep.last_row(csv) == {}


def test_only_the_end_of_a_long_csv_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "TAIL", 20)
    csv = tmp_path / "updates.csv"
    csv.write_text("step,q\n" + "".join(f"{step},0.5\n" for step in range(1_000)))
    assert sweep.last_row(csv) == {"step": "999", "q": "0.5"}


def test_what_an_earlier_sweep_left_is_not_taken_for_this_ones(row):
    write_csvs(row.run, [600], [500], [700])
    old = sweep.Row(row.run, old_log_size=sweep.log_size(row.run))
    old.look(now=0.0)
    assert old.state == "waiting"
    assert old.progress() == ["", "", "", ""]
