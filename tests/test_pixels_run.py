"""What a run of ddpg_pixels.py guarantees, and the bad input that it refuses.

What stands in ddpg_continuous.py letter for letter (test_repository.py) is tested there.
"""

import importlib
import math
import os
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import (
    Killed,
    assert_same_run,
    checkpoint_step,
    kill_after_its_first_checkpoint,
    load,
    note_terminated,
    refused,
    run_until_killed,
    snapshot,
)
from walk import differences, new_training

import ddpg_continuous
import ddpg_pixels
import dqn

torch.set_num_threads(1)
pytestmark = pytest.mark.usefixtures("folder")

SMALL = (
    *("--hidden-sizes", 16, 12, "--batch-size", 8, "--frame-size", 15),
    *("--learning-starts", 30, "--eval-episodes", 1),
)
COLUMN = ("--env-id", "pixel_environments:Column-v0", *SMALL, "--crop", 1, "--reward-scale", 1)
# With evaluations and checkpoints, and a buffer that overflows
SHORT = (
    *("--env-id", "pixel_environments:Trace-v0", *SMALL, "--total-timesteps", 120),
    *("--eval-every", 35, "--checkpoint-every", 20, "--buffer-size", 70),
)
FINISHED_RUNS = [(ddpg_pixels, SHORT)]


@pytest.fixture
def script():
    return ddpg_pixels


@pytest.fixture
def short(finished_run):
    """A run of some steps: its directory, stdout and stderr."""
    return finished_run(ddpg_pixels, *SHORT)


@pytest.fixture
def run(short, folder):
    """The directory of that run, one's own copy."""
    return Path(shutil.copytree(short[0], folder / "runs" / "run"))


