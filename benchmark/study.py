"""A study: which runs a question needs, how each is trained, and where its results are.

A study is a file in benchmark/studies/:

    question = "Which normalisation should actor and critic have?"
    script = "ddpg_continuous.py"
    seeds = [0, 1, 2, 3, 4]

    [environments.Pendulum-v1]
    solved = -170              # a run is solved once an evaluation's mean reaches this
    seeds = [0, 1]             # instead of the study's
    total-timesteps = 30_000   # everything else is a flag of the script, without its --

    [settings.batch]           # a line in the figures; what stands below it are flags, too,
    [settings.layer]           # and override the environment's
    norm = "layer"

What may be left out: `solved`, an environment's `seeds`, and these keys of the study:

    answer          what the runs have shown, in a few sentences; links start from benchmark/
    at-a-glance     the environments that the short table of benchmark/RESULTS.md shows
    keras-backend   of ddpg_keras.py (tensorflow)
    decisions       true if an environment repeats each action: a step of the run is then called a
                    decision, as with ddpg_pixels.py
    speed           a CSV of benchmark/speed.py in which all settings took turns, by which the
                    report turns steps into minutes; its path starts from benchmark/

Runs on a GPU need the flag `device`. A study of other libraries has `peers = true` instead of
`script`: its runs are trained by benchmark/peers.py, or by hand, and only reported. A setting of it
that names a `script` is a run of that script, which another study has trained. In the CSV of its
speed a setting has its own name, or the one that it gives by `timed-as`.

A run's directory is benchmark/results/STUDY/ENVIRONMENT/SETTING/seed-N. Two runs with the same
arguments are the same run: what one study has trained is not trained again for another. The commit
that made it does not count, but its report names it. Runs in benchmark/results/trials belong to no
study.
"""

import ast
import importlib
import json
import math
import platform
import re
import shlex
import sys
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "benchmark" / "studies"
RESULTS = ROOT / "benchmark" / "results"
INSTALL = "pip install -r requirements.txt -r requirements-dev.txt"

# Flags that the sweep sets, or that train nothing
NOT_FOR_STUDIES = {"env_id", "seed", "runs_dir", "run_name", "resume", "evaluate", "render"}
# Flags that change no number
BOOKKEEPING = {"runs_dir", "run_name", "resume", "evaluate", "render", "track", "capture_video"}
# Flags that the scripts no longer have, with the value that means what they do now
REMOVED_FLAGS = {"double": False, "matmul_precision": "highest", "noise_decay_steps": 0}
# What keras-backend may be
BACKENDS = ("tensorflow", "jax", "torch")
# Flags that say how long a run is and how often it is evaluated
LENGTHS = {"total_timesteps", "learning_starts", "eval_every", "eval_episodes"}
# What a report needs of another library's run
PEER_ARGUMENTS = ("total_timesteps", "eval_every", "eval_episodes")

# The order of the page of results; other studies follow by name
FIRST_STUDIES = [
    "classic",
    "lander",
    "normalisation",
    "noise",
    "sensitivity",
    "bipedalwalker",
    "mujoco",
]
REQUIRED_KEYS = {"question": str, "seeds": list, "environments": dict, "settings": dict}
OPTIONAL_KEYS = {
    "script": str,
    "peers": bool,
    "answer": str,
    "at-a-glance": list,
    "keras-backend": str,
    "decisions": bool,
    "speed": str,
}


class StudyError(Exception):
    """What is wrong with a study or its results and what to do, in one line."""


def explain_missing_package(error: ImportError, module: str) -> None:
    """Ends a command whose packages are not installed with one line instead of a traceback."""
    if module != "__main__":  # it is being imported: that is for the importer to handle
        raise error
    print(f"{error}: {INSTALL}", file=sys.stderr)
    sys.exit(2)


def import_triton_first() -> None:
    """To be called before anything imports TensorFlow; imports triton, where it is installed.

    PyTorch for CUDA brings triton, and imports it with its first optimiser. After TensorFlow that
    crashes the process (https://github.com/tensorflow/tensorflow/issues/124205).
    """
    with suppress(ImportError):
        importlib.import_module("triton")


# -------------------------------------------------------------------------------- a script's flags
class Flag(NamedTuple):
    """What a script's source says of a flag."""

    default: object
    comment: str


@cache
def script_flags(script: str) -> dict[str, Flag]:
    """A script's flags, read from its source: to import it would load its framework."""
    source = read_script(script)
    lines = source.splitlines()
    found = {}
    for node in class_args(source, script).body:
        if isinstance(node, ast.AnnAssign):
            last_line = lines[node.end_lineno - 1]
            comment = last_line.partition("  # ")[2]
            found[node.target.id] = Flag(ast.literal_eval(node.value), comment)
    return found


