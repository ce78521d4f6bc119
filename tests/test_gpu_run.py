"""Runs of the scripts for CUDA on a GPU: needs one. python -m pytest -m gpu"""

import pytest
from helpers import POINT, assert_same_run, load, run_until_killed

import ddpg_continuous
import ddpg_pixels
import dqn

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("folder")]

DEVICE = "cuda"
# With evaluations and checkpoints; that of pixels has a buffer that overflows
SHORT = {
    ddpg_continuous: (
        *(*POINT, "--device", DEVICE, "--learning-starts", 50, "--total-timesteps", 500),
        *("--checkpoint-every", 100, "--eval-every", 150, "--eval-episodes", 1),
    ),
    ddpg_pixels: (
        *("--env-id", "pixel_environments:Trace-v0", "--device", DEVICE, "--frame-size", 15),
        *("--learning-starts", 30, "--total-timesteps", 120, "--buffer-size", 70),
        *("--checkpoint-every", 20, "--eval-every", 35, "--eval-episodes", 1),
    ),
    dqn: (
        *("--env-id", "CartPole-v1", "--device", DEVICE, "--hidden-sizes", 16, 12),
        *("--batch-size", 8, "--learning-starts", 50, "--total-timesteps", 500),
        *("--checkpoint-every", 100, "--eval-every", 150, "--eval-episodes", 1),
    ),
}
KILLED_AT = {ddpg_continuous: (130, 260, 410), ddpg_pixels: (50, 75, 110), dqn: (130, 260, 410)}


@pytest.fixture(params=SHORT, ids=lambda script: script.SCRIPT)
def script(request):
    return request.param


def test_a_killed_run_that_is_resumed_equals_one_never_killed(script, command, folder, monkeypatch):
    flags = SHORT[script]
    assert command(*flags, "--run-name", "reference")[0] == 0
    for step in KILLED_AT[script]:
        name = f"killed-{step}"
        run_until_killed(script, step, command, monkeypatch, *flags, "--run-name", name)
        status, _, err = command("--resume", f"runs/{name}")
        assert (status, err) == (0, "")
        assert_same_run(folder / "runs" / name, folder / "runs/reference")


def test_an_agent_trained_on_cuda_plays_on_the_cpu(script, command, folder):
    assert command(*SHORT[script], "--run-name", "run")[0] == 0
    weights = load(folder / "runs/run/last.pt")["agent"]["networks"]
    assert any(weight.is_cuda for weight in weights.values())
    agent, _ = script.load_agent(folder / "runs/run/last.pt")
    assert not any(parameter.is_cuda for parameter in agent.parameters())
    status, out, err = command("--evaluate", "runs/run/last.pt", "--eval-episodes", 2)
    assert (status, err) == (0, "")
    assert "mean" in out