@pytest.fixture(autouse=True)
def variables_as_before():
    """A training sets two of them for the whole process: MUJOCO_GL and SDL_VIDEODRIVER."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


class Changes:
    """Counts what the script changes on disk; before the change number `end_at`, raises `error`."""

    def __init__(self, monkeypatch):
        self.expect()
        for owner, name in (
            (ddpg_pixels, "write_atomically"),
            (ddpg_pixels.Logger, "log"),
            (Path, "unlink"),
            (ddpg_pixels.os, "truncate"),
        ):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def expect(self, end_at=math.inf, error=Killed):
        self.count = 0
        self.end_at = end_at
        self.error = error

    def counted(self, change):
        def counting(*args, **options):
            self.count += 1
            if self.count == self.end_at:
                raise self.error
            return change(*args, **options)

        return counting


@pytest.fixture
def changes(monkeypatch):
    monkeypatch.setattr(ddpg_pixels, "LOG_EVERY", 5)
    return Changes(monkeypatch)


def files_of_observations(run):
    return sorted(file.name for file in (run / "observations").iterdir())


# ---------------------------------------------------------------------------------------- learning
def test_it_learns_from_what_it_sees(command, folder):
    """Untrained, two steps earn about 0.9, at best 2; the vector that it could observe is noise."""
    flags = (
        *(*COLUMN, "--total-timesteps", 1_000, "--eval-every", 500, "--eval-episodes", 20),
        *("--batch-size", 64, "--learning-starts", 200, "--action-repeat", 1, "--gamma", 0),
        *("--hidden-sizes", 64, 64, "--noise-sigma", 0.5, "--no-anneal", "--run-name", "run"),
        *("--actor-learning-rate", 1e-3, "--critic-learning-rate", 3e-3),
    )
    assert command(*flags)[0] == 0
    means = pd.read_csv(folder / "runs/run/evaluations.csv")["mean"]
    assert means.iloc[0] < 1.3
    assert means.iloc[-1] > 1.7


@pytest.mark.slow
def test_a_pendulum_learns_from_pictures_to_swing_up(command, folder):
    """Untrained it earns about −1,200; smaller pictures, so that it takes minutes."""
    flags = (
        *("--env-id", "Pendulum-v1", "--frame-size", 32, "--no-anneal", "--run-name", "run"),
        *("--total-timesteps", 6_000, "--eval-every", 6_000, "--checkpoint-every", 10_000),
    )
    assert command(*flags)[0] == 0
    means = pd.read_csv(folder / "runs/run/evaluations.csv")["mean"]
    assert means.iloc[0] < -1_000
    assert means.iloc[-1] > -600


# ------------------------------------------------------------------------------------------ the run
def test_a_run_leaves_the_same_files_as_the_other_scripts_and_what_pixels_add(short):
    run, out, err = short
    names = {file.name for file in run.iterdir()}
    names = {name for name in names if not name.startswith(("events", "."))}
    assert names == {
        *("args.json", "summary.json", "episodes.csv", "evaluations.csv", "updates.csv"),
        *("best.pt", "last.pt", "checkpoint.pt", "learning_curve.png", "learning_curve.pdf"),
        *("observations", "what_it_sees.png"),
    }
    assert err == ""
    # 70 · 15 · 15 · 3 · 3 bytes
    assert "the replay buffer takes up to 0.000142 GB of memory" in out


def test_a_seed_fixes_everything(short, command, folder):
    torch.rand(3)
    assert command(*SHORT, "--run-name", "again")[0] == 0
    assert_same_run(folder / "runs/again", short[0])
    assert command(*SHORT, "--seed", 1, "--run-name", "other")[0] == 0
    log = "updates.csv"
    assert (folder / "runs/other" / log).read_bytes() != (short[0] / log).read_bytes()


def test_neither_evaluation_nor_the_pictures_nor_checkpoints_disturb_anything(
    short, command, folder
):
    flags = (*SHORT, "--eval-every", 0, "--checkpoint-every", 1_000, "--run-name", "unseen")
    assert command(*flags)[0] == 0
    for log in ("episodes.csv", "updates.csv"):
        assert (folder / "runs/unseen" / log).read_bytes() == (short[0] / log).read_bytes()


# -------------------------------------------------------------------------------------- checkpoints
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 17])
def test_a_run_killed_before_any_change_on_disk_and_resumed_equals_one_never_killed(
    every, command, folder, changes
):
    assert command(*SHORT, "--run-name", "reference")[0] == 0
    reference = folder / "runs/reference"
    num_changes = changes.count
    assert num_changes > 60
    for change in range(2, num_changes + 1, every):  # before the first there is nothing to resume
        changes.expect(end_at=change)
        with pytest.raises(Killed):
            command(*SHORT, "--run-name", change)
        changes.expect()
        status, _, err = command("--resume", f"runs/{change}")
        assert (status, err) == (0, ""), f"killed before change {change}"
        run = folder / "runs" / str(change)
        assert_same_run(run, reference)
        assert files_of_observations(run) == files_of_observations(reference)
        shutil.rmtree(run)


def test_all_that_changes_during_training_is_in_the_checkpoint(monkeypatch):
    found = []
    write_checkpoint = ddpg_pixels.write_checkpoint

    def write_and_compare(path, args, training):
        write_checkpoint(path, args, training)
        if training.progress.step < 80:
            return  # the buffer is not full yet: its rest holds anything
        restored = new_training(ddpg_pixels, args)
        assert len(differences(training, restored)) > 10
        ddpg_pixels.restore_checkpoint(path, args, restored)
        found.append(differences(training, restored))

    monkeypatch.setattr(ddpg_pixels, "write_checkpoint", write_and_compare)
    args = ddpg_pixels.Args(
        env_id="pixel_environments:Trace-v0",
        hidden_sizes=(16, 12),
        batch_size=8,
        frame_size=15,
        learning_starts=30,
        total_timesteps=120,
        eval_every=40,
        eval_episodes=1,
        checkpoint_every=20,
        buffer_size=70,
    )
    ddpg_pixels.train(args)
    assert len(found) >= 2
    assert not any(found)


def test_a_training_asks_cudnn_for_the_same_bits_each_time(command, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    assert command(*SHORT, "--total-timesteps", 20, "--run-name", "run")[0] == 0
    assert torch.backends.cudnn.deterministic


def test_only_a_terminal_state_is_stored_as_one_also_where_a_time_limit_comes_at_once(
    command, monkeypatch
):
    """Clock's episodes: 3 decisions that terminate, and 2 up to a time limit."""
    stored = note_terminated(ddpg_pixels, monkeypatch)
    flags = ("--env-id", "pixel_environments:Clock-v0", "--total-timesteps", 20)
    assert command(*SHORT, *flags, "--eval-every", 0, "--run-name", "run")[0] == 0
    assert stored == 4 * [False, False, True, False, False]


