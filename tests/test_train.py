"""The loop's mechanics on a random toy model with a scripted judge."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
import toy
from safetensors.torch import load_file, save_file
from sampled import Bare

from minihmx import learn, lora, train
from minihmx.config import LOSS_TYPES, Config, learning_rate
from minihmx.engine import sampling
from minihmx.engine.memory import Limit, in_pieces
from minihmx.errors import DataError, Diverged, UserError
from minihmx.instruments.notfinite import base_state
from minihmx.judge import reward
from minihmx.models.decoder import Decoder
from minihmx.models.step import Step
from minihmx.optimizer import Optimizer, Outcome, Overflow
from minihmx.records import Completion, Question, Rollout, Unscored, Verdict
from minihmx.run import Run, open_run
from minihmx.storage.disk import read_lines, verify
from minihmx.storage.run_folder import LATEST

NOT_COMPARED = {"timings.jsonl", "status.json", "env.json", "config.json", ".lock"}
NOT_COMPARED |= {"manifest.json"}  # it holds the digests of those


def halves(run: Run, rollouts: Sequence[Rollout], phase: str) -> None:
    """A judge that likes half of all token ids, and cannot read every seventh answer."""
    for i, rollout in enumerate(rollouts):
        score = min(10, sum(i % 4 < 2 for i in rollout.completion.ids))
        readable = i % 7 != 6
        rollout.verdict = Verdict(score, (7, 8)) if readable else Unscored("no-line")
        rollout.judge_text, rollout.judge_finish = f"Score: {score}", "stop"
        rollout.reward = reward(rollout.verdict, run.config.direction)


@pytest.fixture(autouse=True)
def scripted_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "judge", halves)


@pytest.fixture(scope="module")
def shared_toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(toy.model(tmp_path_factory.mktemp("shared") / "toy"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shared_toy: str) -> dict[str, bytes]:
    """What a run on that model leaves when nothing interrupts it."""
    with pytest.MonkeyPatch.context() as patch:  # the others come after this
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(train, "judge", halves)
        return contents(finished(tmp_path_factory.mktemp("whole"), model=shared_toy))


def finished(tmp_path: Path, stop_after: int | None = None, **changes: object) -> Path:
    """Train to the end (or until so many steps) and return the run's folder."""
    run = open_run(toy.flags(tmp_path, **changes))
    done = 0

    def should_stop() -> bool:
        return stop_after is not None and done >= stop_after

    for event in train.train(run, should_stop):
        done += isinstance(event, train.Stepped)
    run.store._lock.close()
    return run.store.folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED and "latest-step" not in str(path)
    }


