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
#     "typeguard==4.6.1",
#     "tyro==1.0.16",
# ]
# ///
"""DDPG in one file, as Algorithm 1 of Lillicrap et al. 2015 (https://arxiv.org/abs/1509.02971).

    initialise the critic Q(s, a) and the actor μ(s); copy them into the targets Q' and μ'
    for each episode: reset the noise 𝒩 and receive the first observation s
        for each step:
            act:      a = μ(s) + 𝒩
            store:    (s, a, r, s') in the replay buffer R
            sample:   N transitions from R
            critic:   y = r + γ Q'(s', μ'(s')), and minimise L = 1/N Σ (y − Q(s, a))²
            actor:    ascend 1/N Σ ∇ₐQ(s, a)|ₐ₌μ(s) ∇μ(s)
            targets:  θ' ← τ θ + (1 − τ) θ', for Q' and μ'

If s' is terminal, y = r. Up to step --learning-starts, actions are uniformly random and nothing is
learned.
The paper's own settings: --batch-size 64 --tau 0.001 --noise-sigma 0.2 --no-anneal

    python ddpg_continuous.py --env-id LunarLanderContinuous-v3 --norm layer
    python ddpg_continuous.py --evaluate runs/NAME/best.pt --render
    python ddpg_continuous.py --resume runs/NAME

Shapes in comments: N minibatch size, S observation size, A action size.
"""

import hashlib
import importlib
import importlib.metadata
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Literal, NoReturn, get_type_hints

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

import filelock
import gymnasium as gym
import numpy as np
import pandas as pd
import tensorboard.summary
import torch
import torch.nn as nn
import torch.nn.functional as F
import typeguard
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm


@dataclass
class Args:
    # The algorithm
    actor_learning_rate: float = 1e-4  # Adam's learning rate for the actor (paper: 1e-4)
    critic_learning_rate: float = 1e-3  # Adam's learning rate for the critic (paper: 1e-3)
    anneal: bool = True  # rates fall linearly to zero, from step 0 to the last one (paper: no)
    weight_decay: float = 1e-2  # L2 penalty on the critic's parameters (paper: 1e-2)
    gamma: float = 0.99  # discount factor γ (paper: 0.99)
    tau: float = 0.03  # rate τ at which the targets follow (paper: 0.001)
    batch_size: int = 128  # minibatch size N (paper: 64)
    buffer_size: int = 1_000_000  # transitions that the replay buffer holds (paper: 1e6)
    hidden_sizes: tuple[int, int] = (400, 300)  # units of the two hidden layers (paper: 400 300)
    norm: Literal["batch", "layer", "none"] = "batch"  # in actor and critic (paper: batch)
    learning_starts: int = 10_000  # random steps before the first update (paper: not stated)
    noise: Literal["ou", "gaussian"] = "ou"  # Ornstein-Uhlenbeck or independent noise (paper: ou)
    noise_sigma: float = 0.3  # the noise's σ, for actions in [-1, 1] (paper: 0.2)
    ou_theta: float = 0.15  # rate θ at which OU noise returns to zero (paper: 0.15)
    ou_dt: float = 0.1  # OU noise's dt: correlated over 1/(θ dt) steps (paper: not stated)

    # The run
    env_id: str = "LunarLanderContinuous-v3"  # gymnasium id; your own: my_module:MyEnv-v0
    total_timesteps: int = 200_000  # environment steps to train for (paper: up to 2.5 million)
    seed: int = 0  # seed of everything random; with --evaluate, of the first start state
    eval_every: int = 5_000  # steps between noise-free evaluations (0: none)
    eval_episodes: int = 20  # episodes of an evaluation, each with its own fixed start state
    device: Literal["cpu", "cuda", "mps"] = "cpu"  # where the networks live
    num_threads: int = 1  # threads that torch uses on the CPU

    # Bookkeeping
    runs_dir: str = "runs"  # folder of all runs
    run_name: str | None = None  # name of the run's folder (default: made of id, seed and time)
    checkpoint_every: int = 10_000  # steps between checkpoints; each waits for an episode's end
    capture_video: bool = False  # record the first episode of each evaluation as mp4
    track: bool = False  # log to Weights & Biases as well
    resume: str | None = None  # folder of a run to continue; may take more --total-timesteps
    evaluate: str | None = None  # file (best.pt, last.pt) to evaluate instead of training
    render: bool = False  # with --evaluate: show it in a window


# ------------------------------------------------------------------------------- exploration noise
@dataclass
class OrnsteinUhlenbeckNoise:
    """Temporally correlated noise (Section 7): dx = −θ x dt + σ dW, by Euler's method."""

    action_size: int
    sigma: float  # the noise's stationary standard deviation is about σ/√(2θ)
    theta: float
    dt: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Goes back to zero, for a new episode."""
        self.x = np.zeros(self.action_size, np.float32)

    def sample(self) -> np.ndarray:
        """The next value of the process, (A,)."""
        # Normal increments: uniform ones from [0, 1), a common mistake, would drift
        dw = self.dt**0.5 * self.rng.standard_normal(self.action_size, np.float32)
        self.x = self.x - self.theta * self.x * self.dt + self.sigma * dw
        return self.x


@dataclass
class GaussianNoise:
    """Independent normal noise of standard deviation σ: a common choice instead of the paper's."""

    action_size: int
    sigma: float
    rng: np.random.Generator

    def reset(self) -> None:
        """Nothing to forget: every sample is independent of those before it."""

    def sample(self) -> np.ndarray:
        """The next value, (A,)."""
        return self.sigma * self.rng.standard_normal(self.action_size, np.float32)


# ----------------------------------------------------------------------------------- replay buffer
class ReplayBuffer:
    """The last `capacity` transitions, a row each: s, a, r, terminated, s'."""

    def __init__(
        self, capacity: int, observation_size: int, action_size: int, rng: np.random.Generator
    ) -> None:
        row_size = 2 * observation_size + action_size + 2
        self.rows = np.empty((capacity, row_size), np.float32)  # takes memory only as it fills
        self.boundaries = np.cumsum([observation_size, action_size, 1, 1])  # of s, a, r, …
        self.num_added = 0  # transitions ever stored
        self.rng = rng

    def __len__(self) -> int:
        return min(self.num_added, len(self.rows))

    def add(
        self, s: np.ndarray, a: np.ndarray, r: float, terminated: bool, next_s: np.ndarray
    ) -> None:
        """Stores a transition, in place of the oldest one once the buffer is full."""
        self.rows[self.num_added % len(self.rows)] = np.hstack([s, a, r, terminated, next_s])
        self.num_added += 1

    def sample(self, batch_size: int) -> list[np.ndarray]:
        """N random transitions: s and s' (N, S), a (N, A), r and terminated (N, 1).

        r is (N, 1), not (N,): against Q (N, 1), that would silently broadcast to (N, N).
        """
        indices = self.rng.integers(len(self), size=batch_size)
        return np.split(self.rows[indices], self.boundaries, axis=1)

    def state(self) -> dict:
        """What a checkpoint holds of the buffer."""
        return {"rows": self.rows[: len(self)], "num_added": self.num_added}

    def set_state(self, state: dict) -> None:
        """Takes back what state() returned; ValueError if it does not fit this capacity."""
        self.num_added = int(state["num_added"])
        if len(state["rows"]) != len(self):
            raise ValueError(
                f"a replay buffer of {len(state['rows'])} transitions, not {len(self)}"
            )
        self.rows[: len(self)] = state["rows"]


# ------------------------------------------------------------------------------- actor and critic
def linear(inputs: int, units: int, bound: float, bias: bool = True) -> nn.Linear:
    """A layer whose weights and biases are drawn from U(−bound, bound) (Section 7).

    The bound is 1/√fan-in for hidden layers; for the last one it is 3e-3, from pixels 3e-4. The
    fan-in is `inputs` and not weight.shape[0], a common mistake: torch stores weights as (out, in).
    """
    layer = nn.Linear(inputs, units, bias)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound)
    return layer


def normalisation(
    norm: str, units: int, running_statistics: bool = False, is_input: bool = False
) -> nn.Module:
    """The normalisation in front of a ReLU, or (`is_input`) of the observation; keeps the shape.

    Batch norm uses the minibatch's own mean and variance in every training pass: with running
    averages in the targets, Q diverged. Only the online actor keeps running averages too, to act
    on single observations. Their momentum is 0.01, not torch's 0.1: no one minibatch sways them.
    """
    if norm == "batch":
        affine = not is_input  # the input needs no scale and shift: layer 1 and its norm have them
        return nn.BatchNorm1d(
            units, momentum=0.01, affine=affine, track_running_stats=running_statistics
        )
    if norm == "layer" and not is_input:  # of the input, it would mix metres with radians
        return nn.LayerNorm(units)
    return nn.Identity()