def read_script(script: str) -> str:
    """The source of a script in the repository's root."""
    path = ROOT / script
    if path.suffix != ".py" or not path.is_file():
        raise StudyError(f"there is no script {script}")
    return path.read_text(encoding="utf-8")


def class_args(source: str, script: str) -> ast.ClassDef:
    """The class Args in a script's source."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == "Args":
            return node
    raise StudyError(f"{script} has no class Args")


def defaults(script: str) -> dict[str, object]:
    """The default of every flag, as JSON gives it back."""
    values = {}
    for name, flag in script_flags(script).items():
        values[name] = flag.default
        if isinstance(flag.default, tuple):
            values[name] = list(flag.default)
    return values


def is_like(value: object, default: object) -> bool:
    """Whether a flag may have this value, as far as its default tells; the script checks more."""
    if isinstance(default, list):
        if not isinstance(value, list) or len(value) != len(default):
            return False
        return all(is_like(x, y) for x, y in zip(value, default, strict=True))
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)


def processor() -> str:
    """This machine's processor, as a paper names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        model = re.search(r"(?m)^model name\s*: (.*)", cpuinfo.read_text())
        if model:
            return model[1]
    name = platform.processor()
    if name == "":
        return platform.machine()
    return name


def full_path(text: str) -> Path:
    """A path on a command line; the shell leaves the ~ in --results=~/x."""
    return Path(text).expanduser().resolve()


# --------------------------------------------------------------------------------- what a run left
class Identity(NamedTuple):
    """What decides a run's numbers. Runs in which it is equal are the same run."""

    script: str
    backend: str | None  # of ddpg_keras.py
    args: dict[str, object]
    extended: list  # each time that --resume made it longer, if its learning rates fall


def load_json(path: Path) -> dict:
    """What a run's file holds; StudyError if it is damaged or missing."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be used: {error}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path} cannot be used: it holds no table")
    return content


def is_finished(path: Path) -> bool:
    """Whether a run has made all its steps, evaluated its end, and saved its last weights."""
    try:
        args = load_json(path / "args.json")["args"]
        summary = load_json(path / "summary.json")
        if summary["steps"] < args["total_timesteps"]:
            return False
        if args["eval_every"] and summary["final_evaluation"]["step"] != summary["steps"]:
            return False
    except (StudyError, KeyError, TypeError):  # a file is not there yet, or half of it
        return False
    # A run killed between its last step and its last weights still has its checkpoint. In the
    # repository there is neither: weights are not committed.
    checkpoints = list(path.glob("checkpoint.*"))
    weights = list(path.glob("last.*"))
    return not checkpoints or bool(weights)


def is_of_our_scripts(path: Path) -> bool:
    """Whether a script of this repository made the run, and not another library."""
    script = load_json(path / "args.json").get("script")
    return (ROOT / f"{script}.py").is_file()


def identity(path: Path) -> Identity | None:
    """The identity of the run in a directory.

    None if no run has begun there; StudyError if its args.json is damaged.
    """
    file = path / "args.json"
    if not file.exists():
        return None
    try:
        content = load_json(file)
        script = f"{content['script']}.py"
        args = {**defaults(script), **content["args"]}  # a run may be older than a flag
        backend = None
        if script == "ddpg_keras.py":
            backend = list(content["versions"])[-1]  # the script puts it last
        extended = []
        if args.get("anneal"):
            extended = content.get("extended", [])
    except (KeyError, TypeError, IndexError, StudyError) as error:
        raise StudyError(f"{file} cannot be used ({error}): move the run away") from None
    return Identity(script, backend, deciding(args), extended)


def deciding(args: dict[str, object]) -> dict[str, object]:
    """The arguments that decide a run's numbers."""
    return {
        name: value
        for name, value in args.items()
        if name not in BOOKKEEPING and (name, value) not in REMOVED_FLAGS.items()
    }


@cache
def finished_runs(results: Path) -> list[tuple[Path, Identity]]:
    """Directory and identity of every finished run of our scripts in a folder of results.

    Those of the trials are left out: they are of older algorithms.
    """
    runs = []
    for file in sorted(results.glob("*/*/*/seed-*/args.json")):
        path = file.parent
        is_trial = path.is_relative_to(results / "trials")
        if not is_trial and is_finished(path) and is_of_our_scripts(path):
            runs.append((path, identity(path)))
    return runs


