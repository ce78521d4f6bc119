# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["filelock==4.2.11", "gymnasium[box2d,mujoco]==1.4.0", "keras==3.15.1", "matplotlib==3.11.2",
#     "moviepy==2.2.1", "numpy==2.4.6", "pandas==3.1.1", "tensorboard==2.21.0", "tqdm==4.70.1", "tyro==1.0.16",
#     "tensorflow-cpu==2.21.0; platform_machine in 'x86_64 AMD64'",
#     "tensorflow==2.21.0; platform_machine not in 'x86_64 AMD64'"]
# ///
"""DDPG in Keras 3, on TensorFlow, JAX or PyTorch, the actor trained through the critic (arxiv.org/abs/1509.02971):

initialise the critic Q(s, a) and the actor μ(s); copy them into the targets Q' and μ'; empty the replay R
for each episode: restart the exploration noise 𝒩 and receive the first observation s
    for each step:
        act:      a = μ(s) + 𝒩
        store:    (s, a, r, s') in R
        sample:   N transitions from R
        critic:   y = r + γ Q'(s', μ'(s')), and minimise L = 1/N Σ (y − Q(s, a))²
        actor:    minimise −1/N Σ Q(s, μ(s)), one composed function in which the critic holds still
        targets:  θ' ← τ θ + (1 − τ) θ', for Q' and μ'

python ddpg_keras.py --env-id MountainCarContinuous-v0
python ddpg_keras.py --evaluate runs/NAME/best.npz --render
python ddpg_keras.py --resume runs/NAME
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
import tyro
from matplotlib.figure import Figure
from tqdm import tqdm

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "OMP_NUM_THREADS": "1"} | os.environ
os.environ |= dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "PJRT_NPROC"), os.environ["OMP_NUM_THREADS"]) | os.environ
try:
    import keras

    engine = {x: sys.modules.get(x) for x in ("tensorflow", "jax", "torch")}[BACKEND := keras.config.backend()]
    keras.config.set_floatx("float32")  # whatever keras.json says
except (ImportError, KeyError, ValueError) as error:
    sys.exit(print(f"KERAS_BACKEND: {error} (pip install it, or set tensorflow, jax or torch)", file=sys.stderr) or 2)


@dataclass
class Args:
    total_timesteps: int = 15_000  # environment steps to train for (paper: up to 2.5 million)
    actor_learning_rate: float = 1e-4  # learning rate of the actor (paper: 1e-4)
    critic_learning_rate: float = 1e-3  # learning rate of the critic (paper: 1e-3)
    optimizer: Literal["adam", "rmsprop"] = "adam"  # of both networks (paper: adam)
    anneal: bool = True  # both rates fall linearly to zero at --total-timesteps (paper: constant; a less steady end)
    weight_decay: float = 1e-2  # L2 penalty on the critic's parameters, within their gradient (paper: 1e-2)
    gamma: float = 0.99  # discount factor γ (paper: 0.99)
    tau: float = 0.02  # rate τ at which the targets follow (paper: 0.001; the default task is solved later with it)
    batch_size: int = 64  # minibatch size N (paper: 64)
    buffer_size: int = 1_000_000  # transitions that the replay memory holds (paper: 1e6)
    hidden_sizes: tuple[int, int] = (400, 300)  # units of the two hidden layers (paper: 400 300)
    norm: Literal["batch", "layer", "none"] = "batch"  # of both networks (critic: before the action); paper: batch
    learning_starts: int = 2_000  # uniformly random steps before the first update (paper: not stated)
    noise: Literal["ou", "gaussian"] = "ou"  # exploration noise: Ornstein-Uhlenbeck (paper) or independent Gaussian
    noise_sigma: float = 0.5  # σ, of actions in [-1, 1]; OU noise deviates by σ/√(2θ) (paper: 0.2; 0.5 explores more)
    ou_theta: float = 0.15  # rate θ at which Ornstein-Uhlenbeck noise returns to zero (paper: 0.15)
    ou_dt: float = 0.1  # time step dt of Ornstein-Uhlenbeck noise (paper: not stated; correlated over 1/(θ dt) steps)
    noise_decay_steps: int = 0  # step at which the noise, falling linearly, is zero (0 = constant, as in the paper)
    env_id: str = "MountainCarContinuous-v0"  # gymnasium id, of one's own too (my_module:MyEnv-v0)
    seed: int = 0  # of everything random; with --evaluate, of the first start state
    eval_every: int = 2_000  # steps between noise-free evaluations (0 = none)
    eval_episodes: int = 20  # episodes of an evaluation, each with its own fixed start state
    runs_dir: str = "runs"  # folder of all runs
    run_name: str | None = None  # this run's folder in there (default: environment, script, seed, time)
    checkpoint_every: int = 10_000  # steps between checkpoints, each written when the next episode ends
    capture_video: bool = False  # record the first episode of each evaluation as mp4
    track: bool = False  # log to Weights & Biases, too
    resume: str | None = None  # go on from this run's last checkpoint, exactly; may take a larger --total-timesteps
    evaluate: str | None = None  # instead of training, play this best.npz or last.npz without noise
    render: bool = False  # with --evaluate: show it in a window


# ------------------------------------------------------------------------------------------------ exploration noise
class OrnsteinUhlenbeckNoise:
    """Temporally correlated exploration (Section 7): dx = −θ x dt + σ dW by Euler's method, restarted every episode."""

    def __init__(self, size: int, sigma: float, theta: float, dt: float, rng: np.random.Generator) -> None:
        self.size, self.sigma, self.theta, self.dt, self.rng = size, sigma, theta, dt, rng
        self.restart()

    def restart(self) -> None:
        self.x = np.zeros(self.size, np.float32)

    def sample(self) -> np.ndarray:
        """The next value of the process, (A,)."""
        dw = self.dt**0.5 * self.rng.standard_normal(self.size, np.float32)  # normal increments, not uniform ones
        self.x = self.x - self.theta * self.x * self.dt + self.sigma * dw
        return self.x


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


