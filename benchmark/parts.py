"""Where the time of a step of ddpg_continuous.py goes, on this machine's processor.

    python benchmark/parts.py --out my-parts
    python benchmark/parts.py --norm none --batch-size 64 --out my-parts

Trains on LunarLanderContinuous-v3, one norm after the other, evaluation off, and times every call
of each part of a step. The matrix products of an update are recorded once. After every block of
steps they are multiplied alone, so that they meet the same machine as the rest. Saves a row per
block and part (parts.csv), and a picture of the medians over the blocks (parts.png).
"""

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import speed
import study

try:
    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd
except ImportError as error:
    study.explain_missing_package(error, __name__)

BLOCK = speed.TURN  # steps whose times are added up
PRODUCTS = "matrix products"  # a part of an update
UPDATE = "the rest of the update"
REST = "the rest"  # of a step: the loop itself
PARTS = {  # name: its methods, as (class, method)
    UPDATE: [("DDPG", "update")],
    "replay buffer": [("ReplayBuffer", "add"), ("ReplayBuffer", "sample")],
    "acting": [("DDPG", "act"), ("OrnsteinUhlenbeckNoise", "sample")],
    "environment": [("CheckedEnv", "step"), ("CheckedEnv", "reset")],
    "logging": [("Run", "after_step"), ("Run", "log_update"), ("Run", "after_episode")],
}
ORDER = [PRODUCTS, *PARTS, REST]


class Stopwatch:
    """Adds up the seconds that calls take, by the part of a step they belong to."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    def timed(self, part: str, function: Callable) -> Callable:
        """The function; every call's time is added to this part's."""

        @functools.wraps(function)
        def call(*args: object, **options: object) -> object:
            begin = time.perf_counter()
            result = function(*args, **options)
            self.seconds[part] += time.perf_counter() - begin
            return result

        return call


class Blocks:
    """Called after every step: notes at a block's end what each of its parts took."""

    def __init__(self, stopwatch: Stopwatch, seconds_of_products: Callable[[], float]) -> None:
        self.stopwatch = stopwatch
        self.seconds_of_products = seconds_of_products
        self.step = 0
        self.begin = 0.0
        self.milliseconds: list[dict[str, float]] = []  # per step, of every block

    def after_step(self) -> None:
        """Counts a step; begins or ends a block."""
        self.step += 1
        if self.step < speed.FIRST_STEP or (self.step - speed.FIRST_STEP) % BLOCK:
            return
        if self.step > speed.FIRST_STEP:
            self.note(time.perf_counter() - self.begin)
        self.stopwatch.seconds = dict.fromkeys(PARTS, 0.0)
        self.begin = time.perf_counter()

    def note(self, seconds: float) -> None:
        """Ends a block of so many seconds."""
        parts = dict(self.stopwatch.seconds)
        parts[REST] = seconds - sum(parts.values())
        parts[PRODUCTS] = BLOCK * self.seconds_of_products()
        parts[UPDATE] -= parts[PRODUCTS]  # which it contains
        self.milliseconds.append({part: 1000 * parts[part] / BLOCK for part in ORDER})


