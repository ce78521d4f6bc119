"""Draws when the landers of ddpg_continuous.py first landed, and when they were solved.

    python docs/landings.py

Reads the committed CSVs of its runs on LunarLanderContinuous, those of the default command (batch
norm) and those with --norm layer, and makes docs/landings.png and
benchmark/results/trials/landings.csv. A training episode counts as a landing if it ended before the
time limit with a return above 100. This rule was checked against replay buffers, in which a last
reward of 100 marks a landing (batch norm, seeds 0, 1, 4 and 8 to 19): it finds 3,049 of their 3,068
landings, and no false one (benchmark/results/trials/landings-checked.csv).
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmark"))
import study

COLORS = {"batch": "C0", "layer": "C2"}
TABLE = study.RESULTS / "trials/landings.csv"
TIME_LIMIT = 1_000  # steps of an episode
LEAST_RETURN = 100  # of a landing; a crash costs 100
SOLVED = 200  # mean of an evaluation
MANY = 20  # landings
NEAR = 12_000  # steps
EARLY = (10_000, 13_000)  # steps of the saturation that is compared: no seed has landed by then


def when(run: Path) -> dict[str, float]:
    """When a run first landed, landed for the 20th time and was solved, in steps (NaN: never).

    Also how often it landed in all, and its saturation and Q in the first updates.
    """
    episodes = pd.read_csv(run / "episodes.csv")
    evaluations = pd.read_csv(run / "evaluations.csv")
    updates = pd.read_csv(run / "updates.csv")
    is_landing = (episodes["length"] < TIME_LIMIT) & (episodes["return"] > LEAST_RETURN)
    landings = episodes["step"][is_landing].to_numpy()
    solved = evaluations["step"][evaluations["mean"] >= SOLVED].to_numpy()
    begin, end = EARLY
    is_early = (updates["step"] > begin) & (updates["step"] <= end)
    return {
        "first_landing": nth(landings, 1),
        f"landing_{MANY}": nth(landings, MANY),
        "solved": nth(solved, 1),
        "landings": len(landings),
        "early_saturation": updates["saturation"][is_early].mean(),
        "early_q": updates["q"][is_early].mean(),
    }


def table() -> pd.DataFrame:
    """A row for each finished run of the study lander, by norm; those solved first at the top."""
    rows = []
    for run in study.load("lander").runs:
        path = run.found()
        if path is not None:
            rows.append({"norm": run.setting, "seed": run.seed, **when(path)})
    return pd.DataFrame(rows).sort_values(["norm", "solved", "first_landing"])


def nth(steps: np.ndarray, n: int) -> float:
    """The n-th of these steps, NaN if there are fewer."""
    if len(steps) < n:
        return np.nan
    return steps[n - 1]


def draw(runs: pd.DataFrame) -> Figure:
    """For each norm a row for each seed, the fastest at the top; right, a point for each."""
    by_norm = {norm: runs[runs["norm"] == norm] for norm in COLORS}
    most = max(len(group) for group in by_norm.values())
    figure = Figure(figsize=(12, 0.22 * most + 1.2), layout="constrained")
    *panels, points = figure.subplots(1, 1 + len(by_norm), width_ratios=[2] * len(by_norm) + [1.5])
    for axes, (norm, group) in zip(panels, by_norm.items(), strict=True):
        draw_seeds(axes, group, COLORS[norm])
        axes.set(title=f"{norm} norm", ylim=(most - 0.5, -0.5))
        place = group["early_saturation"], group["first_landing"]
        points.plot(*place, "o", color=COLORS[norm], label=f"{norm} norm")
    begin, end = EARLY
    points.set_xlabel(f"saturation, steps {begin:,} to {end:,}")
    points.set_ylabel("step of the first landing")
    points.yaxis.set_major_formatter("{x:,.0f}")
    points.legend(frameon=False)
    return figure


def draw_seeds(axes: Axes, runs: pd.DataFrame, color: str) -> None:
    """A row for each seed: from its first landing to where it is solved."""
    height = np.arange(len(runs))
    axes.hlines(height, runs["first_landing"], runs["solved"], color="0.85")
    axes.plot(runs["first_landing"], height, "o", mfc="none", color=color, label="first landing")
    axes.plot(runs[f"landing_{MANY}"], height, "o", color=color, label=f"landing {MANY}")
    axes.plot(runs["solved"], height, "*", color="C1", ms=9, label="solved")
    axes.set_yticks(height, [f"seed {seed}" for seed in runs["seed"]])
    axes.set(xlabel="step", xlim=(0, 200_000))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False)


def main() -> None:
    """Makes the CSV and the picture; prints what the page says of them."""
    runs = table()
    runs.to_csv(TABLE, index=False, lineterminator="\n")
    draw(runs).savefig(study.ROOT / "docs/landings.png", dpi=100)
    for norm, group in runs.groupby("norm"):
        print(f"{norm} norm, {len(group)} seeds: {group['solved'].notna().sum()} solved")
        for column in ("first_landing", f"landing_{MANY}", "early_saturation", "early_q"):
            print(f"  {column}: median {group[column].fillna(np.inf).median():,.2f}")
        distance = (group["solved"] - group[f"landing_{MANY}"]).abs().dropna()
        near = f"{(distance <= NEAR).sum()} of {len(distance)} within {NEAR:,} steps"
        print(f"  solved and landing {MANY}: {near}, the median {distance.median():,.0f} apart")
        for column in ("early_saturation", "early_q"):
            ranks = group[[column, "first_landing"]].dropna().rank()
            correlation = ranks[column].corr(ranks["first_landing"])
            print(f"  {column} and first landing: rank correlation {correlation:.2f}")


if __name__ == "__main__":
    main()
