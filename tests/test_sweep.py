"""benchmark/sweep.py and study.py: which runs there are, that none is lost whatever dies, and what one is told."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
import study
from helpers import LOGS, assert_same_logs, pretend, refused

sweep = pytest.importorskip("sweep", exc_type=ImportError)  # Ray and Rich are in requirements-dev.txt
ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture
def file(tmp_path):
    """A study of two runs of a few seconds each."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def start(file, tmp_path):
    """Starts a sweep in a process of its own, which the end of the test kills; its output goes into a file."""
    processes = []

    def run(*flags, study=file):
        command = [sys.executable, str(ROOT / "benchmark" / "sweep.py"), str(study), "--results", str(tmp_path / "res")]
        with (tmp_path / f"out-{len(processes)}").open("w") as out:
            processes.append(subprocess.Popen([*command, *map(str, flags)], stdout=out, stderr=subprocess.STDOUT))
        processes[-1].output = tmp_path / f"out-{len(processes) - 1}"
        return processes[-1]

    yield run
    for process in processes:
        process.terminate()
        process.wait(60)


def folder(tmp_path, seed, setting="default"):
    return tmp_path / "res" / "small" / "Pendulum-v1" / setting / f"seed-{seed}"


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """The same runs by the commands that a dry run prints, pasted into a shell, never interrupted."""
    path = tmp_path_factory.mktemp("reference")
    (path / "small.toml").write_text(SMALL)
    command = [sys.executable, "benchmark/sweep.py", path / "small.toml", "--results", path / "res", "--dry-run"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"(?m)^  python (.*)", printed)
    assert len(lines) == 2
    pasted = [
        subprocess.Popen(f"{shlex.quote(sys.executable)} {line}", cwd=ROOT, shell=True, stdout=subprocess.DEVNULL)
        for line in lines
    ]
    assert [process.wait(300) for process in pasted] == [0, 0]
    return path


def same_as_uninterrupted(tmp_path, reference):
    for seed in (0, 1):
        assert_same_logs(folder(tmp_path, seed), folder(reference, seed))


def writers(path):
    """Pids and parents' pids of the processes that train in a run's directory."""
    listed = subprocess.run(["ps", "-axww", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True).stdout
    rows = [line.split(None, 3) for line in listed.splitlines()]
    name = rf"(--runs-dir {re.escape(str(path.parent))} --run-name {path.name}|--resume {re.escape(str(path))})( |$)"
    rows = [row for row in rows if len(row) == 4 and not row[2].startswith("Z") and "runpy" in row[3]]
    return [(int(pid), int(parent)) for pid, parent, _, args in rows if re.search(name, args)]


def wait_for(condition, process=None, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.output.read_text()
        assert time.monotonic() < until, process and process.output.read_text()
        time.sleep(0.02)


def wait_for_checkpoint(path, process):
    """Waits until a run is going and could go on from a checkpoint: its process and the worker's."""
    wait_for(lambda: (path / "checkpoint.pt").exists() and writers(path), process)
    return writers(path)[0]


def ends_with(process, status, *paths):
    """Waits for the end of a sweep; meanwhile no run has two processes that train it."""
    until = time.monotonic() + 180
    while process.poll() is None:
        assert time.monotonic() < until, process.output.read_text()
        assert all(len(writers(path)) <= 1 for path in paths)
        time.sleep(0.1)
    assert process.returncode == status, process.output.read_text()


# ------------------------------------------------------------------------------------------------------ what may die
def test_a_run_whose_worker_is_killed_dies_with_it_and_goes_on_bit_for_bit(start, tmp_path, reference):
    paths = [folder(tmp_path, seed) for seed in (0, 1)]
    process = start()
    pid, worker = wait_for_checkpoint(paths[0], process)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: (pid, 1) not in writers(paths[0]) and (pid, worker) not in writers(paths[0]), seconds=10)
    ends_with(process, 0, *paths)
    assert paths[0].with_suffix(".log").read_text().count("$ python ddpg_continuous.py --resume") == 1
    same_as_uninterrupted(tmp_path, reference)


def parent(pid):
    return int(subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True).stdout)


