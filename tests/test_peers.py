"""benchmark/peers.py: other projects' runs follow our protocol and leave what a report needs."""

import hashlib
import importlib
import json
import os
import re
import subprocess
import sys

import gymnasium
import numpy as np
import pandas as pd
import pytest
import speed
import study
from helpers import refused

pytest.importorskip("stable_baselines3")  # it is in requirements-dev.txt

import peers
import report

import ddpg_continuous

STUDY = """
question = "Which library lands first?"
peers = true
seeds = [3]

[environments.LunarLanderContinuous-v3]
solved = 200
total-timesteps = 250
eval-every = 100
eval-episodes = 2

[settings.sb3-ddpg]
[settings.sb3-td3]
"""


@pytest.fixture
def main(tmp_path, monkeypatch, run_main):
    """Runs the command line with few random steps: exit status, stdout, stderr."""
    (tmp_path / "few.toml").write_text(STUDY)
    few = {"learning_starts": 150, "batch_size": 8, "policy_kwargs": {"net_arch": [8, 8]}}
    monkeypatch.setattr(peers, "ZOO_SETTINGS", {**peers.ZOO_SETTINGS, **few})

    flags = ("--study", tmp_path / "few.toml", "--results", tmp_path / "res")
    return lambda *words: run_main(peers.main, *words, *flags)


@pytest.fixture
def models(monkeypatch):
    """The agents that are made."""
    made = []
    make_model = peers.make_model

    def noted_model(*args, **settings):
        made.append(make_model(*args, **settings))
        return made[-1]

    monkeypatch.setattr(peers, "make_model", noted_model)
    return made


def run_folder(tmp_path, setting):
    return tmp_path / "res" / "few" / "LunarLanderContinuous-v3" / setting / "seed-3"


@pytest.mark.parametrize("setting", ["sb3-ddpg", "sb3-td3"])
def test_a_run_leaves_what_a_report_needs(setting, main, tmp_path):
    assert main(setting, "--seed", "3")[0] == 0
    wanted = study.load(str(tmp_path / "few.toml"), tmp_path / "res")
    (group,) = report.load_results(wanted, tmp_path / "res")
    assert group.setting == setting
    assert list(group.evaluations.index) == [0, 100, 200, 250]
    text = report.report_page(wanted, [group], tmp_path / "res" / "few")
    assert "hyperparams/ddpg.yml" in text
    args = json.loads((run_folder(tmp_path, setting) / "args.json").read_text())["args"]
    assert args["policy_kwargs"] == {"net_arch": [8, 8]}
    assert (args["n_critics"], args["policy_delay"]) == {"sb3-ddpg": (1, 1), "sb3-td3": (2, 2)}[
        setting
    ]
    episodes = pd.read_csv(run_folder(tmp_path, setting) / "episodes.csv")
    assert list(episodes["length"].cumsum()) == list(episodes["step"])


def test_an_evaluation_is_that_of_our_scripts_and_leaves_the_training_as_it_was(
    main, tmp_path, monkeypatch, models
):
    assert main("sb3-ddpg", "--seed", "3")[0] == 0
    path = run_folder(tmp_path, "sb3-ddpg")
    last = pd.read_csv(path / "evaluations.csv").iloc[-1]

    class Unscaled(ddpg_continuous.CheckedEnv):
        def step(self, action):
            return self.checked_step(action)

    env = Unscaled(gymnasium.make(peers.ENV_ID))
    returns = ddpg_continuous.episodic_returns(
        env,
        lambda observation: models[0].predict(observation, deterministic=True)[0],
        episodes=2,
        seed=3 + ddpg_continuous.EVALUATION_SEED,
    )
    assert returns == pytest.approx([last["episode_0"], last["episode_1"]])

    monkeypatch.setattr(peers.Recorder, "evaluate", lambda recorder, steps: None)
    monkeypatch.setattr(peers, "summary", lambda *_: {})
    with_them = pd.read_csv(path / "episodes.csv")
    path.rename(path.with_name("with"))
    assert main("sb3-ddpg", "--seed", "3")[0] == 0
    pd.testing.assert_frame_equal(pd.read_csv(path / "episodes.csv"), with_them)
    weights = [model.policy.state_dict() for model in models]
    for name, weight in weights[0].items():
        assert np.array_equal(weight.numpy(), weights[1][name].numpy()), name