def test_a_checkpoint_writes_only_the_observations_that_are_new(command, folder, monkeypatch):
    written = []
    write_atomically = ddpg_pixels.write_atomically

    def noting(path, *pieces):
        if path.parent.name == "observations":
            written.append((path.name, sum(len(piece) for piece in pieces)))
        write_atomically(path, *pieces)

    monkeypatch.setattr(ddpg_pixels, "write_atomically", noting)
    flags = (*SHORT, "--buffer-size", 1_000, "--run-name", "run")
    assert command(*flags)[0] == 0
    numbers = [tuple(map(int, name.split("-")[:2])) for name, _ in written]
    assert len(numbers) >= 4
    assert numbers[0][0] == 0
    for (_, end), (first, _) in pairwise(numbers):
        assert first == end, "none is written again"
    assert [count for _, count in written] == [end - first for first, end in numbers]
    names = load(folder / "runs/run/checkpoint.pt")["observations"]
    assert names == files_of_observations(folder / "runs/run") == [name for name, _ in written]


def test_files_whose_observations_the_buffer_has_lost_are_deleted_after_the_checkpoint(
    command, folder, monkeypatch
):
    deleted = []
    keep_only = ddpg_pixels.keep_only

    def noting(path, names):
        before = files_of_observations(path.parent) if path.exists() else []
        if before:
            checkpoint = load(path.parent / "checkpoint.pt")
            assert checkpoint["observations"] == names, "the newer checkpoint is intact"
        keep_only(path, names)
        deleted.extend(set(before) - set(names))

    monkeypatch.setattr(ddpg_pixels, "keep_only", noting)
    assert command(*SHORT, "--run-name", "run")[0] == 0
    assert len(deleted) >= 2
    replay = load(folder / "runs/run/checkpoint.pt")["replay"]
    oldest = replay["num_added"] - 70
    assert all(int(name.split("-")[1]) <= oldest for name in deleted)
    kept = files_of_observations(folder / "runs/run")
    assert int(kept[0].split("-")[0]) <= oldest
    assert int(kept[-1].split("-")[1]) == replay["num_added"]


def test_a_buffer_that_overflows_between_two_checkpoints_is_resumed_exactly(
    command, folder, monkeypatch
):
    flags = (*SHORT, "--buffer-size", 25, "--checkpoint-every", 50)
    assert command(*flags, "--run-name", "whole")[0] == 0
    run_until_killed(ddpg_pixels, 110, command, monkeypatch, *flags, "--run-name", "killed")
    assert checkpoint_step(folder / "runs/killed") > 90
    assert command("--resume", "runs/killed")[0] == 0
    assert_same_run(folder / "runs/killed", folder / "runs/whole")


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(command, folder, monkeypatch):
    write_atomically = ddpg_pixels.write_atomically
    calls = []

    def full(path, *pieces):
        if path.parent.name == "observations":
            calls.append(path)
            if len(calls) == 3:
                path.with_name(f"{path.name}.new").write_bytes(b"half")
                raise OSError("No space left on device")
        write_atomically(path, *pieces)

    with monkeypatch.context() as patch:
        patch.setattr(ddpg_pixels, "write_atomically", full)
        message = refused(command(*SHORT, "--run-name", "run"), "No space left", "is intact")
    step = int(re.search(r"the checkpoint of step (\d+)", message)[1])
    assert checkpoint_step(folder / "runs/run") == step
    assert command("--resume", "runs/run")[0] == 0
    assert command(*SHORT, "--run-name", "whole")[0] == 0
    assert_same_run(folder / "runs/run", folder / "runs/whole")