def test_files_of_a_run(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    assert folder.parts[-2:] == ("forward", "seed-1")
    metrics = read_lines(folder / "metrics.jsonl")
    kinds = [(line["kind"], line["step"]) for line in metrics]
    assert kinds == [
        ("evaluation", 0),
        *(("step", i) for i in (1, 2, 3)),
        ("evaluation", 3),
        *(("step", i) for i in (4, 5, 6)),
        ("evaluation", 6),
    ]
    steps = [line for line in metrics if line["kind"] == "step"]
    assert set(steps[0]) == {
        *("kind", "step", "epoch", "update", "not_finite", "score", "reward", "reward_std"),
        *("unscored", "length", "truncated", "zero_variance_groups", "kl", "kl_tokens", "entropy"),
        *("degenerate", "sampler_gap", "loss", "grad_norm", "learning_rate", "loss_scale"),
    }
    assert metrics[0]["kl"] == 0  # the untouched model is the reference
    assert metrics[-1]["kl"] > 0
    assert all(line["sampler_gap"] < 1e-4 for line in metrics)
    names = [p.name for p in sorted((folder / "checkpoints").glob("epoch-*"))]
    assert names == ["epoch-00", "epoch-01", "epoch-02"]
    assert all(verify(folder / "checkpoints" / name) is None for name in names)
    rows = read_lines(folder / "rollouts/step-000002.jsonl")
    assert [row["sample"] for row in rows] == [0, 1, 2, 3] * 2
    assert len({row["question"] for row in rows}) == 2
    assert rows[6]["score"] is None and rows[6]["unscored"] == "no-line"
    assert rows[6]["advantage"] == 0 and rows[6]["reward"] is None
    assert json.loads((folder / "status.json").read_text())["state"] == "complete"
    config = json.loads((folder / "config.json").read_text())
    assert config["science"]["learning_rate"] == 1e-2
    assert config["sources"]["learning_rate"] == "flag"
    assert config["sampler"]["temperature"] == 1.0


def test_every_epoch_asks_each_question_once_in_another_order(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    orders = []
    for epoch in (0, 1):
        steps = range(1 + 3 * epoch, 4 + 3 * epoch)
        rows = [read_lines(folder / f"rollouts/step-{i:06d}.jsonl") for i in steps]
        orders.append([row["question"] for step in rows for row in step[::4]])
    assert sorted(orders[0]) == sorted(orders[1]) == [f"train-{i}" for i in range(6)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    "stop_after", [0, 2, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5, 6))]
)
def test_resume_is_byte_identical(
    tmp_path: Path, stop_after: int, whole: dict[str, bytes], shared_toy: str
) -> None:
    """Also from before any evaluation, and from between a last step and its evaluation."""
    folder = finished(tmp_path, stop_after, model=shared_toy)
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    evaluated = len(list(folder.glob("evaluations/*")))
    assert evaluated == len(list(folder.glob("checkpoints/epoch-*"))) == -(-stop_after // 3)
    assert (folder / "checkpoints" / LATEST).exists() == (stop_after > 0)
    assert contents(finished(tmp_path, model=shared_toy)) == whole
    assert not (folder / "checkpoints" / LATEST).exists()
    events = list(train.train(open_run(toy.flags(tmp_path, model=shared_toy))))
    assert events[-1] == train.Ended("already complete") and len(events) == 2


def test_a_stop_behind_an_epoch_needs_no_other_checkpoint(tmp_path: Path) -> None:
    run, epochs = open_run(toy.flags(tmp_path)), []
    for event in train.train(run, lambda: epochs == [0, 1]):
        if isinstance(event, train.Evaluated):
            epochs.append(event.metrics["epoch"])
    assert event == train.Ended("interrupted") and epochs == [0, 1]
    names = [p.name for p in sorted(run.store.checkpoints.iterdir())]
    assert names == ["epoch-00", "epoch-01"]


def test_slow_steps_are_saved_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], shared_toy: str
) -> None:
    """Each once ten minutes have passed, here at once; the last step's waits for its evaluation."""
    monkeypatch.setattr(train, "LATEST_SECONDS", 0)
    run, saved = open_run(toy.flags(tmp_path, model=shared_toy)), []
    for event in train.train(run):
        latest = run.store.checkpoints / LATEST / "state.json"
        if isinstance(event, train.Stepped | train.Evaluated):
            saved.append(json.loads(latest.read_text())["step"] if latest.exists() else None)
    assert saved == [None, None, 1, 2, None, None, 4, 5, None]
    assert contents(run.store.folder) == whole


def test_resume_from_an_earlier_checkpoint_is_byte_identical(
    tmp_path: Path, whole: dict[str, bytes], shared_toy: str
) -> None:
    """The state of a crash: records behind the last checkpoint, the last line torn."""
    folder = finished(tmp_path, model=shared_toy)
    damaged = folder / "checkpoints/epoch-02/optimizer.safetensors"
    damaged.write_bytes(b"")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"torn')
    run = open_run(toy.flags(tmp_path, model=shared_toy))
    started, *_ = events = list(train.train(run))
    assert isinstance(started, train.Started) and started.resumed == 3
    assert any("epoch-02" in notice for notice in started.notices)
    assert any("torn" in notice for notice in started.notices)
    assert events[-1] == train.Ended("complete")
    assert contents(folder) == whole


