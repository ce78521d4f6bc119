"""benchmark/speed.py: what the floor is, and that contestants take turns.

And what its command, report.py's and sweep.py's say without requirements-dev.txt.
"""

import csv
import functools
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import speed
import study
from helpers import refused
from torch.utils.flop_counter import FlopCounterMode

import ddpg_continuous

BENCHMARK = Path(speed.__file__).parent


def flops(products):
    return sum(2 * rows * inner * columns for rows, inner, columns in products)


def test_the_floor_has_nine_products_of_the_two_hidden_layers():
    """Forward: targets, both networks, the critic again; backward: two of each network's own."""
    large = [x for x in speed.products(64) if min(x) == 64 and flops([x]) > 15e6]
    assert len(large) == 9
    assert 142e6 < flops(speed.products(64)) < 143e6


def test_an_update_makes_the_products_of_the_floor_and_one_more():
    """torch goes back through the concatenation with the action, of which one part would do."""
    args = ddpg_continuous.Args(norm="none", batch_size=64)
    n = args.batch_size
    units_1, units_2 = args.hidden_sizes
    assert [units_1, units_2] == speed.HIDDEN_SIZES
    agent = ddpg_continuous.DDPG(speed.OBSERVATION_SIZE, speed.ACTION_SIZE, args)
    sizes = [speed.OBSERVATION_SIZE, speed.ACTION_SIZE, 1, 1, speed.OBSERVATION_SIZE]
    batch = [np.ones((n, size), np.float32) for size in sizes]
    with FlopCounterMode(display=False) as counter:
        agent.update(batch)
    one_more = (n, units_2, units_1 + speed.ACTION_SIZE)
    assert counter.get_total_flops() == flops([*speed.products(64), one_more])


def test_every_step_of_a_script_counts_also_in_the_environment_after_a_checkpoint(
    counted_steps, tmp_path, monkeypatch, capsys
):
    for name in ["KERAS_BACKEND", "OMP_NUM_THREADS"]:  # as the end of the process would,
        monkeypatch.setenv(name, "1")  # the end of the test undoes what is set
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(ddpg_continuous, "make_env", ddpg_continuous.make_env)
    args_with_checkpoints = functools.partial(ddpg_continuous.Args, checkpoint_every=150)
    monkeypatch.setattr(ddpg_continuous, "Args", args_with_checkpoints)
    setup = speed.Setup(threads=1, total_steps=300, batch_size=64, folder=str(tmp_path))
    speed.train_script(setup, "ddpg_continuous", "none")
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    assert counted_steps == list(range(1, 301))
    out = capsys.readouterr().out
    assert len(re.findall(rf"(?m)^{speed.SECONDS} [\d.]+$", out)) == 5


def test_the_table_has_the_ratio_within_a_turn_and_the_share_of_the_fastest_floor():
    """A machine that becomes twice as slow changes neither."""
    speeds = {speed.REFERENCE: np.array([100.0, 50.0, 100.0]), "x": np.array([150.0, 75.0, 200.0])}
    speeds |= {name: np.array([400.0, 200.0, 300.0]) for name in speed.FLOORS}
    speeds["the products alone, NumPy"] = np.array([300.0, 150.0, 400.0])
    _, _, reference, x, *floors = speed.table({1: speeds}).splitlines()
    assert reference == f"| {speed.REFERENCE} | 1 | 100 | 1.00 (1.00 to 1.00) | 25 % |"
    assert x == "| x | 1 | 150 | 1.50 (1.50 to 1.75) | 38 % |"  # 3/8, 3/8, 1/2
    assert len(floors) == len(speed.FLOORS)


@pytest.fixture
def events(monkeypatch):
    """What contestants that are none do; a turn takes A one second and B two, or never ends."""
    found = []

    class Fake(speed.Contestant):
        def end_of_turn(self):
            found.append(f"{self.name} is ready")

        def take_turn(self):
            found.append(self.name)
            if found.count(self.name) == 4:
                raise study.StudyError(f"{self.name} failed")
            return {"A": 1.0, "B": 2.0}[self.name]

    def fake_start(name, threads, args, errors):
        process = SimpleNamespace(
            kill=lambda: found.append(f"{name} is killed"),
            wait=lambda: found.append(f"{name} has ended"),
        )
        return Fake(name, process, errors)

    monkeypatch.setattr(speed, "start", fake_start)
    return found


