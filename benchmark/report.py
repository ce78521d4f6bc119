"""Makes a study's figures and tables from the CSVs of its finished runs, and from nothing else.

    python benchmark/report.py normalisation    # into benchmark/results/normalisation
    python benchmark/report.py --readme         # all studies, and the README's section of results

| file | what it holds |
|---|---|
| report.md | all below, with a row for every seed |
| learning-curves-*.pdf, *.png | noise-free evaluations: interquartile mean over the seeds, 95 % bootstrap interval |
| steps-to-solve-*.pdf, *.png | share of the seeds solved by each step: one minus the Kaplan-Meier estimate |
| results.tex, hyperparameters.tex | tables for a paper (booktabs, graphicx) |
| protocol.tex | a paragraph for its appendix: protocol, statistics, versions, hardware |

The figures come in the widths of one and of two columns. What counts is the last evaluation of each run, and the mean
of its last ten: never the best run, nor the best point of a curve. The statistics follow Agarwal et al. 2021
(https://arxiv.org/abs/2108.13264).
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.axes
import matplotlib.ticker
import numpy as np
import pandas as pd
import study
from matplotlib.figure import Figure
from scipy import stats

RESAMPLES, CONFIDENCE = 2_000, 0.95
WIDTHS = {"one-column": (3.4, 1), "two-column": (7.0, 3)}  # inches, panels side by side
LINES = ("-", "--", ":", "-.")
STYLE = {"font.size": 7, "axes.titlesize": 7, "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False}
README = study.ROOT / "README.md"
MARKS = "<!-- results: python benchmark/report.py --readme -->", "<!-- end of results -->"


# ------------------------------------------------------------------------------------------------------- statistics
def iqm(scores: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean: the mean of what is left without the lowest and the highest quarter (rounded down)."""
    return stats.trim_mean(scores, 0.25, axis=axis)


