"""The texts: how long the README is, and that whatever a page names, shows or links to exists."""

import re
import shutil
import subprocess
import sys
import textwrap
from fnmatch import fnmatch
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import study
import torch
from helpers import ROOT, SHORT_NPZ

import ddpg_continuous

PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("benchmark/*.md")),
    ROOT / "runs" / "README.md",
]
SCRIPTS = sorted(ROOT.glob("d*.py"))
# TensorBoard, ruff, uv, Slurm, Ray
FLAGS_OF_OTHERS = {"logdir", "check", "torch-backend", "nodes", "ntasks-per-node", "exclusive"}
FLAGS_OF_OTHERS |= {"min-nodes", "head", "port"}
FLAGS_THAT_WERE = {"matmul-precision"}  # what older measurements were made with


def name(page):
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=name)


def read(path):
    return path.read_text(encoding="utf-8")


def without_code(text):
    return re.sub(r"(?ms)^```.*?^```", "", text)


def anchors(page):
    """What a link to a heading of this page may say, after its #."""
    headings = re.findall(r"(?m)^#+ (.*)", without_code(read(page)))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_blocks(page, language):
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", read(page))


def table_after(heading, text):
    """The rows of the first table below this heading."""
    section = re.split(r"(?m)^## ", text.partition(f"## {heading}\n")[2])[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert rows, f"no table below {heading}"
    return rows


# ------------------------------------------------------------------------------------- the limits
def test_the_readme_is_one_page():
    text = read(ROOT / "README.md")
    assert len(text.split()) <= 1200
    assert len(text.splitlines()) <= 150


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "RESULTS.md"], ids=name)
def test_lines_have_at_most_100_characters_but_for_tables_and_links(page):

    for number, line in enumerate(read(page).splitlines(), start=1):
        if not line.startswith(("|", "![", "[")):
            assert len(line) <= 100, f"{page.name}, line {number}: {line}"


# ---------------------------------------------------------------------------- what is named exists
@each_page
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(\s*((?!http)[^)\s]+)\s*\)", read(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@each_page
def test_every_file_of_the_repository_that_is_named_exists(page):
    words = re.findall(r"[\w./-]+\.(?:py|md|toml|txt|cff)\b", without_code(read(page)))
    commands = re.findall(r"python ([\w./-]+\.py)", read(page))
    for word in {*words, *commands}:
        if word.startswith("/"):  # of an address, or of a folder that stands before it in words
            continue
        folders = (ROOT, page.parent, ROOT / "benchmark", ROOT / "tests")
        is_elsewhere = word.endswith(("_action_jax.py", "benchmark.md")) or "github.com" in word
        assert is_elsewhere or any((folder / word).exists() for folder in folders), word


@each_page
def test_every_test_that_is_named_exists(page):
    tests = "".join(read(path) for path in (ROOT / "tests").glob("test_*.py"))
    for name in set(re.findall(r"`(test_\w+)`", read(page))):
        assert f"def {name}(" in tests, name


def known_flags():
    flags = {"help"}
    for script in SCRIPTS:
        args = read(script).partition("class Args")[2].partition("\n\n\n")[0]
        for name in re.findall(r"(?m)^    (\w+): ", args):
            flag = name.replace("_", "-")
            flags |= {flag, f"no-{flag}"}
    for path in (*ROOT.glob("benchmark/*.py"), *ROOT.glob("docs/*.py"), *ROOT.glob("tests/*.py")):
        flags |= set(re.findall(r"add_argument\(\s*\"--([a-z-]+)", read(path)))
    return flags


@each_page
def test_every_flag_that_is_named_exists(page):
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", read(page)))
    allowed = known_flags() | FLAGS_OF_OTHERS
    if page.parent.name == "benchmark":
        allowed |= FLAGS_THAT_WERE
    assert named <= allowed, named - allowed


