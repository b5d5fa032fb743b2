"""The house rules that a machine can check: who may import whom, and what may stand in no file."""

from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "minihmx"
# A room imports from floors below its own, or beside it without a circle.
FLOORS = {
    0: "minihmx config records seeding errors strict",  # words
    1: "grpo lora judge stats questions memory evals.reading evals.reading.folding"
    " evals.reading.flips evals.reading.letters",  # mathematics
    2: "models models.configs models.decoder models.weights models.tokenizer models.chat models.hub"
    " models.folder models.hub_errors sampling store adapters",  # machines
    3: "train learn run optimizer metrics amax notfinite export evals evals.benchmark"
    " evals.truthfulqa evals.toxigen evals.bbq evals.sycophancy"
    " evals.published evals.download evals.data evals.inventory"
    " evals.likelihood evals.results evals.runner evals.session",  # procedures
    4: "scoreboard display live talk doctor estimate probe",  # readers
    5: "cli __main__",  # door
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms.split()}
TORCH_FREE = "config records seeding errors judge stats questions store cli models models.configs"
TORCH_FREE += (
    " strict models.tokenizer models.chat models.hub models.folder models.hub_errors adapters"
)
TORCH_FREE += " evals evals.benchmark evals.truthfulqa evals.toxigen evals.bbq"
TORCH_FREE += " evals.sycophancy evals.reading evals.reading.folding"
TORCH_FREE += " evals.reading.flips evals.reading.letters"
TORCH_FREE += " evals.published evals.download evals.data evals.inventory"
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 450, 60
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HOSTS = {"hf.co", "huggingface.co", "arxiv.org", "github.com", "www.llama.com", "ai.google.dev"}
HOSTS |= {"127.0.0.1", "localhost", "example.com"}
MACHINE_PATH = re.compile(r"(?<![\w.~)}])/(?:home|Users|root|work|tmp|mnt|srv)/")


def name_of(path: Path) -> str:
    """ "models.chat"; the package itself is "minihmx"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "minihmx"


TREES = {name_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name a file imports, wherever in it; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_used(room: str) -> set[str]:
    """The rooms that a room imports: of `minihmx.models.chat.render` it is models.chat."""
    used = set()
    for name in imports(TREES[room]):
        first, *rest = name.split(".")
        if first == "minihmx":
            lengths = range(len(rest), 0, -1)
            paths = (".".join(rest[:n]) for n in lengths)
            used.add(next((path for path in paths if path in TREES), "minihmx"))
    return used


def test_every_room_has_a_floor_and_every_floor_its_rooms() -> None:
    assert set(TREES) == set(FLOOR), "give a new room its floor above"


@pytest.mark.parametrize("room", TREES)
def test_nothing_is_imported_from_a_floor_above(room: str) -> None:
    above = {used for used in rooms_used(room) if FLOOR[used] > FLOOR[room]}
    assert not above, f"{room} (floor {FLOOR[room]}) imports {above}"


def test_no_circles() -> None:
    graph = {room: rooms_used(room) - {"minihmx"} for room in TREES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_checks_see_imports_within_functions_and_of_names() -> None:
    assert "run" in rooms_used("cli")
    assert "models.configs" in rooms_used("models.decoder")
    assert {"models.chat", "models.hub"} <= rooms_used("run")


def test_third_party_imports_are_the_declared_ones() -> None:
    """transformers, peft, trl and lm-eval stay out of the run-time path."""
    required = importlib.metadata.requires("minihmx") or []
    declared = {re.split(r"[^\w-]", line)[0] for line in required if "extra ==" not in line}
    declared = {name.replace("-", "_") for name in declared} | {"pyarrow"}  # see published.py
    found = {name.split(".")[0] for tree in TREES.values() for name in imports(tree)}
    foreign = found - sys.stdlib_module_names - {"minihmx"}
    assert foreign <= declared, foreign - declared


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_free_rooms_import_where_torch_is_not_installed() -> None:
    names = ["minihmx", *(f"minihmx.{room}" for room in TORCH_FREE.split())]
    broken = python(
        "import importlib, json, sys\n"
        "sys.modules['torch'] = None\n"  # importing it, or anything in it, raises ImportError
        "broken = {}\n"
        f"for name in {names!r}:\n"
        "    try: importlib.import_module(name)\n"
        "    except ImportError as error: broken[name] = str(error)\n"
        "print(json.dumps(broken))"
    )
    assert json.loads(broken) == {}


def test_help_comes_without_torch() -> None:
    seen = python(
        "import sys, minihmx.cli\n"
        "try: minihmx.cli.main(['train', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print('torch' in sys.modules)"
    )
    assert "--lora-rank" in seen and seen.splitlines()[-1] == "False"


@pytest.mark.parametrize("room", TREES)
def test_nothing_is_unpickled_or_evaluated(room: str) -> None:
    used = {name.split(".")[0] for name in imports(TREES[room])}
    assert not used & PICKLES
    for node in ast.walk(TREES[room]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec", "compile", "__import__"}, node.lineno
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("torch", "load"), node.lineno
    assert not any(name in {"torch.load", "torch.serialization"} for name in imports(TREES[room]))


@pytest.mark.parametrize("room", TREES)
def test_a_file_fits_a_sitting_and_a_function_a_screen(room: str) -> None:
    functions = [n for n in ast.walk(TREES[room]) if isinstance(n, ast.FunctionDef)]
    long = {f.name: n for f in functions if (n := length(f)) > LINES_OF_A_FUNCTION}
    assert not long
    last = max((getattr(node, "end_lineno", 0) for node in ast.walk(TREES[room])), default=0)
    assert last <= LINES_OF_A_FILE


def length(node: ast.FunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("room", TREES)
def test_what_others_call_says_what_it_does(room: str) -> None:
    """Modules, public classes and functions; a function of one expression is its own sentence."""
    tree = TREES[room]
    missing = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
        and not (isinstance(node, ast.FunctionDef) and length(node) == 2)
        and not ast.get_docstring(node)
    ]
    assert not missing
    assert ast.get_docstring(tree) or not tree.body or room == "__main__"


def tracked() -> Iterator[tuple[str, str]]:
    """(name, text) of every text file under version control; skips in a copy without it."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        data = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in data:
            yield name, data.decode("utf-8")


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    marks = re.compile(MACHINE_PATH.pattern + r"|index[-_]url|PIP_[I]NDEX")
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in tracked()
        for number, line in enumerate(text.splitlines(), start=1)
        if marks.search(line)
    ]
    assert not found


def test_no_file_points_to_an_unknown_host() -> None:
    """Package registries and mirrors above all: where packages come from is the user's choice."""
    hosts = {
        (host, name)
        for name, text in tracked()
        for host in re.findall(r"https?://([A-Za-z0-9.-]+)", text)
    }
    assert {pair for pair in hosts if pair[0] not in HOSTS} == set()
