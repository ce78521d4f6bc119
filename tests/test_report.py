"""benchmark/report.py: statistics worked out by hand; the numbers are those of the CSVs."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import pretend, refused

pytest.importorskip("scipy")  # it is in requirements-dev.txt

import matplotlib
import matplotlib.image
import pandas as pd
import report
import study

STUDY = """
question = "Which is better, 50 % more or less?"
script = "ddpg_continuous.py"
seeds = [0, 1, 2, 3]

[environments.Pendulum-v1]
solved = -170
total-timesteps = 12_000
eval-every = 500

[settings.one]
[settings.two]
norm = "none"
tau = 0.001
"""
# Of setting one, by seed: the step at which it is solved, and its last evaluation
SOLVED_AND_LAST = {0: (1_000, -160.0), 1: (4_000, -150.0), 2: (9_000, -140.0), 3: (None, -200.0)}

PEERS = """
question = "Which library lands first?"
peers = true
seeds = [0, 1]
at-a-glance = ["Pendulum-v1"]

[environments.Pendulum-v1]
solved = -170
total-timesteps = 12_000
eval-every = 500
eval-episodes = 20

[settings.sb3-td3]
[settings.cleanrl]
[settings.here]
script = "ddpg_continuous.py"
"""


# -------------------------------------------------------------------------------------- statistics
@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], 4.5),  # without 1, 2 and 7, 8
        ([0, 1, 2, 3, 1000], 2),  # a quarter of five, rounded down: one at each end
        ([-1000, 1, 2, 3, 4, 5, 6, 7, 8, 1000], 4.5),  # two at each end
        ([1, 2, 6], 3),  # a quarter of three is none
    ],
)
def test_the_interquartile_mean_by_hand(scores, expected):
    shuffled = np.random.default_rng(0).permutation(scores)
    assert report.iqm(np.array(scores, float)) == expected
    assert report.iqm(shuffled.astype(float)) == expected


def test_the_bootstrap_interval_of_a_mean_by_hand():
    """Of {0, 0, 1} a resample's mean is 0, 1/3, 2/3, 1 with probabilities of 8, 12, 6, 1 in 27."""
    low, high = report.bootstrap_interval([np.array([0.0, 0.0, 1.0])], np.mean)
    assert low == 0  # 8/27 > 2.5 %
    assert high == 1  # 1/27 > 2.5 %
    low, high = report.bootstrap_interval([np.array([0.0, 0.0, 0.0, 0.0, 1.0])], np.mean)
    assert low == 0
    # 4/5 and more: 21/3125 < 2.5 %; 3/5 and more: 181/3125 > 2.5 %
    assert high == pytest.approx(0.6)


def test_the_bootstrap_draws_within_each_task():
    """Of a task of ones and a task of zeros every resample has three each: its mean is 1/2."""
    assert report.bootstrap_interval([np.ones(3), np.zeros(3)], np.mean) == (0.5, 0.5)
    one_task = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    low, high = report.bootstrap_interval([one_task], np.mean)
    assert low < 0.2
    assert high > 0.8


def test_the_bootstrap_draws_whole_runs():
    """A curve whose two points always add up to 1 does so in every resample: so do its bounds."""
    x = np.random.default_rng(1).random(8)
    low, high = report.bootstrap_interval([np.stack([x, 1 - x], axis=1)], np.mean)
    assert low.shape == high.shape == (2,)
    np.testing.assert_allclose(low + high[::-1], 1)


@pytest.mark.parametrize("runs", report.COVERAGE)
def test_the_bootstrap_covers_the_mean_as_often_as_the_protocol_says(runs):
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(400):
        low, high = report.bootstrap_interval([rng.normal(size=runs)])
        covered.append(low < 0 < high)
    assert 100 * np.mean(covered) == pytest.approx(report.COVERAGE[runs], abs=5)


def test_steps_to_solve_by_hand():
    solving = report.StepsToSolve(np.array([math.inf, 5, 15, 5, math.inf]))
    steps, share = solving.share()
    assert steps.tolist() == [0, 5, 15]
    assert share.tolist() == [0, 0.4, 0.6]
    assert solving.solved.tolist() == [False, True, True, True, False]
    assert solving.median() == 15


@pytest.mark.parametrize(
    ("steps", "median"),
    [
        ([5, 7, 9], 7),
        ([5, 9], 7),
        ([5, math.inf], math.inf),  # one of the two in the middle is never solved
        ([5, 7, 9, math.inf], 8),
        ([math.inf, math.inf], math.inf),
    ],
)
def test_the_median_counts_a_seed_that_is_never_solved_as_later_than_all_others(steps, median):
    assert report.StepsToSolve(np.array(steps)).median() == median


def test_where_no_run_is_solved_the_share_is_zero():
    steps, share = report.StepsToSolve(np.array([math.inf, math.inf])).share()
    assert steps.tolist() == [0]
    assert share.tolist() == [0]