# ------------------------------------------------------------------------------------------- a run
@dataclass(frozen=True)
class Run:
    """One run of a study: a script, its flags, a directory."""

    script: str
    env_id: str
    setting: str
    seed: int
    flags: dict[str, object]
    backend: str | None  # of ddpg_keras.py
    path: Path

    def __str__(self) -> str:
        return f"{self.env_id} {self.setting} seed {self.seed}"

    @property
    def log(self) -> Path:
        """The file of what the run prints."""
        return self.path.with_suffix(".log")

    @property
    def starts(self) -> Path:
        """The file of what each process of the run started from."""
        return self.path.with_suffix(".starts")

    @property
    def folder(self) -> str:
        """The directory as the run is told it: within the repository, without the path to it."""
        if self.path.is_relative_to(ROOT):
            return self.path.relative_to(ROOT).as_posix()
        return self.path.as_posix()

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that the run needs."""
        if self.backend is None:
            return {}
        return {"KERAS_BACKEND": self.backend, "OMP_NUM_THREADS": "1"}

    def options(self) -> list[str]:
        """The script and its flags, as words of a command line."""
        runs_dir, run_name = self.folder.rsplit("/", 1)
        words = [self.script]
        words += as_options({"env_id": self.env_id, "seed": self.seed, **self.flags})
        words += as_options({"runs_dir": runs_dir, "run_name": run_name})
        return words

    def command(self) -> str:
        """What can be pasted into a shell, in the repository's root."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return " ".join([*words, "python", shlex.join(self.options())])

    def algorithm(self) -> str:
        """The script and those flags that change the algorithm."""
        chosen = {name: value for name, value in self.flags.items() if name not in LENGTHS}
        return shlex.join([self.script, *as_options(chosen)])

    def identity(self) -> Identity:
        """What decides the run's numbers: its flags, and the defaults of all others."""
        own = {"env_id": self.env_id, "seed": self.seed, **self.flags}
        return Identity(self.script, self.backend, deciding({**defaults(self.script), **own}), [])

    def other_arguments(self) -> str:
        """How the run in this directory differs from this one.

        Empty if it does not, or if there is none.
        """
        found = identity(self.path)
        wanted = self.identity()
        if found is None or found == wanted:
            return ""
        if found.script != wanted.script:
            return f"of {found.script} instead of {wanted.script}"
        differences = []
        for name in {**wanted.args, **found.args}:
            old, new = found.args.get(name), wanted.args.get(name)
            if old != new:
                differences.append(f"{name} {old} instead of {new}")
        if found.backend != wanted.backend:
            differences.append(f"backend {found.backend} instead of {wanted.backend}")
        for extension in found.extended:
            old_length = extension["total_timesteps"]
            differences.append(f"trained to {old_length} and then longer, by --resume")
        return ", ".join(differences)

    def finished(self) -> bool:
        """Whether this very run, in its own directory, is complete."""
        return is_finished(self.path) and not self.other_arguments()

    def found(self, results: Path = RESULTS) -> Path | None:
        """The directory of the finished run with these arguments: its own or another study's."""
        if self.finished():
            return self.path
        wanted = self.identity()
        for path, other in finished_runs(results.resolve()):
            if other == wanted:
                return path
        return None


@dataclass(frozen=True)
class PeerRun:
    """A run of another library: trained by hand, with a summary and CSVs like those of ours."""

    env_id: str
    setting: str
    seed: int
    lengths: dict[str, object]  # flags that say how long it is and how often it is evaluated
    path: Path

    def __str__(self) -> str:
        return f"{self.env_id} {self.setting} seed {self.seed}"

    def algorithm(self) -> str:
        """The other program, by the name of the setting."""
        return self.setting

    def finished(self) -> bool:
        """Whether the run is complete. StudyError if its args.json lacks something, or differs."""
        if (self.path / "args.json").exists():
            self.check_arguments()
        return is_finished(self.path)

    def check_arguments(self) -> None:
        """StudyError if the report needs what args.json lacks, or if the run has other lengths."""
        file = self.path / "args.json"
        content = load_json(file)
        if not isinstance(content.get("versions"), dict):
            raise StudyError(f"{file} has no versions")
        args = content.get("args", {})
        for name in PEER_ARGUMENTS:
            if name not in args:
                raise StudyError(f"{file} has no {name} among its args")
        wanted = {"env_id": self.env_id, "seed": self.seed, **self.lengths}
        for name, value in wanted.items():
            if args.get(name, value) != value:
                raise StudyError(f"{file}: {name} is {args[name]}, and {value} in the study")

    def found(self, results: Path = RESULTS) -> Path | None:
        """The run's directory; None if it is not complete."""
        if self.finished():
            return self.path
        return None


