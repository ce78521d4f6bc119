"""That the scripts learn: each trains on Pendulum, with batch norm, the default.

Untrained, or trained by a wrong gradient, a pendulum earns about −1,200 in an episode, and one that
swings up and stays there −150.
"""

import os
import subprocess
import sys

import pandas as pd
import pytest
from helpers import ROOT

FLAGS = (
    *("--env-id", "Pendulum-v1", "--tau", "0.05", "--noise-sigma", "0.3"),
    *("--no-anneal", "--total-timesteps", "8000", "--learning-starts", "1000"),
    *("--eval-every", "4000", "--run-name", "run"),
)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["ddpg_continuous.py", "ddpg_tf_explicit.py", "ddpg_keras.py"])
def test_a_pendulum_learns_with_batch_norm_to_swing_up_and_stay_there(script, tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, ROOT / script, *FLAGS]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=environment)
    run = tmp_path / "runs" / "run"
    assert '"norm": "batch"' in (run / "args.json").read_text()
    means = pd.read_csv(run / "evaluations.csv")["mean"]
    assert means.iloc[0] < -900, "not yet"
    assert means.iloc[-1] > -350