# ------------------------------------------------------------------------------- what a run leaves
def write_evaluations(path, solved, last):
    """Means of −1000, but for the threshold itself at one step, and for the last."""
    steps = np.arange(0, 12_001, 500)
    means = np.full(len(steps), -1000.0)
    means[steps == solved] = -170
    means[-1] = last
    log = pd.DataFrame({"step": steps, "mean": means, "std": 0.0})
    log.to_csv(path / "evaluations.csv", index=False)


def write_peer_run(run, last):
    """What another library's run leaves."""
    run.path.mkdir(parents=True)
    args = {"total_timesteps": 12_000, "eval_every": 500, "eval_episodes": 20, "seed": run.seed}
    args["action_noise"] = {"noise_type": "normal", "noise_std": 0.1}
    content = {"script": run.setting, "args": args, "versions": {"python": "3"}}
    content |= {"source": f"{run.setting} at commit 1", "notes": "Its defaults."}
    summary = {"steps": 12_000, "final_evaluation": {"step": 12_000}}
    (run.path / "args.json").write_text(json.dumps(content))
    (run.path / "summary.json").write_text(json.dumps(summary))
    write_evaluations(run.path, solved=None, last=last)


@pytest.fixture
def results(tmp_path):
    """A folder of results: of setting one all seeds, of setting two seeds 0 and 1."""
    (tmp_path / "better.toml").write_text(STUDY)
    for run in study.load(str(tmp_path / "better.toml"), tmp_path / "res").runs:
        solved, last = None, -500.0
        if run.setting == "one":
            solved, last = SOLVED_AND_LAST[run.seed]
        if run.setting == "one" or run.seed < 2:
            pretend(run)
            write_evaluations(run.path, solved, last)
    study.finished_runs.cache_clear()
    yield tmp_path / "res"
    study.finished_runs.cache_clear()


@pytest.fixture
def peers(results, tmp_path):
    """A study of two other libraries, of one of which one seed is missing."""
    file = tmp_path / "peers.toml"
    file.write_text(PEERS)
    for run in study.load(str(file), results).runs:
        if run.setting != "here" and (run.setting, run.seed) != ("cleanrl", 1):
            write_peer_run(run, last=-100.0 * (run.seed + 1))
    return file


@pytest.fixture
def main(run_main, tmp_path):
    """Runs the command line in this process: exit status, stdout, stderr."""
    return lambda *flags: run_main(report.main, *flags, "--results", tmp_path / "res")


@pytest.fixture
def main_without_figures(main, monkeypatch):
    monkeypatch.setattr(report, "draw_figures", lambda groups, folder: None)
    return main


def cells(text):
    """The cells of Markdown tables, a list for each row."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def every_seed(text):
    """The rows of a report's table of seeds, by setting and seed."""
    table = text.partition("## Every seed")[2].partition("##")[0]
    return {(row[1], row[2]): row for row in cells(table)[2:]}


# ---------------------------------------------------------------------------------------- a report
def test_the_tables_of_a_report_by_hand(results, main_without_figures, tmp_path):
    status, out, _ = main_without_figures(tmp_path / "better.toml")
    assert status == 0
    one, two = cells(out)[2:]
    assert one[:5] == ["Pendulum-v1", "one", "4", "3 of 4 [19, 99 %]", "6,500"]
    assert one[5] == "3 of 4"
    assert one[6] == "−155.0"  # −160 and −150; −200 and −140 are the outer quarters
    # The last ten are steps 7,500 to 12,000: nine of −1000 and the last one; −170 once for seed 2.
    # So −916, −915, −831, −920, and without the outer quarters (−916 − 915) / 2.
    assert one[7] == "−915.5"
    assert one[8] == "−162.5 ± 26.3"
    assert two[2:6] == ["2", "0 of 2 [0, 84 %]", "> 12,000", "0 of 2"]
    assert two[8] == "−500.0 ± 0.0"

    text = (results / "better" / "report.md").read_text()
    assert "6 of 8 runs are finished" in text
    seeds = every_seed(text)
    solved = [seeds["one", seed][3] for seed in "0123"]
    assert solved == ["1,000", "4,000", "9,000", "never"]
    last = [seeds["one", seed][4] for seed in "0123"]
    assert last == ["−160.0", "−150.0", "−140.0", "−200.0"]


def test_the_best_evaluation_changes_nothing_but_when_a_run_is_solved(
    results, main_without_figures, tmp_path
):
    before = cells(main_without_figures(tmp_path / "better.toml")[1])
    file = next(results.glob("better/*/two/seed-0/evaluations.csv"))
    log = pd.read_csv(file)
    log.loc[1, "mean"] = 0.0  # far above all others, at step 500
    log.to_csv(file, index=False)
    after = cells(main_without_figures(tmp_path / "better.toml")[1])
    assert after[2] == before[2]
    assert after[3][3:6] == ["1 of 2 [1, 99 %]", "> 12,000", "0 of 2"]
    assert after[3][6:] == before[3][6:]