def interval(strata: list[np.ndarray], statistic: Callable = iqm, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Stratified percentile bootstrap: the bounds, (…), of a statistic of runs; strata of (runs, …), one per task.

    Every resample draws, from each task, as many of its runs as it has, with replacement. Of few runs it is too
    narrow: of 3, 5, 10 draws from a normal distribution it covers the mean in about 76, 89, 93 % of cases, by the IQM.
    """
    rng = np.random.default_rng(seed)
    drawn = [x[rng.integers(len(x), size=(RESAMPLES, len(x)))] for x in strata]  # each (resamples, runs, …)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(statistic(np.concatenate(drawn, axis=1), axis=1), [tail, 1 - tail], axis=0)
    return low, high


@dataclass(frozen=True)
class StepsToSolve:
    """How long each run took to its first evaluation at the threshold; or, censored, its length without one."""

    steps: np.ndarray  # (runs,)
    solved: np.ndarray  # (runs,), bool

    def share(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps, and the share of runs solved by then: one minus the Kaplan-Meier estimate."""
        if not self.solved.any():
            return np.array([0, self.steps.max()]), np.zeros(2)
        sample = stats.CensoredData(self.steps[self.solved], right=self.steps[~self.solved])
        cdf = stats.ecdf(sample).cdf
        return np.array([0, *cdf.quantiles]), np.array([0, *cdf.probabilities])

    def median(self) -> float:
        """The first step by which half of the runs are solved; infinite if never within their lengths."""
        steps, share = self.share()
        return float(steps[share >= 0.5 - 1e-9][0]) if share[-1] >= 0.5 - 1e-9 else math.inf


# ---------------------------------------------------------------------------------------------------------- the runs
@dataclass
class Line:
    """All finished runs of a setting in an environment."""

    env_id: str
    setting: str
    threshold: float
    seeds: list[int]
    paths: list[Path]
    evaluations: pd.DataFrame  # mean return, a row per step that all of them evaluated, a column per seed

    @property
    def last(self) -> np.ndarray:
        """The last evaluation of each run, (runs,)."""
        return self.evaluations.iloc[-1].to_numpy()

    @property
    def last_ten(self) -> np.ndarray:
        """The mean of the last ten evaluations of each run, (runs,)."""
        return self.evaluations.iloc[-10:].mean().to_numpy()

    def steps_to_solve(self) -> StepsToSolve:
        reached = (self.evaluations >= self.threshold).to_numpy()
        steps = self.evaluations.index.to_numpy()
        return StepsToSolve(np.where(reached.any(0), steps[reached.argmax(0)], steps[-1]), reached.any(0))


def read(path: Path) -> pd.Series:
    """The mean of every evaluation of a run, by its step; StudyError if the CSV is damaged."""
    try:
        curve = pd.read_csv(path / "evaluations.csv", index_col="step")["mean"].astype(float)
        whole = curve.index.is_monotonic_increasing and curve.index.is_unique and np.isfinite(curve).all()
        if not whole or curve.index[-1] != study.identity(path)[2]["total_timesteps"]:
            raise ValueError("rows are missing, or too many")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise study.StudyError(f"{path / 'evaluations.csv'} is damaged: {error}") from None
    return curve


def lines(wanted: study.Study, results: Path = study.RESULTS) -> list[Line]:
    """The study's runs as far as they are finished; StudyError if none is."""
    found = {trial: trial.found(results) for trial in wanted.trials}
    groups = dict.fromkeys((trial.env_id, trial.setting) for trial in wanted.trials)
    made = []
    for env_id, setting in groups:
        runs = {t.seed: p for t, p in found.items() if (t.env_id, t.setting) == (env_id, setting) and p}
        if runs:
            evaluations = pd.concat([read(path) for path in runs.values()], axis=1, keys=runs)
            made.append(Line(env_id, setting, wanted.solved[env_id], [*runs], [*runs.values()], evaluations))
    if not made:
        where = "" if results == study.RESULTS else f" --results {results}"
        raise study.StudyError(f"no run of {wanted.name} is finished: python benchmark/sweep.py {wanted.given}{where}")
    return made


def missing(wanted: study.Study, made: list[Line]) -> str:
    """The runs that are in no number: not begun, not finished, or failed; empty if there are none."""
    there = {(line.env_id, line.setting): line.seeds for line in made}
    groups: dict[tuple[str, str], list[int]] = {}
    for trial in wanted.trials:
        if trial.seed not in there.get((trial.env_id, trial.setting), []):
            groups.setdefault((trial.env_id, trial.setting), []).append(trial.seed)
    return "; ".join(f"{env_id} {setting}, {counted(seeds)}" for (env_id, setting), seeds in groups.items())


# ----------------------------------------------------------------------------------------------------------- figures
def panels(shown: list[Line]) -> list[list[Line]]:
    """What is drawn in one panel: an environment's lines, or, of more than four, some of them."""
    groups = [[line for line in shown if line.env_id == env_id] for env_id in dict.fromkeys(x.env_id for x in shown)]
    return [list(part) for of in groups for part in np.array_split(np.array(of, object), math.ceil(len(of) / 4))]


def draw(made: list[Line], folder: Path) -> None:
    """Draws both figures, in both widths, as PDF and PNG."""
    settings = list(dict.fromkeys(line.setting for line in made))
    colors = matplotlib.color_sequences["petroff10"]  # made to be told apart by the colour-blind, too
    styles = {x: {"color": colors[i % 10], "ls": LINES[i % 4]} for i, x in enumerate(settings)}
    kinds = {"learning-curves": (curve_panel, panels(made))}
    kinds["steps-to-solve"] = solved_panel, panels([line for line in made if np.isfinite(line.threshold)])
    one_environment = len({line.env_id for line in made}) == 1
    with matplotlib.rc_context(STYLE):
        for kind, (draw_line, parts) in kinds.items():
            for width, (inches, most) in WIDTHS.items() if parts else ():
                columns = min(most, len(parts))
                rows = math.ceil(len(parts) / columns)
                figure = Figure(figsize=(inches, 2.3 * rows + 0.2), layout="constrained")
                grid = figure.subplots(rows, columns, squeeze=False, sharey=one_environment).flat
                for axes, part in zip(grid, parts, strict=False):
                    for line in part:
                        draw_line(axes, line, styles[line.setting])
                    axes.set(title=part[0].env_id, xlabel="environment steps")
                    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
                    axes.locator_params(axis="x", nbins=5)
                if len(settings) > 1:
                    handles = {line.get_label(): line for axes in figure.axes for line in axes.lines}
                    handles = [handles[setting] for setting in settings if setting in handles]
                    figure.legend(
                        handles=handles, loc="outside lower center", ncols=3 if most == 1 else 6, frameon=False
                    )
                for suffix in ("pdf", "png"):
                    date = {"CreationDate": None} if suffix == "pdf" else None  # the same data, the same file
                    figure.savefig(folder / f"{kind}-{width}.{suffix}", dpi=200, metadata=date)


def curve_panel(axes: matplotlib.axes.Axes, line: Line, style: dict) -> None:
    """Interquartile mean and interval of the evaluations."""
    steps, scores = line.evaluations.index, line.evaluations.to_numpy().T
    axes.plot(steps, iqm(scores), **style, lw=1.3, label=line.setting)
    axes.fill_between(steps, *interval([scores]), color=style["color"], alpha=0.2, lw=0)
    axes.set_ylabel("return without noise")
    if np.isfinite(line.threshold):
        axes.axhline(line.threshold, color="0.5", lw=0.6, ls=(0, (1, 2)))


def solved_panel(axes: matplotlib.axes.Axes, line: Line, style: dict) -> None:
    """Share of the runs solved by each step."""
    steps, share = line.steps_to_solve().share()
    axes.step([*steps, line.evaluations.index[-1]], [*share, share[-1]], where="post", **style, label=line.setting)
    axes.set(ylim=(-0.03, 1.03), ylabel=f"share of seeds at {line.threshold:g}")


# ------------------------------------------------------------------------------------------------------------ tables
def summary(made: list[Line]) -> pd.DataFrame:
    """A row per environment and setting, as text."""
    rows = []
    for line in made:
        solving, n = line.steps_to_solve(), len(line.seeds)
        row = {"environment": line.env_id, "setting": line.setting, "seeds": str(n)}
        if np.isfinite(line.threshold):
            low, high = stats.binomtest(int(solving.solved.sum()), n).proportion_ci(CONFIDENCE)
            row["solved"] = f"{solving.solved.sum()} of {n} [{100 * low:.0f}, {100 * high:.0f} %]"
            median = solving.median()
            row["median step"] = f"{median:,.0f}" if np.isfinite(median) else f"> {line.evaluations.index[-1]:,}"
            row["solved at the end"] = f"{(line.last >= line.threshold).sum()} of {n}"
        for name, scores in (("last evaluation", line.last), ("mean of the last ten", line.last_ten)):
            row[f"{name}: IQM"] = number_with_interval(scores)
        row["last evaluation: mean ± std"] = mean_and_std(line.last)
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def number_with_interval(scores: np.ndarray) -> str:
    if len(scores) < 2:
        return digits(iqm(scores))
    low, high = interval([scores])
    return f"{digits(iqm(scores))} [{digits(low)}, {digits(high)}]"


def mean_and_std(scores: np.ndarray) -> str:
    """As others report it; the standard deviation is the sample's, and none of one run."""
    return digits(scores.mean()) + (f" ± {digits(scores.std(ddof=1))}" if len(scores) > 1 else "")


def digits(value: float) -> str:
    """One decimal below a thousand."""
    return (f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}").replace("-", "−")


def normalised(made: list[Line]) -> pd.DataFrame | None:
    """All environments together, a row per setting: 0 = untrained, 1 = the threshold; None if there is but one.

    Left out are settings that have not as many finished runs in every environment.
    """
    env_ids = list(dict.fromkeys(line.env_id for line in made if np.isfinite(line.threshold)))
    if len(env_ids) < 2:
        return None
    untrained = {x: np.mean([line.evaluations.loc[0].mean() for line in made if line.env_id == x]) for x in env_ids}
    rows = []
    for setting in dict.fromkeys(line.setting for line in made):
        of = [line for line in made if line.setting == setting and line.env_id in env_ids]
        if len(of) == len(env_ids) and len({len(line.seeds) for line in of}) == 1:  # each task counts as much
            scores = [(x.last - untrained[x.env_id]) / (x.threshold - untrained[x.env_id]) for x in of]
            low, high = interval(scores)
            value = f"{iqm(np.concatenate(scores)):.2f} [{low:.2f}, {high:.2f}]"
            rows.append(
                {"setting": setting, "runs": str(sum(map(len, scores))), "normalised last evaluation: IQM": value}
            )
    return pd.DataFrame(rows) if rows else None


def per_seed(made: list[Line]) -> pd.DataFrame:
    """A row per run, as text."""
    rows = []
    for line in made:
        solving = line.steps_to_solve()
        for i, seed in enumerate(line.seeds):
            row = {"environment": line.env_id, "setting": line.setting, "seed": str(seed)}
            if np.isfinite(line.threshold):
                row["solved at step"] = f"{solving.steps[i]:,}" if solving.solved[i] else "never"
            row |= {"last evaluation": digits(line.last[i]), "mean of the last ten": digits(line.last_ten[i])}
            rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def hyperparameters(wanted: study.Study, made: list[Line]) -> pd.DataFrame:
    """What the runs' args.json say of every argument that decides the numbers, beside the paper's value."""
    known, rows = study.arguments(wanted.script), []
    runs = [(line, study.identity(path)[2]) for line in made for path in line.paths]
    for name in (name for name in known if name not in study.BOOKKEEPING | {"env_id", "seed"}):
        values: dict[str, dict] = {}  # each with the environments and settings that have it
        for line, args in runs:
            value = " ".join(map(str, args[name])) if isinstance(args[name], list) else str(args[name])
            values.setdefault(value, {})[line.env_id, line.setting] = None
        paper = re.search(r"paper: ([^;)]+)", known[name][1])
        value = "; ".join(f"{x} ({whose(who, made)})" if len(values) > 1 else x for x, who in values.items())
        rows.append({"hyperparameter": name.replace("_", "-"), "value": value, "paper": paper[1] if paper else ""})
    return pd.DataFrame(rows)


def whose(who: dict, made: list[Line]) -> str:
    """Names some environments and settings of a study as shortly as can be."""
    env_ids, settings = (dict.fromkeys(x[i] for x in who) for i in (0, 1))
    everywhere = {(line.env_id, line.setting) for line in made}
    if {x for x in everywhere if x[0] in env_ids} == set(who):
        return ", ".join(env_ids)
    if {x for x in everywhere if x[1] in settings} == set(who):
        return ", ".join(settings)
    return ", ".join(" ".join(x) for x in who)


def markdown(table: pd.DataFrame) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def latex(table: pd.DataFrame, caption: str, form: str = "") -> str:
    """A table as wide as the page (booktabs, graphicx); every text is escaped. `form`: its columns, in LaTeX."""
    table, form = table.map(tex).rename(columns=tex), form or "l" * len(table.columns)
    text = table.to_latex(index=False, escape=False, column_format=form, caption=tex(caption), position="t")
    text = re.sub(r"\\(begin|end){table}", r"\\\1{table*}", text)
    text = text.replace(r"\begin{tabular}", "\\resizebox{\\textwidth}{!}{\\begin{tabular}")
    return text.replace(r"\end{tabular}", r"\end{tabular}}")


SIGNS = {"±": r"\pm", "γ": r"\gamma", "τ": r"\tau", "σ": r"\sigma", "θ": r"\theta", "μ": r"\mu", "ε": r"\epsilon"}
SIGNS |= {"α": r"\alpha", "≥": r"\geq", "≤": r"\leq", "√": r"\surd", "∇": r"\nabla", "×": r"\times", "<": "<", ">": ">"}


def tex(text: str) -> str:
    """Text as LaTeX has it; what it has no sign for becomes a question mark."""
    text = text.replace("\\", "/").replace("−", "-").replace("–", "--").replace("’", "'")
    text = re.sub(r"([&%$#_{}])", r"\\\1", text).replace("~", " ").replace("^", r"\textasciicircum{}")
    text = re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)
    for sign, command in SIGNS.items():
        text = text.replace(sign, f"${command}$")
    return text.encode("ascii", "replace").decode()