def as_options(flags: dict[str, object]) -> list[str]:
    """Flags as words of a command line."""
    words = []
    for name, value in flags.items():
        option = name.replace("_", "-")
        if value is True:
            words.append(f"--{option}")
        elif value is False:
            words.append(f"--no-{option}")
        elif isinstance(value, list):
            words += [f"--{option}", *map(str, value)]
        else:
            words += [f"--{option}", str(value)]
    return words


# ----------------------------------------------------------------------------------------- a study
@dataclass(frozen=True)
class Study:
    """A study as its file says."""

    name: str
    asked_for: str  # the name, or the file, by which it was asked for
    question: str
    answer: str
    script: str | None  # None: the study is of other libraries
    at_a_glance: list[str]
    thresholds: dict[str, float]  # of each environment, NaN without one
    has_decisions: bool  # an environment repeats each action
    speed: Path | None  # CSV of benchmark/speed.py in which all settings took turns
    names_in_speed: dict[str, str]  # what each setting is called there
    runs: list[Run | PeerRun]


def names() -> list[str]:
    """All studies, in the order of the page of results."""
    there = sorted(path.stem for path in STUDIES.glob("*.toml"))
    first = [name for name in FIRST_STUDIES if name in there]
    return first + [name for name in there if name not in first]


def load(name: str, results: Path = RESULTS) -> Study:
    """The study of this name, or in this .toml file; StudyError if it cannot be used."""
    file = STUDIES / f"{name}.toml"
    if name.endswith(".toml"):
        file = Path(name)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        hint = f"give a .toml file, or one of {', '.join(names())}"
        raise StudyError(f"{file} cannot be read ({error.strerror}): {hint}") from None
    except ValueError as error:  # it is not TOML, or not UTF-8
        raise StudyError(f"{file}: {error}") from None
    try:
        check_keys(content)
        if name.endswith(".toml") and results == RESULTS:
            check_name(file)
        names_in_speed = take_names_in_speed(content)  # before the settings are read as flags
        return Study(
            name=file.stem,
            asked_for=name,
            question=content["question"],
            answer=content.get("answer", "").strip(),
            script=content.get("script"),
            at_a_glance=content.get("at-a-glance", []),
            thresholds=read_thresholds(content["environments"]),
            has_decisions=content.get("decisions", False),
            speed=read_speed(content),
            names_in_speed=names_in_speed,
            runs=read_runs(content, results.resolve() / file.stem),
        )
    except StudyError as error:
        raise StudyError(f"{file}: {error}") from None


def check_name(file: Path) -> None:
    """StudyError if another study of this name has its results in the repository."""
    committed = STUDIES / file.name
    if committed.exists() and not committed.samefile(file):
        raise StudyError(f"there is a study {file.stem} already: give it another name")


def check_keys(content: dict) -> None:
    """StudyError if a key of the study is missing, unknown, or of the wrong type."""
    for key, kind in REQUIRED_KEYS.items():
        if not isinstance(content.get(key), kind) or not content[key]:
            what = f"a {kind.__name__} that is not empty"
            raise StudyError(f"it needs {key}, {what} (see benchmark/study.py)")
    for key, kind in OPTIONAL_KEYS.items():
        if key in content and not isinstance(content[key], kind):
            raise StudyError(f"{key} has to be a {kind.__name__}")
    unknown = content.keys() - REQUIRED_KEYS.keys() - OPTIONAL_KEYS.keys()
    if unknown:
        raise StudyError(f"unknown keys: {', '.join(sorted(unknown))} (see benchmark/study.py)")
    if ("script" in content) == content.get("peers", False):
        raise StudyError("it needs script, or peers = true (see benchmark/study.py)")
    for table in (*content["environments"].values(), *content["settings"].values()):
        if not isinstance(table, dict):
            raise StudyError("every environment and every setting is a table of flags")
    if content.get("keras-backend", BACKENDS[0]) not in BACKENDS:
        raise StudyError(f"keras-backend is one of {', '.join(BACKENDS)}")
    env_ids = list(content["environments"])  # a list: what at-a-glance holds may be anything
    wrong = [x for x in content.get("at-a-glance", []) if x not in env_ids]
    if wrong:
        raise StudyError(f"at-a-glance names {wrong[0]}, which is not among the environments")


