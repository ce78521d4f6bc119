"""benchmark/report.py: the statistics against numbers worked out by hand, and that they are of the last evaluations."""

import json
import math
import re
import shutil
import sys

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import study
from helpers import pretend, refused

report = pytest.importorskip("report", exc_type=ImportError)  # SciPy is in requirements-dev.txt

STUDY = """
question = "Which is better, 50 % more or less?"
script = "ddpg_continuous.py"
seeds = [0, 1, 2, 3]

[environments.Pendulum-v1]
solved = -170
total-timesteps = 12_000
eval-every = 1_000

[settings.one]
[settings.two]
norm = "none"
tau = 0.001
"""
ONE = {0: (1_000, -160.0), 1: (4_000, -150.0), 2: (9_000, -140.0), 3: (None, -200.0)}  # solved when; last evaluation


# ------------------------------------------------------------------------------------------------------- statistics
@pytest.mark.parametrize(
    ("scores", "expected"),
    (
        ([1, 2, 3, 4, 5, 6, 7, 8], 4.5),  # without 1, 2 and 7, 8
        ([0, 1, 2, 3, 1000], 2),  # a quarter of five, rounded down: one at each end
        ([-1000, 1, 2, 3, 4, 5, 6, 7, 8, 1000], 4.5),  # two at each end
        ([1, 2, 6], 3),  # a quarter of three is none
    ),
)
def test_the_interquartile_mean_by_hand(scores, expected):
    assert report.iqm(np.array(scores, float)) == expected
    assert report.iqm(np.random.default_rng(0).permutation(scores).astype(float)) == expected


def test_the_bootstrap_interval_of_a_mean_by_hand():
    """Of {0, 0, 1} a resample's mean is 0, 1/3, 2/3 or 1 with the probabilities 8, 12, 6 and 1 of 27."""
    low, high = report.interval([np.array([0.0, 0.0, 1.0])], np.mean)
    assert (low, high) == (0, 1)  # 8/27 > 2.5 %; 1/27 > 2.5 %
    low, high = report.interval([np.array([0.0, 0.0, 0.0, 0.0, 1.0])], np.mean)
    assert (low, high) == (0, pytest.approx(0.6))  # 4/5 and more: 21/3125 < 2.5 %; 3/5 and more: 181/3125 > 2.5 %


def test_the_bootstrap_draws_within_each_task():
    """Tasks of 3 ones and 3 zeros: every stratified resample has three of each, its mean is 1/2."""
    assert report.interval([np.ones(3), np.zeros(3)], np.mean) == (0.5, 0.5)
    low, high = report.interval([np.array([1.0, 1, 1, 0, 0, 0])], np.mean)
    assert low < 0.2 < 0.8 < high


def test_the_bootstrap_draws_whole_runs():
    """A curve whose two points always add up to 1 does so in every resample, and so do its bounds."""
    x = np.random.default_rng(1).random(8)
    low, high = report.interval([np.stack([x, 1 - x], axis=1)], np.mean)
    assert low.shape == high.shape == (2,)
    np.testing.assert_allclose(low + high[::-1], 1)


@pytest.mark.parametrize(("runs", "share"), ((3, 0.76), (5, 0.89), (10, 0.93)))
def test_the_bootstrap_covers_the_mean_as_often_as_the_protocol_says(runs, share):
    rng = np.random.default_rng(2)
    bounds = [report.interval([rng.normal(size=runs)]) for _ in range(400)]
    assert np.mean([low < 0 < high for low, high in bounds]) == pytest.approx(share, abs=0.05)
    assert f" {100 * share:.0f}" in report.interval.__doc__


def test_steps_to_solve_by_hand():
    """Solved at 5, lost at 10, solved at 15, lost at 20: the share is 1/4 at 5, and 1 − 3/4 · 1/2 = 5/8 at 15."""
    solving = report.StepsToSolve(np.array([20, 5, 15, 10]), np.array([False, True, True, False]))
    steps, share = solving.share()
    at = {step: share[steps <= step][-1] for step in (0, 4, 5, 14, 15, 20)}
    assert at == pytest.approx({0: 0, 4: 0, 5: 0.25, 14: 0.25, 15: 0.625, 20: 0.625})
    assert solving.median() == 15


