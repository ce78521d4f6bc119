"""What a run leaves behind: each file, and that they agree with each other."""

import json
import re
import sys
from dataclasses import fields

import gymnasium as gym
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import (
    POINT,
    QUICK,
    SMOKE,
    arguments,
    assert_events_equal_csvs,
    events,
    is_all_finite,
    load,
    summary,
)
from matplotlib.figure import Figure

import ddpg_continuous as script

FINISHED_RUNS = [(script, SMOKE)]
pytestmark = pytest.mark.usefixtures("folder")


def table(run, name, index=None):
    return pd.read_csv(run / f"{name}.csv", index_col=index)


# ---------------------------------------------------------------------------------- its name and id
@pytest.mark.parametrize(
    ("given", "folder_name"),
    [
        ("lr-0.001", "lr-0.001"),
        ("my run: a/b?", "my-run--a-b-"),
        ("..", "-"),
        ("ends.", "ends-"),
    ],
)
def test_a_runs_name_is_that_of_its_folder_but_for_what_windows_refuses(
    given, folder_name, command, folder
):
    assert command(*POINT, "--total-timesteps", 30, "--run-name", given)[0] == 0
    assert [path.name for path in (folder / "runs").iterdir()] == [folder_name]


def test_a_retired_id_runs_as_the_current_version_and_one_line_says_so(smoke):
    run, out, err = smoke
    (line,) = [line for line in out.splitlines() if "LunarLanderContinuous-v2" in line]
    assert "LunarLanderContinuous-v3" in line
    assert arguments(run)["env_id"] == "LunarLanderContinuous-v3"
    assert err == ""


@pytest.mark.parametrize(
    ("given", "noted"),
    [
        ("Pendulum-v0", "Pendulum-v1"),
        ("point_environments:Point-v0", "point_environments:Point-v0"),
        ("Pendulum", "Pendulum"),
    ],
)
def test_a_run_notes_the_current_version_of_a_retired_id_and_any_other_id_as_it_was_given(
    given, noted, command, folder
):
    flags = (*QUICK, "--env-id", given, "--total-timesteps", 30, "--run-name", "run")
    assert command(*flags)[0] == 0
    assert arguments(folder / "runs/run")["env_id"] == noted


def test_the_default_name_of_a_run_has_the_current_version_of_a_retired_id(command, folder):
    flags = ("--env-id", "Pendulum-v0", "--total-timesteps", 30, "--eval-every", 0)
    assert command(*flags)[0] == 0
    (run,) = (folder / "runs").iterdir()
    assert run.name.startswith("Pendulum-v1__ddpg_continuous__0__")


def test_the_default_name_of_a_run_is_one_that_windows_accepts(command, folder):
    assert command(*POINT, "--total-timesteps", 10, "--eval-every", 0, "--seed", 7)[0] == 0
    (run,) = (folder / "runs").iterdir()
    assert re.fullmatch(r"[\w.-]*Point-v0__ddpg_continuous__7__[\w.-]+", run.name)


# --------------------------------------------------------------------------------------- its output
def test_the_output_of_a_run_without_a_terminal_is_plain_lines(smoke):
    run, out, _ = smoke
    assert "\r" not in out
    assert "\x1b" not in out
    for row in table(run, "evaluations").itertuples():
        line = f"step {row.step}: evaluation {row.mean:.1f} ± {row.std:.1f}"
        assert line in out.splitlines()
    assert re.search(r"finished after 600 steps: .*run$", out.splitlines()[-1])


# ---------------------------------------------------------------------------------------- its files
def test_args_json_holds_every_argument_and_the_versions(smoke):
    run, _, _ = smoke
    content = json.loads((run / "args.json").read_text())
    assert content["script"] == "ddpg_continuous"
    assert content["args"].keys() == {field.name for field in fields(script.Args)}
    assert content["args"]["total_timesteps"] == 600
    assert content["args"]["hidden_sizes"] == [16, 16]
    assert content["versions"]["torch"] == torch.__version__
    assert content["versions"]["gymnasium"] == gym.__version__
    assert content["versions"]["numpy"] == np.__version__
    assert content["versions"]["python"] in sys.version


def test_episodes_csv_agrees_with_the_transitions_in_the_replay_buffer(smoke):
    checkpoint = load(smoke[0] / "checkpoint.pt")
    log = table(smoke[0], "episodes")
    assert list(log) == ["step", "episode", "return", "length"]
    log = log[log["step"] <= checkpoint["progress"]["step"]]
    assert len(log) >= 2
    assert (log["step"] == log["length"].cumsum()).all()
    assert list(log["episode"]) == list(range(1, len(log) + 1))
    rewards = checkpoint["replay"]["rows"][:, 8 + 2].double().numpy()  # s (8), a (2), r
    episodes = np.split(rewards, log["step"])[:-1]
    np.testing.assert_allclose(log["return"], [episode.sum() for episode in episodes], rtol=1e-6)


