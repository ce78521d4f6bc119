"""The flags: each is explained, and each changes what it should."""

import re
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import POINT, load

import ddpg_continuous as script

pytestmark = pytest.mark.usefixtures("folder")


def test_help_has_a_sentence_and_the_default_of_every_flag(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    status, out, _ = command("--help")
    assert status == 0
    text = " ".join(out.replace("│", " ").split())
    for field in fields(script.Args):
        flag = "--" + field.name.replace("_", "-")
        entry = re.search(rf"(?<= ){flag}(?: |,)(.*?)\(default: ", text)
        assert entry, flag
        words = [word for word in entry[1].split() if re.match(r"[a-z(]", word)]
        assert len(words) >= 3, f"{flag} is not explained: {entry[1]}"


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("noise", ["ou", "gaussian"])
def test_every_normalisation_trains_with_every_noise(norm, noise, command, folder):
    run = folder / "runs/run"
    flags = (*POINT, "--norm", norm, "--noise", noise, "--total-timesteps", 200)
    assert command(*flags, "--eval-every", 0, "--run-name", "run")[0] == 0
    start = load(run / "checkpoint.pt")["agent"]["networks"]  # of step 0, the only one
    end = load(run / "last.pt")["agent"]["networks"]
    layers = {name.rpartition(".")[0] for name in end if name.startswith("actor.norm")}
    assert bool(layers) == (norm != "none")
    for network in ("actor", "critic"):
        weight = f"{network}.layer_1.weight"
        assert not torch.equal(start[weight], end[weight]), "nothing was learned"
    assert np.isfinite(pd.read_csv(run / "updates.csv").to_numpy()).all()


def test_noise_of_another_kind_or_size_gives_another_run(command, folder):
    flags = (*POINT, "--total-timesteps", 200, "--eval-every", 0)
    variants = {
        "default": (),
        "gaussian": ("--noise", "gaussian"),
        "weak": ("--noise-sigma", 0.1),
        "quickly forgotten": ("--ou-theta", 0.5),
        "in larger steps": ("--ou-dt", 0.2),
    }
    for name, other_flags in variants.items():
        assert command(*flags, *other_flags, "--run-name", name)[0] == 0
    logs = {file.read_bytes() for file in folder.glob("runs/*/episodes.csv")}
    assert len(logs) == len(variants)


def test_a_run_that_ends_before_its_first_update_says_so(command):
    flags = (*POINT, "--eval-every", 0, "--total-timesteps", 30)
    note = "nothing will be learned: --total-timesteps 30, --learning-starts 30"
    assert note in command(*flags, "--learning-starts", 30)[1].splitlines()
    assert "nothing will be learned" not in command(*flags, "--learning-starts", 29)[1]