def setting_results(env_id, setting="x", last=(0.0,), threshold=0.0, first_seed=0):
    """Runs that begin at −100."""
    seeds = list(range(first_seed, first_seed + len(last)))
    evaluations = pd.DataFrame([[-100.0] * len(last), list(last)], index=[0, 10], columns=seeds)
    return report.SettingResults(env_id, setting, threshold, seeds, [], evaluations)


def test_an_interval_needs_five_runs():
    assert report.iqm_with_interval(np.array([1.0, 1.0, 4.0, 4.0])) == "2.5"
    assert report.iqm_with_interval(np.full(5, 3.0)) == "3.0 [3.0, 3.0]"


def test_all_environments_together_count_from_the_untrained_policy_to_the_threshold():
    half = setting_results("A", last=[0.0] * 5, threshold=100.0, first_seed=1)
    nothing = setting_results("B", last=[900.0] + [-100.0] * 4)
    assert report.all_environments_together([half, nothing]) is None  # four in common
    nothing = setting_results("B", last=[900.0] + [-100.0] * 5)  # seed 0 is left out
    table = report.all_environments_together([half, nothing])
    assert table.to_numpy().tolist() == [["x", "5", "0.25 [0.25, 0.25]"]]  # five of 0.5, five of 0
    assert report.all_environments_together([half]) is None


def test_settings_are_compared_seed_by_seed():
    """Seeds 1 to 5 are common. Each is better by 10; three reach 0 with both."""
    first = setting_results("A", "one", last=[700.0, -20.0, -30.0, 0.0, 5.0, 10.0])
    other = setting_results("A", "two", last=[-10.0, -20.0, 10.0, 15.0, 20.0, 700.0], first_seed=1)
    row = in_pairs([first, other]).iloc[0].to_list()
    same_step = "two 0, one 0"
    assert row == ["A", "two − one", "5", "3", "two 0, one 0", same_step, "10.0 [10.0, 10.0]"]
    row = in_pairs([other, first]).iloc[0].to_list()
    assert row[:5] == ["A", "one − two", "5", "3", "one 0, two 0"]
    assert row[6] == "−10.0 [−10.0, −10.0]"
    worse = setting_results("A", "two", last=[700.0, -20.0, -30.0, -5.0, 6.0, 5.0])
    row = in_pairs([first, worse]).iloc[0].to_list()
    assert row[2:5] == ["6", "3", "two 0, one 1"]
    # 0, 0, 0, −5, 1, −5: mean −1.5, standard error 1.118, and 2.571 of these
    assert row[6] == "−1.5 [−4.4, 1.4]"


def solved_at(setting, steps, first_seed=0):
    """Runs that are solved at these steps, of 10, 20, 30 and 40; None: never."""
    curves = {}
    for seed, solved in enumerate(steps, start=first_seed):
        curves[seed] = [0.0 if step == solved else -1.0 for step in (0, 10, 20, 30, 40)]
    evaluations = pd.DataFrame(curves, index=[0, 10, 20, 30, 40])
    return report.SettingResults("A", setting, 0.0, list(curves), [], evaluations)


def test_which_setting_was_solved_earlier_is_counted_seed_by_seed():
    """Seeds 1 to 8 are common; on one both are as early, on one neither is ever solved."""
    first = solved_at("one", [10, 30, 40, None, 20, 30, 20, None, 40])
    other = solved_at("two", [20, 10, 30, 20, 20, 40, None, 30, 10], first_seed=1)
    assert in_pairs([first, other])["solved earlier"].to_list() == ["two 5, one 1 (p = 0.22)"]
    never = solved_at("two", [None] * 9)
    assert in_pairs([never, first])["solved earlier"].to_list() == ["one 7, two 0 (p = 0.016)"]
    twelve = in_pairs([solved_at("one", [20] * 12), solved_at("two", [10] * 12)])
    assert twelve["solved earlier"].to_list() == ["two 12, one 0 (p < 0.001)"]
    assert in_pairs([first, solved_at("same", [10, 30, 40, None, 20, 30, 20, None, 40])])[
        "solved earlier"
    ].to_list() == ["same 0, one 0"]


@pytest.mark.parametrize(
    ("value", "text"), [(-0.04, "0.0"), (999.97, "1,000"), (-12.34, "−12.3"), (-1234.51, "−1,235")]
)
def test_numbers_have_one_decimal_and_none_from_a_thousand_on(value, text):
    assert report.digits(value) == text


def in_pairs(groups, settings=None):
    """report.in_pairs of a study with these settings; by default with those that are finished."""
    if settings is None:
        settings = [group.setting for group in groups]
    runs = [study.PeerRun("A", setting, 0, {}, Path(setting)) for setting in settings]
    return report.in_pairs(dataclasses.replace(study.load("classic"), runs=runs), groups)


