"""Steps per second of the scripts beside Stable-Baselines3's DDPG, on this machine (Linux, macOS).

    pip install -r requirements.txt -r requirements-dev.txt
    python benchmark/speed.py
    python benchmark/speed.py --only "keras|tf_explicit.*none" --out my-speed
    python benchmark/speed.py --only continuous --device cuda --threads 1 --out my-gpu-speed

Same environment, layer sizes, batch size and threads; uniform replay, an update per step; logging
and progress bar on, evaluation off. Every contestant is a process of its own. After its first 1,000
updates it takes turns with the others: 250 steps, then it is stopped (SIGSTOP) until all others
have had theirs, in the opposite order every second time. So a machine whose speed drifts is about
as slow for all, the more so the fewer they are. speed.csv gets every turn; printed, and saved as
speed.md, are the medians over the turns, and median and quartiles of the ratio within a turn.
Stable-Baselines3's critic takes the action at its first layer.

All contestants together need about 14 GiB of memory, each 0.5 to 1.1: with less, use `--only`.

The floor is what an update cannot do without: its matrix products (no normalisation), alone, by
NumPy, PyTorch and JAX. "Share of the floor": a script's steps per second, divided by those of the
fastest of the three in the same turn.

With `--device cuda` Stable-Baselines3 and ddpg_continuous.py train on the GPU, and ddpg_keras.py on
what its backend finds; ddpg_continuous.py on the CPU stands beside them, and no floor.

`--peer NAME COMMAND` adds another program. It is called with the number of threads and of steps. It
has to make one `turns = Turns()` of this module, and to call `turns.after(step)` after every step.
Device and batch size are for its command to choose.
"""

import argparse
import contextlib
import csv
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import study

try:
    import gymnasium
    import numpy as np
except ImportError as error:
    study.explain_missing_package(error, __name__)

RANDOM_STEPS = 1_000  # before the first update
FIRST_STEP = 2_000  # of the first turn
TURN = 250  # steps of a turn
HIDDEN_SIZES = [400, 300]
ENV_ID = "LunarLanderContinuous-v3"
OBSERVATION_SIZE = 8
ACTION_SIZE = 2
SECONDS = "SECONDS"  # begins the line in which a contestant says how long its turn took


@dataclass
class Setup:
    """What is the same for all contestants."""

    threads: int
    total_steps: int
    batch_size: int
    folder: str  # for logs


# --------------------------------------------------------------------------------- in a contestant
class Turns:
    """To be told of every step: stops the process at the end of each of its turns."""

    def __init__(self) -> None:
        self.steps = 0
        self.start_time = 0.0

    def after(self, step: int) -> None:
        """Says how long the turn took if this step ends one, and stops until the next one."""
        if step >= FIRST_STEP and (step - FIRST_STEP) % TURN == 0:
            print(f"\n{SECONDS} {time.perf_counter() - self.start_time}", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
            self.start_time = time.perf_counter()

    def after_another_step(self) -> None:
        """The same, for whom counting is no concern."""
        self.steps += 1
        self.after(self.steps)


class TimedEnv(gymnasium.Wrapper):
    """An environment of which every step counts."""

    def __init__(self, env: gymnasium.Env, turns: Turns) -> None:
        super().__init__(env)
        self.renew = getattr(env, "renew", None)  # of our scripts, after a checkpoint
        self.turns = turns

    def step(self, action: object) -> tuple:
        transition = super().step(action)
        self.turns.after_another_step()
        return transition


def train_script(
    setup: Setup,
    name: str,
    norm: str,
    backend: str = "tensorflow",
    device: str = "cpu",
    graphs: bool = True,
) -> None:
    """Trains by a script: ddpg_keras.py on this backend, ddpg_continuous.py on this device."""
    sys.path.insert(0, str(study.ROOT))
    os.environ["KERAS_BACKEND"] = backend  # both are read as the framework is imported
    os.environ["OMP_NUM_THREADS"] = str(setup.threads)
    script = importlib.import_module(name)
    make_env = script.make_env
    turns = Turns()

    def make_timed_env(*args: object, **options: object) -> TimedEnv:
        return TimedEnv(make_env(*args, **options), turns)

    script.make_env = make_timed_env
    args = script.Args(
        env_id=ENV_ID,
        total_timesteps=setup.total_steps,
        learning_starts=RANDOM_STEPS,
        batch_size=setup.batch_size,
        hidden_sizes=tuple(HIDDEN_SIZES),
        norm=norm,
        eval_every=0,
        runs_dir=setup.folder,
        run_name="run",
    )
    if name != "ddpg_keras":
        args.num_threads = setup.threads
    if name == "ddpg_continuous":
        args.device = device
        if not graphs:
            script.CudaGraph = lambda function: function  # every operation is launched by itself
    script.train(args)


def train_stable_baselines3(setup: Setup, device: str) -> None:
    """Trains Stable-Baselines3's DDPG."""
    study.import_triton_first()  # it imports TensorFlow, by way of TensorBoard
    import torch
    from stable_baselines3 import DDPG
    from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise

    torch.set_num_threads(setup.threads)
    sigma = 0.3 * np.ones(ACTION_SIZE)
    model = DDPG(
        "MlpPolicy",
        TimedEnv(gymnasium.make(ENV_ID), Turns()),
        batch_size=setup.batch_size,
        learning_starts=RANDOM_STEPS,
        train_freq=1,
        gradient_steps=1,
        action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(ACTION_SIZE), sigma, dt=0.1),
        policy_kwargs={"net_arch": HIDDEN_SIZES},
        tensorboard_log=setup.folder,
        verbose=1,
        device=device,
    )
    model.learn(setup.total_steps, progress_bar=True)


