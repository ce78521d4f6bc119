"""Trains another library's DDPG or TD3 for the study peers, by the protocol of our own runs.

    pip install -r requirements.txt -r requirements-dev.txt
    python benchmark/peers.py sb3-ddpg --seed 0
    python benchmark/peers.py sb3-td3 --seed 0
    python benchmark/peers.py sbx-ddpg --seed 0      # pip install sbx-rl==0.28.0, elsewhere

`sb3-ddpg` and `sb3-td3` are Stable-Baselines3's, `sbx-ddpg` is SBX's (JAX), all with the settings
that RL Zoo has tuned for this task (hyperparams/ddpg.yml, td3.yml; those of both are the same). How
long a run is and how it is evaluated stands in benchmark/studies/peers.toml. CleanRL's DDPG is
trained by its own script: see benchmark/results/peers/README.md.

A run leaves what ours leave: args.json, summary.json, machine.json, evaluations.csv, episodes.csv.
It has one thread, and cannot be resumed.

`--time` instead of `--seed` makes it a contestant of benchmark/speed.py, with the same settings but
for fewer random steps:

    python benchmark/speed.py --threads 1 --only "continuous.*batch" --batch-size 128 \\
        --peer sb3-ddpg "python benchmark/peers.py sb3-ddpg --time"
"""

import argparse
import copy
import importlib
import importlib.metadata
import inspect
import json
import os
import random
import sys
import time
from pathlib import Path

import study

if __name__ == "__main__":  # before torch or JAX is imported: one thread, on the CPU
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

try:
    import gymnasium
    import numpy as np
    import pandas as pd
    import speed
    import torch
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise
except ImportError as error:
    study.explain_missing_package(error, __name__)

ENV_ID = "LunarLanderContinuous-v3"
EVALUATION_SEED = 1_000_000  # as in our scripts
ALGORITHMS = {  # module and class
    "sb3-ddpg": ("stable_baselines3", "DDPG"),
    "sb3-td3": ("stable_baselines3", "TD3"),
    "sbx-ddpg": ("sbx", "DDPG"),
}
ZOO = "DLR-RM/rl-baselines3-zoo, hyperparams/ddpg.yml and td3.yml, LunarLanderContinuous-v3"
ZOO_COMMIT = "22e3ff2450fd92033f7f032915e1f64894a09584"
ZOO_SETTINGS = {
    "policy": "MlpPolicy",
    "gamma": 0.98,
    "buffer_size": 200_000,
    "learning_starts": 10_000,
    "train_freq": 1,
    "gradient_steps": 1,
    "learning_rate": 1e-3,
    "policy_kwargs": {"net_arch": [400, 300]},
}
NOISE_STD = 0.1  # of RL Zoo's noise_type normal
NOT_SETTINGS = {"self", "env", "verbose", "seed", "tensorboard_log", "_init_setup_model"}
NOT_SETTINGS |= {"stats_window_size"}
PACKAGES = ["box2d", "gymnasium", "numpy", "stable-baselines3", "torch"]
PACKAGES_OF_SBX = ["flax", "jax", "jaxlib", "optax", "sbx-rl"]


class Recorder(BaseCallback):
    """Evaluates by our protocol, and notes training episodes; called by the library."""

    def __init__(self, run: study.PeerRun) -> None:
        super().__init__()
        self.run = run
        self.episodes: list[dict] = []
        self.evaluations: list[dict] = []
        self.episodic_return = 0.0  # so far, of the current episode
        self.episode_length = 0
        self.evaluation_seconds = 0.0

    def _on_rollout_start(self) -> None:
        """Before a step: after the update that belongs to the step before."""
        if self.num_timesteps % self.run.lengths["eval_every"] == 0:
            self.evaluate()

    def _on_step(self) -> bool:
        """After a step. True: go on."""
        self.episodic_return += float(self.locals["rewards"][0])
        self.episode_length += 1
        if self.locals["dones"][0]:
            row = {"step": self.num_timesteps, "episode": len(self.episodes) + 1}
            row |= {"return": self.episodic_return, "length": self.episode_length}
            self.episodes.append(row)
            self.episodic_return = 0.0
            self.episode_length = 0
        return True

    def _on_training_end(self) -> None:
        self.evaluate()

    def evaluate(self) -> None:
        """Plays without noise in an environment of its own; uses no global random number."""
        if self.evaluations and self.evaluations[-1]["step"] == self.num_timesteps:
            return
        begin = time.monotonic()
        generators = states_of_generators()
        first_seed = EVALUATION_SEED + self.run.seed
        with gymnasium.make(ENV_ID) as env:
            returns = [
                self.play(env, first_seed + i) for i in range(self.run.lengths["eval_episodes"])
            ]
        if states_of_generators() != generators:
            raise RuntimeError("an evaluation has used a global random number")
        row = {"step": self.num_timesteps, "mean": np.mean(returns), "std": np.std(returns)}
        row |= {f"episode_{i}": x for i, x in enumerate(returns)}
        self.evaluations.append(row)
        self.evaluation_seconds += time.monotonic() - begin
        print(f"step {row['step']}: evaluation {row['mean']:.1f} ± {row['std']:.1f}", flush=True)

    def play(self, env: gymnasium.Env, seed: int) -> float:
        """The return of one episode, a sum of float32 rewards, as in our scripts."""
        observation, _ = env.reset(seed=seed)
        episodic_return = 0.0
        terminated = truncated = False
        while not (terminated or truncated):
            action, _ = self.model.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            episodic_return += float(np.float32(reward))
        return episodic_return