# ------------------------------------------------------------------------------------------------- actor and critic
def dense(x: keras.KerasTensor, units: int, norm: str = "none", last: bool = False) -> keras.KerasTensor:
    """Linear, norm, ReLU: (N, fan-in) to (N, units), starting at U(±1/√fan-in); the last linear alone, at U(±3e-3)."""
    bound = 3e-3 if last else x.shape[1] ** -0.5
    weights, biases = (keras.initializers.RandomUniform(-bound, bound) for _ in range(2))
    x = keras.layers.Dense(units, use_bias=norm != "batch", kernel_initializer=weights, bias_initializer=biases)(x)
    if norm != "none":  # batch norm (running averages move by 0.01) subtracts the mean, and with it any bias before it
        x = (keras.layers.BatchNormalization if norm == "batch" else keras.layers.LayerNormalization)(epsilon=1e-5)(x)
    return x if last else keras.layers.ReLU()(x)


def make_networks(observation_size: int, action_size: int, args: Args) -> tuple[keras.Model, keras.Model]:
    """The policy μ(s), (N, S) to (N, A) in [-1, 1], and the action value Q(s, a), [(N, S), (N, A)] to (N, 1)."""
    units, norm, s, a = args.hidden_sizes, args.norm, keras.Input((observation_size,)), keras.Input((action_size,))
    norm_0 = {"epsilon": 1e-5, "center": False, "scale": False}  # of the observation: layer 1 shifts and scales
    x, z = (keras.layers.BatchNormalization(**norm_0)(s) if norm == "batch" else s for _ in range(2))
    x = dense(dense(x, units[0], norm), units[1], norm)  # (N, 300)
    z = keras.layers.Concatenate()([dense(z, units[0], norm), a])  # (N, 400 + A): the action enters at layer 2
    actor = keras.Model(s, keras.layers.Activation("tanh")(dense(x, action_size, last=True)), name="actor")
    return actor, keras.Model([s, a], dense(dense(z, units[1]), 1, last=True), name="critic")


# --------------------------------------------------------------------------------------- the adapter to the backend
def gradient(function: Callable, variables: list[keras.Variable]) -> tuple:
    """Of function(values) → (loss, more), at the variables' values: ∂loss/∂values, and what `more` was."""
    values = [x.value for x in variables]
    if BACKEND != "tensorflow":
        return (engine.grad if BACKEND == "jax" else engine.func.grad)(function, has_aux=True)(values)
    with engine.GradientTape() as tape:
        loss, more = function(values)
    return tape.gradient(loss, values), more


