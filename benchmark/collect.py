"""Turns finished runs into a committed result: raw CSVs, a table and a figure under benchmark/results/STUDY/.

    python benchmark/collect.py lunarlander runs/lunarlander-0 runs/lunarlander-1 …

For every run: its args.json, CSVs and summary are copied, and its last and its best weights are played without noise
for 100 episodes, from start states that neither training nor its evaluations used. The table gives, a row a run, the
first evaluation that reached the threshold, both means and the wall time; the figure all evaluations and their median.
`python benchmark/collect.py --compare STUDY STUDY …` draws several studies into one figure, with one table; with
`--panels N` into N panels side by side, the first studies into the first, and so on. `--against FLAG --lines FLAG`
draws their last evaluations against one flag's value, a line for each value of another.
"""

import argparse
import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmark" / "results"
THRESHOLDS = {
    "LunarLanderContinuous-v3": 200,
    "Pendulum-v1": -170,
    "MountainCarContinuous-v0": 90,
    "LunarLander-v3": 200,
    "CartPole-v1": 475,
}  # what counts as solved
FRESH_SEED, EPISODES = 3_000_000, 100
STYLES = [("tab:blue", "-"), ("tab:orange", "--"), ("black", ":")]


def collect(study: str, runs: list[Path]) -> None:
    """Copies the runs' files and plays their weights."""
    sys.path.insert(0, str(ROOT))
    rows = []
    for run in runs:
        content = json.loads((run / "args.json").read_text())
        args, script = content["args"], importlib.import_module(content["script"])
        folder = RESULTS / study / f"seed-{args['seed']}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("args.json", "episodes.csv", "evaluations.csv", "updates.csv", "summary.json"):
            shutil.copy(run / name, folder)
        row = {"seed": args["seed"], **first_solved(args["env_id"], folder)}
        for weights in ("last", "best"):
            policy, _ = script.load_policy(run / f"{weights}{script.SUFFIX}")
            returns = script.evaluate(script.make_env(args["env_id"]), policy, EPISODES, FRESH_SEED)
            pd.DataFrame({f"{weights}_return": returns}).to_csv(
                folder / f"{weights}_100_episodes.csv", index_label="episode"
            )
            row |= {f"{weights}_mean": np.mean(returns), f"{weights}_std": np.std(returns)}
        row["wall_time_minutes"] = json.loads((run / "summary.json").read_text())["wall_time_seconds"] / 60
        rows.append(row)
        print(row, flush=True)
    table = pd.DataFrame(rows).sort_values("seed")
    table.to_csv(RESULTS / study / "table.csv", index=False, float_format="%.2f")
    draw([study], RESULTS / study / "learning_curve")
    print(markdown(study))


def first_solved(env_id: str, folder: Path) -> dict[str, float]:
    """Step and episode of the first evaluation whose mean reached the threshold; NaN if none did."""
    evaluations, episodes = (pd.read_csv(folder / f"{name}.csv") for name in ("evaluations", "episodes"))
    solved = evaluations.loc[evaluations["mean"] >= THRESHOLDS[env_id], "step"]
    step = solved.iloc[0] if len(solved) else np.nan
    return {"solved_step": step, "solved_episode": (episodes["step"] <= step).sum() if len(solved) else np.nan}


def markdown(study: str) -> str:
    """The study's table for a README."""
    lines = [
        "| seed | solved at step (episode) | last weights, 100 episodes | best weights, 100 episodes | wall time |",
        "|---|---|---|---|---|",
    ]
    for row in pd.read_csv(RESULTS / study / "table.csv").itertuples():
        solved = "never" if np.isnan(row.solved_step) else f"{row.solved_step:,.0f} ({row.solved_episode:.0f})"
        last, best = (f"{m:.1f} ± {s:.1f}" for m, s in ((row.last_mean, row.last_std), (row.best_mean, row.best_std)))
        lines.append(f"| {row.seed} | {solved} | {last} | {best} | {row.wall_time_minutes:.1f} min |")
    return "\n".join(lines)


