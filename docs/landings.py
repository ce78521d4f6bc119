"""Draws when the landers of the study classic first landed, and when they were solved.

    python docs/landings.py

Reads the committed CSVs of ddpg_continuous.py's default command on LunarLanderContinuous, and makes
docs/landings.png and benchmark/results/trials/landings.csv. A training episode counts as a landing
if it ended before the time limit with a return above 100. Where it was compared with the replay
buffer, whose last reward of an episode tells a landing (seeds 0, 1, 4 and 8 to 19), that found
3,049 of 3,068 landings, and nothing else (benchmark/results/trials/landings-checked.csv).
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "benchmark/results/classic/LunarLanderContinuous-v3/default"
TABLE = ROOT / "benchmark/results/trials/landings.csv"
TIME_LIMIT = 1_000  # steps of an episode
LEAST_RETURN = 100  # of a landing; a crash costs 100
SOLVED = 200  # mean of an evaluation
MANY = 20  # landings
NEAR = 12_000  # steps
EARLY = (10_000, 15_000)  # steps of the saturation that is compared: one seed has landed by then


def when(run: Path) -> dict[str, float]:
    """The steps of a run's first and 20th landing and of its solution, NaN without one."""
    episodes = pd.read_csv(run / "episodes.csv")
    evaluations = pd.read_csv(run / "evaluations.csv")
    updates = pd.read_csv(run / "updates.csv")
    is_landing = (episodes["length"] < TIME_LIMIT) & (episodes["return"] > LEAST_RETURN)
    landings = episodes["step"][is_landing].to_numpy()
    solved = evaluations["step"][evaluations["mean"] >= SOLVED].to_numpy()
    begin, end = EARLY
    is_early = (updates["step"] > begin) & (updates["step"] <= end)
    return {
        "seed": int(run.name.removeprefix("seed-")),
        "first_landing": nth(landings, 1),
        f"landing_{MANY}": nth(landings, MANY),
        "solved": nth(solved, 1),
        "landings": len(landings),
        "early_saturation": updates["saturation"][is_early].mean(),
        "early_q": updates["q"][is_early].mean(),
    }


def table() -> pd.DataFrame:
    """A row for each committed run, those solved first at the top."""
    runs = pd.DataFrame([when(run) for run in RUNS.glob("seed-*")])
    return runs.sort_values(["solved", "first_landing"])


def nth(steps: np.ndarray, n: int) -> float:
    """The n-th of these steps, NaN if there are fewer."""
    if len(steps) < n:
        return np.nan
    return steps[n - 1]


def draw(runs: pd.DataFrame) -> Figure:
    """Left, a row for each seed, the fastest at the top; right, a point for each."""
    figure = Figure(figsize=(9.5, 0.22 * len(runs) + 1.2), layout="constrained")
    rows, points = figure.subplots(1, 2, width_ratios=[2, 1])
    height = np.arange(len(runs))
    rows.hlines(height, runs["first_landing"], runs["solved"], color="0.85")
    rows.plot(runs["first_landing"], height, "o", mfc="none", color="C0", label="first landing")
    rows.plot(runs[f"landing_{MANY}"], height, "o", color="C0", label=f"landing {MANY}")
    rows.plot(runs["solved"], height, "*", color="C1", ms=9, label="solved")
    rows.set_yticks(height, [f"seed {seed}" for seed in runs["seed"]])
    rows.invert_yaxis()
    rows.set(xlabel="step", xlim=(0, 200_000))
    rows.legend(frameon=False)
    points.plot(runs["early_saturation"], runs["first_landing"], "o", color="C0")
    begin, end = EARLY
    points.set_xlabel(f"saturation, steps {begin:,} to {end:,}")
    points.set_ylabel("step of the first landing")
    for axis in (rows.xaxis, points.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    return figure


def main() -> None:
    """Makes the CSV and the picture; prints what the page says of them."""
    runs = table()
    runs.to_csv(TABLE, index=False, lineterminator="\n")
    draw(runs).savefig(ROOT / "docs/landings.png", dpi=100)
    distance = (runs["solved"] - runs[f"landing_{MANY}"]).abs().dropna()
    near = f"{(distance <= NEAR).sum()} of {len(distance)} within {NEAR:,} steps"
    print(f"solved and landing {MANY}: {near}, the median {distance.median():,.0f} apart")
    ranks = runs.rank()
    for column in ("early_saturation", "early_q"):
        correlation = ranks[column].corr(ranks["first_landing"])
        print(f"{column} and first landing: rank correlation {correlation:.2f}")


if __name__ == "__main__":
    main()