def assign(variables: list[keras.Variable], values: list) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def compiled(function: Callable, variables: list[keras.Variable]) -> Callable:
    """The function, which assigns to the variables, as one graph, traced once: at its first call, for its shapes."""
    if BACKEND == "tensorflow":
        return engine.function(function, autograph=False, jit_compile=True)

    def pure(values: list, *inputs: object) -> tuple:  # JAX and torch trace functions without side effects
        with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
            return function(*inputs), [scope.get_current_value(x) for x in variables]

    graph = engine.jit(pure, donate_argnums=0) if BACKEND == "jax" else None

    def call(*inputs: object) -> object:
        nonlocal graph  # torch's is traced on clones, because make_fx executes, and Keras's optimisers write in place
        values = [x.value if BACKEND == "jax" else x.value.detach() for x in variables]
        graph = graph or engine.fx.experimental.proxy_tensor.make_fx(pure)([x.clone() for x in values], *inputs)
        result, new = graph(values, *inputs)
        assign(variables, new)
        return result

    return call


# ------------------------------------------------------------------------------------------------------- the update
def forward(model: keras.Model, weights: list, inputs: object) -> tuple:
    """A training pass with these weights: its outputs, and batch norm's next running averages. It changes nothing."""
    return model.stateless_call(weights, model.non_trainable_variables, inputs, training=True)


class DDPG:
    """Actor, critic, their targets and optimisers: Algorithm 1 without the environment."""

    def __init__(self, observation_size: int, action_size: int, args: Args) -> None:
        self.sizes, self.args = (observation_size, action_size), args
        self.actor, self.critic = make_networks(*self.sizes, args)
        self.target_actor = [keras.Variable(keras.ops.copy(x)) for x in self.actor.trainable_variables]
        self.target_critic = [keras.Variable(keras.ops.copy(x)) for x in self.critic.trainable_variables]
        optimizer = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}[args.optimizer]
        self.actor_optimizer, self.critic_optimizer = optimizer(epsilon=1e-8), optimizer(epsilon=1e-8)
        self.actor_optimizer.build(self.actor.trainable_variables)
        self.critic_optimizer.build(self.critic.trainable_variables)
        parts = self.actor, self.critic, self.actor_optimizer, self.critic_optimizer
        self.variables = [*(x for part in parts for x in part.variables), *self.target_actor, *self.target_critic]
        self.compiled_update = compiled(self.learn, self.variables)
        self.compiled_policy = compiled(lambda s: self.actor(s[None], training=False)[0], self.actor.variables)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """μ(s) without noise: (S,) to (A,), in [-1, 1]. The only place that reads batch norm's running averages."""
        return keras.ops.convert_to_numpy(self.compiled_policy(keras.ops.convert_to_tensor(observation)))

    def update(self, batch: list[np.ndarray], scale: float = 1.0, read: bool = False) -> dict[str, float]:
        """Learns from a minibatch, learning rates times `scale`. `read`: return what to log (it makes a GPU wait)."""
        values = self.compiled_update(*(keras.ops.convert_to_tensor(x) for x in (*batch, np.float32(scale))))
        names = "critic_loss", "actor_loss", "q", "saturation"
        return dict(zip(names, map(float, values), strict=True)) if read else {}

    def learn(self, *inputs: keras.KerasTensor) -> list[keras.KerasTensor]:
        """The whole update, compiled into one graph. What changes, changes by an `assign` or an `apply` in here."""
        s, a, r, terminated, next_s, scale = inputs
        self.critic_optimizer.learning_rate.assign(scale * self.args.critic_learning_rate)
        self.actor_optimizer.learning_rate.assign(scale * self.args.actor_learning_rate)
        # Critic: minimise L = 1/N Σ (y − Q(s, a))². `terminated`, not `done`: a time limit is no end of the task.
        next_a, _ = forward(self.actor, self.target_actor, next_s)  # (N, A): μ', the same network with other weights
        next_q, _ = forward(self.critic, self.target_critic, [next_s, next_a])  # (N, 1)
        y = r + self.args.gamma * (1 - terminated) * next_q  # (N, 1)

        def critic_loss(weights: list) -> tuple:
            q, averages = forward(self.critic, weights, [s, a])  # (N, 1), as y: (N,) would broadcast to (N, N)
            return keras.ops.mean((y - q) ** 2), (q, averages)

        gradients, (q, averages) = gradient(critic_loss, weights := self.critic.trainable_variables)
        assign(self.critic.non_trainable_variables, averages)  # for whoever asks the saved critic for single values
        gradients = [g + self.args.weight_decay * w for g, w in zip(gradients, weights, strict=True)]  # L2, so that it
        self.critic_optimizer.apply(gradients, weights)  # passes through Adam's moments; Keras's weight_decay would not

        # Actor: minimise −1/N Σ Q(s, μ(s)), composed of both networks, but a function of the actor's weights alone: the
        # critic just updated holds still. (`trainable = False` would also turn its batch norm to running averages.)
        def actor_loss(weights: list) -> tuple:
            mu, averages = forward(self.actor, weights, s)  # (N, A)
            q_mu, _ = forward(self.critic, self.critic.trainable_variables, [s, mu])  # (N, 1)
            return -keras.ops.mean(q_mu), (mu, q_mu, averages)

        gradients, (mu, q_mu, averages) = gradient(actor_loss, weights := self.actor.trainable_variables)
        self.actor_optimizer.apply(gradients, weights)
        tau, online = self.args.tau, self.actor.trainable_variables + self.critic.trainable_variables
        targets = self.target_actor + self.target_critic
        assign(targets, [tau * fast + (1 - tau) * slow for fast, slow in zip(online, targets, strict=True)])
        assign(self.actor.non_trainable_variables, averages)  # for acting alone
        return [keras.ops.mean(keras.ops.cast(x, s.dtype)) for x in ((y - q) ** 2, -q_mu, q, keras.ops.abs(mu) > 0.99)]

    def state(self) -> dict:
        return {"variables": [np.array(x.numpy()) for x in self.variables], "models": [self.actor, self.critic]}

    def magnitude(self) -> float:  # which is finite only if every weight and moment is
        return float(sum(np.abs(x).sum() for x in self.state()["variables"]))

    def set_state(self, state: dict) -> None:
        assign(self.variables, state["variables"])