def test_few_seeds_or_many_settings_are_not_compared():
    few = [setting_results("A", setting, last=[0.0] * 4) for setting in "ab"]
    assert in_pairs(few) is None
    many = [setting_results("A", setting, last=[0.0] * 5) for setting in "abcdef"]
    assert in_pairs(many) is None
    assert len(in_pairs(many[:5])) == 4


def test_a_setting_is_not_compared_where_the_first_one_is_missing():
    a = [setting_results("A", setting, last=[0.0] * 5) for setting in "bc"]
    b = [setting_results("B", setting, last=[0.0] * 5) for setting in "ab"]
    assert in_pairs([*a, *b], settings="abc")["environment"].to_list() == ["B"]


@pytest.mark.parametrize("runs", [2, 5, 20])
def test_the_interval_of_a_mean_covers_it(runs):
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(2_000):
        low, high = report.mean_interval(rng.normal(size=runs))
        covered.append(low < 0 < high)
    assert np.mean(covered) == pytest.approx(report.CONFIDENCE, abs=0.02)  # 4 standard errors


def test_a_panel_shows_at_most_four_settings_of_one_environment():
    groups = []
    for env_id, number in [("A", 9), ("B", 4), ("C", 1)]:
        groups += [setting_results(env_id, setting=str(i)) for i in range(number)]
    panels = report.split_into_panels(groups)
    shown = ["".join([group.env_id + group.setting for group in panel]) for panel in panels]
    assert shown == ["A0A1A2", "A3A4A5", "A6A7A8", "B0B1B2B3", "C0"]


def test_the_hyperparameters_are_those_of_args_json_and_say_whose_they_are(
    results, main_without_figures, tmp_path
):
    main_without_figures(tmp_path / "better.toml")
    text = (results / "better" / "report.md").read_text()
    table = {row[0]: row[1:] for row in cells(text) if len(row) == 3}
    assert table["tau"] == ["0.03 (one); 0.001 (two)", "0.001"]
    assert table["total-timesteps"] == ["12000", "up to 2.5 million"]
    assert table["hidden-sizes"] == ["400 300", "400 300"]
    assert not {"seed", "env-id", "runs-dir", "evaluate", "matmul-precision"} & table.keys()


def test_the_protocol_says_seeds_steps_versions_hardware_and_what_is_missing(
    results, main_without_figures, tmp_path
):
    path = next(results.glob("better/*/two/seed-1"))
    (path / "machine.json").write_text(json.dumps({"cpu": "Abacus", "cores": 2}))
    args = json.loads((path / "args.json").read_text())
    args["resumed"] = [{"step": 0, "versions": {"python": "4", "torch": "2"}}]
    (path / "args.json").write_text(json.dumps(args))
    shutil.copytree(path, path.with_name("seed-3"))  # it has begun
    (path.with_name("seed-3") / "summary.json").unlink()
    main_without_figures(tmp_path / "better.toml")
    assert (
        "6 of 8 runs are finished; begun, and failed or not ended yet: 1."
        in (results / "better" / "report.md").read_text()
    )
    text = " ".join((results / "better" / "protocol.tex").read_text().split())
    for part in [
        "Pendulum-v1: 12,000 environment steps, evaluated every 500, seeds 0 to 3.",
        "Pendulum-v1: 12,000 environment steps, evaluated every 500, seeds 0, 1.",
        "plays 20 episodes",
        "not finished: Pendulum-v1 two, seeds 2, 3. Of these have begun, and failed or not ended "
        "yet: Pendulum-v1 two, seed 3.",
        "CPU threads per run: 1. Device: cpu.",
        "Software: python 3 and 4, torch 2.",
        "not recorded (runs: 5); Abacus, 2 cores (runs: 1)",
        "$-$170 (Pendulum-v1)",
    ]:
        assert part in text


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, "environment steps"),
        ({"action_repeat": 1}, "environment steps"),
        ({"action_repeat": 3}, "decisions"),
    ],
)
def test_where_actions_are_repeated_a_step_is_a_decision(args, expected, monkeypatch):
    monkeypatch.setattr(report, "run_args", lambda path: args)
    group = setting_results("Pendulum-v1", "default")
    assert dataclasses.replace(group, paths=[Path("run")]).what_steps_are == expected


def test_a_study_may_say_that_a_step_is_a_decision(results, main_without_figures, tmp_path):
    text = STUDY.replace("seeds = [0, 1, 2, 3]", "seeds = [0, 1, 2, 3]\ndecisions = true")
    (tmp_path / "better.toml").write_text(text)
    main_without_figures(tmp_path / "better.toml")
    protocol = " ".join((results / "better" / "protocol.tex").read_text().split())
    assert "Pendulum-v1: 12,000 decisions, evaluated" in protocol
    assert "A decision is an action, which lasts for several environment steps." in protocol