# ------------------------------------------------------------------------------------------------------------- texts
def protocol(wanted: study.Study, made: list[Line]) -> str:
    """The paragraph for an appendix."""
    args = [(line, study.identity(path)[2]) for line in made for path in line.paths]
    same = dict.fromkeys(
        f"{a['total_timesteps']:,} environment steps in {line.env_id}, evaluated every {a['eval_every']:,}"
        for line, a in args
    )
    episodes = " or ".join(dict.fromkeys(str(a["eval_episodes"]) for _, a in args))
    threads = " or ".join(dict.fromkeys(str(a.get("num_threads", 1)) for _, a in args))
    devices = " or ".join(dict.fromkeys(str(a.get("device", "cpu")) for _, a in args))
    thresholds = ", ".join(f"{x:g} ({env_id})" for env_id, x in wanted.solved.items() if np.isfinite(x))
    seeds = " or ".join(dict.fromkeys(counted(line.seeds) for line in made))
    parts = [
        f"All runs are of {wanted.script}, with the hyperparameters of the table, {seeds}, {'; '.join(same)}; "
        f"device {devices}, CPU threads per run {threads}.",
        f"An evaluation plays {episodes} episodes without exploration in an environment of its own, which does not "
        "change training. Its start states are the environment's of the seeds 1,000,000 + s, 1,000,001 + s and so on, "
        "s being the run's seed: the same ones at every evaluation of a run, and in every setting, but shifted by one "
        "from seed to seed. So the evaluations of neighbouring seeds have most start states in common, and intervals "
        "over seeds do not cover the choice of start states; settings are to be compared on the same seeds.",
        "Curves are interquartile means (IQM) over the seeds, which of three seeds is their mean, with 95 % intervals "
        f"by {RESAMPLES:,} percentile bootstrap resamples of the runs, stratified by environment where several are "
        "taken together (Agarwal et al. 2021). Of few runs they are too narrow: of 3, 5, 10 runs they cover about "
        "76, 89, 93 % in simulations with normal data. The interval of a share of seeds is Clopper and Pearson's.",
    ]
    if thresholds:
        parts.append(
            f"A run counts as solved from its first evaluation on whose mean reaches {thresholds}; it may fall below "
            "it again, so how many are at it at the end is given, too. The steps to it are right-censored at the end "
            "of training; their median is Kaplan and Meier's."
        )
    parts.append(
        "Returns are those of the last evaluation of every run and the mean of its last ten, never of the best run or "
        "the best evaluation."
    )
    left = missing(wanted, made)
    parts.append(f"In no number are the runs that are not finished: {left}." if left else "No run was left out.")
    parts.append(f"Software: {versions(made)}. Hardware: {hardware(made)}.")
    return " ".join(parts)