def test_on_a_disk_that_is_full_at_the_checkpoint_itself_its_observations_are_not_left(
    command, folder, monkeypatch
):
    save_weights = ddpg_pixels.save_weights
    calls = []

    def full(path, content):
        if path.name == "checkpoint.pt":
            calls.append(path)
            if len(calls) == 3:
                raise OSError("No space left on device")
        save_weights(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(ddpg_pixels, "save_weights", full)
        refused(command(*SHORT, "--run-name", "run"), "No space left", "is intact")
    run = folder / "runs/run"
    named = load(run / "checkpoint.pt")["observations"]
    assert len(named) > 0
    assert files_of_observations(run) == named
    assert command("--resume", "runs/run")[0] == 0
    assert command(*SHORT, "--run-name", "whole")[0] == 0
    assert_same_run(run, folder / "runs/whole")


def test_half_of_a_file_is_never_left(folder):
    with pytest.raises(TypeError):
        ddpg_pixels.write_atomically(folder / "file", b"one half", "and what cannot be written")
    assert list(folder.iterdir()) == []


def test_a_file_of_observations_that_came_after_the_checkpoint_is_not_trusted(command, folder):
    flags = (*SHORT, "--buffer-size", 1_000, "--no-anneal", "--run-name", "part")
    assert command(*flags)[0] == 0
    end = int(files_of_observations(folder / "runs/part")[-1].split("-")[1])
    later = folder / "runs/part/observations" / f"{end:09}-{end + 5:09}-00000000"
    later.write_bytes(b"of another run" * 100)
    assert command("--resume", "runs/part", "--total-timesteps", 200)[0] == 0
    assert not later.exists()
    replay = load(folder / "runs/part/checkpoint.pt")["replay"]
    kept = files_of_observations(folder / "runs/part")
    firsts = [int(name.split("-")[0]) for name in kept]
    ends = [int(name.split("-")[1]) for name in kept]
    assert firsts[1:] == ends[:-1], "without a gap"
    assert ends[-1] == replay["num_added"]


def test_what_others_put_beside_the_observations_is_left_alone_but_halves_of_files_go(
    command, folder
):
    flags = (*SHORT, "--no-anneal", "--run-name", "run")
    assert command(*flags)[0] == 0
    observations = folder / "runs/run/observations"
    (observations / ".DS_Store").write_bytes(b"a desktop's")
    (observations / "notes.txt").write_text("somebody's")
    (observations / "000000900-000000910-00000000.new").write_bytes(b"half")
    assert command("--resume", "runs/run", "--total-timesteps", 200)[0] == 0
    others = {file.name for file in observations.iterdir()}
    assert others >= {".DS_Store", "notes.txt"}
    assert not any(name.endswith(".new") for name in others)


def test_files_of_a_full_buffer_are_restored_in_their_order(folder):
    rng = np.random.default_rng(0)
    replay, restored = [ddpg_pixels.ReplayBuffer(10, (1, 1, 3), 1, rng) for _ in range(2)]
    for end in (6, 12, 18):
        while replay.num_added < end:
            replay.append(np.full((1, 1, 3), replay.num_added, np.uint8))
        names = [file.name for file in ddpg_pixels.save_observations(folder / "x", replay)]
        ddpg_pixels.keep_only(folder / "x", names)
    assert len(names) == 2
    ddpg_pixels.load_observations(folder / "x", names, restored)
    np.testing.assert_array_equal(restored.observations, replay.observations)


def test_observations_of_a_file_that_is_lost_while_the_run_goes_on_are_written_again(folder):
    """The file has no observation that the buffer lost: all have to be on disk again."""
    rng = np.random.default_rng(0)
    replay, restored = [ddpg_pixels.ReplayBuffer(20, (1, 1, 3), 1, rng) for _ in range(2)]
    for end in (5, 10, 15):
        while replay.num_added < end:
            replay.append(np.full((1, 1, 3), 1 + replay.num_added, np.uint8))
        files = ddpg_pixels.save_observations(folder / "x", replay)
        names = [file.name for file in files]
        ddpg_pixels.keep_only(folder / "x", names)
        if end == 10:
            files[0].unlink()
    ddpg_pixels.load_observations(folder / "x", names, restored)
    np.testing.assert_array_equal(restored.observations[:15], replay.observations[:15])


def test_the_oldest_file_comes_first_however_many_digits_its_number_has(folder):
    names = ["000000006-000000012-00000000", "999999990-1000000009-00000000"]
    names.append("1000000009-1000000020-00000000")
    for name in reversed(names):
        (folder / name).touch()
    assert [file.name for file in ddpg_pixels.observation_files(folder)] == names


def lose(file):
    file.unlink()


def spoil(file):
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


def shorten(file):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [lose, spoil, shorten])
def test_a_lost_or_damaged_file_of_observations_is_refused_and_nothing_is_changed(
    damage, run, command
):
    name = files_of_observations(run)[1]
    damage(run / "observations" / name)
    before = snapshot(run)
    refused(command("--resume", run, "--total-timesteps", 200), name, "missing or damaged")
    assert snapshot(run) == before
    assert command("--evaluate", run / "best.pt", "--eval-episodes", 1)[0] == 0


