"""The fixtures that several test modules share."""

import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
import matplotlib
import pytest
import speed
import study
from helpers import OF_THE_SHELL, SMOKE, process_variables
from toy_environments import EVENTS, Toy

import ddpg_continuous

os.environ["KERAS_BACKEND"] = OF_THE_SHELL["KERAS_BACKEND"]
study.import_triton_first()  # some tests import TensorFlow
matplotlib.use("Agg")  # needs no display

# What Python itself does not show
HIDDEN_WARNINGS = (
    DeprecationWarning,
    PendingDeprecationWarning,
    ImportWarning,
    ResourceWarning,
)


@pytest.fixture
def script():
    """The script whose command line is tested; a module may have a fixture of its own for it."""
    return ddpg_continuous


@pytest.fixture
def counted_steps(monkeypatch):
    """The steps of a contestant of speed.py in this process, which does not stop itself."""
    steps = []
    after = speed.Turns.after

    def note_and_call(self, step):
        steps.append(step)
        after(self, step)

    monkeypatch.setattr(speed.Turns, "after", note_and_call)
    monkeypatch.setattr(speed.os, "kill", lambda pid, number: None)
    monkeypatch.setattr(speed, "RANDOM_STEPS", 250)
    monkeypatch.setattr(speed, "FIRST_STEP", 100)
    monkeypatch.setattr(speed, "TURN", 50)
    return steps


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder: empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())  # to which main() adds the current folder
    return tmp_path


@pytest.fixture
def toy():
    """Registers a Toy with the given arguments."""
    EVENTS.clear()

    def register(**kwargs):
        gym.register("Toy-v0", Toy, kwargs=kwargs)
        return "Toy-v0"

    yield register
    gym.registry.pop("Toy-v0", None)


@pytest.fixture
def command(script, monkeypatch, capsys):
    """Runs the command line in this process, without plots: exit status, stdout, stderr.

    Warnings are shown as Python shows them outside of pytest.
    """
    for name in ("plot", "plot_what_it_sees"):
        if hasattr(script, name):
            monkeypatch.setattr(script, name, lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # which main() replaces
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def show(message, category, filename, line, *_):
        print(warnings.formatwarning(message, category, filename, line), file=sys.stderr)

    def run(*flags):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [f"{script.SCRIPT}.py", *map(str, flags)])
        status = 0
        with warnings.catch_warnings():
            warnings.resetwarnings()
            for hidden in HIDDEN_WARNINGS:
                warnings.simplefilter("ignore", hidden)
            warnings.showwarning = show
            try:
                script.main()
            except SystemExit as end:
                status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Runs another program's main() in this process: exit status, stdout, stderr."""

    def run(main, *words):
        monkeypatch.setattr(sys, "argv", [main.__module__, *map(str, words)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


class FinishedRuns:
    """Runs by the scripts' command lines, each in a process of its own, once in a session."""

    def __init__(self, make_folder):
        self.make_folder = make_folder
        self.pool = ThreadPoolExecutor(max(1, os.cpu_count() - 1))  # a core is for pytest itself
        self.runs = {}
        self.processes = []

    def begin(self, script, *flags):
        """Starts a run, now or when others have ended; tests go on meanwhile."""
        key = (script.SCRIPT, flags)
        if key not in self.runs:
            folder = self.make_folder("finished")
            self.runs[key] = self.pool.submit(self.train, script, flags, folder)
        return self.runs[key]

    def train(self, script, flags, folder):
        """Runs the script to its end: its directory, stdout and stderr."""
        words = [sys.executable, script.__file__, *map(str, flags), "--run-name", "run"]
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=process_variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return folder / "runs" / "run", out, err

    def __call__(self, script, *flags):
        """A finished run: its directory, which nobody may change, stdout and stderr."""
        return self.begin(script, *flags).result()

    def end(self):
        """Ends what still runs."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in self.processes:
            process.kill()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Gives the finished run of a script with these flags."""
    runs = FinishedRuns(tmp_path_factory.mktemp)
    yield runs
    runs.end()


@pytest.fixture(scope="session", autouse=True)
def begun_runs(request):
    """The runs that test modules name in FINISHED_RUNS begin beside the first tests."""
    for item in request.session.items:
        if "finished_run" in item.fixturenames:
            finished_run = request.getfixturevalue("finished_run")
            for script, flags in getattr(item.module, "FINISHED_RUNS", []):
                finished_run.begin(script, *flags)


@pytest.fixture(scope="session")
def smoke(finished_run):
    """A run of ddpg_continuous.py of a few hundred steps: its directory, stdout and stderr."""
    return finished_run(ddpg_continuous, *SMOKE)


@pytest.fixture
def start(script, folder):
    """Starts Python in a process of its own, which the test's end ends.

    The words after it are flags of the script's command line, which runs without plots;
    or, with `program`, of that.
    """
    processes = []
    name = script.SCRIPT
    without_plots = f"import {name} as script; script.plot = lambda *_: None; script.main()"

    def run(*flags, program=("-c", without_plots), variables=None, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        environment = process_variables(COLUMNS="160", **(variables or {}))
        words = [sys.executable, *map(str, [*program, *flags])]
        process = subprocess.Popen(words, env=environment, cwd=folder, **options)
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()
