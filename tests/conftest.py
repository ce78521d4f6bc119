"""What the tests of the command line share."""

import subprocess
import sys
import threading
import warnings

import filelock
import pytest

import ddpg_continuous


@pytest.fixture
def script():
    """The script whose command line is tested; a module may name another one by a fixture of its own."""
    return ddpg_continuous


@pytest.fixture
def folder(request, tmp_path, monkeypatch):
    """The current folder: empty, but for the test module's MODULES of environments, their texts by their names."""
    for name, text in getattr(request.module, "MODULES", {}).items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path


@pytest.fixture(scope="session")
def complete_run(tmp_path_factory):
    """Makes a run by a script's command line, in a process of its own: its directory, stdout and stderr."""

    def run(script, flags):
        folder = tmp_path_factory.mktemp("smoke")
        command = [sys.executable, script.__file__, *map(str, flags), "--run-name", "smoke"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return folder / "runs" / "smoke", done.stdout, done.stderr

    return run


@pytest.fixture
def command(script, monkeypatch, capsys):
    """Runs the command line in this process, quickly, without plots: exit status, stdout, stderr with its warnings."""
    locks, make = [], filelock.FileLock
    monkeypatch.setattr(script, "plot", lambda *_: None)
    monkeypatch.setattr(filelock, "FileLock", lambda path: (locks.append(make(path)), locks[-1])[1])
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # which main() replaces

    def run(*flags):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [f"{script.SCRIPT}.py", *map(str, flags)])
        try:
            with warnings.catch_warnings():
                warnings.resetwarnings()
                for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                    warnings.simplefilter("ignore", hidden)  # as Python does
                warnings.showwarning = lambda *args: print(warnings.formatwarning(*args[:4]), file=sys.stderr)
                status = script.main() or 0
        except SystemExit as exit:
            status = exit.code
        finally:
            for lock in locks:
                lock.release(force=True)  # as the end of a process does
        return status, *capsys.readouterr()

    return run