CLEANRL = """
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from cleanrl_utils import LEARNING_RATE


@dataclass
class Args:
    env_id: str
    total_timesteps: int
    seed: int
    cuda: bool = True
    learning_rate: float = LEARNING_RATE
    buffer_size: int = 1
    gamma: float = 0.5
    tau: float = 0.5
    batch_size: int = 1
    exploration_noise: float = 0.0
    learning_starts: int = 1
    policy_frequency: int = 2


if __name__ == "__main__":
    args = tyro.cli(Args)
    assert not args.cuda
    torch.manual_seed(args.seed)
    actor = torch.nn.Linear(8, 2)

    def make_env():
        env = gym.make(args.env_id, max_episode_steps=90)
        return gym.wrappers.RecordEpisodeStatistics(env)

    envs = gym.vector.SyncVectorEnv([make_env])
    seen, returns = [], []
    obs, _ = envs.reset(seed=args.seed)
    for step in range(args.total_timesteps):
        actions = np.full((1, 2), np.sin(step) if step > 100 else -1, np.float32)
        obs, rewards, terminations, truncations, infos = envs.step(actions)
        last = obs[0].copy()
        if "final_info" in infos:
            returns += [info["episode"]["r"] for info in infos["final_info"]]
            last = infos["final_observation"][0]
        seen.append([*last, *obs[0], rewards[0], terminations[0], truncations[0]])
        with torch.no_grad():
            actor.bias += 0.01  # it learns
    envs.close()
    Path("logs").mkdir()
    np.savez(Path(__file__).with_name("seen.npz"), seen=seen, returns=returns)
"""


@pytest.fixture
def cleanrl(tmp_path, monkeypatch):
    """A repository as CleanRL's, of which the script only plays."""
    folder = tmp_path / "repository"
    script = folder / "cleanrl" / "ddpg_continuous_action.py"
    script.parent.mkdir(parents=True)
    script.write_text(CLEANRL)
    (folder / "cleanrl_utils.py").write_text("LEARNING_RATE = 0.25")
    monkeypatch.setattr(peers, "CLEANRL_SHA256", hashlib.sha256(CLEANRL.encode()).hexdigest())
    monkeypatch.delitem(sys.modules, "cleanrl_utils", raising=False)
    return folder


