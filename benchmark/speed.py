"""Steps per second of the scripts beside Stable-Baselines3's DDPG, on this machine.

    pip install -r requirements-dev.txt
    python benchmark/speed.py

Same environment, layer sizes, batch size and threads; uniform replay, an update per step; logging and progress bar on,
evaluation off. Every contestant is a fresh process; they take turns, round after round, so that a machine whose speed
drifts is as slow for all. Timed are the steps after the first 1,000 updates. Printed and saved (speed.csv, speed.md):
medians, and the median over the rounds of the ratio. Stable-Baselines3's critic takes the action at its first layer.
"""

import argparse
import functools
import importlib
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
STARTS, BEGIN, END = 1_000, 2_000, 5_000  # random steps; the timed interval
BATCH_SIZE = 64
ENV_ID = "LunarLanderContinuous-v3"


def ours(name: str, norm: str, threads: int, folder: str) -> float:
    """Seconds that the script of this name takes from step BEGIN to step END."""
    sys.path.insert(0, str(ROOT))
    script = importlib.import_module(name)

    times = {}
    after_step = script.Run.after_step

    def timed(run: script.Run, *values: object) -> None:
        after_step(run, *values)
        if run.step in (BEGIN, END):
            times[run.step] = time.perf_counter()

    script.Run.after_step = timed
    settings = {"norm": norm, "batch_size": BATCH_SIZE, "num_threads": threads, "runs_dir": folder, "run_name": "run"}
    script.train(script.Args(env_id=ENV_ID, total_timesteps=END, learning_starts=STARTS, eval_every=0, **settings))
    return times[END] - times[BEGIN]


def stable_baselines3(threads: int, folder: str) -> float:
    """Seconds that Stable-Baselines3's DDPG takes from step BEGIN to step END."""
    import numpy as np
    import torch
    from stable_baselines3 import DDPG
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise

    times = {}

    class Timer(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps in (BEGIN, END):
                times[self.num_timesteps] = time.perf_counter()
            return True

    torch.set_num_threads(threads)
    model = DDPG(
        "MlpPolicy",
        ENV_ID,
        batch_size=BATCH_SIZE,
        learning_starts=STARTS,
        train_freq=1,
        gradient_steps=1,
        action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.3 * np.ones(2), dt=1.0),
        policy_kwargs={"net_arch": [400, 300]},
        tensorboard_log=folder,
        verbose=1,
        device="cpu",
    )
    model.learn(END, callback=Timer(), progress_bar=True)
    return times[END] - times[BEGIN]


REFERENCE = "Stable-Baselines3 DDPG"
CONTESTANTS = {REFERENCE: stable_baselines3}
for name in ("ddpg_continuous", "ddpg_tf_explicit"):
    for norm in ("none", "layer", "batch"):
        CONTESTANTS[f"{name}.py --norm {norm}"] = functools.partial(ours, name, norm)


def main() -> None:
    """Runs all contestants in turn, in processes of their own, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "speed")
    args = parser.parse_args()
    if args.contestant:
        with tempfile.TemporaryDirectory() as folder:
            seconds = CONTESTANTS[args.contestant](args.threads[0], folder)
        print(f"\nSECONDS {seconds}")
        return

    rows = []
    for turn in range(args.rounds):
        for threads in args.threads:
            for name in CONTESTANTS:
                command = [sys.executable, __file__, "--contestant", name, "--threads", str(threads)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
                seconds = float(done.stdout.split("SECONDS")[-1])
                rows.append(
                    {"round": turn, "threads": threads, "name": name, "steps_per_second": (END - BEGIN) / seconds}
                )
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "speed.csv", index=False)

    wide = table.pivot(index=["round", "threads"], columns="name", values="steps_per_second")
    lines = [
        "| script | threads | steps/s (median) | ratio to Stable-Baselines3 (median) |",
        "|---|---|---|---|",
    ]
    for threads in args.threads:
        speeds = wide.xs(threads, level="threads")
        for name in CONTESTANTS:
            ratio = speeds[name] / speeds[REFERENCE]
            lines.append(f"| {name} | {threads} | {speeds[name].median():.0f} | {ratio.median():.2f} |")
    lines.append(
        f"\n{args.rounds} rounds, {platform.processor() or platform.machine()}, Python {platform.python_version()}"
    )
    (args.out / "speed.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