def test_when_one_of_two_nodes_dies_at_once_its_run_waits_for_the_lock_and_goes_on_bit_for_bit(
    start, tmp_path, reference
):
    """The node's raylet and worker die before they can clean up; their orphan has to know by itself."""
    from ray.cluster_utils import Cluster

    paths = [folder(tmp_path, seed) for seed in (0, 1)]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        raylet = node.all_processes["raylet"][0].process.pid
        process = start("--address", cluster.address)
        going = {path: wait_for_checkpoint(path, process) for path in paths}
        ((path, pid, worker),) = ((path, *who) for path, who in going.items() if parent(who[1]) == raylet)
        os.kill(raylet, signal.SIGSTOP)
        os.kill(worker, signal.SIGKILL)
        with filelock.FileLock(path / ".lock", timeout=10):  # free once the orphan has died; then held in its place
            assert pid not in [pid for pid, _ in writers(path)]
            cluster.remove_node(node, allow_graceful=False)
            wait_for(
                lambda: path.with_suffix(".log").read_text().count(time.strftime(" %Y\n")) == 2, process
            )  # retried
            time.sleep(2)
            assert writers(path) == []
            assert path.with_suffix(".log").read_text().count("$ python") == 1, "it waits"
        ends_with(process, 0, *paths)
    finally:
        cluster.shutdown()
    logs = [path.with_suffix(".log").read_text() for path in paths]
    assert sorted(log.count("$ python") for log in logs) == [1, 2]
    assert path.with_suffix(".log").read_text().count("--resume") == 1
    same_as_uninterrupted(tmp_path, reference)


def test_a_sweep_that_is_killed_takes_its_runs_with_it_and_the_same_command_ends_them_bit_for_bit(
    start, tmp_path, reference
):
    paths = [folder(tmp_path, seed) for seed in (0, 1)]
    process = start()
    wait_for_checkpoint(paths[0], process)
    process.kill()
    wait_for(lambda: not any(map(writers, paths)), seconds=60)
    again = start()
    ends_with(again, 0, *paths)
    assert "--resume" in paths[0].with_suffix(".log").read_text()
    same_as_uninterrupted(tmp_path, reference)


def test_ctrl_c_ends_the_runs_and_says_how_to_go_on(start, tmp_path):
    process = start()
    wait_for_checkpoint(folder(tmp_path, 0), process)
    process.send_signal(signal.SIGINT)
    ends_with(process, 130)
    assert "the same command goes on" in process.output.read_text()
    wait_for(lambda: not any(writers(folder(tmp_path, seed)) for seed in (0, 1)), seconds=60)


def test_a_run_that_a_signal_kills_goes_on_bit_for_bit(start, tmp_path, reference):
    process = start("--only", "seed 0")
    pid, worker = wait_for_checkpoint(folder(tmp_path, 0), process)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: writers(folder(tmp_path, 0)) not in ([], [(pid, worker)]), process)
    assert writers(folder(tmp_path, 0))[0][1] == worker
    ends_with(process, 0, folder(tmp_path, 0))
    assert_same_logs(folder(tmp_path, 0), folder(reference, 0))


def trial(file, tmp_path, seed=0, setting=0):
    return [t for t in study.load(str(file), tmp_path / "res").trials if t.seed == seed][setting]


def test_a_run_that_signals_kill_again_and_again_has_failed(file, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "LEASH", "import os; os.kill(os.getpid(), 9)")
    assert sweep.train(trial(file, tmp_path)) == "killed 3 times, at last by signal 9"


@pytest.mark.parametrize("left", ([], [".lock"], [".lock", "args.json.new"]))
def test_a_run_killed_before_its_first_file_begins_again(left, file, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "LEASH", "import sys; print(sys.argv[1:]); sys.exit(3)")
    this = trial(file, tmp_path)
    this.path.mkdir(parents=True)
    for name in left:
        (this.path / name).touch()
    assert sweep.train(this) == "exit status 3"
    assert "--resume" not in this.log.read_text()
    assert not this.path.exists()


def test_nothing_that_is_not_the_sweeps_own_is_ever_deleted(file, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "LEASH", "import sys; sys.exit(3)")
    this = trial(file, tmp_path)
    this.path.mkdir(parents=True)
    (this.path / "notes.txt").write_text("mine")
    assert sweep.train(this) == "exit status 3"
    assert (this.path / "notes.txt").read_text() == "mine"


