"""The house rules that a machine can check: who may import whom, and what may stand in no file."""

from __future__ import annotations

import ast
import doctest
import graphlib
import importlib
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from minihmx.models import chat, configs

PACKAGE = ROOT / "minihmx"
# A module imports from floors below its own, or beside it without a circle.
FLOORS = {
    0: "minihmx config records seeding errors stats advantages selection storage storage.strict"
    " storage.disk storage.lock storage.history judge questions terminal"
    " terminal.board models.known engine.samplers"
    " terminal.text instruments.work",  # words and plain arithmetic
    1: "storage.run_folder storage.config_file storage.identity grpo lora optimizer"
    " models.products",  # disk and mathematics
    2: "models models.configs models.context models.attention models.gated models.decoder"
    " models.weights models.tokenizer"
    " instruments.estimate instruments.time_floors instruments.gpus engine.ranks"
    " models.chat models.hub models.folder models.hub_errors models.targets models.adapters"
    " models.template models.licences models.card"
    " models.export models.export_texts models.step models.joined"
    " engine engine.cuda engine.graphs engine.memory engine.prefill"
    " engine.draw engine.sampling engine.prompts"
    " engine.open",  # machines
    3: "instruments instruments.clock instruments.amax instruments.metrics"
    " instruments.degenerate instruments.wreck instruments.alarms"
    " instruments.machine",  # what watches
    4: "run rollout learn instruments.notfinite train",  # a run
    5: "probes probes.judge probes.examples probes.rubrics probes.judged_folder probes.rejudge"
    " probes.checkpoints probes.best_of probes.best_of_curve"
    " probes.stories probes.states probes.vectors"
    " probes.steering probes.emotion probes.shift probes.causes probes.panel"
    " probes.trace probes.suspects probes.ways probes.two_ways"
    " probes.on_policy"
    " evals evals.benchmark evals.ruler evals.making evals.making.words evals.making.lengths"
    " evals.making.needles evals.making.lists evals.making.documents evals.items.made"
    " evals.truthfulqa evals.toxigen evals.bbq"
    " evals.eq_bench evals.squad_v2"
    " evals.shots evals.bbh evals.acpbench"
    " evals.sycophancy evals.sycophancy_answer evals.are_you_sure evals.reading"
    " evals.reading.folding evals.reading.flips"
    " evals.reading.letters evals.reading.literal evals.reading.readers evals.reading.gate"
    " evals.ifeval evals.instructions evals.instructions.words"
    " evals.instructions.form evals.instructions.language"
    " evals.items evals.items.published evals.items.download"
    " evals.items.load evals.asking evals.asking.averages evals.asking.likelihood"
    " evals.asking.readings"
    " evals.asking.results evals.asking.task evals.asking.replies evals.asking.forecast"
    " evals.asking.settings evals.asking.runner evals.asking.session",  # what asks a finished model
    6: "experiment sweep sweep.plan sweep.estimates sweep.progress sweep.slurm sweep.local"
    " terminal.sweep results results.cells results.sycophancy"
    " results.claims results.cell_claims results.selections"
    " results.paper results.statistics results.runs results.evaluations results.collect"
    " results.epochs"
    " results.conclusions results.tables results.layout results.plots"
    " results.findings results.audit results.audit_run results.audit_experiment"
    " results.audit_rows results.audit_steps results.audit_evals results.audit_cells"
    " results.evidence results.workings results.explain results.explain_group"
    " results.explain_epoch results.explain_item"
    " results.replay results.trackers"
    " results.sensitivity results.sensitivity_tables"
    " results.agreement results.judged results.judged_tables results.alarms"
    " results.audit_judged results.audit_probes results.leave_out results.strengths"
    " results.audit_on_policy"
    " results.blind results.rating results.extraction results.extraction_tables"
    " results.rated results.audit_rated"
    " results.extraction_rates"
    " results.audit_readings"
    " results.report results.report.material results.report.views results.report.charts"
    " results.report.questions results.report.steps results.report.items results.report.item_card"
    " results.report.failures results.report.first results.report.sections results.report.page"
    " results.report.markdown results.report.analyses results.report.shown results.report.panels"
    " results.report.probes results.report.compared results.report.measures"
    " results.report.extraction"
    " terminal.lines terminal.live terminal.scoreboard terminal.preflight"
    " terminal.paper_rows terminal.differences terminal.extraction"
    " terminal.talk terminal.plan terminal.completion terminal.child"
    " terminal.bars terminal.chart terminal.answers terminal.summary terminal.frame"
    " probes.equal_kl probes.equal_kl_tasks terminal.equal_kl terminal.panel"
    " probes.measures terminal.measures"
    " terminal.examples terminal.probe terminal.on_policy",  # what people see
    7: "commands commands.train commands.evaluate commands.data commands.chat commands.export"
    " commands.doctor commands.select commands.experiment commands.sweep"
    " commands.examples commands.claims commands.explain commands.audit"
    " commands.compare commands.report commands.log commands.judge commands.probe"
    " commands.rate",  # verbs
    8: "cli __main__",  # door
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms.split()}
TORCH_FREE = (
    "minihmx config records seeding errors stats advantages selection judge questions cli storage"
    " models.known engine.samplers"
    " storage.history storage.lock commands.select experiment terminal.plan terminal.child"
    " commands.experiment sweep sweep.plan sweep.estimates sweep.progress sweep.slurm sweep.local"
    " terminal.sweep commands.sweep"
    " storage.strict storage.disk storage.run_folder storage.identity models models.configs"
    " storage.config_file"
    " models.tokenizer models.chat models.hub models.folder models.hub_errors models.targets"
    " models.template models.export_texts models.licences models.card"
    " models.adapters engine engine.ranks engine.prompts"
    " instruments instruments.estimate instruments.time_floors instruments.metrics"
    " instruments.gpus"
    " instruments.degenerate instruments.wreck instruments.work"
    " instruments.machine probes"
    " evals.ruler evals.making evals.making.words evals.making.lengths evals.items.made"
    " evals.making.needles evals.making.lists evals.making.documents"
    " probes.judge evals evals.benchmark evals.truthfulqa evals.toxigen evals.bbq"
    " evals.eq_bench evals.squad_v2"
    " evals.shots evals.bbh evals.acpbench"
    " evals.sycophancy evals.sycophancy_answer evals.are_you_sure evals.reading"
    " evals.reading.folding evals.reading.flips"
    " evals.reading.letters evals.reading.literal evals.reading.readers evals.reading.gate"
    " evals.ifeval evals.instructions evals.instructions.words"
    " evals.instructions.form evals.instructions.language"
    " evals.items evals.items.published evals.items.download"
    " evals.items.load evals.asking evals.asking.averages evals.asking.results"
    " evals.asking.settings probes.measures terminal.measures"
    " terminal terminal.text"
    " results results.cells results.sycophancy"
    " results.paper results.statistics results.runs results.evaluations results.collect"
    " results.epochs"
    " results.conclusions results.tables results.layout results.plots commands.compare"
    " terminal.preflight commands commands.train commands.evaluate commands.data commands.chat"
    " commands.export commands.doctor"
    " probes.examples terminal.examples commands.examples"
    " probes.checkpoints probes.best_of probes.best_of_curve probes.stories terminal.probe"
    " commands.probe probes.panel probes.equal_kl probes.equal_kl_tasks terminal.equal_kl"
    " terminal.panel results.audit_probes results.leave_out results.strengths"
    " terminal.on_policy probes.two_ways results.audit_on_policy"
    " results.claims results.cell_claims results.selections commands.claims"
    " results.findings results.audit results.audit_run results.audit_experiment"
    " results.audit_rows results.audit_steps results.audit_evals results.audit_cells commands.audit"
    " results.evidence results.workings results.explain results.explain_group"
    " results.explain_epoch results.explain_item terminal.board commands.explain"
    " results.report results.report.material results.report.views results.report.charts"
    " results.report.questions results.report.steps results.report.items results.report.item_card"
    " results.report.failures results.report.first results.report.sections results.report.page"
    " results.report.markdown results.report.analyses results.report.shown results.report.panels"
    " results.report.probes results.report.compared results.report.measures"
    " results.report.extraction"
    " commands.report"
    " terminal.completion results.replay results.trackers commands.log"
    " results.sensitivity results.sensitivity_tables"
    " probes.rubrics probes.judged_folder probes.rejudge commands.judge"
    " results.agreement results.judged results.judged_tables results.alarms"
    " results.blind results.rating results.extraction results.extraction_tables"
    " results.rated results.audit_rated"
    " results.extraction_rates"
    " results.audit_readings"
    " instruments.alarms results.audit_judged"
    " terminal.extraction commands.rate evals.asking.readings"
)
MODULES_AT_THE_TOP = 18
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 300, 60
SHORTER = {"train": 200, "cli": 150, "models.decoder": 250}
# What a reader with the paper in hand walks through; comments here say why.
CORE = ["train", "rollout", "judge", "advantages", "grpo", "lora", "learn", "optimizer"]
CORE += ["engine.prefill", "engine.draw", "engine.sampling", "models.decoder", "models.context"]
CORE += ["models.attention"]
# One name for each of several things of one kind: the functions of a benchmark and of a verb.
PROTOCOLS = {"ask", "with_passage", "score", "convert", "check", "arguments", "run"}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HOSTS = {"hf.co", "huggingface.co", "arxiv.org", "github.com", "www.llama.com", "ai.google.dev"}
HOSTS |= {"127.0.0.1", "localhost", "example.com"}
HOSTS |= {"pytorch.org"}  # where a user chooses torch's build; a page, no registry
HOSTS |= {"www.w3.org"}  # in the name of SVG's namespace, which nothing opens
MACHINE_PATH = re.compile(r"(?<![\w.~)}])/(?:home|Users|root|work|tmp|mnt|srv)/")