def test_cleanrl_sees_the_environment_as_up_to_gymnasium_0_29(cleanrl, main, tmp_path):
    (tmp_path / "few.toml").write_text(STUDY + "[settings.cleanrl-ddpg]")
    before = (list(sys.path), gymnasium.vector.SyncVectorEnv, os.getcwd())
    status, _, err = main("cleanrl-ddpg", "--seed", 3, "--cleanrl", cleanrl)
    assert status == 0, err
    assert (list(sys.path), gymnasium.vector.SyncVectorEnv, os.getcwd()) == before

    with np.load(cleanrl / "cleanrl" / "seen.npz") as file:
        seen, returns = file["seen"], file["returns"]
    env = gymnasium.make(peers.ENV_ID, max_episode_steps=90)
    env.reset(seed=3)
    episodic_return, expected_returns, ends = 0.0, [], set()
    for step, row in enumerate(seen):
        action = np.full(2, np.sin(step) if step > 100 else -1, np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        first = observation
        episodic_return += reward
        if terminated or truncated:  # the next episode begins within the step
            first, _ = env.reset()
            expected_returns.append(episodic_return)
            episodic_return = 0.0
            ends.add(truncated)
        assert np.array_equal(row, [*observation, *first, reward, terminated, truncated])
    assert ends == {True, False}  # it crashed, and it reached the time limit
    assert returns.ravel() == pytest.approx(expected_returns)

    path = run_folder(tmp_path, "cleanrl-ddpg")
    episodes = pd.read_csv(path / "episodes.csv")
    assert episodes["return"].to_numpy() == pytest.approx(expected_returns)
    assert list(episodes["length"].cumsum()) == list(episodes["step"])
    content = json.loads((path / "args.json").read_text())
    assert content["args"]["learning_rate"] == 0.25
    assert "stable-baselines3" not in content["versions"]


def test_cleanrl_is_evaluated_by_the_actor_of_that_step(cleanrl, main, tmp_path, monkeypatch):
    biases = []
    play = peers.Recorder.play

    def noted_play(self, env, seed):
        observation = np.zeros(8, np.float32)
        biases.append(float(self.policy(observation)[0]))
        return play(self, env, seed)

    monkeypatch.setattr(peers.Recorder, "play", noted_play)
    (tmp_path / "few.toml").write_text(STUDY + "[settings.cleanrl-ddpg]")
    assert main("cleanrl-ddpg", "--seed", 3, "--cleanrl", cleanrl)[0] == 0
    learned = np.array(biases[::2]) - biases[0]  # two episodes each, at 0, 100, 200 and 250
    assert learned == pytest.approx([0.0, 1.0, 2.0, 2.5], abs=1e-3)


def test_another_version_of_cleanrl_is_refused(cleanrl, main, tmp_path):
    (tmp_path / "few.toml").write_text(STUDY + "[settings.cleanrl-ddpg]")
    run = ("cleanrl-ddpg", "--seed", 3)
    refused(main(*run), "needs --cleanrl FOLDER")
    refused(main(*run, "--cleanrl", tmp_path), "there is no", "give CleanRL's repository")
    with (cleanrl / "cleanrl" / "ddpg_continuous_action.py").open("a") as file:
        file.write("# changed")
    refused(main(*run, "--cleanrl", cleanrl), "another version", peers.CLEANRL_COMMIT)
    assert not (tmp_path / "res").exists()


def test_every_step_of_a_peer_counts_where_its_speed_is_measured(
    main, tmp_path, counted_steps, models
):
    status, out, err = main("sb3-td3", "--time", 1, 300)
    assert status == 0, err
    assert counted_steps == list(range(1, 301))
    assert len(re.findall(rf"(?m)^{speed.SECONDS} [\d.]+$", out)) == 5  # from 100 on
    assert models[0]._n_updates == 50  # one per step after the random ones
    assert not (tmp_path / "res").exists()


def test_importing_the_module_changes_no_variable_of_the_process(monkeypatch):
    """It would be that of every test in this process, and of the programs that they start."""
    for name in ("OMP_NUM_THREADS", "JAX_PLATFORMS", "PJRT_NPROC"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    importlib.reload(peers)
    assert dict(os.environ) == before


def test_triton_is_imported_before_tensorflow(tmp_path):
    """In the other order the process would crash, where PyTorch for CUDA has brought triton."""
    (tmp_path / "triton.py").write_text(
        "import sys\nassert 'tensorflow' not in sys.modules\nprint('triton')"
    )
    variables = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{study.ROOT / 'benchmark'}"}
    result = subprocess.run(
        [sys.executable, "-c", "import peers"], env=variables, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, "triton\n"), result.stderr


def test_what_cannot_be_trained_is_one_line(main, tmp_path):
    refused(main("sb3-td3", "--seed", 7), "has no sb3-td3 with seed 7")
    refused(main("sb3-td3", "--time", 2, 300), "one thread: give speed.py --threads 1")
    run_folder(tmp_path, "sb3-td3").mkdir(parents=True)
    refused(main("sb3-td3", "--seed", 3), "is there already")
    (tmp_path / "few.toml").write_text(STUDY.replace("eval-every = 100", ""))
    refused(main("sb3-ddpg", "--seed", 3), "has to set", "eval_every")
    (tmp_path / "few.toml").write_text(STUDY.replace(peers.ENV_ID, "Pendulum-v1"))
    refused(main("sb3-ddpg", "--seed", 3), "LunarLanderContinuous-v3 only, not on Pendulum-v1")


def test_a_folder_that_cannot_be_written_is_noticed_before_the_training(
    main, tmp_path, monkeypatch
):
    monkeypatch.setattr(peers, "train_by", lambda *_: pytest.fail("it trained"))
    path = run_folder(tmp_path, "sb3-td3")
    path.parent.parent.mkdir(parents=True)
    path.parent.write_text("a file where the folder should be")
    refused(main("sb3-td3", "--seed", 3), "sb3-td3")
