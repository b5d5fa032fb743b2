"""The paper's statements: verbatim, and decided on its own tables as its figures say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_up
import pytest
from conftest import shared

from minihmx.cli import main
from minihmx.errors import UserError
from minihmx.results import cell_claims, claims
from minihmx.results.cell_claims import Grounds
from minihmx.results.cells import METRICS, Cell, paired
from minihmx.results.claims import CLAIMS, check_claim, check_claims
from minihmx.results.paper import PAPER_NAMES
from minihmx.results.selections import (
    FAILS,
    HOLDS,
    NOISE,
    PAIR_CHECKS,
    UNTOLD,
    SelectedPair,
    read_selections,
)
from minihmx.selection import Candidate
from minihmx.storage.disk import read_lines

pytest.importorskip("scipy")
STATEMENTS = {claim["id"]: claim for claim in read_lines(CLAIMS)}
FLIP, MC2 = "are_you_sure/flip_rate", "truthfulqa_mc2/acc"
CORRECT = "sycophancy_answer/correct_rate"


def test_every_quotation_is_the_papers() -> None:
    text = shared("paper/when-ai-says-it-feels.txt").read_text("utf-8")
    plain = " ".join(text.replace("`", "").replace("\\", "").split())
    chapters = {n: plain.partition(f"## {n} ")[2].partition(f"## {n + 1} ")[0] for n in (4, 5)}
    chapters[6] = plain.partition("## 6 ")[2].partition("## Limitation")[0]
    for claim in STATEMENTS.values():
        assert claim["quote"] in chapters[int(claim["section"])], claim["id"]
    assert len(STATEMENTS) == len(CLAIMS.read_text("utf-8").splitlines()) == 30


def test_every_line_names_a_check_metrics_and_models_that_there_are() -> None:
    for claim in STATEMENTS.values():
        assert claim["check"] in cell_claims.CELL_CHECKS.keys() | PAIR_CHECKS.keys()
        assert claim["reading"].endswith(".")
        for part in (claim, *claim.get("expect", ())):
            assert {*part.get("metrics", ())} <= METRICS.keys()
            assert {*part.get("models", ())} <= PAPER_NAMES.keys()
            assert part.get("way", "up") in ("up", "down", "not up")
    used = {claim["check"] for claim in STATEMENTS.values()}
    assert used == cell_claims.CELL_CHECKS.keys() | PAIR_CHECKS.keys()


ON_THE_TABLES = {
    HOLDS: "generally-small one-case fifteen-percent within-two-percent small-model-loss"
    " larger-models-limited no-tendency bbq-ambiguous truthfulqa truthfulqa-small explicit-rate"
    " flip-rate-up no-surge",
    FAILS: "",
    NOISE: "small-models-gain bbq-disambiguated correct-rate less-true-more-correct flip-rate-qwen3"
    " dissociation bbq-bias sycophancy",
    UNTOLD: "runs first-above same-epoch earlier lower-kl higher-kl held-out called-ai all-trained",
}


def test_the_verdicts_on_the_papers_own_tables() -> None:
    report = check_claims()
    found: dict[str, list[str]] = {verdict: [] for verdict in ON_THE_TABLES}
    for each in report["statements"]:
        found[each["verdict"]].append(each["id"])
        assert "paper" not in each
    assert found == {verdict: ids.split() for verdict, ids in ON_THE_TABLES.items()}
    assert report["verdicts"] == {verdict: len(ids) for verdict, ids in found.items()}


@pytest.mark.parametrize(
    ("name", "metric", "model", "mean", "std", "p"),
    [
        ("flip-rate-qwen3", FLIP, "qwen3-8b", 0.25, 0.32, 0.1556),
        ("bbq-disambiguated", "bbq/accuracy_disamb", "qwen3-4b", 0.02, 0.03, 0.2103),
        ("correct-rate", CORRECT, "qwen3-4b", 0.21, 0.24, 0.1221),
    ],
)
def test_what_the_paper_calls_a_change_and_is_within_noise(
    name: str, metric: str, model: str, mean: float, std: float, p: float
) -> None:
    (each,) = (s for s in check_claims()["statements"] if s["id"] == name)
    noisy = [cell for cell in each["cells"] if cell["verdict"] != HOLDS]
    (cell,) = noisy
    assert (cell["metric"], cell["model"], cell["mean"], cell["std"]) == (metric, model, mean, std)
    assert cell["verdict"] == NOISE and cell["n"] == 5 and cell["p"] == pytest.approx(p, abs=1e-4)


def test_the_papers_counts_come_out() -> None:
    numbers = {each["id"]: each["numbers"] for each in check_claims()["statements"]}
    assert numbers["one-case"].startswith("1 of 70: gemma2-2b BBQ accuracy_amb -15.0 %")
    assert numbers["one-case"].endswith("counted as lower is better, 2")
    assert numbers["within-two-percent"].startswith("57 of 70, 81.4 %, by the signed score; 58, 82")


# --- made-up cells --------------------------------------------------------------------------------


def cell(key: str, model: str, differences: Sequence[float], reverse: float = 50.0) -> Cell:
    seeds = range(1, len(differences) + 1)
    return paired(key, model, seeds, [reverse + d for d in differences], [reverse] * len(seeds))


UP, DOWN, NOISY = (1.0, 1.1, 0.9), (-1.0, -1.1, -0.9), (1.0, -0.9, 0.2)


@pytest.mark.parametrize(
    ("way", "differences", "verdict"),
    [
        ("up", UP, HOLDS),
        ("up", DOWN, FAILS),
        ("up", NOISY, NOISE),
        ("up", (1.0,), UNTOLD),
        ("up", (0.0, 0.0, 0.0), NOISE),
        ("down", DOWN, HOLDS),
        ("down", UP, FAILS),
        ("not up", DOWN, HOLDS),
        ("not up", (-1.0, 0.9, -0.2), HOLDS),
        ("not up", NOISY, NOISE),
        ("not up", UP, FAILS),
        ("not up", (1.0,), UNTOLD),
    ],
)
def test_one_difference(way: str, differences: Sequence[float], verdict: str) -> None:
    assert cell_claims.direction_of(cell(MC2, "tiny", differences).difference, way) == verdict


def verdict(name: str, *cells: Cell, pairs: Sequence[SelectedPair] = ()) -> str:
    return check_claim(STATEMENTS[name], Grounds(cells, pairs)).verdict


def test_a_statement_is_as_good_as_its_worst_cell() -> None:
    good, noisy, bad = (cell(MC2, f"m{n}", d) for n, d in enumerate((DOWN, NOISY, UP)))
    lone = cell(MC2, "lone", (-1.0,))
    assert verdict("truthfulqa", good, good) == HOLDS
    assert verdict("truthfulqa", good, lone) == UNTOLD
    assert verdict("truthfulqa", good, lone, noisy) == NOISE
    assert verdict("truthfulqa", good, lone, noisy, bad) == FAILS
    assert verdict("truthfulqa") == UNTOLD


def test_every_part_of_a_statement_needs_a_cell() -> None:
    llama, qwen = cell(FLIP, "llama3.2-3b", UP), cell(FLIP, "qwen3-4b", DOWN)
    correct = cell(CORRECT, "llama3.2-3b", UP)
    assert verdict("dissociation", llama, correct) == UNTOLD
    assert verdict("dissociation", llama, qwen, correct) == HOLDS
    assert verdict("dissociation", cell(FLIP, "llama3.2-3b", DOWN), correct) == FAILS
    assert verdict("flip-rate-up", cell(FLIP, "tiny", UP)) == UNTOLD  # not one it speaks of
    finding = check_claim(STATEMENTS["dissociation"], Grounds([llama, qwen, correct]))
    assert finding.note == "cells here 3, in the paper 10"


def test_sizes_and_counts() -> None:
    fine, large = cell(MC2, "tiny", (-4.0, -4.4, -4.2)), cell(MC2, "other", (-6.0, -6.4, -6.2))
    negative = cell("eq_bench/score", "tiny", (1.0, 1.1, 0.9), reverse=-10.0)
    assert verdict("truthfulqa-small", fine) == HOLDS
    assert verdict("truthfulqa-small", fine, large) == FAILS
    assert verdict("truthfulqa-small", negative) == UNTOLD
    assert verdict("no-surge", fine) == UNTOLD  # SQuAD2.0 is missing
    assert verdict("one-case", fine, large) == HOLDS
    assert verdict("one-case", fine, large, large) == FAILS
    assert verdict("within-two-percent", negative) == FAILS  # the paper's signed denominator
    assert verdict("within-two-percent", cell(MC2, "tiny", UP)) == HOLDS
    assert cell_claims.relative(negative) == pytest.approx(10.0)
    gemma = ("bbq/accuracy_amb", "gemma2-2b")
    assert verdict("fifteen-percent", cell(*gemma, (-6.0, -6.4, -6.2))) == HOLDS
    assert verdict("fifteen-percent", cell(*gemma, (-26.0, 6.4, -6.2))) == NOISE
    assert verdict("fifteen-percent", cell(*gemma, (-4.0, -4.4, -4.2))) == FAILS
    assert verdict("fifteen-percent", fine) == UNTOLD
    nothing = cell(MC2, "tiny", (1.0, 1.0, 1.0), reverse=0.0)
    assert verdict("truthfulqa-small", nothing) == FAILS


def test_a_tendency_is_one_of_all_models() -> None:
    keys = STATEMENTS["no-tendency"]["metrics"]

    def told(*differences: Sequence[float]) -> str:
        cells = [cell(k, f"m{n}", d) for k in keys for n, d in enumerate(differences)]
        return verdict("no-tendency", *cells)

    assert told(UP, DOWN) == HOLDS and told(UP, UP) == FAILS and told(DOWN, DOWN) == FAILS
    assert told(UP, NOISY) == NOISE and told(UP) == UNTOLD


def test_without_scipy_no_difference_is_told_from_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (claims, cell_claims):
        monkeypatch.setattr(module, "has_scipy", lambda: False)
    report = check_claims()
    found = {each["id"]: each["verdict"] for each in report["statements"]}
    assert "-m pip install scipy`" in report["notes"][0] and found["truthfulqa"] == UNTOLD
    assert found["one-case"] == HOLDS


# --- selections -----------------------------------------------------------------------------------


def history(*scores_and_kls: tuple[float | None, float | None]) -> list[Candidate]:
    return [Candidate(n, s, 0.1, kl, kl, 0.0) for n, (s, kl) in enumerate(scores_and_kls, 1)]


def pair(f: int, r: int, model: str = "tiny", seed: int = 1, **histories: Any) -> SelectedPair:
    forward = histories.get("forward") or history((7.0, 0.1), (8.0, 0.2), (9.0, 0.3))
    reverse = histories.get("reverse") or history((2.0, 0.05), (1.0, 0.3), (0.5, 0.25))
    return SelectedPair(model, seed, forward, reverse, forward[f - 1], reverse[r - 1])


ALL_LOWER = history((2.0, 0.2), (1.0, 0.3), (0.5, 0.4))
NO_KL = history((7.0, None), (8.0, None), (9.0, None))
SELECTIONS = [
    ("all-trained", [pair(2, 1)], HOLDS),
    ("all-trained", [pair(2, 1), pair(1, 1)], FAILS),
    ("first-above", [pair(2, 1)], HOLDS),
    ("first-above", [pair(3, 1)], FAILS),
    ("first-above", [pair(1, 1)], FAILS),
    ("same-epoch", [pair(2, 2), pair(2, 2), pair(2, 1)], HOLDS),
    ("same-epoch", [pair(2, 2), pair(2, 1)], FAILS),
    ("earlier", [pair(2, 1), pair(3, 3)], HOLDS),
    ("earlier", [pair(3, 1)], FAILS),  # at epoch 3 the reverse KL was the lower one
    ("earlier", [pair(1, 2)], FAILS),
    ("earlier", [pair(3, 3)], UNTOLD),  # no pair is a case of it
    ("higher-kl", [pair(2, 1)], HOLDS),
    ("higher-kl", [pair(2, 1), pair(2, 2)], FAILS),
    ("higher-kl", [pair(2, 2, model="qwen3-0.6b")], UNTOLD),
    ("higher-kl", [pair(2, 2, forward=NO_KL)], UNTOLD),
    ("lower-kl", [pair(2, 2)], UNTOLD),
    ("lower-kl", [pair(2, 2, reverse=ALL_LOWER)], FAILS),
    ("lower-kl", [pair(2, 2, model="qwen3-0.6b", reverse=ALL_LOWER), pair(2, 2)], HOLDS),
    ("lower-kl", [pair(2, 2, model="qwen3-0.6b")], FAILS),
    ("held-out", [pair(2, 1), pair(2, 1), pair(3, 3)], HOLDS),
    ("held-out", [pair(2, 1)], UNTOLD),
    ("held-out", [pair(2, 1), pair(1, 1, reverse=history((9.0, 0.1)))], NOISE),
    ("truthfulqa", [pair(2, 1)], UNTOLD),
]


@pytest.mark.parametrize("case", range(len(SELECTIONS)))
def test_statements_on_the_choice_of_checkpoints(case: int) -> None:
    name, pairs, expected = SELECTIONS[case]
    assert verdict(name, pairs=pairs) == expected
    assert verdict(name) == UNTOLD


def test_runs_are_finished_or_not() -> None:
    def told(*states: str, seeds: int = 5) -> str:
        names = [f"train {d} seed {n}" for d in ("forward", "reverse") for n in range(seeds)]
        pieces = [
            {"name": name, "state": state, "model": "tiny"}
            for name, state in zip(names, [*states, *["done"] * len(names)], strict=False)
        ]
        return check_claim(STATEMENTS["runs"], Grounds([], (), pieces)).verdict

    assert told() == HOLDS and told("done", "running") == told("missing") == UNTOLD
    assert told("done", "waiting", "failed") == FAILS and told(seeds=0) == UNTOLD
    assert told(seeds=4) == UNTOLD and told(seeds=6) == HOLDS


def as_selected(folder: Path) -> tuple[Any, dict[str, Any]]:
    chosen = pair(2, 1)
    record = {
        "candidates": {
            d: [c._asdict() for c in h]
            for d, h in (("forward", chosen.forward), ("reverse", chosen.reverse))
        },
        "pair": {"forward": {"winner": "epoch-02"}, "reverse": {"winner": "epoch-01"}},
    }
    runs = [SimpleNamespace(folder=folder / d) for d in ("forward", "reverse")]
    return SimpleNamespace(model="tiny", seed=1, forward=runs[0], reverse=runs[1]), record


def test_a_selection_is_read_as_it_was_written(tmp_path: Path) -> None:
    of_seed, record = as_selected(tmp_path)
    assert read_selections([of_seed]) == []
    made_up.write(tmp_path / "forward" / "selected.json", record)
    assert read_selections([of_seed]) == [pair(2, 1)]


@pytest.mark.parametrize("part", ["pair", "candidates", "winner", "epoch", "kl", "all"])
def test_a_damaged_selection_is_refused(part: str, tmp_path: Path) -> None:
    folder = tmp_path / "two runs"
    of_seed, record = as_selected(folder)
    damaged: Any = record
    if part in ("pair", "candidates"):
        del damaged[part]
    elif part == "winner":
        damaged["pair"]["reverse"]["winner"] = "epoch-09"
    elif part == "all":
        damaged = []
    else:
        damaged["candidates"]["forward"][1][part] = "2"
    made_up.write(folder / "forward" / "selected.json", damaged)
    with pytest.raises(UserError, match="no selection of two runs") as refused:
        read_selections([of_seed])
    assert f"`minihmx select '{folder}/forward' '{folder}/reverse'` again" in str(refused.value)


# --- as typed -------------------------------------------------------------------------------------


def test_as_typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert main(["claims"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 70
    told = " ".join(out.split())
    assert told.endswith(
        "30 statements: holds 13, fails 0, within noise 8, cannot be told from this 9"
    )
    assert "qwen3-8b +0.25 ± 0.32 (p .16) within noise" in told
    assert main(["claims", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == check_claims() and out.isascii()


def test_on_an_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = made_up.experiment(tmp_path / "runs", seeds=range(1, 6))
    pieces = [
        {"name": f"train {d} seed {n}", "state": "done", "path": f"tiny/{d}/seed-{n}"}
        for d in ("forward", "reverse")
        for n in range(1, 6)
    ]
    made_up.write(
        out / "experiment.json", {"models": {"tiny": {"seeds": [*range(1, 6)], "pieces": pieces}}}
    )
    assert main(["claims", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {each["id"]: each for each in report["statements"]}
    assert found["runs"]["verdict"] == HOLDS and found["runs"]["paper"] == UNTOLD
    assert found["flip-rate-up"]["verdict"] == UNTOLD
    assert found["flip-rate-up"]["paper"] == HOLDS
    assert found["one-case"]["numbers"].startswith("0 of 1; with flip_rate counted")
    assert found["one-case"]["numbers"].endswith("cells here 1, in the paper 70")
    shutil.rmtree(out / "tiny/reverse/seed-2")
    (runs, *_) = check_claims(str(out))["statements"]
    assert runs["verdict"] == UNTOLD and runs["numbers"] == "9 done, 1 missing; tiny 4 of 5 seeds"
    assert main(["claims", str(out)]) == 0
    assert "flip-rate-up: cannot be told from this (the paper's tables: holds)" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("text", ["[]", "{}", '{"models": {"tiny": {}}}', '{"models": [1]}'])
def test_a_damaged_list_of_pieces_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = made_up.experiment(tmp_path / "runs")
    (out / "experiment.json").write_text(text)
    assert main(["claims", str(out)]) == 2
    err = capsys.readouterr().err
    assert "experiment.json" in err and err.count("\n") == 1


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", str(tmp_path / "none")]) == 2
    assert "There is no folder" in capsys.readouterr().err