ENDS = ["B is killed", "B has ended", "A is killed", "A has ended"]
CSV_OF_THREE_TURNS = [f"1,{turn},{x}" for turn in range(3) for x in ("A,250.0", "B,125.0")]


def test_contestants_take_turns_in_the_opposite_order_every_second_time(events, tmp_path):
    speeds = speed.measure(["A", "B"], 1, SimpleNamespace(turns=3), tmp_path / "speed.csv")
    ready = ["A is ready", "B is ready"]
    assert events == [*ready, "A", "B", "B", "A", "A", "B", *ENDS]
    assert speeds["B"].tolist() == [125.0] * 3
    assert (tmp_path / "speed.csv").read_text().splitlines() == CSV_OF_THREE_TURNS


def test_the_turns_before_a_contestant_fails_are_kept(events, tmp_path):
    with pytest.raises(study.StudyError):
        speed.measure(["A", "B"], 1, SimpleNamespace(turns=9), tmp_path / "speed.csv")
    assert events[-4:] == ENDS
    assert (tmp_path / "speed.csv").read_text().splitlines() == CSV_OF_THREE_TURNS


def test_a_peer_that_fails_or_is_not_there_is_named(tmp_path, capsys):
    failing = f"{sys.executable} -c 'import sys; sys.exit(\"no engine\")'"
    args = SimpleNamespace(peer=[("X", failing)], device="cpu", turns=1, batch_size=8)
    contestant = speed.start("X", 1, args, tmp_path / "errors.txt")
    with pytest.raises(study.StudyError, match="X failed: see above"):
        contestant.end_of_turn()
    assert "no engine" in capsys.readouterr().err
    args.peer = [("X", f"{sys.executable} -c 'import tempfile; print(tempfile.gettempdir())'")]
    process = speed.start("X", 1, args, tmp_path / "errors.txt").process
    assert process.communicate()[0].strip() == str(tmp_path)  # it is killed, and leaves its files
    args.peer = [("X", "no-such-program")]
    with pytest.raises(study.StudyError, match="X cannot be started"):
        speed.start("X", 1, args, tmp_path / "errors.txt")


def test_bad_flags_are_one_line(run_main):
    refused(run_main(speed.main, "--only", "["), "--only [")
    refused(run_main(speed.main, "--turns", 0), "--turns: at least 1")


@pytest.mark.slow
def test_the_reference_and_the_floor_are_measured(tmp_path):
    for library in ["stable_baselines3", "rich", "jax"]:
        pytest.importorskip(library)  # they are in requirements-dev.txt
    flags = ["--turns", "2", "--threads", "1", "--only", "^$", "--out", str(tmp_path)]
    command = [sys.executable, speed.__file__, *flags]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    rows = list(csv.DictReader((tmp_path / "speed.csv").open()))
    assert [row["name"] for row in rows] == 2 * [speed.REFERENCE, *speed.FLOORS]
    table = (tmp_path / "speed.md").read_text()
    shares = [int(share) for share in re.findall(r"(\d+) % \|", table)]
    assert len(shares) == 4
    assert shares[0] < max(shares[1:]) <= 100


WITHOUT = """
import runpy, sys
package, *sys.argv = sys.argv[1:]
sys.modules[package] = None  # as if it were not installed
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("script", "package"),
    [
        ("sweep.py", "ray"),
        ("sweep.py", "rich"),
        ("report.py", "scipy"),
        ("speed.py", "stable_baselines3"),
        ("speed.py", "rich"),
    ],
)
def test_a_command_without_its_packages_is_one_line_with_the_pip_command(script, package):
    words = [package, str(BENCHMARK / script)]
    if script != "speed.py":  # which asks for its packages when it begins, and not for --help
        words.append("--help")
    command = [sys.executable, "-c", WITHOUT, *words]
    variables = {**speed.os.environ, "PYTHONPATH": str(BENCHMARK)}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(": pip install -r requirements.txt -r requirements-dev.txt")