def read_speed(content: dict) -> Path | None:
    """The CSV that says how fast the settings are, if the study names one."""
    if "speed" not in content:
        return None
    file = ROOT / "benchmark" / content["speed"]
    if not file.is_file():
        raise StudyError(f"its speed is in no file {file}")
    return file


def take_names_in_speed(content: dict) -> dict[str, str]:
    """What each setting is called in that CSV. Takes it out of the settings."""
    names = {}
    for setting, flags in content["settings"].items():
        names[setting] = flags.pop("timed-as", setting)
        if not isinstance(names[setting], str):
            raise StudyError(f"timed-as is a name, not {names[setting]!r}")
    return names


def read_thresholds(environments: dict) -> dict[str, float]:
    """The mean return from which on each environment counts as solved, NaN without one."""
    thresholds = {}
    for env_id, environment in environments.items():
        threshold = environment.get("solved", math.nan)
        if not is_like(threshold, 0.0):
            raise StudyError(f"solved is a number, not {threshold!r}")
        thresholds[env_id] = threshold
    return thresholds


def read_runs(content: dict, folder: Path) -> list[Run | PeerRun]:
    """All runs of a study, in a folder of their own."""
    runs = []
    for env_id in content["environments"]:
        for setting in content["settings"]:
            if not re.fullmatch(r"[^\W_][\w.+-]*", setting):
                allowed = "letters, digits and . + - _, and begins with a letter or digit"
                raise StudyError(f"a setting's name has {allowed}, unlike {setting!r}")
            env_folder = folder / re.sub(r"[^\w.-]", "-", env_id)
            runs += read_seeds(content, env_id, setting, env_folder / setting)
    paths = {run.path for run in runs}
    if len(paths) < len(runs):
        hint = "every seed once, environments of different names"
        raise StudyError(f"two of its runs have one directory: {hint}")
    return runs


def read_seeds(content: dict, env_id: str, setting: str, folder: Path) -> list[Run | PeerRun]:
    """The runs of one setting in one environment, one for each seed."""
    environment = dict(content["environments"][env_id])
    environment.pop("solved", None)
    seeds = environment.pop("seeds", content["seeds"])
    is_right = isinstance(seeds, list) and all(type(x) is int and x >= 0 for x in seeds)
    if not is_right or not seeds:
        raise StudyError(f"seeds are a list of whole numbers from 0 on, not {seeds}")

    own_flags = dict(content["settings"][setting])
    script = content.get("script")
    if content.get("peers"):
        script = own_flags.pop("script", None)
        if not isinstance(script, str | None):
            raise StudyError(f"script is a name, not {script!r}")
    flags = {**with_underscores(environment), **with_underscores(own_flags)}
    if script is None:
        if own_flags:
            raise StudyError(f"a setting of peers has no flags, unlike {setting}: {own_flags}")
        check_lengths(flags)
        return [PeerRun(env_id, setting, seed, flags, folder / f"seed-{seed}") for seed in seeds]

    check_flags(flags, script)
    backend = None
    if script == "ddpg_keras.py":
        backend = content.get("keras-backend", "tensorflow")
    return [
        Run(script, env_id, setting, seed, flags, backend, folder / f"seed-{seed}")
        for seed in seeds
    ]


def with_underscores(table: dict[str, object]) -> dict[str, object]:
    """Flags by their names in the script; StudyError if one stands there in both spellings."""
    flags = {}
    for name, value in table.items():
        with_underscore = name.replace("-", "_")
        if with_underscore in flags:
            raise StudyError(f"{name} is set twice, with - and with _")
        flags[with_underscore] = value
    return flags


def check_lengths(given: dict[str, object]) -> None:
    """StudyError if these are not what a run of another library is compared by."""
    allowed = ", ".join(PEER_ARGUMENTS)
    unknown = given.keys() - set(PEER_ARGUMENTS)
    if unknown:
        raise StudyError(f"peers have only {allowed}, unlike {', '.join(sorted(unknown))}")
    if len(given) < len(PEER_ARGUMENTS):
        raise StudyError(f"an environment of peers has to set {allowed}")


def check_flags(given: dict[str, object], script: str) -> None:
    """StudyError if a script does not have these flags, or not with such values."""
    known = defaults(script)
    unknown = given.keys() - (known.keys() - NOT_FOR_STUDIES)
    if unknown:
        listed = ", ".join(sorted(unknown))
        raise StudyError(f"no flags of {script} that a study can set: {listed}")
    for name, value in given.items():
        if not is_like(value, known[name]):
            raise StudyError(f"{name} is {value!r}: it has to be like its default, {known[name]!r}")