@pytest.mark.slow
def test_a_pendulum_killed_by_sigkill_equals_one_never_killed(command, start, folder):
    flags = (
        *("--env-id", "Pendulum-v1", *SMALL, "--total-timesteps", 500),
        *("--checkpoint-every", 130, "--eval-every", 200, "--buffer-size", 300),
    )
    assert command(*flags, "--run-name", "whole")[0] == 0
    kill_after_its_first_checkpoint(start, folder / "runs/killed", *flags)
    assert command("--resume", "runs/killed")[0] == 0
    assert_same_run(folder / "runs/killed", folder / "runs/whole")


# -------------------------------------------------------------------------- evaluation and pictures
def test_a_policy_loads_in_ones_own_program_and_earns_what_the_csv_says(short):
    policy, args = ddpg_pixels.load_policy(short[0] / "last.pt")
    seed = args.seed + ddpg_pixels.EVALUATION_SEED
    returns = ddpg_pixels.episodic_returns(ddpg_pixels.make_env(args.env_id, args), policy, 1, seed)
    means = pd.read_csv(short[0] / "evaluations.csv")["mean"]
    assert means.iloc[-1] == pytest.approx(returns[0], rel=1e-6)


def test_evaluate_sees_what_the_training_saw_and_films_the_first_episode(
    command, folder, monkeypatch
):
    crops = []
    make_pixel_env = ddpg_pixels.PixelEnv.__init__

    def noting(env, raw, args):
        make_pixel_env(env, raw, args)
        crops.append(env.crop)

    flags = (
        *("--env-id", "Pendulum-v1", *SMALL, "--total-timesteps", 40, "--crop", 0.9),
        *("--action-repeat", 2, "--run-name", "run", "--eval-every", 40),
    )
    assert command(*flags)[0] == 0
    monkeypatch.setattr(ddpg_pixels.PixelEnv, "__init__", noting)
    status, out, _ = command(
        *("--evaluate", "runs/run/last.pt", "--eval-episodes", 1, "--seed", 1_000_000),
        "--capture-video",
    )
    assert status == 0
    mean = pd.read_csv(folder / "runs/run/evaluations.csv")["mean"].iloc[-1]
    assert f"mean {mean:.1f}" in out
    assert set(crops) == {0.9}
    (video,) = (folder / "runs/run/videos").glob("*.mp4")
    assert video.stat().st_size > 1_000


