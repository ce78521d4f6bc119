"""Makes a study's figures and tables from what its finished runs have left, and nothing else.

    python benchmark/report.py normalisation    # into benchmark/results/normalisation
    python benchmark/report.py --all            # every study's report and benchmark/RESULTS.md

| file | what it holds |
|---|---|
| report.md | all that follows, and a row for every seed |
| learning-curves-* | noise-free evaluations: interquartile mean, and 95 % interval or each seed |
| steps-to-solve-* | share of the seeds solved by each step |
| results.tex, hyperparameters.tex | tables for a paper (booktabs, graphicx) |
| protocol.tex | a paragraph for its appendix: protocol, statistics, versions, hardware |

The figures are PDF and PNG files, in the widths of one and of two columns. Returns are those of the
last evaluation of each run, and the mean of its last ten: never of the best run, nor of the best
point of a curve. Only "solved" looks at all evaluations; beside it stands "solved at the end". The
statistics follow Agarwal et al. 2021 (https://arxiv.org/abs/2108.13264).
"""

import argparse
import math
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import study

try:
    import matplotlib
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter
    from scipy import stats
except ImportError as error:
    study.explain_missing_package(error, __name__)

RESAMPLES = 2_000
CONFIDENCE = 0.95
LEAST_RUNS = 5  # for an interval: of two it is from the one to the other, and covers half
COVERAGE = {5: 89, 10: 93, 20: 94}  # of an IQM, in %, by number of runs: a test measures it
LAST_EVALUATIONS = 10
LEAST_EVALUATIONS = 20  # for a mean of the last ten: of fewer it would be one of the learning
MOST_PAIRED = 5  # settings of which the first is compared with each of the others

