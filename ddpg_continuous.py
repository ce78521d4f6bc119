# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#     "filelock==4.2.11",
#     "gymnasium[box2d,mujoco]==1.4.0",
#     "matplotlib==3.11.2",
#     "moviepy==2.2.1",
#     "numpy==2.4.6",
#     "pandas==3.1.1",
#     "tensorboard==2.21.0",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "tyro==1.0.16",
# ]
# ///
"""DDPG, deep deterministic policy gradient, in one file (Lillicrap et al. 2015, https://arxiv.org/abs/1509.02971).

Algorithm 1, in the paper's symbols:

    initialise the critic Q(s, a) and the actor μ(s); copy them into the targets Q' and μ'; empty the replay R
    for each episode:
        restart the exploration noise 𝒩 and receive the first observation s
        for each step:
            act:      a = μ(s) + 𝒩
            store:    (s, a, r, s') in R
            sample:   N transitions from R
            critic:   y = r + γ Q'(s', μ'(s')), and minimise L = 1/N Σ (y − Q(s, a))²
            actor:    ascend 1/N Σ ∇ₐQ(s, a)|ₐ₌μ(s) ∇μ(s)
            targets:  θ' ← τ θ + (1 − τ) θ', for Q' and μ'

    python ddpg_continuous.py --env-id LunarLanderContinuous-v3
    python ddpg_continuous.py --evaluate runs/NAME/best.pt --render
    python ddpg_continuous.py --resume runs/NAME
"""

import json
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

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
    """Hyperparameters ("paper": Section 7 of Lillicrap et al. 2015), then the run, then bookkeeping."""

    total_timesteps: int = 120_000  # environment steps to train for (paper: up to 2.5 million)
    actor_learning_rate: float = 1e-4  # Adam's learning rate for the actor (paper: 1e-4)
    critic_learning_rate: float = 1e-3  # Adam's learning rate for the critic (paper: 1e-3)
    weight_decay: float = 1e-2  # L2 penalty on the critic's parameters, within their gradient (paper: 1e-2)
    gamma: float = 0.99  # discount factor γ (paper: 0.99)
    tau: float = 0.005  # rate τ at which the targets follow (paper: 0.001, with which trials needed more steps)
    batch_size: int = 64  # minibatch size N (paper: 64)
    buffer_size: int = 1_000_000  # transitions that the replay memory holds (paper: 1e6)
    hidden_sizes: tuple[int, int] = (400, 300)  # units of the two hidden layers (paper: 400 300)
    norm: Literal["batch", "layer", "none"] = "batch"  # normalisation, in the critic before the action (paper: batch)
    learning_starts: int = 10_000  # uniformly random steps before the first update (paper: not stated)
    noise: Literal["ou", "gaussian"] = "ou"  # exploration noise: Ornstein-Uhlenbeck (paper) or independent Gaussian
    noise_sigma: float = 0.3  # scale σ of the noise, for actions in [-1, 1] (paper: 0.2)
    ou_theta: float = 0.15  # rate θ at which Ornstein-Uhlenbeck noise returns to zero (paper: 0.15)
    ou_dt: float = 1.0  # time step dt of Ornstein-Uhlenbeck noise (paper: not stated)
    noise_decay_steps: int = 0  # steps over which the noise falls linearly to zero (paper: 0, constant)

    env_id: str = "LunarLanderContinuous-v3"  # gymnasium id, of one's own too (my_module:MyEnv-v0): vector in, Box out
    seed: int = 0  # of everything random; with --evaluate, of the first start state
    eval_every: int = 5_000  # steps between noise-free evaluations (0 = none)
    eval_episodes: int = 20  # episodes of an evaluation, each with its own fixed start state
    device: Literal["cpu", "cuda", "mps"] = "cpu"  # cpu is the fastest for networks of this size
    num_threads: int = 1  # torch's threads on the CPU

    runs_dir: Path = Path("runs")  # folder of all runs
    run_name: str | None = None  # this run's folder in there (default: environment, script, seed, time)
    checkpoint_every: int = 10_000  # steps between checkpoints, each written at the next end of an episode
    capture_video: bool = False  # record the first episode of each evaluation as mp4
    track: bool = False  # log to Weights & Biases, too
    resume: Path | None = None  # go on with this run directory exactly, by its args.json; may take --total-timesteps
    evaluate: Path | None = None  # instead of training, play this best.pt or last.pt without noise
    render: bool = False  # with --evaluate: show it in a window


# ------------------------------------------------------------------------------------------------ exploration noise