def counted(seeds: list[int]) -> str:
    """0, 1, 2, 3 as seeds 0 to 3."""
    whole = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    numbers = f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {numbers}"


def versions(made: list[Line]) -> str:
    """Of the libraries, from args.json."""
    found: dict[str, dict] = {}
    for path in (path for line in made for path in line.paths):
        for name, version in study.load_json(path / "args.json")["versions"].items():
            found.setdefault(name, {})[version.split()[0]] = None
    return ", ".join(f"{name} {' and '.join(numbers)}" for name, numbers in found.items())


def hardware(made: list[Line]) -> str:
    """From machine.json, which the sweep writes."""
    found: dict[str, int] = {}
    for path in (path for line in made for path in line.paths):
        file, name = path / "machine.json", "not recorded"
        if file.exists():
            machine = study.load_json(file)
            name = f"{machine.get('cpu')}, {machine.get('cores')} cores"
        found[name] = found.get(name, 0) + 1
    return "; ".join(f"{name} (runs: {n})" for name, n in found.items())


def texts(wanted: study.Study, made: list[Line]) -> dict[str, str]:
    """All of a report but the figures: texts by the names of their files."""
    table, together, settings = summary(made), normalised(made), hyperparameters(wanted, made)
    short = {"last evaluation: IQM": "last (IQM)", "mean of the last ten: IQM": "last ten (IQM)"}
    short |= {"last evaluation: mean ± std": "last (mean ± std)", "solved at the end": "at the end"}
    parts = [f"# {wanted.question}", wanted.answer]
    parts += [f"`python benchmark/sweep.py {wanted.name}`: {state(wanted, made)}.", markdown(table)]
    parts.append("![learning curves](learning-curves-two-column.png)")
    if any(np.isfinite(line.threshold) for line in made):
        parts.append("![share of the seeds that are solved](steps-to-solve-two-column.png)")
    if together is not None:
        parts += [TOGETHER, markdown(together)]
    parts += ["## Every seed", markdown(per_seed(made)), "## Hyperparameters", markdown(settings)]
    parts += ["## Protocol", protocol(wanted, made)]
    return {
        "report.md": "\n\n".join(part for part in parts if part) + "\n",
        "results.tex": latex(table.rename(columns=short), wanted.question),
        "hyperparameters.tex": latex(settings, f"Hyperparameters of {wanted.script}", r"lp{0.6\textwidth}l"),
        "protocol.tex": tex(protocol(wanted, made)) + "\n",
    }


