"""Trains every run of a study that is not finished yet, on this machine's cores or on a Ray cluster.

    pip install -r requirements.txt -r requirements-dev.txt     (Linux, macOS)
    python benchmark/sweep.py normalisation
    python benchmark/sweep.py normalisation --dry-run      # only print the commands, to paste one of them
    python benchmark/sweep.py normalisation --address auto # on the cluster that this machine belongs to

What a study is says benchmark/study.py. Each run is an ordinary command line, in a process of its own with one thread.
The process dies with the Ray worker that started it, so that there never are two that write to one directory; a run
whose worker, node or sweep has died goes on with --resume, to the same CSVs, bit for bit. A run that fails is shown
with its last lines, the others go on, and the exit status is 1.
"""

import argparse
import contextlib
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
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import filelock
import study
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: no report to Ray's makers
import ray

LEASH = (
    "import os, runpy, sys, threading; "
    "threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start(); "
    "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
)  # runs a script that dies as its standard input ends: when the parent is no more, whatever its end was
KILLS = 3  # a run that signals have killed so often, while its worker lived on, has failed (out of memory?)
BAR = re.compile(r"\| (\d+)/\d+ \[[\d:]+<([\d:?]+), +([\d.?]+)(step/s|s/step)")  # the line of the script's bar
EVALUATION = re.compile(r"step \d+: evaluation (-?[\d.]+) ")
LAST_LINES = 10  # of a failed run


# ------------------------------------------------------------------------------------------------------- in a worker
def train(trial: study.Trial) -> str:
    """Trains a run, or the rest of it, to its end. Gives what went wrong, or nothing; its output goes into its log."""
    try:
        trial.path.parent.mkdir(parents=True, exist_ok=True)
        with trial.log.open("a") as log:
            return attempts(trial, log)
    except (study.StudyError, OSError) as error:  # a full disk, say
        return str(error)


def attempts(trial: study.Trial, log: TextIO) -> str:
    """Starts the run's process until it has come to an end by itself."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", **trial.variables}
    kills = 0
    while kills < KILLS:
        options = trial.options()
        print(f"\n{platform.node()}, {time.ctime()}", file=log, flush=True)
        if is_locked(trial.path):
            print("waiting: another process writes there", file=log, flush=True)
        if trial.path.exists():
            with filelock.FileLock(trial.path / ".lock"):  # its last process may not have died yet
                if difference := trial.other_arguments():
                    return f"{trial.folder} holds another run ({difference})"
                if trial.finished():
                    return ended(trial)
                if (trial.path / "args.json").exists():
                    options = [trial.script, "--resume", trial.folder]
                elif {file.name for file in trial.path.iterdir()} <= {".lock", "args.json.new"}:
                    shutil.rmtree(trial.path)  # killed before it wrote its first file
        print(f"$ python {shlex.join(options)}", file=log, flush=True)
        command, pipe = [sys.executable, "-c", LEASH, *options], subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=study.ROOT, env=environment, stdin=pipe, stdout=log, stderr=subprocess.STDOUT
        )
        status = process.wait()
        if trial.finished():
            return ended(trial)
        if status == 0:
            difference = trial.other_arguments() or "it is not complete"
            return f"it ended, but {trial.folder} holds another run ({difference}): change the study"
        if status > 0 and not is_locked(trial.path):  # else another sweep has begun it meanwhile
            return f"exit status {status}"
        kills += status < 0
    return f"killed {KILLS} times, at last by signal {-status}"


def ended(trial: study.Trial) -> str:
    """Notes the machine on which the run came to its end; nothing went wrong."""
    if not (trial.path / "machine.json").exists():
        (trial.path / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")
    return ""


def is_locked(path: Path) -> bool:
    """Whether another process writes to a run's directory."""
    try:
        with filelock.FileLock(path / ".lock", blocking=False) if path.exists() else contextlib.nullcontext():
            return False
    except filelock.Timeout:
        return True