def test_the_median_of_steps_to_solve_is_infinite_if_less_than_half_are_solved():
    assert report.StepsToSolve(np.array([5, 9, 9]), np.array([True, False, False])).median() == math.inf
    assert report.StepsToSolve(np.array([5, 9]), np.array([True, False])).median() == 5
    assert report.StepsToSolve(np.array([5, 7, 9]), np.array([True, True, True])).median() == 7
    steps, share = report.StepsToSolve(np.array([9, 9]), np.array([False, False])).share()
    assert (steps.tolist(), share.tolist()) == ([0, 9], [0, 0])


# ---------------------------------------------------------------------------------------------------------- a report
def write(this, solved, last):
    """What a run leaves: from −1000, at or above the threshold at one evaluation and at the last ones as is said."""
    pretend(this)
    steps = np.arange(0, 12_001, 1_000)
    means = np.full(len(steps), -1000.0)
    if solved is not None:
        means[steps == solved] = -170  # the threshold itself counts
    means[-1] = last
    pd.DataFrame({"step": steps, "mean": means, "std": 0.0}).to_csv(this.path / "evaluations.csv", index=False)


@pytest.fixture
def results(tmp_path):
    """Setting one as in ONE, setting two with seeds 0 and 1 alone."""
    (tmp_path / "better.toml").write_text(STUDY)
    for this in study.load(str(tmp_path / "better.toml"), tmp_path / "res").trials:
        if this.setting == "one":
            write(this, *ONE[this.seed])
        elif this.seed < 2:
            write(this, None, -500.0)
    study.finished_runs.cache_clear()
    yield tmp_path / "res"
    study.finished_runs.cache_clear()


@pytest.fixture
def main(monkeypatch, capsys, tmp_path):
    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, flags), "--results", str(tmp_path / "res")])
        capsys.readouterr()
        try:
            status = report.main() or 0
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