def name_of(path: Path) -> str:
    """ "models.chat"; the package itself is "minihmx"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "minihmx"


def path_of(room: str) -> Path:
    """The file of a module, or the __init__.py of a package."""
    path = PACKAGE.joinpath(*("" if room == "minihmx" else room).split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


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
    assert "run" in rooms_used("commands.train")
    assert "models.configs" in rooms_used("models.decoder")
    assert {"models.hub", "models.weights"} <= rooms_used("engine.open")


def test_third_party_imports_are_the_declared_ones() -> None:
    """transformers, peft, trl and lm-eval stay out of the run-time path."""
    required = importlib.metadata.requires("minihmx") or []
    declared = {re.split(r"[^\w-]", line)[0] for line in required if "extra ==" not in line}
    declared = {name.replace("-", "_") for name in declared} | {"pyarrow"}  # see published.py
    declared |= {"scipy", "matplotlib"}  # see statistics.py and plots.py
    declared |= {"jinja2", "markupsafe"}  # see results/report/page.py
    declared |= {"langdetect", "nltk"}  # see instructions/language.py
    declared |= {"wonderwords"}  # see words.py
    declared |= {"tensorboard"}  # see trackers.py
    declared |= {"argcomplete"}  # see completion.py
    declared |= {"tomli"}  # on Python 3.10, see config_file.py
    found = {name.split(".")[0] for tree in TREES.values() for name in imports(tree)}
    of_python = sys.stdlib_module_names | {"tomllib"}  # from Python 3.11 on
    foreign = found - of_python - {"minihmx"}
    assert foreign <= declared, foreign - declared


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_free_rooms_import_where_torch_is_not_installed() -> None:
    names = [f"minihmx.{room}".removesuffix(".minihmx") for room in TORCH_FREE.split()]
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
    lines = len(path_of(room).read_text().splitlines())
    assert lines <= SHORTER.get(room, LINES_OF_A_FILE)


def test_the_top_is_the_experiment() -> None:
    top = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(top) <= MODULES_AT_THE_TOP, sorted(top)


def test_every_room_is_filled_and_the_tests_stand_in_the_same_rooms() -> None:
    packages = {room for room in TREES if path_of(room).name == "__init__.py"} - {"minihmx"}
    for package in packages:
        assert [room for room in TREES if room.startswith(f"{package}.")], f"{package} is empty"
    rooms = {path.name for path in (ROOT / "tests").iterdir() if list(path.glob("test_*.py"))}
    assert rooms - {"scripts"} <= packages


def test_one_public_name_means_one_thing() -> None:
    """As in `from minihmx.x import name`, where the reader sees the name alone."""
    where: dict[str, set[str]] = {}
    for room, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name not in PROTOCOLS:
                where.setdefault(node.name, set()).add(room)
            for target in node.targets if isinstance(node, ast.Assign) else ():
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        where.setdefault(name.id, set()).add(room)
    twice = {n: rooms for n, rooms in where.items() if len(rooms) > 1 and not n.startswith("_")}
    assert not twice


@pytest.mark.parametrize("room", [room for room in TREES if not room.startswith("models")])
def test_no_family_is_named_outside_models(room: str) -> None:
    """A rule for one family is a scalar or a function there; a row of a table is no rule."""
    compared = [
        constant.value
        for node in ast.walk(TREES[room])
        if isinstance(node, ast.Compare)
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant)
    ]
    assert not set(map(str, compared)) & {*configs.FAMILIES, *chat.FORMATS} - {"tiny"}


# --- the core, for a reader -----------------------------------------------------------------------


def function(room: str, name: str) -> ast.FunctionDef:
    return next(n for n in TREES[room].body if isinstance(n, ast.FunctionDef) and n.name == name)


def calls(node: ast.AST) -> list[str]:
    """The functions called, by the names they are called by, in the order of the text."""
    found = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
    found.sort(key=lambda n: (n.lineno, n.col_offset))
    return [ast.unparse(n.func) for n in found]


def test_a_step_reads_ask_judge_advantages_learn_record() -> None:
    stages = ["ask_policy", "judge", "assign_advantages", "learn", "record_step"]
    assert [name for name in calls(function("train", "take_step")) if "." not in name] == stages


def test_from_a_step_to_the_loss_it_is_three_calls() -> None:
    assert "learn" in calls(function("train", "take_step"))
    assert "accumulate" in calls(function("learn", "learn"))
    assert "grpo.loss" in calls(function("learn", "accumulate"))


def test_the_core_has_comments_that_could_give_reasons() -> None:
    comments, code = 0, 0
    for room in CORE:
        found, lines = comments_and_code(path_of(room).read_text())
        comments, code = comments + found, code + lines
    assert 0.15 <= comments / code <= 0.30, (comments, code)


def comments_and_code(text: str) -> tuple[int, int]:
    """Comments, and lines that hold code: neither blank nor part of a docstring."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            string = node.body[0]
            documented |= set(range(string.lineno, (string.end_lineno or 0) + 1))
    comments, lines = 0, set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        comments += token.type == tokenize.COMMENT
        if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
            lines |= set(range(token.start[0], token.end[0] + 1))
    return comments, len(lines - documented)