# --------------------------------------------------------------------------------------- the floor
Product = tuple[int, int, int]  # (rows, inner, columns): an (rows, inner) times an (inner, columns)
Pairs = list[tuple[np.ndarray, np.ndarray]]


def products(n: int) -> list[Product]:
    """The matrix products of one update with n transitions: no more than its gradients need."""
    units_1, units_2 = HIDDEN_SIZES
    actor = [(n, OBSERVATION_SIZE, units_1), (n, units_1, units_2), (n, units_2, ACTION_SIZE)]
    critic = [
        (n, OBSERVATION_SIZE, units_1),
        (n, units_1 + ACTION_SIZE, units_2),
        (n, units_2, 1),
    ]
    # Forward: both targets; both networks; the critic again, at the actor's actions
    forward = 2 * (actor + critic) + critic
    # Backward, with a layer's input x, weights W and gradient g: x' g for the weights of both
    weights = [(inner, rows, columns) for rows, inner, columns in actor + critic]
    # g W' for the inputs of the critic's layers, but the first
    inputs = [(n, 1, units_2), (n, units_2, units_1)]
    # From Q to the action, past the critic's first layer, and on through the actor
    policy = [(n, 1, units_2), (n, units_2, ACTION_SIZE)]
    policy += [(n, ACTION_SIZE, units_2), (n, units_2, units_1)]
    return forward + weights + inputs + policy


def multiply(pairs: list) -> None:
    """Multiplies all pairs of matrices."""
    for x, y in pairs:
        x @ y


def by_numpy(pairs: Pairs, threads: int) -> Callable[[], None]:
    """A function that multiplies all pairs; the environment sets NumPy's threads."""
    return functools.partial(multiply, pairs)


def by_torch(pairs: Pairs, threads: int) -> Callable[[], None]:
    """A function that multiplies all pairs by PyTorch."""
    import torch

    torch.set_num_threads(threads)
    tensors = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in pairs]
    return functools.partial(multiply, tensors)


def by_jax(pairs: Pairs, threads: int) -> Callable[[], None]:
    """A function that multiplies all pairs by JAX, whose threads the environment sets."""
    import jax

    @jax.jit
    def compiled(pairs: list) -> list:
        return [x @ y for x, y in pairs]

    arrays = jax.device_put(pairs)
    return lambda: jax.block_until_ready(compiled(arrays))


def floor(setup: Setup, make_multiply: Callable) -> None:
    """Only multiplies, as many times as there would be updates."""
    rng = np.random.default_rng(0)
    pairs = []
    for rows, inner, columns in products(setup.batch_size):
        x = rng.random((rows, inner), np.float32)
        y = rng.random((inner, columns), np.float32)
        pairs.append((x, y))
    multiply_all = make_multiply(pairs, setup.threads)
    turns = Turns()
    for step in range(FIRST_STEP, setup.total_steps + 1):  # there is nothing to prepare before that
        multiply_all()
        turns.after(step)