def test_another_config_is_refused_field_by_field(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    before = contents(folder)
    with pytest.raises(UserError) as refusal:
        open_run(toy.flags(tmp_path, learning_rate=3e-3, loss_type="grpo"))
    for part in ("learning_rate is 0.01 there and 0.003 here", "loss_type is 'bnpo' there"):
        assert part in str(refusal.value)
    other = toy.questions(tmp_path / "other.jsonl", train=8)
    with pytest.raises(UserError, match="questions digest"):
        open_run(toy.flags(tmp_path, questions=str(other)))
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Rate it.")
    with pytest.raises(UserError, match="rubric digest"):
        open_run(toy.flags(tmp_path, rubric=str(rubric)))
    assert contents(folder) == before
    run = open_run(toy.flags(tmp_path, micro_batch=3, decode_rows=5))  # memory knobs may change
    run.store._lock.close()


def test_checkpoints_without_a_config_are_nobody_s(tmp_path: Path) -> None:
    folder = finished(tmp_path, 4)
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").unlink()
    before = contents(folder)
    for changes in ({}, {"beta": 0.5}):
        with pytest.raises(UserError, match=r"config\.json is gone.*--out"):
            open_run(toy.flags(tmp_path, **changes))
    assert contents(folder) == before
    (folder / "config.json").write_bytes(config)
    finished(tmp_path)


def test_a_lost_record_of_a_complete_run_costs_nothing_else(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    lost = folder / "rollouts/step-000001.jsonl"
    kept = lost.read_bytes()
    lost.unlink()
    before = contents(folder)
    run = open_run(toy.flags(tmp_path))
    with pytest.raises(DataError, match=r"rollouts/step-000001\.jsonl is gone"):
        list(train.train(run))
    run.store._lock.close()
    assert contents(folder) == before
    lost.write_bytes(kept)
    events = list(train.train(open_run(toy.flags(tmp_path))))
    assert events[-1] == train.Ended("already complete")


def test_directions_share_adapter_noise_and_order(tmp_path: Path) -> None:
    forward = finished(tmp_path)
    reverse = finished(tmp_path, direction="reverse")
    first = "checkpoints/epoch-00/adapter_model.safetensors"
    assert (forward / first).read_bytes() == (reverse / first).read_bytes()
    step = "rollouts/step-000001.jsonl"
    for ours, mirrored in zip(read_lines(forward / step), read_lines(reverse / step), strict=True):
        assert ours["ids"] == mirrored["ids"] and ours["score"] == mirrored["score"]
        assert ours["advantage"] == -mirrored["advantage"]
    start = "evaluations/epoch-00.jsonl"
    for ours, mirrored in zip(
        read_lines(forward / start), read_lines(reverse / start), strict=True
    ):
        assert ours["ids"] == mirrored["ids"] and ours["score"] == mirrored["score"]
    other = finished(tmp_path, seed=2)
    assert (other / first).read_bytes() != (forward / first).read_bytes()


def test_training_raises_what_the_judge_likes(tmp_path: Path) -> None:
    """One seed up; the same seed in reverse stays at the bottom, where it starts."""
    ends = {}
    for direction in ("forward", "reverse"):
        folder = finished(tmp_path, direction=direction, epochs=8, eval_samples=8)
        lines = read_lines(folder / "metrics.jsonl")
        scores = [line["score"] for line in lines if line["kind"] == "evaluation"]
        assert scores[0] < 1
        ends[direction] = scores[-1]
    assert ends["forward"] > 6 and ends["reverse"] < 2


@pytest.mark.parametrize("static", [False, True])
def test_the_base_never_changes(
    static: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """static: tokens are decoded as on a GPU, whose step writes the adapter behind the weights."""
    monkeypatch.setattr(sampling, "decodes_statically", lambda decoder: static)
    run = open_run(toy.flags(tmp_path))
    before = {k: v.clone() for k, v in run.decoder.state_dict().items() if "lora" not in k}
    state = base_state(run)
    list(train.train(run))
    assert base_state(run) == state
    for name, tensor in run.decoder.state_dict().items():
        assert "lora" in name or torch.equal(tensor, before[name])
    with torch.no_grad():
        run.decoder.model.norm.weight.add_(1e-3)
    assert base_state(run) != state


def rows_of(decoder: Any, lengths: Sequence[int]) -> list[Rollout]:
    generator = torch.Generator().manual_seed(2)

    def ids(n: int) -> list[int]:
        return torch.randint(0, decoder.config.vocab_size, (n,), generator=generator).tolist()

    question = Question("q", "c", "?", "train", "ours")
    return [
        Rollout(question, i, "?", ids(5 + i), Completion(ids(n), [0.0] * n, "", "stop"))
        for i, n in enumerate(lengths)
    ]


# float64 tells a wrong weight from rounding; float32, which training uses, is the slow repetition.
# Every family and every loss is quick once, and the other pairs are slow.
@pytest.mark.parametrize(
    ("loss_type", "family"),
    [
        pytest.param(loss, family, marks=[] if n % 3 == m else pytest.mark.slow)
        for n, loss in enumerate(LOSS_TYPES)
        for m, family in enumerate(golden.FAMILIES)
    ],
)
@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(torch.float64, 1e-6), pytest.param(torch.float32, 1e-5, marks=pytest.mark.slow)],
)
def test_micro_batches_of_any_size_give_one_gradient(
    family: str, loss_type: str, dtype: torch.dtype, limit: float, tmp_path: Path
) -> None:
    decoder, _ = golden.load(family, dtype)
    lora.attach(decoder, 4, 8, seed=1)
    with torch.no_grad():  # B = 0 would make half of the gradient zero
        for parameter in lora.parameters(decoder).values():
            parameter.add_(0.02)
    rollouts = rows_of(decoder, [3, 9, 1, 4, 6, 6, 2, 12])
    for i, rollout in enumerate(rollouts):
        rollout.advantage = (-1.0) ** i * (i + 1) / 4
    gradients = []
    for micro_batch in (8, 3, 1):
        config = Config(micro_batch=micro_batch, loss_type=loss_type, beta=0.1, dtype="float32")
        optimizer = Optimizer(lora.parameters(decoder), config, 1)
        optimizer.step = lambda loss, norm: Outcome(0.0, 0.0)  # type: ignore[method-assign]
        run = Bare(config, decoder, Limit("--micro-batch", micro_batch))
        learn.learn(run, rollouts, optimizer)  # type: ignore[arg-type]
        grads = [p.grad for p in lora.parameters(decoder).values()]
        gradients.append(torch.cat([g.flatten() for g in grads if g is not None]))
    whole, *parts = gradients
    assert whole.norm() > 0
    for part in parts:
        assert (part - whole).norm() <= limit * whole.norm()


def test_logprobs_ignore_the_padding() -> None:
    decoder, _ = golden.load("gemma2")
    rollouts = rows_of(decoder, [3, 9, 1])
    together, entropy = learn.logprobs(decoder, rollouts, Config())
    alone = [learn.logprobs(decoder, [rollout], Config()) for rollout in rollouts]
    torch.testing.assert_close(together, torch.cat([a[0] for a in alone]), atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, torch.cat([a[1] for a in alone]), atol=1e-5, rtol=0)


def test_out_of_memory_goes_on_in_smaller_pieces_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake one: more than three rows never fit, in sampling, judging or the backward."""
    whole = contents(finished(tmp_path, out=str(tmp_path / "whole"), micro_batch=2, decode_rows=2))
    forward, step, sizes = Decoder.forward, Step.__call__, []

    def fit(rows: int) -> None:
        if rows > 3:
            raise torch.OutOfMemoryError
        sizes.append(rows)

    def small(self: Decoder, ids: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        fit(len(named["packed"].rows if "packed" in named else ids))
        return forward(self, ids, *rest, **named)

    def small_step(self: Step, token: torch.Tensor, *rest: Any) -> torch.Tensor:
        fit(len(token))
        return step(self, token, *rest)

    monkeypatch.setattr(Decoder, "forward", small)
    monkeypatch.setattr(Step, "__call__", small_step)
    run = open_run(toy.flags(tmp_path, micro_batch=8, decode_rows=8))
    notices = [n for event in train.train(run) for n in getattr(event, "notices", [])]
    assert (run.micro_limit.rows, run.decode_limit.rows) == (2, 2) and max(sizes) == 2
    assert [n.split(" with ")[1] for n in notices] == ["--decode-rows 2,", "--micro-batch 2,"]
    assert contents(run.store.folder) == whole


def test_memory_that_runs_out_within_the_update_does_not_apply_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-applied update cannot be repeated, so the error ends the run instead."""
    real, calls = Optimizer.adam, []

    def adam(self: Optimizer, rate: float) -> None:
        real(self, rate)
        calls.append(1)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Optimizer, "adam", adam)
    with pytest.raises(torch.OutOfMemoryError):
        list(train.train(open_run(toy.flags(tmp_path))))
    assert len(calls) == 1


