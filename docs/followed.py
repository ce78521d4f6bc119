"""Draws how trainings on LunarLanderContinuous went: what Q said, and what then happened.

    python docs/followed.py runs/SOLVED runs/FAILED --out followed.png

A column for each run of ddpg_continuous.py. From top to bottom: the return of the evaluations; Q,
the mean of the logged minibatches of the last 5,000 steps, beside the discounted return that
followed, a mean over all steps so far; the share of saturated actions; how many training episodes,
with their noise, ended in a landing. The numbers go to a CSV beside the picture.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).resolve().parent.parent))
from ddpg_continuous import RunError, load_agent, load_weights

ENV_ID = "LunarLanderContinuous-v3"
WINDOW = 5_000  # steps that a point of the picture stands for
LANDED = 100.0  # LunarLander's last reward once the lander rests on the ground; a crash has -100
UNKNOWN_TAIL = 300  # steps before a time limit whose return is not known: γ³⁰⁰ = 0.05


def returns_that_followed(
    rewards: np.ndarray, terminated: np.ndarray, episode_ends: np.ndarray, gamma: float
) -> np.ndarray:
    """The discounted return from each step of the training to its episode's end, (steps,).

    NaN where a time limit, or the end of the training, cuts off too much of it. `episode_ends`: the
    index of each finished episode's last step.
    """
    returns = np.full(len(rewards), np.nan)
    begin = 0
    for end in episode_ends:
        following = 0.0
        for step in range(end, begin - 1, -1):
            following = rewards[step] + gamma * following
            returns[step] = following
        if not terminated[end]:
            returns[max(begin, end + 1 - UNKNOWN_TAIL) : end + 1] = np.nan
        begin = end + 1
    return returns


def follow(run: Path) -> pd.DataFrame:
    """A row for every WINDOW steps of a finished run, from the first in which it learned."""
    agent, args = load_agent(run / "last.pt")
    if args.env_id != ENV_ID:
        raise RunError(f"{run} is of {args.env_id}: only {ENV_ID} can be followed")
    observation_size, action_size = agent.sizes
    replay = load_weights(run / "checkpoint.pt")["replay"]
    rows = replay["rows"].numpy()
    if replay["num_added"] > len(rows):
        raise RunError(f"{run}: the replay buffer no longer holds the first steps")
    rewards = rows[:, observation_size + action_size]
    terminated = rows[:, observation_size + action_size + 1].astype(bool)
    episode_ends = pd.read_csv(run / "episodes.csv")["step"].to_numpy() - 1
    episode_ends = episode_ends[episode_ends < len(rows)]  # the checkpoint may be a little older
    returns = returns_that_followed(rewards, terminated, episode_ends, args.gamma)
    landings = np.flatnonzero(terminated & (rewards == LANDED))
    time_limits = episode_ends[~terminated[episode_ends]]

    updates = pd.read_csv(run / "updates.csv")
    updates["step"] = np.ceil(updates["step"] / WINDOW).astype(int) * WINDOW  # its window's end
    updates = updates[updates["step"] <= len(rows)]
    followed = updates.groupby("step")[["q", "saturation"]].mean().reset_index()
    windows = [range(step - WINDOW, step) for step in followed["step"]]
    followed["return_that_followed"] = [np.nanmean(returns[: window.stop]) for window in windows]
    followed["landings"] = [count_in(window, landings) for window in windows]
    followed["time_limits"] = [count_in(window, time_limits) for window in windows]
    evaluations = pd.read_csv(run / "evaluations.csv")[["step", "mean"]]
    evaluations = evaluations.rename(columns={"mean": "evaluation"})
    followed = pd.merge_asof(followed, evaluations, on="step")  # the last one up to then
    followed.insert(0, "run", run.name)
    return followed


def count_in(window: range, steps: np.ndarray) -> int:
    """How many of these steps are in the window."""
    return int(((steps >= window.start) & (steps < window.stop)).sum())


def draw(followed: list[pd.DataFrame]) -> Figure:
    """A column for each run, a row for each of the four questions."""
    figure = Figure(figsize=(3.2 * len(followed), 8), layout="constrained")
    grid = figure.subplots(4, len(followed), sharex=True, sharey="row", squeeze=False)
    for column, run in zip(grid.T, followed, strict=True):
        evaluation, value, saturation, landing = column
        evaluation.set_title(run["run"].iloc[0])
        evaluation.plot(run["step"], run["evaluation"])
        evaluation.axhline(200, color="0.6", lw=0.8)
        value.plot(run["step"], run["q"], label="Q")
        value.plot(run["step"], run["return_that_followed"], label="return that followed")
        saturation.plot(run["step"], run["saturation"])
        saturation.set_ylim(0, 1)
        landing.plot(run["step"], run["landings"], label="landed")
        landing.plot(run["step"], run["time_limits"], label="time limit")
        landing.set_xlabel("step")
        landing.xaxis.set_major_formatter("{x:,.0f}")
    grid[1, 0].legend(frameon=False)
    grid[3, 0].legend(frameon=False)
    labels = ["evaluation", "discounted value", "saturation", f"episodes in {WINDOW:,} steps"]
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label)
    return figure


def main() -> None:
    """Reads the command line; an error becomes one line, and exit status 2."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--out", type=Path, required=True, help="file of the picture, .png or .pdf")
    args = parser.parse_args()
    try:
        followed = [follow(run.expanduser()) for run in args.runs]
        out = args.out.expanduser()
        draw(followed).savefig(out, dpi=100)
        pd.concat(followed).to_csv(out.with_suffix(".csv"), index=False, lineterminator="\n")
    except KeyError as error:
        print(f"a CSV of the runs has no column {error}", file=sys.stderr)
        sys.exit(2)
    except (RunError, OSError, ValueError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