@each_page
def test_every_command_that_is_shown_has_flags_of_its_own_script(page):
    text = read(page).replace("\\\n", " ")
    for script, rest in re.findall(r"python ((?:ddpg_|dqn)\w*\.py)([^\n#`]*)", text):
        flags = {name.replace("_", "-") for name in study.script_flags(script)} | {"help"}
        for flag in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", rest):
            is_older = page.parent.name == "benchmark" and flag in FLAGS_THAT_WERE
            assert flag in flags or flag.removeprefix("no-") in flags or is_older, (script, flag)


def test_every_class_and_function_that_the_page_of_the_paper_names_exists():
    source = read(ROOT / "ddpg_continuous.py")
    rows = [row.split(" | ") for row in read(ROOT / "docs" / "paper.md").splitlines()]
    columns = [row[1] for row in rows if len(row) > 2 and "`test_" in row[2]]
    names = {name for column in columns for name in re.findall(r"`(\w[\w.]+)`", column)}
    assert len(names) > 10
    for name in names:
        for part in name.split("."):
            assert re.search(rf"(?m)^ *(class|def) {part}\b", source), name


def patterns_of_files():
    """The names in the table of runs/README.md, `.pdf` as `learning_curve.pdf`."""
    names = set()
    for row in read(ROOT / "runs" / "README.md").splitlines():
        if row.startswith("| `") and ".py`" not in row.split("|")[1]:
            first, *others = re.findall("`([^`]+)`", row.split("|")[1])
            stem = first.partition(".")[0]
            names |= {first, *(stem + x if x.startswith(".p") else x for x in others)}
    return names


def test_the_files_of_a_run_are_those_that_the_readme_of_runs_lists(finished_run, smoke):
    patterns = patterns_of_files()
    keras_script = SimpleNamespace(SCRIPT="ddpg_keras", __file__=str(ROOT / "ddpg_keras.py"))
    keras_run = finished_run(keras_script, *SHORT_NPZ)[0]
    found = {file.name for path in (smoke[0], keras_run) for file in path.iterdir()}
    for name in found:
        same_kind = name.replace("last_", "best_")  # for the … in the table
        assert any(fnmatch(same_kind, pattern) for pattern in patterns), name
    only_with_flags_or_pixels = {"observations/", "what_it_sees.png", "videos/", "wandb/"}
    for pattern in patterns - only_with_flags_or_pixels:
        assert any(fnmatch(name, pattern) for name in found), pattern


# ------------------------------------------------------------------------------ what is shown holds
def test_the_results_in_the_readme_are_those_of_the_generated_page():
    shown = table_after("Results", read(ROOT / "README.md"))
    assert shown == table_after("At a glance", read(ROOT / "benchmark" / "RESULTS.md"))


@pytest.mark.parametrize("name", ["gradient", "dqn"])
def test_the_code_that_a_page_shows_of_a_script_stands_in_it(name):
    sources = [read(script) for script in SCRIPTS]
    blocks = code_blocks(ROOT / "docs" / f"{name}.md", "python")
    assert blocks
    for block in blocks:
        as_in_a_script = [textwrap.indent(block, " " * depth) for depth in (0, 4, 8, 12)]
        is_shown = any(text in source for text in as_in_a_script for source in sources)
        assert is_shown, f"docs/{name}.md: the script has other lines by now:\n{block}"