def test_one_row_that_does_not_fit_is_an_error() -> None:
    def never(piece: Sequence[int]) -> int:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        list(in_pieces([1, 2, 3], Limit("--decode-rows", 8), never))


def test_two_iterations_use_old_logprobs(tmp_path: Path) -> None:
    one = finished(tmp_path)
    two = finished(tmp_path, iterations=2, out=str(tmp_path / "two"))
    first, second = (read_lines(f / "metrics.jsonl")[1] for f in (one, two))
    assert (first["update"], second["update"]) == (1, 2)
    assert first["loss"] == second["loss"] and first["kl"] == second["kl"] == 0


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int], what: str) -> None:
    """Make the loss, or one gradient, not finite at the given steps."""
    calls = {"n": 0}
    real = learn.accumulate

    def spoiled(*arguments: Any) -> Any:
        calls["n"] += 1
        done, parameters = real(*arguments), arguments[-1].parameters
        if calls["n"] not in steps:
            return done
        if what == "loss":
            return done._replace(loss=math.nan)
        name = next(name for name in parameters if "layers.1.mlp.up_proj.lora_B" in name)
        parameters[name].grad[0, 0] = math.nan
        return done

    monkeypatch.setattr(learn, "accumulate", spoiled)


@pytest.mark.parametrize(
    ("what", "named"), [("loss", "the loss"), ("grad", "1.mlp.up_proj.lora_B")]
)
def test_a_step_that_is_not_finite_is_skipped_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, named: str
) -> None:
    spoil(monkeypatch, {2, 3, 5}, what)
    folder = finished(tmp_path)
    steps = [x for x in read_lines(folder / "metrics.jsonl") if x["kind"] == "step"]
    assert [bool(line["not_finite"]) for line in steps] == [False, True, True, False, True, False]
    assert named in steps[1]["not_finite"]
    assert [line["update"] for line in steps] == [1, 1, 1, 2, 2, 3]  # no schedule advances