def test_every_number_says_which_commit_made_it(results, main_without_figures, tmp_path):
    path = next(results.glob("better/*/one/seed-1"))
    machine = {"cpu": "Abacus", "cores": 2, "commit": "0123456789abcdef", "clean": True}
    (path / "machine.json").write_text(json.dumps(machine))
    changed = json.dumps({**machine, "clean": False})
    (path.with_name("seed-2") / "machine.json").write_text(changed)
    nothing = {**machine, "commit": None, "clean": None}
    (path.with_name("seed-3") / "machine.json").write_text(json.dumps({"starts": [nothing]}))
    main_without_figures(tmp_path / "better.toml")
    text = (results / "better" / "report.md").read_text()
    commits = [every_seed(text)["one", seed][-1] for seed in "0123"]
    changes = "0123456789, with changes"
    assert commits == ["not recorded", "0123456789", changes, "not recorded"]
    protocol = " ".join(text.partition("## Protocol")[2].split())
    expected = f"not recorded (runs: 4); 0123456789 (runs: 1); {changes} (runs: 1)."
    assert protocol.endswith(f"Commit: {expected}")


def test_a_study_without_a_threshold_has_a_report_without_what_needs_one(results, main, tmp_path):
    (tmp_path / "better.toml").write_text(STUDY.replace("solved = -170", ""))
    status, out, _ = main(tmp_path / "better.toml")
    assert status == 0
    assert "solved" not in out
    assert not list((results / "better").glob("steps-to-solve-*"))


def test_one_run_has_neither_interval_nor_deviation(results, main_without_figures, tmp_path):
    for path in results.glob("better/*/*/seed-[1-9]"):
        shutil.rmtree(path)
    study.finished_runs.cache_clear()
    out = main_without_figures(tmp_path / "better.toml")[1]
    assert cells(out)[2][6:] == ["−160.0", "−916.0", "−160.0"]


def test_a_resumed_run_has_all_commits_and_machines_of_its_processes(results):
    path = next(results.glob("better/*/one/seed-1"))
    starts = [
        {"cpu": cpu, "cores": 2, "commit": commit, "clean": True}
        for cpu, commit in [("Abacus", "a"), ("Abacus", "b"), ("Slide rule", "b")]
    ]
    (path / "machine.json").write_text(json.dumps({"starts": starts}))
    assert report.commit(path) == "a and b"
    assert report.hardware(path) == "Abacus, 2 cores and Slide rule, 2 cores"


def test_of_few_evaluations_there_is_no_mean_of_the_last_ten(monkeypatch):
    """It would be a mean of the learning, and say of the last ones nothing."""
    monkeypatch.setattr(report, "commit", lambda path: "a")
    few = dataclasses.replace(setting_results("A"), paths=[Path("run")])
    assert report.summary([few])["mean of the last ten: IQM"].to_list() == ["–"]
    assert "mean of the last ten" not in report.every_seed([few]).columns


def test_a_run_without_evaluations_is_one_line(results, main, tmp_path):
    text = STUDY.replace("eval-every = 500", "eval-every = 0")
    (tmp_path / "better.toml").write_text(text)
    for file in results.glob("better/*/one/seed-*/args.json"):
        content = json.loads(file.read_text())
        content["args"]["eval_every"] = 0
        file.write_text(json.dumps(content))
    study.finished_runs.cache_clear()
    refused(main(tmp_path / "better.toml"), "eval_every is 0")


# ----------------------------------------------------------------------------------------- figures
def test_a_report_is_the_same_files_every_time(results, main, tmp_path):
    def files():
        folder = results / "better"
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    main(tmp_path / "better.toml")
    first = files()
    expected = {"report.md", "results.tex", "hyperparameters.tex", "protocol.tex"}
    for width in report.WIDTHS:
        for kind in ["learning-curves", "steps-to-solve"]:
            expected |= {f"{kind}-{width}.pdf", f"{kind}-{width}.png"}
    assert first.keys() == expected
    main(tmp_path / "better.toml")
    assert files() == first


def test_figures_have_the_widths_of_columns_and_fonts_that_journals_take(results, main, tmp_path):
    main(tmp_path / "better.toml")
    for name, width in report.WIDTHS.items():
        pdf = (results / "better" / f"learning-curves-{name}.pdf").read_bytes()
        box = re.search(rb"/MediaBox ?\[ ?0 0 ([\d.]+)", pdf)
        assert float(box[1]) == pytest.approx(72 * width.inches, abs=1)
        assert b"/Type3" not in pdf
        assert b"/TrueType" in pdf or b"/CIDFontType2" in pdf


def test_every_setting_has_a_colour_of_its_own_that_the_png_shows(results, main, tmp_path):
    main(tmp_path / "better.toml")
    file = results / "better" / "learning-curves-two-column.png"
    image = matplotlib.image.imread(file)[..., :3]
    for color in matplotlib.color_sequences["petroff10"][:2]:
        distance = np.abs(image - matplotlib.colors.to_rgb(color)).max(axis=-1)
        assert (distance < 0.02).sum() > 50