TOGETHER = (
    "All environments together (0: the untrained policy, 1: the threshold; the IQM leaves out a quarter at each end):"
)


def report(wanted: study.Study, results: Path = study.RESULTS) -> list[Line]:
    """Writes all files of a study's report."""
    made = lines(wanted, results)
    folder = results / wanted.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts(wanted, made).items():
        (folder / name).write_text(text, encoding="utf-8")
    draw(made, folder)
    return made


def state(wanted: study.Study, made: list[Line]) -> str:
    return f"{sum(len(line.seeds) for line in made)} of {len(wanted.trials)} runs are finished"


# ------------------------------------------------------------------------------------------------------- the README
def beside_published(made: dict[str, list[Line]]) -> str:
    """Our last evaluations beside the numbers in published.csv, which name their sources."""
    rows = []
    for row in pd.read_csv(study.ROOT / "benchmark" / "published.csv", dtype=str).to_dict("records"):
        of = [x for x in made.get(row["study"], []) if (x.env_id, x.setting) == (row["environment"], row["setting"])]
        ours = "not run yet"
        for line in of:
            steps = line.evaluations.index[-1]
            ours = f"{mean_and_std(line.last)}, {steps:,} steps, {counted(line.seeds)}"
        rows.append({"environment": row["environment"], "here": ours, "published": row["published"]})
        rows[-1]["what it is, and where"] = f"{row['protocol']} ([{row['source']}]({row['address']}))"
    return markdown(pd.DataFrame(rows))