def test_three_in_a_row_stop_the_run_and_keep_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {2, 3, 4, 5}, "loss")
    run = open_run(toy.flags(tmp_path))
    with pytest.raises(Diverged, match=r"crash/step-000004\.jsonl"):
        list(train.train(run))
    run.store._lock.close()
    kept = run.store.folder / "crash/step-000004.jsonl"
    assert len(read_lines(kept)) == 8
    assert json.loads((run.store.folder / "status.json").read_text())["state"] == "diverged"
    spoil(monkeypatch, set(), "")
    next(iter(train.train(open_run(toy.flags(tmp_path)))))  # going on cuts the records, not this
    assert kept.exists()


def test_an_adapter_that_does_not_move_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Optimizer, "adam", lambda self, rate: None)
    with pytest.raises(UserError, match=r"did not change the adapter.*with another --out"):
        list(train.train(open_run(toy.flags(tmp_path))))


def test_an_adapter_that_does_not_move_is_said_after_a_first_step_without_a_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of equal scores teach nothing, which is no fault; the next step is looked at."""
    scripted, steps = train.judge, []

    def equal_at_first(run: Run, rollouts: Sequence[Rollout], phase: str) -> None:
        scripted(run, rollouts, phase)
        steps.append(len(rollouts) > len(run.eval_questions) * run.config.eval_samples)
        for rollout in rollouts if steps.count(True) == 1 else ():
            rollout.reward = 5.0

    monkeypatch.setattr(train, "judge", equal_at_first)
    monkeypatch.setattr(Optimizer, "adam", lambda self, rate: None)
    events = train.train(open_run(toy.flags(tmp_path)))
    told: list[Any] = []
    with pytest.raises(UserError, match="did not change the adapter"):
        told.extend(events)
    assert steps.count(True) == 2


def test_nan_in_the_model_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not injected into the optimizer but where it comes from: the policy's log-probs."""
    real = learn.logprobs

    def poisoned(decoder: Decoder, *arguments: Any) -> Any:
        values, entropy = real(decoder, *arguments)
        return values * (math.nan if next(lora.layers(decoder))[1].enabled else 1.0), entropy

    monkeypatch.setattr(learn, "logprobs", poisoned)
    run = open_run(toy.flags(tmp_path))
    with pytest.raises(Diverged, match="the policy's log-probs"):
        list(train.train(run))
    lines = read_lines(run.store.folder / "metrics.jsonl")
    assert lines[1]["loss"] is None and lines[1]["update"] == 0