def products_of(update: Callable[[], object]) -> list[tuple]:
    """The pairs of matrices that one call of `update` multiplies, laid out in memory as there."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode  # torch's only way to see operands

    products = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
    pairs = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, operation: object, types: object, args: tuple = (), kwargs: dict | None = None
        ) -> object:
            if operation in products:
                factors = args[-2:]  # addmm has a bias in front of them
                pairs.append(tuple(matrix.detach().clone() for matrix in factors))
            return operation(*args, **(kwargs or {}))

    with Recorder():
        update()
    return pairs


@contextmanager
def timed_methods(script: ModuleType, stopwatch: Stopwatch, blocks: Blocks) -> Iterator[None]:
    """Lets the script's methods that PARTS names be timed, and its steps be counted."""
    originals = []
    for part, methods in PARTS.items():
        for class_name, name in methods:
            owner = getattr(script, class_name)
            original = getattr(owner, name)
            originals.append((owner, name, original))
            setattr(owner, name, stopwatch.timed(part, original))
    timed_after_step = script.Run.after_step

    def after_step(run: object, reward: float) -> None:
        timed_after_step(run, reward)
        blocks.after_step()

    # After it was timed above, so that counting the step is not part of logging
    script.Run.after_step = after_step
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def measure(norm: str, batch_size: int, num_blocks: int, threads: int) -> list[dict[str, float]]:
    """Trains, and gives each part's milliseconds per step, for every block."""
    import torch

    sys.path.insert(0, str(study.ROOT))
    import ddpg_continuous as script

    args = script.Args(
        env_id=speed.ENV_ID,
        total_timesteps=speed.FIRST_STEP + num_blocks * BLOCK,
        learning_starts=speed.RANDOM_STEPS,
        batch_size=batch_size,
        norm=norm,
        eval_every=0,
        num_threads=threads,
        run_name=norm,
    )
    script.prepare_framework(args)
    s_size, a_size = speed.OBSERVATION_SIZE, speed.ACTION_SIZE
    rng = np.random.default_rng(0)
    batch = [rng.random((batch_size, size), np.float32) for size in [s_size, a_size, 1, 1, s_size]]
    agent = script.DDPG(s_size, a_size, args)
    pairs = products_of(functools.partial(agent.update, batch))

    def seconds_of_products() -> float:
        begin = time.perf_counter()
        for _ in range(BLOCK):
            for x, y in pairs:
                torch.mm(x, y)
        return (time.perf_counter() - begin) / BLOCK

    stopwatch = Stopwatch()
    blocks = Blocks(stopwatch, seconds_of_products)
    with tempfile.TemporaryDirectory() as folder, timed_methods(script, stopwatch, blocks):
        args.runs_dir = folder
        script.train(args)
    return blocks.milliseconds


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds of a step, the median over the blocks: a row per part, a column per norm."""
    grouped = rows.groupby(["part", "norm"])["milliseconds_per_step"].median()
    return grouped.unstack("norm").loc[ORDER, list(rows["norm"].unique())]


def plot(table: pd.DataFrame, batch_size: int, threads: int, path: Path) -> None:
    """One bar for each norm, made of a step's parts."""
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.6 * len(table.columns)), layout="constrained")
    labels = [f"--norm {norm}" for norm in table.columns]
    left = np.zeros(len(labels))
    for part in table.index:
        widths = table.loc[part].to_numpy()
        bars = axes.barh(labels, widths, left=left, label=part)
        has_room = widths > 0.25  # for a number
        numbers = [f"{x:.1f}" if room else "" for x, room in zip(widths, has_room, strict=True)]
        axes.bar_label(bars, numbers, label_type="center")
        left += widths
    axes.invert_yaxis()
    axes.set_xlabel(f"milliseconds per step (N = {batch_size}, threads: {threads})")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(table.index), fontsize=8, frameon=False)
    figure.savefig(path, dpi=200)


def main() -> None:
    """Measures every norm and prints the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    norms = ["batch", "layer", "none"]
    parser.add_argument("--norm", nargs="+", choices=norms, default=norms, help="which to measure")
    parser.add_argument("--batch-size", type=int, default=128, help="transitions of a minibatch")
    parser.add_argument(
        "--blocks", type=int, default=12, help=f"blocks of {BLOCK} steps for each norm"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument(
        "--out",
        type=study.full_path,
        default=study.ROOT / "runs/parts",
        help="folder for the files",
    )
    args = parser.parse_args()
    if args.blocks < 1:
        parser.error("--blocks: at least 1")
    rows = []
    for norm in args.norm:
        blocks = measure(norm, args.batch_size, args.blocks, args.threads)
        for block, parts in enumerate(blocks):
            for part, milliseconds in parts.items():
                keys = {"norm": norm, "batch_size": args.batch_size, "block": block, "part": part}
                rows.append({**keys, "milliseconds_per_step": round(milliseconds, 4)})
    args.out.mkdir(parents=True, exist_ok=True)
    measured = pd.DataFrame(rows)  # a row for every norm, block and part
    measured.to_csv(args.out / "parts.csv", index=False, lineterminator="\n")
    table = medians(measured)
    plot(table, args.batch_size, args.threads, args.out / "parts.png")
    print(table.round(2).to_string())


if __name__ == "__main__":
    main()
