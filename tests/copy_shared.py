"""Keeps what the scripts share the same text: edit it in one script, and copy it into the others.

    python tests/copy_shared.py            # writes the shared functions and classes into the others
    python tests/copy_shared.py --check    # only says which differ; exit status 1 if one does

Every script stands alone, so that what several of them need stands in each. COPIES says which
script is copied into which, and what the copy has of its own. Whatever else the source defines at
the top level (functions, classes, constants) has to stand in the copy, letter for letter.
"""

import argparse
import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Copy:
    """What is copied from one script into another, by name; of a class also Class.method."""

    source: str
    target: str
    own: tuple[str, ...] = ()  # what the target has in a form of its own, or not at all
    only: tuple[str, ...] = ()  # if given: nothing else is shared
    rename: tuple[str, str] = ("", "")  # a word of the source, and what the target has instead


NETWORKS = (
    *("Args", "linear", "normalisation", "Actor", "Critic", "CudaGraph", "DDPG"),
    "prepare_framework",
)
TORCH_FILES = (
    "SUFFIX",
    "PLAIN_TYPES",
    "LIBRARIES",
    "save_weights",
    "to_loadable",
    "load_weights",
    "check_weights",
)
NPZ_FILES = ("save_weights", "flatten", "to_plain", "load_weights", "unflatten", "check_weights")
COPIES = [
    Copy(
        "ddpg_continuous.py",
        "ddpg_tf_explicit.py",
        own=(*NETWORKS, *TORCH_FILES, "open_tensorboard"),
    ),
    Copy(
        "ddpg_continuous.py",
        "ddpg_keras.py",
        own=(
            *NETWORKS,
            *TORCH_FILES,
            "save_agent",
            "load_agent",
            "restore_best",
            "check",
            "versions",
        ),
    ),
    Copy(
        "ddpg_tf_explicit.py",
        "ddpg_keras.py",
        only=("linear", *NPZ_FILES),
    ),
    Copy(
        "ddpg_continuous.py",
        "dqn.py",
        own=(
            *("Args", "OrnsteinUhlenbeckNoise", "GaussianNoise", "make_noise", "Policy"),
            *("linear", "normalisation", "Actor", "Critic", "CudaGraph", "DDPG"),
            *("ReplayBuffer.add", "ReplayBuffer.sample", "Training.__doc__"),
            *("train", "training_loop"),
            *("CheckedEnv.__doc__", "CheckedEnv.__init__", "CheckedEnv.step"),
            *(
                "check_actions",
                "check_observations",
                "is_bounded",
                "sizes_of",
                "load_policy",
                "plot_returns",
                "check",
                "note_missing_updates",
            ),
        ),
        rename=("DDPG", "DQN"),
    ),
    Copy(
        "ddpg_continuous.py",
        "ddpg_pixels.py",
        own=(
            *("Args", "ReplayBuffer", "normalisation", "Actor", "Critic", "CudaGraph"),
            *("DDPG.__init__", "DDPG.prepare_device", "DDPG.act", "DDPG.update", "DDPG.learn"),
            *("DDPG.set_state", "train", "Policy", "make_env", "check_observations"),
            *("check_render_mode", "check_video", "check_frame", "sizes_of", "LIBRARIES"),
            *("load_policy", "write_checkpoint", "SavedFiles", "restore_checkpoint"),
            *("restore_files", "Run.play", "Run.save_summary", "check", "evaluate_file"),
        ),
    ),
]


# ------------------------------------------------------------------------------- parts of a script
def parts(text: str) -> dict[str, str]:
    """The source of every function, class and constant at the top level, by name."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = source_of(node, text)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = source_of(node, text)
    return found


def members(class_text: str) -> dict[str, str]:
    """The source of a class's docstring, as __doc__, and of its methods, by name."""
    found = {}
    for node in ast.parse(class_text).body[0].body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = source_of(node, class_text)
        elif isinstance(node, ast.Expr) and "__doc__" not in found:
            found["__doc__"] = source_of(node, class_text)
    return found


def source_of(node: ast.stmt, text: str) -> str:
    """The lines of a statement, with decorators, the comment above and the one at its end."""
    decorators = getattr(node, "decorator_list", [])
    first = min(line.lineno for line in [node, *decorators])
    lines = text.splitlines()
    while first > 1 and is_comment(lines[first - 2]):
        first -= 1
    return "\n".join(lines[first - 1 : node.end_lineno])


def is_comment(line: str) -> bool:
    """Whether a line holds a comment and nothing else, and is no heading."""
    return line.strip().startswith("#") and not line.startswith("# ---")


# ------------------------------------------------------------------------------------------ copies
def expected(copy: Copy, source: str, target: str) -> dict[str, str]:
    """What should stand in the target, by name; ValueError if COPIES is wrong."""
    for name in copy.own:
        text = renamed(copy, lookup(source, name))
        if not text or text == lookup(target, name):
            raise ValueError(f"COPIES, {copy.target}: {name} is not its own: take it out of `own`")
    there = parts(target)
    wanted = {}
    for name, text in parts(source).items():
        if name in copy.own or (copy.only and name not in copy.only):
            continue
        if name not in there:
            raise ValueError(
                f"{copy.target} has no {name}: add it, or name it in COPIES as its own"
            )
        wanted[name] = with_own_members(copy, name, renamed(copy, text), there[name])
    return wanted


def lookup(text: str, name: str) -> str:
    """The source of a function, class, constant or Class.member; empty if there is none."""
    owner, _, member = name.partition(".")
    found = parts(text).get(owner, "")
    if member and found:
        return members(found).get(member, "")
    return found


def renamed(copy: Copy, text: str) -> str:
    """The source's text in the words of the target."""
    old, new = copy.rename
    if not old:
        return text
    return re.sub(rf"\b{re.escape(old)}\b", new, text)


def with_own_members(copy: Copy, class_name: str, text: str, there: str) -> str:
    """The text of a class, in which what the target has of its own is the target's."""
    for name in sorted(copy.own):
        owner, _, member = name.partition(".")
        if owner == class_name and member in members(there):
            text = text.replace(members(text)[member], members(there)[member])
        elif owner == class_name and member:  # the target has none
            text = text.replace(f"{members(text)[member]}\n\n", "")
    return text


def renewed(copy: Copy) -> tuple[str, list[str]]:
    """The target's text with all that is shared, and the names of what that changes."""
    source = (ROOT / copy.source).read_text(encoding="utf-8")
    target = (ROOT / copy.target).read_text(encoding="utf-8")
    there = parts(target)
    changed = []
    for name, text in expected(copy, source, target).items():
        if there[name] != text:
            target = target.replace(there[name], text)
            changed.append(name)
    return target, changed


def main() -> None:
    """Reads the command line; copies, or says what differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    args = parser.parse_args()
    differs = False
    for copy in COPIES:
        try:
            text, changed = renewed(copy)
        except ValueError as error:
            sys.exit(str(error))
        if not changed:
            continue
        differs = True
        verb = "differs from" if args.check else "now is as in"
        print(f"{copy.target}: {', '.join(changed)} {verb} {copy.source}")
        if not args.check:
            (ROOT / copy.target).write_text(text, encoding="utf-8")
    if args.check and differs:
        sys.exit("what the scripts share is not the same: run python tests/copy_shared.py")


if __name__ == "__main__":
    main()
