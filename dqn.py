# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["filelock==4.2.11", "gymnasium[box2d,mujoco]==1.4.0", "matplotlib==3.11.2", "moviepy==2.2.1",
#     "numpy==2.4.6", "pandas==3.1.1", "tensorboard==2.21.0", "torch==2.13.0", "tqdm==4.70.1", "tyro==1.0.16"]
# ///
"""Deep Q-learning (DQN) in one file, after Algorithm 1 of Mnih et al. 2015 (https://doi.org/10.1038/nature14236):

initialise the action value Q(s, a); copy it into the target Q'; empty the replay memory D
for each episode: receive the first observation s
    for each step:
        act:      a random action a with probability ε, else a = argmax Q(s, a)
        store:    (s, a, r, s') in D
        sample:   N transitions from D
        learn:    y = r + γ max Q'(s', a') over a' (r alone where s' is terminal), minimise L = 1/N Σ (y − Q(s, a))²
        target:   every C updates, Q' = Q

python dqn.py --env-id LunarLander-v3
python dqn.py --evaluate runs/NAME/best.pt --render
python dqn.py --resume runs/NAME
"""

import json
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Literal

import filelock
import gymnasium as gym
import numpy as np
import pandas as pd
import tensorboard.summary
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm


@dataclass
class Args:
    total_timesteps: int = 150_000  # environment steps to train for (paper: 50 million)
    learning_rate: float = 5e-4  # Adam's learning rate (paper: RMSProp's, 2.5e-4)
    gamma: float = 0.99  # discount factor γ (paper: 0.99)
    batch_size: int = 64  # minibatch size N (paper: 32)
    buffer_size: int = 100_000  # transitions that the replay memory holds (paper: 1e6)
    hidden_sizes: tuple[int, int] = (256, 256)  # units of the two hidden layers (paper: convolutions, for pixels)
    train_every: int = 1  # steps between updates, which begin once there is a minibatch (paper: 4; slower here)
    target_network: Literal["none", "hard", "soft"] = "soft"  # Q' is Q itself; a copy (paper); its average
    target_period: int = 100  # with a hard target: updates C between two copies (paper: 10,000)
    tau: float = 0.01  # with a soft target: rate τ at which Q' follows Q at every update
    epsilon_start: float = 1.0  # probability ε of a random action at first (paper: 1)
    epsilon_end: float = 0.1  # and in the end (paper: 0.1)
    epsilon_decay_steps: int = 50_000  # steps over which ε falls linearly from the one to the other (paper: 1 million)
    env_id: str = "LunarLander-v3"  # gymnasium id, of one's own too (my_module:MyEnv-v0)
    seed: int = 0  # of everything random; with --evaluate, of the first start state
    eval_every: int = 5_000  # steps between greedy evaluations (0 = none)
    eval_episodes: int = 20  # episodes of an evaluation, each with its own fixed start state
    device: Literal["cpu", "cuda", "mps"] = "cpu"  # where the networks live (cuda and mps not yet timed)
    num_threads: int = 1  # torch's threads on the CPU
    runs_dir: str = "runs"  # folder of all runs
    run_name: str | None = None  # this run's folder in there (default: environment, script, seed, time)
    checkpoint_every: int = 10_000  # steps between checkpoints, each written when the next episode ends
    capture_video: bool = False  # record the first episode of each evaluation as mp4
    track: bool = False  # log to Weights & Biases, too
    resume: str | None = None  # go on from this run's last checkpoint, exactly; may take a larger --total-timesteps
    evaluate: str | None = None  # instead of training, play this best.pt or last.pt greedily
    render: bool = False  # with --evaluate: show it in a window


# ------------------------------------------------------------------------------------------------------ exploration
def epsilon_at(step: int, args: Args) -> float:
    """The probability ε of a random action: falls linearly over the first steps, then stays where it ends."""
    return float(np.interp(step, (0, args.epsilon_decay_steps), (args.epsilon_start, args.epsilon_end)))


Policy = Callable[[np.ndarray], int]  # (S,) to the number of an action


def epsilon_greedy(policy: Policy, s: np.ndarray, epsilon: float, actions: int, rng: np.random.Generator) -> int:
    """With probability ε any of the actions, all equally likely, else the policy's."""
    return int(rng.integers(actions)) if rng.random() < epsilon else policy(s)