def test_a_run_that_another_sweep_has_begun_meanwhile_is_waited_for(file, tmp_path, monkeypatch):
    """Its script is refused the directory; once the other process is done, this one looks again."""
    this, busy = trial(file, tmp_path), iter([False, True, False, False])
    monkeypatch.setattr(sweep, "LEASH", "import sys; sys.exit(2)")
    monkeypatch.setattr(sweep, "is_locked", lambda path: next(busy))
    assert sweep.train(this) == "exit status 2"
    assert this.log.read_text().count("$ python") == 2


def test_a_directory_is_locked_while_somebody_holds_its_lock(tmp_path):
    assert not sweep.is_locked(tmp_path / "none")
    with filelock.FileLock(tmp_path / ".lock"):
        held = "import sys, sweep, pathlib; sys.exit(sweep.is_locked(pathlib.Path(sys.argv[1])))"
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmark")}
        assert subprocess.run([sys.executable, "-c", held, tmp_path], env=environment).returncode == 1
    assert not sweep.is_locked(tmp_path)


# ------------------------------------------------------------------------------------- what is trained, and what not
def test_a_failed_run_is_shown_with_its_last_lines_the_others_go_on_and_the_status_tells(start, file, tmp_path):
    file.write_text(SMALL.replace("[0, 1]", "[0]") + "[settings.wrong]\ntau = 2\n")
    process = start()
    ends_with(process, 1)
    out = process.output.read_text()
    assert "--tau is 2.0: it has to be from 0 to 1" in out
    assert "failed: Pendulum-v1 wrong seed 0: exit status 2" in out
    assert "1 of 2 runs trained" in out
    assert trial(file, tmp_path).finished()
    assert json.loads((folder(tmp_path, 0) / "machine.json").read_text()).keys() == {"cpu", "cores"}


@pytest.fixture
def finished(file, tmp_path):
    """Pretends that both runs are finished."""
    for this in study.load(str(file), tmp_path / "res").trials:
        pretend(this)
    study.finished_runs.cache_clear()
    yield file
    study.finished_runs.cache_clear()


@pytest.fixture
def main(monkeypatch, capsys, tmp_path):
    """Runs the command line in this process, up to where it would start Ray: exit status, stdout, stderr."""

    class StartsRay(Exception):
        pass

    def init(*args, **options):
        raise StartsRay

    monkeypatch.setattr(sweep.ray, "init", init)

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, flags), "--results", str(tmp_path / "res")])
        capsys.readouterr()
        try:
            status = sweep.main() or 0
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
    (
        ({"steps": 3_000, "final_evaluation": {"step": 3_000}}, []),  # stopped there
        ({"final_evaluation": {"step": 3_000}}, []),
        ({"final_evaluation": None}, []),
        ({}, ["checkpoint.pt"]),  # at the last step, but before the last weights
    ),
)
def test_a_run_is_not_finished_before_its_last_step_evaluation_and_weights(summary, files, finished, main, tmp_path):
    this = trial(finished, tmp_path)
    pretend(this, **summary)
    for name in files:
        (this.path / name).touch()
    status, out, _ = main(finished)
    assert status == "trains"
    assert "1 of 2 runs are finished" in out
    (this.path / "last.pt").touch()
    assert this.finished() == bool(files)