class Actor(nn.Module):
    """The policy μ(s): observations (N, S) to actions (N, A) in [-1, 1]."""

    def __init__(
        self, observation_size: int, action_size: int, args: Args, running_statistics: bool = False
    ) -> None:
        super().__init__()
        units_1, units_2 = args.hidden_sizes
        bias = args.norm != "batch"  # batch norm subtracts the mean, and with it any bias before it
        self.norm_0 = normalisation(args.norm, observation_size, running_statistics, is_input=True)
        self.layer_1 = linear(observation_size, units_1, observation_size**-0.5, bias)
        self.norm_1 = normalisation(args.norm, units_1, running_statistics)
        self.layer_2 = linear(units_1, units_2, units_1**-0.5, bias)
        self.norm_2 = normalisation(args.norm, units_2, running_statistics)
        self.output = linear(units_2, action_size, 3e-3)

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        x = self.norm_0(s)  # (N, S)
        x = F.relu(self.norm_1(self.layer_1(x)))  # (N, units_1)
        x = F.relu(self.norm_2(self.layer_2(x)))  # (N, units_2)
        return torch.tanh(self.output(x))  # (N, A)


class Critic(nn.Module):
    """The action value Q(s, a): (N, S) and (N, A) to (N, 1). Normalised before a enters.

    s may have N rows more than a: they count in batch norm's statistics, but get no Q.
    """

    def __init__(self, observation_size: int, action_size: int, args: Args) -> None:
        super().__init__()
        units_1, units_2 = args.hidden_sizes
        bias = args.norm != "batch"
        self.norm_0 = normalisation(args.norm, observation_size, is_input=True)
        self.layer_1 = linear(observation_size, units_1, observation_size**-0.5, bias)
        self.norm_1 = normalisation(args.norm, units_1)
        self.layer_2 = linear(units_1 + action_size, units_2, (units_1 + action_size) ** -0.5)
        self.output = linear(units_2, 1, 3e-3)

    def forward(self, s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        x = self.norm_0(s)  # (N or 2N, S)
        x = F.relu(self.norm_1(self.layer_1(x)))  # (N or 2N, units_1)
        x = x[: len(a)]  # (N, units_1)
        x = torch.cat([x, a], dim=1)  # (N, units_1 + A): a enters at the second hidden layer
        x = F.relu(self.layer_2(x))  # (N, units_2)
        return self.output(x)  # (N, 1)


# -------------------------------------------------------------------------------------- the update
class CudaGraph:
    """A function of tensors, run on the GPU as one CUDA graph; shapes must not change.

    Launched one by one, the networks' small operations leave the GPU waiting for most of an update.
    A graph launches all of them at once. The first calls run as they are, to warm up; the next one
    is captured. (torch's manual warms up on a side stream; here that made no difference.)
    What a call returns, the next call overwrites.
    """

    WARM_UP_CALLS = 3

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.num_calls = 0

    def __call__(self, *inputs: torch.Tensor | float) -> torch.Tensor | dict[str, torch.Tensor]:
        inputs = [torch.as_tensor(x, device="cuda") for x in inputs]
        self.num_calls += 1
        if self.num_calls <= self.WARM_UP_CALLS:
            return self.function(*inputs)
        if self.num_calls == self.WARM_UP_CALLS + 1:
            self.capture(inputs)
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.outputs

    def capture(self, inputs: list[torch.Tensor]) -> None:
        """Records the function's operations, which replay() then makes on these same tensors."""
        self.inputs = inputs
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = self.function(*inputs)


class DDPG(nn.Module):
    """Actor, critic, their targets and optimisers: Algorithm 1 without the environment."""

    def __init__(self, observation_size: int, action_size: int, args: Args) -> None:
        super().__init__()
        self.sizes = [observation_size, action_size]  # saved with the agent, to rebuild it
        self.gamma = args.gamma
        self.tau = args.tau
        self.has_batch_norm = args.norm == "batch"
        self.device = torch.device(args.device)
        self.actor = Actor(observation_size, action_size, args, running_statistics=True)
        self.critic = Critic(observation_size, action_size, args)
        self.target_actor = Actor(observation_size, action_size, args).requires_grad_(False)
        self.target_critic = Critic(observation_size, action_size, args).requires_grad_(False)
        self.update_targets(tau=1.0)  # the targets start as copies
        self.to(self.device)
        on_cuda = self.device.type == "cuda"
        # fused: one operation for all parameters; capturable: a CUDA graph may hold it
        self.actor_optimizer = torch.optim.Adam(
            self.actor.parameters(), args.actor_learning_rate, fused=True, capturable=on_cuda
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(),
            args.critic_learning_rate,
            weight_decay=args.weight_decay,  # L2 in the gradient, as in the paper; not AdamW's
            fused=True,
            capturable=on_cuda,
        )
        self.optimizers = [self.actor_optimizer, self.critic_optimizer]
        self.prepare_device()

    def prepare_device(self) -> None:
        """Chooses how acting and learning run: on CUDA, each as a graph of its own."""
        self.act_on_device = self.actor.forward
        self.learn_on_device = self.learn
        if self.device.type == "cuda":
            self.act_on_device = CudaGraph(self.actor.forward)
            self.learn_on_device = CudaGraph(self.learn)

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """μ(s) without noise: (S,) to (A,), in [-1, 1]."""
        s = torch.as_tensor(observation, device=self.device)[None]  # (1, S)
        self.actor.eval()  # batch norm by running averages: one observation is no minibatch
        action = self.act_on_device(s)[0].cpu().numpy()
        self.actor.train()
        return action

    def update(
        self, batch: list[np.ndarray], learning_rate_scale: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Learns from a minibatch of ReplayBuffer.sample; returns scalar metrics to log.

        `learning_rate_scale`: factor on both learning rates.
        """
        rows = torch.from_numpy(np.hstack(batch))  # joined again: one copy to the device
        return self.learn_on_device(rows.to(self.device), learning_rate_scale)

    def learn(
        self, rows: torch.Tensor, learning_rate_scale: float | torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """One update of Algorithm 1; each row is a transition: s, a, r, terminated, s'."""
        observation_size, action_size = self.sizes
        sizes = [observation_size, action_size, 1, 1, observation_size]
        s, a, r, terminated, next_s = rows.split(sizes, dim=1)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate_scale * optimizer.defaults["lr"]

        # Critic: minimise L = 1/N Σ (y − Q(s, a))².
        # Batch norm takes s and s' as one minibatch; CrossQ does, too (arxiv.org/abs/1902.05605).
        # Normalised apart, the mean of s' − s would be lost: with short episodes, Q diverged. The
        # actor's step below compares nothing with a next state, and takes s alone.
        both, next_both = s, next_s
        if self.has_batch_norm:
            both = torch.cat([s, next_s])  # (2N, S)
            next_both = torch.cat([next_s, s])  # (2N, S)
        # `terminated`, not `done`: a time limit ends the episode, but not the task
        with torch.no_grad():
            next_a = self.target_actor(next_both)[: len(s)]  # (N, A)
            next_q = self.target_critic(next_both, next_a)  # (N, 1)
            y = r + self.gamma * (1 - terminated) * next_q  # (N, 1)
        q = self.critic(both, a)  # (N, 1)
        critic_loss = F.mse_loss(q, y)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()

        # Actor: ascend 1/N Σ ∇ₐQ(s, a)|ₐ₌μ(s) ∇μ(s) by minimising −1/N Σ Q(s, μ(s)): at the
        # actor's own actions, not the replayed ones, and with the critic that was just updated.
        # Autograd applies the chain rule; `inputs=` skips the critic's gradients, not needed here.
        mu = self.actor(s)  # (N, A)
        actor_loss = -self.critic(s, mu).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward(inputs=list(self.actor.parameters()))
        self.actor_optimizer.step()

        self.update_targets(self.tau)
        return {
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "q": q.detach().mean(),
            "saturation": (mu.abs() > 0.99).float().mean(),  # share of μ where tanh is flat
        }

    @torch.no_grad()
    def update_targets(self, tau: float) -> None:
        """θ' ← τ θ + (1 − τ) θ'. The targets have parameters only, and no running averages."""
        pairs = [(self.target_critic, self.critic), (self.target_actor, self.actor)]
        for target_network, network in pairs:
            parameters = zip(target_network.parameters(), network.parameters(), strict=True)
            for target, online in parameters:
                target.lerp_(online, tau)

    def state(self) -> dict:
        """What a checkpoint holds of the agent: networks, targets and optimisers."""
        return {
            "networks": self.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def set_state(self, state: dict) -> None:
        """Takes back what state() returned; RuntimeError if the networks differ."""
        self.load_state_dict(state["networks"])
        for optimizer, content in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(content)
        self.prepare_device()  # a graph would go on with the tensors that it has been captured with


# ------------------------------------------------------------------------------------ the training
LOG_EVERY = 100  # steps between logged updates: reading a metric waits for the GPU
EVALUATION_SEED = 1_000_000  # added to --seed: evaluations have other start states than training


class RunError(Exception):
    """What is wrong and what to do. main() prints it in one line and exits with status 2."""


def train(args: Args) -> None:
    """Trains DDPG, or goes on with --resume.

    RunError for whatever the user can mend. If gymnasium has retired args.env_id, replaces it by
    the current version.
    """
    prepare_framework(args)
    args.env_id = current_id(args.env_id)
    path = run_path(args).absolute()  # an environment may change the current folder
    if args.capture_video:
        check_video(args.env_id)
    with make_env(args.env_id) as env:
        note_missing_time_limit(env, args.env_id)
        note_missing_updates(args)
        rng = np.random.default_rng(args.seed)
        observation_size, action_size = sizes_of(env)
        agent = DDPG(observation_size, action_size, args)
        replay = ReplayBuffer(args.buffer_size, observation_size, action_size, rng)
        noise = make_noise(action_size, args, rng)
        training = Training(agent, replay, rng, Progress())
        with open_run(path, args, training, reward_threshold(env)) as run:
            if args.eval_every and training.progress.step == 0:
                run.evaluate()  # the untrained policy
            training_loop(args, env, training, noise, run)
            if args.eval_every:
                run.evaluate()
            run.save_last()


def training_loop(
    args: Args,
    env: "CheckedEnv",
    training: "Training",
    noise: OrnsteinUhlenbeckNoise | GaussianNoise,
    run: "Run",
) -> None:
    """Algorithm 1, from the next step to the last; `run` logs, evaluates and saves."""
    agent, replay, rng, progress = training.agent, training.replay, training.rng, training.progress
    observation, _ = env.reset(seed=episode_seed(args.seed, progress.episode))
    noise.reset()
    for step in range(progress.step + 1, args.total_timesteps + 1):
        progress.step = step

        # Act: at random at first, then by the policy plus noise. The clipped action is the one that
        # is executed, and the one that is stored.
        if step <= args.learning_starts:
            action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        else:
            action = np.clip(agent.act(observation) + noise.sample(), -1, 1)
        next_observation, reward, terminated, truncated, _ = env.step(action)

        # Store the true next observation, also at a time limit
        replay.add(observation, action, reward, terminated, next_observation)
        observation = next_observation

        # Learn: sample a minibatch; update critic, actor and targets
        if step > args.learning_starts:
            scale = 1 - step / args.total_timesteps if args.anneal else 1.0  # of the learning rates
            metrics = agent.update(replay.sample(args.batch_size), scale)
            if step % LOG_EVERY == 0:
                run.log_update(metrics)

        # Count and evaluate
        run.after_step(reward)
        if args.eval_every and step % args.eval_every == 0:
            run.evaluate()

        # The next episode begins, perhaps after a checkpoint
        if terminated or truncated:
            run.after_episode()
            if run.is_checkpoint_due():
                run.save_checkpoint()
                env.renew()  # a resumed run has a new environment: so has this one, to stay equal
            observation, _ = env.reset(seed=episode_seed(args.seed, progress.episode))
            noise.reset()


def episode_seed(seed: int, episode: int) -> int:
    """The seed of reset() for one training episode.

    It depends on --seed and the episode's number alone, so that a checkpoint holds nothing of the
    environment's randomness. 31 bits: environments in C++ take a signed 32-bit integer.
    """
    sequence = np.random.SeedSequence((seed, episode))
    return int(sequence.generate_state(1)[0]) >> 1


def make_noise(
    action_size: int, args: Args, rng: np.random.Generator
) -> OrnsteinUhlenbeckNoise | GaussianNoise:
    """The exploration noise that --noise names."""
    if args.noise == "ou":
        return OrnsteinUhlenbeckNoise(action_size, args.noise_sigma, args.ou_theta, args.ou_dt, rng)
    return GaussianNoise(action_size, args.noise_sigma, rng)


def prepare_framework(args: Args) -> None:
    """Sets torch's threads and the global seeds; RunError without such a device."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if not available[args.device]:
        raise RunError(f"--device {args.device}: torch finds none here; use --device cpu")
    torch.set_num_threads(args.num_threads)  # torch's own default is all cores: slower here
    torch.set_flush_denormal(True)  # below 1e-38 is zero: such numbers slow Intel's processors
    torch.manual_seed(args.seed)
    # Some environments draw from these global generators
    random.seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002


# ---------------------------------------------------------------------------------- a run's state
@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    episode: int = 0
    episodic_return: float = 0.0  # so far, of the current episode
    episode_length: int = 0  # so far, of the current episode
    last_returns: list[float] = field(default_factory=list)  # of the last 100 training episodes
    solved_at_step_by: dict[str, int] = field(default_factory=dict)  # by "training", "evaluation"
    best_evaluation: dict | None = None  # step, mean, std
    latest_evaluation: dict | None = None
    seconds: float = 0.0  # of wall time, until the last checkpoint


@dataclass
class Training:
    """Everything that changes while a run trains.

    A checkpoint holds what state() returns. If you add a part that changes (priorities of
    transitions, running averages of observations), add it here: as a field, and in state() and
    set_state(). The noise and the environment are not part of it: each episode resets both, and
    checkpoints are saved between episodes. Nor is the framework's generator: it draws the initial
    weights and nothing else.
    """

    agent: DDPG
    replay: ReplayBuffer
    rng: np.random.Generator
    progress: Progress

    def state(self) -> dict:
        return {
            "agent": self.agent.state(),
            "replay": self.replay.state(),
            "rng": self.rng.bit_generator.state,
            "progress": asdict(self.progress),
        }

    def set_state(self, state: dict) -> None:
        self.agent.set_state(state["agent"])
        self.replay.set_state(state["replay"])
        self.rng.bit_generator.state = state["rng"]
        self.progress = Progress(**state["progress"])


# --------------------------------------------------------------------------------- the environment
Policy = Callable[[np.ndarray], np.ndarray]  # an observation (S,) to an action (A,) in [-1, 1]


class EnvironmentFailure(RunError):
    """The environment's own code has raised an exception, which is `__cause__`."""


@contextmanager
def environment_code(what: str) -> Iterator[None]:
    """Turns any exception of the environment's code in this block into an EnvironmentFailure.

    sys.exit() included; Ctrl-C and SIGTERM pass.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        kind = type(error).__name__
        text = in_one_line(error)
        if text != kind:
            text = f"{kind}: {text}"
        raise EnvironmentFailure(f"{what} failed: {text}") from error


class CheckedEnv(gym.Wrapper):
    """An environment as the agent needs it: actions (A,) in [-1, 1], observations (S,) float32.

    RunError if an action, an observation or a reward is not finite, or if the environment does not
    give what it declares; EnvironmentFailure if it raises anything. `observation_space` stays the
    environment's own, whatever its dtype.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.low = env.action_space.low
        self.high = env.action_space.high
        self.action_space = gym.spaces.Box(-1.0, 1.0, self.low.shape)
        self.observation_shape = env.observation_space.shape

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict]:
        """Begins an episode: its first observation, (S,), and the environment's info."""
        with environment_code("reset()"):
            result = self.env.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            raise RunError("reset() has to return a tuple: observation, info")
        observation, info = result
        return self.checked_observation(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Takes an action, (A,) in [-1, 1].

        Returns the next observation, (S,), reward, terminated, truncated, and info.
        """
        check_finite(action, "the actor's output (try lower learning rates)")
        scaled = (self.low * (1 - action) + self.high * (1 + action)) / 2  # exact at both ends
        scaled = np.clip(scaled, self.low, self.high)  # between them, rounding can leave the bounds
        return self.checked_step(scaled.astype(self.low.dtype))

    def checked_step(
        self, env_action: np.ndarray | int
    ) -> tuple[np.ndarray, float, bool, bool, dict]:
        """As step(), with an action of the environment's own space."""
        with environment_code("step()"):
            result = self.env.step(env_action)
        if not isinstance(result, tuple) or len(result) != 5:
            names = "observation, reward, terminated, truncated, info"
            raise RunError(f"step() has to return a tuple: {names}")
        observation, reward, terminated, truncated, info = result
        observation = self.checked_observation(observation)
        reward = as_float32(one_number(reward, "the reward"), "the reward")
        terminated = bool(one_number(terminated, "terminated"))
        truncated = bool(one_number(truncated, "truncated"))
        return observation, reward, terminated, truncated, info

    def checked_observation(self, observation: np.ndarray) -> np.ndarray:
        """A float32 copy, (S,): some environments reuse the array that they return."""
        with environment_code("reading the observation"), np.errstate(over="ignore"):
            observation = np.array(observation, np.float32)
        if observation.shape != self.observation_shape:
            declared = f"observation_space says {self.observation_shape}"
            raise RunError(f"the observation has the shape {observation.shape}, but {declared}")
        check_finite(observation, "the observation")
        return observation

    def close(self) -> None:
        """Closes the environment, whatever that raises."""
        close_env(self.env)

    def renew(self) -> None:
        """Makes the environment anew, if it is one of gymnasium's.

        Some of those keep a Box2D world across resets, so that an episode depends on those before
        it. Others are kept: they may carry a curriculum from episode to episode.
        """
        spec = self.unwrapped.spec
        if is_gymnasiums_own(spec):
            self.close()
            with environment_code(f"making {spec.id}"):
                self.env = gym.make(spec.id, **spec.kwargs)


def close_env(env: gym.Env) -> None:
    """Closes an environment; only prints what that raises, since an earlier error matters more."""
    try:
        with environment_code("close()"):
            env.close()
    except EnvironmentFailure as error:
        print(f"{error} (the environment was no longer needed)", file=sys.stderr)


def check_finite(value: np.ndarray | float, name: str) -> None:
    """RunError, naming the value, if any of it is NaN or infinite."""
    if not np.isfinite(value).all():
        raise RunError(f"{name} is not finite: {value}")


def as_float32(number: float, name: str) -> float:
    """The number as the replay buffer keeps it; RunError if float32 has none so large."""
    with np.errstate(over="ignore"):
        rounded = np.float32(number)
    check_finite(rounded, name)
    return rounded.item()


def one_number(value: object, name: str) -> float:
    """The number in a scalar, or in an array of one element.

    RunError if it is anything else, NaN, or infinite.
    """
    with environment_code(f"reading {name}"):
        array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise RunError(f"{name} is {value}: it has to be one number")
    check_finite(array, name)
    return array.item()


def make_env(env_id: str, render_mode: str | None = None, video: Path | None = None) -> CheckedEnv:
    """Makes an environment; RunError if DDPG cannot learn in it.

    `video`: records the first episode as <video>-episode-0.mp4; render_mode is then ignored.
    """
    env_id = current_id(env_id)
    if video:
        render_mode = "rgb_array"
    options = {"render_mode": render_mode} if render_mode else {}
    with environment_code(f"making {env_id}"):
        env = gym.make(env_id, **options)
    try:
        with environment_code(f"reading the spaces of {env_id}"):
            actions, observations = env.action_space, env.observation_space
        check_actions(actions, env_id)
        check_observations(observations, env_id)
        if render_mode:
            check_render_mode(env, render_mode, env_id)
        if video:
            env = record_first_episode(env, video)
        return CheckedEnv(env)
    except BaseException:
        close_env(env)
        raise


def current_id(env_id: str) -> str:
    """The id; if gymnasium has retired it, that of the current version, which is also printed."""
    name, _, version = env_id.rpartition("-v")
    available = gymnasiums_versions(name)
    registered = gym.registry.get(env_id)
    is_gymnasiums = registered is None or is_gymnasiums_own(registered)
    if not available or not version.isdigit() or not is_gymnasiums:
        return env_id
    if int(version) in available or int(version) > max(available):
        return env_id
    current = f"{name}-v{max(available)}"
    print(f"{env_id} is retired: running the current version, {current}")
    return current


def gymnasiums_versions(name: str) -> list[int]:
    """The versions of gymnasium's environment of this name that can be made."""
    found = []
    for spec in gym.registry.values():
        # MuJoCo's v2 and v3 cannot: gymnasium has functions for them that raise
        can_be_made = isinstance(spec.entry_point, str) and is_gymnasiums_own(spec)
        if can_be_made and spec.id.rpartition("-v")[0] == name:
            found.append(spec.version)
    return found


def is_gymnasiums_own(spec: gym.envs.registration.EnvSpec) -> bool:
    """Whether gymnasium itself defines the environment."""
    entry_point = spec.entry_point
    if callable(entry_point):
        entry_point = entry_point.__module__
    return str(entry_point).startswith("gymnasium.envs")


def check_actions(space: gym.Space, env_id: str) -> None:
    """RunError unless actions are bounded vectors of floats."""
    is_vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0
    if not is_vector or space.dtype.kind != "f" or not is_bounded(space):
        needs = "DDPG needs float vectors, continuous and bounded (for discrete actions: dqn.py)"
        raise RunError(f"{env_id} has the actions {space}: {needs}")


def is_bounded(space: gym.spaces.Box) -> bool:
    """Whether all bounds are finite; those near the largest float32 count as infinite."""
    largest = np.finfo(np.float32).max / 4  # room for the sum that scales actions
    return bool((abs(space.low) < largest).all() and (abs(space.high) < largest).all())


def check_observations(space: gym.Space, env_id: str) -> None:
    """RunError unless observations are vectors."""
    is_vector = isinstance(space, gym.spaces.Box) and len(space.shape) == 1
    if not is_vector or space.shape[0] == 0:
        needs = "a vector of one number or more is needed"
        hint = "see gymnasium's FlattenObservation; ddpg_pixels.py learns from images"
        raise RunError(f"{env_id} observes {space}: {needs} ({hint})")


def note_missing_time_limit(env: gym.Env, env_id: str) -> None:
    """Prints a line if gymnasium ends no episode of the environment."""
    spec = env.spec  # with a wrapper's time limit, too; None if a wrapper cannot be described
    if spec and spec.max_episode_steps is None:
        danger = "an episode that does not end by itself lasts for ever"
        hint = "register it with max_episode_steps=..."
        print(f"{env_id} is registered without a time limit: {danger} ({hint})")


# ------------------------------------------------------------------------------ windows and videos
def check_render_mode(env: gym.Env, render_mode: str, env_id: str) -> None:
    """RunError if the environment does not have the render mode that it was made with."""
    modes = env.metadata.get("render_modes")
    if not modes or render_mode not in modes or env.render_mode != render_mode:
        hint = ": leave out --render" if render_mode == "human" else ""
        raise RunError(f"{env_id} has no render mode {render_mode}{hint}")


def record_first_episode(env: gym.Env, video: Path) -> gym.Env:
    """Records the first episode as <video>-episode-0.mp4."""
    with environment_code("recording a video"), warnings.catch_warnings():
        # gymnasium warns that the folder has videos: those of earlier evaluations, which stay
        warnings.filterwarnings("ignore", ".*Overwriting existing videos")
        return gym.wrappers.RecordVideo(
            env, str(video.parent), episode_trigger=lambda i: i == 0, name_prefix=video.name
        )


def check_video(env_id: str) -> None:
    """RunError if no video of the environment can be recorded: before a run writes anything."""
    try:
        check_frame(env_id)
        with (
            tempfile.TemporaryDirectory() as folder,
            make_env(env_id, video=Path(folder, "video")) as env,
        ):
            env.reset(seed=0)
            env.reset(seed=0)  # writes the first episode's video
    except RunError as error:
        hint = "leave out --capture-video"
        if isinstance(error, EnvironmentFailure):
            hint += "; without a display, MuJoCo needs MUJOCO_GL=egl"
        raise RunError(f"no video of {env_id}: {error} ({hint})") from error


def check_frame(env_id: str) -> None:
    """RunError unless the environment renders an array (height, width, 3) of uint8."""
    with make_env(env_id, "rgb_array") as env:
        env.reset(seed=0)
        with environment_code("render()"):
            frame = np.asarray(env.render())
    is_picture = frame.ndim == 3 and frame.shape[2] == 3 and frame.size > 0
    if frame.dtype != np.uint8 or not is_picture:
        what = f"an array of {frame.dtype}, shape {frame.shape}"
        raise RunError(f"render() gives {what}, and not uint8 (height, width, 3)")


def check_display() -> None:
    """RunError without a display for --render: a window could abort the process."""
    variables = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in variables):
        raise RunError("--render needs a display, and $DISPLAY is not set: try --capture-video")


# ----------------------------------------------------------------------------- sizes and evaluation
def sizes_of(env: gym.Env) -> list[int]:
    """Size of an observation, S, and size of an action, A."""
    return [env.observation_space.shape[0], env.action_space.shape[0]]


def reward_threshold(env: gym.Env) -> float:
    """The mean return at which gymnasium calls the task solved; infinite if it names none."""
    threshold = env.unwrapped.spec.reward_threshold
    if threshold is None:
        return np.inf
    with environment_code("reading the environment's reward_threshold"):
        return float(threshold)


def episodic_returns(env: gym.Env, policy: Policy, episodes: int, seed: int) -> list[float]:
    """The return of each episode that the policy plays without noise.

    Start states are those of the seeds seed, seed + 1, …
    """
    returns = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        episodic_return = 0.0
        terminated = truncated = False
        while not (terminated or truncated):
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            episodic_return += reward
        returns.append(episodic_return)
    return returns


# ------------------------------------------------------------------------------------------- files
SCRIPT = Path(__file__).stem  # noted in .json files and weights: a script loads only its own


@contextmanager
def as_run_error(message: str) -> Iterator[None]:
    """Turns any error inside into a RunError: libraries raise all kinds on a damaged file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise RunError(f"{message}: {in_one_line(error)[:200]}") from error


def write_atomically(path: Path, *pieces: bytes | memoryview) -> None:
    """Writes the pieces as one whole file: a process killed meanwhile leaves the old one."""
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("wb") as file:
            for piece in pieces:
                file.write(piece)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)  # on a full disk, half of it


def save_json(path: Path, content: dict) -> None:
    """Writes numbers, strings and containers."""
    write_atomically(path, json.dumps({"script": SCRIPT, **content}, indent=2).encode())


def load_json(path: Path) -> dict:
    """What save_json wrote; RunError if the file is of another program, or damaged."""
    with as_run_error(f"{path} is missing, damaged or foreign"):
        content = json.loads(path.read_text())
        check_script(content["script"])
    return content


def check_script(script: str) -> None:
    """RunError if another script has written the file."""
    if script != SCRIPT:
        raise RunError(f"it was written by {script}.py: use that script")


# ----------------------------------------------------------------------------------- torch's files
SUFFIX = ".pt"
PLAIN_TYPES = (bool, int, float, str)  # that weights may hold, beside arrays and None
LIBRARIES = (gym, np, torch)  # whose versions args.json names


def save_weights(path: Path, content: dict) -> None:
    """Writes tensors, arrays, numbers, strings and None, in dicts, lists and tuples.

    RunError, naming the place, if anything else is among them: load_weights would refuse it.
    """
    data = BytesIO()
    torch.save(to_loadable({"script": SCRIPT, **content}), data)
    with data.getbuffer() as view:  # no copy; closed before `data` is, also on a full disk
        write_atomically(path, view)


def to_loadable(value: object, name: str = "content") -> object:
    """The value, in which arrays have become tensors: weights_only allows no arrays.

    RunError, naming the place, if it holds what could not be loaded.
    """
    if isinstance(value, dict):
        if not all(type(key) in (str, int) for key in value):
            raise RunError(f"{name} cannot be saved: its keys have to be text or integers")
        return {key: to_loadable(inner, f"{name}/{key}") for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_loadable(inner, f"{name}/{i}") for i, inner in enumerate(value))
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            value = value.copy()
        with as_run_error(f"{name} cannot be saved"):
            return torch.from_numpy(value)
    if value is None or type(value) in PLAIN_TYPES or isinstance(value, torch.Tensor):
        return value
    raise RunError(f"{name} cannot be saved: it is a {type(value).__name__}")


def load_weights(path: Path) -> dict:
    """What save_weights wrote, arrays as tensors; RunError if it is foreign or damaged."""
    with as_run_error(f"{path} is missing, damaged or foreign"):
        content = torch.load(path, "cpu", weights_only=True)  # runs no code of a hostile file
        check_script(content["script"])
    return content


def check_weights(agent: DDPG) -> None:
    """RunError if a weight or a moment of an optimiser is not finite: that is never saved."""
    tensors = list(agent.state_dict().values())
    for optimizer in agent.optimizers:
        for moments in optimizer.state.values():
            tensors.extend(moments.values())
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise RunError("weights or optimiser moments are not finite (try lower learning rates)")


# ------------------------------------------------------------------------------ the run's directory
def run_path(args: Args) -> Path:
    """The directory that --resume or --run-name names, else a new one."""
    if args.resume:
        return Path(args.resume)
    name = args.run_name
    if not name:
        name = f"{args.env_id}__{SCRIPT}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
    accepted = re.sub(r"[^\w.-]|\.+$", "-", name)  # by Windows, too
    return Path(args.runs_dir, accepted)


@contextmanager
def locked_directory(path: Path, is_new: bool) -> Iterator[None]:
    """Makes the directory of a new run; keeps other processes out of it inside the `with`."""
    if is_new:
        check_is_free(path)
        path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path / ".lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise RunError(f"{path} is in use: another process writes to it") from None
    try:
        if is_new:
            check_is_free(path)  # again: another process may have been faster
        yield
    finally:
        lock.release()


def check_is_free(path: Path) -> None:
    """RunError if there is anything at the path that a new run could spoil."""
    if not path.exists():
        return
    if (path / "args.json").exists():
        hint = f"choose another --run-name, or continue it with --resume {path}"
        raise RunError(f"{path} holds a run: {hint}")
    if not path.is_dir() or names_in(path) - {".lock"}:
        raise RunError(f"{path} exists and holds no run: choose another --run-name")


def names_in(path: Path) -> set[str]:
    """The names of the files in a directory, without *.new, which a kill leaves half written."""
    return {file.name for file in path.iterdir() if file.suffix != ".new"}


def log_files(path: Path) -> list[Path]:
    """The CSVs and TensorBoard's files that a run has written so far."""
    csvs = [path / f"{name}.csv" for name in ("episodes", "evaluations", "updates")]
    return [*(csv for csv in csvs if csv.exists()), *path.glob("events.out.tfevents.*")]


def logs_state(path: Path) -> dict[str, dict]:
    """Size and SHA-256 of every log, by file name: {"bytes": ..., "sha256": ...}."""
    state = {}
    for log in log_files(path):
        content = log.read_bytes()
        state[log.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return state


def check_logs(path: Path, logs: dict[str, dict]) -> None:
    """RunError if a log's first bytes differ from those at the checkpoint (logs_state).

    A TensorBoard file may be missing: but for steps per second, it only repeats the CSVs.
    """
    hint = "put it back as the run left it (spreadsheets change line ends)"
    for name, noted in logs.items():
        log = path / name
        if not log.exists() and log.suffix == ".csv":
            raise RunError(f"{log} is missing: {hint}")
        if log.exists():
            content = log.read_bytes()[: noted["bytes"]]
            if hashlib.sha256(content).hexdigest() != noted["sha256"]:
                raise RunError(f"{log} was changed since the last checkpoint: {hint}")


def cut_logs(path: Path, logs: dict[str, dict]) -> None:
    """Cuts the logs back to the checkpoint: the resumed run logs the rest again."""
    for log in log_files(path):
        if log.name in logs:
            os.truncate(log, logs[log.name]["bytes"])
        else:
            log.unlink()


# -------------------------------------------------------------------------- agents and checkpoints
def save_agent(file: Path, args: Args, agent: DDPG) -> None:
    """Writes an agent, for --evaluate and load_policy."""
    check_weights(agent)
    content = {"args": asdict(args), "sizes": agent.sizes, "agent": agent.state()}
    save_weights(file, content)


def load_agent(file: Path) -> tuple[DDPG, Args]:
    """The agent in a file, and the arguments that it was trained with."""
    content = load_weights(file)
    with as_run_error(f"{file} holds no policy; give a best{SUFFIX} or last{SUFFIX}"):
        args = as_args(content["args"])
        args.device = "cpu"  # wherever it was trained
        agent = DDPG(*content["sizes"], args)
        agent.set_state(content["agent"])
    return agent, args


def load_policy(file: Path | str) -> tuple[Policy, Args]:
    """For your own programs: the policy in a file, and the arguments that it was trained with.

    Its actions are in [-1, 1]: play in make_env(args.env_id), which scales them.
    """
    agent, args = load_agent(Path(file))
    return agent.act, args


def write_checkpoint(path: Path, args: Args, training: Training) -> None:
    """Writes all that an exact continuation needs; to be called between two episodes."""
    check_weights(training.agent)
    best = path / f"best{SUFFIX}"
    content = {
        "args": asdict(args),
        "sizes": training.agent.sizes,  # so that --evaluate can play a checkpoint as well
        **training.state(),
        # If the run is killed, it may have changed these after the checkpoint
        "best": np.fromfile(best, np.uint8) if best.exists() else None,
        "logs": logs_state(path),
    }
    save_weights(path / f"checkpoint{SUFFIX}", content)


@dataclass
class SavedFiles:
    """What a checkpoint says of the other files in the run's directory."""

    best: np.ndarray | None = None  # the bytes of the best agent's file
    logs: dict[str, dict] = field(default_factory=dict)  # as logs_state() gives it


def restore_checkpoint(path: Path, args: Args, training: Training) -> SavedFiles:
    """Brings the last checkpoint back into `training`; changes no file.

    A run that was killed before its first checkpoint has no results either, and starts again.
    RunError if there are results without a checkpoint, or if a log was changed.
    """
    checkpoint = path / f"checkpoint{SUFFIX}"
    if not checkpoint.exists():
        if names_in(path) - {".lock", "args.json"}:
            hint = f"bring back {checkpoint.name}, or train anew under another --run-name"
            raise RunError(f"{path} has results, but no checkpoint to go on from: {hint}")
        return SavedFiles()
    content = load_weights(checkpoint)
    with as_run_error(f"{checkpoint} does not fit args.json"):
        if content["args"]["env_id"] != args.env_id:
            raise RunError(f"it is of {content['args']['env_id']}")
        training.set_state(content)
        saved = SavedFiles(logs=content["logs"])
        if content["best"] is not None:
            saved.best = np.asarray(content["best"])
    check_logs(path, saved.logs)
    return saved


def restore_files(path: Path, saved: SavedFiles) -> None:
    """Takes the best agent, if there was one, and the logs back to the checkpoint."""
    if saved.best is not None:
        restore_best(path / f"best{SUFFIX}", saved.best)
    cut_logs(path, saved.logs)


def restore_best(file: Path, content: np.ndarray) -> None:
    """Writes the best agent's file as it was at the checkpoint."""
    write_atomically(file, content.tobytes())


# ----------------------------------------------------------------------------------------- logging
@contextmanager
def deferred_signals() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM wait for the end of the block.

    An exception in the middle of TensorBoard's code could leave a lock of its queue held: closing
    it would then wait for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    received = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, lambda *signal_and_frame: received.append(signal_and_frame))
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
        for number, frame in received:
            handlers[number](number, frame)


class Logger:
    """Takes a run's values to CSVs, TensorBoard, Weights & Biases and a progress bar."""

    def __init__(self, path: Path, args: Args, first_step: int) -> None:
        self.path = path
        self.wandb_run = start_wandb(path, args) if args.track else None
        self.events = open_tensorboard(path)
        self.on_terminal = sys.stderr.isatty()
        self.bar = tqdm(  # without a terminal, count_step() prints it as plain lines
            initial=first_step,
            total=args.total_timesteps,
            unit="step",
            file=sys.stderr if self.on_terminal else StringIO(),
            mininterval=0.1 if self.on_terminal else 10,  # seconds
        )

    def log(self, name: str, step: int, values: dict, csv_only: dict | None = None) -> None:
        """Adds a row to NAME.csv; sends all but csv_only to TensorBoard and W&B, too."""
        csv = self.path / f"{name}.csv"
        row = {"step": step, **values}
        if csv_only is not None:
            row.update(csv_only)
        named = {f"{name}/{key}": value for key, value in values.items()}
        with deferred_signals():
            pd.DataFrame([row]).to_csv(
                csv, mode="a", header=not csv.exists(), index=False, lineterminator="\n"
            )
            self.log_to_tensorboard(step, named)
            if self.wandb_run:  # it ignores steps that it already has, as after --resume
                self.wandb_run.log(named, step=step)

    def log_to_tensorboard(self, step: int, values: dict) -> None:
        """Sends the values to TensorBoard alone."""
        with deferred_signals():
            for name, value in values.items():
                self.events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Waits until TensorBoard's file is complete."""
        with deferred_signals():
            self.events.flush()

    def count_step(self) -> None:
        """Moves the bar on; without a terminal, prints a line every ten seconds."""
        is_refreshed = self.bar.update()
        if is_refreshed and not self.on_terminal:
            print(self.bar)

    def show(self, values: dict[str, float]) -> None:
        """Shows the values beside the bar, from its next refresh on."""
        self.bar.set_postfix(values, refresh=False)

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        self.bar.write(text)

    def close(self, exit_code: int) -> None:
        """Writes what is still to be written, and ends the W&B run with this exit code."""
        self.bar.close()
        try:
            with deferred_signals():
                self.events.close()
        finally:
            if self.wandb_run:
                self.wandb_run.finish(exit_code)


def open_tensorboard(path: Path) -> tensorboard.summary.Writer:
    """TensorBoard's own writer, kept from importing TensorFlow where that is installed.

    TensorBoard uses a stub of its own in place of TensorFlow if it can import a module of the name
    below (tensorboard/compat/__init__.py).
    """
    name = "tensorboard.compat.notf"
    sys.modules[name] = ModuleType(name)
    return tensorboard.summary.Writer(str(path))


def start_wandb(path: Path, args: Args) -> object:
    """Starts a run in Weights & Biases, or continues the one whose id args.json has."""
    import wandb

    wandb_id = load_json(path / "args.json")["wandb_id"]
    options = {"id": wandb_id, "name": path.name, "resume": "allow"}
    with as_run_error("W&B does not start (WANDB_MODE=offline works without an account)"):
        return wandb.init(**options, config=asdict(args), dir=path)


# ----------------------------------------------------------------------------------------- the run
@contextmanager
def open_run(path: Path, args: Args, training: Training, threshold: float) -> Iterator["Run"]:
    """Locks a run's directory, restores its checkpoint, opens its logs; in the end closes all."""
    if args.track:
        importlib.import_module("wandb")  # if it is missing, say so before anything is written
    with locked_directory(path, is_new=not args.resume):
        saved = restore_checkpoint(path, args, training)
        args_content = args_to_save(path, args, training.progress.step)
        # So far no file was changed: whatever is wrong with the directory has been refused
        save_json(path / "args.json", args_content)
        restore_files(path, saved)
        if not (path / f"checkpoint{SUFFIX}").exists():
            write_checkpoint(path, args, training)  # of step 0: every run can be resumed
        run = Run(args, training, path, Logger(path, args, training.progress.step), threshold)
        with closed_at_the_end(run):
            yield run


@contextmanager
def closed_at_the_end(run: "Run") -> Iterator[None]:
    """Saves the summary and closes the logs, however the run ends; names step and checkpoint.

    What nobody foresaw (a bug, say) passes as it is, with its traceback.
    """
    is_finished = False
    try:
        yield
        run.save_summary(is_finished=True)
        run.logger.flush()
        is_finished = True
    except KeyboardInterrupt:
        with suppress(OSError):
            run.save_summary()
        raise
    except (RunError, OSError, MemoryError) as error:
        with suppress(OSError):  # on a full disk, the error itself says so
            run.save_summary()
        saved = f"the checkpoint of step {run.checkpoint_step} is intact"
        raise RunError(f"step {run.progress.step}: {in_one_line(error)}; {saved}") from error
    finally:
        try:
            run.logger.close(exit_code=0 if is_finished else 1)
        except Exception as error:  # one that has come before matters more
            print(f"the logs were not closed: {in_one_line(error)}", file=sys.stderr)
        with suppress(OSError):  # nobody reads what is printed: python … | head
            outcome = "finished" if is_finished else "stopped"
            print(f"{outcome} after {run.progress.step} steps: {run.path}")


def args_to_save(path: Path, args: Args, step: int) -> dict:
    """The content of args.json: the arguments and the versions of the libraries.

    On a resume the first versions stay. What has changed since is appended: other versions, which
    are printed, too, and a greater length. RunError if the old args.json is damaged.
    """
    content = {"args": asdict(args), "versions": versions()}
    if args.track:  # folders of different runs may have one name: seed-0 of two settings
        content["wandb_id"] = f"{path.name}-{os.urandom(4).hex()}"
    file = path / "args.json"
    if not file.exists():
        return content
    old = load_json(file)
    if args.track:
        content["wandb_id"] = old.get("wandb_id", path.name)
    with as_run_error(f"{file} is damaged"):
        content["versions"] = old["versions"]
        resumed = old.get("resumed", [])
        last = resumed[-1]["versions"] if resumed else old["versions"]
        changes = changed_versions(last, versions())
        extended = old.get("extended", [])
        old_length = old["args"]["total_timesteps"]
    if changes:
        print(f"resumed with other versions, which may change the numbers: {changes}")
        resumed = [*resumed, {"step": step, "versions": versions()}]
    if args.total_timesteps != old_length:
        extended = [*extended, {"step": step, "total_timesteps": old_length}]
    if resumed:
        content["resumed"] = resumed
    if extended:
        content["extended"] = extended
    return content


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that decide the numbers."""
    found = {"python": sys.version}
    for package in ("box2d", "mujoco", "pygame", "pygame-ce"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    for library in LIBRARIES:
        found[library.__name__] = library.__version__
    return found


def changed_versions(old: dict[str, str], new: dict[str, str]) -> str:
    """What differs, in words; empty if nothing does."""
    changes = []
    for name in sorted(old.keys() & new.keys()):  # packages in both: not all runs need all
        # The first word: Python's version goes on with the day when it was built
        old_version, new_version = old[name].split()[0], new[name].split()[0]
        if old_version != new_version:
            changes.append(f"{name} {new_version} instead of {old_version}")
    return ", ".join(changes)


class Run:
    """How a run logs, evaluates and saves; train() says when."""

    def __init__(
        self, args: Args, training: Training, path: Path, logger: Logger, threshold: float
    ) -> None:
        self.args = args
        self.training = training
        self.progress = training.progress
        self.path = path
        self.logger = logger
        self.threshold = threshold
        self.checkpoint_step = self.progress.step  # of the last checkpoint
        self.start_time = time.perf_counter() - self.progress.seconds

    def seconds(self) -> float:
        """Wall time of the run so far, without the time between a checkpoint and its resume."""
        return time.perf_counter() - self.start_time

    def log_update(self, metrics: dict) -> None:
        """Logs metrics, numbers or scalar tensors; RunError if one is not finite."""
        values = {name: float(value) for name, value in metrics.items()}
        for name, value in values.items():
            check_finite(value, f"{name} of the update (try lower learning rates)")
        step = self.progress.step
        self.logger.log("updates", step, values)
        # Steps per second, in TensorBoard alone: the CSVs of equal runs are equal files
        self.logger.log_to_tensorboard(step, {"SPS": step / self.seconds()})

    def after_step(self, reward: float) -> None:
        """Adds the step to its episode and to the progress bar."""
        self.progress.episode_length += 1
        self.progress.episodic_return += reward
        self.logger.count_step()

    def after_episode(self) -> None:
        """Logs the training episode that has ended, and begins to count the next one."""
        progress = self.progress
        progress.episode += 1
        progress.last_returns = [*progress.last_returns, progress.episodic_return][-100:]
        row = {
            "episode": progress.episode,
            "return": progress.episodic_return,
            "length": progress.episode_length,
        }
        self.logger.log("episodes", progress.step, row)
        mean = float(np.mean(progress.last_returns))
        shown = {"episode": progress.episode, "return": progress.episodic_return}
        shown["100-episode mean"] = mean
        self.logger.show(shown)
        is_solved = len(progress.last_returns) == 100 and mean >= self.threshold
        if is_solved and "training" not in progress.solved_at_step_by:
            progress.solved_at_step_by["training"] = progress.step
            reached = f"100-episode mean of the training return has reached {self.threshold:g}"
            self.logger.message(f"step {progress.step}: {reached}")
        progress.episodic_return = 0.0
        progress.episode_length = 0

    def evaluate(self) -> None:
        """Plays without noise, and logs it; saves the best agent. Once for each step."""
        progress = self.progress
        if progress.latest_evaluation and progress.latest_evaluation["step"] == progress.step:
            return
        returns = self.play()
        mean = float(np.mean(returns))
        std = float(np.std(returns))
        episodes = {f"episode_{i}": x for i, x in enumerate(returns)}
        self.logger.log("evaluations", progress.step, {"mean": mean, "std": std}, episodes)
        self.logger.message(f"step {progress.step}: evaluation {mean:.1f} ± {std:.1f}")
        progress.latest_evaluation = {"step": progress.step, "mean": mean, "std": std}
        if mean >= self.threshold:
            progress.solved_at_step_by.setdefault("evaluation", progress.step)
        if progress.best_evaluation is None or mean > progress.best_evaluation["mean"]:
            save_agent(self.path / f"best{SUFFIX}", self.args, self.training.agent)
            progress.best_evaluation = progress.latest_evaluation

    def play(self) -> list[float]:
        """The returns of an evaluation, in an environment of its own; maybe records the first."""
        args = self.args
        video = self.path / "videos" / f"step-{self.progress.step}" if args.capture_video else None
        seed = args.seed + EVALUATION_SEED
        try:
            with make_env(args.env_id, video=video) as env:
                return episodic_returns(env, self.training.agent.act, args.eval_episodes, seed)
        except EnvironmentFailure as error:
            hint = "if only one environment can be open at a time: --eval-every 0"
            raise RunError(f"in an evaluation, {error} ({hint})") from error

    def is_checkpoint_due(self) -> bool:
        """Whether a multiple of --checkpoint-every steps has passed since the last one."""
        every = self.args.checkpoint_every
        return self.progress.step // every > self.checkpoint_step // every

    def save_checkpoint(self) -> None:
        """Saves all that --resume needs; renews the summary and the plots."""
        self.progress.seconds = self.seconds()
        self.logger.flush()  # the checkpoint notes the size of the logs
        write_checkpoint(self.path, self.args, self.training)
        self.checkpoint_step = self.progress.step
        self.save_summary()

    def save_last(self) -> None:
        """Saves the agent at the end of the training."""
        save_agent(self.path / f"last{SUFFIX}", self.args, self.training.agent)

    def save_summary(self, is_finished: bool = False) -> None:
        """Writes summary.json and draws the learning curve."""
        content = {"finished": is_finished, **summary(self.progress, self.seconds())}
        save_json(self.path / "summary.json", content)
        try:
            plot(self.path, self.threshold)
        except Exception as error:  # a plot that fails must not end the training
            self.logger.message(f"no learning curve: {in_one_line(error)}")


def summary(progress: Progress, seconds: float) -> dict:
    """What summary.json says of a run."""
    return {
        "steps": progress.step,
        "episodes": progress.episode,
        "wall_time_seconds": seconds,
        "steps_per_second": progress.step / seconds,
        "solved_at_step_by": progress.solved_at_step_by,
        "final_evaluation": progress.latest_evaluation,
        "best_evaluation": progress.best_evaluation,
    }


def has_finished(path: Path, args: Args) -> bool:
    """Whether the run in the directory has made all its steps and come to its end."""
    try:
        content = load_json(path / "summary.json")
    except RunError:  # there is none, or it is damaged
        return False
    return content.get("finished", False) and content.get("steps", 0) >= args.total_timesteps


def plot(path: Path, threshold: float) -> None:
    """Draws learning_curve.png and .pdf of the run in `path` from its CSVs."""
    logs = {}
    for log in log_files(path):
        if log.suffix == ".csv":
            logs[log.stem] = pd.read_csv(log, index_col="step")
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplot_mosaic(
        [["returns", "returns"], ["updates", "lengths"]], height_ratios=[3, 2]
    )
    plot_returns(axes["returns"], logs, threshold)
    axes["returns"].set_title(path.name)
    if "updates" in logs:
        plot_updates(axes["updates"], logs["updates"])
    axes["updates"].set(xlabel="step", ylabel="value, loss", yscale="symlog")
    if "episodes" in logs:
        axes["lengths"].plot(logs["episodes"]["length"], ".", color="0.5", ms=4)
    axes["lengths"].set(xlabel="step", ylabel="episode length")
    for suffix in ("png", "pdf"):
        figure.savefig(path / f"learning_curve.{suffix}", dpi=150)


def plot_returns(axes: Axes, logs: dict[str, pd.DataFrame], threshold: float) -> None:
    """Plots training episodes, with exploration, and evaluations, without."""
    if "episodes" in logs:
        returns = logs["episodes"]["return"]
        mean = returns.rolling(100, min_periods=1).mean()
        axes.plot(returns, ".", color="0.7", ms=4, label="training episode")
        axes.plot(mean, lw=2, label="mean of the last 100 of these")
    if "evaluations" in logs:
        log = logs["evaluations"]
        style = {"fmt": "ko--", "ms": 4, "lw": 1}
        axes.errorbar(log.index, log["mean"], log["std"], **style, label="evaluation, mean ± std")
    if np.isfinite(threshold):
        axes.axhline(threshold, color="black", ls=":", label=f"threshold {threshold:g}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    axes.set(xlabel="step", ylabel="return")


def plot_updates(axes: Axes, log: pd.DataFrame) -> None:
    """Plots the first three of the metrics that update() returns."""
    for name, style in zip(log.columns, ("C0:", "C1--", "k-"), strict=False):
        axes.plot(log[name].rolling(10, min_periods=1).mean(), style, label=f"{name}, mean of 10")
    axes.legend()


# -------------------------------------------------------------------------------- the command line
def check(args: Args) -> None:
    """RunError, naming the flag, if a value is out of range."""
    least_batch_size = 2 if args.norm == "batch" else 1
    largest_dt = 2 / max(args.ou_theta, 1e-9)  # beyond it, Euler's method diverges
    ranges = {
        "actor_learning_rate": (0, 1e9),
        "critic_learning_rate": (0, 1e9),
        "weight_decay": (0, 1e9),
        "gamma": (0, 1),
        "tau": (0, 1),
        "buffer_size": (1, 2**31),
        "batch_size": (least_batch_size, args.buffer_size),
        "hidden_sizes": (1, 2**15),
        "learning_starts": (0, 2**31),
        "noise_sigma": (0, 1e9),
        "ou_theta": (0, 1e9),
        "ou_dt": (0, largest_dt),
        "total_timesteps": (1, 2**31),
        "seed": (0, 2**30),
        "eval_every": (0, 2**31),
        "eval_episodes": (1, 2**31),
        "num_threads": (1, 1024),
        "checkpoint_every": (1, 2**31),
    }
    for name, (low, high) in ranges.items():
        check_range(name, getattr(args, name), low, high)


def note_missing_updates(args: Args) -> None:
    """Prints a line if the run ends before its first update."""
    if args.total_timesteps <= args.learning_starts:
        lengths = f"--total-timesteps {args.total_timesteps}, --learning-starts"
        print(f"nothing will be learned: {lengths} {args.learning_starts}")


def check_range(name: str, value: float | tuple, low: float, high: float) -> None:
    """RunError unless the value, or each value of a tuple, lies in [low, high]; NaN does not."""
    for number in np.atleast_1d(value):
        if not low <= number <= high:
            flag = f"--{name.replace('_', '-')}"
            raise RunError(f"{flag} is {value}: it has to be from {low} to {high}")


def check_not_empty(args: Args) -> None:
    """RunError if a flag is empty, as in --resume "$UNSET"."""
    for name, value in asdict(args).items():
        if value == "":
            flag = f"--{name.replace('_', '-')}"
            raise RunError(f"{flag} is empty: give it a value, or leave it out")


def expand_home(args: Args) -> None:
    """Expands the ~ that the shell leaves in --runs-dir=~/x, in every flag that is a path."""
    for name in ("runs_dir", "resume", "evaluate"):
        value = getattr(args, name)
        if value:
            setattr(args, name, os.path.expanduser(value))


def given_flags() -> set[str]:
    """The flags on the command line, spelled with hyphens: tyro does not say which were given."""
    flags = [word.partition("=")[0] for word in sys.argv[1:] if word.startswith("--")]
    return {flag.replace("_", "-") for flag in flags}


def as_args(content: dict) -> Args:
    """The arguments in a file; RunError if one is unknown, or not of the type that Args declares.

    One that is missing has its default: a file may be older than a flag.
    """
    types = get_type_hints(Args)
    values = {}
    for name, value in content.items():
        if isinstance(value, list):
            value = tuple(value)  # JSON has no tuples
        if name not in types:
            raise RunError(f"there is no argument {name}")
        try:
            typeguard.check_type(value, types[name])
        except typeguard.TypeCheckError as error:
            raise RunError(f"{name} is {value!r}: {error}") from None
        numbers = value if isinstance(value, tuple) else (value,)
        if types[name] is not bool and any(type(number) is bool for number in numbers):
            raise RunError(f"{name} is {value!r}: it cannot be true or false")
        values[name] = value
    return Args(**values)


def args_to_resume(args: Args, flags: set[str]) -> Args:
    """The arguments of the run to resume, and the new --total-timesteps if it is given."""
    others = flags - {"--resume", "--total-timesteps"}
    if others:
        names = ", ".join(sorted(others))
        raise RunError(f"--resume takes everything from the run's args.json: leave out {names}")
    path = Path(args.resume, "args.json")
    if not path.exists():
        raise RunError(f"{args.resume} holds no run: there is no {path}")
    content = load_json(path)
    with as_run_error(f"cannot use {path}"):
        old_args = as_args({**content["args"], "resume": args.resume})
        check(old_args)
    if "--total-timesteps" in flags:
        steps, old_steps = args.total_timesteps, old_args.total_timesteps
        if steps < old_steps:
            raise RunError(f"--total-timesteps {steps} is less than the run's own {old_steps}")
        old_args.total_timesteps = steps
        check(old_args)
    return old_args


FLAGS_BESIDE_EVALUATE = {
    "--evaluate",
    "--env-id",
    "--eval-episodes",
    "--seed",
    "--render",
    "--no-render",
    "--capture-video",
    "--no-capture-video",
}


def evaluate_file(args: Args, flags: set[str]) -> None:
    """Plays --evaluate's agent without noise, where it was trained or in --env-id."""
    others = flags - FLAGS_BESIDE_EVALUATE
    if others:
        raise RunError(f"--evaluate cannot use {', '.join(sorted(others))}: leave them out")
    if args.render and args.capture_video:
        raise RunError("--render shows, --capture-video records: give one of the two")
    if args.render:
        check_display()
    prepare_framework(args)
    path = Path(args.evaluate).absolute()  # an environment may change the current folder
    agent, trained = load_agent(path)
    env_id = current_id(args.env_id if "--env-id" in flags else trained.env_id)
    render_mode = "human" if args.render else None
    video = None
    if args.capture_video:
        check_video(env_id)
        video = path.parent / "videos" / path.stem
    with make_env(env_id, render_mode, video) as env:
        note_missing_time_limit(env, env_id)
        if agent.sizes != sizes_of(env):
            wrong = f"sizes of observations and actions {agent.sizes} are not {sizes_of(env)}"
            raise RunError(f"{path}, trained in {trained.env_id}, cannot play {env_id}: {wrong}")
        returns = episodic_returns(env, agent.act, args.eval_episodes, args.seed)
    for episode, episodic_return in enumerate(returns):
        seed = args.seed + episode
        print(f"episode {episode}, seed {seed}: return {episodic_return:.1f}")
    mean, std = np.mean(returns), np.std(returns)
    print(f"mean {mean:.1f} ± {std:.1f} over {len(returns)} episodes of {env_id}")


def run_command() -> None:
    """Trains, resumes or evaluates, as the command line says."""
    args = tyro.cli(Args, description=__doc__)
    flags = given_flags()
    check_not_empty(args)
    expand_home(args)
    if args.evaluate:
        check(args)
        evaluate_file(args, flags)
    elif args.render:
        raise RunError("--render shows a trained policy: it needs --evaluate")
    elif args.resume:
        args = args_to_resume(args, flags)
        if has_finished(Path(args.resume), args):
            print(f"{args.resume} is finished: with more --total-timesteps it goes on")
        else:
            train(args)
    else:
        check(args)
        train(args)


def main() -> None:
    """Runs the command. A foreseen error becomes the last line on stderr, and status 2."""
    prepare_streams()
    prepare_signals()
    sys.path.append("")  # the current folder, for an environment of one's own: my_module:MyEnv-v0
    threading.excepthook = report_thread_failure
    try:
        run_command()
    except Terminated:
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # nobody reads what is printed: python … --help | head
        sys.exit(1)
    except (RunError, ImportError, MemoryError, OSError) as error:
        print_environments_traceback(error)
        print(in_one_line(error), file=sys.stderr)
        sys.exit(2)


def prepare_streams() -> None:
    """Makes stdout print line by line; replaces a stream that was closed before the start."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):  # notebooks have streams of their own
        sys.stdout.reconfigure(line_buffering=True, errors="replace")


class Terminated(KeyboardInterrupt):
    """SIGTERM has come: clusters send it before they kill. It ends a run as Ctrl-C does."""


def prepare_signals() -> None:
    """Turns SIGTERM into Terminated, and SIGINT into KeyboardInterrupt again."""
    if threading.current_thread() is not threading.main_thread():
        return  # Python sets signal handlers in the main thread alone
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set at the top of this file
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, raise_terminated)
        if hasattr(os, "register_at_fork"):  # an environment's own processes end at once
            default = partial(signal.signal, signal.SIGTERM, signal.SIG_DFL)
            os.register_at_fork(after_in_child=default)


def raise_terminated(*_: object) -> NoReturn:
    """The handler of SIGTERM."""
    raise Terminated


def report_thread_failure(failure: threading.ExceptHookArgs) -> None:
    """Prints a traceback, but not when TensorBoard's thread cannot write: train() will say so."""
    is_tensorboards = type(failure.thread).__module__.startswith("tensorboard.")
    if not (is_tensorboards and isinstance(failure.exc_value, OSError)):
        threading.__excepthook__(failure)


# Packages whose frames are left out of an environment's traceback
LIBRARIES_AROUND = {
    "contextlib",
    "gymnasium",
    "imageio",
    "imageio_ffmpeg",
    "importlib",
    "moviepy",
    "proglog",
    __name__,
}


def print_environments_traceback(error: BaseException) -> None:
    """Prints where in the environment's own code an EnvironmentFailure comes from, if it does."""
    chain = []
    while error is not None and error not in chain:  # an exception may be its own cause
        chain.append(error)
        error = error.__cause__
    if not any(isinstance(link, EnvironmentFailure) for link in chain):
        return
    for link in chain:
        frames = own_frames(link.__traceback__)
        if frames:
            traceback.print_exception(link.with_traceback(frames))
            return


def own_frames(frames: TracebackType | None) -> TracebackType | None:
    """A traceback from the first frame on that is in the environment's own code."""
    while frames:
        module = frames.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in LIBRARIES_AROUND:
            return frames
        frames = frames.tb_next
    return None


def in_one_line(error: BaseException) -> str:
    """What is wrong; for a missing package, also how to get it."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # somebody's own exception, of which str() fails
        text = ""
    if not text:  # as of a MemoryError
        text = type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name:
        text += f" (pip install {error.name.partition('.')[0]})"
    return text


if __name__ == "__main__":
    main()
