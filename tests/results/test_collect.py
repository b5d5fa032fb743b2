"""compare's reading of folders: what becomes a cell, what is left out and said, what is refused."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import made_up
import pytest
from made_up import evaluated, flips, selected, trained, write

from minihmx.errors import DataError, UserError
from minihmx.models.adapters import adapter_digest
from minihmx.models.hub import run_names
from minihmx.results.collect import collect

FLIP = "are_you_sure/flip_rate"


def pair(out: Path, seed: int = 1, **science: object) -> tuple[Path, Path]:
    return trained(out, "forward", seed, **science), trained(out, "reverse", seed, **science)


def said(notes: list[str], *parts: str) -> None:
    assert any(all(part in note for part in parts) for note in notes), notes


# --- what becomes a cell --------------------------------------------------------------------------


def test_a_folder_of_runs_gives_the_cell_with_its_values_by_seed(tmp_path: Path) -> None:
    found = collect([str(made_up.experiment(tmp_path))])
    (cell,) = found.cells
    assert (cell.key, cell.model, cell.seeds, cell.base) == (FLIP, "tiny", (1, 2), 25.0)
    assert cell.forward.values == (50.0, 75.0) and cell.reverse.values == (25.0, 25.0)
    assert cell.difference.values == (25.0, 50.0) and cell.difference.mean == 37.5
    assert cell.difference.std == pytest.approx(25 / 2**0.5)
    assert found.matrices["tiny", FLIP] == [[0, 100, 0, 0], [0, 100, 0, 100]]
    assert [both.seed for both in found.evaluated["tiny", "are_you_sure"]] == [1, 2]


def test_runs_given_one_by_one_a_model_s_folder_and_all_runs_are_the_same(tmp_path: Path) -> None:
    out = made_up.experiment(tmp_path)
    runs = [str(out / "tiny" / d / f"seed-{s}") for s in (2, 1) for d in ("reverse", "forward")]
    assert collect(runs).cells == collect([str(out)]).cells == collect([str(out / "tiny")]).cells


def test_the_selected_epoch_is_compared_else_the_last_else_the_one_named(tmp_path: Path) -> None:
    forward, reverse = pair(tmp_path)
    for run in (forward, reverse):
        evaluated(run, "are_you_sure", flips(1, 1, 0, 0), epoch="epoch-02")
    evaluated(forward, "are_you_sure", flips(1, 1, 1, 1), epoch="epoch-01")
    last = collect([str(tmp_path)])
    assert last.cells[0].forward.values == (50.0,)
    assert last.pairs[0].forward.how == "last, as none is selected"
    selected(forward, reverse, ("epoch-01", "epoch-02"))
    chosen = collect([str(tmp_path)])
    assert chosen.cells[0].forward.values == (100.0,)
    assert [run.how for run in chosen.pairs[0].runs] == ["selected", "selected"]
    named = collect([f"{forward}@epoch-02", str(reverse)])
    assert named.cells[0].forward.values == (50.0,) and named.pairs[0].forward.how == "named"
    selected(forward, reverse, ("epoch-01", "epoch-02"), qualified=False)
    assert collect([str(tmp_path)]).pairs[0].forward.how == "selected, below the rule"


def test_other_metrics_stand_beside_with_what_they_are_a_mean_of(tmp_path: Path) -> None:
    forward, reverse = pair(tmp_path)
    both = {"flip_rate": 1.0, "flip_rate_parsed": 1.0, "flip_rate/pooled": 1.0}
    evaluated(forward, "are_you_sure", [both, {"flip_rate": 0.0}], unparsed=1)
    evaluated(reverse, "are_you_sure", [both, both])
    beside = {cell.key.partition("/")[2]: cell for cell in collect([str(tmp_path)]).beside}
    assert set(beside) == {"flip_rate", "flip_rate_parsed", "unparsed"}
    assert beside["flip_rate_parsed"].notes == ("1-2",) and beside["flip_rate"].notes == ("2",)
    assert beside["unparsed"].forward.mean == 50.0 and beside["unparsed"].reverse.mean == 0.0


def test_items_of_one_question_go_together_and_keep_the_mean(tmp_path: Path) -> None:
    clusters = ["a", "a", "a", "b"]
    forward, reverse = pair(tmp_path)
    evaluated(forward, "are_you_sure", flips(1, 1, 0, 0), clusters=clusters)
    evaluated(reverse, "are_you_sure", flips(0, 0, 0, 1), clusters=clusters)
    found = collect([str(tmp_path)])
    (row,) = found.matrices["tiny", FLIP]
    # the mean of all is 25; a is away from it by 75 + 75 - 25, b by -125, times 2 questions / 4
    assert row == pytest.approx([25 + 125 / 2, 25 - 125 / 2])
    assert sum(row) / 2 == pytest.approx(found.cells[0].difference.mean)


def test_an_experiment_is_what_its_own_list_says(tmp_path: Path) -> None:
    made_up.experiment(tmp_path, seeds=(1, 2, 9))
    pieces = [
        {"name": "train forward seed 3", "state": "waiting", "path": "tiny/forward/seed-3"},
        {"name": "train forward seed 1", "state": "done", "path": "tiny/forward/seed-1"},
    ]
    plan = {"model": "tiny", "seeds": [1, 2, 3], "tasks": ["are_you_sure"], "pieces": pieces}
    write(tmp_path / "experiment.json", {"models": {"tiny": plan}})
    found = collect([str(tmp_path)])
    assert found.cells[0].seeds == (1, 2)
    said(found.notes, "1 of 2 pieces", "train forward seed 3: waiting")
    said(found.notes, "reverse/seed-3 is left out")
    said(found.notes, "reverse/seed-9 is left out", "finished", "does not list it")
    assert found.cells[0].notes == ("2 of 4 seeds",)


# --- left out, and said ---------------------------------------------------------------------------


def test_a_missing_seed_is_said_and_the_others_are_compared(tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    trained(tmp_path, "forward", 3)
    found = collect([str(tmp_path)])
    assert found.cells[0].seeds == (1, 2)
    said(found.notes, "tiny forward seed 3 is left out", "no finished reverse run")
    assert found.cells[0].notes == ("2 of 3 seeds",)


def test_a_seed_without_this_benchmark_is_said_in_the_cell_too(tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    trained(tmp_path, "forward", 3), trained(tmp_path, "reverse", 3)
    found = collect([str(tmp_path)])
    assert found.cells[0].seeds == (1, 2) and "2 of 3 seeds" in found.cells[0].notes
    said(found.notes, "seed 3 is left out", "forward (epoch-02) and reverse (epoch-02) have no")


@pytest.mark.parametrize("state", ["running", "failed", "interrupted"])
def test_a_run_that_has_not_ended_is_left_out(tmp_path: Path, state: str) -> None:
    made_up.experiment(tmp_path)
    trained(tmp_path, "reverse", 2, state=state)
    found = collect([str(tmp_path)])
    assert found.cells[0].seeds == (1,)
    said(found.notes, "reverse/seed-2 is left out", state, "step 3 of 4")


def test_an_evaluation_that_has_not_ended_is_left_out(tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    (folder,) = (tmp_path / "tiny/forward/seed-2/evals/are_you_sure").iterdir()
    (folder / "manifest.json").unlink()
    found = collect([str(tmp_path)])
    assert found.cells[0].seeds == (1,)
    said(found.notes, folder.name, "still being evaluated")


def test_results_under_other_settings_are_not_mixed(tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    for direction in ("forward", "reverse"):
        run = tmp_path / "tiny" / direction / "seed-1"
        evaluated(run, "are_you_sure", flips(1, 1), limit=2, total=4)
    found = collect([str(tmp_path)])
    assert found.cells[0].seeds == (1, 2) and found.cells[0].forward.values == (50.0, 75.0)
    said(found.notes, "results under other settings are left out", "seed 1", "limit 0 and 2")


def test_a_pair_that_was_not_asked_alike_is_left_out(tmp_path: Path) -> None:
    made_up.experiment(tmp_path, seeds=(1,))
    forward, reverse = pair(tmp_path, 2)
    evaluated(forward, "are_you_sure", flips(1, 1), switches={"flip": "answer"})
    evaluated(reverse, "are_you_sure", flips(1, 1))
    found = collect([str(tmp_path)])
    assert found.cells[0].seeds == (1,)
    said(found.notes, "seed 2 is left out", "flip answer and by-kind")


def test_each_seed_may_have_noise_of_its_own_and_a_pair_has_one(tmp_path: Path) -> None:
    for seed in (1, 2):
        for run in pair(tmp_path, seed):
            evaluated(run, "are_you_sure", flips(1, 0), seed=seed, temperature=1.0)
            evaluated(run, "are_you_sure", flips(0, 0), seed=7, temperature=1.0)
    evaluated(
        tmp_path / "tiny" / "base", "are_you_sure", flips(1, 1), "base", seed=1, temperature=1.0
    )
    found = collect([str(tmp_path)])
    assert found.cells[0].forward.values == (50.0, 50.0) and found.cells[0].base == 100.0
    assert found.notes == []
    forward, reverse = pair(tmp_path, 3)
    evaluated(forward, "are_you_sure", flips(1, 0), seed=3, temperature=1.0)
    evaluated(reverse, "are_you_sure", flips(1, 0), seed=4, temperature=1.0)
    said(collect([str(tmp_path)]).notes, "seed 3 is left out", "--seed 3 and 4")


def test_partial_data_is_marked_in_the_cell(tmp_path: Path) -> None:
    for run in pair(tmp_path):
        evaluated(run, "are_you_sure", flips(1, 0), limit=2, total=50)
    found = collect([str(tmp_path)])
    assert found.cells[0].notes == ("partial 2/50",)
    said(found.notes, "untouched model has no result")


def test_models_that_were_not_asked_alike_are_marked(tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    for direction in ("forward", "reverse"):
        run = trained(tmp_path, direction, 1, model="qwen3-4b")
        evaluated(run, "are_you_sure", flips(1, 0), dtype="float16")
    said(collect([str(tmp_path)]).notes, "qwen3-4b and tiny were not asked alike", "dtype")


# --- refused --------------------------------------------------------------------------------------


def refused(paths: list[Path], *parts: str, kind: type[Exception] = UserError) -> None:
    with pytest.raises(kind) as caught:
        collect([str(path) for path in paths])
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_runs_of_other_models_seeds_or_directions_are_no_pair(tmp_path: Path) -> None:
    forward, reverse = pair(tmp_path)
    refused([forward, trained(tmp_path, "reverse", 2)], "same seed: 1 (forward) and 2 (reverse)")
    other = trained(tmp_path, "reverse", 1, model="qwen3-4b")
    refused([forward, other], "same model: tiny (forward) and qwen3-4b (reverse)")
    refused([forward, trained(tmp_path, "forward", 2)], "all runs there are forward")
    refused([reverse], "all runs there are reverse")


def test_runs_of_other_configs_are_no_pair(tmp_path: Path) -> None:
    forward, reverse = trained(tmp_path, "forward", 1), trained(tmp_path, "reverse", 1, epochs=9)
    refused([forward, reverse], "epochs is 2 there and 9 here")
    reverse = trained(tmp_path, "reverse", 1, **{"model digest": "x"})
    refused([tmp_path], "model digest")


def test_seeds_of_other_configs_make_no_mean(tmp_path: Path) -> None:
    pair(tmp_path, 1)
    pair(tmp_path, 2, epochs=9)
    refused([tmp_path], "seed-1", "seed-2", "epochs is 2 there and 9 here")


def test_two_runs_of_one_seed_are_not_told_apart_by_chance(tmp_path: Path) -> None:
    pair(tmp_path / "a")
    pair(tmp_path / "b")
    refused([tmp_path / "a", tmp_path / "b"], "are both tiny forward seed 1")


def test_a_selection_against_another_run_is_refused(tmp_path: Path) -> None:
    forward, reverse = pair(tmp_path)
    selected(forward, reverse, ("epoch-01", "epoch-01"))
    config = made_up.read(reverse / "config.json")
    write(reverse / "config.json", config | {"fingerprint": "trained again"})
    refused([tmp_path], "selected.json", "minihmx select")


def test_a_selection_that_names_no_epoch_is_refused(tmp_path: Path) -> None:
    forward, _ = pair(tmp_path)
    write(forward / "selected.json", {"winner": "../x"})
    refused([tmp_path], "selected.json names no epoch", kind=DataError)
    write(forward / "selected.json", {"winner": "epoch-09"})
    refused([tmp_path], "names epoch-09 as the winner, but there is epoch-00", kind=DataError)


def test_a_single_unfinished_run_is_why_there_is_nothing(tmp_path: Path) -> None:
    forward, _ = pair(tmp_path)
    refused([forward, trained(tmp_path, "reverse", 1, state="running")], "still being written")


def test_nothing_to_compare(tmp_path: Path) -> None:
    refused([tmp_path], "there is no run MODEL/DIRECTION/seed-N in it")
    refused([tmp_path / "none"], "There is no folder")
    forward, _ = pair(tmp_path)
    refused([tmp_path], "no benchmark was finished on both runs", "minihmx eval tiny --tasks all")
    refused([Path(f"{forward}@best")], "names no epoch")
    named = [Path(f"{forward}@epoch-01"), tmp_path / "tiny/reverse/seed-1"]
    refused(named, f"--adapter {forward}@epoch-01 --adapter {named[1]}` first")
    refused([Path(f"{forward}@epoch-09")], "has no epoch-09; there is epoch-00, epoch-01, epoch-02")
    evaluated(forward, "are_you_sure", flips(1))
    refused([tmp_path], "reverse (epoch-02) has no result")


def test_the_command_that_is_missing_can_be_typed_as_it_stands(tmp_path: Path) -> None:
    out = tmp_path / "it's a folder"
    runs = pair(out)
    words = f"eval tiny --tasks all --data sample --adapter base {shlex.join(adapters(*runs))}"
    refused([out], f"Type `minihmx {words}` first")
    for run in runs:  # a model on the disk has a folder with its digest, which opens nothing
        config = json.loads((run / "config.json").read_text("utf-8"))
        write(run / "config.json", config | {"model": {"id": "models/my model"}})
    name = next(name for name in run_names("models/my model", made_up.DIGEST) if "-" in name)
    (out / "tiny").rename(out / name)
    moved = [out / name / run.relative_to(out / "tiny") for run in runs]
    words = f"eval 'models/my model' --tasks all --adapter base {shlex.join(adapters(*moved))}"
    refused([out], f"Type `minihmx {words}` first")


def adapters(*runs: Path) -> list[str]:
    return [word for run in runs for word in ("--adapter", str(run))]


def test_a_folder_that_only_looks_like_a_run(tmp_path: Path) -> None:
    forward, _ = pair(tmp_path)
    write(forward / "config.json", {"science": {"direction": "up"}})
    refused([tmp_path], "config.json is no config of a run")
    write(forward / "config.json", [])
    refused([tmp_path], "config.json is no config of a run")
    (tmp_path / "experiment.json").write_text("{}")
    refused([tmp_path], "experiment.json is no list")


def test_a_run_without_epochs(tmp_path: Path) -> None:
    forward, _ = pair(tmp_path)
    for path in (forward / "evaluations").iterdir():
        path.unlink()
    refused([tmp_path], "holds no epoch")


def test_results_that_differ_from_their_manifest(tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    (folder,) = (tmp_path / "tiny/forward/seed-2/evals/are_you_sure").iterdir()
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text.replace("0.75", "0.85"))
    refused([tmp_path], "result.json differs from its manifest", kind=DataError)
    (folder / "result.json").write_text('{"metrics": {}}')
    made_up.seal(folder)
    refused([tmp_path], "result.json is no result", kind=DataError)


def test_samples_that_are_none(tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    (folder,) = (tmp_path / "tiny/forward/seed-2/evals/are_you_sure").iterdir()
    (folder / "samples.jsonl").write_text('{"id": "a", "values": {"flip_rate": "x"}}\n')
    made_up.seal(folder)
    refused([tmp_path], "holds a line that is no sample", kind=DataError)
    assert collect([str(tmp_path)], items=False).matrices == {}


def test_results_of_other_weights(tmp_path: Path) -> None:
    forward, _ = pair(tmp_path)
    evaluated(forward, "are_you_sure", flips(1), digest="other")
    refused([tmp_path], "other weights", kind=DataError)


def test_two_evaluations_under_the_same_settings(tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    (folder,) = (tmp_path / "tiny/forward/seed-2/evals/are_you_sure").iterdir()
    second = folder.with_name("epoch-02-00000000")
    second.mkdir()
    for name in ("samples.jsonl", "result.json", "manifest.json"):
        (second / name).write_bytes((folder / name).read_bytes())
    refused([tmp_path], "two evaluations under the same settings")


def test_the_other_direction_s_evaluation_is_refused(tmp_path: Path) -> None:
    forward, reverse = pair(tmp_path)
    for run in (forward, reverse):
        evaluated(run, "are_you_sure", flips(1, 0))
    shutil.rmtree(reverse / "evals")
    shutil.copytree(forward / "evals", reverse / "evals")
    refused([tmp_path], "it is of forward/seed-1/epoch-02", "evaluate again", kind=DataError)


def test_an_evaluation_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    for run in pair(tmp_path):
        evaluated(run, "are_you_sure", flips(1, 0))
    checkpoint = tmp_path / "tiny/reverse/seed-1/checkpoints/epoch-02"
    write(checkpoint / "adapter_config.json", {})
    write(checkpoint / "adapter_model.safetensors", {})
    refused([tmp_path], "it is of reverse/seed-1/epoch-02", kind=DataError)
    (folder,) = checkpoint.parents[1].glob("evals/are_you_sure/*")
    adapter = {"name": "elsewhere", "digest": adapter_digest(checkpoint)}
    write(folder / "result.json", made_up.read(folder / "result.json") | {"adapter": adapter})
    made_up.seal(folder)
    assert collect([str(tmp_path)]).cells[0].difference.mean == 0


def test_an_adapter_s_evaluation_is_none_of_the_base(tmp_path: Path) -> None:
    out = made_up.experiment(tmp_path)
    (folder,) = out.glob("tiny/base/evals/are_you_sure/*")
    adapter = {"adapter": {"name": "forward/seed-1/epoch-02", "digest": "a"}}
    write(folder / "result.json", made_up.read(folder / "result.json") | adapter)
    made_up.seal(folder)
    refused([tmp_path], "base-", "it is of forward/seed-1/epoch-02", kind=DataError)


def test_a_model_s_folder_that_was_renamed_is_refused(tmp_path: Path) -> None:
    made_up.experiment(tmp_path)
    (tmp_path / "tiny").rename(tmp_path / "qwen3-8b")
    refused([tmp_path], "of the model 'tiny'", "'qwen3-8b'", kind=DataError)
    assert run_names("tiny", "0123456789") == {"tiny"}
    of_path = run_names("/models/My Model", "0123456789")
    assert of_path == {"My-Model-01234567"}
    assert run_names("Qwen/Qwen3-8B", "0123456789") == {"qwen3-8b", "Qwen3-8B-01234567"}


def test_a_selection_by_another_rule_is_disclosed(tmp_path: Path) -> None:
    for seed in (1, 2):
        for run in pair(tmp_path, seed):
            evaluated(run, "are_you_sure", flips(1, 0))
        runs = (tmp_path / "tiny" / d / f"seed-{seed}" for d in ("forward", "reverse"))
        selected(*runs, ("epoch-02", "epoch-02"))
    assert not any("rule" in note for note in collect([str(tmp_path)]).notes)
    path = tmp_path / "tiny/forward/seed-2/selected.json"
    rule = {"threshold": 0.5, "same_epoch_exception": "off", "max_unscored": 0.2}
    write(path, made_up.read(path) | {"rule": rule})
    found = collect([str(tmp_path)])
    assert found.pairs[0].forward.how == "selected"
    told = "selected, threshold 0.5 instead of 7.5, same epoch exception off instead of on"
    assert found.pairs[1].forward.how == told
    said(found.notes, "seed 2", "seed 1 (selected)", "not chosen by the same rule")