class OrnsteinUhlenbeckNoise:
    """Temporally correlated exploration: dx = −θ x dt + σ dW (Section 7 of the paper), by Euler's method.

    With θ dt = 1 nothing is remembered: independent Gaussian noise of standard deviation σ √dt.
    """

    def __init__(self, size: int, sigma: float, theta: float, dt: float, rng: np.random.Generator) -> None:
        self.size, self.sigma, self.theta, self.dt, self.rng = size, sigma, theta, dt, rng
        self.restart()

    def restart(self) -> None:
        """Back to zero: to be called at the start of every episode."""
        self.x = np.zeros(self.size, np.float32)

    def sample(self) -> np.ndarray:
        """The next value of the process, (A,)."""
        dw = math.sqrt(self.dt) * self.rng.standard_normal(self.size, np.float32)  # normal increments, not uniform ones
        self.x = self.x - self.theta * self.x * self.dt + self.sigma * dw
        return self.x


# ---------------------------------------------------------------------------------------------------- replay memory


class ReplayMemory:
    """The last `capacity` transitions, one row each: s, a, r, terminated, s'. Memory is touched only as it fills."""

    def __init__(self, capacity: int, observation_size: int, action_size: int, rng: np.random.Generator) -> None:
        self.rows = np.empty((capacity, 2 * observation_size + action_size + 2), np.float32)
        self.columns = np.cumsum([observation_size, action_size, 1, 1])
        self.added = 0  # transitions ever stored; the row after the newest is the oldest
        self.rng = rng

    def __len__(self) -> int:
        return min(self.added, len(self.rows))

    def add(
        self, observation: np.ndarray, action: np.ndarray, reward: float, terminated: bool, next_observation
    ) -> None:
        row = self.rows[self.added % len(self.rows)]
        np.concatenate((observation, action, (reward, terminated), next_observation), out=row, casting="same_kind")
        self.added += 1

    def sample(self, batch_size: int) -> list[np.ndarray]:
        """Uniformly, with replacement: s (N, S), a (N, A), r (N, 1), terminated (N, 1), s' (N, S)."""
        rows = self.rows[self.rng.integers(len(self), size=batch_size)]  # one gather
        return np.split(rows, self.columns, axis=1)

    def state_dict(self) -> dict:
        return {"rows": torch.from_numpy(self.rows[: len(self)]), "added": self.added}

    def load_state_dict(self, state: dict) -> None:
        self.rows[: len(state["rows"])], self.added = state["rows"].numpy(), state["added"]


# ------------------------------------------------------------------------------------------------- actor and critic


def uniform(layer: nn.Linear, bound: float) -> nn.Linear:
    """Draws weights and biases of a layer from U(−bound, bound)."""
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound)
    return layer


def hidden(inputs: int, units: int, bias: bool, fan_in: int | None = None) -> nn.Linear:
    """A hidden layer, from U(−1/√f, 1/√f). f is the fan-in; torch stores weights as (units, inputs), so not size(0)."""
    return uniform(nn.Linear(inputs, units, bias), 1 / math.sqrt(fan_in or inputs))


def normalisation(norm: str, units: int, acts: bool = False) -> nn.Module:
    """A layer's normalisation, (N, units) to (N, units).

    Batch norm takes the minibatch's own mean and variance in every training pass, in the targets too, where running
    averages that lag behind the weights make Q diverge. Only the network that acts has no minibatch: it alone keeps
    running averages. Their momentum is 0.01, since with torch's 0.1 one odd minibatch sways the acting policy.
    """
    if norm == "batch":
        return nn.BatchNorm1d(units, momentum=0.01, track_running_stats=acts)
    return nn.LayerNorm(units) if norm == "layer" else nn.Identity()


class Actor(nn.Module):
    """The policy μ(s): observations (N, S) to actions (N, A) in [-1, 1]. `acts`: will be asked for single actions."""

    def __init__(self, observation_size: int, action_size: int, args: Args, acts: bool = False) -> None:
        super().__init__()
        units_1, units_2 = args.hidden_sizes
        bias = args.norm != "batch"  # batch norm subtracts the mean, and with it any bias before it
        self.layer_1 = hidden(observation_size, units_1, bias)
        self.norm_1 = normalisation(args.norm, units_1, acts)
        self.layer_2 = hidden(units_1, units_2, bias)
        self.norm_2 = normalisation(args.norm, units_2, acts)
        self.output = uniform(nn.Linear(units_2, action_size), 3e-3)

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm_1(self.layer_1(s)))  # (N, 400)
        x = F.relu(self.norm_2(self.layer_2(x)))  # (N, 300)
        return torch.tanh(self.output(x))  # (N, A)