def test_a_run_that_another_study_has_is_not_trained_again(finished, main, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(
        SMALL.replace("[settings.default]", '[settings.same]\nnorm = "layer"\n[settings.none]\nnorm = "none"')
    )
    status, out, _ = main(other, "--only", "same")
    assert status == 0
    assert out.count(f"the same run as {folder(tmp_path, 0).parent}") == 2
    assert main(other)[0] == "trains"
    assert main(other, "--only", "none")[1].startswith("to do")


def test_a_directory_with_a_run_of_other_arguments_is_refused_and_left_alone(finished, file, main, tmp_path):
    file.write_text(SMALL.replace("batch-size = 8", "batch-size = 9"))
    this = trial(file, tmp_path)
    before = {path.name: path.read_bytes() for path in this.path.iterdir()}
    assert not this.finished()
    assert "batch_size 8 instead of 9" in sweep.train(this)
    refused(main(file), str(this.path), "batch_size 8 instead of 9", "--results")
    assert {path.name: path.read_bytes() for path in this.path.iterdir() if path.name != ".lock"} == before


def test_a_run_on_another_keras_backend_is_another_run(tmp_path):
    file = tmp_path / "small.toml"
    text = SMALL.replace("ddpg_continuous", "ddpg_keras").replace("[env", "keras-backend = 'jax'\n[env")
    file.write_text(text)
    this = trial(file, tmp_path)
    pretend(this)
    content = json.loads((this.path / "args.json").read_text())
    for backend, same in (("jax", True), ("torch", False)):
        content["versions"] = {"python": "3", backend: "1"}
        (this.path / "args.json").write_text(json.dumps(content))
        assert this.finished() is same
    assert this.command().startswith("KERAS_BACKEND=jax python ddpg_keras.py --env-id Pendulum-v1 --seed 0 ")


def test_flags_are_written_as_the_script_reads_them(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL + "anneal = false\nnorm = 'none'\n")
    options = trial(tmp_path / "small.toml", tmp_path).options()
    assert "--no-anneal" in options
    assert options[options.index("--hidden-sizes") + 1 :][:2] == ["16", "16"]
    assert options[options.index("--norm") + 1] == "none"


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
    file.write_text(SMALL + '[settings.again]\nnorm = "layer"\n')
    _, out, _ = main(file, "--dry-run")
    assert "2 of 4 runs are finished" in out
    assert out.count("the same run as") == 2


def test_a_run_that_ends_as_another_one_has_failed_and_says_why(file, tmp_path, monkeypatch):
    """As with a retired environment, of which args.json names the current version."""
    this = trial(file, tmp_path)
    monkeypatch.setattr(sweep, "LEASH", "")
    monkeypatch.setattr(study.Trial, "other_arguments", lambda self: "env_id B instead of A")
    assert "env_id B instead of A" in sweep.train(this)


def test_sigterm_ends_a_sweep_as_ctrl_c_does(start, tmp_path):
    process = start()
    wait_for_checkpoint(folder(tmp_path, 0), process)
    process.terminate()
    ends_with(process, 130)
    assert "the same command goes on" in process.output.read_text()


@pytest.mark.parametrize("path", sorted(study.STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_committed_study_can_be_run_and_its_runs_fit_its_arguments(path):
    wanted = study.load(path.stem)
    assert len({this.path for this in wanted.trials}) == len(wanted.trials)
    for this in wanted.trials:
        assert this.other_arguments() == ""


def test_every_committed_run_belongs_to_a_study():
    paths = {this.path for name in study.names() for this in study.load(name).trials}
    runs = {file.parent for file in study.RESULTS.glob("*/*/*/seed-*/args.json")} - paths
    assert {run for run in runs if run.relative_to(study.RESULTS).parts[0] != "trials"} == set()
    assert len(paths) > 200


# -------------------------------------------------------------------------------------------------- what one is told
BAD = {
    "no study": ("nothing.toml", "", "cannot be read"),
    "not TOML": ("small.toml", "question = ", "small.toml: "),
    "no seeds": ("small.toml", SMALL.replace("seeds = [0, 1]", ""), "needs seeds"),
    "a text for seeds": ("small.toml", SMALL.replace("[0, 1]", "'0'"), "needs seeds, a list"),
    "negative seeds": ("small.toml", SMALL.replace("[0, 1]", "[-1]"), "seeds are a list of whole numbers"),
    "one seed twice": ("small.toml", SMALL.replace("[0, 1]", "[0, 0]"), "every seed once"),
    "an environment's seeds": ("small.toml", SMALL.replace("solved = -170", "seeds = 3"), "seeds are a list"),
    "a text for solved": ("small.toml", SMALL.replace("-170", "'x'"), "solved is a number"),
    "unknown flag": ("small.toml", SMALL + "learning-rat = 1", "learning_rat"),
    "the sweep's own flag": ("small.toml", SMALL + "runs-dir = 'x'", "runs_dir"),
    "a text for a number": ("small.toml", SMALL + "tau = '0.001'", "tau is '0.001'"),
    "a number for two": ("small.toml", SMALL.replace("[16, 16]", "16"), "hidden_sizes is 16"),
    "unknown key": ("small.toml", "sedes = 1" + SMALL, "nobody reads sedes"),
    "no such script": ("small.toml", SMALL.replace("ddpg_continuous", "ddpg"), "there is no script ddpg.py"),
    "no script": ("small.toml", SMALL.replace("ddpg_continuous.py", "README.md"), "there is no script README.md"),
    "a setting that is no table": ("small.toml", SMALL.replace("[settings.default]", "[settings]\na = 3"), "a table"),
    "a setting's odd name": ("small.toml", SMALL.replace("settings.default", "settings.'[/x]'"), "a setting's name"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_study_that_cannot_be_used_is_one_line(name, tmp_path, main):
    file, text, part = BAD[name]
    (tmp_path / "small.toml").write_text(text)
    refused(main(tmp_path / file), part)


def test_bad_flags_are_one_line(file, main, tmp_path):
    refused(main(file, "--cpus-per-run", -1), "--cpus-per-run")
    refused(main(file, "--cpus-per-run", 0), "nor both be 0")
    refused(main(file, "--only", "["), "--only [")
    refused(main(file, "--only", "seed 7"), "--only seed 7")
    refused(main("nothing"), "normalisation")
    refused(main(file, "--gpus-per-run", 0.25), "--gpus-per-run", "device")


@pytest.mark.parametrize("content", ("{", "[]", "{}", '{"script": "ddpg_continuous", "args": 3}', '{"script": "none"}'))
def test_a_damaged_run_is_one_line_and_left_alone(content, file, main, tmp_path):
    path = folder(tmp_path, 0)
    path.mkdir(parents=True)
    (path / "args.json").write_text(content)
    refused(main(file), str(path), "cannot be used")
    assert (path / "args.json").read_text() == content


def test_a_folder_of_results_that_cannot_be_written_is_one_line(file, main, tmp_path):
    (tmp_path / "res").write_text("a file")
    refused(main(file), str(tmp_path / "res"))


def test_what_goes_wrong_in_a_worker_is_said(file, tmp_path):
    (tmp_path / "res").write_text("a file")
    assert str(tmp_path / "res") in sweep.train(trial(file, tmp_path))


def test_a_cluster_that_is_not_there_is_one_line(start):
    process = start("--address", "127.0.0.1:1")
    ends_with(process, 2)
    out = process.output.read_text()
    assert "no Ray cluster at 127.0.0.1:1" in out.splitlines()[-1]
    assert "Traceback" not in out


LINE = " 7%|7    | 14895/200000 [00:30<07:52, 391.44step/s, episode=128, return=-111, 100-episode mean=-223]\n"


def test_the_table_shows_where_each_run_is(file, tmp_path):
    rows = [sweep.Row(this) for this in study.load(str(file), tmp_path / "res").trials]
    rows[0].trial.path.parent.mkdir(parents=True)
    rows[0].trial.log.write_text("step 10000: evaluation -163.7 ± 60.2\n" + LINE)
    for row in rows:
        row.read()
    console = sweep.Console(width=120)
    with console.capture() as capture:
        console.print(sweep.table(rows))
    text = capture.get()
    assert "1 going, 0 failed, 0 finished, 1 waiting" in text
    cells = next(line for line in text.splitlines() if "seed 0" in line)
    assert re.sub(r"[│\s]+", " ", cells).strip() == "Pendulum-v1 default seed 0 going 14895 -163.7 391.44 07:52"
    slow = LINE.replace("391.44step/s", " 2.50s/step")
    rows[0].trial.log.write_text(slow)
    rows[0].read()
    assert rows[0].speed == "0.40"


def test_what_an_earlier_sweep_left_in_a_log_is_not_taken_for_this_ones(file, tmp_path):
    this = trial(file, tmp_path)
    this.path.parent.mkdir(parents=True)
    this.log.write_text(LINE)
    row = sweep.Row(this, began=this.log.stat().st_size)
    row.read()
    assert (row.state, row.step) == ("waiting", "")


def test_the_logs_compared_are_all_of_a_run(tmp_path, reference):
    assert {path.name for path in folder(reference, 0).glob("*.csv")} == set(LOGS)
