"""Steps per second of the scripts beside Stable-Baselines3's DDPG, on this machine (Linux, macOS).

    pip install -r requirements-dev.txt
    python benchmark/speed.py
    python benchmark/speed.py --only "keras|tf_explicit.*none" --out benchmark/results/speed-keras

Same environment, layer sizes, batch size and threads; uniform replay, an update per step; logging and progress bar on,
evaluation off. Every contestant is a process of its own. After its first 1,000 updates it takes turns with the others:
250 steps, then it is stopped (SIGSTOP) until all have had theirs, so that a machine whose speed drifts is as slow for
all within a few seconds. Printed and saved (speed.csv, speed.md): medians over the turns, and the median and quartiles
of the ratio within a turn. Stable-Baselines3's critic takes the action at its first layer.

The floor is what an update cannot do without: its products of matrices (no normalisation), alone, by NumPy, PyTorch and
JAX. "Share of the floor" is how many updates a script makes of those that the fastest of the three makes in its turn.

`--peer NAME COMMAND` adds a program from elsewhere. It is called with the number of threads and of steps, and has to
call this module's `Turns().after(step)` after every step.
"""

import argparse
import contextlib
import functools
import importlib
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
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
STARTS, BEGIN, TURN = 1_000, 2_000, 250  # random steps; the first timed step; steps of a turn
BATCH_SIZE = 64
ENV_ID = "LunarLanderContinuous-v3"


class Turns:
    """Called after every step: at the end of a turn says how many seconds it took, and stops until the next."""

    def __init__(self) -> None:
        self.began = 0.0

    def after(self, step: int) -> None:
        if step >= BEGIN and (step - BEGIN) % TURN == 0:
            print(f"\nSECONDS {time.perf_counter() - self.began}", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
            self.began = time.perf_counter()


def ours(name: str, settings: dict[str, str], backend: str, threads: int, steps: int, folder: str) -> None:
    """Trains with the script of this name, on this backend if it is the one that has several."""
    sys.path.insert(0, str(ROOT))
    os.environ |= {"KERAS_BACKEND": backend, "OMP_NUM_THREADS": str(threads)}  # read at the import
    script = importlib.import_module(name)
    after_step, turns = script.Run.after_step, Turns()

    def timed(run: script.Run, *values: object) -> None:
        after_step(run, *values)
        turns.after(run.step)

    script.Run.after_step = timed
    settings = {**settings, "batch_size": BATCH_SIZE, "runs_dir": folder, "run_name": "run"}
    if name != "ddpg_keras":
        settings["num_threads"] = threads
    script.train(script.Args(env_id=ENV_ID, total_timesteps=steps, learning_starts=STARTS, eval_every=0, **settings))


def stable_baselines3(precision: str, threads: int, steps: int, folder: str) -> None:
    """Trains Stable-Baselines3's DDPG."""
    import numpy as np
    import torch
    from stable_baselines3 import DDPG
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise

    turns = Turns()

    class Timer(BaseCallback):
        def _on_step(self) -> bool:
            turns.after(self.num_timesteps)
            return True

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)  # which is torch's, not Stable-Baselines3's: it has no such setting
    model = DDPG(
        "MlpPolicy",
        ENV_ID,
        batch_size=BATCH_SIZE,
        learning_starts=STARTS,
        train_freq=1,
        gradient_steps=1,
        action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.3 * np.ones(2), dt=0.1),
        policy_kwargs={"net_arch": [400, 300]},
        tensorboard_log=folder,
        verbose=1,
        device="cpu",
    )
    model.learn(steps, callback=Timer(), progress_bar=True)


def products() -> list[tuple[int, int, int]]:
    """The products (rows, inner, columns) of one update by minibatches of N, no more than its gradients need."""
    n, observations, actions, units_1, units_2 = BATCH_SIZE, 8, 2, 400, 300
    actor = [(n, observations, units_1), (n, units_1, units_2), (n, units_2, actions)]
    critic = [(n, observations, units_1), (n, units_1 + actions, units_2), (n, units_2, 1)]
    forward = 2 * (actor + critic) + critic  # the target's; both online networks; the critic at the actor's actions
    weights = [(inner, rows, columns) for rows, inner, columns in actor + critic]  # x' g, a layer each
    inputs = [(n, 1, units_2), (n, units_2, units_1)]  # g W', of the critic, which stops at its first layer
    policy = [(n, 1, units_2), (n, units_2, actions)]  # dQ/da, to which the critic's first layer has no part
    policy += [(n, actions, units_2), (n, units_2, units_1)]
    return forward + weights + inputs + policy


def floor(library: str, threads: int, steps: int, _: str) -> None:
    """Only multiplies, as many times as there would be updates."""
    import numpy as np

    rng = np.random.default_rng(0)
    pairs = [(rng.random((a, b), np.float32), rng.random((b, c), np.float32)) for a, b, c in products()]
    if library == "NumPy":

        def multiply() -> None:
            for x, y in pairs:
                x @ y

    elif library == "JAX":
        import jax

        pairs = jax.device_put(pairs)
        compiled = jax.jit(lambda pairs: [x @ y for x, y in pairs])

        def multiply() -> None:
            jax.block_until_ready(compiled(pairs))

    else:
        import torch

        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(library.split()[-1])
        pairs = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in pairs]

        def multiply() -> None:
            for x, y in pairs:
                x @ y

    turns = Turns()
    for step in range(BEGIN, steps + 1):  # no updates before the first turn: there is nothing to prepare
        multiply()
        turns.after(step)


