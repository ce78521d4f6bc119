"""A study: which runs a question needs, what the command of each is, and where its results are.

A study is a file in benchmark/studies/:

    question = "Which normalisation should actor and critic have?"
    script = "ddpg_continuous.py"
    seeds = [0, 1, 2, 3, 4]

    [environments.Pendulum-v1]
    solved = -170              # an evaluation whose mean reaches this counts as solved
    seeds = [0, 1]             # here other ones
    total-timesteps = 15_000   # all else are flags of the script, without their --

    [settings.layer]           # a line in the figures; flags, too
    [settings.batch]
    norm = "batch"

Optional: `solved`; an environment's own `seeds`; `answer`, a sentence or two for the report; `keras-backend`, with
ddpg_keras.py (tensorflow). Runs on a GPU need the flag `device`.

A run's directory is benchmark/results/STUDY/ENVIRONMENT/SETTING/seed-N. Two runs with the same arguments are the same
run: what one study has finished is not trained again for another, and the report finds it where it is.
"""

import ast
import json
import math
import re
import shlex
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUDIES, RESULTS = ROOT / "benchmark" / "studies", ROOT / "benchmark" / "results"
OURS = {"env_id", "seed", "runs_dir", "run_name", "resume", "evaluate", "render"}  # flags that a study cannot set
BOOKKEEPING = {"runs_dir", "run_name", "resume", "evaluate", "render", "track", "capture_video"}  # change no number
FIRST = ["classic", "normalisation", "noise", "sensitivity", "bipedalwalker", "mujoco", "annealing"]  # in the README
REQUIRED = {"question": str, "script": str, "seeds": list, "environments": dict, "settings": dict}
OPTIONAL = {"answer": str, "keras-backend": str}


class StudyError(Exception):
    """What is wrong with a study or its results and what to do, in one line."""


# ------------------------------------------------------------------------------------------------ a script's arguments
@cache
def arguments(script: str) -> dict[str, tuple[object, str]]:
    """Default and comment of every flag of a script, read from its source: to import it would load its framework."""
    try:
        source = (ROOT / script).read_text(encoding="utf-8")
        (args,) = (node for node in ast.parse(source).body if getattr(node, "name", None) == "Args")
    except (OSError, SyntaxError, ValueError):
        raise StudyError(f"there is no script {script} with a class Args") from None
    lines = source.splitlines()
    return {
        node.target.id: (ast.literal_eval(node.value), lines[node.end_lineno - 1].partition("  # ")[2])
        for node in args.body
        if isinstance(node, ast.AnnAssign)
    }


def defaults(script: str) -> dict[str, object]:
    """The default of every flag, as JSON gives it back."""
    return {name: list(x) if isinstance(x, tuple) else x for name, (x, _) in arguments(script).items()}


def fits(value: object, default: object) -> bool:
    """Whether a flag can have this value, as far as its default tells; the script looks closer."""
    if isinstance(default, list):
        return isinstance(value, list) and len(value) == len(default) and all(map(fits, value, default))
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)


# ------------------------------------------------------------------------------------------------------------- a run
@dataclass(frozen=True)
class Trial:
    """One run of a study: a script, all its flags, a directory."""

    script: str
    env_id: str
    setting: str
    seed: int
    flags: dict[str, object] = field(hash=False)
    backend: str | None  # of ddpg_keras.py
    path: Path

    def __str__(self) -> str:
        return f"{self.env_id} {self.setting} seed {self.seed}"

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.path.with_suffix(".log")

    @property
    def folder(self) -> str:
        """The directory as the run is told it: within the repository, no path of one machine."""
        return (self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path).as_posix()

    @property
    def variables(self) -> dict[str, str]:
        """What the run finds in its environment, besides."""
        return {"KERAS_BACKEND": self.backend} if self.backend else {}

    def options(self) -> list[str]:
        """The script and its flags, as on a command line."""
        where = dict(zip(("runs_dir", "run_name"), self.folder.rsplit("/", 1), strict=True))
        words = [self.script]
        for name, value in {"env_id": self.env_id, "seed": self.seed, **self.flags, **where}.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
        return words

    def command(self) -> str:
        """What one pastes into a shell, in the repository's root."""
        variables = [f"{name}={shlex.quote(value)} " for name, value in self.variables.items()]
        return f"{''.join(variables)}python {shlex.join(self.options())}"

    def identity(self) -> tuple[str, str | None, dict[str, object]]:
        """Script, Keras's backend and all arguments that decide the numbers: the flags, the defaults of the rest."""
        given = {**defaults(self.script), "env_id": self.env_id, "seed": self.seed, **self.flags}
        return self.script, self.backend, {name: x for name, x in given.items() if name not in BOOKKEEPING}

    def other_arguments(self) -> str:
        """How the run that is in this directory differs from this one; empty if it does not, or if there is none."""
        if (theirs := identity(self.path)) is None:
            return ""
        (script, backend, args), ours = theirs, self.identity()
        if script != ours[0]:
            return f"of {script} instead of {ours[0]}"
        differences = [f"{name} {args[name]} instead of {x}" for name, x in ours[2].items() if args[name] != x]
        return ", ".join(differences) or ("" if backend == ours[1] else f"backend {backend} instead of {ours[1]}")

    def finished(self) -> bool:
        """Whether this very run, in its own directory, is complete."""
        return is_finished(self.path) and not self.other_arguments()

    def found(self, results: Path = RESULTS) -> Path | None:
        """The directory of the finished run with these arguments: its own, or another study's; None without one."""
        if self.finished():
            return self.path
        ours = self.identity()
        return next((path for path, theirs in finished_runs(results.resolve()) if theirs == ours), None)


