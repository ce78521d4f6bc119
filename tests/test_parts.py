"""benchmark/parts.py: every call counts for its part, and the parts add up to the step."""

import csv
import functools
import subprocess
import sys

import numpy as np
import parts
import pytest
from test_speed import flops
from torch.utils.flop_counter import FlopCounterMode

import ddpg_continuous


@pytest.fixture
def clock(monkeypatch):
    """The time that parts.py reads, in clock[0]: it moves only when a test moves it."""
    now = [0.0]
    monkeypatch.setattr(parts.time, "perf_counter", lambda: now[0])
    return now


def test_the_parts_of_a_block_add_up_to_its_step(clock):
    stopwatch = parts.Stopwatch()
    blocks = parts.Blocks(stopwatch, seconds_of_products=lambda: 0.002)

    def work(seconds):
        clock[0] += seconds

    update = stopwatch.timed(parts.UPDATE, work)
    act = stopwatch.timed("acting", work)
    for _ in range(parts.speed.FIRST_STEP + 2 * parts.BLOCK):
        act(0.001)
        update(0.005)
        work(0.0005)  # belongs to no part
        blocks.after_step()
    assert len(blocks.milliseconds) == 2
    expected = dict.fromkeys(parts.ORDER, 0)
    expected |= {parts.PRODUCTS: 2, parts.UPDATE: 3, "acting": 1, parts.REST: 0.5}
    for block in blocks.milliseconds:
        assert block == pytest.approx(expected)
        assert sum(block.values()) == pytest.approx(6.5)  # a step's milliseconds


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_all_products_of_an_update_are_noted(norm):
    agent = ddpg_continuous.DDPG(8, 2, ddpg_continuous.Args(norm=norm, hidden_sizes=(20, 10)))
    batch = [np.ones((16, size), np.float32) for size in [8, 2, 1, 1, 8]]
    with FlopCounterMode(display=False) as counter:
        agent.update(batch)
    pairs = parts.products_of(functools.partial(agent.update, batch))
    sizes = [(*x.shape, y.shape[1]) for x, y in pairs]
    assert flops(sizes) == counter.get_total_flops()
    # A layer multiplies by its weights transposed, which lie in memory as they are
    assert any(min(y.shape) > 1 and not y.is_contiguous() for _, y in pairs)


def test_the_methods_of_the_script_are_timed_and_then_as_before(tmp_path):
    before = {name: vars(getattr(ddpg_continuous, name)).copy() for name in ["DDPG", "Run"]}
    stopwatch = parts.Stopwatch()
    blocks = parts.Blocks(stopwatch, seconds_of_products=lambda: 0.0)
    args = ddpg_continuous.Args(total_timesteps=50, eval_every=0, runs_dir=str(tmp_path))
    args.learning_starts, args.run_name = 40, "run"
    with parts.timed_methods(ddpg_continuous, stopwatch, blocks):
        ddpg_continuous.train(args)
    assert blocks.step == 50
    assert min(stopwatch.seconds.values()) > 0  # every part was called
    for name, methods in before.items():
        assert vars(getattr(ddpg_continuous, name)) == methods


@pytest.mark.slow
def test_the_command_writes_a_row_for_each_part_and_a_picture(tmp_path):
    flags = ["--norm", "none", "--batch-size", "4", "--blocks", "2", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, parts.__file__, *flags], check=True, capture_output=True, text=True
    )
    rows = list(csv.DictReader((tmp_path / "parts.csv").open()))
    assert [row["part"] for row in rows] == 2 * parts.ORDER
    assert min(float(row["milliseconds_per_step"]) for row in rows) > 0
    assert (tmp_path / "parts.png").stat().st_size > 10_000
    assert all(part in done.stdout for part in parts.ORDER)
