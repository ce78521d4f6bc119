"""Trains every run of a study that is not finished yet, on this machine or on a Ray cluster.

    pip install -r requirements.txt -r requirements-dev.txt     (Linux, macOS)
    python benchmark/sweep.py normalisation
    python benchmark/sweep.py normalisation --dry-run       # only print the commands
    python benchmark/sweep.py normalisation --address auto  # on the cluster of this machine

The docstring of benchmark/study.py says what a study is. Each run is an ordinary command line, in
a process of its own, with one thread unless the study says otherwise. The process dies with the Ray
worker that started it, so that no two of them ever write to one directory. A run whose worker, node
or sweep has died goes on with --resume, to the same CSVs, bit for bit. If a run fails, its last
lines are shown, the other runs go on, and the exit status is 1.
"""

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TextIO

import study

# Before the import of ray: no report to its makers, and a run that needs too much memory is not
# begun again and again for ever
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_task_oom_retries", "2")
try:
    import filelock
    import ray
    from rich.console import Console
    from rich.live import Live
    from rich.markup import escape
    from rich.table import Table
except ImportError as error:
    study.explain_missing_package(error, __name__)

# Runs a script that dies as its standard input ends, which it does when the parent is no more
LEASH = """
import os, runpy, sys, threading

def die_with_parent():
    os.read(0, 1)
    os._exit(1)

threading.Thread(target=die_with_parent, daemon=True).start()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
MAX_KILLS = 3  # a run that signals have killed so often has failed (out of memory?)
TERMINATED = 128 + signal.SIGTERM  # a script's exit status after SIGTERM
IN_USE = "is in use: another process writes to it"  # says a script whose directory is locked
LAST_LINES = 10  # of a failed run's output
CSVS = ["episodes", "evaluations", "updates"]  # of a run
TAIL = 65_536  # bytes at the end of a CSV among which its last row stands
SPEED_WINDOW = 60  # seconds over which a run's speed is measured
REPORT_EVERY = 60  # seconds between two lines on a run where there is no terminal


# ------------------------------------------------------------------------------------- in a worker
def train(run: study.Run, folder: Path) -> str:
    """Trains a run, or the rest of it, to its end. Gives what went wrong, or nothing.

    `folder`: where the sweep was started; modules with environments of one's own are found there.
    """
    try:
        run.path.parent.mkdir(parents=True, exist_ok=True)
        with run.log.open("a") as log:
            return train_until_it_ends(run, folder, log)
    except (study.StudyError, OSError) as error:  # a full disk, for example
        return str(error)


def train_until_it_ends(run: study.Run, folder: Path, log: TextIO) -> str:
    """Starts the run's process, again if a signal killed it. Gives what went wrong, or nothing."""
    kills = 0
    while kills < MAX_KILLS:
        note(f"\n{platform.node()}, {time.ctime()}", log)
        if is_locked(run.path):
            note("waiting: another process writes there", log)
        options = options_to_start(run)
        if options is None:
            save_machine(run)
            return ""
        note_start(run, is_resumed="--resume" in options)
        begin = log_size(run)
        status = run_process(run, options, folder, log)
        if run.finished():
            save_machine(run)
            return ""
        if status == 0:
            difference = run.other_arguments()
            if difference:
                return f"it ended as another run than the study's ({difference}): change the study"
            return "it ended before its last step"
        if status == TERMINATED:
            status = -signal.SIGTERM
        if status > 0 and not is_locked(run.path) and not was_in_use(run, begin):
            return f"exit status {status}"  # else another sweep has begun it meanwhile, or looked
        if status < 0:
            kills += 1
    return f"killed {MAX_KILLS} times, at last by signal {-status}"


def note(text: str, log: TextIO) -> None:
    """Writes a line into the run's log at once, before its process writes there."""
    print(text, file=log, flush=True)


def is_locked(path: Path) -> bool:
    """Whether another process writes to a run's directory."""
    if not path.exists():
        return False
    try:
        with filelock.FileLock(path / ".lock", blocking=False):
            return False
    except filelock.Timeout:
        return True