class Critic(nn.Module):
    """The action value Q(s, a): (N, S) and (N, A) to (N, 1). The action enters at the second hidden layer."""

    def __init__(self, observation_size: int, action_size: int, args: Args) -> None:
        super().__init__()
        units_1, units_2 = args.hidden_sizes
        self.layer_1 = hidden(observation_size, units_1, bias=args.norm != "batch")
        self.norm_1 = normalisation(args.norm, units_1)
        # The second layer's matrix in two parts, for the state path and for the action: the state path can be
        # normalised before the action enters, and ∇ₐQ needs no product with the large part. The fan-in is their sum.
        fan_in = units_1 + action_size
        self.layer_2 = hidden(units_1, units_2, args.norm != "batch", fan_in)
        self.norm_2 = normalisation(args.norm, units_2)
        self.layer_2_action = hidden(action_size, units_2, args.norm == "batch", fan_in)
        self.output = uniform(nn.Linear(units_2, 1), 3e-3)

    def forward(self, s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm_1(self.layer_1(s)))  # (N, 400)
        x = F.relu(self.norm_2(self.layer_2(x)) + self.layer_2_action(a))  # (N, 300)
        return self.output(x)  # (N, 1)


# ------------------------------------------------------------------------------------------------------- the update


class DDPG:
    """Actor, critic, their targets and optimisers: Algorithm 1 without the environment."""

    def __init__(self, observation_size: int, action_size: int, args: Args) -> None:
        self.gamma, self.tau, self.device = args.gamma, args.tau, torch.device(args.device)
        self.actor = Actor(observation_size, action_size, args, acts=True).to(self.device)
        self.critic = Critic(observation_size, action_size, args).to(self.device)
        self.target_actor = Actor(observation_size, action_size, args).to(self.device).requires_grad_(False)
        self.target_critic = Critic(observation_size, action_size, args).to(self.device).requires_grad_(False)
        self.update_targets(tau=1.0)  # the targets start as copies
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), args.actor_learning_rate, fused=True)
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), args.critic_learning_rate, weight_decay=args.weight_decay, fused=True
        )

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """μ(s) without noise: (S,) to (A,), in [-1, 1]. The only place that reads batch norm's running averages."""
        self.actor.eval()
        action = self.actor(torch.as_tensor(observation, device=self.device).unsqueeze(0)).squeeze(0).cpu().numpy()
        self.actor.train()
        return action

    def update(self, batch: list[np.ndarray], read: bool = False) -> dict[str, float] | None:
        """Learns from a minibatch as Algorithm 1 does. `read`: also return what to log (it makes the device wait)."""
        s, a, r, terminated, next_s = (torch.from_numpy(x).to(self.device) for x in batch)

        # Critic: minimise L = 1/N Σ (y − Q(s, a))². `terminated`, not `done`: a time limit is no end of the task.
        with torch.no_grad():
            y = r + self.gamma * (1 - terminated) * self.target_critic(next_s, self.target_actor(next_s))  # (N, 1)
        q = self.critic(s, a)  # (N, 1), as y: (N,) against (N, 1) would silently broadcast to (N, N)
        critic_loss = F.mse_loss(q, y)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()

        # Actor: ascend 1/N Σ ∇ₐQ(s, a)|ₐ₌μ(s) ∇μ(s), at its own action, through the critic just updated. The chain
        # rule is autograd's; `inputs` keeps it from computing the critic's own gradients, which nobody would use.
        mu = self.actor(s)  # (N, A)
        actor_loss = -self.critic(s, mu).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward(inputs=list(self.actor.parameters()))
        self.actor_optimizer.step()

        self.update_targets(self.tau)
        if not read:
            return None
        saturation = (mu.abs() > 0.99).float().mean()  # share of actions at the edge of the box, where tanh is flat
        logged = {"critic_loss": critic_loss, "actor_loss": actor_loss, "q": q.mean(), "saturation": saturation}
        return {name: value.item() for name, value in logged.items()}

    @torch.no_grad()
    def update_targets(self, tau: float) -> None:
        """θ' ← τ θ + (1 − τ) θ'. Parameters are all that the targets read: their batch norm has no running averages."""
        torch._foreach_lerp_(list(self.target_critic.parameters()), list(self.critic.parameters()), tau)
        torch._foreach_lerp_(list(self.target_actor.parameters()), list(self.actor.parameters()), tau)

    def state_dict(self) -> dict:
        """Everything that an exact continuation needs."""
        parts = ("actor", "critic", "target_actor", "target_critic", "actor_optimizer", "critic_optimizer")
        return {part: getattr(self, part).state_dict() for part in parts}

    def load_state_dict(self, state: dict) -> None:
        """Takes what state_dict() gave; KeyError, ValueError or RuntimeError if it is of other networks."""
        for part, content in state.items():
            getattr(self, part).load_state_dict(content)

    def is_finite(self) -> bool:
        return all(bool(p.isfinite().all()) for net in (self.actor, self.critic) for p in net.parameters())