# ----------------------------------------------------------------------------------------------------- the training
def train(args: Args) -> None:
    """Runs Algorithm 1 in an environment; `run` looks after all else."""
    if args.resume and BACKEND not in (versions := load(Path(args.resume, "args.json")).get("versions", ["?"])):
        raise RunError(f"{args.resume} was begun with another backend: set KERAS_BACKEND={[*versions][-1]} to go on")
    keras.utils.set_random_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    env = make_env(args.env_id, "rgb_array" if args.capture_video else None)
    args.env_id = re.sub(r"-v\d+$", f"-v{env.unwrapped.spec.version}", args.env_id)  # a retired one is no more
    observation_size, action_size = env.observation_space.shape[0], env.action_space.shape[0]
    agent = DDPG(observation_size, action_size, args)
    replay = ReplayMemory(args.buffer_size, observation_size, action_size, rng)
    theta, dt = (args.ou_theta, args.ou_dt) if args.noise == "ou" else (1.0, 1.0)  # θ dt = 1 has no memory: Gaussian
    noise = OrnsteinUhlenbeckNoise(action_size, args.noise_sigma, theta, dt, rng)

    with Run(args, agent, replay, rng, env) as run:
        if args.eval_every and run.step == 0:
            run.evaluate()
        observation, _ = env.reset(seed=None if run.step else args.seed)
        for step in range(run.step + 1, args.total_timesteps + 1):
            run.step = step
            # Act: at random at first, then by the policy plus noise. What is clipped here is executed and stored.
            noise_scale = max(0.0, 1 - step / args.noise_decay_steps) if args.noise_decay_steps else 1.0
            if step <= args.learning_starts:
                action = rng.uniform(-1, 1, action_size).astype(np.float32)
            else:
                action = np.clip(agent.act(observation) + noise_scale * noise.sample(), -1, 1)
            next_observation, reward, terminated, truncated, _ = env.step(action)

            # Store: at a time limit, too, the true next observation and terminated = 0
            replay.add(observation, action, reward, terminated, next_observation)
            observation = next_observation

            # Learn
            values = {}
            if step > args.learning_starts:
                scale = 1 - step / args.total_timesteps if args.anneal else 1.0  # of both learning rates
                values = agent.update(replay.sample(args.batch_size), scale, read=step % LOG_EVERY == 0)

            # Log, evaluate, save
            run.after_step(reward, values, {"noise_sigma": args.noise_sigma * noise_scale})
            if terminated or truncated:
                env = run.after_episode()  # another one after a checkpoint
                observation, _ = env.reset()
                noise.restart()
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
    """Makes an environment with actions (A,) in [-1, 1] and observations (S,), both float32; RunError if unsuitable."""
    options = {"render_mode": "rgb_array" if video else render_mode} if video or render_mode else {}
    try:
        env = gym.make(env_id, **options)
    except (gym.error.DeprecatedEnv, ImportError):  # ImportError: MuJoCo's v2 and v3 are registered, but gone
        env = gym.make(env_id.rpartition("-v")[0], **options)  # without a version, gymnasium makes the newest
        print(f"{env_id} is retired: running the current version, {env.spec.id}")
    actions, observations = env.action_space, env.observation_space
    if not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1 or not actions.is_bounded():
        raise RunError(f"{env_id} has the actions {actions}: DDPG needs continuous vectors, bounded (discrete: dqn.py)")
    if not isinstance(observations, gym.spaces.Box) or len(observations.shape) != 1:
        raise RunError(f"{env_id} observes {observations}: needed is a vector (see gymnasium's FlattenObservation)")
    if env.render_mode not in [None, *env.metadata.get("render_modes", [])]:
        raise RunError(f"{env_id} has no render mode {env.render_mode}: leave out --render and --capture-video")
    if video:
        env = gym.wrappers.RecordVideo(env, str(video.parent), lambda episode: episode == 0, name_prefix=video.name)
    low, high, box = actions.low, actions.high, gym.spaces.Box(-1.0, 1.0, actions.shape)
    env = gym.wrappers.TransformAction(env, lambda a: np.clip((low * (1 - a) + high * (1 + a)) / 2, low, high), box)
    env = gym.wrappers.TransformAction(env, lambda a: finite(a, "the actor's output (try lower learning rates)"), box)
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