def rows(text):
    """The cells of Markdown tables, a list per row."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_the_tables_of_a_report_by_hand(results, main, tmp_path):
    status, out, _ = main(tmp_path / "better.toml")
    assert status == 0
    one, two = rows(out)[2:]
    assert one[:5] == ["Pendulum-v1", "one", "4", "3 of 4 [19, 99 %]", "4,000"]
    assert one[5] == "3 of 4"
    assert one[6].startswith("−155.0 [")  # −160 and −150; −200 and −140 are the outer quarters
    # Last ten evaluations: steps 3,000 to 12,000, nine of −1000 and the last; seeds 1 and 2 once −170
    assert one[7].startswith("−874.0 [")  # seed 0: −916, 1: −832, 2: −831, 3: −920; (−916 − 832) / 2
    assert one[8] == "−162.5 ± 26.3"
    assert two[2:5] == ["2", "0 of 2 [0, 84 %]", "> 12,000"]
    assert two[5] == "0 of 2"
    assert two[8] == "−500.0 ± 0.0"
    text = (results / "better" / "report.md").read_text()
    assert "6 of 8 runs are finished" in text
    seeds = [row for row in rows(text) if row[:2] == ["Pendulum-v1", "one"] and row[2] in "0123" and len(row) == 6]
    assert [row[3] for row in seeds] == ["1,000", "4,000", "9,000", "never"]
    assert [row[4] for row in seeds] == ["−160.0", "−150.0", "−140.0", "−200.0"]


def test_the_best_evaluation_changes_nothing_but_when_a_run_is_solved(results, main, tmp_path):
    before = rows(main(tmp_path / "better.toml")[1])
    file = next(results.glob("better/*/two/seed-0/evaluations.csv"))
    log = pd.read_csv(file)
    log.loc[1, "mean"] = 0.0  # far above all others, at step 1,000
    log.to_csv(file, index=False)
    after = rows(main(tmp_path / "better.toml")[1])
    assert after[2] == before[2]
    assert (after[3][3], after[3][4], after[3][5]) == ("1 of 2 [1, 99 %]", "1,000", "0 of 2")
    assert after[3][6:] == before[3][6:]


def test_all_environments_together_count_from_the_untrained_policy_to_the_threshold(tmp_path):
    def line(env_id, last, threshold):
        frame = pd.DataFrame([[-100.0] * len(last), last], index=[0, 10], columns=range(len(last)))
        return report.Line(env_id, "x", threshold, [*range(len(last))], [], frame)

    table = report.normalised([line("A", [0.0, 0.0], 100.0), line("B", [-100.0, -100.0], 0.0)])
    assert table.to_numpy().tolist() == [["x", "4", "0.25 [0.25, 0.25]"]]  # 0.5, 0.5, 0, 0
    assert report.normalised([line("A", [0.0], 100.0)]) is None


def test_a_panel_shows_at_most_four_lines_of_one_environment():
    def of(env_id, n):
        return [report.Line(env_id, f"setting-{i}", 0.0, [], [], None) for i in range(n)]

    parts = report.panels([*of("A", 9), *of("B", 4), *of("C", 1)])
    assert [[line.setting for line in part] for part in parts[:2]] == [
        ["setting-0", "setting-1", "setting-2"],
        ["setting-3", "setting-4", "setting-5"],
    ]
    assert [(len(part), {line.env_id for line in part}) for part in parts[2:]] == [(3, {"A"}), (4, {"B"}), (1, {"C"})]


def test_a_report_is_the_same_files_every_time(results, main, tmp_path):
    main(tmp_path / "better.toml")
    files = {file.name: file.read_bytes() for file in (results / "better").iterdir() if file.is_file()}
    figures = [f"{kind}-{width}" for kind in ("learning-curves", "steps-to-solve") for width in report.WIDTHS]
    texts = {"report.md", "results.tex", "hyperparameters.tex", "protocol.tex"}
    assert files.keys() == {f"{name}.{suffix}" for name in figures for suffix in ("pdf", "png")} | texts
    main(tmp_path / "better.toml")
    assert {file.name: file.read_bytes() for file in (results / "better").iterdir() if file.is_file()} == files


def test_figures_have_the_width_of_one_and_of_two_columns_and_fonts_that_journals_take(results, main, tmp_path):
    main(tmp_path / "better.toml")
    for width, inches in (("one-column", 3.4), ("two-column", 7.0)):
        pdf = (results / "better" / f"learning-curves-{width}.pdf").read_bytes()
        box = re.search(rb"/MediaBox ?\[ ?0 0 ([\d.]+)", pdf)
        assert float(box[1]) == pytest.approx(72 * inches, abs=1)
        assert b"/Type3" not in pdf
        assert b"/TrueType" in pdf or b"/CIDFontType2" in pdf


def test_every_setting_has_a_colour_and_a_line_of_its_own_that_the_png_shows(results, main, tmp_path):
    main(tmp_path / "better.toml")
    image = matplotlib.image.imread(results / "better" / "learning-curves-two-column.png")[..., :3]
    for color in report.matplotlib.color_sequences["petroff10"][:2]:
        near = np.abs(image - report.matplotlib.colors.to_rgb(color)).max(axis=-1) < 0.02
        assert near.sum() > 50


def test_the_hyperparameters_are_those_of_args_json_and_say_whose_they_are(results, main, tmp_path):
    main(tmp_path / "better.toml")
    table = {row[0]: row[1:] for row in rows((results / "better" / "report.md").read_text()) if len(row) == 3}
    assert table["tau"] == ["0.005 (one); 0.001 (two)", "0.001"]
    assert table["total-timesteps"] == ["12000", "up to 2.5 million"]
    assert table["hidden-sizes"] == ["400 300", "400 300"]
    assert not {"seed", "env-id", "runs-dir", "evaluate"} & table.keys()


def test_the_latex_tables_have_as_many_cells_in_every_row_and_nothing_unescaped(results, main, tmp_path):
    main(tmp_path / "better.toml")
    for name in ("results", "hyperparameters"):
        text = (results / "better" / f"{name}.tex").read_text()
        lines = [line for line in text.splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) == 1
        assert len(lines) >= 3
        assert not re.search(r"(?<!\\)[%#_]|[^\x00-\x7f]", text)
        assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 1
    assert r"50 \% more" in (results / "better" / "results.tex").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    (("a_b & 5 %", r"a\_b \& 5 \%"), ("−3 ± 1", r"$-$3 $\pm$ 1"), ("τ ≥ 2 – x-1", r"$\tau$ $\geq$ 2 -- x-1")),
)
def test_text_becomes_latex(text, expected):
    assert report.tex(text) == expected


def test_the_protocol_says_seeds_steps_versions_hardware_and_what_is_missing(results, main, tmp_path):
    path = next(results.glob("better/*/two/seed-1"))
    (path / "machine.json").write_text(json.dumps({"cpu": "Abacus", "cores": 2}))
    main(tmp_path / "better.toml")
    text = (results / "better" / "protocol.tex").read_text()
    for part in (
        "seeds 0 to 3 or seeds 0, 1",
        "12,000 environment steps in Pendulum-v1",
        "plays 20 episodes",
        "python 3",
    ):
        assert part in text
    assert "not finished: Pendulum-v1 two, seeds 2, 3." in text
    assert "not recorded (runs: 5); Abacus, 2 cores (runs: 1)" in text
    assert "$-$170 (Pendulum-v1)" in text


def test_a_study_without_a_finished_run_or_wrong_flags_are_one_line(results, main, tmp_path):
    refused(main(), "--readme")
    refused(main("better.toml", "--readme"), "--readme")
    shutil.rmtree(results)
    study.finished_runs.cache_clear()
    command = f"sweep.py {tmp_path / 'better.toml'} --results"
    refused(main(tmp_path / "better.toml"), "no run of better is finished", command)


@pytest.mark.parametrize("damage", ("cut", "empty", "other columns", "text", "twice"))
def test_a_damaged_csv_is_one_line_that_names_it(damage, results, main, tmp_path):
    """A row that is missing would make the last evaluation of every seed another one."""
    file = next(results.glob("better/*/one/seed-1/evaluations.csv"))
    log = file.read_text()
    rows = log.splitlines(keepends=True)
    damaged = {"cut": "".join(rows[:5]), "empty": "", "other columns": log.replace("mean", "men")}
    damaged |= {"text": log.replace("-150.0", "x"), "twice": log + rows[-1]}
    file.write_text(damaged[damage])
    refused(main(tmp_path / "better.toml"), str(file), "damaged")


def test_a_study_without_a_threshold_has_a_report_without_what_needs_one(results, main, tmp_path):
    (tmp_path / "better.toml").write_text(STUDY.replace("solved = -170", ""))
    status, out, _ = main(tmp_path / "better.toml")
    assert status == 0
    assert "solved" not in out
    assert not list((results / "better").glob("steps-to-solve-*"))


def test_one_run_has_neither_interval_nor_deviation(results, main, tmp_path):
    for path in results.glob("better/*/*/seed-[1-9]"):
        shutil.rmtree(path)
    study.finished_runs.cache_clear()
    out = main(tmp_path / "better.toml")[1]
    assert rows(out)[2][6:] == ["−160.0", "−916.0", "−160.0"]


# -------------------------------------------------------------------------------------------------------- the README
def test_the_readmes_results_are_those_of_the_committed_csvs():
    """`python benchmark/report.py --readme` would not change a letter of it."""
    text = report.README.read_text(encoding="utf-8").partition(report.MARKS[0])[2].partition(report.MARKS[1])[0]
    studies = [study.load(name) for name in study.names()]
    made = {wanted.name: report.lines(wanted) for wanted in studies if report.has_runs(wanted)}
    assert len(made) >= 7
    assert text.strip() == report.section(studies, made)
    for wanted in (wanted for wanted in studies if wanted.name in made):
        for name, text in report.texts(wanted, made[wanted.name]).items():
            assert (study.RESULTS / wanted.name / name).read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "text", ("no mark", "{1} {0}", "{0} no end", "{0} {1} and again {0} {1}"), ids=lambda text: text[:8]
)
def test_a_readme_without_its_marks_is_left_alone(text, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    report.README.write_text(text.format(*report.MARKS))
    with pytest.raises(study.StudyError, match="once"):
        report.renew_readme("new")
    assert report.README.read_text() == text.format(*report.MARKS)


def test_what_is_around_the_readmes_section_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    report.README.write_text("before\n{} old {}\nafter\n".format(*report.MARKS))
    report.renew_readme("new")
    assert report.README.read_text() == "before\n{}\n\nnew\n\n{}\nafter\n".format(*report.MARKS)