def test_the_picture_shows_stored_observations_and_their_influence(run, monkeypatch):
    figures = []
    monkeypatch.setattr(
        ddpg_pixels.Figure, "savefig", lambda figure, *_, **__: figures.append(figure)
    )
    args = ddpg_pixels.as_args(ddpg_pixels.load_json(run / "args.json")["args"])
    training = new_training(ddpg_pixels, args)
    ddpg_pixels.restore_checkpoint(run, args, training)
    before = training.rng.bit_generator.state
    ddpg_pixels.plot_what_it_sees(run, training)
    (figure,) = figures
    assert training.rng.bit_generator.state == before
    images = [axes.images[0].get_array() for axes in figure.axes]
    assert len(images) == 4 * 4
    stored = {observation.tobytes() for observation in training.replay.observations}
    shown = set()
    for row in range(4):
        observation = np.concatenate(images[4 * row : 4 * row + 3], axis=2)
        assert observation.tobytes() in stored
        shown.add(observation.tobytes())
        assert images[4 * row + 3].shape == (15, 15)
        assert images[4 * row + 3].max() > 0
    assert len(shown) == 4, "the same observation twice"


def test_no_plot_is_drawn_before_there_is_a_minibatch_to_normalise_by(folder):
    args = ddpg_pixels.Args(env_id="pixel_environments:Clock-v0", frame_size=15)
    training = new_training(ddpg_pixels, args)
    pictures = np.random.default_rng(0).integers(256, size=(33, 15, 15, 9), dtype=np.uint8)
    for i in range(32):
        ddpg_pixels.plot_what_it_sees(folder, training)
        assert list(folder.iterdir()) == []
        training.replay.add(pictures[i], np.zeros(1), 0.0, False, pictures[i + 1])
    ddpg_pixels.plot_what_it_sees(folder, training)
    assert [file.name for file in folder.iterdir()] == ["what_it_sees.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is a display")
def test_without_a_display_pictures_are_drawn_off_screen_unless_it_is_said_otherwise(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv("DISPLAY", ":0")
    ddpg_pixels.prepare_rendering()
    assert "SDL_VIDEODRIVER" not in os.environ
    assert os.environ["MUJOCO_GL"] == "osmesa"
    monkeypatch.delenv("MUJOCO_GL")
    ddpg_pixels.prepare_rendering()
    assert os.environ["MUJOCO_GL"] == "egl", "with a display, too"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.setenv("SDL_VIDEODRIVER", "")  # so that the end of the test takes it away again
    monkeypatch.delenv("SDL_VIDEODRIVER")
    ddpg_pixels.prepare_rendering()
    assert os.environ["SDL_VIDEODRIVER"] == "dummy"
    assert os.environ["MUJOCO_GL"] == "osmesa"
    monkeypatch.delenv("MUJOCO_GL")
    ddpg_pixels.prepare_rendering()
    assert os.environ["MUJOCO_GL"] == "egl"


def test_render_shows_it_in_a_window(run, command, monkeypatch):
    shown = []
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")

    class Window(gym.Wrapper):
        def step(self, action):
            shown.append(self.env.render().shape)
            return super().step(action)

    monkeypatch.setattr(ddpg_pixels.gym.wrappers, "HumanRendering", Window)
    status, _, err = command("--evaluate", run / "best.pt", "--eval-episodes", 1, "--render")
    assert (status, err) == (0, "")
    assert shown == 3 * [(20, 20, 3)]  # 7 steps, three at a time


@pytest.mark.skipif(sys.platform != "linux", reason="x11 is a driver of Linux")
def test_a_window_that_cannot_be_opened_is_one_line(run, command, monkeypatch):
    importlib.import_module("pygame").display.quit()  # else a window could be open already
    monkeypatch.setenv("DISPLAY", ":97")
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    flags = ("--evaluate", run / "best.pt", "--eval-episodes", 1, "--render")
    status, _, err = command(*flags)
    assert status == 2
    assert "opening a window failed" in err.splitlines()[-1]


# ---------------------------------------------------------------------------------------- bad input
def test_discrete_actions_are_refused_and_the_line_names_the_script_for_them(command, folder):
    refused(command("--env-id", "CartPole-v1"), "CartPole-v1", "Discrete", "dqn.py")
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("script", [ddpg_continuous, dqn], ids=["ddpg_continuous", "dqn"])
def test_the_scripts_for_vectors_refuse_images(script):
    options = {"continuous": script is ddpg_continuous}
    gym.register("Racing-v0", "gymnasium.envs.box2d.car_racing:CarRacing", kwargs=options)
    try:
        with pytest.raises(script.RunError, match=r"observes Box\(0, 255"):
            script.make_env("Racing-v0")
    finally:
        del gym.registry["Racing-v0"]


def test_ddpg_continuous_names_this_script_for_images():
    with pytest.raises(ddpg_continuous.RunError, match=r"ddpg_pixels\.py learns from images"):
        ddpg_continuous.make_env("CarRacing-v3")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Unseen", ("no render mode rgb_array", "needed where observations are not images")),
        ("Nothing", ("render() gives", "uint8 (height, width, 3)")),
        ("Floats", ("render() gives an array of float64", "uint8 (height, width, 3)")),
        ("Grey", ("shape (20, 20)", "uint8 (height, width, 3)")),
    ],
)
def test_what_cannot_be_seen_is_refused_in_one_line(name, parts, command, folder):
    refused(command("--env-id", f"pixel_environments:{name}-v0", *SMALL), *parts)