def test_a_broken_policy_is_not_published(tmp_path: Path) -> None:
    """The last steps of a run, where three in a row never come together."""
    run = open_run(toy.flags(tmp_path, learning_rate=1e30, epochs=1))
    with pytest.raises(Diverged, match="not finite any more"):
        list(train.train(run))
    assert not (run.store.checkpoints / "epoch-01").exists()
    assert json.loads((run.store.folder / "status.json").read_text())["state"] == "diverged"


def test_a_broken_base_is_said_before_the_first_step(tmp_path: Path) -> None:
    folder = toy.model(tmp_path / "toy")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = math.nan
    save_file(tensors, folder / "model.safetensors")
    flags = toy.flags(tmp_path / "x") | {"model": str(folder)}
    with pytest.raises(UserError, match=r"logits that are not finite"):
        list(train.train(open_run(flags)))


def test_damaged_side_files_of_a_run(tmp_path: Path) -> None:
    folder = finished(tmp_path, 1)
    (folder / "env.json").write_text("5")
    finished(tmp_path)
    assert len(json.loads((folder / "env.json").read_text())) == 1
    for content in ("5", '{"science": 5}', "[]"):
        (folder / "config.json").write_text(content)
        with pytest.raises(UserError, match="no config of a run"):
            open_run(toy.flags(tmp_path))


def test_tokens_that_the_model_has_not_are_refused(tmp_path: Path) -> None:
    for change in ({"vocab_size": 200}, {"eos_token_id": 99999}, {"eos_token_id": -1}):
        flags = toy.flags(tmp_path) | {"model": str(toy.model(tmp_path / "small", **change))}
        with pytest.raises(UserError, match="one source"):
            open_run(flags)


def test_unscored_groups_teach_nothing_but_kl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(run: Run, rollouts: Sequence[Rollout], phase: str) -> None:
        for rollout in rollouts:
            rollout.verdict = Unscored("no-line")

    monkeypatch.setattr(train, "judge", blind)
    folder = finished(tmp_path, weight_decay=0.0)
    steps = [x for x in read_lines(folder / "metrics.jsonl") if x["kind"] == "step"]
    assert all(line["unscored"] == 1 and line["zero_variance_groups"] == 1 for line in steps)
    assert all(line["score"] is None and line["grad_norm"] == 0 for line in steps)