# ---------------------------------------------------------------------------------------------------- replay memory
class ReplayMemory:
    """The last `capacity` transitions, one row each: s, a, r, terminated, s'. Memory is touched only as it fills."""

    def __init__(self, capacity: int, observation_size: int, action_size: int, rng: np.random.Generator) -> None:
        self.rows = np.empty((capacity, 2 * observation_size + action_size + 2), np.float32)
        self.columns = np.cumsum([observation_size, action_size, 1, 1])
        self.s, self.a, self.r, self.terminated, self.next_s = np.split(self.rows, self.columns, axis=1)  # by name
        self.added, self.rng = 0, rng  # transitions ever stored

    def __len__(self) -> int:
        return min(self.added, len(self.rows))

    def add(self, s: np.ndarray, a: np.ndarray | int, r: float, terminated: bool, next_s: np.ndarray) -> None:
        i, self.added = self.added % len(self.rows), self.added + 1
        self.s[i], self.a[i], self.r[i], self.terminated[i], self.next_s[i] = s, a, r, terminated, next_s

    def sample(self, batch_size: int) -> list[np.ndarray]:
        """Uniformly, with replacement: s (N, S), a (N, A), r (N, 1), terminated (N, 1), s' (N, S)."""
        return np.split(self.rows[self.rng.integers(len(self), size=batch_size)], self.columns, axis=1)  # one gather


# --------------------------------------------------------------------------------------------------- the Q-network
class QNetwork(nn.Module):
    """The values Q(s, a) of all actions at once: observations (N, S) to (N, actions)."""

    def __init__(self, observation_size: int, actions: int, args: Args) -> None:
        super().__init__()
        units_1, units_2 = args.hidden_sizes
        self.layer_1 = nn.Linear(observation_size, units_1)  # torch starts weights and biases at U(±1/√fan-in)
        self.layer_2 = nn.Linear(units_1, units_2)
        self.output = nn.Linear(units_2, actions)

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.layer_1(s))  # (N, 256)
        x = F.relu(self.layer_2(x))  # (N, 256)
        return self.output(x)  # (N, actions)


