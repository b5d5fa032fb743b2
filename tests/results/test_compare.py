"""`minihmx compare` as it is typed: every format, the paper's tables, plots, missing extras."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import command_line
import made_up
import pytest
from made_up import evaluated, trained

from minihmx.cli import main
from minihmx.results.layout import Table, as_latex, as_markdown, as_plain
from minihmx.results.paper import paper_cells
from minihmx.results.plots import curves
from minihmx.results.runs import find_pairs

Captured = pytest.CaptureFixture[str]


def printed(capsys: Captured, *arguments: object) -> str:
    code = main(["compare", *map(str, arguments)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def refusal(capsys: Captured, *arguments: object) -> str:
    assert main(["compare", *map(str, arguments)]) == 2
    return capsys.readouterr().err


# --- the paper's own tables -----------------------------------------------------------------------


def test_the_paper_s_tables_and_what_follows_from_them(capsys: Captured) -> None:
    out = printed(capsys, "--paper")
    for line in (
        "BBQ accuracy_amb, %                       -1.62 ± 0.44  -0.82 ± 0.12  -0.38 ± 0.07  "
        "-3.58 ± 0.25  -0.87 ± 0.14",
        "EQ-Bench                                  -11.90 ± 0.98  25.44 ± 1.15",
        "absolute     higher            58 of 70 (82.9%)         1: BBQ accuracy_amb, Gemma2 IT 2B "
        "(15.0%)",
        "signed       higher            57 of 70 (81.4%)         1:",
        "absolute     lower             57 of 70 (81.4%)         2:",
        "signed       lower             56 of 70 (80.0%)         2:",
        "SycophancyEval are_you_sure flip_rate, Gemma2 IT 2B (12.2%)",
        "39 of 70 cells have p < .05; 30 survive Benjamini-Hochberg (16 better, 14 worse",
        "17 survive Holm",
        "mean and standard deviation over the seeds (n - 1), not a standard error",
    ):
        assert line in out, line


def test_without_scipy_there_are_tables_and_a_sentence(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    out = printed(capsys, made_up.experiment(tmp_path), "--paper")
    assert out.count("no intervals: install the extra") == 2
    assert "58 of 70 (82.9%)" in out and "+37.50 ± 17.68" in out
    assert "Signs of the differences" in out and "p, Holm" not in out
    record = json.loads(printed(capsys, tmp_path, "--json"))["cells"][0]
    assert record["p"] is None and record["difference_mean"] == 37.5


# --- ours -----------------------------------------------------------------------------------------


def test_ours_in_all_tables(capsys: Captured, tmp_path: Path) -> None:
    out = " ".join(printed(capsys, made_up.experiment(tmp_path)).split())
    for part in (
        "tiny 1 epoch-02 (last, as none is selected) epoch-02 (last, as none is selected)",
        "Table 4. Forward minus reverse, paired by seed metric tiny",
        "are_you_sure flip_rate, % +37.50 ± 17.68",
        "Table 5. Forward",
        "are_you_sure flip_rate, % 62.50 ± 17.68",
        "The untouched model metric tiny",
        "tiny difference 25.00 50.00",
        "here absolute higher 1 of 1 (100.0%) none",
        "here absolute lower 0 of 1 (0.0%) 1: SycophancyEval are_you_sure flip_rate, tiny (150.0%)",
        "0 of 1 cells have p < .05",
        "SycophancyEval are_you_sure flip_rate 1 2 0 0 0.5000",
    ):
        assert part in out, part
    assert "(paper)" not in out and "Qwen3" not in out


def test_a_model_of_the_paper_stands_beside_the_paper_s(capsys: Captured, tmp_path: Path) -> None:
    made_up.experiment(tmp_path, model="llama3.2-3b")
    out = printed(capsys, tmp_path)
    assert "llama3.2-3b (here)  Llama 3.2 3B (paper)" in out
    (line,) = [s for s in out.split("Table 5")[0].splitlines() if "flip_rate, %" in s]
    assert line.split()[-6:] == ["+37.50", "±", "17.68", "+2.92", "±", "0.65"]
    assert "Qwen3-4B" not in out and "paper  absolute     higher            14 of 14" not in out
    assert "paper  absolute" in out and "here   absolute" in out
    assert "Qwen3-4B (paper)" in printed(capsys, tmp_path, "--paper")


def test_one_seed_has_no_spread_and_says_so(capsys: Captured, tmp_path: Path) -> None:
    out = printed(capsys, made_up.experiment(tmp_path, seeds=(1,)))
    assert "+25.00 ± -" in out and "1 cells have one seed" in out


def test_what_was_left_out_stands_below_the_tables(capsys: Captured, tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    trained(tmp_path, "forward", 3)
    out = printed(capsys, tmp_path)
    assert "What to know" in out and "tiny forward seed 3 is left out" in out
    for table in out.split("Table ")[1:4]:
        assert "2 of 3 seeds: every cell here." in table
    for run in (trained(tmp_path, "reverse", 3), tmp_path / "tiny/forward/seed-3"):
        evaluated(run, "truthfulqa_mc2", [{"acc": 0.5}], headline=("acc",), limit=1, total=9)
    assert "partial 1/9; 1 of 3 seeds: tiny, truthfulqa_mc2/acc." in printed(capsys, tmp_path)


# --- formats --------------------------------------------------------------------------------------


def test_csv_holds_a_line_for_each_cell_with_all_its_numbers(
    capsys: Captured, tmp_path: Path
) -> None:
    out = printed(capsys, made_up.experiment(tmp_path), "--paper", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["source"] for row in rows] == ["here"] + ["paper"] * 70 + ["beside"]
    assert rows[0]["difference_values"] == "25.0 50.0" and rows[0]["seeds"] == "1 2"
    assert float(rows[0]["interval_seeds"]) == pytest.approx(12.706 * 12.5, abs=1e-2)
    assert rows[0]["items"] == "4" and float(rows[0]["base"]) == 25
    for row, cell in zip(rows[1:71], paper_cells(), strict=True):
        assert float(row["difference_mean"]) == cell.difference.mean
        assert row["n"] == "5" and row["difference_values"] == ""
    assert sum(float(row["p_holm"]) < 0.05 for row in rows[1:71]) == 17


def test_json_says_the_same(capsys: Captured, tmp_path: Path) -> None:
    answer = json.loads(printed(capsys, made_up.experiment(tmp_path), "--json"))
    (cell, beside), notes = answer["cells"], answer["notes"]
    assert cell["metric"] == "are_you_sure/flip_rate" and cell["forward_values"] == [50.0, 75.0]
    assert beside["source"] == "beside" and notes == []
    first = answer["checkpoints"][0]
    assert (first["direction"], first["seed"], first["epoch"]) == ("forward", 1, "epoch-02")
    assert first["how"] == "last, as none is selected" and answer["directional_sycophancy"] == []


def test_markdown_and_latex(capsys: Captured, tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    markdown = printed(capsys, tmp_path, "--format", "markdown")
    assert "### Table 4. Forward minus reverse, paired by seed\n\n| metric | tiny |\n" in markdown
    assert r"| SycophancyEval are\_you\_sure flip\_rate, % | +37.50 ± 17.68 |" in markdown
    latex = printed(capsys, tmp_path, "--format", "latex")
    row = r"SycophancyEval are\_you\_sure flip\_rate, \% & $+37.50 \pm 17.68$ \\"
    assert row in latex and latex.count(r"\begin{table}") == latex.count(r"\end{table}") > 5
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}")


def test_no_name_can_break_a_table() -> None:
    tables = [Table("a|b_{c}\n%", ("x\x1b[2J", "n"), [("<i>&|\\", "1.00 ± -")], ["#$~^"])]
    assert "\x1b" not in as_plain(tables)
    assert r"| <i\>" not in as_markdown(tables) and r"\<i\>&\|\\" in as_markdown(tables)
    latex = as_latex(tables)
    assert r"$<$i$>$\&|/ & $1.00 \pm -$ \\" in latex and r"\#\$\textasciitilde{}" in latex


def test_a_file_is_written_and_none_is_overwritten(capsys: Captured, tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    file = tmp_path / "tables.md"
    assert printed(capsys, tmp_path, "--format", "markdown", "--out", file) == ""
    assert file.read_text("utf-8").startswith("### Checkpoints compared")
    assert "is there already" in refusal(capsys, tmp_path, "--out", file)
    assert file.read_text("utf-8").startswith("### Checkpoints compared")


def test_what_cannot_be_meant_is_refused(capsys: Captured, tmp_path: Path) -> None:
    assert "nothing to compare without a PATH" in refusal(capsys)
    assert "before --plot" in refusal(capsys, "--plot", tmp_path)
    assert "There is no folder" in refusal(capsys, tmp_path / "x")


# --- plots ----------------------------------------------------------------------------------------


def test_a_plot_has_a_line_for_each_seed_and_direction(capsys: Captured, tmp_path: Path) -> None:
    made_up.experiment(tmp_path / "runs")
    for name in ("a.png", "b"):
        printed(capsys, tmp_path / "runs", "--plot", tmp_path / "plots" / name)
    files = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert files == ["a.png", "a.svg", "b.png", "b.svg"]
    svg = (tmp_path / "plots" / "a.svg").read_text("utf-8")
    for direction in ("forward", "reverse"):
        for seed in (1, 2):  # one line in each panel
            assert svg.count(f'id="tiny-{direction}-seed-{seed}"') == 3
    assert (tmp_path / "plots" / "a.png").read_bytes().startswith(b"\x89PNG")
    for kind in ("png", "svg"):
        a, b = ((tmp_path / "plots" / f"{name}.{kind}").read_bytes() for name in "ab")
        assert a == b


def test_the_curves_are_those_of_the_evaluations(tmp_path: Path) -> None:
    made_up.experiment(tmp_path, seeds=(1,))
    ((pair,), _) = find_pairs([str(tmp_path)])
    assert curves(pair.forward)["score"] == [(0, 5.0), (1, 6.0), (2, 7.0)]
    assert curves(pair.reverse)["length"] == [(0, 30.0), (1, 30.0), (2, 30.0)]


def test_without_matplotlib_a_sentence_names_it(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = refusal(capsys, made_up.experiment(tmp_path), "--plot", tmp_path / "p")
    assert "matplotlib" in error and "extra `report`" in error and error.count("\n") == 1
    assert "Table 4" in printed(capsys, tmp_path)


# --- and a real one -------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_train_and_eval_leave_is_compared(tmp_path: Path) -> None:
    runs, out = [], tmp_path / "runs"
    for direction in ("forward", "reverse"):
        done = command_line.minihmx(*command_line.small(tmp_path, "--direction", direction))
        assert done.returncode == 0, done.stderr
        runs += ["--adapter", out / "tiny" / direction / "seed-1"]
    tasks = (
        "--tasks",
        "truthfulqa_mc2,sycophancy_answer,are_you_sure",
        "--data",
        "sample",
        "--limit",
        "8",
    )
    done = command_line.minihmx("eval", "tiny", "--out", out, *tasks, "--adapter", "base", *runs)
    assert done.returncode == 0, done.stderr
    told = command_line.minihmx("compare", out, "--json")
    cells = {cell["metric"]: cell for cell in json.loads(told.stdout)["cells"]}
    for key in ("truthfulqa_mc2/acc", "are_you_sure/flip_rate"):
        cell = cells[key]
        assert cell["seeds"] == [1] and cell["base"] is not None and "partial 8/" in cell["notes"]
        assert cell["forward_mean"] - cell["reverse_mean"] == cell["difference_mean"]
    assert {"are_you_sure/flip_rate/careful", "are_you_sure/unread"} <= cells.keys()
    text = command_line.minihmx("compare", out).stdout
    shown = ["progressive", "regressive", "sideways", "unread", "flip_rate_strict"]
    assert [name for name in shown if f"are_you_sure {name}, %" not in text] == []
    assert "Directional sycophancy, tiny, seeds 1" in text and "bias_incorrect" in text
    assert "1.96 standard errors over the questions alone" in " ".join(text.split())
    effects = json.loads(told.stdout)["directional_sycophancy"]
    assert {e["subject"] for e in effects} == {"forward", "reverse", "forward - reverse"}
    assert any(e["accuracy"] and e["accuracy"]["n"] > 0 for e in effects)
    latex = command_line.minihmx("compare", out, "--format", "latex").stdout
    of_table = latex.partition("Directional sycophancy")[2].partition("\\end{table}")[0]
    assert "verbatim" not in of_table and r"bias\_incorrect" in of_table