def load_json(path: Path) -> dict:
    """What a run's file holds; StudyError if it is damaged."""
    try:
        if not isinstance(content := json.loads(path.read_text()), dict):
            raise ValueError("it holds no table")
        return content
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be used: {error}") from None


def is_finished(path: Path) -> bool:
    """Whether the run in a directory has made all its steps, evaluated its end, and saved its last weights."""
    try:
        args = json.loads((path / "args.json").read_text())["args"]
        summary = json.loads((path / "summary.json").read_text())
        evaluated = not args["eval_every"] or summary["final_evaluation"]["step"] == summary["steps"]
        saved = not list(path.glob("checkpoint.*")) or bool(list(path.glob("last.*")))  # committed is neither
        return summary["steps"] >= args["total_timesteps"] and evaluated and saved
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it has not come so far
        return False


def identity(path: Path) -> tuple[str, str | None, dict[str, object]] | None:
    """As Trial.identity(), of the run in a directory; None if none has begun there; StudyError if it is damaged."""
    if not (path / "args.json").exists():
        return None
    try:
        content = load_json(path / "args.json")
        script = f"{content['script']}.py"
        given = {**defaults(script), **content["args"]}  # it may be older than a flag, or have one that is no more
        backend = list(content["versions"])[-1] if script == "ddpg_keras.py" else None
    except (OSError, ValueError, KeyError, TypeError, StudyError) as error:
        raise StudyError(f"{path / 'args.json'} cannot be used ({error}): move the run away") from None
    return script, backend, {name: given[name] for name in defaults(script).keys() - BOOKKEEPING}


@cache
def finished_runs(results: Path) -> list[tuple[Path, tuple]]:
    """Directory and identity of every finished run below a folder of results."""
    paths = (file.parent for file in sorted(results.glob("*/*/*/seed-*/args.json")))
    return [(path, identity(path)) for path in paths if is_finished(path)]


# ----------------------------------------------------------------------------------------------------------- a study
@dataclass(frozen=True)
class Study:
    """A study as its file says."""

    name: str
    given: str  # the name, or the file, by which it was asked for
    question: str
    answer: str
    script: str
    solved: dict[str, float]  # the threshold of each environment, NaN without one
    trials: list[Trial]


def names() -> list[str]:
    """All studies, in the order of the README."""
    there = {path.stem for path in STUDIES.glob("*.toml")}
    return [*(name for name in FIRST if name in there), *sorted(there - {*FIRST})]


def load(name: str, results: Path = RESULTS) -> Study:
    """The study of this name, or in this file; StudyError if it cannot be used."""
    file = Path(name) if name.endswith(".toml") else STUDIES / f"{name}.toml"
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        return parse(file.stem, name, content, results.resolve())
    except OSError as error:
        hint = f"give a .toml file, or one of {', '.join(names())}"
        raise StudyError(f"{file} cannot be read ({error.strerror}): {hint}") from None
    except (ValueError, StudyError) as error:  # of TOML, too
        raise StudyError(f"{file}: {error}") from None


def parse(name: str, given: str, content: dict, results: Path) -> Study:
    """A study from what its file holds."""
    for key, kind in (REQUIRED | OPTIONAL).items():
        if not isinstance(content.setdefault(key, kind()), kind) or (key in REQUIRED and not content[key]):
            raise StudyError(f"it needs {key}, a {kind.__name__} that is not empty (see benchmark/study.py)")
    if unknown := content.keys() - REQUIRED.keys() - OPTIONAL.keys():
        raise StudyError(f"nobody reads {', '.join(sorted(unknown))}")
    script, known = content["script"], defaults(content["script"])
    backend = (content["keras-backend"] or "tensorflow") if script == "ddpg_keras.py" else None
    trials, solved = [], {}
    for env_id, environment in content["environments"].items():
        for setting, flags in content["settings"].items():
            if not isinstance(environment, dict) or not isinstance(flags, dict):
                raise StudyError("every environment and every setting is a table of flags")
            both = {key.replace("-", "_"): value for key, value in {**environment, **flags}.items()}
            seeds, solved[env_id] = both.pop("seeds", content["seeds"]), both.pop("solved", math.nan)
            if not (isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)):
                raise StudyError(f"seeds are a list of whole numbers from 0 on, not {seeds}")
            if not fits(solved[env_id], 0.0):
                raise StudyError(f"solved is a number, not {solved[env_id]!r}")
            if wrong := both.keys() - (known.keys() - OURS):
                raise StudyError(f"no flags of {script} that a study can set: {', '.join(sorted(wrong))}")
            for flag, value in both.items():
                if not fits(value, known[flag]):
                    raise StudyError(f"{flag} is {value!r}: it has to be like its default, {known[flag]!r}")
            if not re.fullmatch(r"[\w.+-]+", setting):
                raise StudyError(f"a setting's name has letters, digits and . + - _, unlike {setting!r}")
            folder = results / name / re.sub(r"[^\w.-]", "-", env_id) / setting
            made = (Trial(script, env_id, setting, x, both, backend, folder / f"seed-{x}") for x in seeds)
            trials += made
    if len({trial.path for trial in trials}) < len(trials):
        raise StudyError("two of its runs have one directory: every seed once, environments of different names")
    texts = content["question"], content["answer"].strip()
    return Study(name, given, *texts, script, solved, trials)