BESIDE = (
    "Here: mean and standard deviation, over the seeds, of the last evaluation. RL Zoo's standard deviation is over "
    "the episodes of one agent, so it compares with the spread within an evaluation, which is in `evaluations.csv`."
)


def has_runs(wanted: study.Study) -> bool:
    """Whether a study has a finished run that no other study has."""
    return any(trial.finished() for trial in wanted.trials)


def section(studies: list[study.Study], made: dict[str, list[Line]]) -> str:
    """The README's section of results."""
    parts = []
    for wanted in (wanted for wanted in studies if wanted.name in made):
        where = f"benchmark/results/{wanted.name}"
        parts += [f"### {wanted.question}", wanted.answer, markdown(summary(made[wanted.name]))]
        parts.append(f"![learning curves]({where}/learning-curves-two-column.png)")
        if (together := normalised(made[wanted.name])) is not None and len(together) > 1:
            parts += [TOGETHER, markdown(together)]
        parts.append(f"[Every seed, hyperparameters, protocol]({where}/report.md): {state(wanted, made[wanted.name])}.")
    parts += ["### Beside published numbers", BESIDE, beside_published(made)]
    rows = []
    for wanted in studies:
        finished = sum(trial.found() is not None for trial in wanted.trials)
        if finished < len(wanted.trials):
            command = f"`python benchmark/sweep.py {wanted.name}`"
            runs = f"{finished} of {len(wanted.trials)}"
            rows.append({"what it asks": wanted.question, "one command": command, "runs finished": runs})
    if rows:
        parts += ["### Defined, and not finished yet", markdown(pd.DataFrame(rows))]
    return "\n\n".join(part for part in parts if part)


def renew_readme(text: str) -> None:
    """Puts the section of results between its marks; StudyError if they are not there."""
    old = README.read_text(encoding="utf-8")
    if [old.count(mark) for mark in MARKS] != [1, 1] or old.index(MARKS[0]) > old.index(MARKS[1]):
        raise study.StudyError(f"{README} needs these two lines, once: {MARKS[0]} and {MARKS[1]}")
    before, after = old.split(MARKS[0])[0], old.split(MARKS[1])[1]
    (new := README.with_name("README.md.new")).write_text(
        f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8"
    )
    os.replace(new, README)


def main() -> None:
    """Reads the command line and writes the reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", help="name of a file in benchmark/studies, or a .toml file")
    parser.add_argument("--results", type=Path, default=study.RESULTS, help="folder of all studies' results")
    parser.add_argument("--readme", action="store_true", help="make all reports, and the README's section of results")
    args = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8")
    try:
        if args.readme == bool(args.study) or (args.readme and args.results != study.RESULTS):
            raise study.StudyError("give either a study, or --readme alone")
        if not args.readme:
            made = report(study.load(args.study, args.results), args.results)
            print(markdown(summary(made)))
            return
        studies = [study.load(name) for name in study.names()]
        made = {}
        for wanted in studies:
            if has_runs(wanted):
                made[wanted.name] = report(wanted)
        renew_readme(section(studies, made))
    except (study.StudyError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
