"""benchmark/speed.py: what the floor is, and that contestants take turns."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import speed
from torch.utils.flop_counter import FlopCounterMode

import ddpg_continuous


def flops(products):
    return sum(2 * rows * inner * columns for rows, inner, columns in products)


def test_the_floor_has_nine_products_of_the_two_hidden_layers():
    """Forward: both targets, both networks, the critic at the actor's actions; backward: two of each network's own."""
    large = [x for x in speed.products() if min(x) == speed.BATCH_SIZE and flops([x]) > 15e6]
    assert len(large) == 9
    assert 142e6 < flops(speed.products()) < 143e6


def test_an_update_makes_the_products_of_the_floor_and_one_more():
    """torch's backward goes through the concatenation of layer 1 and action, of which the action's part would do."""
    args = ddpg_continuous.Args(norm="none")
    agent, n = ddpg_continuous.DDPG(8, 2, args), args.batch_size
    assert n == speed.BATCH_SIZE
    batch = [np.ones((n, columns), np.float32) for columns in (8, 2, 1, 1, 8)]
    with FlopCounterMode(display=False) as counter:
        agent.update(batch)
    units_1, units_2 = args.hidden_sizes
    assert counter.get_total_flops() == flops([*speed.products(), (n, units_2, units_1 + 2)])


def test_contestants_take_turns_and_the_table_has_ratio_and_share_of_the_floor(tmp_path):
    for library in ("stable_baselines3", "rich", "jax"):
        pytest.importorskip(library)  # they are in requirements-dev.txt
    command = [sys.executable, speed.__file__, "--turns", "2", "--threads", "1", "--only", "^$", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    log = pd.read_csv(tmp_path / "speed.csv")
    assert log["name"].tolist() == 2 * [speed.REFERENCE, *speed.FLOORS]
    table = (tmp_path / "speed.md").read_text()
    shares = [int(x) for x in re.findall(r"(\d+) % \|", table)]
    assert len(shares) == 4
    assert shares[0] < max(shares[1:]) <= 100
    assert f"| {speed.REFERENCE} | 1 | " in table
    assert "1.00 (1.00 to 1.00)" in table