def test_comments_and_code_are_told_apart() -> None:
    text = '"""Doc."""\n\nx = """a\nb"""  # one\n# two\ndef f():\n    """Doc."""\n    return x\n'
    assert comments_and_code(text) == (2, 4)


@pytest.mark.parametrize(
    ("room", "name"),
    [
        ("advantages", "group_advantages"),
        ("judge", "parse_score"),
        ("advantages", "row_weights"),
        ("config", "learning_rate"),
        ("instruments.gpus", "gpu_called"),
        ("engine.prefill", "prefill"),
        ("engine.prefill", "common_prefix"),
        ("evals.squad_v2", "overlap"),
        ("evals.reading.flips", "commitment"),
        ("evals.reading.flips", "flip"),
        ("evals.reading.literal", "plain_letters"),
        ("evals.instructions.language", "sentences_of"),
        ("results.cells", "over_seeds"),
        ("results.report.page", "fitting"),
        ("results.report.views", "parts_of_text"),
        ("selection", "select"),
        ("results.statistics", "holm"),
        ("results.agreement", "krippendorff_alpha"),
        ("probes.best_of_curve", "expected_best"),
        ("probes.best_of_curve", "bound"),
        ("results.extraction", "share_of"),
        ("evals.reading.readers", "other_names"),
        ("probes.stories", "names_emotion"),
        ("probes.states", "looked_at"),
        ("results.statistics", "benjamini_hochberg"),
    ],
)
def test_a_worked_example_works(room: str, name: str) -> None:
    module = importlib.import_module(f"minihmx.{room}")
    (test,) = doctest.DocTestFinder(recurse=False).find(
        getattr(module, name), name, globs=vars(module).copy()
    )
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.attempted >= 1 and result.failed == 0


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