MOST_LINES = 4  # in one panel
LINE_STYLES = ["-", "--", ":", "-."]
FIGURE_STYLE = {
    "font.size": 7,
    "axes.titlesize": 7,
    "pdf.fonttype": 42,  # TrueType: journals refuse matplotlib's Type 3
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Width(NamedTuple):
    """How wide a figure is, and how much stands side by side in it."""

    inches: float
    panels: int
    legend_entries: int


WIDTHS = {"one-column": Width(3.4, 1, 3), "two-column": Width(7.0, 3, 6)}
BENCHMARK = study.ROOT / "benchmark"
PAGE = BENCHMARK / "RESULTS.md"


# -------------------------------------------------------------------------------------- statistics
def iqm(scores: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean: the mean without the lowest and the highest quarter (rounded down)."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def bootstrap_interval(
    strata: list[np.ndarray], statistic: Callable = iqm, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap: lower and upper bound, (…), of a statistic over runs.

    Each stratum, (runs, …), holds the runs of one task. Every resample draws from each task as many
    of its runs as it has, with replacement. Of few runs the interval is too narrow: see COVERAGE.
    """
    rng = np.random.default_rng(seed)
    resamples = []
    for runs in strata:
        indices = rng.integers(len(runs), size=(RESAMPLES, len(runs)))
        resamples.append(runs[indices])  # (resamples, runs, …)
    values = statistic(np.concatenate(resamples, axis=1), axis=1)  # (resamples, …)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high


def mean_interval(scores: np.ndarray) -> tuple[float, float]:
    """Student's t interval of a mean of (runs,)."""
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1)
    margin = quantile * stats.sem(scores)
    return scores.mean() - margin, scores.mean() + margin


@dataclass(frozen=True)
class StepsToSolve:
    """How long each run took to its first evaluation at the threshold; all runs are as long."""

    steps: np.ndarray  # (runs,); infinite where a run never reached it

    @property
    def solved(self) -> np.ndarray:
        """Which runs reached it, (runs,)."""
        return np.isfinite(self.steps)

    def share(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps, from 0 on, and the share of runs solved by each."""
        steps = np.unique(self.steps[self.solved])  # sorted
        share = [np.mean(self.steps <= step) for step in steps]
        return np.array([0, *steps]), np.array([0, *share])

    def median(self) -> float:
        """The median step; infinite if one of the runs in the middle is not solved."""
        return float(np.median(self.steps))


# ---------------------------------------------------------------------------------------- the runs
@dataclass
class SettingResults:
    """All finished runs of one setting in one environment."""

    env_id: str
    setting: str
    threshold: float  # NaN without one
    seeds: list[int]
    paths: list[Path]
    evaluations: pd.DataFrame  # mean returns: a row per step, a column per seed
    has_decisions: bool = False  # the environment repeats each action

    @property
    def has_threshold(self) -> bool:
        return math.isfinite(self.threshold)

    @property
    def total_steps(self) -> int:
        return self.evaluations.index[-1]

    @property
    def what_steps_are(self) -> str:
        """Where an action lasts for several of the environment's steps, they are one decision."""
        if self.has_decisions or max(self.action_repeats, default=1) > 1:
            return "decisions"
        return "environment steps"

    @property
    def action_repeats(self) -> list[int]:
        """The --action-repeat of each run; 1 of a script without."""
        return [run_args(path).get("action_repeat", 1) for path in self.paths]

    @property
    def length(self) -> str:
        """The runs' length, as in: of 200,000; of 15,000 decisions."""
        if self.what_steps_are == "decisions":
            return f"{self.total_steps:,} decisions"
        return f"{self.total_steps:,}"

    @property
    def how_many_seeds(self) -> str:
        """Their number, in words."""
        if len(self.seeds) == 1:
            return "1 seed"
        return f"{len(self.seeds)} seeds"

    @property
    def has_last_ten(self) -> bool:
        """Whether the last ten evaluations are at most the second half of a run."""
        return len(self.evaluations) >= LEAST_EVALUATIONS

    @property
    def last(self) -> np.ndarray:
        """The last evaluation of each run, (runs,)."""
        return self.evaluations.iloc[-1].to_numpy()

    @property
    def solved_at_the_end(self) -> np.ndarray:
        """Whether the last evaluation of each run reaches the threshold, (runs,)."""
        return self.last >= self.threshold

    @property
    def last_ten(self) -> np.ndarray:
        """The mean of the last ten evaluations of each run, (runs,)."""
        return self.evaluations.iloc[-LAST_EVALUATIONS:].mean().to_numpy()

    def steps_to_solve(self) -> StepsToSolve:
        reached = (self.evaluations >= self.threshold).to_numpy()  # (evaluations, runs)
        steps = self.evaluations.index.to_numpy()
        solved = reached.any(axis=0)
        first = steps[reached.argmax(axis=0)]
        return StepsToSolve(np.where(solved, first, math.inf))


def load_results(wanted: study.Study, results: Path = study.RESULTS) -> list[SettingResults]:
    """The finished runs of a study by environment and setting; StudyError if there is none."""
    runs_by_setting: dict[tuple[str, str], dict[int, Path]] = {}
    for run in wanted.runs:
        path = run.found(results)
        if path is not None:
            runs_by_setting.setdefault((run.env_id, run.setting), {})[run.seed] = path
    if not runs_by_setting:
        command = ["python", "benchmark/sweep.py", wanted.asked_for]
        if results != study.RESULTS:
            command += ["--results", str(results)]
        raise study.StudyError(f"no run of {wanted.name} is finished: {shlex.join(command)}")

    groups = []
    for (env_id, setting), paths in runs_by_setting.items():
        curves = {seed: read_evaluations(path) for seed, path in paths.items()}
        evaluations = pd.concat(curves, axis=1)
        threshold = wanted.thresholds[env_id]
        groups.append(
            SettingResults(
                env_id=env_id,
                setting=setting,
                threshold=threshold,
                seeds=list(paths),
                paths=list(paths.values()),
                evaluations=evaluations,
                has_decisions=wanted.has_decisions,
            )
        )
    return groups


def read_evaluations(path: Path) -> pd.Series:
    """The mean of every evaluation of a run by its step; StudyError if the CSV is damaged."""
    file = path / "evaluations.csv"
    try:
        curve = pd.read_csv(file, index_col="step")["mean"].astype(float)
    except (OSError, ValueError, KeyError) as error:
        raise study.StudyError(f"{file} is damaged: {error}") from None
    args = run_args(path)
    if args["eval_every"] == 0:
        raise study.StudyError(f"{path} has no evaluations: its eval_every is 0")
    steps = [*range(0, args["total_timesteps"], args["eval_every"]), args["total_timesteps"]]
    for step in steps:
        if step not in curve.index:
            raise study.StudyError(f"{file} is damaged: the evaluation of step {step} is missing")
    if list(curve.index) != steps:
        raise study.StudyError(f"{file} is damaged: it has rows of other steps, or twice the same")
    if not np.isfinite(curve).all():
        raise study.StudyError(f"{file} is damaged: not all means are numbers")
    return curve


def run_args(path: Path) -> dict[str, object]:
    """The arguments that decide a run's numbers: its args.json, and defaults of newer flags."""
    if study.is_of_our_scripts(path):
        return study.identity(path).args
    return study.deciding(study.load_json(path / "args.json")["args"])


def all_paths(groups: list[SettingResults]) -> list[Path]:
    """The directories of all runs."""
    return [path for group in groups for path in group.paths]


def unique(items: list) -> list:
    """The items without repetitions, in order."""
    return list(dict.fromkeys(items))


# ----------------------------------------------------------------------------------------- figures
def draw_figures(groups: list[SettingResults], folder: Path) -> None:
    """Draws both figures of a study, in both widths, as PDF and PNG."""
    styles = line_styles(groups)
    with_threshold = [group for group in groups if group.has_threshold]
    with matplotlib.rc_context(FIGURE_STYLE):
        for name, width in WIDTHS.items():
            panels = split_into_panels(groups)
            figure = draw_panels(panels, width, styles, draw_learning_curve)
            save_figure(figure, folder / f"learning-curves-{name}")
            if with_threshold:
                panels = split_into_panels(with_threshold)
                figure = draw_panels(panels, width, styles, draw_share_solved)
                save_figure(figure, folder / f"steps-to-solve-{name}")


def line_styles(groups: list[SettingResults]) -> dict[str, dict]:
    """Colour and dashes of each setting."""
    colors = matplotlib.color_sequences["petroff10"]  # which the colour-blind can tell apart
    styles = {}
    for i, setting in enumerate(unique([group.setting for group in groups])):
        dashes = LINE_STYLES[i % len(LINE_STYLES)]
        styles[setting] = {"color": colors[i % len(colors)], "ls": dashes}
    return styles


def split_into_panels(groups: list[SettingResults]) -> list[list[SettingResults]]:
    """The settings that share a panel: those of an environment, but at most four of them."""
    panels = []
    for env_id in unique([group.env_id for group in groups]):
        lines = [group for group in groups if group.env_id == env_id]
        parts = math.ceil(len(lines) / MOST_LINES)
        for indices in np.array_split(np.arange(len(lines)), parts):
            panels.append([lines[i] for i in indices])
    return panels


def draw_panels(
    panels: list[list[SettingResults]], width: Width, styles: dict[str, dict], draw_line: Callable
) -> Figure:
    """Draws a panel for each list of settings, and one legend for all.

    Where an environment has several panels, each has colours and a legend of its own.
    """
    rows = math.ceil(len(panels) / width.panels)
    columns = math.ceil(len(panels) / rows)
    num_environments = len({group.env_id for panel in panels for group in panel})
    is_split = len(panels) > num_environments
    figure = Figure(figsize=(width.inches, 2.3 * rows + 0.2), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=num_environments == 1)
    for axes in grid.flat[len(panels) :]:  # the last row may have room left
        axes.remove()
    for axes, panel in zip(figure.axes, panels, strict=True):
        own_styles = line_styles(panel) if is_split else styles
        for group in panel:
            draw_line(axes, group, own_styles[group.setting])
        axes.set(title=panel_title(panel), xlabel=panel[0].what_steps_are)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.locator_params(axis="x", nbins=5)
        if is_split:
            axes.legend(frameon=False)
    if len(styles) > 1 and not is_split:
        lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
        handles = [lines[setting] for setting in styles if setting in lines]
        place = {"loc": "outside lower center", "frameon": False}
        figure.legend(handles=handles, ncols=width.legend_entries, **place)
    return figure


def panel_title(panel: list[SettingResults]) -> str:
    """The environment, and how many seeds its lines have."""
    numbers = sorted({len(group.seeds) for group in panel})
    how_many = panel[0].how_many_seeds
    if len(numbers) > 1:
        how_many = f"{numbers[0]} to {numbers[-1]} seeds"
    return f"{panel[0].env_id}, {how_many}"


def draw_learning_curve(axes: Axes, group: SettingResults, style: dict) -> None:
    """Interquartile mean of the evaluations, with its interval or, of few runs, with each run."""
    steps = group.evaluations.index
    scores = group.evaluations.to_numpy().T  # (runs, evaluations)
    axes.plot(steps, iqm(scores), **style, lw=1.3, label=group.setting)
    if len(scores) >= LEAST_RUNS:
        low, high = bootstrap_interval([scores])
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, lw=0)
    else:
        axes.plot(steps, scores.T, color=style["color"], alpha=0.4, lw=0.6)
    axes.set_ylabel("return without noise")
    if group.has_threshold:
        axes.axhline(group.threshold, color="0.5", lw=0.6, ls=(0, (1, 2)))


def draw_share_solved(axes: Axes, group: SettingResults, style: dict) -> None:
    """Share of the runs that are solved by each step."""
    steps, share = group.steps_to_solve().share()
    steps = [*steps, group.total_steps]
    share = [*share, share[-1]]
    axes.step(steps, share, where="post", **style, label=group.setting)
    axes.set(ylim=(-0.03, 1.03), ylabel=f"share of seeds that reached {group.threshold:g}")


def save_figure(figure: Figure, path: Path) -> None:
    """Saves a figure as PDF and PNG: the same data, the same bytes."""
    figure.savefig(f"{path}.pdf", dpi=200, metadata={"CreationDate": None})
    figure.savefig(f"{path}.png", dpi=200)


# ----------------------------------------------------------------------------------------- numbers
def digits(value: float) -> str:
    """A number with one decimal, or none from a thousand on."""
    rounded = round(value, 1) + 0.0  # no minus in front of a zero
    text = f"{rounded:.1f}"
    if abs(rounded) >= 1000:
        text = f"{value:,.0f}"
    return text.replace("-", "−")


def iqm_with_interval(scores: np.ndarray) -> str:
    """The interquartile mean of runs; with its interval, if they are enough for one."""
    if len(scores) < LEAST_RUNS:
        return digits(iqm(scores))
    low, high = bootstrap_interval([scores])
    return f"{digits(iqm(scores))} [{digits(low)}, {digits(high)}]"


def mean_and_std(scores: np.ndarray) -> str:
    """As others report it, with the sample's standard deviation, which one run does not have."""
    if len(scores) == 1:
        return digits(scores[0])
    return f"{digits(scores.mean())} ± {digits(scores.std(ddof=1))}"


def solved_with_interval(solved: np.ndarray) -> str:
    """How many runs are solved; with Clopper and Pearson's interval of the share."""
    test = stats.binomtest(int(solved.sum()), len(solved))
    low, high = test.proportion_ci(CONFIDENCE)
    return f"{solved.sum()} of {len(solved)} [{100 * low:.0f}, {100 * high:.0f} %]"


def median_step(group: SettingResults) -> str:
    """The median of the steps at which the runs are solved."""
    median = group.steps_to_solve().median()
    if math.isinf(median):
        return f"> {group.total_steps:,}"
    return f"{median:,.0f}"


def seed_range(seeds: list[int]) -> str:
    """Seeds in words: 0, 1, 2, 3 as seeds 0 to 3."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"


# ------------------------------------------------------------------------------------------ tables
def summary(groups: list[SettingResults]) -> pd.DataFrame:
    """A row per environment and setting, as text."""
    rows = []
    for group in groups:
        row = {"environment": group.env_id, "setting": group.setting}
        row["seeds"] = str(len(group.seeds))
        if group.has_threshold:
            row["solved"] = solved_with_interval(group.steps_to_solve().solved)
            row["median step"] = median_step(group)
            row["solved at the end"] = f"{group.solved_at_the_end.sum()} of {len(group.seeds)}"
        row["last evaluation: IQM"] = iqm_with_interval(group.last)
        row["mean of the last ten: IQM"] = "–"
        if group.has_last_ten:
            row["mean of the last ten: IQM"] = iqm_with_interval(group.last_ten)
        row["last evaluation: mean ± std"] = mean_and_std(group.last)
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def all_environments_together(groups: list[SettingResults]) -> pd.DataFrame | None:
    """A row per setting, of all environments: 0 is the untrained policy, 1 the threshold.

    Of the seeds that are finished in every environment, so that each counts as much. None if there
    are not two environments, or too few such seeds of every setting.
    """
    groups = [group for group in groups if group.has_threshold]
    env_ids = unique([group.env_id for group in groups])
    if len(env_ids) < 2:
        return None
    rows = []
    for setting in unique([group.setting for group in groups]):
        same = [group for group in groups if group.setting == setting]
        seeds = common_seeds(same)
        if len(same) == len(env_ids) and len(seeds) >= LEAST_RUNS:
            scores = [normalised_scores(group, groups, seeds) for group in same]
            low, high = bootstrap_interval(scores)
            runs = np.concatenate(scores)
            value = f"{iqm(runs):.2f} [{low:.2f}, {high:.2f}]"
            row = {"setting": setting, "seeds of each": str(len(seeds))}
            rows.append({**row, "normalised last evaluation: IQM": value})
    if not rows:
        return None
    return pd.DataFrame(rows)


def common_seeds(groups: list[SettingResults]) -> list[int]:
    """The seeds that all groups have."""
    return [seed for seed in groups[0].seeds if all(seed in group.seeds for group in groups)]


def normalised_scores(
    group: SettingResults, groups: list[SettingResults], seeds: list[int]
) -> np.ndarray:
    """Last evaluations, (seeds,), from 0 for the untrained policies to 1 for the threshold."""
    first = [x.evaluations.loc[0].mean() for x in groups if x.env_id == group.env_id]
    untrained = np.mean(first)
    last = group.evaluations.iloc[-1][seeds].to_numpy()
    return (last - untrained) / (group.threshold - untrained)


def minutes_to_solve(wanted: study.Study, groups: list[SettingResults]) -> pd.DataFrame | None:
    """A row per setting: how long it takes to its median step, as text. None without speeds."""
    if wanted.speed is None:
        return None
    speeds = read_speeds(wanted.speed)
    rows = []
    for group in groups:
        name = wanted.names_in_speed[group.setting]
        if not group.has_threshold or name not in speeds:
            continue
        row = {"environment": group.env_id, "setting": group.setting}
        row["median step"] = median_step(group)
        row["steps per second"] = f"{speeds[name]:.0f}"
        step = group.steps_to_solve().median()
        row["minutes"] = f"{step / speeds[name] / 60:.1f}"
        if math.isinf(step):
            row["minutes"] = f"> {group.total_steps / speeds[name] / 60:.1f}"
        rows.append(row)
    if not rows:
        return None
    return pd.DataFrame(rows)


def read_speeds(file: Path) -> dict[str, float]:
    """Each contestant's steps per second, the median over its turns; StudyError if damaged."""
    try:
        turns = pd.read_csv(file)
        speeds = turns.groupby("name")["steps_per_second"].median()
        numbers_of_threads = turns["threads"].nunique()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise study.StudyError(f"{file} is damaged: {error}") from None
    if numbers_of_threads != 1:
        raise study.StudyError(f"{file} has more than one number of threads: give --threads 1")
    return speeds.to_dict()


def in_pairs(wanted: study.Study, groups: list[SettingResults]) -> pd.DataFrame | None:
    """A row for every setting beside the study's first one, seed by seed, as text.

    None if no environment has two settings with enough seeds in common, or if there are too many
    settings for one of them to be what all others are compared with.
    """
    settings = unique([run.setting for run in wanted.runs])
    if len(settings) > MOST_PAIRED:
        return None
    rows = []
    for env_id in unique([group.env_id for group in groups]):
        first, *others = [group for group in groups if group.env_id == env_id]
        if first.setting != settings[0]:  # it is not finished here
            continue
        for other in others:
            seeds = common_seeds([first, other])
            if len(seeds) >= LEAST_RUNS:
                rows.append(pair(first, other, seeds))
    if not rows:
        return None
    return pd.DataFrame(rows).fillna("–")


def pair(first: SettingResults, other: SettingResults, seeds: list[int]) -> dict[str, str]:
    """One setting beside another, on the seeds that both have."""
    row = {"environment": first.env_id, "settings": f"{other.setting} − {first.setting}"}
    row["seeds"] = str(len(seeds))
    if first.has_threshold:
        solved_first = first.steps_to_solve().solved[np.isin(first.seeds, seeds)]
        solved_other = other.steps_to_solve().solved[np.isin(other.seeds, seeds)]
        row["solved by both"] = str((solved_first & solved_other).sum())
        row["by one alone"] = (
            f"{other.setting} {(solved_other & ~solved_first).sum()}, "
            f"{first.setting} {(solved_first & ~solved_other).sum()}"
        )
        row["solved earlier"] = solved_earlier(first, other, seeds)
    difference = (other.evaluations.iloc[-1] - first.evaluations.iloc[-1])[seeds].to_numpy()
    low, high = mean_interval(difference)
    interval = f"[{digits(low)}, {digits(high)}]"
    row["difference of the last evaluations: mean"] = f"{digits(difference.mean())} {interval}"
    return row


def solved_earlier(first: SettingResults, other: SettingResults, seeds: list[int]) -> str:
    """On how many of these seeds each setting was the first to be solved; a sign test's p value."""
    steps_first = first.steps_to_solve().steps[np.isin(first.seeds, seeds)]
    steps_other = other.steps_to_solve().steps[np.isin(other.seeds, seeds)]
    num_other = int((steps_other < steps_first).sum())
    num_first = int((steps_first < steps_other).sum())
    text = f"{other.setting} {num_other}, {first.setting} {num_first}"
    if num_other + num_first == 0:
        return text
    p = stats.binomtest(num_other, num_other + num_first).pvalue
    if p < 0.001:
        return f"{text} (p < 0.001)"
    return f"{text} (p = {p:.2g})"


def every_seed(groups: list[SettingResults]) -> pd.DataFrame:
    """A row per run, as text."""
    rows = []
    for group in groups:
        solving = group.steps_to_solve()
        for i, seed in enumerate(group.seeds):
            row = {"environment": group.env_id, "setting": group.setting, "seed": str(seed)}
            if group.has_threshold:
                row["solved at step"] = "never"
                if solving.solved[i]:
                    row["solved at step"] = f"{solving.steps[i]:,.0f}"
            row["last evaluation"] = digits(group.last[i])
            if group.has_last_ten:
                row["mean of the last ten"] = digits(group.last_ten[i])
            row["commit"] = commit(group.paths[i])
            rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def starts(path: Path) -> list[dict[str, object]]:
    """Machine and commit of each process of a run, by the machine.json that the sweep writes."""
    file = path / "machine.json"
    if not file.exists():
        return [{}]
    content = study.load_json(file)
    return content.get("starts", [content])  # in older files there is but the last one


def commit(path: Path) -> str:
    """The version of the code that made a run; several, if it was resumed with another."""
    if not study.is_of_our_scripts(path):
        return "another library"
    return " and ".join(unique([commit_at(start) for start in starts(path)]))


def commit_at(start: dict[str, object]) -> str:
    """The version of the code that a process was started from."""
    if start.get("commit") is None:
        return "not recorded"
    if start.get("clean"):
        return start["commit"][:10]
    return f"{start['commit'][:10]}, with changes"


def hyperparameters(wanted: study.Study, groups: list[SettingResults]) -> pd.DataFrame:
    """Every argument that decides the numbers, and whose it is if not all runs have it."""
    owners_by_value: dict[str, dict[str, list]] = {}  # of each argument
    for group in groups:
        for path in group.paths:
            for name, value in run_args(path).items():
                owners = owners_by_value.setdefault(name, {}).setdefault(as_text(value), [])
                owners.append((group.env_id, group.setting))
    rows = []
    for name, values in owners_by_value.items():
        if name in ("env_id", "seed"):
            continue
        parts = [value + in_brackets(owners, groups) for value, owners in values.items()]
        row = {"hyperparameter": name.replace("_", "-"), "value": "; ".join(parts)}
        if wanted.script is not None:
            row["paper"] = paper_value(wanted.script, name)
        rows.append(row)
    return pd.DataFrame(rows)


def as_text(value: object) -> str:
    """An argument's value, as on a command line."""
    if isinstance(value, list):
        return " ".join(as_text(x) for x in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {as_text(x)}" for name, x in value.items())
    return str(value)


def paper_value(script: str, name: str) -> str:
    """The paper's value of a flag, as the comment beside the flag says; empty without one."""
    flags = study.script_flags(script)
    if name not in flags:
        return ""
    value = re.search(r"paper: ([^;)]+)", flags[name].comment)
    if value is None:
        return ""
    return value[1]


def in_brackets(owners: list[tuple[str, str]], groups: list[SettingResults]) -> str:
    """Environments and settings, as shortly as can be; nothing if they are all of the study."""
    everywhere = {(group.env_id, group.setting) for group in groups}
    if set(owners) == everywhere:
        return ""
    env_ids = unique([env_id for env_id, _ in owners])
    settings = unique([setting for _, setting in owners])
    if set(owners) == {x for x in everywhere if x[0] in env_ids}:
        return f" ({', '.join(env_ids)})"
    if set(owners) == {x for x in everywhere if x[1] in settings}:
        return f" ({', '.join(settings)})"
    return f" ({', '.join(' '.join(owner) for owner in unique(owners))})"


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# ------------------------------------------------------------------------------------------- LaTeX
LATEX_SIGNS = {
    "±": r"\pm",
    "γ": r"\gamma",
    "τ": r"\tau",
    "σ": r"\sigma",
    "θ": r"\theta",
    "μ": r"\mu",
    "ε": r"\epsilon",
    "α": r"\alpha",
    "≥": r"\geq",
    "≤": r"\leq",
    "√": r"\surd",
    "∇": r"\nabla",
    "×": r"\times",
    "<": "<",
    ">": ">",
}


def latex_text(text: str) -> str:
    """Text as LaTeX has it, which reads UTF-8; mathematical signs become its commands."""
    text = text.replace("−", "-").replace("–", "--").replace("’", "'")
    backslash = "\0"  # a stand-in, so that the braces of \textbackslash{} are not escaped
    text = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", backslash))
    text = text.replace(backslash, r"\textbackslash{}")
    text = text.replace("~", r"\textasciitilde{}").replace("^", r"\textasciicircum{}")
    text = re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)
    for sign, command in LATEX_SIGNS.items():
        text = text.replace(sign, f"${command}$")
    return text


def latex_table(table: pd.DataFrame, caption: str, label: str, columns: str) -> str:
    """A table as wide as the page (booktabs, graphicx). `columns`: their form, as LaTeX has it."""
    text = (
        table.map(latex_text)
        .rename(columns=latex_text)
        .to_latex(
            index=False,
            escape=False,
            column_format=columns,
            caption=latex_text(caption),
            label=label,
            position="t",
        )
    )
    text = text.replace("{table}", "{table*}")  # across both columns
    text = text.replace(r"\begin{tabular}", "\\resizebox{\\textwidth}{!}{\\begin{tabular}")
    return text.replace(r"\end{tabular}", r"\end{tabular}}")


# ---------------------------------------------------------------------------------------- protocol
EVALUATION = """
An evaluation plays {episodes} episodes without exploration in an environment of its own, which does
not change training. Its start states are those that the environment gives for the seeds s, s+1, s+2
and so on, where s is the run's seed plus 1,000,000: the same ones at every evaluation of a run, and
in every setting, but shifted by one from seed to seed. So the evaluations of neighbouring seeds
have most start states in common, and intervals over seeds do not cover the choice of start states;
settings are to be compared on the same seeds.
"""
STATISTICS = """
Curves are interquartile means (IQM) over the seeds; of three seeds or fewer that is the mean. The
{confidence} % intervals of an IQM are by {resamples:,} percentile bootstrap resamples of the runs
(Agarwal et al. 2021), and given for {least} runs or more. They are too narrow: of {runs} runs they
cover about {coverage} % in simulations with normal data. The interval of a share of seeds is
Clopper and Pearson's.
"""
PAIRED = """
Two settings are compared on the seeds that both have: which was solved earlier, with the p value of
a two-sided sign test, and the difference of the last evaluations, as a mean with Student's t
interval. That takes differences as normal, which they are not where a seed failed. Nothing is
corrected for the number of comparisons.
"""
STRATIFIED = """
Where environments are taken together, resamples are stratified by environment.
"""
SOLVED = """
A run counts as solved if the mean of an evaluation reaches {thresholds}. It may fall below it
again, so the number of runs that reach it in their last evaluation is given, too. The median step
is over all seeds; one that is never solved counts as later than all others.
"""
RETURNS = """
Returns are those of the last evaluation of every run and the mean of its last ten, never of the
best run or the best evaluation.
"""


def protocol(wanted: study.Study, groups: list[SettingResults]) -> str:
    """The paragraph for a paper's appendix."""
    parts = [
        what_was_trained(wanted, groups),
        EVALUATION.format(episodes=listed([x["eval_episodes"] for x in all_args(groups)])),
        STATISTICS.format(
            confidence=f"{100 * CONFIDENCE:.0f}",
            resamples=RESAMPLES,
            least=LEAST_RUNS,
            runs=", ".join(map(str, COVERAGE)),
            coverage=", ".join(map(str, COVERAGE.values())),
        ),
    ]
    if in_pairs(wanted, groups) is not None:
        parts.append(PAIRED)
    if all_environments_together(groups) is not None:
        parts.append(STRATIFIED)
    thresholds = [
        f"{threshold:,g} ({env_id})"
        for env_id, threshold in wanted.thresholds.items()
        if math.isfinite(threshold)
    ]
    if thresholds:
        parts.append(SOLVED.format(thresholds=", ".join(thresholds)))
    parts += [RETURNS, left_out(wanted, groups)]
    parts.append(f"Software: {versions(groups)}.")
    parts.append(f"Hardware: {counted([hardware(path) for path in all_paths(groups)])}.")
    parts.append(f"Commit: {counted([commit(path) for path in all_paths(groups)])}.")
    return " ".join(" ".join(parts).split())


def all_args(groups: list[SettingResults]) -> list[dict[str, object]]:
    """The arguments of every run."""
    return [run_args(path) for path in all_paths(groups)]


def listed(items: list) -> str:
    """What occurs in a list: 1 or 2."""
    return " or ".join(map(str, unique(items)))


def counted(texts: list[str]) -> str:
    """What occurs in a list, and how often."""
    return "; ".join(f"{text} (runs: {texts.count(text)})" for text in unique(texts))


def what_was_trained(wanted: study.Study, groups: list[SettingResults]) -> str:
    """The protocol's first sentences."""
    programs = "of the programs that the settings name"
    if wanted.script is not None:
        programs = f"of {wanted.script}"
    sentences = [f"All runs are {programs}, with the hyperparameters of the table."]
    sentences += unique([length_and_seeds(group) for group in groups])
    sentences += unique([what_a_decision_is(group) for group in groups])
    args = all_args(groups)
    devices = listed([x.get("device", "as the backend chooses") for x in args])
    threads = listed([x.get("num_threads", "as OMP_NUM_THREADS says (1 in a sweep)") for x in args])
    sentences.append(f"CPU threads per run: {threads}. Device: {devices}.")
    return " ".join(sentences)


def what_a_decision_is(group: SettingResults) -> str:
    """A sentence where a step of the runs is several of the environment's; else empty."""
    if group.what_steps_are != "decisions":
        return ""
    repeats = f"up to {listed(group.action_repeats)}"
    if group.has_decisions:
        repeats = "several"
    return f"A decision is an action, which lasts for {repeats} environment steps."


def length_and_seeds(group: SettingResults) -> str:
    """How long the runs of a setting are in an environment, and their seeds."""
    every = listed([f"{run_args(path)['eval_every']:,}" for path in group.paths])
    length = f"{group.total_steps:,} {group.what_steps_are}"
    return f"{group.env_id}: {length}, evaluated every {every}, {seed_range(group.seeds)}."


def left_out(wanted: study.Study, groups: list[SettingResults]) -> str:
    """The runs that are in no number."""
    missing = missing_runs(wanted, groups)
    if not missing:
        return "No run was left out."
    text = f"In no number are the runs that are not finished: {runs_in_words(missing)}."
    begun = [run for run in missing if has_begun(run)]
    if begun:
        text += f" Of these have begun, and failed or not ended yet: {runs_in_words(begun)}."
    return text


def missing_runs(wanted: study.Study, groups: list[SettingResults]) -> list[study.Run]:
    """The runs of a study that are not finished."""
    there = {(group.env_id, group.setting): group.seeds for group in groups}
    return [run for run in wanted.runs if run.seed not in there.get((run.env_id, run.setting), [])]


def has_begun(run: study.Run | study.PeerRun) -> bool:
    """Whether a run has left anything. If it is not finished, it failed, or still trains."""
    return (run.path / "args.json").exists()


def runs_in_words(runs: list[study.Run]) -> str:
    """Environment, setting and seeds of runs."""
    seeds_by_setting: dict[str, list[int]] = {}
    for run in runs:
        seeds_by_setting.setdefault(f"{run.env_id} {run.setting}", []).append(run.seed)
    parts = [f"{setting}, {seed_range(seeds)}" for setting, seeds in seeds_by_setting.items()]
    return "; ".join(parts)


def versions(groups: list[SettingResults]) -> str:
    """The versions of the libraries, from args.json, those after a resume, too."""
    found: dict[str, list[str]] = {}
    for path in all_paths(groups):
        content = study.load_json(path / "args.json")
        for noted in [content, *content.get("resumed", [])]:
            for name, version in noted.get("versions", {}).items():
                if name != "threads":  # which the protocol names already
                    found.setdefault(name, []).append(version.split()[0])
    return ", ".join(f"{name} {' and '.join(unique(numbers))}" for name, numbers in found.items())


def hardware(path: Path) -> str:
    """The machine of a run; several, if it was resumed on another."""
    machines = []
    for start in starts(path):
        machine = "not recorded"
        if "cpu" in start:
            machine = f"{start['cpu']}, {start['cores']} cores"
        machines.append(machine)
    return " and ".join(unique(machines))


# -------------------------------------------------------------------------------- a study's report
TOGETHER = (
    "All environments together (0: the untrained policy, 1: the threshold). The IQM leaves out a "
    "quarter of the runs at each end, and with them most of a task that is never solved:"
)
IN_PAIRS = (
    "Seed by seed. *Solved earlier*: the seeds on which each setting was the first to be solved, "
    "and the p value of a two-sided sign test. *Difference*: mean and Student's t interval, which "
    "a few failed seeds make wide; if it contains 0, it is open which setting's returns are higher "
    "at the end. Nothing is corrected for the number of comparisons."
)
MINUTES = (
    "Minutes of training until half of the seeds are solved: the median step divided by the steps "
    "per second ([CSV]({speed})). Those were measured while all settings took turns on one "
    "machine, with one thread each. Evaluations do not count. The random steps at the start do, as "
    "if they were as slow as those with updates."
)
SHORT_NAMES = {
    "last evaluation: IQM": "last (IQM)",
    "mean of the last ten: IQM": "last ten (IQM)",
    "last evaluation: mean ± std": "last (mean ± std)",
    "solved at the end": "at the end",
}


def report(wanted: study.Study, results: Path = study.RESULTS) -> list[SettingResults]:
    """Writes all files of a study's report. Gives what it is made of."""
    groups = load_results(wanted, results)
    folder = results / wanted.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in report_texts(wanted, groups, folder).items():
        (folder / name).write_text(text, encoding="utf-8")
    draw_figures(groups, folder)
    return groups


def report_texts(wanted: study.Study, groups: list[SettingResults], folder: Path) -> dict[str, str]:
    """All of a report but the figures: texts by the names of their files."""
    settings = hyperparameters(wanted, groups)
    what = "the programs"
    if wanted.script is not None:
        what = wanted.script
    result_table = summary(groups).rename(columns=SHORT_NAMES)
    result_form = "l" * len(result_table.columns)
    settings_form = r"lp{0.6\textwidth}" + "l" * (len(settings.columns) - 2)
    caption = f"Hyperparameters of {what}"
    return {
        "report.md": report_page(wanted, groups, folder),
        "results.tex": latex_table(
            result_table, wanted.question, f"tab:{wanted.name}-results", result_form
        ),
        "hyperparameters.tex": latex_table(
            settings, caption, f"tab:{wanted.name}-hyperparameters", settings_form
        ),
        "protocol.tex": latex_text(protocol(wanted, groups)) + "\n",
    }


def report_page(wanted: study.Study, groups: list[SettingResults], folder: Path) -> str:
    """The page with everything of a study."""
    parts = [f"# {wanted.question}", with_links_from(folder, wanted.answer)]
    if wanted.script is None:
        parts.append(f"{finished_of_all(wanted, groups)}.")
    else:
        command = f"`python benchmark/sweep.py {wanted.name}`"
        parts.append(f"{command}: {finished_of_all(wanted, groups)}.")
    parts += [markdown(summary(groups)), "![learning curves](learning-curves-two-column.png)"]
    if any(group.has_threshold for group in groups):
        parts.append("![share of the seeds that are solved](steps-to-solve-two-column.png)")
    parts += minutes_section(wanted, groups, folder)
    pairs = in_pairs(wanted, groups)
    if pairs is not None:
        parts += [IN_PAIRS, markdown(pairs)]
    together = all_environments_together(groups)
    if together is not None:
        parts += [TOGETHER, markdown(together)]
    parts += ["## Every seed", markdown(every_seed(groups))]
    parts += ["## Hyperparameters", markdown(hyperparameters(wanted, groups))]
    sources = where_programs_come_from(groups)
    if sources:
        parts += ["## Where the programs come from", sources]
    parts += ["## Protocol", protocol(wanted, groups)]
    return as_page(parts)


def minutes_section(wanted: study.Study, groups: list[SettingResults], folder: Path) -> list[str]:
    """What a page in this folder says of the time that the settings take; [] without speeds."""
    minutes = minutes_to_solve(wanted, groups)
    if minutes is None:
        return []
    link = Path(os.path.relpath(wanted.speed, folder)).as_posix()
    return [MINUTES.format(speed=link), markdown(minutes)]


def as_page(parts: list[str]) -> str:
    """Paragraphs as one text, without the empty ones."""
    return "\n\n".join(part for part in parts if part) + "\n"


def with_links_from(folder: Path, text: str) -> str:
    """Text of which the links start from benchmark/, as it is for a page in another folder."""
    to_benchmark = Path(os.path.relpath(BENCHMARK, folder)).as_posix()
    return re.sub(r"\]\((?!https?:|#)", f"]({to_benchmark}/", text)


def finished_of_all(wanted: study.Study, groups: list[SettingResults]) -> str:
    """How many of a study's runs are finished, and how many others have begun."""
    text = f"{len(all_paths(groups))} of {len(wanted.runs)} runs are finished"
    begun = sum(has_begun(run) for run in missing_runs(wanted, groups))
    if begun:
        text += f"; begun, and failed or not ended yet: {begun}"
    return text


def where_programs_come_from(groups: list[SettingResults]) -> str:
    """What the args.json of other libraries' runs say of the program; empty for our scripts."""
    lines = []
    for group in groups:
        content = study.load_json(group.paths[0] / "args.json")
        if "source" in content:
            notes = content.get("notes", "")
            lines.append(f"- **{group.setting}**: {content['source']}. {notes}".strip())
    return "\n".join(unique(lines))


# ----------------------------------------------------------------------------- the page of results
INTRODUCTION = """
Every finished run of the studies, in tables and pictures, which `python benchmark/report.py --all`
makes from the CSVs in [`results/`](results). How fast the scripts are stands in
[SPEED.md](SPEED.md), how their defaults were found in [TRIALS.md](TRIALS.md).
"""
COUNTING = """
A run is *solved* if an evaluation's mean reaches the task's threshold, at least once; in brackets
stands the {confidence} % interval of the share of seeds that are solved. The *median step* is over
all seeds: one that is never solved counts as later than all others. Returns are those of the last
evaluation of every run and, where it has {evaluations} or more, the mean of its last ten. They are
never those of the best run or the best evaluation. *IQM* is the interquartile mean over the seeds.
Its {confidence} % bootstrap interval stands where there are {least} seeds or more, and is too
narrow for so few: of {least} it covers about {coverage} % in simulations with normal data. All
evaluations of a run have the same start states, and neighbouring seeds have most of theirs in
common. So the intervals do not cover the choice of start states: settings are compared seed by
seed.

Every study's report names the *commit* that made each run.

{thresholds}

The commands "at a glance" leave out the task and the flags of length (`--total-timesteps`,
`--eval-every`): they stand in [`studies/`](studies).
"""
BESIDE = """
Here: mean and standard deviation, over the seeds, of the last evaluation. RL Zoo's standard
deviation is over the episodes of one agent; it compares with the spread within an evaluation, which
is in `evaluations.csv`. On Pendulum the return depends on the start states more than on the policy.
Protocols and versions of the tasks differ, as the last column says.
"""

Groups = dict[str, list[SettingResults]]  # of each study that has results of its own, by its name


def results_page(studies: list[study.Study], groups: Groups) -> str:
    """benchmark/RESULTS.md."""
    parts = ["# Results", INTRODUCTION.strip()]
    reported = [wanted for wanted in studies if wanted.name in groups]
    first = reported[0].name
    parts.append(f"![learning curves of the study {first}]({picture(first, 'learning-curves')})")
    interval = f"its {100 * CONFIDENCE:.0f} % interval (of fewer than {LEAST_RUNS}, each seed)"
    what = f"interquartile mean over the seeds, and {interval}"
    parts.append(f"*The study {first}, noise-free: {what}.*")
    parts += ["## At a glance", at_a_glance(studies, groups)]
    counting = COUNTING.format(
        confidence=f"{100 * CONFIDENCE:.0f}",
        least=LEAST_RUNS,
        coverage=COVERAGE[LEAST_RUNS],
        evaluations=LEAST_EVALUATIONS,
        thresholds=all_thresholds(reported),
    )
    paragraphs = [
        textwrap.fill(part, 100, break_on_hyphens=False) for part in counting.strip().split("\n\n")
    ]
    parts += ["## How results are counted", *paragraphs]
    for wanted in reported:
        parts += section(wanted, groups[wanted.name], is_first=wanted.name == first)
    parts += ["## Beside published numbers", BESIDE.strip(), beside_published(groups)]
    parts += ["## Defined, and not finished yet", not_finished(studies, groups)]
    return as_page(parts)


def all_thresholds(studies: list[study.Study]) -> str:
    """A sentence with the threshold of every task in these studies that has one."""
    found = []
    for wanted in studies:
        for env_id, threshold in wanted.thresholds.items():
            if np.isfinite(threshold):
                number = f"{threshold:,g}".replace("-", "−")
                found.append(f"{number} on {env_id}")
    whose = "Where gymnasium has a `reward_threshold`, it is that. Pendulum has none: −170 is ours."
    return f"Thresholds: {', '.join(unique(found))}. {whose}"


def picture(name: str, kind: str) -> str:
    """The link from benchmark/ to a study's figure."""
    return f"results/{name}/{kind}-two-column.png"


def at_a_glance(studies: list[study.Study], groups: Groups) -> str:
    """The short table of results, in Markdown, by environment; the README has the same lines."""
    rows = []
    for wanted in studies:
        for group in groups.get(wanted.name, []):
            if group.env_id in wanted.at_a_glance:
                row = {"environment": group.env_id}
                row["command"] = f"`{command_of(wanted, group)}`"
                row["seeds solved"] = f"{len(group.seeds)} trained{planned(wanted, group)}"
                if group.has_threshold:
                    solved = group.steps_to_solve().solved
                    row["seeds solved"] = f"{solved.sum()}/{len(solved)}{planned(wanted, group)}"
                    row["at the end"] = f"{group.solved_at_the_end.sum()}/{len(solved)}"
                    row["median step"] = f"{median_step(group)} of {group.length}"
                row["last evaluation: mean ± std"] = mean_and_std(group.last)
                if row not in rows:  # two studies may have the same runs
                    rows.append(row)
    environments = unique([row["environment"] for row in rows])
    rows.sort(key=lambda row: environments.index(row["environment"]))
    return markdown(pd.DataFrame(rows).fillna("–"))


def planned(wanted: study.Study, group: SettingResults) -> str:
    """How many seeds a setting is to have, in brackets; empty if all are finished."""
    of_setting = [
        run for run in wanted.runs if (run.env_id, run.setting) == (group.env_id, group.setting)
    ]
    if len(of_setting) == len(group.seeds):
        return ""
    return f" (of {len(of_setting)} planned)"


def command_of(wanted: study.Study, group: SettingResults) -> str:
    """The script of a setting, with the flags that change the algorithm."""
    for run in wanted.runs:
        if (run.env_id, run.setting) == (group.env_id, group.setting):
            return run.algorithm()
    raise study.StudyError(f"{wanted.name} has no setting {group.setting} in {group.env_id}")


def section(wanted: study.Study, groups: list[SettingResults], is_first: bool) -> list[str]:
    """A study on the page of results. The first one's learning curves stand above it already."""
    kind, text = "learning-curves", "learning curves"
    if is_first and any(group.has_threshold for group in groups):
        kind, text = "steps-to-solve", "share of the seeds that are solved"
    parts = [f"## {wanted.question}", wanted.answer, markdown(summary(groups))]
    parts.append(f"![{text}]({picture(wanted.name, kind)})")
    parts += minutes_section(wanted, groups, BENCHMARK)
    pairs = in_pairs(wanted, groups)
    if pairs is not None:
        parts += [IN_PAIRS, markdown(pairs)]
    together = all_environments_together(groups)
    if together is not None and len(together) > 1:
        parts += [TOGETHER, markdown(together)]
    link = f"[Every seed, hyperparameters, protocol](results/{wanted.name}/report.md)"
    commits = f"commit: {counted([commit(path) for path in all_paths(groups)])}"
    parts.append(f"{link}: {finished_of_all(wanted, groups)}; {commits}.")
    return parts


def beside_published(groups: Groups) -> str:
    """Our last evaluations beside the numbers in published.csv, which name their sources."""
    rows = []
    published = pd.read_csv(BENCHMARK / "published.csv", dtype=str)
    for row in published.to_dict("records"):
        here = "not run yet"
        for group in groups.get(row["study"], []):
            if (group.env_id, group.setting) == (row["environment"], row["setting"]):
                steps = f"{group.total_steps:,} {group.what_steps_are}"
                here = f"{mean_and_std(group.last)}, {steps}, {seed_range(group.seeds)}"
        source = f"{row['protocol']} ([{row['source']}]({row['address']}))"
        rows.append(
            {
                "environment": row["environment"],
                "here": here,
                "published": row["published"],
                "what it is, and where": source,
            }
        )
    return markdown(pd.DataFrame(rows))


def not_finished(studies: list[study.Study], groups: Groups) -> str:
    """The studies of which runs are missing, and the command that trains them."""
    rows = []
    for wanted in studies:
        finished = sum(run.found() is not None for run in wanted.runs)
        if finished == len(wanted.runs):
            continue
        known = "–"
        if wanted.answer:
            known = " ".join(wanted.answer.split())
        if wanted.name in groups:
            known = f"[above](#{anchor(wanted.question)})"
        command = f"`python benchmark/sweep.py {wanted.name}`"
        if wanted.script is None:
            command = f"[by hand](results/{wanted.name}/README.md)"
        row = {"what it asks": wanted.question, "what is known": known, "one command": command}
        rows.append({**row, "runs finished": f"{finished} of {len(wanted.runs)}"})
    if not rows:
        return "Every study is finished."
    return markdown(pd.DataFrame(rows))


def anchor(heading: str) -> str:
    """GitHub's anchor of a heading."""
    words = re.sub(r"[^\w\s-]", "", heading.lower())
    return re.sub(r"\s", "-", words)


def write_all() -> None:
    """Makes the report of every study that has a run of its own, and the page of results."""
    studies = [study.load(name) for name in study.names()]
    groups = {}
    for wanted in studies:
        if any(run.finished() for run in wanted.runs):
            groups[wanted.name] = report(wanted)
    if not groups:
        raise study.StudyError("no run of any study is finished")
    PAGE.write_text(results_page(studies, groups), encoding="utf-8")


# -------------------------------------------------------------------------------- the command line
def read_command_line() -> argparse.Namespace:
    """The study, or --all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "study", nargs="?", help="name of a file in benchmark/studies, or a .toml file"
    )
    parser.add_argument(
        "--results",
        type=study.full_path,
        default=study.RESULTS,
        help="folder of all studies' results",
    )
    parser.add_argument(
        "--all", action="store_true", help="make every study's report and benchmark/RESULTS.md"
    )
    return parser.parse_args()


def main() -> None:
    """Writes one study's report and prints its table, or writes everything."""
    args = read_command_line()
    sys.stdout.reconfigure(encoding="utf-8")
    try:
        if args.all:
            if args.study is not None or args.results != study.RESULTS:
                raise study.StudyError("--all takes neither a study nor --results")
            write_all()
        else:
            if args.study is None:
                raise study.StudyError("give a study, or --all")
            groups = report(study.load(args.study, args.results), args.results)
            print(markdown(summary(groups)))
    except (study.StudyError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
