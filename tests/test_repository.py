"""The scripts as files: what each needs, how long its parts are, what it shares with the others."""

import ast
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import study
from helpers import ROOT

import ddpg_continuous
import ddpg_pixels
import dqn

SCRIPTS = sorted(ROOT.glob("d*.py"))
FOLDERS = ("benchmark", "docs", "tests", "tests/environments")


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def source(request):
    return request.param.read_text(encoding="utf-8")


def test_there_are_scripts_to_test():
    names = ["ddpg_continuous", "ddpg_keras", "ddpg_pixels", "ddpg_tf_explicit", "dqn"]
    assert [path.stem for path in SCRIPTS] == names


# ------------------------------------------------------------------------------ what a script needs
def requirements(name="requirements.txt"):
    lines = (ROOT / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def dependencies(source):
    """What the script's inline metadata asks for, read as PEP 723 says."""
    (block,) = re.findall(r"(?m)^# /// script\n((?:#(?: .*)?\n)+)# ///$", source)
    metadata = tomllib.loads(re.sub(r"(?m)^# ?", "", block))
    assert metadata["requires-python"] == ">=3.11,<3.14"
    return metadata["dependencies"]


def package_name(requirement):
    return re.match(r"[\w-]+", requirement)[0].lower()


def imported_modules(source):
    """The full names of the modules that are imported anywhere in a file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def imported_packages(source):
    """For each module from elsewhere, the names of the packages that it may be from."""
    modules = {name.partition(".")[0] for name in imported_modules(source)}
    installed = packages_distributions()
    packages = {}
    for module in modules - set(sys.stdlib_module_names):
        packages[module] = {name.lower().replace("_", "-") for name in installed[module]}
    return packages


def test_a_scripts_own_metadata_asks_for_what_it_imports_at_the_versions_of_requirements_txt(
    source,
):
    needs = dependencies(source)
    assert set(needs) <= requirements(), "every pin stands in requirements.txt, letter for letter"
    assert needs == sorted(needs)
    asked = {package_name(need) for need in needs}
    used = set()
    imported = imported_packages(source)
    del imported["wandb"]  # only --track needs it, and says so
    for module, packages in imported.items():
        assert packages & asked, f"{module} is imported and not asked for"
        used |= packages
    unused = {"moviepy"}  # gymnasium imports it to record a video
    if "keras" in imported:
        unused |= {"tensorflow", "tensorflow-cpu"}  # its default backend
    assert asked - used <= unused


def test_every_requirement_is_a_scripts_or_the_tests_and_pinned():
    asked = set()
    for path in SCRIPTS:
        asked |= set(dependencies(path.read_text(encoding="utf-8")))
    others = {package_name(need) for need in requirements() - asked}
    assert others == {"pytest", "wandb"}
    for need in requirements() | requirements("requirements-dev.txt"):
        assert "==" in need


def test_importing_a_script_imports_no_other_file_of_this_repository(source):
    own = {path.stem for path in ROOT.glob("*.py")}
    for folder in FOLDERS:
        own |= {path.stem for path in (ROOT / folder).glob("*.py")}
    assert not {name.partition(".")[0] for name in imported_modules(source)} & own


def test_the_lines_that_let_ctrl_c_end_the_imports_stand_before_the_slow_ones(source):
    lines = 'if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int'
    before, found, _ = source.partition(lines)
    assert found
    slow = {"torch", "keras", "tensorflow", "gymnasium", "pandas", "matplotlib"}
    assert not {name.partition(".")[0] for name in imported_modules(before)} & slow


# ----------------------------------------------------------------------------------- how long it is
def code_lines(source):
    """The numbers of the lines that are neither blank, nor comments, nor docstrings."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings |= set(range(node.lineno, node.end_lineno + 1))
    numbers = set()
    for number, line in enumerate(source.splitlines(), start=1):
        if line.strip() and not line.strip().startswith("#"):
            numbers.add(number)
    return numbers - docstrings


def test_what_stands_above_the_training_is_less_than_300_lines_of_code(source):
    lines = source.splitlines()
    end = next(i for i, line in enumerate(lines, 1) if re.fullmatch(r"# -+ the training", line))
    assert len([number for number in code_lines(source) if number < end]) < 300


LONGER = {  # lines of code; whoever splits one of them takes it out
    "learn": 33,  # Algorithm 1's update, in one block
    "training_loop": 34,
    "evaluate_file": 37,
}


def test_no_function_has_over_30_lines_of_code_and_no_class_over_100(source):
    code = code_lines(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            length = len(code & set(range(node.lineno, node.end_lineno + 1)))
            limit = 100 if isinstance(node, ast.ClassDef) else 30
            assert length <= LONGER.get(node.name, limit), f"{node.name}: {length}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_flag_has_a_sentence(path):
    flags = study.script_flags(path.name)
    assert len(flags) > 20
    for name, flag in flags.items():
        assert len(re.findall(r"[a-z]+", flag.comment)) >= 3, name


@pytest.mark.parametrize("folder", [".", *FOLDERS])
def test_no_line_has_over_100_characters(folder):
    for path in (ROOT / folder).glob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 100, f"{path.name}, line {number}"


# ----------------------------------------------------------------------------------- what is shared
COPY_SHARED = ROOT / "tests" / "copy_shared.py"


def test_what_the_scripts_share_is_the_same_text():
    command = [sys.executable, str(COPY_SHARED), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def names_of_flags(script):
    return {field.name for field in fields(script.Args)}


def flags_in(name):
    """The names of a script's flags, by its text."""
    source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == "Args":
            return {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
    raise AssertionError(f"{name}.py has no Args")


def test_the_scripts_have_the_same_flags_but_for_the_algorithm():
    torch, tensorflow, keras = [
        flags_in(name) for name in ("ddpg_continuous", "ddpg_tf_explicit", "ddpg_keras")
    ]
    assert torch == names_of_flags(ddpg_continuous)
    assert tensorflow == torch
    assert torch - keras == {"device", "num_threads"}, "its backend's, which the environment sets"
    assert keras - torch == {"optimizer"}

    discrete = names_of_flags(dqn)
    rates = {"actor_learning_rate", "critic_learning_rate", "anneal", "weight_decay"}
    noise = {"noise", "noise_sigma", "ou_theta", "ou_dt"}
    assert torch - discrete == {*rates, *noise, "norm", "learning_starts"}
    assert len(torch & discrete) >= 18


def test_the_ddpg_scripts_have_the_same_defaults_but_for_the_task_its_length_and_its_noise():
    torch, *others = [
        study.defaults(f"{name}.py")
        for name in ("ddpg_continuous", "ddpg_tf_explicit", "ddpg_keras")
    ]
    assert torch["norm"] == "batch", "the paper's"
    of_the_task = {"env_id", "total_timesteps", "eval_every", "noise_sigma"}
    for other in others:
        differing = {name for name in torch.keys() & other.keys() if torch[name] != other[name]}
        assert differing <= of_the_task


def test_the_script_for_images_has_the_same_flags_and_those_of_images():
    pixels, torch = names_of_flags(ddpg_pixels), names_of_flags(ddpg_continuous)
    assert torch <= pixels
    assert pixels - torch == {"action_repeat", "crop", "frame_size", "reward_scale"}


def test_a_flag_of_the_same_name_has_the_same_type():
    kinds = {}
    for script in (ddpg_continuous, ddpg_pixels, dqn):
        for field in fields(script.Args):
            assert kinds.setdefault(field.name, field.type) == field.type, field.name


PAPERS_VALUES = {  # Section 7
    "actor_learning_rate": 1e-4,
    "critic_learning_rate": 1e-3,
    "anneal": False,
    "weight_decay": 1e-2,
    "gamma": 0.99,
    "tau": 0.001,
    "batch_size": 64,
    "buffer_size": 1_000_000,
    "hidden_sizes": [400, 300],
    "norm": "batch",
    "noise": "ou",
    "noise_sigma": 0.2,
    "ou_theta": 0.15,
}


@pytest.mark.parametrize("name", ["ddpg_continuous", "ddpg_tf_explicit", "ddpg_keras"])
def test_a_default_is_the_papers_unless_the_page_says_so_and_help_names_the_papers(name):
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    table = page.partition("## Where a default differs")[2].partition("And the paper")[0]
    defaults = study.defaults(f"{name}.py")
    for flag, value in PAPERS_VALUES.items():
        is_listed = f"| `--{flag.replace('_', '-')}` |" in table
        assert (defaults[flag] != value) == is_listed, flag
        (said,) = re.findall(r"\(paper: ([^;)]*)\)", study.script_flags(f"{name}.py")[flag].comment)
        if flag == "hidden_sizes":
            assert said == "400 300"
        elif flag == "anneal":
            assert said == "no"
        elif isinstance(value, str):
            assert said == value
        else:
            assert float(said) == value, flag


def test_every_file_of_tests_has_a_docstring():
    for path in [*Path(ROOT / "tests").glob("*.py"), *Path(ROOT / "tests").glob("*/*.py")]:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path.name