# --------------------------------------------------------------------------------- all contestants
REFERENCE = "Stable-Baselines3 DDPG"
NORMS = ["none", "layer", "batch"]
LIBRARIES = {"NumPy": by_numpy, "PyTorch": by_torch}
if importlib.util.find_spec("jax") is not None:  # it is in requirements-dev.txt
    LIBRARIES["JAX"] = by_jax
FLOORS = {
    f"the products alone, {library}": functools.partial(floor, make_multiply=make_multiply)
    for library, make_multiply in LIBRARIES.items()
}


def contestants(device: str) -> dict[str, Callable]:
    """Everything that is timed: functions of a Setup."""
    scripts = [("ddpg_continuous", "", {})]  # name, what follows --norm NORM, options
    if device != "cpu":
        scripts.append(("ddpg_continuous", f" --device {device}", {"device": device}))
    if device == "cuda":
        without = {"device": device, "graphs": False}
        scripts.append(("ddpg_continuous", f" --device {device}, no graph", without))
    scripts.append(("ddpg_tf_explicit", "", {}))
    for backend in ["tensorflow", "jax", "torch"]:
        scripts.append(("ddpg_keras", f" on {backend}", {"backend": backend}))

    programs = {REFERENCE: functools.partial(train_stable_baselines3, device=device)}
    for name, suffix, options in scripts:
        for norm in NORMS:
            program = functools.partial(train_script, name=name, norm=norm, **options)
            programs[f"{name}.py --norm {norm}{suffix}"] = program
    if device == "cpu":
        programs.update(FLOORS)
    return programs


# -------------------------------------------------------------------------------- taking the turns
@dataclass
class Contestant:
    """A contestant's process."""

    name: str
    process: subprocess.Popen
    errors: Path  # what it has written to stderr

    def take_turn(self) -> float:
        """Lets the process have its next turn; gives the turn's seconds."""
        self.process.send_signal(signal.SIGCONT)
        return self.end_of_turn()

    def end_of_turn(self) -> float:
        """Waits until the process has stopped itself; gives the turn's seconds."""
        for line in self.process.stdout:
            if line.startswith(SECONDS):
                while not is_stopped(self.process.pid):
                    time.sleep(0.001)
                return float(line.split()[1])
        print(self.errors.read_text()[-2000:], file=sys.stderr)
        raise study.StudyError(f"{self.name} failed: see above")


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal."""
    command = ["ps", "-o", "state=", "-p", str(pid)]
    state = subprocess.run(command, capture_output=True, text=True).stdout
    return state.strip().startswith("T")


def start(name: str, threads: int, args: argparse.Namespace, errors: Path) -> Contestant:
    """Starts a contestant's process, which stops itself before its first turn."""
    command = [sys.executable, __file__, "--contestant", name]
    command += ["--threads", str(threads), "--turns", str(args.turns)]
    command += ["--device", args.device, "--batch-size", str(args.batch_size)]
    peers = dict(args.peer)
    if name in peers:
        command = [*shlex.split(peers[name]), str(threads), str(total_steps(args.turns))]
    variables = {**os.environ, "TMPDIR": str(errors.parent)}  # it is killed, and cannot clean up
    if args.device == "cpu" and name not in peers:  # else Keras would take a GPU that it finds
        variables["CUDA_VISIBLE_DEVICES"] = ""
        variables["JAX_PLATFORMS"] = "cpu"
    if name in FLOORS:
        for variable in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PJRT_NPROC"]:
            variables[variable] = str(threads)
    try:
        with errors.open("w") as file:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=file, text=True, env=variables
            )
    except OSError as error:
        raise study.StudyError(f"{name} cannot be started: {error}") from None
    return Contestant(name, process, errors)


def total_steps(turns: int) -> int:
    """The steps that a contestant is to make: one turn more than it will be given."""
    return FIRST_STEP + (turns + 1) * TURN


def measure(
    names: list[str], threads: int, args: argparse.Namespace, path: Path
) -> dict[str, np.ndarray]:
    """Lets contestants take turns: the steps per second of each in every turn, (turns,).

    Adds every turn to the CSV at its end, so that what is cut short has not been in vain.
    """
    speeds = {name: np.zeros(args.turns) for name in names}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as at_the_end:
        started = []
        for number, name in enumerate(names):
            contestant = start(name, threads, args, Path(folder, f"{number}.txt"))
            at_the_end.callback(end, contestant.process)
            started.append(contestant)
        for contestant in started:
            contestant.end_of_turn()
        for turn in range(args.turns):
            for contestant in in_turn(started, turn):
                speeds[contestant.name][turn] = TURN / contestant.take_turn()
            now = {name: round(speeds[name][turn]) for name in names}
            print(f"threads {threads}, turn {turn}: {now}", flush=True)
            add_rows(path, [[threads, turn, name, float(speeds[name][turn])] for name in names])
    return speeds