def test_rewards_that_are_too_large_together_are_refused(command):
    result = command("--env-id", "pixel_environments:Huge-v0", *SMALL, "--eval-every", 0)
    refused(result, "the sum of an action's rewards is not finite")


def test_an_environment_that_fails_to_render_is_named_and_its_own_traceback_shown(command):
    status, _, err = command("--env-id", "pixel_environments:Failing-v0", *SMALL)
    assert status == 2
    assert "pixel_environments.py" in err
    assert "render() failed: RuntimeError: no GL" in err.splitlines()[-1]


def test_a_picture_that_fails_without_a_video_too_is_not_blamed_on_the_video(command, folder):
    flags = ("--env-id", "pixel_environments:Grey-v0", *SMALL, "--capture-video")
    assert "--capture-video" not in refused(command(*flags), "shape (20, 20)")


def test_where_there_is_no_egl_the_line_says_what_to_try(command, folder, monkeypatch):
    def without_egl(*args, **kwargs):
        raise ImportError("Cannot initialize a EGL device display")

    monkeypatch.setattr(gym, "make", without_egl)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    _, _, err = command("--env-id", "InvertedPendulum-v5", *SMALL)
    assert err.splitlines()[-1].endswith("try MUJOCO_GL=osmesa, which draws by software)")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    _, _, err = command("--env-id", "InvertedPendulum-v5", *SMALL)
    assert err.splitlines()[-1].endswith("a EGL device display")


@pytest.mark.parametrize(
    "flags",
    [
        ("--frame-size", 14),
        ("--action-repeat", 0),
        ("--crop", 0),
        ("--crop", 1.1),
        ("--reward-scale", -1),
        ("--reward-scale", 0),
        ("--reward-scale", "nan"),
        ("--buffer-size", 1),
        ("--batch-size", 1),
        ("--batch-size", 71, "--buffer-size", 70),
    ],
)
def test_a_value_out_of_range_is_refused_and_the_line_names_the_flag(flags, command, folder):
    refused(command("--env-id", "Pendulum-v1", *flags), flags[0])
    assert not (folder / "runs").exists()


def test_evaluate_refuses_an_environment_of_other_actions(run, command):
    result = command("--evaluate", run / "best.pt", "--env-id", "LunarLanderContinuous-v3")
    refused(result, "best.pt", "cannot play", "LunarLanderContinuous-v3", "was 1, and is 2")


def test_args_that_do_not_fit_the_observations_are_refused(run, command):
    content = ddpg_pixels.load_json(run / "args.json")
    content["args"]["frame_size"] = 17
    ddpg_pixels.save_json(run / "args.json", content)
    before = snapshot(run)
    refused(command("--resume", run, "--total-timesteps", 200), "args.json")
    assert snapshot(run) == before