def machine() -> dict[str, object]:
    """The hardware, as a paper names it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"(?m)^model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return {"cpu": (names or [platform.processor() or platform.machine()])[0], "cores": os.cpu_count()}


# ------------------------------------------------------------------------------------------------- what there is to see
@dataclass
class Row:
    """What is known of a run: its log is all that the sweep reads, so that workers may be anywhere."""

    trial: study.Trial
    state: str = "waiting"  # then "going", then "finished" or "failed"
    shown: str = "waiting"  # the last state that was printed
    error: str = ""
    began: int = 0  # bytes that the log had before this sweep
    step: str = ""
    evaluation: str = ""
    speed: str = ""
    left: str = ""

    def read(self) -> None:
        """Reads where the run is from the end of its log."""
        try:
            size = self.trial.log.stat().st_size
            with self.trial.log.open("rb") as file:
                file.seek(max(self.began, size - 4096))
                text = file.read().decode(errors="replace")
        except OSError:  # it has not begun
            return
        if size > self.began and self.state == "waiting":
            self.state = "going"
        if bars := BAR.findall(text):
            self.step, self.left, self.speed, unit = bars[-1]
            if unit == "s/step" and self.speed != "?":
                self.speed = f"{1 / float(self.speed):.2f}"
        if evaluations := EVALUATION.findall(text):
            self.evaluation = evaluations[-1]

    def lines(self) -> list[str]:
        """The last lines of the run's output."""
        if not self.trial.log.exists():
            return []
        return self.trial.log.read_text(errors="replace").splitlines()[-LAST_LINES:]


def table(rows: list[Row]) -> Table:
    """All runs: first what goes, then what failed, what is finished, what waits."""
    order = ("going", "failed", "finished", "waiting")
    counts = ", ".join(f"{sum(row.state == state for row in rows)} {state}" for state in order)
    columns = ("run", "state", "step", "return", "steps/s", "time left")
    drawn = Table(*columns, title=counts, title_justify="left")
    colors = {"going": "bold", "failed": "red", "finished": "green", "waiting": "dim"}
    for row in sorted(rows, key=lambda row: order.index(row.state)):
        where = [row.step, row.evaluation, row.speed, row.left] if row.state == "going" else [""] * 4
        drawn.add_row(escape(str(row.trial)), row.state, *where, style=colors[row.state])
    return drawn


# ------------------------------------------------------------------------------------------------------- in the sweep
def sweep(rows: list[Row], cpus: float, gpus: float, console: Console) -> None:
    """Lets Ray train all runs; their rows say what became of them."""
    task = ray.remote(train).options(num_cpus=cpus, num_gpus=gpus, max_retries=-1)  # of workers and nodes that die
    tasks = {task.remote(row.trial): row for row in rows}
    with Live(console=console, refresh_per_second=1, transient=True) as live:
        said = time.monotonic()
        while tasks:
            for done in ray.wait(list(tasks), timeout=1)[0]:
                row = tasks.pop(done)
                try:
                    row.error = ray.get(done)
                except ray.exceptions.RayError as error:
                    row.error = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
                row.state = "failed" if row.error else "finished"
            for row in rows:
                row.read()
                if row.shown != row.state:
                    row.shown = row.state
                    console.print(f"{row.state}: {row.trial}", markup=False, highlight=False)
                    if row.error:
                        text = "\n".join([row.error, *row.lines()])
                        console.print(f"{row.trial.command()}\n{text}", style="red", markup=False, highlight=False)
            if console.is_terminal:
                live.update(table(rows))
            elif time.monotonic() > said + 60:
                said = time.monotonic()
                for row in rows:
                    if row.state == "going":
                        where = f"step {row.step}, return {row.evaluation}, {row.speed} steps/s, {row.left} left"
                        console.print(f"{row.trial}: {where}", markup=False, highlight=False)