REFERENCE = "Stable-Baselines3 DDPG"
FLOORS = {
    f"the products alone, {library}": functools.partial(floor, library)
    for library, module in (("NumPy", "numpy"), ("JAX", "jax"), ("PyTorch at highest", "torch"))
    if importlib.util.find_spec(module)
}
CONTESTANTS = {REFERENCE: functools.partial(stable_baselines3, "highest")}
for script_name in ("ddpg_continuous", "ddpg_tf_explicit"):
    for norm in ("none", "layer", "batch"):
        CONTESTANTS[f"{script_name}.py --norm {norm}"] = functools.partial(
            ours, script_name, {"norm": norm}, "tensorflow"
        )
for backend in ("tensorflow", "jax", "torch"):
    for norm in ("none", "layer", "batch"):
        contestant = functools.partial(ours, "ddpg_keras", {"norm": norm}, backend)
        CONTESTANTS[f"ddpg_keras.py --norm {norm} on {backend}"] = contestant
for norm in ("none", "layer"):
    contestant = functools.partial(ours, "ddpg_continuous", {"norm": norm, "matmul_precision": "medium"}, "tensorflow")
    CONTESTANTS[f"ddpg_continuous.py --norm {norm} --matmul-precision medium"] = contestant
CONTESTANTS[f"{REFERENCE} at medium precision"] = functools.partial(stable_baselines3, "medium")
CONTESTANTS |= FLOORS


def end_of_turn(process: subprocess.Popen, errors: Path) -> float:
    """Waits for the process to end its turn; gives the turn's seconds."""
    for line in process.stdout:
        if line.startswith("SECONDS"):
            while not is_stopped(process.pid):
                time.sleep(0.001)
            return float(line.split()[1])
    sys.exit(f"{process.args} failed:\n{errors.read_text()[-2000:]}")


def is_stopped(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout
    return state.strip().startswith("T")


def main() -> None:
    """Lets all contestants take turns, once for each number of threads, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--only", default="", help="those whose names this regular expression finds, the reference, the floor"
    )
    parser.add_argument("--peer", nargs=2, action="append", default=[], metavar=("NAME", "COMMAND"))
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "speed")
    args = parser.parse_args()
    if args.contestant:
        with tempfile.TemporaryDirectory() as folder:
            CONTESTANTS[args.contestant](args.threads[0], BEGIN + (args.turns + 1) * TURN, folder)
        return

    rows, peers = [], dict(args.peer)
    always = {REFERENCE, *FLOORS}
    names = [name for name in CONTESTANTS if name in always or re.search(args.only, name)] + list(peers)
    for threads in args.threads:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
            processes = {}
            for number, name in enumerate(names):
                command = [sys.executable, __file__, "--contestant", name, "--threads", str(threads)]
                command += ["--turns", str(args.turns)]
                if name in peers:
                    command = [*shlex.split(peers[name]), str(threads), str(BEGIN + (args.turns + 1) * TURN)]
                errors = Path(folder, f"{number}.txt")
                limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PJRT_NPROC"), str(threads))
                environment = {**os.environ, **limits} if name in FLOORS else None
                with errors.open("w") as file:
                    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=environment)
                ending.callback(process.kill)  # whatever happens: it may be stopped
                processes[name] = process, errors
                end_of_turn(process, errors)  # the first only brings it to step BEGIN
            for turn in range(args.turns):
                for name, (process, errors) in processes.items():
                    process.send_signal(signal.SIGCONT)
                    speed = TURN / end_of_turn(process, errors)
                    rows.append({"threads": threads, "turn": turn, "name": name, "steps_per_second": speed})
                print(
                    f"threads {threads}, turn {turn}",
                    {row["name"]: round(row["steps_per_second"]) for row in rows[-len(names) :]},
                )
    args.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(args.out / "speed.csv", index=False)

    wide = pd.DataFrame(rows).pivot(index=["turn", "threads"], columns="name", values="steps_per_second")
    lines = [
        "| script | threads | steps/s (median) | ratio to Stable-Baselines3: median (quartiles) | share of the floor |",
        "|---|---|---|---|---|",
    ]
    for threads in args.threads:
        speeds = wide.xs(threads, level="threads")
        fastest = speeds[[*FLOORS]].max(axis=1)
        for name in names:
            low, median, high = (speeds[name] / speeds[REFERENCE]).quantile([0.25, 0.5, 0.75])
            lines.append(
                f"| {name} | {threads} | {speeds[name].median():.0f} | {median:.2f} ({low:.2f} to {high:.2f}) | "
                f"{100 * (speeds[name] / fastest).median():.0f} % |"
            )
    what = f"{args.turns} turns of {TURN} steps, {platform.processor() or platform.machine()}"
    (args.out / "speed.md").write_text("\n".join([*lines, f"\n{what}, Python {platform.python_version()}\n"]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