def test_a_row_of_panels_that_is_not_full_has_no_empty_ones():
    figure = draw([[setting_results(env_id, last=(0.0, 1.0))] for env_id in "ABCDE"])
    assert [axes.get_title() for axes in figure.axes] == [f"{x}, 2 seeds" for x in "ABCDE"]


def test_a_panel_says_how_many_seeds_its_lines_have():
    panel = [setting_results("A", "one", last=[0.0] * 8), setting_results("A", "two")]
    assert report.panel_title(panel) == "A, 1 to 8 seeds"
    assert report.panel_title(panel[1:]) == "A, 1 seed"


def test_four_panels_stand_in_a_square():
    figure = draw([[setting_results(env_id, last=(0.0, 1.0))] for env_id in "ABCD"])
    assert figure.axes[0].get_gridspec().get_geometry() == (2, 2)


def draw(panels):
    styles = report.line_styles([group for panel in panels for group in panel])
    width = report.WIDTHS["two-column"]
    return report.draw_panels(panels, width, styles, report.draw_learning_curve)


def legend_texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_settings_have_one_legend_but_one_in_each_panel_where_an_environment_has_several():
    groups = [setting_results("A", setting, last=(0.0, 1.0)) for setting in "abcde"]
    figure = draw(report.split_into_panels(groups[:4]))
    assert legend_texts(figure.legends[0]) == ["a", "b", "c", "d"]
    figure = draw(report.split_into_panels(groups))
    assert figure.legends == []
    legends = [axes.get_legend() for axes in figure.axes]
    assert [legend_texts(legend) for legend in legends] == [["a", "b", "c"], ["d", "e"]]
    first_colors = [axes.lines[0].get_color() for axes in figure.axes]
    assert len(set(first_colors)) == 1


@pytest.mark.parametrize("runs", [4, 5])
def test_of_few_seeds_each_is_drawn_of_others_an_interval(runs):
    (axes,) = draw([[setting_results("A", last=[0.0] * runs)]]).axes
    of_runs = 4 if runs == 4 else 0
    assert len(axes.lines) == 1 + of_runs + 1  # the mean, the runs, the threshold
    assert len(axes.collections) == (runs == 5)


# ------------------------------------------------------------------------------------------- LaTeX
def test_the_latex_tables_have_as_many_cells_in_every_row_and_nothing_unescaped(
    results, main_without_figures, tmp_path
):
    main_without_figures(tmp_path / "better.toml")
    for name in ["results", "hyperparameters"]:
        text = (results / "better" / f"{name}.tex").read_text()
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        separators = {len(re.findall(r"(?<!\\)&", row)) for row in rows}
        assert len(separators) == 1
        assert len(rows) >= 3
        assert not re.search(r"(?<!\\)[%#_]", text)
        assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 1
    assert r"50 \% more" in (results / "better" / "results.tex").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 5 %", r"a\_b \& 5 \%"),
        ("−3 ± 1", r"$-$3 $\pm$ 1"),
        ("τ ≥ 2 – x-1", r"$\tau$ $\geq$ 2 -- x-1"),
        (r"Is C:\é {x}~ hard?", r"Is C:\textbackslash{}é \{x\}\textasciitilde{} hard?"),
    ],
)
def test_text_becomes_latex(text, expected):
    assert report.latex_text(text) == expected


# --------------------------------------------------------------------------------- other libraries
def test_a_study_of_other_libraries_has_the_same_tables_and_figures(peers, main, results):
    status, out, err = main(peers)
    assert status == 0, err
    sb3, cleanrl, here = cells(out)[2:]
    assert sb3[1:6] == ["sb3-td3", "2", "1 of 2 [1, 99 %]", "> 12,000", "1 of 2"]
    assert cleanrl[1:3] == ["cleanrl", "1"]
    assert here[1:5] == ["here", "2", "2 of 2 [16, 100 %]", "2,500"]  # seeds 0, 1 of setting one
    folder = results / "peers"
    assert len(list(folder.glob("*.png"))) == 4
    text = (folder / "report.md").read_text()
    assert "sb3-td3 at commit 1. Its defaults." in text
    assert "noise_type normal, noise_std 0.1 (sb3-td3, cleanrl)" in text
    assert "| paper |" not in text
    protocol = " ".join(text.partition("## Protocol")[2].split())
    assert protocol.startswith("All runs are of the programs that the settings name, with ")
    assert "not finished: Pendulum-v1 cleanrl, seed 1." in protocol
    words = "CPU threads per run: as OMP_NUM_THREADS says (1 in a sweep) or 1. Device: as the"
    assert words in protocol


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("total_timesteps", 24_000, "total_timesteps is 24000, and 12000 in the study"),
        ("eval_every", None, "no eval_every among its args"),
        ("env_id", "Hopper-v5", "env_id is Hopper-v5, and Pendulum-v1 in the study"),
        ("seed", 5, "seed is 5, and 0 in the study"),
    ],
)
def test_a_run_of_another_library_with_other_lengths_or_without_is_one_line(
    name, value, part, peers, main, results
):
    file = next(results.glob("peers/*/sb3-td3/seed-0/args.json"))
    content = json.loads(file.read_text())
    content["args"].pop(name, None)
    if value is not None:
        content["args"][name] = value
    file.write_text(json.dumps(content))
    refused(main(peers), str(file), part)