# ----------------------------------------------------------------------------------------------------- the training


def train(args: Args) -> None:
    """Runs Algorithm 1 in an environment; `run` looks after all else."""
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    env = make_env(args.env_id)
    observation_size, action_size = env.observation_space.shape[0], env.action_space.shape[0]
    agent = DDPG(observation_size, action_size, args)
    replay = ReplayMemory(args.buffer_size, observation_size, action_size, rng)
    theta, dt = (args.ou_theta, args.ou_dt) if args.noise == "ou" else (1.0, 1.0)
    noise = OrnsteinUhlenbeckNoise(action_size, args.noise_sigma, theta, dt, rng)

    with Run(args, agent, replay, rng, env) as run:
        observation, _ = env.reset(seed=None if run.step else args.seed)
        for step in range(run.step + 1, args.total_timesteps + 1):
            # Act: at random at first, then by the policy plus noise. What is clipped here is executed and stored.
            noise_scale = max(0.0, 1 - step / args.noise_decay_steps) if args.noise_decay_steps else 1.0
            if step <= args.learning_starts:
                action = rng.uniform(-1, 1, action_size).astype(np.float32)
            else:
                action = np.clip(agent.act(observation) + noise_scale * noise.sample(), -1, 1)

            # Step
            next_observation, reward, terminated, truncated, _ = env.step(action)

            # Store: at a time limit, too, the true next observation and terminated = 0
            replay.add(observation, action, reward, terminated, next_observation)
            observation = next_observation

            # Learn
            values = None
            if step > args.learning_starts:
                values = agent.update(replay.sample(args.batch_size), read=step % LOG_EVERY == 0)

            # Log, evaluate, save
            run.after_step(reward, values, noise_scale)
            if terminated or truncated:
                run.after_episode()
                if run.checkpoint_is_due():
                    env = run.checkpoint()
                observation, _ = env.reset()
                noise.restart()


# -------------------------------------------------------------------------------------------------- the environment


class RunError(Exception):
    """What is wrong and what to do, for the person at the keyboard: main() prints it in one line and exits with 2."""


class UnitBox(gym.Wrapper):
    """Actions in [-1, 1] for any bounded Box, float32 observations, and nothing infinite or NaN in or out."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.low, self.high = env.action_space.low, env.action_space.high
        self.action_space = gym.spaces.Box(-1.0, 1.0, self.low.shape)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        observation, info = self.env.reset(**kwargs)
        return self.finite(observation, "the environment's first observation"), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.finite(action, "the actor's output (the training has diverged: try lower learning rates)")
        scaled = (self.low * (1 - action) + self.high * (1 + action)) / 2  # exact at both ends
        observation, reward, terminated, truncated, info = self.env.step(np.clip(scaled, self.low, self.high))
        self.finite(reward, "the environment's reward")
        return self.finite(observation, "the environment's observation"), float(reward), terminated, truncated, info

    def finite(self, value: np.ndarray | float, name: str) -> np.ndarray:
        if not np.isfinite(value).all():
            raise RunError(f"{name} is not finite: {value}")
        return np.asarray(value, np.float32)


def current_env_id(env_id: str) -> str:
    """The id, or the newest version's where gymnasium has retired this one (LunarLanderContinuous-v2 → v3)."""
    try:
        gym.make(env_id).close()
    except (gym.error.DeprecatedEnv, ImportError):  # ImportError: MuJoCo's v2 and v3 are registered, but gone
        name, _, number = env_id.rpartition("-v")
        versions = [spec.version for key, spec in gym.registry.items() if key.startswith(f"{name.split(':')[-1]}-v")]
        if max(versions, default=0) <= int(number):
            raise  # this is the newest: something that it needs is missing
        print(f"{env_id} is retired: running the current version, {name}-v{max(versions)}")
        return f"{name}-v{max(versions)}"
    return env_id


def make_env(env_id: str, render_mode: str | None = None, video: Path | None = None) -> gym.Env:
    """Makes an environment with actions (A,) in [-1, 1] and observations (S,); RunError if it is of another kind.

    With `video`, the first episode is recorded as an mp4 whose path begins so.
    """
    env = gym.make(env_id, render_mode="rgb_array" if video else render_mode)
    actions, observations = env.action_space, env.observation_space
    if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1 or not actions.is_bounded():
        raise RunError(f"{env_id} has the actions {actions}: DDPG needs continuous, bounded ones, a vector Box")
    if not isinstance(observations, gym.spaces.Box) or len(observations.shape) != 1:
        raise RunError(f"{env_id} observes {observations}: needed is a vector (see gymnasium's FlattenObservation)")
    if env.render_mode not in [None, *env.metadata["render_modes"]]:
        raise RunError(f"{env_id} has no render mode {env.render_mode}: leave out --render and --capture-video")
    if video:
        env = gym.wrappers.RecordVideo(env, str(video.parent), lambda episode: episode == 0, name_prefix=video.name)
    return UnitBox(env)


