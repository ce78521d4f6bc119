"""ddpg_pixels.py on a CUDA GPU: needs one. python -m pytest -m gpu"""

import numpy as np
import pytest
import torch
from helpers import assert_same_run, load, run_until_killed

import ddpg_pixels as script

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("folder")]
every_norm = pytest.mark.parametrize("norm", ["batch", "layer", "none"])

DEVICE = "cuda"
FRAME_SIZE, CHANNELS, ACTION_SIZE = 64, 9, 2
# 120 decisions with evaluations and checkpoints, and a buffer that overflows
SHORT = (
    *("--env-id", "pixel_environments:Trace-v0", "--device", DEVICE, "--frame-size", 15),
    *("--learning-starts", 30, "--total-timesteps", 120, "--buffer-size", 70),
    *("--checkpoint-every", 20, "--eval-every", 35, "--eval-episodes", 1),
)


@pytest.fixture(name="script")
def _script():
    return script


def new_agents(norm, **args):
    """Equal ones, on the CPU and on the GPU."""
    script.prepare_cudnn()
    torch.manual_seed(0)
    cpu = script.DDPG(CHANNELS, ACTION_SIZE, script.Args(norm=norm, **args))
    for parameter in cpu.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    gpu = script.DDPG(CHANNELS, ACTION_SIZE, script.Args(norm=norm, device=DEVICE, **args))
    gpu.load_state_dict(cpu.state_dict())
    return cpu, gpu


def new_batch(seed, size=32):
    rng = np.random.default_rng(seed)
    pictures = (size, FRAME_SIZE, FRAME_SIZE, CHANNELS)
    s, next_s = rng.integers(256, size=(2, *pictures), dtype=np.uint8)
    a = rng.uniform(-1, 1, (size, ACTION_SIZE))
    r = rng.normal(size=(size, 1))
    terminated = rng.random((size, 1)) < 0.3
    return [s, *(x.astype(np.float32) for x in (a, r, terminated)), next_s]


def gradient(network):
    """All of it, as one vector on the CPU."""
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).cpu()


def assert_close(one, other, tolerance=1e-5):
    """The difference's norm is small beside the norm itself."""
    one, other = one.cpu().double(), other.cpu().double()
    assert torch.linalg.norm(one - other) <= tolerance * torch.linalg.norm(other)


@every_norm
def test_losses_and_gradients_of_an_update_equal_the_cpus(norm):
    # The critic stands still, so that the actor's gradient is of the same critic on both
    cpu, gpu = new_agents(norm, critic_learning_rate=0.0)
    for seed in range(3):
        batch = new_batch(seed)
        gpu.load_state_dict(cpu.state_dict())
        expected = cpu.update(batch)
        metrics = gpu.update(batch)
        for name in ("critic_loss", "actor_loss", "q"):
            assert_close(metrics[name], expected[name])
        assert_close(gradient(gpu.actor), gradient(cpu.actor))
        assert_close(gradient(gpu.critic), gradient(cpu.critic))


@every_norm
def test_acting_equals_the_cpus(norm):
    cpu, gpu = new_agents(norm)
    for seed in range(3):
        observation = new_batch(seed)[0][0]
        np.testing.assert_allclose(gpu.act(observation), cpu.act(observation), rtol=1e-5, atol=1e-6)


def test_updates_give_the_same_bits_each_time():
    batches = [new_batch(seed) for seed in range(20)]
    agents = [new_agents("batch")[1] for _ in range(2)]
    for agent in agents:
        for batch in batches:
            agent.update(batch)
    one, other = [agent.state_dict() for agent in agents]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_killed_run_that_is_resumed_equals_one_never_killed(command, folder, monkeypatch):
    assert command(*SHORT, "--run-name", "reference")[0] == 0
    for step in (50, 75, 110):
        name = f"killed-{step}"
        run_until_killed(script, step, command, monkeypatch, *SHORT, "--run-name", name)
        status, _, err = command("--resume", f"runs/{name}")
        assert (status, err) == (0, "")
        assert_same_run(folder / "runs" / name, folder / "runs/reference")


def test_an_agent_trained_on_cuda_plays_on_the_cpu(command, folder):
    assert command(*SHORT, "--run-name", "run")[0] == 0
    weights = load(folder / "runs/run/last.pt")["agent"]["networks"]
    assert any(weight.is_cuda for weight in weights.values())
    status, out, err = command("--evaluate", "runs/run/last.pt", "--eval-episodes", 2)
    assert (status, err) == (0, "")
    assert "mean" in out