def test_learning_rate_schedule() -> None:
    config = Config(learning_rate=1.0, warmup_ratio=0.1)
    rates = [learning_rate(u, 100, config) for u in range(100)]
    assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert rates[10:] == pytest.approx([(100 - u) / 90 for u in range(10, 100)])
    assert all(rate > 0 for rate in rates)
    assert learning_rate(0, 3, Config(learning_rate=1.0, warmup_ratio=0.0)) == 1.0


def test_fp16_overflow_halves_the_scale_and_repeats_the_same_step(tmp_path: Path) -> None:
    decoder, _ = golden.load("llama")
    lora.attach(decoder, 4, 8, seed=1)
    parameters = lora.parameters(decoder)
    optimizer = Optimizer(parameters, Config(dtype="float16"), 10)
    assert optimizer.scale == 2.0**16
    first = next(iter(parameters.values()))

    def attempt(gradient: float) -> Any:
        optimizer.zero_grad()
        optimizer.backward((first * gradient).sum())
        return optimizer.step(0.0, optimizer.unscale(0.0))

    before = first.clone()
    with pytest.raises(Overflow):  # times 2^16 this is infinite in fp32
        attempt(1e34)
    assert optimizer.scale == 2.0**15 and optimizer.update == 0
    assert torch.equal(first, before)
    for _ in range(50):
        assert attempt(1e-3).failed == ""
    assert optimizer.update == 50 and optimizer.scale == 2.0**16
    for _ in range(16):
        with pytest.raises(Overflow):
            attempt(math.nan)
    outcome = attempt(math.nan)  # no scale helps: refused, and the scale is what it was
    assert outcome.failed == "gradient"
    assert optimizer.scale == 2.0**16 and optimizer.update == 50


def test_gradient_is_clipped_to_the_norm() -> None:
    decoder, _ = golden.load("llama")
    lora.attach(decoder, 4, 8, seed=1)
    parameters = lora.parameters(decoder)
    for scale, expected in ((3.0, 0.5), (1e-4, None)):
        optimizer = Optimizer(parameters, Config(max_grad_norm=0.5, dtype="float32"), 10)
        optimizer.zero_grad()
        optimizer.backward(scale * sum(p.sum() for p in parameters.values()))  # type: ignore[arg-type]
        norm = optimizer.step(0.0, optimizer.unscale(0.0)).norm
        count = sum(p.numel() for p in parameters.values())
        assert norm == pytest.approx(scale * count**0.5, rel=1e-4)
        kept = torch.cat([p.grad.flatten() for p in parameters.values() if p.grad is not None])
        assert kept.norm().item() == pytest.approx(expected or norm, rel=1e-4)


def test_optimizer_state_goes_through_files() -> None:
    def fresh() -> tuple[dict[str, Any], Optimizer]:
        decoder, _ = golden.load("llama")
        lora.attach(decoder, 4, 8, seed=1)
        parameters = lora.parameters(decoder)
        return parameters, Optimizer(parameters, Config(learning_rate=0.1, dtype="float32"), 20)

    def pull(parameters: dict[str, Any], optimizer: Optimizer, times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad()
            optimizer.backward(sum((p**2).sum() for p in parameters.values()))  # type: ignore[arg-type]
            optimizer.step(0.0, optimizer.unscale(0.0))

    straight, optimizer = fresh()
    pull(straight, optimizer, 6)
    halves, optimizer = fresh()
    pull(halves, optimizer, 3)
    saved, counters = optimizer.tensors(), optimizer.counters()
    again, optimizer = fresh()
    with torch.no_grad():
        for name, parameter in again.items():
            parameter.copy_(halves[name])
    optimizer.load(saved, counters)
    pull(again, optimizer, 3)
    assert all(torch.equal(again[name], straight[name]) for name in straight)