def evaluate(env: gym.Env, policy: Callable[[np.ndarray], np.ndarray], episodes: int, seed: int) -> list[float]:
    """Plays without noise from the start states seed, seed + 1, …, then closes env. Gives every episode's return."""
    returns = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        returns.append(0.0)
        over = False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            returns[-1] += reward
            over = terminated or truncated
    env.close()
    return returns


# ------------------------------------------------------------------------------------------------------------ files


@contextmanager
def explaining(trouble: str) -> Iterator[None]:
    """Puts whatever goes wrong inside into one line: damaged files make libraries raise nearly anything."""
    try:
        yield
    except (OSError, RunError):
        raise
    except Exception as error:
        raise RunError(f"{trouble}: {str(error)[:150]}") from error


def write(path: Path, data: bytes) -> None:
    """Writes a file atomically: after a crash, or on a full disk, the old one is still whole."""
    new = path.with_name(f"{path.name}.new")
    try:
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def save(path: Path, content: dict) -> None:
    """Saves tensors, numbers, strings, and containers of these."""
    data = BytesIO()
    torch.save({"script": SCRIPT, **content}, data)
    write(path, data.getbuffer())


def load(path: Path) -> dict:
    """What save() wrote. weights_only: code in a hostile file does not run."""
    with explaining(f"{path} is damaged or no checkpoint"):
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["script"] != SCRIPT:
            raise RunError(f"{path} was written by {content['script']}.py: use that script")
        return content


def load_policy(path: Path) -> tuple[Callable[[np.ndarray], np.ndarray], Args]:
    """The policy of a best.pt or last.pt, (S,) to (A,) in [-1, 1], and the arguments of its training."""
    content = load(path)
    with explaining(f"{path} holds no policy; give a best.pt or last.pt"):
        args = Args(**{**content["args"], "device": "cpu"})
        agent = DDPG(*content["sizes"], args)
        agent.actor.load_state_dict(content["actor"])
        return agent.act, args