def plan(args: argparse.Namespace, console: Console) -> list[Row]:
    """Shows every run's command, and gives those that are to be trained; StudyError if something is wrong."""
    if args.cpus_per_run < 0 or args.gpus_per_run < 0 or args.cpus_per_run + args.gpus_per_run == 0:
        raise study.StudyError("--cpus-per-run and --gpus-per-run cannot be negative, nor both be 0")
    try:
        only = re.compile(args.only)
    except re.error as error:
        raise study.StudyError(f"--only {args.only}: {error}") from None
    wanted = study.load(args.study, args.results)
    if args.gpus_per_run and "cpu" in [trial.identity()[2].get("device") for trial in wanted.trials]:
        raise study.StudyError(f"--gpus-per-run: runs of {wanted.name} are on the CPU; set their flag device")
    trials = [trial for trial in wanted.trials if only.search(str(trial))]
    if not trials:
        raise study.StudyError(f"--only {args.only}: no run of {wanted.name} has it in its name")
    if not args.dry_run:
        (args.results / wanted.name).mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for trial in trials:
        same = [row.trial.path for row in rows if row.trial.identity() == trial.identity()]
        found = trial.found(args.results) or (same[0] if same else None)
        console.print(f"{'finished' if found else 'to do'}: {trial}", markup=False, highlight=False)
        console.print(f"  {trial.command()}", markup=False, highlight=False)
        if found and found != trial.path:
            console.print(f"  the same run as {found}", markup=False, highlight=False)
        elif not found:
            if difference := trial.other_arguments():
                raise study.StudyError(f"{trial.path} holds another run ({difference}): move it away, or use --results")
            rows.append(Row(trial, began=trial.log.stat().st_size if trial.log.exists() else 0))
    print(f"{len(trials) - len(rows)} of {len(trials)} runs are finished")
    return rows


def join(address: str) -> None:
    """Starts Ray in here, or joins a cluster; StudyError if there is none."""
    try:
        if re.fullmatch(r"[^/]+:\d+", address):  # Ray would try for minutes
            socket.create_connection(address.rsplit(":", 1), timeout=30).close()
        embedded = {"object_store_memory": 100_000_000, "include_dashboard": False} if address == "local" else {}
        ray.init(address, log_to_driver=False, logging_level="ERROR", **embedded)
    except (OSError, ValueError, RuntimeError) as error:
        raise study.StudyError(f"no Ray cluster at {address}: {error}") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own would say nothing


def main() -> None:
    """Reads the command line, shows every run's command, trains what is not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="name of a file in benchmark/studies, or a .toml file")
    parser.add_argument("--results", type=Path, default=study.RESULTS, help="folder of all studies' results")
    parser.add_argument("--only", default="", help="the runs whose names (as shown) this regular expression finds")
    parser.add_argument("--address", default="local", help="of a Ray cluster to join (auto: this machine's)")
    parser.add_argument("--cpus-per-run", type=float, default=1, help="which Ray reserves; a run has one thread")
    parser.add_argument("--gpus-per-run", type=float, default=0, help="0.25: four runs share one (see device)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and train nothing")
    args = parser.parse_args()
    console = Console(soft_wrap=True)
    try:
        rows = plan(args, console)
        if args.dry_run or not rows:
            return
        join(args.address)
        sweep(rows, args.cpus_per_run, args.gpus_per_run, console)
    except KeyboardInterrupt:
        print("stopped: the same command goes on with what is not finished", file=sys.stderr)
        sys.exit(130)
    except (study.StudyError, OSError, ray.exceptions.RayError) as error:
        print(" ".join(str(error).split())[:500], file=sys.stderr)
        sys.exit(2)
    finally:
        ray.shutdown()
    failed = [row for row in rows if row.error]
    for row in failed:
        print(f"failed: {row.trial}: {row.error}", file=sys.stderr)
    where = "" if args.results == study.RESULTS else f" --results {shlex.quote(str(args.results))}"
    print(f"{len(rows) - len(failed)} of {len(rows)} runs trained; now: python benchmark/report.py {args.study}{where}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