# ----------------------------------------------------------------------------------------------------- Keras's files
SUFFIX, LIBRARIES = ".npz", (gym, np, keras, engine)  # of files of weights; whose versions args.json names


def save(path: Path, content: dict) -> None:
    """Writes a .json, or a .npz of arrays, numbers, strings and containers, atomically; its networks beside it."""
    content, data, arrays = {"script": SCRIPT, **content}, BytesIO(), []
    for model in content.get("agent", {}).pop("models", []):  # for keras.saving.load_model, on any backend
        model.save(new := path.with_name("new.keras"))
        os.replace(new, path.with_name(f"{path.stem}_{model.name}.keras"))
    text = json.dumps(content, indent=2, default=lambda x: arrays.append(x) or {"array": f"arr_{len(arrays)}"})
    data.write(text.encode()) if path.suffix == ".json" else np.savez(data, text, *arrays)  # text is its arr_0
    (new := path.with_name(f"{path.name}.new")).write_bytes(data.getbuffer())
    os.replace(new, path)


def load(path: Path) -> dict:
    """What save() wrote. numpy refuses pickles: code in a hostile file does not run."""
    with explaining(f"{path} is missing, damaged or foreign"):
        file = {"arr_0": path.read_text()} if path.suffix == ".json" else np.load(BytesIO(path.read_bytes()))
        content = json.loads(str(file["arr_0"]), object_hook=lambda x: file[x["array"]] if "array" in x else x)
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
        agent = DDPG(*content["sizes"], args)
        agent.set_state(content["agent"])
        return agent.act, args


class Run(AbstractContextManager):
    """A run's directory and all that goes into it: logs, evaluations, checkpoints, plots."""

    def __init__(self, args: Args, agent: DDPG, replay: ReplayMemory, rng: np.random.Generator, env: gym.Env) -> None:
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
    ranges = {
        "gamma tau": (0, 1),
        "total_timesteps buffer_size eval_episodes checkpoint_every num_threads": (1, 2**31),
        "hidden_sizes": (1, 2**15),
        "batch_size": (2 if args.norm == "batch" else 1, args.buffer_size),
        "seed eval_every learning_starts noise_decay_steps": (0, 2**31),
        "actor_learning_rate critic_learning_rate weight_decay noise_sigma ou_theta": (0, 1e9),
        "ou_dt": (0, 2 / max(args.ou_theta, 1e-9)),  # beyond, OU noise would grow without end
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
        np.stack([policy(np.zeros(env.observation_space.shape, np.float32)), env.action_space.low])  # do they fit?
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