def plain(args: Args) -> dict:
    """The arguments as JSON and checkpoints hold them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(args).items()}


# ---------------------------------------------------------------------------------------------------------- the run

SCRIPT = Path(__file__).stem
LOG_EVERY = 100  # steps between two readings of the update's values, each of which makes the device wait
EVALUATION_SEED = 1_000_000  # added to --seed: start states that training does not begin with
REMEMBERED = ("step", "episode", "seconds", "returns", "solved", "best", "latest")  # of a Run, by its checkpoints


class Run:
    """A run's directory and all that goes into it: logs, evaluations, checkpoints, plots."""

    def __init__(self, args: Args, agent: DDPG, replay: ReplayMemory, rng: np.random.Generator, env: gym.Env) -> None:
        """Makes the directory, or opens the one to resume and restores its checkpoint; RunError if it is taken."""
        self.args, self.agent, self.replay, self.rng, self.env = args, agent, replay, rng, env
        self.step = self.episode = self.checkpointed = self.length = 0
        self.seconds = self.plotted = self.printed = self.episodic_return = 0.0
        self.returns, self.solved, self.best, self.latest = [], {}, None, None  # 100 episodes; steps; two evaluations
        self.threshold = (
            math.inf if env.unwrapped.spec.reward_threshold is None else env.unwrapped.spec.reward_threshold
        )
        name = args.run_name or f"{args.env_id}__{SCRIPT}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
        self.path = args.resume or args.runs_dir / re.sub(r"[^\w.-]", "-", name)  # a name that Windows, too, accepts
        try:
            self.path.mkdir(parents=True, exist_ok=args.resume is not None)
            self.lock = filelock.FileLock(self.path / ".lock")
            self.lock.acquire(blocking=False)
        except FileExistsError:
            raise RunError(f"{self.path} exists: choose another --run-name, or continue it with --resume") from None
        except filelock.Timeout:
            raise RunError(f"{self.path} is in use: another process writes to it") from None
        versions = {name: version(name) for name in ("gymnasium", "numpy", "torch")}
        self.write_json("args.json", {"script": SCRIPT, "args": plain(args), "python": sys.version, **versions})
        log_sizes = self.restore() if (self.path / "checkpoint.pt").exists() else {}
        for log in self.logs():  # what came after the checkpoint will be logged again
            os.truncate(log, log_sizes[log.name]) if log.name in log_sizes else log.unlink()
        self.events = tensorboard.summary.Writer(str(self.path))
        self.wandb = None
        if args.track:
            import wandb

            with explaining("W&B does not start (WANDB_MODE=offline needs no account)"):
                self.wandb = wandb.init(id=self.path.name, config=plain(args), dir=self.path, resume="allow")
        quiet = not sys.stderr.isatty()
        self.bar = tqdm(initial=self.step, total=args.total_timesteps, unit=" steps", disable=quiet)
        self.began = time.monotonic() - self.seconds
        if args.eval_every and self.step == 0:
            self.evaluate()

    def after_step(self, reward: float, values: dict[str, float] | None, noise_scale: float) -> None:
        """Counts a step, logs what was read of its update, and evaluates when it is time."""
        self.step += 1
        self.length += 1
        self.episodic_return += reward
        self.bar.update()
        if values:
            if not all(map(math.isfinite, values.values())):
                raise RunError(f"the training has diverged (try lower learning rates): {values}")
            self.log("updates", {**values, "noise_sigma": self.args.noise_sigma * noise_scale})
            self.events.add_scalar("SPS", self.step / (time.monotonic() - self.began), self.step)
        if self.args.eval_every and self.step % self.args.eval_every == 0:
            self.evaluate()

    def after_episode(self) -> None:
        """Logs the episode, and says when the training return reaches the threshold."""
        self.episode += 1
        self.returns = [*self.returns, self.episodic_return][-100:]
        mean = float(np.mean(self.returns))
        self.log("episodes", {"episode": self.episode, "return": self.episodic_return, "length": self.length})
        state = f"episode {self.episode}, return {self.episodic_return:.1f}, 100-episode mean {mean:.1f}"
        self.bar.set_postfix_str(state, refresh=False)
        now = time.monotonic()
        if self.bar.disable and now - self.printed > 10:
            self.printed, sps = now, self.step / (now - self.began)
            left = (self.args.total_timesteps - self.step) / sps / 60
            print(f"step {self.step}, {state}, {sps:.0f} steps/s, {left:.1f} min left")
        if len(self.returns) == 100 and mean >= self.threshold and "training" not in self.solved:
            self.solved["training"] = self.step
            what = f"100-episode mean of the training return has reached the threshold of {self.threshold:g}"
            self.bar.write(f"step {self.step}, episode {self.episode}: the {what}")
        self.episodic_return, self.length = 0.0, 0

    def evaluate(self) -> None:
        """Plays without noise in an environment of its own, and keeps the best policy."""
        video = self.path / "videos" / f"step-{self.step}" if self.args.capture_video else None
        env = make_env(self.args.env_id, video=video)
        returns = evaluate(env, self.agent.act, self.args.eval_episodes, self.args.seed + EVALUATION_SEED)
        mean, std = float(np.mean(returns)), float(np.std(returns))
        self.log("evaluations", {"mean": mean, "std": std}, {f"episode_{i}": x for i, x in enumerate(returns)})
        self.bar.write(f"step {self.step}: evaluation {mean:.1f} ± {std:.1f}")
        self.latest = {"step": self.step, "mean": mean, "std": std}
        if mean >= self.threshold:
            self.solved.setdefault("evaluation", self.step)
        if self.best is None or mean > self.best["mean"]:
            self.best = self.latest
            self.save_policy("best.pt")
        if time.monotonic() - self.plotted > 60:
            self.summarise()

    def log(self, name: str, values: dict[str, float], csv_only: dict[str, float] | None = None) -> None:
        """Adds a row to a CSV file, and the values to TensorBoard and W&B."""
        row = {"step": self.step, **values, **(csv_only or {})}
        with open(self.path / f"{name}.csv", "a") as file:
            if file.tell() == 0:
                print(*row, sep=",", file=file)
            print(*row.values(), sep=",", file=file)
        for key, value in values.items():
            self.events.add_scalar(f"{name}/{key}", value, self.step)
        if self.wandb:  # which ignores steps that it already has, as after --resume
            self.wandb.log({f"{name}/{key}": value for key, value in values.items()}, step=self.step)

    def logs(self) -> list[Path]:
        return [*self.path.glob("*.csv"), *self.path.glob("events.out.tfevents.*")]

    def checkpoint_is_due(self) -> bool:
        return self.step // self.args.checkpoint_every > self.checkpointed // self.args.checkpoint_every

    def checkpoint(self) -> gym.Env:
        """Saves all that an exact continuation needs, between two episodes: an environment's state cannot be saved.

        Returns a new environment with the old one's random state and nothing else of its past, as after a resume.
        """
        if not self.agent.is_finite():
            raise RunError("the training has diverged (try lower learning rates): weights are not finite")
        self.seconds, self.checkpointed = time.monotonic() - self.began, self.step
        self.events.flush()
        state = {
            "agent": self.agent.state_dict(),
            "replay": self.replay.state_dict(),
            "rng": self.rng.bit_generator.state,
            "env_rng": self.env.unwrapped.np_random.bit_generator.state,
            "run": {name: getattr(self, name) for name in REMEMBERED},
            "log_sizes": {log.name: log.stat().st_size for log in self.logs()},
        }
        save(self.path / "checkpoint.pt", state)
        self.save_policy("last.pt")
        old, self.env = self.env, make_env(self.args.env_id)
        self.env.unwrapped.np_random = old.unwrapped.np_random
        old.close()
        return self.env

    def restore(self) -> dict[str, int]:
        """Takes up what checkpoint() saved; returns the sizes that the logs had."""
        path = self.path / "checkpoint.pt"
        state = load(path)
        with explaining(f"{path} does not fit args.json"):
            self.agent.load_state_dict(state["agent"])
            self.replay.load_state_dict(state["replay"])
            self.rng.bit_generator.state = state["rng"]
            self.env.unwrapped.np_random = np.random.default_rng()
            self.env.unwrapped.np_random.bit_generator.state = state["env_rng"]
            vars(self).update(state["run"])
            self.checkpointed = self.step
            return state["log_sizes"]

    def save_policy(self, name: str) -> None:
        sizes = [self.env.observation_space.shape[0], self.env.action_space.shape[0]]
        networks = {part: self.agent.state_dict()[part] for part in ("actor", "critic")}
        save(self.path / name, {"args": plain(self.args), "sizes": sizes, "step": self.step, **networks})

    def write_json(self, name: str, content: dict) -> None:
        write(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    def summarise(self) -> None:
        """Writes summary.json and the plots, as things stand."""
        self.plotted = time.monotonic()
        seconds = self.plotted - self.began
        summary = {"steps": self.step, "episodes": self.episode, "wall_time_seconds": round(seconds, 1)}
        summary |= {"steps_per_second": round(self.step / seconds, 1), "solved_at_step_by": self.solved}
        self.write_json("summary.json", {**summary, "final_evaluation": self.latest, "best_evaluation": self.best})
        plot(self.path, self.threshold)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Ends the run, complete or not: evaluation, weights, summary, plots."""
        if kind is None:
            if self.args.eval_every and self.latest["step"] < self.step:
                self.evaluate()
            self.save_policy("last.pt")
        if kind is None or kind is KeyboardInterrupt:
            self.summarise()
        self.events.close()
        self.bar.close()
        if self.wandb:
            self.wandb.finish()
        if kind is not None and issubclass(kind, (RunError, OSError)):
            raise RunError(
                f"step {self.step + 1}: {error}; the checkpoint of step {self.checkpointed} is whole"
            ) from error
        print(f"{'interrupted' if kind else 'finished'} after {self.step} steps: {self.path}")


def plot(path: Path, threshold: float) -> None:
    """Draws learning_curve.png and .pdf of the run in `path` from its CSVs."""
    logs = {file.stem: pd.read_csv(file) for file in path.glob("*.csv")}
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplot_mosaic([["return", "return"], ["values", "length"]], height_ratios=[3, 2])
    if (log := logs.get("episodes")) is not None:
        mean = log["return"].rolling(100, min_periods=1).mean()
        axes["return"].plot(log["step"], log["return"], ".", color="0.7", ms=4, label="training episode")
        axes["return"].plot(log["step"], mean, "-", color="tab:blue", lw=2, label="mean of the last 100 of these")
        axes["length"].plot(log["step"], log["length"], ".", color="0.5", ms=4)
    if (log := logs.get("evaluations")) is not None:
        style = {"fmt": "o--", "color": "black", "ms": 4, "lw": 1, "elinewidth": 0.6, "label": "evaluation, mean ± std"}
        axes["return"].errorbar(log["step"], log["mean"], log["std"], **style)
    if (log := logs.get("updates")) is not None:
        log = log.rolling(10, min_periods=1).mean()
        axes["values"].plot(log["step"], log["q"], "-", color="black", label="Q(s, a)")
        axes["values"].plot(log["step"], -log["actor_loss"], "--", color="tab:orange", label="Q(s, μ(s))")
        axes["values"].plot(log["step"], log["critic_loss"], ":", color="tab:blue", label="critic loss")
        axes["values"].legend(fontsize="small")
    if math.isfinite(threshold):
        axes["return"].axhline(threshold, color="black", ls=":", label=f"threshold {threshold:g}")
    axes["return"].set(title=path.name, xlabel="step", ylabel="return")
    axes["return"].legend(fontsize="small")
    axes["values"].set(xlabel="step", yscale="symlog")
    axes["length"].set(xlabel="step", ylabel="episode length")
    for suffix in ("png", "pdf"):
        figure.savefig(path / f"learning_curve.{suffix}", dpi=150)


# -------------------------------------------------------------------------------------------------- the command line


def check(args: Args) -> None:
    """Raises RunError, naming the flag, if a value is out of range. NaN is: it fails every comparison."""
    limits = [
        ("gamma tau", lambda x: 0 <= x <= 1, "between 0 and 1"),
        ("total_timesteps batch_size buffer_size hidden_sizes", lambda x: x > 0, "above 0"),
        ("eval_episodes checkpoint_every num_threads", lambda x: x > 0, "above 0"),
        ("actor_learning_rate critic_learning_rate ou_dt", lambda x: 0 < x < math.inf, "above 0 and finite"),
        ("weight_decay noise_sigma ou_theta", lambda x: 0 <= x < math.inf, "0 or more, and finite"),
        ("learning_starts noise_decay_steps eval_every seed", lambda x: 0 <= x < 2**31, "from 0 to 2147483647"),
    ]
    for names, holds, wording in limits:
        for name in names.split():
            if not all(holds(x) for x in np.ravel(getattr(args, name))):
                raise RunError(f"--{name.replace('_', '-')} is {getattr(args, name)}: it has to be {wording}")
    if args.batch_size > args.buffer_size:
        raise RunError(f"--batch-size {args.batch_size} is more than --buffer-size {args.buffer_size}")
    if args.ou_theta * args.ou_dt >= 2:
        raise RunError("--ou-theta times --ou-dt is 2 or more: such noise grows without end")
    if args.run_name and not re.fullmatch(r"\w[\w.-]*", args.run_name):
        raise RunError(f"--run-name {args.run_name!r}: use letters, digits, '_', '-' and '.'")
    if args.device != "cpu" and not getattr(torch, args.device).is_available():
        raise RunError(f"--device {args.device}: torch finds none here; use --device cpu")


def args_to_resume(args: Args, flags: set[str]) -> Args:
    """The arguments in the args.json of the run to resume, with the larger --total-timesteps if one was given."""
    if others := flags - {"--resume", "--total-timesteps"}:
        raise RunError(f"--resume takes everything from the run's args.json: leave out {', '.join(sorted(others))}")
    path = args.resume / "args.json"
    with explaining(f"{path} is damaged"):
        content = json.loads(path.read_text())
        if content["script"] != SCRIPT:
            raise RunError(f"{args.resume} is a run of {content['script']}.py: use that script")
        old = Args(**{**content["args"], "resume": args.resume})
        check(old)
    if "--total-timesteps" in flags:
        if args.total_timesteps < old.total_timesteps:
            raise RunError(f"--total-timesteps {args.total_timesteps} is less than the run's {old.total_timesteps}")
        old.total_timesteps = args.total_timesteps
    return old


def play(args: Args, flags: set[str]) -> None:
    """--evaluate: plays a checkpoint without noise, in the environment of its training unless --env-id is given."""
    policy, trained = load_policy(args.evaluate)
    env_id = current_env_id(args.env_id if "--env-id" in flags else trained.env_id)
    video = args.evaluate.parent / "videos" / args.evaluate.stem if args.capture_video else None
    env = make_env(env_id, "human" if args.render else None, video)
    with explaining(f"{args.evaluate} was trained in {trained.env_id} and does not fit {env_id}"):
        returns = evaluate(env, policy, args.eval_episodes, args.seed)
    for episode, episodic_return in enumerate(returns):
        print(f"episode {episode}, start state {args.seed + episode}: return {episodic_return:.1f}")
    print(f"mean {np.mean(returns):.1f} ± {np.std(returns):.1f} over {len(returns)} episodes of {env_id}")


def main() -> None:
    """Reads the command line, then trains, resumes or plays. Here every foreseen error becomes one line."""
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.path.append(os.getcwd())  # for one's own my_module:MyEnv-v0
    warnings.filterwarnings("ignore", message=".*is out of date")
    args = tyro.cli(Args, description=__doc__)
    flags = {flag.partition("=")[0].replace("_", "-") for flag in sys.argv[1:] if flag.startswith("--")}
    try:
        check(args)
        if args.evaluate:
            return play(args, flags)
        if args.resume:
            args = args_to_resume(args, flags)
        else:
            args.env_id = current_env_id(args.env_id)
        train(args)
    except KeyboardInterrupt:
        sys.exit(130)
    except (RunError, gym.error.Error, ImportError, MemoryError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