# ------------------------------------------------------------------------ docs/learned.py: pictures
@pytest.fixture
def draw(monkeypatch, capsys):
    """Runs docs/learned.py in this process: exit status, lines on stderr."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    import learned

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["learned.py", *map(str, words)])
        status = 0
        try:
            learned.main()
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err.splitlines()

    return run


@pytest.fixture(scope="module")
def pendulum_run(tmp_path_factory):
    """The folder of a short run, whose checkpoint is that of step 200, where an episode ends."""
    folder = tmp_path_factory.mktemp("run")
    command = [sys.executable, str(ROOT / "ddpg_continuous.py"), "--env-id", "Pendulum-v1"]
    command += ["--norm", "batch", "--total-timesteps", "210", "--learning-starts", "100"]
    command += ["--eval-every", "0", "--checkpoint-every", "100", "--run-name", "pendulum"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "runs" / "pendulum"


@pytest.mark.slow
def test_the_picture_of_what_was_learned_is_made_by_one_command(pendulum_run):
    command = [sys.executable, ROOT / "docs" / "learned.py", pendulum_run]
    subprocess.run(command, check=True)
    assert (pendulum_run / "learned.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_that_cannot_be_drawn_is_refused_in_one_line(pendulum_run, draw, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(pendulum_run, run)
    (run / "checkpoint.pt").unlink()
    status, errors = draw(run)
    assert status == 2
    assert len(errors) == 1
    assert "checkpoint.pt is missing" in errors[0]

    weights = ddpg_continuous.load_weights(run / "last.pt")
    weights["args"]["env_id"] = "InvertedPendulum-v5"  # it has four state variables
    ddpg_continuous.save_weights(run / "last.pt", weights)
    status, errors = draw(run)
    assert status == 2
    assert len(errors) == 1
    assert "InvertedPendulum-v5" in errors[0]


def test_a_folder_that_is_no_run_is_refused_in_one_line(draw, tmp_path):
    status, errors = draw(tmp_path)
    assert status == 2
    assert len(errors) == 1
    assert "last.pt is missing" in errors[0]


def test_the_critic_of_the_picture_normalises_by_replayed_transitions(monkeypatch):
    """Its values are those of a training pass over them, for a single state, too."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    from learned import fix_batch_norm

    torch.manual_seed(0)
    agent = ddpg_continuous.DDPG(2, 1, ddpg_continuous.Args(norm="batch"))
    s = torch.randn(5000, 2) * torch.tensor([0.3, 0.02]) - 0.4
    agent.actor.eval()
    a = agent.actor(s)
    q = agent.critic(s, a)
    fix_batch_norm(agent, s)
    torch.testing.assert_close(agent.critic(s, a), q, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(agent.critic(s[:1], a[:1]), q[:1], rtol=1e-3, atol=1e-5)


# ------------------------------------------------------- docs/landings.py: when the landers landed
@pytest.fixture
def landings(monkeypatch):
    """The module docs/landings.py."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    import landings

    return landings


def test_when_a_lander_landed_and_was_solved_by_hand(landings, tmp_path):
    run = tmp_path / "seed-7"
    run.mkdir()
    # A crash, a landing, a time limit in the air, and then landings
    episodes = {"step": [100, 300, 1300, *range(1400, 3400, 100)]}
    episodes["length"] = [100, 200, 1000, *[100] * 20]
    episodes["return"] = [-150.0, 120.0, 150.0, *[230.0] * 20]
    evaluations = {"step": [0, 5_000, 10_000], "mean": [-100.0, 205.0, 100.0]}
    updates = {"step": [10_000, 10_100, 13_000, 13_100], "saturation": [0.9, 0.2, 0.4, 0.9]}
    updates["q"] = [9.0, 1.0, 3.0, 9.0]
    for name, content in [
        ("episodes", episodes),
        ("evaluations", evaluations),
        ("updates", updates),
    ]:
        pd.DataFrame(content).to_csv(run / f"{name}.csv", index=False)
    assert landings.when(run) == pytest.approx(
        {
            "first_landing": 300,
            "landing_20": 3_200,  # the nineteenth of the last 20
            "solved": 5_000,
            "landings": 21,
            "early_saturation": 0.3,
            "early_q": 2.0,
        }
    )
    assert np.isnan(landings.nth(np.array([1, 2]), 3))


def test_the_committed_landings_are_what_the_committed_runs_give(landings):
    committed = pd.read_csv(landings.TABLE)
    pd.testing.assert_frame_equal(landings.table().reset_index(drop=True), committed)
    assert len(landings.draw(committed).axes) == 3


# ----------------------------------------------------------- docs/followed.py: how a training went
@pytest.fixture
def followed(monkeypatch):
    """The module docs/followed.py, its windows so short that a short run has several."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    import followed

    monkeypatch.setattr(followed, "WINDOW", 100)
    monkeypatch.setattr(followed, "LANDED", -100.0)  # so short a run has crashes alone
    return followed


@pytest.fixture(scope="module")
def lander_run(tmp_path_factory):
    """The folder of a short run on the lander."""
    folder = tmp_path_factory.mktemp("run")
    command = [sys.executable, str(ROOT / "ddpg_continuous.py"), "--total-timesteps", "700"]
    command += ["--learning-starts", "100", "--eval-every", "200", "--eval-episodes", "1"]
    command += ["--checkpoint-every", "100", "--hidden-sizes", "16", "12", "--run-name", "lander"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "runs" / "lander"


def test_the_return_that_followed_is_discounted_and_known_only_where_no_limit_cuts_it(
    followed, monkeypatch
):
    monkeypatch.setattr(followed, "UNKNOWN_TAIL", 1)
    rewards = np.array([1.0, 2, 3, 4, 5, 6])  # an end, a time limit, the end of the training
    terminated = np.array([False, False, True, False, False, False])
    returns = followed.returns_that_followed(rewards, terminated, np.array([2, 4]), gamma=0.5)
    np.testing.assert_array_equal(returns, [2.75, 3.5, 3, 6.5, np.nan, np.nan])


def test_a_window_has_its_first_step_and_not_the_next_windows(followed):
    assert followed.count_in(range(100, 200), np.array([99, 100, 150, 199, 200])) == 3
    assert followed.count_in(range(100, 200), np.array([99, 100])) == 1
    assert followed.count_in(range(100, 200), np.array([199, 200])) == 1


@pytest.mark.slow
def test_a_training_is_followed_by_one_command(followed, lander_run, monkeypatch, tmp_path):
    run, picture = lander_run, tmp_path / "followed.png"
    monkeypatch.setattr(sys, "argv", ["followed.py", str(run), str(run), "--out", str(picture)])
    followed.main()
    assert picture.read_bytes().startswith(b"\x89PNG")

    rows = pd.read_csv(tmp_path / "followed.csv")
    assert len(rows) % 2 == 0
    one, other = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert one.equals(other.reset_index(drop=True))
    assert list(one["step"]) == list(range(200, 100 * len(one) + 101, 100))
    updates = pd.read_csv(run / "updates.csv")
    assert list(one["q"]) == list(updates["q"][: len(one)])  # one update is logged in 100 steps
    rewards = ddpg_continuous.load_weights(run / "checkpoint.pt")["replay"]["rows"][:, 8 + 2]
    ends = pd.read_csv(run / "episodes.csv")["step"]
    known = []
    for step in range(200):
        left = rewards[step : ends[ends > step].min()].numpy()  # all these episodes end in a crash
        known.append((left * 0.99 ** np.arange(len(left))).sum())
    assert one["return_that_followed"][0] == pytest.approx(np.mean(known))
    windows = (ends[ends <= 100 * len(one) + 100] - 1) // 100
    assert list(one["landings"]) == [(windows == i).sum() for i in range(1, len(one) + 1)]
    assert one["landings"].sum() > 0
    assert (one["time_limits"] == 0).all()
    monkeypatch.setattr(followed, "LANDED", 100.0)
    assert (followed.follow(run)["landings"] == 0).all(), "a crash is no landing"
    evaluations = pd.read_csv(run / "evaluations.csv").set_index("step")["mean"]
    before = [evaluations[step - step % 200] for step in one["step"]]
    assert list(one["evaluation"]) == before


@pytest.mark.slow
def test_a_run_whose_first_steps_are_forgotten_cannot_be_followed(followed, lander_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(lander_run, run)
    content = ddpg_continuous.load_weights(run / "checkpoint.pt")
    content["replay"]["num_added"] += 1
    ddpg_continuous.save_weights(run / "checkpoint.pt", content)
    with pytest.raises(ddpg_continuous.RunError, match="first steps"):
        followed.follow(run)


def test_what_cannot_be_followed_is_refused_in_one_line(followed, monkeypatch, capsys, tmp_path):
    words = ["followed.py", str(tmp_path), "--out", str(tmp_path / "followed.png")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        followed.main()
    errors = capsys.readouterr().err.splitlines()
    assert end.value.code == 2
    assert len(errors) == 1
    assert "last.pt is missing" in errors[0]
