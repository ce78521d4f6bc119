"""The scripts as files: what each needs, how long it is, what it shares with the others; and what the README names."""

import ast
import difflib
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(ROOT.glob("d*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def source(request):
    return request.param.read_text(encoding="utf-8")


def requirements(name="requirements.txt"):
    return {line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")}


def metadata(source):
    """The script's inline metadata, read as PEP 723 says."""
    (block,) = re.findall(r"(?m)^# /// script\n((?:#(?: .*)?\n)+)# ///$", source)
    return tomllib.loads(re.sub(r"(?m)^# ?", "", block))


def sections(source):
    """The text of each section by its heading."""
    parts = re.split(r"(?m)^# -{20,} (.*)\n", source)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def test_there_are_scripts_to_test():
    assert [path.stem for path in SCRIPTS] == ["ddpg_continuous", "ddpg_keras", "ddpg_tf_explicit", "dqn"]


def test_a_scripts_own_metadata_asks_for_what_it_imports_at_the_versions_of_requirements_txt(source):
    needs = set(metadata(source)["dependencies"])
    assert needs <= requirements(), "every pin stands in requirements.txt, letter for letter"
    imported = set()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        imported |= {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    of = {module: {name.lower().replace("_", "-") for name in x} for module, x in packages_distributions().items()}
    named = {re.match(r"[\w-]+", need)[0].lower() for need in needs}
    for module in imported:
        assert of[module] & named, f"{module} is imported and not asked for"
    unused = named - set().union(*(of[module] for module in imported))
    # gymnasium imports the first to record a video, Keras the others as its default backend (x86 has its own package)
    assert unused <= {"moviepy", "tensorflow", "tensorflow-cpu"}


def test_every_requirement_is_a_scripts_or_the_tests_and_pinned():
    asked = set().union(*(metadata(path.read_text(encoding="utf-8"))["dependencies"] for path in SCRIPTS))
    others = {re.match(r"[\w-]+", need)[0] for need in requirements() - asked}
    assert others == {"pytest", "wandb"}
    assert all("==" in need for need in requirements() | requirements("requirements-dev.txt"))


def test_a_script_has_at_most_650_lines_and_ends_the_algorithm_within_300(source):
    lines = source.splitlines()
    assert len(lines) <= 650
    start = next(i for i, line in enumerate(lines) if line.startswith('"""'))
    end = next(i for i, line in enumerate(lines) if re.fullmatch(r"# -+ the training", line))
    assert end - start <= 300


def test_importing_a_script_imports_no_other_file_of_this_repository(source):
    own = {path.stem for path in ROOT.glob("*.py")} | {"tests", "benchmark"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not {*(alias.name for alias in node.names), getattr(node, "module", None)} & own


def test_the_training_loop_is_about_45_lines(source):
    (train,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert train.end_lineno - train.lineno <= 52


SHARED = ("replay memory", "the environment", "the run", "the command line")
DDPG = [path for path in SCRIPTS if path.stem.startswith("ddpg")]
DIFFERENT = {"make_env": (6, 4), "plot": (0, 1), "check": (5, 8), "play": (1, 2)}
"""Lines that only ddpg_continuous.py has, and only dqn.py: it has other actions, curves and flags."""


@pytest.mark.parametrize("heading", ("exploration noise", *SHARED))
def test_what_is_not_framework_code_stands_letter_for_letter_in_every_ddpg_script(heading):
    first, *others = (sections(path.read_text(encoding="utf-8"))[heading] for path in DDPG)
    assert len(first) > 300
    assert not re.search(r"\b(torch|tf|keras)\b", first)
    for other in others:
        assert other == first


def definitions(text):
    """The source of each function and class of a section by its name, and of what stands between them."""
    parts = {node.name: ast.get_source_segment(text, node) for node in ast.parse(text).body if hasattr(node, "name")}
    for part in parts.values():
        text = text.replace(part, "")
    return {**parts, "between": "\n".join(line for line in text.splitlines() if line)}


def changed_lines(one, other):
    """How many lines only the one text has, and how many only the other."""
    lines = [line[:1] for line in difflib.ndiff(one.splitlines(), other.splitlines())]
    return lines.count("-"), lines.count("+")


@pytest.mark.parametrize("heading", (*SHARED, "torch's files"))
def test_dqn_has_them_letter_for_letter_too_but_for_what_its_discrete_actions_change(heading):
    texts = (sections((ROOT / name).read_text(encoding="utf-8"))[heading] for name in ("ddpg_continuous.py", "dqn.py"))
    one, other = (definitions(text.replace("DDPG", "DQN")) for text in texts)
    assert one.keys() == other.keys()
    for name in one:
        assert changed_lines(one[name], other[name]) == DIFFERENT.get(name, (0, 0)), name
    assert sum(map(len, one.values())) > 300


def test_dqns_training_differs_where_the_algorithm_does():
    one, other = (
        sections((ROOT / f"{name}.py").read_text(encoding="utf-8"))["the training"]
        for name in ("ddpg_continuous", "dqn")
    )
    assert changed_lines(one, other) == (17, 10)


def test_the_training_differs_only_in_how_the_framework_is_set_up():
    first, *others = (sections(path.read_text(encoding="utf-8"))["the training"] for path in DDPG)
    first, *others = (text[text.index("    rng = np.random.default_rng") :] for text in (first, *others))
    assert "agent.update" in first
    for other in others:
        assert other == first


def flags(path):
    return set(re.findall(r"(?m)^    (\w+): .* = ", path.read_text().split("@dataclass")[1].split("# ---")[0]))


def test_the_scripts_have_the_same_flags_but_for_the_algorithm():
    keras, torch, tensorflow, dqn = (
        flags(ROOT / f"{name}.py") for name in ("ddpg_keras", "ddpg_continuous", "ddpg_tf_explicit", "dqn")
    )
    assert torch - tensorflow == {"matmul_precision"}
    assert not tensorflow - torch
    assert torch - keras == {"matmul_precision", "device", "num_threads"}, "its backend's, which the environment sets"
    assert keras - torch == {"optimizer"}
    rates = {"actor_learning_rate", "critic_learning_rate", "anneal", "weight_decay"}
    noise = {"noise", "noise_sigma", "ou_theta", "ou_dt", "noise_decay_steps"}
    assert torch - dqn == {*rates, *noise, "norm", "learning_starts", "matmul_precision"}
    assert len(torch & dqn) >= 20


def test_every_flag_in_the_readme_exists():
    """Of the scripts, of benchmark/, and of others' programs."""
    known = {name for path in SCRIPTS for name in re.findall(r"(?m)^    (\w+): ", path.read_text(encoding="utf-8"))}
    known = {name.replace("_", "-") for name in known} | {f"no-{name.replace('_', '-')}" for name in known} | {"help"}
    for path in (ROOT / "benchmark").glob("*.py"):
        known |= set(re.findall(r"add_argument\(\s*\"--([a-z-]+)", path.read_text(encoding="utf-8")))
    others = {"logdir", "nodes", "ntasks-per-node", "exclusive", "min-nodes", "head", "port"}  # TensorBoard, Slurm, Ray
    assert set(re.findall(r"--([a-z][a-z-]+)", README)) - others <= known


def test_every_test_and_file_that_the_readme_names_exists():
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py"))
    named = set(re.findall(r"`(test_\w+)`", README))
    assert len(named) > 10
    assert {name for name in named if f"def {name}(" not in tests} == set()
    links = set(re.findall(r"\]\(((?!http)[^)]+)\)", README))
    headings = re.findall(r"(?m)^#+ (.*)", README)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert {link for link in links - anchors if not (ROOT / link.partition("#")[0]).exists()} == set()


def test_the_code_that_the_readme_shows_of_a_script_stands_in_it():
    lines = {line.strip() for path in SCRIPTS for line in path.read_text(encoding="utf-8").splitlines()}
    blocks = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import" not in block]
    assert len(blocks) == len(SCRIPTS)
    shown = {line.strip() for block in blocks for line in block.splitlines()}
    assert shown <= lines
