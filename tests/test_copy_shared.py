"""tests/copy_shared.py: what it copies, what it leaves, and what it says."""

import re
import shutil
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import copy_shared
import pytest
from copy_shared import parts
from helpers import ROOT

NAMES = ("ddpg_continuous", "ddpg_keras", "ddpg_pixels", "ddpg_tf_explicit", "dqn")
SIBLINGS = NAMES[1:]


def headings(text):
    """The heading that each function, class and constant of a script stands under."""
    found, heading = {}, ""
    tops = {}
    for name, source in parts(text).items():
        tops[text.index(f"\n{source}\n")] = name
    for match in re.finditer(r"(?m)^# -{10,} (.*)$", text):
        tops[match.start()] = f"# {match[1]}"
    for position in sorted(tops):
        if tops[position].startswith("# "):
            heading = tops[position]
        else:
            found[tops[position]] = heading
    return found


@pytest.mark.parametrize("copy", copy_shared.COPIES, ids=lambda copy: copy.target)
def test_what_is_shared_stands_under_the_same_heading(copy):
    source, target = [
        headings((ROOT / name).read_text(encoding="utf-8")) for name in (copy.source, copy.target)
    ]
    assert len(set(source.values())) > 10
    shared = [x for x in source if x not in copy.own and (not copy.only or x in copy.only)]
    assert {x: target[x] for x in shared} == {x: source[x] for x in shared}


@pytest.fixture
def copies(tmp_path, monkeypatch, capsys):
    """Copies of the scripts, and the command run on them: its exit status and its output."""
    monkeypatch.setattr(copy_shared, "ROOT", tmp_path)
    monkeypatch.setattr(copy_shared, "parts", cache(copy_shared.parts))  # for speed
    for name in NAMES:
        shutil.copy(ROOT / f"{name}.py", tmp_path)

    def read(name):
        return (tmp_path / f"{name}.py").read_text(encoding="utf-8")

    def edit(name, old, new):
        text = read(name)
        assert old in text, f"{name}.py has no {old!r} any more: this test needs another example"
        (tmp_path / f"{name}.py").write_text(text.replace(old, new), encoding="utf-8")

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["copy_shared.py", *flags])
        status = 0
        try:
            copy_shared.main()
        except SystemExit as end:
            # A text is what Python prints on stderr before it ends with status 1
            status = end.code
            if isinstance(status, str):
                print(status)
                status = 1
        return status, capsys.readouterr().out

    return SimpleNamespace(read=read, edit=edit, run=run)


def edited(name):
    """The edit of a shared function, as edit() takes it."""
    return (f"def {name}(", f"def {name}(  # edited\n    ")


def test_equal_copies_need_nothing(copies):
    before = {name: copies.read(name) for name in NAMES}
    assert copies.run("--check") == (0, "")
    assert copies.run() == (0, "")
    assert {name: copies.read(name) for name in NAMES} == before


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_shared_function_that_was_changed_in_a_copy_is_reported_and_written_back(copies, name):
    original = copies.read(name)
    copies.edit(name, *edited("write_atomically"))
    status, out = copies.run("--check")
    assert status == 1
    assert f"{name}.py: write_atomically differs from ddpg_continuous.py" in out
    assert "run python tests/copy_shared.py" in out
    assert copies.read(name) != original, "--check changes nothing"
    status, out = copies.run()
    assert status == 0
    assert f"{name}.py: write_atomically" in out
    assert copies.read(name) == original
    assert copies.run("--check") == (0, "")


def test_a_change_of_the_source_is_copied_into_every_script_and_nothing_else_is(copies):
    before = {name: parts(copies.read(name)) for name in SIBLINGS}
    copies.edit("ddpg_continuous", *edited("episodic_returns"))
    copies.edit("ddpg_continuous", "class Logger:", "class Logger:  # edited")
    assert copies.run("--check")[0] == 1
    assert copies.run()[0] == 0
    source = parts(copies.read("ddpg_continuous"))
    for name in SIBLINGS:
        after = parts(copies.read(name))
        changed = {part for part in after if after[part] != before[name][part]}
        assert changed == {"episodic_returns", "Logger"}
        for part in changed:
            assert after[part] == source[part]
            assert "# edited" in after[part]


def test_what_a_script_has_of_its_own_survives(copies):
    copies.edit("ddpg_continuous", *edited("check_actions"))  # dqn.py has other actions
    copies.edit("ddpg_continuous", "def add(", "def add(  # edited")
    copies.edit("ddpg_continuous", "def __len__(self)", "def __len__( self )")
    before = parts(copies.read("dqn"))
    assert copies.run()[0] == 0
    after = parts(copies.read("dqn"))
    assert after["check_actions"] == before["check_actions"]
    buffer = before["ReplayBuffer"].replace("def __len__(self)", "def __len__( self )")
    assert after["ReplayBuffer"] == buffer, "its add() is its own, its __len__() is shared"
    for name in ("ddpg_tf_explicit", "ddpg_keras"):
        assert "def add(  # edited" in copies.read(name)


def test_words_that_a_copy_has_instead_are_put_in(copies):
    copies.edit("ddpg_continuous", *edited("check_weights"))
    assert copies.run()[0] == 0
    there = parts(copies.read("dqn"))["check_weights"]
    assert "# edited" in there
    assert re.search(r"\bDQN\b", there)
    assert not re.search(r"\bDDPG\b", there)


def test_what_the_keras_scripts_share_is_copied_between_them(copies):
    copies.edit("ddpg_tf_explicit", *edited("unflatten"))
    status, out = copies.run("--check")
    assert status == 1
    assert "ddpg_keras.py: unflatten differs from ddpg_tf_explicit.py" in out


def test_a_shared_function_that_is_missing_in_a_copy_is_reported(copies):
    copies.edit("dqn", "def write_atomically(", "def write_otherwise(")
    status, out = copies.run("--check")
    assert status == 1
    assert "dqn.py has no write_atomically" in out


@pytest.mark.parametrize("name", ["make_env", "no_such_function", "ReplayBuffer.__len__"])
def test_an_own_entry_that_is_shared_in_truth_or_that_no_script_has_is_reported(
    copies, name, monkeypatch
):
    first, *others = copy_shared.COPIES
    wrong = replace(first, own=(*first.own, name))
    monkeypatch.setattr(copy_shared, "COPIES", [wrong, *others])
    status, out = copies.run("--check")
    assert status == 1
    assert name in out
