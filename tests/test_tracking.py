"""Weights & Biases gets what the CSVs get, and its run is finished when ours is."""

import json
import struct
import sys
from types import SimpleNamespace

import pytest
from helpers import POINT, Killed, points_in_csvs, refused
from point_environments import Point

pytestmark = pytest.mark.usefixtures("folder")
FLAGS = (
    *(*POINT, "--no-anneal", "--total-timesteps", 200, "--eval-every", 100),
    *("--checkpoint-every", 120, "--run-name", "tracked"),
)


class FakeRun:
    """In place of a run of W&B."""

    def __init__(self):
        self.points = {}
        self.exit_codes = []
        self.error = None

    def log(self, values, step):
        assert not self.exit_codes
        self.points.update({(name, step): value for name, value in values.items()})
        if self.error and step >= 100:
            raise self.error

    def finish(self, exit_code=0):
        self.exit_codes.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    """In place of the library: the runs that were started, and with which options."""
    fake = SimpleNamespace(runs=[], options=[], error=None)

    def init(**options):
        run = FakeRun()
        run.error = fake.error
        fake.runs.append(run)
        fake.options.append(options)
        return run

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_gets_the_values_of_the_csvs_and_a_resumed_run_keeps_its_id(command, folder, wandb):
    run = folder / "runs/tracked"
    assert command(*FLAGS, "--track")[0] == 0
    assert command("--resume", run, "--total-timesteps", 400)[0] == 0
    first, second = wandb.runs
    assert {step for _, step in first.points} == {*range(0, 201, 10)}
    assert {**first.points, **second.points} == pytest.approx(points_in_csvs(run), abs=1e-12)
    for point in first.points.keys() & second.points.keys():
        assert first.points[point] == second.points[point], point
    ids = {options["id"] for options in wandb.options}
    assert len(ids) == 1
    for options in wandb.options:
        assert options["name"] == "tracked"
        assert options["resume"] == "allow"
        assert options["config"]["actor_learning_rate"] == 1e-4


def test_runs_of_one_name_in_two_folders_are_two_runs_in_wandb(command, wandb):
    for folder in ("a", "b"):
        assert command(*FLAGS, "--track", "--runs-dir", folder)[0] == 0
    first, second = (options["id"] for options in wandb.options)
    assert first != second


def test_a_run_of_an_older_version_keeps_its_name_as_its_id(command, folder, wandb):
    run = folder / "runs/tracked"
    assert command(*FLAGS, "--track")[0] == 0
    content = json.loads((run / "args.json").read_text())
    del content["wandb_id"]
    (run / "args.json").write_text(json.dumps(content))
    assert command("--resume", run, "--total-timesteps", 400)[0] == 0
    assert wandb.options[1]["id"] == "tracked"


@pytest.mark.parametrize(
    ("error", "status", "exit_code"),
    [(None, 0, 0), (OSError("no network"), 2, 1), (KeyboardInterrupt(), 130, 1)],
)
def test_the_run_in_wandb_is_finished_once_however_ours_ends(
    error, status, exit_code, command, wandb
):
    wandb.error = error
    assert command(*FLAGS, "--track")[0] == status
    (run,) = wandb.runs
    assert run.exit_codes == [exit_code]


def test_it_is_finished_too_where_the_environment_fails(command, wandb, monkeypatch):
    monkeypatch.setattr(Point, "num_steps", 0)
    failing = ("--env-id", "point_environments:NanReward-v0")
    result = command(*FLAGS, *failing, "--eval-every", 0, "--track")
    refused(result, "step 75:", "reward")
    (run,) = wandb.runs
    assert run.exit_codes == [1]


def test_an_error_that_nobody_foresaw_finishes_it_too(command, wandb):
    wandb.error = Killed()
    with pytest.raises(Killed):
        command(*FLAGS, "--track")
    (run,) = wandb.runs
    assert run.exit_codes == [1]


def test_without_track_wandb_is_not_asked(command, wandb):
    assert command(*FLAGS)[0] == 0
    assert not wandb.runs


def test_wandb_that_does_not_start_ends_in_one_line(command, monkeypatch):
    def init(**options):
        raise ValueError("no API key")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    refused(command(*FLAGS, "--track"), "W&B does not start", "no API key", "WANDB_MODE=offline")


# ------------------------------------------------------------------------------- the library itself
def records(file):
    """The records of a .wandb file: LevelDB's log format in blocks of 32 KiB, after 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = file.read_bytes()
    position = 7
    record = b""
    while position + 7 <= len(data):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole one, or the last part
            yield Record.FromString(record)
            record = b""


def points(file):
    """Every value logged, by key and step."""
    found = {}
    for record in records(file):
        items = {}
        for item in record.history.item:
            items[item.key or item.nested_key[0]] = json.loads(item.value_json)
        for key, value in items.items():
            if not key.startswith("_"):
                found[key, items["_step"]] = value
    return found


def run_records(file):
    return [record.run for record in records(file) if record.HasField("run")]


@pytest.mark.slow
def test_weights_and_biases_itself_keeps_the_values_of_the_csvs_and_a_resumed_runs_id(
    start, folder
):
    variables = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    for name in ("CONFIG", "CACHE", "DATA"):
        variables[f"WANDB_{name}_DIR"] = str(folder / name)
    run = folder / "runs/tracked"
    files = []
    for words in ((*FLAGS, "--track"), ("--resume", run, "--total-timesteps", 400)):
        process = start(*words, variables=variables)
        _, err = process.communicate()
        assert process.returncode == 0, err
        files.append(next(file for file in folder.rglob("*.wandb") if file not in files))
    first, second = map(points, files)
    assert {step for _, step in first} == {*range(0, 201, 10)}
    assert {**first, **second} == pytest.approx(points_in_csvs(run), abs=1e-12)
    assert all(first[point] == second[point] for point in first.keys() & second.keys())
    content = json.loads((run / "args.json").read_text())
    ids = {record.run_id for file in files for record in run_records(file)}
    assert ids == {content["wandb_id"]}
    assert content["wandb_id"].startswith("tracked-")
    config = {update.key: update.value_json for update in run_records(files[0])[0].config.update}
    assert config["actor_learning_rate"] == "0.0001"