def end(process: subprocess.Popen) -> None:
    """Ends a process that may be stopped, and waits until its memory is free."""
    process.kill()
    process.wait()


def in_turn(contestants: list[Contestant], turn: int) -> list[Contestant]:
    """The contestants in their order, or in the opposite one in every second turn."""
    if turn % 2 == 1:
        return contestants[::-1]
    return contestants


def add_rows(path: Path, rows: list[list]) -> None:
    """Writes rows to the end of a CSV."""
    with path.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def table(speeds_by_threads: dict[int, dict[str, np.ndarray]]) -> str:
    """Medians over the turns, in Markdown."""
    header = ["script", "threads", "steps/s (median)"]
    header += ["ratio to Stable-Baselines3: median (quartiles)", "share of the floor"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for threads, speeds in speeds_by_threads.items():
        floors = [speeds[name] for name in FLOORS if name in speeds]
        for name, speed in speeds.items():
            low, median, high = np.quantile(speed / speeds[REFERENCE], [0.25, 0.5, 0.75])
            share = "-"
            if floors:
                fastest = np.max(floors, axis=0)  # (turns,)
                share = f"{100 * np.median(speed / fastest):.0f} %"
            cells = [name, str(threads), f"{np.median(speed):.0f}"]
            cells += [f"{median:.2f} ({low:.2f} to {high:.2f})", share]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def read_command_line() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=40, help="turns of each contestant")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of each contestant")
    parser.add_argument("--device", default="cpu", help="of torch: cpu, cuda or mps")
    parser.add_argument("--batch-size", type=int, default=64, help="transitions of a minibatch")
    parser.add_argument(
        "--only", default="", help="contestants whose names this regular expression finds"
    )
    parser.add_argument(
        "--peer",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "COMMAND"),
        help="another program (see above)",
    )
    parser.add_argument(
        "--out",
        type=study.full_path,
        default=study.ROOT / "runs/speed",
        help="folder for table and CSV",
    )
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Lets all contestants take turns, for each number of threads, and prints the table."""
    args = read_command_line()
    try:
        if args.turns < 1:
            raise study.StudyError("--turns: at least 1")
        run(args)
    except (study.StudyError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def run(args: argparse.Namespace) -> None:
    """Trains as one contestant, or lets all of them take turns."""
    if args.contestant:
        with tempfile.TemporaryDirectory() as folder:
            program = contestants(args.device)[args.contestant]
            program(Setup(args.threads[0], total_steps(args.turns), args.batch_size, folder))
        return
    names = chosen_names(args)
    for package in ["stable_baselines3", "rich"]:
        if importlib.util.find_spec(package) is None:
            error = ImportError(f"No module named '{package}'")
            study.explain_missing_package(error, __name__)

    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "speed.csv"
    path.write_text("threads,turn,name,steps_per_second\n")
    speeds_by_threads = {threads: measure(names, threads, args, path) for threads in args.threads}
    text = table(speeds_by_threads)
    setting = f"minibatches of {args.batch_size}, {args.turns} turns of {TURN} steps"
    summary = f"{text}\n\n{setting}. {machine()}.\n"
    (args.out / "speed.md").write_text(summary)
    print(text)


def chosen_names(args: argparse.Namespace) -> list[str]:
    """The contestants that the command line asks for, and those that are always there."""
    try:
        pattern = re.compile(args.only)
    except re.error as error:
        raise study.StudyError(f"--only {args.only}: {error}") from None
    always = [REFERENCE, *FLOORS]
    names = [x for x in contestants(args.device) if x in always or pattern.search(x)]
    return names + [name for name, _ in args.peer]


def machine() -> str:
    """The processor and the versions, as a table needs them beside it."""
    packages = ["torch", "tensorflow-cpu", "tensorflow", "keras", "jax", "stable-baselines3"]
    versions = []
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    processor = f"{study.processor()}, {os.cpu_count()} cores"
    return f"{processor}. Python {platform.python_version()}, {', '.join(versions)}"


if __name__ == "__main__":
    main()
