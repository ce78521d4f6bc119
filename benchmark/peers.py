"""Trains another project's DDPG or TD3 for the study peers, by the protocol of our own runs.

    pip install -r requirements.txt -r requirements-dev.txt
    python benchmark/peers.py sb3-ddpg --seed 0
    python benchmark/peers.py sb3-td3 --seed 0
    python benchmark/peers.py sbx-ddpg --seed 0  # in an environment of its own: sbx-rl==0.28.0
    python benchmark/peers.py cleanrl-ddpg --seed 0 --cleanrl FOLDER  # with CleanRL's repository

`sb3-ddpg` and `sb3-td3` are Stable-Baselines3's, `sbx-ddpg` is SBX's (JAX), all with the settings
that RL Zoo has tuned for this task (hyperparams/ddpg.yml, td3.yml; those of both are the same).
`cleanrl-ddpg` is CleanRL's script as it is published, with its own settings. How long a run is and
how it is evaluated stands in benchmark/studies/peers.toml.

A run leaves the files that a report needs: args.json, summary.json, machine.json, evaluations.csv
and episodes.csv. It has one thread, and cannot be resumed.

`--time` instead of `--seed` makes it a contestant of benchmark/speed.py, with the same settings but
for fewer random steps:

    python benchmark/speed.py --threads 1 --only "continuous.*batch" --batch-size 128 \\
        --peer sb3-ddpg "python benchmark/peers.py sb3-ddpg --time"
"""

import argparse
import contextlib
import copy
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import study

if __name__ == "__main__":  # before torch or JAX is imported: one thread, on the CPU
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    os.environ["PJRT_NPROC"] = "1"  # JAX reads this
    os.environ["JAX_PLATFORMS"] = "cpu"

study.import_triton_first()  # Stable-Baselines3 imports TensorFlow, by way of TensorBoard
try:
    import gymnasium
    import numpy as np
    import pandas as pd
    import speed
    import torch
    from gymnasium.vector import AutoresetMode, SyncVectorEnv
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
CLEANRL = "cleanrl-ddpg"
SETTINGS = [*ALGORITHMS, CLEANRL]

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

CLEANRL_SCRIPT = "cleanrl/ddpg_continuous_action.py"
CLEANRL_COMMIT = "fe8d8a03c41a7ef5b523e2e354bd01c363e786bb"
CLEANRL_SHA256 = "1c858cf0e89747df76644d32c0c2cb41fff00382724f5fce785f5368735865c5"
CLEANRL_SETTINGS = ["learning_rate", "buffer_size", "gamma", "tau", "batch_size"]
CLEANRL_SETTINGS += ["exploration_noise", "learning_starts", "policy_frequency"]

PACKAGES = ["box2d", "gymnasium", "numpy", "stable-baselines3", "torch"]
PACKAGES_OF_SBX = ["flax", "jax", "jaxlib", "optax", "sbx-rl"]


