"""Draws what the actor and the critic have learned, for tasks with two state variables.

    python docs/learned.py runs/NAME

NAME is a run of ddpg_continuous.py on MountainCarContinuous-v0 or Pendulum-v1. learned.png, in the
run's folder, has three maps over the states: the policy μ(s), with an episode played by it; the
value Q(s, μ(s)), with the states in the replay buffer; and ∇ₐQ at a = μ(s), as arrows that say
which way, and how strongly, the critic would move the action.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).resolve().parent.parent))
from ddpg_continuous import DDPG, Policy, RunError, load_agent, load_weights, make_env

AXES = {  # of each task: label and range of x, label and range of y
    "MountainCarContinuous-v0": ("position", (-1.2, 0.6), "velocity", (-0.07, 0.07)),
    "Pendulum-v1": ("angle θ (0: upright)", (-np.pi, np.pi), "angular velocity θ'", (-8, 8)),
}
POLICY_COLOURS = {"cmap": "RdBu", "vmin": -1, "vmax": 1}


def grid(env_id: str, points: int) -> tuple[np.ndarray, torch.Tensor]:
    """States on a grid, x and y of each: (2, points, points); their observations: (points², S)."""
    _, x_range, _, y_range = AXES[env_id]
    x, y = np.meshgrid(np.linspace(*x_range, points), np.linspace(*y_range, points))
    columns = [np.cos(x), np.sin(x), y] if env_id == "Pendulum-v1" else [x, y]
    s = np.stack([column.ravel() for column in columns], axis=1)
    return np.stack([x, y]), torch.from_numpy(s.astype(np.float32))


def states(env_id: str, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The states x and y, (N,) each, of observations (N, S)."""
    x = np.arctan2(s[:, 1], s[:, 0]) if env_id == "Pendulum-v1" else s[:, 0]
    return x, s[:, -1]


def fix_batch_norm(agent: DDPG, s: torch.Tensor) -> None:
    """Gives the critic's batch norm, if it has one, the statistics of these observations.

    In training it has those of the minibatch. With the statistics of a grid, which is no minibatch
    of the replay buffer, the critic would be another function than the one that was learned.
    """
    for layer in agent.critic.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.running_mean = torch.zeros(layer.num_features)
            layer.running_var = torch.ones(layer.num_features)
            layer.track_running_stats = True
            layer.momentum = 1.0  # one pass replaces both by its own
    agent.critic(s, agent.actor(s))
    agent.critic.eval()


def play(env_id: str, policy: Policy) -> np.ndarray:
    """The observations of an episode without noise, (T, S)."""
    env = make_env(env_id)
    observation, _ = env.reset(seed=0)
    observations = [observation]
    terminated = truncated = False
    while not (terminated or truncated):
        observation, _, terminated, truncated, _ = env.step(policy(observation))
        observations.append(observation)
    env.close()
    return np.array(observations)


def draw_arrows(axes: Axes, agent: DDPG, env_id: str) -> None:
    """∇ₐQ at a = μ(s): to the right, a larger action. Grey: where a is at that end already."""
    (x, y), s = grid(env_id, 17)
    a = agent.actor(s).detach().requires_grad_()  # (N, 1)
    (dq_da,) = torch.autograd.grad(agent.critic(s, a).sum(), a)  # (N, 1)
    is_outward = (a.abs() > 0.99) & (a * dq_da > 0)
    lengths = dq_da.sign() * (dq_da.abs() / dq_da.abs().max()).sqrt()  # small ones stay visible
    lengths = 0.9 * (x[0, 1] - x[0, 0]) * lengths[:, 0]  # the longest fills 0.9 of a cell
    colours = np.where(is_outward[:, 0], "0.6", "black")
    style = {"angles": "xy", "scale_units": "xy", "scale": 1, "pivot": "mid", "width": 0.004}
    axes.quiver(x.ravel(), y.ravel(), lengths, np.zeros(len(s)), color=colours, **style)
    axes.set_title("∇ₐQ at a = μ(s): → a larger action")


def draw(path: Path) -> Figure:
    """The three maps of the run in this folder."""
    agent, args = load_agent(path / "last.pt")
    env_id = args.env_id
    if env_id not in AXES:
        raise RunError(f"{path} is of {env_id}: only {' and '.join(AXES)} can be drawn")
    replayed = load_weights(path / "checkpoint.pt")["replay"]["rows"][:, : agent.sizes[0]]  # (N, S)
    episode = play(env_id, agent.act)
    agent.actor.eval()  # normalises by its running averages, as act() does
    fix_batch_norm(agent, replayed)
    (x, y), s = grid(env_id, 121)
    with torch.no_grad():
        mu = agent.actor(s)
        q = agent.critic(s, mu)
        replayed_q = agent.critic(replayed, agent.actor(replayed))

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    policy, value, gradient = figure.subplots(1, 3, sharey=True)
    figure.colorbar(policy.pcolormesh(x, y, mu.reshape(x.shape), **POLICY_COLOURS))
    policy.plot(*states(env_id, episode), "ko", ms=4, mec="w", mew=0.5)
    policy.set_title("μ(s), and an episode played by it")
    limits = {"vmin": replayed_q.min(), "vmax": replayed_q.max()}  # elsewhere Q is extrapolated
    figure.colorbar(value.pcolormesh(x, y, q.reshape(x.shape), **limits))
    value.plot(*states(env_id, replayed.numpy()), "w,", alpha=0.3)
    value.set_title("Q(s, μ(s)), and the states in the replay buffer")
    gradient.pcolormesh(x, y, mu.reshape(x.shape), alpha=0.2, **POLICY_COLOURS)
    draw_arrows(gradient, agent, env_id)
    x_label, x_range, y_label, y_range = AXES[env_id]
    policy.set_ylabel(y_label)
    for axes in (policy, value, gradient):
        axes.set(xlabel=x_label, xlim=x_range, ylim=y_range)
    return figure


def main() -> None:
    """Reads the command line; an error becomes one line, and exit status 2."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run of ddpg_continuous.py")
    parser.add_argument("--out", type=Path, help="file of the picture (default: RUN/learned.png)")
    args = parser.parse_args()
    run = args.run.expanduser()  # the shell leaves the ~ in --out=~/x
    out = (args.out or run / "learned.png").expanduser()
    try:
        draw(run).savefig(out, dpi=100)
    except (RunError, OSError, ValueError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
