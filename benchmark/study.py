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

Optional: `solved`; an environment's own `seeds`; `answer`, a sentence or two for the report; `variables`, a table
of environment variables (KERAS_BACKEND).

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


class StudyError(Exception):
    """What is wrong with a study and what to do, in one line."""


@cache
def arguments(script: str) -> dict[str, tuple[object, str]]:
    """Default and comment of every flag of a script, read from its source: to import it would load its framework."""
    source = (ROOT / script).read_text(encoding="utf-8")
    (args,) = (node for node in ast.parse(source).body if getattr(node, "name", None) == "Args")
    lines = source.splitlines()
    return {
        node.target.id: (ast.literal_eval(node.value), lines[node.end_lineno - 1].partition("  # ")[2])
        for node in args.body
        if isinstance(node, ast.AnnAssign)
    }


@dataclass(frozen=True)
class Trial:
    """One run of a study: a script, all its flags, a directory."""

    script: str
    env_id: str
    setting: str
    seed: int
    flags: dict[str, object] = field(hash=False)
    variables: dict[str, str] = field(hash=False)
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
        kept = {name: value for name, value in given.items() if name not in BOOKKEEPING}
        return self.script, self.variables.get("KERAS_BACKEND"), kept

    def other_arguments(self) -> str:
        """How the run that is in this directory differs from this one; empty if it does not, or if there is none."""
        if (theirs := identity(self.path)) is None:
            return ""
        (script, backend, args), ours = theirs, self.identity()
        differences = [f"{name} {args[name]} instead of {x}" for name, x in ours[2].items() if args.get(name) != x]
        if script != ours[0]:
            return f"{script} instead of {ours[0]}"
        return ", ".join(differences) or ("" if backend == ours[1] else f"backend {backend} instead of {ours[1]}")

    def finished(self) -> bool:
        """Whether this very run, in its own directory, is complete."""
        return is_finished(self.path) and not self.other_arguments()

    def found(self, results: Path = RESULTS) -> Path | None:
        """The directory of the finished run with these arguments: its own, or another study's; None without one."""
        if self.finished():
            return self.path
        ours = self.identity()
        return next((path for path, theirs in finished_runs(results) if theirs == ours), None)


def defaults(script: str) -> dict[str, object]:
    """The default of every flag, as JSON gives it back."""
    return {name: list(x) if isinstance(x, tuple) else x for name, (x, _) in arguments(script).items()}


def is_finished(path: Path) -> bool:
    """Whether the run in a directory has made all its steps, evaluated its end, and saved its last weights."""
    try:
        args = json.loads((path / "args.json").read_text())["args"]
        summary = json.loads((path / "summary.json").read_text())
    except (OSError, ValueError, KeyError):
        return False
    evaluated = not args["eval_every"] or (summary["final_evaluation"] or {}).get("step") == summary["steps"]
    saved = not list(path.glob("checkpoint.*")) or bool(list(path.glob("last.*")))  # committed is neither
    return summary["steps"] >= args["total_timesteps"] and evaluated and saved


def identity(path: Path) -> tuple[str, str | None, dict[str, object]] | None:
    """As Trial.identity(), of the run in a directory; None if none has begun there."""
    if not (path / "args.json").exists():
        return None
    try:
        content = json.loads((path / "args.json").read_text())
        script = f"{content['script']}.py"
        given = {**defaults(script), **content["args"]}  # it may be older than a flag, or have one that is no more
    except (OSError, ValueError, KeyError) as error:
        raise StudyError(f"{path / 'args.json'} is damaged ({error}): delete {path}, and it is trained again") from None
    backend = list(content["versions"])[-1] if script == "ddpg_keras.py" else None
    return script, backend, {name: given[name] for name in defaults(script).keys() - BOOKKEEPING}


@cache
def finished_runs(results: Path) -> list[tuple[Path, tuple]]:
    """Directory and identity of every finished run below a folder of results."""
    paths = (file.parent for file in sorted(results.glob("*/*/*/seed-*/args.json")))
    return [(path, identity(path)) for path in paths if is_finished(path)]


@dataclass(frozen=True)
class Study:
    """A study as its file says."""

    name: str
    question: str
    answer: str
    script: str
    solved: dict[str, float]  # the threshold of each environment
    settings: list[str]
    trials: list[Trial]


def names() -> list[str]:
    """All studies, in the order of the README."""
    first = ["classic", "normalisation", "noise", "sensitivity", "bipedalwalker", "mujoco", "annealing"]
    there = {path.stem for path in STUDIES.glob("*.toml")}
    return [*(name for name in first if name in there), *sorted(there - {*first})]


def load(name: str, results: Path = RESULTS, more: dict[str, object] | None = None) -> Study:
    """The study of this name, or in this file; `more` flags for every run. StudyError if it cannot be used."""
    file = Path(name) if name.endswith(".toml") else STUDIES / f"{name}.toml"
    if not file.exists():
        raise StudyError(f"{file} does not exist: give a .toml file, or one of {', '.join(names())}")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"{file} is not TOML: {error}") from None
    kinds = {"question": str, "script": str, "seeds": list, "environments": dict, "settings": dict}
    kinds |= {"answer": str, "variables": dict}
    for key, kind in kinds.items():
        if not isinstance(content.setdefault(key, kind()), kind) or (not content[key] and key in list(kinds)[:5]):
            raise StudyError(f"{file} needs {key}, a {kind.__name__} that is not empty (see benchmark/study.py)")
    if unknown := content.keys() - kinds:
        raise StudyError(f"{file}: nobody reads {', '.join(sorted(unknown))}")
    if not (ROOT / content["script"]).is_file():
        raise StudyError(f"{file}: there is no script {content['script']}")
    if wrong := [x for x in ("environments", "settings") if not all(isinstance(v, dict) for v in content[x].values())]:
        raise StudyError(f"{file}: in {wrong[0]}, everything is a table of flags")
    trials, solved = [], {}
    for env_id, environment in content["environments"].items():
        solved[env_id], seeds = environment.pop("solved", math.nan), environment.pop("seeds", content["seeds"])
        if not all(type(seed) is int and seed >= 0 for seed in seeds):
            raise StudyError(f"{file}: seeds are whole numbers from 0 on, not {seeds}")
        for setting, flags in content["settings"].items():
            given = {key.replace("-", "_"): value for key, value in {**environment, **flags, **(more or {})}.items()}
            if wrong := given.keys() - (arguments(content["script"]).keys() - OURS):
                raise StudyError(f"{file}: no flags of {content['script']} that a study can set: {', '.join(wrong)}")
            folder = results.resolve() / file.stem / re.sub(r"[^\w.-]", "-", env_id) / re.sub(r"[^\w.-]", "-", setting)
            for seed in seeds:
                path = folder / f"seed-{seed}"
                variables = {key: str(value) for key, value in content["variables"].items()}
                trials.append(Trial(content["script"], env_id, setting, seed, given, variables, path))
    texts = content["question"], content["answer"].strip(), content["script"]
    return Study(file.stem, *texts, solved, list(content["settings"]), trials)