def was_in_use(run: study.Run, begin: int) -> bool:
    """Whether a process whose output begins at this byte of the log found another one there.

    The last line will not do: another sweep may write to the log, too.
    """
    return IN_USE.encode() in run.log.read_bytes()[begin:]


def options_to_start(run: study.Run) -> list[str] | None:
    """The words that begin this run, or go on with it; None if it is finished.

    Waits until its last process has died. StudyError if another run is in its directory.
    """
    if not run.path.exists():
        return run.options()
    with filelock.FileLock(run.path / ".lock"):
        difference = run.other_arguments()
        if difference:
            raise study.StudyError(f"{run.folder} holds another run ({difference})")
        if run.finished():
            return None
        if (run.path / "args.json").exists():
            return [run.script, "--resume", run.folder]
    return run.options()


def run_process(run: study.Run, options: list[str], folder: Path, log: TextIO) -> int:
    """Runs a script to its end, its output going into the log. Gives its exit status."""
    note(f"$ python {shlex.join(options)}", log)
    modules = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    variables = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": modules}
    process = subprocess.Popen(
        [sys.executable, "-c", LEASH, *options],
        cwd=study.ROOT,
        env={**os.environ, **variables, **run.variables},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    return process.wait()


def note_start(run: study.Run, is_resumed: bool) -> None:
    """Notes the hardware and the version of the code that a process of the run starts from."""
    starts = []
    if is_resumed:
        starts = [{}]  # it was begun without a sweep: nothing is known of that
        if run.starts.exists():
            starts = json.loads(run.starts.read_text())
    start = {**hardware(), **code_version()}
    if start not in starts:
        starts.append(start)
    new = run.starts.with_suffix(".new")
    new.write_text(json.dumps(starts))
    os.replace(new, run.starts)  # a sweep that is killed meanwhile leaves the old file


def save_machine(run: study.Run) -> None:
    """Keeps with a finished run what its processes started from."""
    if run.starts.exists():  # else it was trained without a sweep
        content = json.dumps({"starts": json.loads(run.starts.read_text())}, indent=2)
        (run.path / "machine.json").write_text(content + "\n")


def hardware() -> dict[str, object]:
    """The processor and its number of cores."""
    return {"cpu": study.processor(), "cores": os.cpu_count()}


def code_version() -> dict[str, object]:
    """The commit that is checked out, and whether all its files but results are as committed.

    Both are None where there is no git, or no repository.
    """
    unknown = {"commit": None, "clean": None}
    if shutil.which("git") is None or not (study.ROOT / ".git").exists():
        return unknown
    commit = git("rev-parse", "HEAD")
    but_results = ["--", ".", ":(exclude)benchmark/results"]
    changes = git("status", "--porcelain", "--untracked-files=no", *but_results)
    if commit.returncode != 0 or changes.returncode != 0:
        return unknown
    return {"commit": commit.stdout.strip(), "clean": changes.stdout == ""}


def git(*words: str) -> subprocess.CompletedProcess:
    """Asks git about this repository, without taking its locks."""
    command = ["git", "--no-optional-locks", *words]
    return subprocess.run(command, cwd=study.ROOT, capture_output=True, text=True)


# ---------------------------------------------------------------------------- what there is to see
def last_row(csv: Path) -> dict[str, str]:
    """The last whole row of a CSV by its columns; empty if there is none."""
    try:
        with csv.open("rb") as file:
            columns = file.readline().decode().rstrip("\n").split(",")
            rows_begin = file.tell()
            size = file.seek(0, os.SEEK_END)
            file.seek(max(rows_begin, size - TAIL))
            text = file.read().decode()
    except OSError:  # it is not there yet, or is just being resumed
        return {}
    rows = text.rpartition("\n")[0].splitlines()  # without the row that is just being written
    if not rows or rows[-1].count(",") != len(columns) - 1:
        return {}
    return dict(zip(columns, rows[-1].split(","), strict=True))


@dataclass
class Row:
    """What is known of a run. All of it is read from files, so that workers may be anywhere."""

    run: study.Run
    old_log_size: int = 0  # bytes that the log had before this sweep
    state: str = "waiting"  # then "going", then "finished" or "failed"
    printed_state: str = "waiting"
    error: str = ""
    step: int = 0
    evaluation: str = "–"
    looks: list[tuple[float, int]] = field(default_factory=list)  # time and step, of late

    def look(self, now: float) -> None:
        """Reads from the run's log whether it goes, and from its CSVs how far it has come."""
        if self.state == "waiting" and log_size(self.run) > self.old_log_size:
            self.state = "going"
        if self.state != "going":
            return
        logs = {name: last_row(self.run.path / f"{name}.csv") for name in CSVS}
        self.step = max(int(row.get("step", 0)) for row in logs.values())
        if "mean" in logs["evaluations"]:
            self.evaluation = f"{float(logs['evaluations']['mean']):.1f}"
        if self.looks and self.step < self.looks[-1][1]:  # resumed: it repeats what was not saved
            self.looks.clear()
        self.looks.append((now, self.step))
        while self.looks[-1][0] - self.looks[0][0] > SPEED_WINDOW:
            self.looks.pop(0)

    @property
    def steps_per_second(self) -> float:
        """The speed over the last minute, 0 if it is not known."""
        if not self.looks:
            return 0.0
        first_time, first_step = self.looks[0]
        last_time, last_step = self.looks[-1]
        if last_step == first_step:
            return 0.0
        return (last_step - first_step) / (last_time - first_time)

    def progress(self) -> list[str]:
        """Step, last evaluation, speed and time left, as text; empty if the run is not going."""
        if self.state != "going":
            return ["", "", "", ""]
        speed = self.steps_per_second
        if speed == 0:
            return [str(self.step), self.evaluation, "?", "?"]
        steps_left = self.run.identity().args["total_timesteps"] - self.step
        time_left = timedelta(seconds=round(steps_left / speed))
        return [str(self.step), self.evaluation, f"{speed:.1f}", str(time_left)]

    def last_lines(self) -> list[str]:
        """The last lines of the run's output."""
        if not self.run.log.exists():
            return []
        return self.run.log.read_text(errors="replace").splitlines()[-LAST_LINES:]


def log_size(run: study.Run) -> int:
    """How many bytes a run has printed."""
    if not run.log.exists():
        return 0
    return run.log.stat().st_size


def table(rows: list[Row]) -> Table:
    """All runs: first what goes, then what failed, what is finished, what waits."""
    colors = {"going": "bold", "failed": "red", "finished": "green", "waiting": "dim"}
    states = [row.state for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in colors)
    columns = ["run", "state", "step", "last evaluation", "steps/s", "time left"]
    shown = Table(*columns, title=counts, title_justify="left")
    for state, color in colors.items():
        for row in rows:
            if row.state == state:
                shown.add_row(escape(str(row.run)), state, *row.progress(), style=color)
    return shown


def say(text: str, console: Console, style: str | None = None) -> None:
    """Prints text as it is, above the table."""
    console.print(text, style=style, markup=False, highlight=False)


def say_state(row: Row, console: Console) -> None:
    """Prints a run's new state; of a failed run its command, its error and its last lines."""
    if row.state == row.printed_state:
        return
    row.printed_state = row.state
    say(f"{row.state}: {row.run}", console)
    if row.error:
        lines = [row.run.command(), row.error, *row.last_lines()]
        say("\n".join(lines), console, style="red")


def say_progress(row: Row, console: Console) -> None:
    """Prints how far a run has come, where there is no terminal for the table."""
    if row.state == "going":
        step, evaluation, speed, time_left = row.progress()
        words = f"step {step}, last evaluation {evaluation}, {speed} steps/s, {time_left} left"
        say(f"{row.run}: {words}", console)


# ------------------------------------------------------------------------------------ in the sweep
def sweep(rows: list[Row], cpus: float, gpus: float, console: Console) -> None:
    """Lets Ray train all runs; their rows say what became of them."""
    remote_train = ray.remote(train)
    # max_retries: after the death of a worker or a node, for ever
    task = remote_train.options(num_cpus=cpus, num_gpus=gpus, max_retries=-1)
    tasks = {task.remote(row.run, Path.cwd()): row for row in rows}
    with Live(console=console, refresh_per_second=1, transient=True) as live:
        last_report = time.monotonic()
        while tasks:
            collect_finished(tasks)
            now = time.monotonic()
            for row in rows:
                row.look(now)
                say_state(row, console)
            if console.is_terminal:
                live.update(table(rows))
            elif now - last_report > REPORT_EVERY:
                last_report = now
                for row in rows:
                    say_progress(row, console)


def collect_finished(tasks: dict[ray.ObjectRef, Row]) -> None:
    """Waits for a second; takes those that have ended out of the tasks and notes how they ended."""
    ended, _ = ray.wait(list(tasks), timeout=1)
    for task in ended:
        row = tasks.pop(task)
        row.state = "finished"
        try:
            row.error = ray.get(task)
        except ray.exceptions.RayError as error:
            last_line = str(error).strip().splitlines()[-1]
            row.error = f"{type(error).__name__}: {last_line}"
        if row.error:
            row.state = "failed"


def plan(args: argparse.Namespace, console: Console) -> list[Row]:
    """Shows every run's command and gives the runs to train; StudyError if something is wrong."""
    runs = choose_runs(args)
    rows: list[Row] = []
    num_finished = 0
    for run in runs:
        found = run.found(args.results)
        same = [row.run.path for row in rows if row.run.identity() == run.identity()]
        if found is not None:
            num_finished += 1
            show_run(run, "finished", found, console)
        elif same:
            show_run(run, "to do", same[0], console)
        else:
            difference = run.other_arguments()
            if difference:
                hint = "move it away, or use --results"
                raise study.StudyError(f"{run.path} holds another run ({difference}): {hint}")
            rows.append(Row(run, log_size(run)))
            show_run(run, "to do", run.path, console)
    print(f"{num_finished} of {len(runs)} runs are finished")
    return rows


def choose_runs(args: argparse.Namespace) -> list[study.Run]:
    """The runs of the study that the command line asks for; StudyError if a flag is wrong."""
    if args.cpus_per_run < 0 or args.gpus_per_run < 0 or args.cpus_per_run + args.gpus_per_run == 0:
        rule = "cannot be negative, nor both be 0"
        raise study.StudyError(f"--cpus-per-run and --gpus-per-run {rule}")
    if args.gpus_per_run > 1 and not args.gpus_per_run.is_integer():
        raise study.StudyError("--gpus-per-run: a share of one GPU, or a whole number of them")
    try:
        pattern = re.compile(args.only)
    except re.error as error:
        raise study.StudyError(f"--only {args.only}: {error}") from None
    wanted = study.load(args.study, args.results)
    if wanted.script is None:
        readme = f"benchmark/results/{wanted.name}/README.md"
        raise study.StudyError(f"the runs of {wanted.name} are trained by hand: see {readme}")
    runs = [run for run in wanted.runs if pattern.search(str(run))]
    if not runs:
        raise study.StudyError(f"--only {args.only}: no run of {wanted.name} has it in its name")
    check_reserved(wanted.name, runs, args)
    return runs


def check_reserved(name: str, runs: list[study.Run], args: argparse.Namespace) -> None:
    """StudyError if a study's runs use more, or something else, than the command line reserves."""
    flags = [run.identity().args for run in runs]
    devices = {x.get("device") for x in flags}
    if args.gpus_per_run and "cpu" in devices:
        hint = "set their flag device"
        raise study.StudyError(f"--gpus-per-run: runs of {name} are on the CPU; {hint}")
    if not args.gpus_per_run and "cuda" in devices:
        hint = "give --gpus-per-run (0.25: four runs share a GPU)"
        raise study.StudyError(f"runs of {name} are on a GPU: {hint}")
    threads = max(x.get("num_threads", 1) for x in flags)
    if threads > max(1, args.cpus_per_run):
        hint = f"give --cpus-per-run {threads}"
        raise study.StudyError(f"runs of {name} have {threads} threads: {hint}")


def show_run(run: study.Run, state: str, path: Path, console: Console) -> None:
    """Prints a run's command, its state, and the directory if it is that of another run."""
    say(f"{state}: {run}", console)
    say(f"  {run.command()}", console)
    if path != run.path:
        say(f"  the same run as {path}", console)


def join(address: str) -> None:
    """Starts Ray in this process, or joins a cluster; StudyError if there is none."""
    options = {}
    if address == "local":
        options = {"object_store_memory": 100_000_000, "include_dashboard": False}
    try:
        if re.fullmatch(r"[^/]+:\d+", address):  # Ray would try for minutes
            host, port = address.rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=30).close()
        ray.init(address, log_to_driver=False, logging_level="ERROR", **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise study.StudyError(f"no Ray cluster at {address}: {error}") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own would say nothing


def check_room(args: argparse.Namespace) -> None:
    """StudyError if this machine can never hold a run. A cluster may still grow: then a line."""
    for node in ray.nodes():
        there = node["Resources"]
        if there.get("CPU", 0) >= args.cpus_per_run and there.get("GPU", 0) >= args.gpus_per_run:
            return
    needs = f"a run takes {args.cpus_per_run:g} CPUs and {args.gpus_per_run:g} GPUs"
    if args.address == "local":
        raise study.StudyError(f"{needs}, which this machine does not have")
    print(f"{needs}: waiting for a machine of the cluster that has them", file=sys.stderr)


def read_command_line() -> argparse.Namespace:
    """The study and the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", help="name of a file in benchmark/studies, or a .toml file")
    parser.add_argument(
        "--results",
        type=study.full_path,
        default=study.RESULTS,
        help="folder of all studies' results",
    )
    parser.add_argument(
        "--only",
        default="",
        help='train the runs in whose names this regular expression is found: "batch seed 1$"',
    )
    parser.add_argument(
        "--address", default="local", help="of a Ray cluster to join (auto: this machine's)"
    )
    parser.add_argument(
        "--cpus-per-run", type=float, default=1, help="cores to reserve for each run"
    )
    parser.add_argument("--gpus-per-run", type=float, default=0, help="0.25: four runs share a GPU")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands and train nothing"
    )
    return parser.parse_args()


def main() -> None:
    """Shows every run's command, then trains what is not finished."""
    args = read_command_line()
    console = Console(soft_wrap=True)
    try:
        rows = plan(args, console)
        if args.dry_run or not rows:
            return
        rows[0].run.path.parent.mkdir(parents=True, exist_ok=True)  # may it be written?
        join(args.address)
        check_room(args)
        sweep(rows, args.cpus_per_run, args.gpus_per_run, console)
    except KeyboardInterrupt:
        print("stopped: the same command goes on with what is not finished", file=sys.stderr)
        sys.exit(130)
    except (study.StudyError, OSError, ray.exceptions.RayError) as error:
        print(" ".join(str(error).split())[:500], file=sys.stderr)
        sys.exit(2)
    finally:
        ray.shutdown()
    sys.exit(show_outcome(rows, args))


def show_outcome(rows: list[Row], args: argparse.Namespace) -> int:
    """Prints what failed, and what to do next. Gives the exit status."""
    failed = [row for row in rows if row.error]
    for row in failed:
        print(f"failed: {row.run}: {row.error}", file=sys.stderr)
    report = ["python", "benchmark/report.py", args.study]
    if args.results != study.RESULTS:
        report += ["--results", str(args.results)]
    print(f"{len(rows) - len(failed)} of {len(rows)} runs trained; now: {shlex.join(report)}")
    if failed:
        return 1
    return 0


if __name__ == "__main__":
    main()