# ------------------------------------------------------------------------------------------------------- the update
class DQN(nn.Module):
    """The Q-network, its target and its optimiser: Algorithm 1 without the environment."""

    def __init__(self, observation_size: int, actions: int, args: Args) -> None:
        super().__init__()
        torch.set_num_threads(args.num_threads)  # for such small networks, all of the machine's would be slower
        self.sizes = observation_size, actions
        self.gamma, self.device, self.updates = args.gamma, torch.device(args.device), 0
        period_and_tau = {"none": (1, 1.0), "hard": (args.target_period, 1.0), "soft": (1, args.tau)}
        self.period, self.tau = period_and_tau[args.target_network]  # none: a copy after every update is Q
        self.q_network = QNetwork(observation_size, actions, args)
        self.target_network = QNetwork(observation_size, actions, args).requires_grad_(False)
        self.update_target(tau=1.0)  # the target starts as a copy
        self.to(self.device)
        self.optimizer = torch.optim.Adam(self.q_network.parameters(), args.learning_rate, fused=True)

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> int:
        """The greedy action argmax Q(s, a): (S,) to its number, from 0 on."""
        return self.q_network(torch.as_tensor(observation, device=self.device)[None])[0].argmax().item()

    def update(self, batch: list[np.ndarray], read: bool = False) -> dict[str, float]:
        """Learns from a minibatch. `read`: return what to log (it makes a GPU wait)."""
        s, a, r, terminated, next_s = (torch.from_numpy(x).to(self.device) for x in batch)

        # y = r + γ max Q'(s', a'). `terminated`, not `done`: a time limit is no end of the task. y is a constant.
        with torch.no_grad():
            next_q = self.target_network(next_s).amax(1, keepdim=True)  # (N, 1)
            y = r + self.gamma * (1 - terminated) * next_q  # (N, 1)
        q = self.q_network(s).gather(1, a.long())  # (N, 1), as y: (N,) against (N, 1) would broadcast to (N, N)
        loss = F.mse_loss(q, y)  # the paper clips y − Q and the rewards, whose sizes differ from game to game
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

        self.updates += 1
        if self.updates % self.period == 0:
            self.update_target(self.tau)
        if not read:
            return {}
        return {name: value.mean().item() for name, value in {"loss": loss, "q": q, "target": y}.items()}

    @torch.no_grad()
    def update_target(self, tau: float) -> None:
        """θ' ← τ θ + (1 − τ) θ': a copy if τ is 1."""
        torch._foreach_lerp_(list(self.target_network.parameters()), list(self.q_network.parameters()), tau)

    def state(self) -> dict:
        return {"networks": self.state_dict(), "optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def magnitude(self) -> float:  # which is finite only if every weight and moment is
        moments = (x for state in self.optimizer.state.values() for x in state.values())
        return sum(x.abs().sum().item() for x in (*self.state_dict().values(), *moments))

    def set_state(self, state: dict) -> None:
        self.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = int(state["updates"])


# ----------------------------------------------------------------------------------------------------- the training
def train(args: Args) -> None:
    """Runs Algorithm 1 in an environment; `run` looks after all else."""
    if args.device != "cpu" and not getattr(torch, args.device).is_available():
        raise RunError(f"--device {args.device}: torch finds none here; use --device cpu")
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    env = make_env(args.env_id, "rgb_array" if args.capture_video else None)
    args.env_id = re.sub(r"-v\d+$", f"-v{env.unwrapped.spec.version}", args.env_id)  # a retired one is no more
    observation_size, actions = env.observation_space.shape[0], int(env.action_space.n)
    agent = DQN(observation_size, actions, args)
    replay = ReplayMemory(args.buffer_size, observation_size, 1, rng)  # of an action its number

    with Run(args, agent, replay, rng, env) as run:
        if args.eval_every and run.step == 0:
            run.evaluate()
        observation, _ = env.reset(seed=None if run.step else args.seed)
        for step in range(run.step + 1, args.total_timesteps + 1):
            run.step = step
            # Act: at random with probability ε, else as Q says
            epsilon = epsilon_at(step, args)
            action = epsilon_greedy(agent.act, observation, epsilon, actions, rng)
            next_observation, reward, terminated, truncated, _ = env.step(action)

            # Store: at a time limit, too, the true next observation and terminated = 0
            replay.add(observation, action, reward, terminated, next_observation)
            observation = next_observation

            # Learn; of every hundred steps, read the values of the first update
            values = {}
            if len(replay) >= args.batch_size and step % args.train_every == 0:
                values = agent.update(replay.sample(args.batch_size), read=step % LOG_EVERY < args.train_every)

            # Log, evaluate, save
            run.after_step(reward, values, {"epsilon": epsilon})
            if terminated or truncated:
                env = run.after_episode()  # another one after a checkpoint
                observation, _ = env.reset()
        if args.eval_every and run.latest["step"] < run.step:
            run.evaluate()
        run.save("last")


# -------------------------------------------------------------------------------------------------- the environment
class RunError(Exception):
    """What is wrong and what to do, for the person at the keyboard: main() prints it in one line and exits with 2."""


def finite(value: np.ndarray | float, name: str) -> np.ndarray | float:
    """The value itself; RunError if any of it is NaN or infinite."""
    if not np.isfinite(value).all():
        raise RunError(f"{name} is not finite: {value}")
    return value


def make_env(env_id: str, render_mode: str | None = None, video: Path | bool = False) -> gym.Env:
    """Makes an environment with actions 0, 1, … and observations (S,), float32; RunError if it is unsuitable."""
    options = {"render_mode": "rgb_array" if video else render_mode} if video or render_mode else {}
    try:
        env = gym.make(env_id, **options)
    except (gym.error.DeprecatedEnv, ImportError):  # ImportError: MuJoCo's v2 and v3 are registered, but gone
        env = gym.make(env_id.rpartition("-v")[0], **options)  # without a version, gymnasium makes the newest
        print(f"{env_id} is retired: running the current version, {env.spec.id}")
    actions, observations = env.action_space, env.observation_space
    if not isinstance(actions, gym.spaces.Discrete):
        raise RunError(f"{env_id} has the actions {actions}: DQN needs one Discrete (ddpg_continuous.py takes a Box)")
    if not isinstance(observations, gym.spaces.Box) or len(observations.shape) != 1:
        raise RunError(f"{env_id} observes {observations}: needed is a vector (see gymnasium's FlattenObservation)")
    if env.render_mode not in [None, *env.metadata.get("render_modes", [])]:
        raise RunError(f"{env_id} has no render mode {env.render_mode}: leave out --render and --capture-video")
    if video:
        env = gym.wrappers.RecordVideo(env, str(video.parent), lambda episode: episode == 0, name_prefix=video.name)
    env = gym.wrappers.TransformAction(env, lambda a: actions.start + a, gym.spaces.Discrete(actions.n))
    env = gym.wrappers.TransformObservation(env, lambda x: finite(np.array(x, np.float32), "the observation"), None)
    return gym.wrappers.TransformReward(env, lambda x: finite(np.float32(x), "the reward").item())


def evaluate(env: gym.Env, policy: Callable[[np.ndarray], np.ndarray | int], episodes: int, seed: int) -> list[float]:
    """Plays without noise from the start states seed, seed + 1, …, then closes env. Gives every episode's return."""
    returns = [0.0] * episodes
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        terminated = truncated = False
        while not (terminated or truncated):
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            returns[episode] += reward
    env.close()
    return returns


# ----------------------------------------------------------------------------------------------------- torch's files
SUFFIX, LIBRARIES = ".pt", (gym, np, torch)  # of files of weights; whose versions args.json names


def save(path: Path, content: dict) -> None:
    """Writes a .json, or a .pt of tensors, arrays, numbers, strings and containers; atomically: no kill halves it."""
    content, data = {"script": SCRIPT, **content}, BytesIO()
    tensors = {key: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for key, x in content.items()}
    data.write(json.dumps(content, indent=2).encode()) if path.suffix == ".json" else torch.save(tensors, data)
    (new := path.with_name(f"{path.name}.new")).write_bytes(data.getbuffer())
    os.replace(new, path)


def load(path: Path) -> dict:
    """What save() wrote. weights_only: code in a hostile file does not run."""
    with explaining(f"{path} is missing, damaged or foreign"):
        content = json.loads(path.read_text()) if path.suffix == ".json" else torch.load(path, "cpu", weights_only=True)
        if content["script"] != SCRIPT:
            raise RunError(f"it was written by {content['script']}.py: use that script")
        return content


# ---------------------------------------------------------------------------------------------------------- the run
SCRIPT = Path(__file__).stem
LOG_EVERY = 100  # steps between two readings of the update's values, each of which makes the device wait
EVALUATION_SEED = 1_000_000  # added to --seed: start states that training does not begin with


@contextmanager
def explaining(trouble: str) -> Iterator[None]:
    """Puts whatever goes wrong inside into one line: damaged files make libraries raise nearly anything."""
    try:
        yield
    except Exception as error:
        raise RunError(f"{trouble}: {str(error)[:150]}") from error


def load_policy(path: Path | str) -> tuple[Callable[[np.ndarray], np.ndarray | int], Args]:
    """The policy of a run's best or last weights, as agent.act gives it, and the arguments of its training."""
    content = load(Path(path))
    with explaining(f"{path} holds no policy; give a best{SUFFIX} or last{SUFFIX}"):
        args = Args(**{name: "cpu" if name == "device" else x for name, x in content["args"].items()})
        agent = DQN(*content["sizes"], args)
        agent.set_state(content["agent"])
        return agent.act, args


class Run(AbstractContextManager):
    """A run's directory and all that goes into it: logs, evaluations, checkpoints, plots."""

    def __init__(self, args: Args, agent: DQN, replay: ReplayMemory, rng: np.random.Generator, env: gym.Env) -> None:
        """Makes the directory, or opens the one to resume and restores its checkpoint; RunError if it is taken."""
        wandb = __import__("wandb") if args.track else None  # before anything is written
        self.args, self.agent, self.replay, self.rng, self.env = args, agent, replay, rng, env
        self.step = self.episode = self.checkpointed = self.length = self.seconds = self.episodic_return = 0
        self.returns, self.solved, self.best, self.latest = [], {}, None, None  # returns: of the last 100 episodes
        self.threshold = np.inf if (x := env.unwrapped.spec.reward_threshold) is None else x
        name = args.run_name or f"{args.env_id}__{SCRIPT}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
        self.path = Path(args.resume or Path(args.runs_dir, re.sub(r"[^\w-]", "-", name)))  # a name for Windows, too
        try:
            self.path.mkdir(parents=True, exist_ok=args.resume is not None)
            self.lock = filelock.FileLock(self.path / ".lock").acquire(blocking=False)
        except FileExistsError:
            raise RunError(f"{self.path} exists: choose another --run-name, or continue it with --resume") from None
        except filelock.Timeout:
            raise RunError(f"{self.path} is in use: another process writes to it") from None
        path, log_sizes = self.path / f"checkpoint{SUFFIX}", {}
        if path.exists():
            state = load(path)
            with explaining(f"{path} does not fit args.json"):
                if state["args"]["env_id"] != args.env_id:
                    raise RunError(f"it is of {state['args']['env_id']}")
                agent.set_state(state["agent"])
                replay.rows[: len(state["rows"])], replay.added = state["rows"], state["added"]
                rng.bit_generator.state, env.unwrapped.np_random.bit_generator.state = state["rng"], state["env_rng"]
                vars(self).update(state["run"], checkpointed=state["run"]["step"])
                log_sizes = state["log_sizes"]
                if state["best"] is not None:
                    (self.path / f"best{SUFFIX}").write_bytes(np.asarray(state["best"]).tobytes())
        versions = {"python": sys.version} | {library.__name__: library.__version__ for library in LIBRARIES}
        save(self.path / "args.json", {"args": asdict(args), "versions": versions})
        for log in self.logs():  # what came after the checkpoint will be logged again
            os.truncate(log, log_sizes[log.name]) if log.name in log_sizes else log.unlink()
        sys.modules["tensorboard.compat.notf"] = sys  # TensorBoard's switch, else it loads TensorFlow where it can
        self.events = tensorboard.summary.Writer(str(self.path))
        with explaining("W&B does not start (WANDB_MODE=offline works without an account)"):
            self.wandb = wandb and wandb.init(id=self.path.name, config=asdict(args), dir=self.path, resume="allow")
        self.began = time.monotonic() - self.seconds
        self.plain, every = (None, 0.1) if sys.stderr.isatty() else (StringIO(), 10)  # s; lines instead of a bar
        self.bar = tqdm(initial=self.step, total=args.total_timesteps, unit="step", file=self.plain, mininterval=every)

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if kind in (None, KeyboardInterrupt):
            self.summarise()
        self.events.close()
        self.bar.close()
        if isinstance(error, RunError | OSError):
            saved = f"the checkpoint of step {self.checkpointed} is whole" if self.checkpointed else "no checkpoint yet"
            raise RunError(f"step {self.step}: {error}; {saved}")
        print(f"{'stopped' if kind else 'finished'} after {self.step} steps: {self.path}")

    def after_step(self, reward: float, values: dict[str, float], exploration: dict[str, float]) -> None:
        self.length, self.episodic_return = self.length + 1, self.episodic_return + reward
        if self.bar.update() and self.plain:  # it would have been shown
            print(self.bar)
        if values:
            finite(list(values.values()), f"{', '.join(values)} of the update (try lower learning rates)")
            self.log("updates", {**values, **exploration})
            self.events.add_scalar("SPS", self.step / (time.monotonic() - self.began), self.step)
        if self.args.eval_every and self.step % self.args.eval_every == 0:
            self.evaluate()

    def after_episode(self) -> gym.Env:
        self.episode += 1
        self.returns = [*self.returns, self.episodic_return][-100:]
        mean = float(np.mean(self.returns))
        self.log("episodes", {"episode": self.episode, "return": self.episodic_return, "length": self.length})
        self.bar.set_postfix({"episode": self.episode, "return": self.episodic_return, "100-episode mean": mean}, False)
        if len(self.returns) == 100 and mean >= self.threshold and "training" not in self.solved:
            self.solved["training"] = self.step
            self.bar.write(f"step {self.step}: 100-episode mean of the training return has reached {self.threshold:g}")
        self.episodic_return, self.length = 0.0, 0
        if self.step // self.args.checkpoint_every > self.checkpointed // self.args.checkpoint_every:
            self.checkpoint()
        return self.env

    def evaluate(self) -> None:
        env = make_env(self.args.env_id, video=self.args.capture_video and self.path / "videos" / f"step-{self.step}")
        returns = evaluate(env, self.agent.act, self.args.eval_episodes, self.args.seed + EVALUATION_SEED)
        mean, std = float(np.mean(returns)), float(np.std(returns))
        self.log("evaluations", {"mean": mean, "std": std}, {f"episode_{i}": x for i, x in enumerate(returns)})
        self.bar.write(f"step {self.step}: evaluation {mean:.1f} ± {std:.1f}")
        self.latest = {"step": self.step, "mean": mean, "std": std}
        if mean >= self.threshold:
            self.solved.setdefault("evaluation", self.step)
        if self.best is None or mean > self.best["mean"]:
            self.best = self.latest
            self.save("best")

    def log(self, name: str, values: dict[str, float], csv_only: dict[str, float] | None = None) -> None:
        path = self.path / f"{name}.csv"
        row = pd.DataFrame([{"step": self.step, **values, **(csv_only or {})}])
        row.to_csv(path, mode="a", header=not path.exists(), index=False, lineterminator="\n")
        for key, value in values.items():
            self.events.add_scalar(f"{name}/{key}", value, self.step)
        if self.wandb:  # which ignores steps that it already has, as after --resume
            self.wandb.log({f"{name}/{key}": value for key, value in values.items()}, step=self.step)

    def logs(self) -> list[Path]:
        csvs = (self.path / f"{name}.csv" for name in ("episodes", "evaluations", "updates"))
        return [*(file for file in csvs if file.exists()), *self.path.glob("events.out.tfevents.*")]

    def checkpoint(self) -> None:
        """Saves all that an exact continuation needs; between episodes, as an environment's state cannot be saved."""
        self.seconds = time.monotonic() - self.began
        self.events.flush()
        old, self.env = self.env, make_env(self.args.env_id)  # as after a resume: only its random state goes on
        self.env.unwrapped.np_random = old.unwrapped.np_random
        old.close()
        more = {"rows": self.replay.rows[: len(self.replay)], "added": self.replay.added}
        more["rng"], more["env_rng"] = (rng.bit_generator.state for rng in (self.rng, self.env.unwrapped.np_random))
        more["best"] = np.fromfile(self.path / f"best{SUFFIX}", np.uint8) if self.best else None
        more["run"] = {k: vars(self)[k] for k in ("step", "episode", "seconds", "returns", "solved", "best", "latest")}
        more["log_sizes"] = {log.name: log.stat().st_size for log in self.logs()}
        self.save("checkpoint", **more)
        self.checkpointed = self.step
        self.summarise()

    def save(self, name: str, **more: object) -> None:
        finite(self.agent.magnitude(), "the sum of all weights and moments (try lower learning rates)")
        content = {"args": asdict(self.args), "sizes": self.agent.sizes, "agent": self.agent.state()}
        save(self.path / f"{name}{SUFFIX}", {**content, **more})

    def summarise(self) -> None:
        summary = {"steps": self.step, "episodes": self.episode, "wall_time_seconds": time.monotonic() - self.began}
        summary |= {"steps_per_second": self.step / summary["wall_time_seconds"], "solved_at_step_by": self.solved}
        save(self.path / "summary.json", {**summary, "final_evaluation": self.latest, "best_evaluation": self.best})
        plot(self.path, [log for log in self.logs() if log.suffix == ".csv"], self.threshold)


def plot(path: Path, csvs: list[Path], threshold: float) -> None:
    """Draws learning_curve.png and .pdf of the run in `path` from its CSVs."""
    logs = {file.stem: pd.read_csv(file, index_col="step") for file in csvs}
    figure = Figure(figsize=(8, 7), layout="constrained")
    returns, values, lengths = figure.subplot_mosaic("rr;vl", height_ratios=[3, 2]).values()
    if (log := logs.get("episodes")) is not None:
        returns.plot(log["return"], ".", color="0.7", ms=4, label="training episode")
        returns.plot(log["return"].rolling(100, min_periods=1).mean(), lw=2, label="mean of the last 100 of these")
        lengths.plot(log["length"], ".", color="0.5", ms=4)
    if (log := logs.get("evaluations")) is not None:
        returns.errorbar(log.index, log["mean"], log["std"], fmt="ko--", ms=4, lw=1, label="evaluation, mean ± std")
    if (log := logs.get("updates")) is not None:
        for (name, column), style in zip(log.rolling(10, 1).mean().items(), ("C0:", "C1--", "k-"), strict=False):
            values.plot(column, style, label=f"{name}, mean of 10")
        returns.twinx(ylabel="ε (dash-dotted)", ylim=(0, 1)).plot(log["epsilon"], "C2-.")
        values.legend()
    if np.isfinite(threshold):
        returns.axhline(threshold, color="black", ls=":", label=f"threshold {threshold:g}")
    returns.legend()
    returns.set(title=path.name, xlabel="step", ylabel="return")
    values.set(xlabel="step", ylabel="value, loss", yscale="symlog")
    lengths.set(xlabel="step", ylabel="episode length")
    for suffix in ("png", "pdf"):
        figure.savefig(path / f"learning_curve.{suffix}", dpi=150)


# -------------------------------------------------------------------------------------------------- the command line
def check(args: Args) -> None:
    """Raises RunError, naming the flag, if a value is out of range, or NaN."""
    if args.target_network not in ("none", "hard", "soft"):  # in an args.json: tyro has looked at the flag
        raise RunError(f"--target-network is {args.target_network}: it has to be none, hard or soft")
    ranges = {
        "gamma tau epsilon_start epsilon_end": (0, 1),
        "total_timesteps buffer_size eval_episodes checkpoint_every num_threads": (1, 2**31),
        "target_period epsilon_decay_steps": (1, 2**31),
        "train_every": (1, args.total_timesteps),
        "hidden_sizes": (1, 2**15),
        "batch_size": (1, min(args.buffer_size, args.total_timesteps)),
        "seed eval_every": (0, 2**31),
        "learning_rate": (0, 1e9),
    }
    for names, (low, high) in ranges.items():
        for name in names.split():
            if not low <= np.min(value := getattr(args, name, low) or 0) <= np.max(value) <= high:
                raise RunError(f"--{name.replace('_', '-')} is {value}: it has to be from {low} to {high}")


def args_to_resume(args: Args, flags: set[str]) -> Args:
    """The arguments in the args.json of the run to resume, with the larger --total-timesteps if one was given."""
    if others := flags - {"--resume", "--total-timesteps"}:
        raise RunError(f"--resume takes everything from the run's args.json: leave out {', '.join(sorted(others))}")
    content = load(path := Path(args.resume, "args.json"))
    with explaining(f"cannot use {path}"):
        old = Args(**{**content["args"], "resume": args.resume})
        check(old)
    if "--total-timesteps" in flags:
        if args.total_timesteps <= old.total_timesteps:
            raise RunError(f"--total-timesteps {args.total_timesteps}: the run already has {old.total_timesteps}")
        old.total_timesteps = args.total_timesteps
    return old


def play(args: Args, flags: set[str]) -> None:
    """--evaluate: plays a checkpoint without noise, in the environment of its training unless --env-id is given."""
    if others := flags - {"--evaluate", "--env-id", "--eval-episodes", "--seed", "--render", "--capture-video"}:
        raise RunError(f"--evaluate cannot use them: leave out {', '.join(sorted(others))}")
    policy, trained = load_policy(path := Path(args.evaluate))
    env_id = args.env_id if "--env-id" in flags else trained.env_id
    env = make_env(env_id, "human" if args.render else None, args.capture_video and path.parent / "videos" / path.stem)
    with explaining(f"{path}, trained in {trained.env_id}, cannot play {env_id}"):
        if (sizes := load(path)["sizes"]) != (*env.observation_space.shape, env.action_space.n):
            raise RunError(f"its sizes of observations and actions are {sizes}")
        returns = evaluate(env, policy, args.eval_episodes, args.seed)
    for episode, episodic_return in enumerate(returns):
        print(f"episode {episode}, start state {args.seed + episode}: return {episodic_return:.1f}")
    print(f"mean {np.mean(returns):.1f} ± {np.std(returns):.1f} over {len(returns)} episodes of {env_id}")


def main() -> None:
    """Reads the command line, then trains, resumes or plays. Here every foreseen error becomes one line."""
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.path.append("")  # the current folder, for one's own my_module:MyEnv-v0
    threading.excepthook = lambda x: isinstance(x.exc_value, OSError) or threading.__excepthook__(x)  # TensorBoard's
    warnings.simplefilter("ignore")  # the libraries' are long, and would hide the line that matters
    args = tyro.cli(Args, description=__doc__)
    flags = {flag.partition("=")[0].replace("_", "-") for flag in sys.argv[1:] if flag.startswith("--")}
    try:
        check(args)
        if args.evaluate:
            return play(args, flags)
        if args.render:
            raise RunError("--render shows a trained policy: it needs --evaluate")
        train(args_to_resume(args, flags) if args.resume else args)
    except KeyboardInterrupt:
        sys.exit(130)
    except (RunError, gym.error.Error, ImportError, MemoryError, OSError) as error:
        hint = f" (pip install {name})" if (name := getattr(error, "name", None)) else ""
        print(" ".join(f"{error}{hint}".split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