def test_evaluations_happen_at_step_0_then_every_so_many_steps_and_at_the_end(smoke):
    assert list(table(smoke[0], "evaluations")["step"]) == [0, 250, 500, 600]


def test_mean_and_std_of_an_evaluation_are_those_of_its_episodes(smoke):
    log = table(smoke[0], "evaluations")
    assert list(log) == ["step", "mean", "std", "episode_0", "episode_1"]
    episodes = log[["episode_0", "episode_1"]].to_numpy()
    np.testing.assert_allclose(log["mean"], episodes.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(log["std"], episodes.std(axis=1), rtol=1e-12)
    assert (log["std"] > 0).all(), "every episode has its own start state"


def test_updates_csv_has_the_losses_q_and_saturation_every_hundred_steps(smoke):
    log = table(smoke[0], "updates")
    assert list(log) == ["step", "critic_loss", "actor_loss", "q", "saturation"]
    assert list(log["step"]) == [100, 200, 300, 400, 500, 600]
    assert np.isfinite(log.to_numpy()).all()
    assert log["saturation"].between(0, 1).all()


def test_tensorboard_has_the_values_of_the_csvs_and_the_speed(smoke):
    assert_events_equal_csvs(smoke[0])
    assert sum(tag == "SPS" for tag, _, _ in events(smoke[0])) == 6


def test_the_summary_says_how_long_how_fast_solved_when_and_the_final_and_best_evaluation(smoke):
    content = summary(smoke[0])
    assert content["steps"] == 600
    assert content["episodes"] == len(table(smoke[0], "episodes"))
    assert 0 < content["wall_time_seconds"] < 600
    speed = 600 / content["wall_time_seconds"]
    assert content["steps_per_second"] == pytest.approx(speed, rel=0.05)
    assert content["solved_at_step_by"] == {}
    evaluations = table(smoke[0], "evaluations")[["step", "mean", "std"]].to_dict("records")
    assert content["final_evaluation"] == evaluations[-1]
    best = max(evaluations, key=lambda evaluation: evaluation["mean"])
    assert content["best_evaluation"] == best


def test_best_and_last_weights_earn_from_the_same_start_states_what_the_csv_says(smoke):
    log = table(smoke[0], "evaluations", "step")
    for name, step in (("best", log["mean"].idxmax()), ("last", 600)):
        policy, args = script.load_policy(smoke[0] / f"{name}.pt")
        seed = args.seed + script.EVALUATION_SEED
        returns = script.episodic_returns(script.make_env(args.env_id), policy, 2, seed)
        assert returns == list(log.loc[step, ["episode_0", "episode_1"]])


def test_every_pt_file_loads_as_plain_data_and_no_half_written_file_is_left(smoke):
    names = {file.name for file in smoke[0].iterdir()}
    weights = {"best.pt", "last.pt", "checkpoint.pt"}
    assert {name for name in names if name.endswith(".pt")} == weights
    for name in weights:
        assert is_all_finite(load(smoke[0] / name)["agent"])
    assert not [name for name in names if name.endswith((".new", ".tmp"))]


# ----------------------------------------------------------------------------------------- its plot
def test_the_learning_curve_is_drawn_as_png_and_pdf(smoke):
    image = matplotlib.image.imread(smoke[0] / "learning_curve.png")[..., :3]
    image = (image * 255).astype(int)
    height, width, _ = image.shape
    assert min(height, width) > 500
    colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    assert len(colours[counts > 50]) > 10, "blank"
    top, bottom = image[: height // 2], image[height // 2 :]
    for panel in (top, bottom[:, : width // 2], bottom[:, width // 2 :]):
        assert (panel.min(axis=2) < 128).mean() > 0.003, "an empty panel"
    blue = np.abs(top - (31, 119, 180)).max(axis=2) < 10
    assert blue.sum() > 50, "the 100-episode mean"
    pdf = (smoke[0] / "learning_curve.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert pdf.rstrip().endswith(b"%%EOF")


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_first_three_metrics_are_drawn_or_as_many_as_there_are(number):
    axes = Figure().subplots()
    names = ["one", "two", "three", "four"][:number]
    script.plot_updates(axes, pd.DataFrame(np.ones((20, number)), columns=names))
    drawn = [line.get_label() for line in axes.lines]
    assert drawn == [f"{name}, mean of 10" for name in names[:3]]


def test_summary_and_plots_are_refreshed_at_every_checkpoint_and_at_the_end(command, monkeypatch):
    steps = []
    monkeypatch.setattr(script, "plot", lambda path, _: steps.append(summary(path)["steps"]))
    flags = (*POINT, "--total-timesteps", 140, "--eval-every", 0, "--checkpoint-every", 45)
    assert command(*flags)[0] == 0
    assert steps == [50, 90, 140, 140]