# ---------------------------------------------------------------------------- what is told of steps
class Recorder:
    """Evaluates by our protocol, and notes training episodes."""

    def __init__(self, run: study.PeerRun) -> None:
        self.run = run
        self.policy: Callable | None = None  # an observation (S,) to an action (A,), without noise
        self.episodes: list[dict] = []
        self.evaluations: list[dict] = []
        self.episodic_return = 0.0  # so far, of the current episode
        self.episode_length = 0
        self.evaluation_seconds = 0.0

    def before_step(self, steps: int) -> None:
        """`steps` have been made, and the update that belongs to the last of them."""
        if steps % self.run.lengths["eval_every"] == 0:
            self.evaluate(steps)

    def after_step(self, steps: int, reward: float, is_over: bool) -> None:
        """`steps` have been made. `is_over`: the episode has ended, in whatever way."""
        self.episodic_return += reward
        self.episode_length += 1
        if is_over:
            row = {"step": steps, "episode": len(self.episodes) + 1}
            row |= {"return": self.episodic_return, "length": self.episode_length}
            self.episodes.append(row)
            self.episodic_return = 0.0
            self.episode_length = 0

    def evaluate(self, steps: int) -> None:
        """Plays without noise in an environment of its own; uses no global random number."""
        begin = time.monotonic()
        generators = states_of_generators()
        first_seed = EVALUATION_SEED + self.run.seed
        with gymnasium.make(ENV_ID) as env:
            returns = [
                self.play(env, first_seed + i) for i in range(self.run.lengths["eval_episodes"])
            ]
        if states_of_generators() != generators:
            raise RuntimeError("an evaluation has used a global random number")
        row = {"step": steps, "mean": np.mean(returns), "std": np.std(returns)}
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
            action = self.policy(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            episodic_return += float(np.float32(reward))
        return episodic_return


class TurnTaker:
    """Tells benchmark/speed.py of every step, instead of a Recorder."""

    def __init__(self) -> None:
        self.policy: Callable | None = None
        self.turns = speed.Turns()

    def before_step(self, steps: int) -> None:
        """Nothing to do."""

    def after_step(self, steps: int, reward: float, is_over: bool) -> None:
        """Stops the process if this step ends its turn."""
        self.turns.after(steps)


Watcher = Recorder | TurnTaker


def states_of_generators() -> list:
    """The states of the process's random generators."""
    _, keys, *position = np.random.get_state()  # noqa: NPY002
    return [random.getstate(), keys.tolist(), position, torch.get_rng_state().tolist()]


# ------------------------------------------------------------------------ Stable-Baselines3 and SBX
class Callback(BaseCallback):
    """Tells a watcher of every step; called by the library."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def _on_rollout_start(self) -> None:
        """Before a step: after the update that belongs to the step before."""
        self.watcher.before_step(self.num_timesteps)

    def _on_step(self) -> bool:
        """After a step. True: go on."""
        reward = float(self.locals["rewards"][0])
        self.watcher.after_step(self.num_timesteps, reward, bool(self.locals["dones"][0]))
        return True


def make_model(setting: str, seed: int, **other_settings: object) -> BaseAlgorithm:
    """The library's agent with RL Zoo's settings, and others; ImportError without the library."""
    module, name = ALGORITHMS[setting]
    algorithm = getattr(importlib.import_module(module), name)
    env = gymnasium.make(ENV_ID)
    num_actions = env.action_space.shape[0]
    noise = NormalActionNoise(np.zeros(num_actions), NOISE_STD * np.ones(num_actions))
    settings = copy.deepcopy(ZOO_SETTINGS) | other_settings  # DDPG adds to its policy_kwargs
    return algorithm(env=env, seed=seed, device="cpu", action_noise=noise, **settings)


def train_by_library(
    setting: str, seed: int, steps: int, watcher: Watcher, **others: object
) -> dict:
    """Trains an agent of Stable-Baselines3 or SBX. Gives its settings."""
    model = make_model(setting, seed, **others)
    watcher.policy = lambda observation: model.predict(observation, deterministic=True)[0]
    model.learn(steps, callback=Callback(watcher))
    return settings_of(model)


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


# ------------------------------------------------------------------------------------------ CleanRL
class OldVectorEnv(SyncVectorEnv):
    """gymnasium.vector.SyncVectorEnv as it was up to gymnasium 0.29, and a watcher of its steps.

    CleanRL's script is written for that version: an environment that is done restarts within the
    step, and what belongs to the episode's end is found under other names than today.
    """

    def __init__(self, env_fns: list[Callable], watcher: Watcher) -> None:
        super().__init__(env_fns, autoreset_mode=AutoresetMode.SAME_STEP)
        self.watcher = watcher
        self.steps = 0

    def step(self, actions: np.ndarray) -> tuple:
        self.watcher.before_step(self.steps)
        observations, rewards, terminations, truncations, infos = super().step(actions)
        self.steps += 1
        is_over = bool(terminations[0] or truncations[0])
        self.watcher.after_step(self.steps, float(rewards[0]), is_over)
        if is_over:
            infos["final_info"] = [infos["final_info"]]  # of the one environment
            infos["final_observation"] = infos["final_obs"]
        return observations, rewards, terminations, truncations, infos


def cleanrl_script(folder: Path | None) -> Path:
    """CleanRL's script in its repository; StudyError if it is not the version that is measured."""
    if folder is None:
        raise study.StudyError(f"{CLEANRL} needs --cleanrl FOLDER, with CleanRL's repository")
    script = folder.absolute() / CLEANRL_SCRIPT
    if not script.is_file():
        raise study.StudyError(f"--cleanrl: there is no {script}; give CleanRL's repository")
    if hashlib.sha256(script.read_bytes()).hexdigest() != CLEANRL_SHA256:
        raise study.StudyError(f"{script} is another version: check out {CLEANRL_COMMIT}")
    return script


def train_by_cleanrl(
    folder: Path | None, seed: int, steps: int, watcher: Watcher, **others: object
) -> dict:
    """Trains by CleanRL's script, as it stands in its repository. Gives its settings."""
    script = cleanrl_script(folder)
    flags = {"env_id": ENV_ID, "total_timesteps": steps, "seed": seed, "cuda": False, **others}
    program = {"__name__": "__main__", "__file__": str(script)}

    def policy(observation: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return program["actor"](torch.from_numpy(observation)[None])[0].numpy()

    def make_envs(env_fns: list[Callable]) -> OldVectorEnv:
        return OldVectorEnv(env_fns, watcher)

    watcher.policy = policy
    argv = [script.name, *study.as_options(flags)]
    path = [str(folder.absolute()), *sys.path]  # for its package cleanrl_utils
    code = compile(script.read_bytes(), script, "exec")
    with (
        patch.object(gymnasium.vector, "SyncVectorEnv", make_envs),
        patch.object(sys, "argv", argv),
        patch.object(sys, "path", path),
        tempfile.TemporaryDirectory() as logs,
        contextlib.chdir(logs),
    ):
        exec(code, program)
    return {name: getattr(program["args"], name) for name in CLEANRL_SETTINGS}


# -------------------------------------------------------------------------------------------- a run
def train(run: study.PeerRun, cleanrl: Path | None) -> None:
    """Trains a run to its end, and writes all its files then."""
    if run.setting == CLEANRL:
        cleanrl_script(cleanrl)  # before anything is written
    run.path.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=run.path.parent).close()  # may it be written? Else not after hours
    recorder = Recorder(run)
    steps = run.lengths["total_timesteps"]
    begin = time.monotonic()
    settings = train_by(run.setting, cleanrl, run.seed, steps, recorder)
    seconds = time.monotonic() - begin - recorder.evaluation_seconds
    recorder.evaluate(steps)

    new = run.path.with_name(f"{run.path.name}.new")
    new.mkdir(exist_ok=True)
    tables = {"evaluations": recorder.evaluations, "episodes": recorder.episodes}
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(new / f"{name}.csv", index=False, lineterminator="\n")
    save_json(new / "machine.json", {"cpu": study.processor(), "cores": os.cpu_count()})
    save_json(new / "summary.json", summary(recorder, steps, seconds))
    args = {"env_id": ENV_ID, "seed": run.seed, **run.lengths, "num_threads": 1}
    content = {"script": run.setting, "args": {**args, **settings}}
    content["versions"] = versions(run.setting)
    save_json(new / "args.json", {**content, **origin(run.setting)})
    new.rename(run.path)


def train_by(
    setting: str, cleanrl: Path | None, seed: int, steps: int, watcher: Watcher, **others: object
) -> dict:
    """Trains this setting. Gives its settings."""
    torch.set_num_threads(1)
    if setting != CLEANRL:
        return train_by_library(setting, seed, steps, watcher, **others)
    return train_by_cleanrl(cleanrl, seed, steps, watcher, **others)


def take_turns(setting: str, cleanrl: Path | None, threads: int, steps: int) -> None:
    """Trains for benchmark/speed.py, which measures how fast."""
    if threads != 1:
        raise study.StudyError("peers.py trains with one thread: give speed.py --threads 1")
    train_by(setting, cleanrl, 0, steps, TurnTaker(), learning_starts=speed.RANDOM_STEPS)


def summary(recorder: Recorder, steps: int, seconds: float) -> dict[str, object]:
    """What summary.json holds; `seconds`: of the training, without evaluations."""
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


def versions(setting: str) -> dict[str, str]:
    """The versions of Python and of the libraries that decide the numbers."""
    packages = [name for name in PACKAGES if setting != CLEANRL or name != "stable-baselines3"]
    if setting.startswith("sbx"):
        packages += PACKAGES_OF_SBX
    found = {package: importlib.metadata.version(package) for package in packages}
    return {"python": sys.version, **found}


def origin(setting: str) -> dict[str, str]:
    """Where the program and its settings come from, for args.json."""
    if setting == CLEANRL:
        source = f"vwxyzjn/cleanrl, {CLEANRL_SCRIPT}, at commit {CLEANRL_COMMIT}, with its defaults"
        notes = "Unchanged; peers.py gives it gymnasium's vector environments as they were in 0.29."
    else:
        source = f"{ZOO}, at commit {ZOO_COMMIT}; else the library's defaults"
        notes = "RL Zoo trains for 300,000 steps; no setting depends on it."
    return {"source": source, "notes": notes}


def save_json(path: Path, content: dict) -> None:
    """Writes numbers, strings and containers."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# --------------------------------------------------------------------------------- the command line
def chosen_run(args: argparse.Namespace) -> study.PeerRun:
    """The run of the study that the command line asks for; StudyError if it is there already."""
    wanted = study.load(args.study, args.results)
    for run in wanted.runs:
        if (run.setting, run.seed) == (args.setting, args.seed):
            if run.path.exists():
                raise study.StudyError(f"{run.path} is there already: move it away")
            if run.env_id != ENV_ID:
                raise study.StudyError(f"peers.py trains on {ENV_ID} only, not on {run.env_id}")
            return run
    raise study.StudyError(f"{wanted.name} has no {args.setting} with seed {args.seed}")


def read_command_line() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=SETTINGS, help="whose, and which algorithm")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="one of the study's")
    what.add_argument(
        "--time", type=int, nargs=2, metavar=("THREADS", "STEPS"), help="speed.py gives both"
    )
    parser.add_argument(
        "--cleanrl",
        type=study.full_path,
        help=f"CleanRL's repository, at commit {CLEANRL_COMMIT[:7]}",
    )
    parser.add_argument("--study", default="peers", help="name of the study, or a .toml file")
    parser.add_argument(
        "--results",
        type=study.full_path,
        default=study.RESULTS,
        help="folder of all studies' results",
    )
    return parser.parse_args()


def main() -> None:
    """Trains the run that the command line names, or a contestant of speed.py."""
    args = read_command_line()
    try:
        if args.time:
            take_turns(args.setting, args.cleanrl, *args.time)
        else:
            train(chosen_run(args), args.cleanrl)
    except (study.StudyError, OSError, ImportError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