@pytest.fixture
def speeds(peers, tmp_path):
    """The same study with a CSV of speed.py, of which one setting has another name."""
    file = tmp_path / "speed.csv"
    file.write_text(
        "threads,turn,name,steps_per_second\n"
        "1,0,sb3-td3,100\n1,0,ours,5\n1,1,ours,20\n1,1,sb3-td3,100\n1,2,ours,10\n"
    )
    text = peers.read_text().replace("peers = true", f"peers = true\nspeed = '{file}'")
    peers.write_text(f'{text}timed-as = "ours"\n')
    return file


def test_the_speed_turns_steps_into_minutes(peers, speeds, main_without_figures, results):
    """The median step is 2,500 here, and 3 turns have a median of 10 steps per second."""
    status, _, err = main_without_figures(peers)
    assert status == 0, err
    text = (results / "peers" / "report.md").read_text()
    part = text.partition("Minutes of training")[2].partition("## ")[0]
    assert "([CSV](../../speed.csv))" in part
    head, _, *rows = [line for line in part.splitlines() if line.startswith("|")]
    assert head.split(" | ")[2:] == ["median step", "steps per second", "minutes |"]
    assert rows == [  # no turn of cleanrl was measured
        "| Pendulum-v1 | sb3-td3 | > 12,000 | 100 | > 2.0 |",
        "| Pendulum-v1 | here | 2,500 | 10 | 4.2 |",
    ]


def test_a_study_without_speeds_says_nothing_of_minutes(peers, main_without_figures, results):
    assert main_without_figures(peers)[0] == 0
    assert "Minutes of training" not in (results / "peers" / "report.md").read_text()


def test_speeds_that_are_damaged_or_not_there_are_one_line(peers, speeds, main):
    speeds.write_text("threads,turn,name,steps_per_second\n1,0,ours,5\n2,0,ours,9\n")
    refused(main(peers), str(speeds), "give --threads 1")
    speeds.write_text("turn\n")
    refused(main(peers), str(speeds), "is damaged")
    speeds.unlink()
    refused(main(peers), "its speed is in no file", str(speeds))


def test_runs_of_other_libraries_are_nobody_elses(peers, results):
    """Their folders lie beside those in which finished runs are looked for."""
    study.finished_runs.cache_clear()
    found = [path for path, _ in study.finished_runs(results)]
    assert len(found) == 6
    assert not [path for path in found if "peers" in path.parts]


# --------------------------------------------------------------------------------- what goes wrong
def test_a_study_without_a_finished_run_is_one_line_with_the_command(results, main, tmp_path):
    shutil.rmtree(results)
    study.finished_runs.cache_clear()
    command = f"sweep.py {tmp_path / 'better.toml'} --results"
    refused(main(tmp_path / "better.toml"), "no run of better is finished", command)


def test_a_study_or_all_is_asked_for(results, main):
    refused(main(), "--all")
    refused(main("better.toml", "--all"), "--all")
    refused(main("--all"), "--results")