class TurnTaker(BaseCallback):
    """Tells benchmark/speed.py of every step; called by the library."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = speed.Turns()

    def _on_step(self) -> bool:
        """After a step. True: go on."""
        self.turns.after(self.num_timesteps)
        return True


def states_of_generators() -> list:
    """The states of the process's random generators."""
    _, keys, *position = np.random.get_state()  # noqa: NPY002
    return [random.getstate(), keys.tolist(), position, torch.get_rng_state().tolist()]


def make_model(setting: str, seed: int, **other_settings: object) -> BaseAlgorithm:
    """The library's agent with RL Zoo's settings, and others; ImportError without the library."""
    module, name = ALGORITHMS[setting]
    algorithm = getattr(importlib.import_module(module), name)
    env = gymnasium.make(ENV_ID)
    num_actions = env.action_space.shape[0]
    noise = NormalActionNoise(np.zeros(num_actions), NOISE_STD * np.ones(num_actions))
    settings = copy.deepcopy(ZOO_SETTINGS) | other_settings  # DDPG adds to its policy_kwargs
    return algorithm(env=env, seed=seed, device="cpu", action_noise=noise, **settings)


def settings_of(model: BaseAlgorithm) -> dict[str, object]:
    """All settings of an agent: those that were given, and the library's defaults."""
    parameters = inspect.signature(type(model).__init__).parameters
    settings = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in NOT_SETTINGS
    }
    settings |= ZOO_SETTINGS
    settings["device"] = "cpu"
    settings["action_noise"] = {"noise_type": "normal", "noise_std": NOISE_STD}
    for name in ("policy_delay", "target_policy_noise", "target_noise_clip"):
        settings[name] = getattr(model, name)
    settings["n_critics"] = model.policy_kwargs.get("n_critics", 2)
    return settings


def versions(setting: str) -> dict[str, str]:
    """The versions of Python and of the libraries that decide the numbers."""
    packages = PACKAGES
    if setting.startswith("sbx"):
        packages = PACKAGES + PACKAGES_OF_SBX
    found = {package: importlib.metadata.version(package) for package in packages}
    return {"python": sys.version, **found}


def take_turns(setting: str, threads: int, steps: int) -> None:
    """Trains for benchmark/speed.py, which measures how fast."""
    if threads != 1:
        raise study.StudyError("peers.py trains with one thread: give speed.py --threads 1")
    torch.set_num_threads(threads)
    model = make_model(setting, seed=0, learning_starts=speed.RANDOM_STEPS)
    model.learn(steps, callback=TurnTaker())


def train(run: study.PeerRun) -> None:
    """Trains a run to its end, and writes all its files then."""
    torch.set_num_threads(1)
    model = make_model(run.setting, run.seed)
    recorder = Recorder(run)
    begin = time.monotonic()
    model.learn(run.lengths["total_timesteps"], callback=recorder)
    seconds = time.monotonic() - begin - recorder.evaluation_seconds

    run.path.mkdir(parents=True)
    tables = {"evaluations": recorder.evaluations, "episodes": recorder.episodes}
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(run.path / f"{name}.csv", index=False, lineterminator="\n")
    save_json(run.path / "machine.json", {"cpu": study.processor(), "cores": os.cpu_count()})
    save_json(run.path / "summary.json", summary(recorder, seconds))
    args = {"env_id": ENV_ID, "seed": run.seed, **run.lengths, "num_threads": 1}
    content = {"script": run.setting, "args": {**args, **settings_of(model)}}
    content["versions"] = versions(run.setting)
    content["source"] = f"{ZOO}, at commit {ZOO_COMMIT}; else the library's defaults"
    content["notes"] = "RL Zoo trains for 300,000 steps; no setting depends on it."
    save_json(run.path / "args.json", content)


def summary(recorder: Recorder, seconds: float) -> dict[str, object]:
    """What summary.json holds; `seconds`: of the training, without evaluations."""
    steps = recorder.num_timesteps
    means = [{name: row[name] for name in ("step", "mean", "std")} for row in recorder.evaluations]
    return {
        "steps": steps,
        "episodes": len(recorder.episodes),
        "wall_time_seconds": seconds,
        "evaluation_seconds": recorder.evaluation_seconds,
        "steps_per_second": steps / seconds,
        "final_evaluation": means[-1],
        "best_evaluation": max(means, key=lambda row: row["mean"]),
    }


def save_json(path: Path, content: dict) -> None:
    """Writes numbers, strings and containers."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def chosen_run(args: argparse.Namespace) -> study.PeerRun:
    """The run of the study that the command line asks for; StudyError if it is there already."""
    wanted = study.load(args.study, args.results)
    for run in wanted.runs:
        if (run.setting, run.seed) == (args.setting, args.seed):
            if run.path.exists():
                raise study.StudyError(f"{run.path} is there already: move it away")
            missing = [name for name in study.PEER_ARGUMENTS if name not in run.lengths]
            if missing:
                raise study.StudyError(f"{args.study} has to set {', '.join(missing)}")
            return run
    raise study.StudyError(f"{wanted.name} has no {args.setting} with seed {args.seed}")


def main() -> None:
    """Trains the run that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=list(ALGORITHMS), help="library and algorithm")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="one of the study's")
    what.add_argument(
        "--time", type=int, nargs=2, metavar=("THREADS", "STEPS"), help="speed.py gives both"
    )
    parser.add_argument("--study", default="peers", help="name of the study, or a .toml file")
    parser.add_argument(
        "--results", type=study.path, default=study.RESULTS, help="folder of all studies' results"
    )
    args = parser.parse_args()
    try:
        if args.time:
            take_turns(args.setting, *args.time)
        else:
            train(chosen_run(args))
    except (study.StudyError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