def draw(studies: list[str], path: Path, panels: int = 1, bottom: float | None = None) -> None:
    """Each run's noise-free evaluations, and each study's median over its runs."""
    figure = Figure(figsize=(7 if panels == 1 else 4.5 * panels, 4), layout="constrained")
    env_id = json.loads(next((RESULTS / studies[0]).glob("*/args.json")).read_text())["args"]["env_id"]
    grid = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axes, part in zip(grid, np.array_split(studies, panels), strict=True):
        for study, (color, line) in zip(part, STYLES, strict=False):
            files = sorted((RESULTS / study).glob("*/evaluations.csv"))
            runs = [pd.read_csv(file, index_col="step")["mean"] for file in files]
            for run in runs:
                axes.plot(run, color=color, ls=line, lw=0.6, alpha=0.5)
            median = pd.concat(runs, axis=1).median(axis=1)
            axes.plot(median, color=color, ls=line, lw=2.5, label=f"{study}: median of {len(runs)}")
        axes.axhline(THRESHOLDS[env_id], color="0.4", lw=0.8)
        axes.set(xlabel="environment step", title=env_id, ylim=(bottom, None))
        axes.locator_params(axis="x", nbins=6)
        axes.legend()
    grid[0].set(ylabel="noise-free return")
    for suffix in ("png", "pdf"):
        figure.savefig(path.with_suffix(f".{suffix}"), dpi=150)


def compare(studies: list[str], name: str | None, panels: int, bottom: float | None) -> None:
    """One figure and one table over studies that differ in one setting or, by panels, two."""
    draw(studies, RESULTS / f"{name or '-'.join(studies)}.png", panels, bottom)
    print("| study | solved | median step to solve | last weights: mean of each run | best weights: mean of each run |")
    print("|---|---|---|---|---|")
    for study in studies:
        table = pd.read_csv(RESULTS / study / "table.csv")
        median = table["solved_step"].fillna(np.inf).median()
        last, best = (", ".join(f"{x:.0f}" for x in table[name]) for name in ("last_mean", "best_mean"))
        print(f"| {study} | {table['solved_step'].notna().sum()} of {len(table)} | {median:,.0f} | {last} | {best} |")


def against(studies: list[str], name: str, flag: str, lines: str) -> None:
    """One figure and one table: every run's last evaluation against a flag, a line for each value of another."""
    rows = []
    for folder in sorted(path.parent for study in studies for path in (RESULTS / study).glob("*/args.json")):
        args = json.loads((folder / "args.json").read_text())["args"]
        last = pd.read_csv(folder / "evaluations.csv").iloc[-1]
        rows.append(
            {lines: args[lines], flag: args[flag], "seed": args["seed"], "step": last["step"], "mean": last["mean"]}
        )
    table = pd.DataFrame(rows).sort_values([lines, flag, "seed"])
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (value, part), (color, line), aside in zip(table.groupby(lines), STYLES, (0.97, 1.03, 1.0), strict=False):
        mean = part.groupby(flag)["mean"].mean()
        axes.plot(part[flag] * aside, part["mean"], "o", color=color, alpha=0.6, mfc="none")
        axes.plot(mean.index * aside, mean, color=color, ls=line, lw=2.5, label=f"{lines} {value:g}: mean of the seeds")
    axes.axhline(THRESHOLDS[args["env_id"]], color="0.4", lw=0.8)
    axes.set(xlabel=flag, xscale="log", ylabel="last evaluation: noise-free return", title=args["env_id"])
    axes.set_xticks(sorted(table[flag].unique()), [f"{x:g}" for x in sorted(table[flag].unique())])
    axes.minorticks_off()
    axes.legend()
    for suffix in ("png", "pdf"):
        figure.savefig(RESULTS / f"{name}.{suffix}", dpi=150)
    print(f"| {lines} | {flag} | last evaluation of each seed |\n|---|---|---|")
    for (line, value), part in table.groupby([lines, flag]):
        print(f"| {line:g} | {value:g} | {', '.join(f'{x:.1f}' for x in part['mean'])} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("runs", nargs="+", help="run directories, or with --compare further studies")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--panels", type=int, default=1)
    parser.add_argument("--bottom", type=float, help="where the axis of returns begins")
    parser.add_argument("--name", help="of the figure; default: the studies' names")
    parser.add_argument("--against", help="the flag, as in args.json, of the horizontal axis")
    parser.add_argument("--lines", help="the flag whose values get a line each")
    given = parser.parse_args()
    if given.against:
        if not (given.lines and given.name):
            parser.error("--against needs --lines and --name")
        against([given.study, *given.runs], given.name, given.against, given.lines)
    elif given.compare:
        compare([given.study, *given.runs], given.name, given.panels, given.bottom)
    else:
        collect(given.study, [Path(run) for run in given.runs])