DAMAGES = {
    "cut": lambda text: "".join(text.splitlines(keepends=True)[:5]),
    "empty": lambda text: "",
    "other columns": lambda text: text.replace("mean", "men"),
    "text": lambda text: text.replace("-150.0", "x"),
    "infinite": lambda text: text.replace("-150.0", "inf"),
    "twice": lambda text: text + text.splitlines(keepends=True)[-1],
    "an evaluation less": lambda text: "".join(
        line for i, line in enumerate(text.splitlines(keepends=True)) if i != 3
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_csv_is_one_line_that_names_it(damage, results, main, tmp_path):
    """A row that is missing would make the last evaluation of every seed another one."""
    file = next(results.glob("better/*/one/seed-1/evaluations.csv"))
    file.write_text(DAMAGES[damage](file.read_text()))
    result = main(tmp_path / "better.toml")
    refused(result, str(file), "damaged")
    if damage == "an evaluation less":
        refused(result, "the evaluation of step 1000 is missing")


# ----------------------------------------------------------------------------- the page of results
@pytest.fixture(scope="module")
def committed():
    """All studies, and what those that have runs of their own are made of."""
    studies = [study.load(name) for name in study.names()]
    groups = {}
    for wanted in studies:
        if any(run.finished() for run in wanted.runs):
            groups[wanted.name] = report.load_results(wanted)
    assert len(groups) >= 7
    return studies, groups


def test_the_committed_page_is_what_the_csvs_give(committed):
    """`python benchmark/report.py --all` would not change a letter of it."""
    assert report.PAGE.read_text(encoding="utf-8") == report.results_page(*committed)


def test_the_committed_reports_are_what_the_csvs_give(committed):
    studies, groups = committed
    for wanted in studies:
        if wanted.name in groups:
            folder = study.RESULTS / wanted.name
            texts = report.report_texts(wanted, groups[wanted.name], folder)
            for name, text in texts.items():
                assert (folder / name).read_text(encoding="utf-8") == text, f"{folder}/{name}"


def test_mountain_car_is_learned_with_strong_correlated_noise(committed):
    """With weak noise DDPG learns to do nothing there, which returns about 0."""
    _, groups = committed
    (group,) = [x for x in groups["classic"] if x.env_id == "MountainCarContinuous-v0"]
    args = [report.run_args(path) for path in group.paths]
    assert {(x["noise"], x["noise_sigma"]) for x in args} == {("ou", 0.5)}
    assert len(group.seeds) == 20
    assert np.median(group.last) >= 90


def test_the_page_begins_with_what_it_is_its_command_a_picture_and_a_short_table(committed):
    page = report.results_page(*committed)
    heading, introduction, picture = page.split("\n\n")[:3]
    assert heading == "# Results"
    assert "`python benchmark/report.py --all`" in introduction
    assert "(results/classic/learning-curves-two-column.png)" in picture
    table = report.at_a_glance(*committed)
    assert f"## At a glance\n\n{table}\n\n## How results are counted" in page
    assert 3 <= len(cells(table)) - 2 <= 9


def test_the_short_table_by_hand():
    """Solved at 10 of 20 steps; the environment that the study does not name is left out."""
    wanted = study.load("mujoco")
    hopper = setting_results("Hopper-v5", "default", (9200.0, 9300.0), 9_100)
    hopper.evaluations.loc[20] = [9000.0, 9200.0]  # one of the two is worse at the end
    cheetah = setting_results("HalfCheetah-v5", "default", threshold=math.nan)
    other = setting_results("Walker2d-v5", "gaussian")
    table = report.at_a_glance([wanted], {"mujoco": [hopper, cheetah, other]})
    command = "`ddpg_keras.py --noise-sigma 0.1`"
    assert cells(table)[2:] == [
        ["Hopper-v5", command, "2/2 (of 3 planned)", "1/2", "10 of 20", "9,100 ± 141.4"],
        ["HalfCheetah-v5", command, "1 trained (of 3 planned)", "–", "–", "0.0"],
    ]


def test_the_short_table_has_what_two_studies_share_once_and_keeps_an_environment_together():
    pendulum, double_pendulum = "Pendulum-v1", "InvertedDoublePendulum-v5"
    classic = [setting_results(pendulum, "default", (5.0,) * 20)]
    classic.append(setting_results(double_pendulum, "default", (5.0,) * 10))
    tensorflow = [setting_results(pendulum, "default", (5.0,) * 10)]
    groups = {"classic": classic, "again": classic, "tensorflow": tensorflow}
    again = dataclasses.replace(study.load("classic"), name="again")
    studies = [study.load("classic"), again, study.load("tensorflow")]
    rows = cells(report.at_a_glance(studies, groups))[2:]
    assert [(row[0], row[2]) for row in rows] == [
        (pendulum, "20/20"),
        (pendulum, "10/10"),
        (double_pendulum, "10/10"),
    ]


def test_links_lead_from_every_page_to_what_is_there(committed):
    studies, groups = committed
    pages = {report.PAGE.parent: report.results_page(*committed)}
    for wanted in studies:
        if wanted.name in groups:
            folder = study.RESULTS / wanted.name
            pages[folder] = report.report_page(wanted, groups[wanted.name], folder)
    for folder, text in pages.items():
        links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
        assert links
        for link in links:
            assert (folder / link).exists(), f"{folder}: {link}"


def test_a_protocol_is_one_line_so_that_nothing_in_it_is_a_list_or_a_heading(committed):
    studies, groups = committed
    for wanted in studies:
        if wanted.name in groups:
            assert "\n" not in report.protocol(wanted, groups[wanted.name])


def test_two_studies_may_have_different_thresholds_of_one_task():
    first = study.load("classic")
    other = dataclasses.replace(first, thresholds={"Pendulum-v1": -150, "A-v0": math.nan})
    text = report.all_thresholds([first, other])
    assert "−170 on Pendulum-v1" in text
    assert "−150 on Pendulum-v1" in text
    assert "A-v0" not in text


def test_all_studies_without_a_run_are_one_line(monkeypatch, run_main):
    monkeypatch.setattr(study, "names", lambda: [])
    refused(run_main(report.main, "--all"), "no run of any study is finished")
