"""NaN and infinity, put where they could arise: no step is taken, and the first bad place is named.

Each is put in through the function or module that makes the number, on a random toy model.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from safetensors.torch import save
from torch import Tensor

from minihmx import advantages, cli, grpo, lora, rollout, train
from minihmx.config import Config
from minihmx.errors import Diverged
from minihmx.models.decoder import Decoder
from minihmx.optimizer import Optimizer
from minihmx.records import Verdict
from minihmx.run import Run, open_run
from minihmx.storage.disk import read_lines

token_logprobs = partial(grpo.token_logprobs, temperature=1.0, softcap=None, chunk=8192)
PLAN = {2: math.nan, 4: math.inf, 6: -math.inf, 8: math.nan, 9: math.nan, 10: math.nan}  # by step
ROW = r" \(question train-\d+, sample \d"
TOKEN = ROW + r", token \d"


class Fault:
    """The value that stands in for a number, None for none; hits counts where it did."""

    def __init__(self) -> None:
        self.value: float | None = None
        self.hits = 0

    def spoil(self, tensor: Tensor, *at: int) -> Tensor:
        """A copy with the value at a place; the tensor itself where there is none."""
        if self.value is None:
            return tensor
        self.hits += 1
        spoilt = tensor.clone()
        spoilt[at] = self.value
        return spoilt


Plant = Callable[[pytest.MonkeyPatch, Fault, Run], None]


def adapter_is_on(decoder: Decoder) -> bool:
    return next(lora.layers(decoder))[1].enabled


def generating(policy: bool, column: int) -> Plant:
    """One logit of the last row, while sampling (adapter on) or judging (off)."""

    def plant(patch: pytest.MonkeyPatch, fault: Fault, run: Run) -> None:
        real = Decoder.logits

        def logits(self: Decoder, hidden: Tensor) -> Tensor:
            out = real(self, hidden)
            here = torch.is_inference_mode_enabled() and adapter_is_on(self) == policy
            return fault.spoil(out, -1, column) if here else out

        patch.setattr(Decoder, "logits", logits)

    return plant


def learning(policy: bool, what: str) -> Plant:
    """One logit, or one log-prob, of the pass that trains or of the reference's."""

    def plant(patch: pytest.MonkeyPatch, fault: Fault, run: Run) -> None:
        scaled, tokens = grpo._scaled_logits, grpo.token_logprobs

        def logits(*arguments: Any) -> Any:
            out, slope = scaled(*arguments)
            here = adapter_is_on(run.decoder) == policy
            return (fault.spoil(out, 1, 5) if here else out), slope

        def logprobs(*arguments: Any, **options: Any) -> Any:
            out, entropy = tokens(*arguments, **options)
            here = adapter_is_on(run.decoder) == policy
            return (fault.spoil(out, 1) if here else out), entropy

        if what == "logits":
            patch.setattr(grpo, "_scaled_logits", logits)
        else:
            patch.setattr(grpo, "token_logprobs", logprobs)

    return plant


def function(module: Any, name: str, spoilt: Callable[[Any, float], Any]) -> Plant:
    """What a function gives."""

    def plant(patch: pytest.MonkeyPatch, fault: Fault, run: Run) -> None:
        real = getattr(module, name)

        def faulty(*arguments: Any, **options: Any) -> Any:
            out = real(*arguments, **options)
            if fault.value is None:
                return out
            fault.hits += 1
            return spoilt(out, fault.value)

        patch.setattr(module, name, faulty)

    return plant


def activation(patch: pytest.MonkeyPatch, fault: Fault, run: Run) -> None:
    """One number that the second layer's up_proj gives, wherever the adapter is on."""

    def hook(module: Any, given: Any, out: Tensor) -> Tensor:
        return fault.spoil(out, 0, -1, 3) if module.enabled else out

    run.decoder.model.layers[1].mlp.up_proj.register_forward_hook(hook)  # type: ignore[union-attr,operator]


def gradient(patch: pytest.MonkeyPatch, fault: Fault, run: Run) -> None:
    """The gradient of one parameter."""
    for name, parameter in lora.parameters(run.decoder).items():
        if "layers.0.mlp.gate_proj.lora_A" in name:
            parameter.register_hook(lambda grad: fault.spoil(grad, 2, 3))


def gradient_flow(patch: pytest.MonkeyPatch, fault: Fault, run: Run) -> None:
    """The gradient by what the second layer's k_proj gave: all below it becomes NaN too."""

    def hook(module: Any, given: Any, out: Tensor) -> None:
        if out.requires_grad:
            out.register_hook(lambda grad: fault.spoil(grad, 0, 0, 1))

    run.decoder.model.layers[1].self_attn.k_proj.register_forward_hook(hook)  # type: ignore[union-attr,operator]


PLACES: dict[str, tuple[Plant, str]] = {
    "sampling, a logit": (generating(True, 5), r"the sampler's logits" + TOKEN),
    "judging, a logit": (generating(False, 5), r"the judge's logits" + ROW),
    "learning, a logit": (learning(True, "logits"), r"the policy's logits" + TOKEN),
    "learning, a log-prob": (learning(True, "log-probs"), r"the policy's log-probs" + TOKEN),
    "reference, a logit": (learning(False, "logits"), r"the reference's logits" + TOKEN),
    "reference, a log-prob": (learning(False, "log-probs"), r"the reference's log-probs" + TOKEN),
    "a reward": (function(rollout, "reward", lambda out, bad: bad), r"the reward" + ROW),
    "an advantage": (
        function(advantages, "group_advantages", lambda out, bad: [*out[:2], bad, *out[3:]]),
        r"the advantage" + ROW.replace(r"\d", "2").replace("train-2", r"train-\d"),
    ),
    "the KL": (function(grpo, "k3", lambda out, bad: out + bad), r"the KL" + TOKEN),
    "the loss": (
        function(grpo, "loss", lambda out, bad: out._replace(loss=out.loss + bad)),
        r"the loss$",
    ),
    "an activation": (
        activation,
        r"the sampler's logits" + TOKEN + r"\d*, first in model\.layers\.1\.mlp\.up_proj\)",
    ),
    "a gradient": (gradient, r"the gradient of .*layers\.0\.mlp\.gate_proj\.lora_A\.weight$"),
    "the gradient's flow": (
        gradient_flow,
        r"the gradient of .*layers\.1\.self_attn\.k_proj\.lora_B\.weight$",
    ),
}


def state(run: Run, optimizer: Optimizer) -> tuple[bytes, bytes, dict[str, Any]]:
    """Adapter and optimizer as the bytes that a checkpoint would hold, and the counters."""
    adapter = {name: p.detach() for name, p in lora.parameters(run.decoder).items()}
    return save(adapter), save(optimizer.tensors()), optimizer.counters()


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Run, list[Any]]]:
    """A run of ten steps in one epoch, and the optimizer it will make; all answers get scores."""
    made: list[Any] = []
    scores = itertools.cycle(range(11))

    def optimizer(*arguments: Any) -> Optimizer:
        made.append(Optimizer(*arguments))
        return made[0]

    def verdict(text: str, finished: bool) -> Verdict:
        return Verdict(next(scores), (0, 1))

    monkeypatch.setattr(train, "Optimizer", optimizer)
    monkeypatch.setattr(rollout, "parse_score", verdict)
    many = str(toy.questions(tmp_path / "many.jsonl", train=20, held_out=1))
    (rubric := tmp_path / "rubric.txt").write_text("Rate it.")
    small = dict(epochs=1, max_completion_length=4, judge_max_tokens=2, rubric=str(rubric))
    run = open_run(toy.flags(tmp_path, questions=many, **small))
    yield run, made
    run.store._lock.close()


@pytest.mark.parametrize(
    "place",  # every second one is quick
    [pytest.param(p, marks=pytest.mark.slow if n % 2 else []) for n, p in enumerate(PLACES)],
)
def test_nothing_that_is_not_finite_moves_the_adapter(
    place: str, started: tuple[Run, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between good steps, and at last three times in a row."""
    plant, named = PLACES[place]
    (run, made), fault = started, Fault()
    plant(monkeypatch, fault, run)
    states, updates, events = [], [], train.train(run)
    while not isinstance(next(events), train.Evaluated):
        pass
    with pytest.raises(Diverged, match=r"Three steps in a row .*crash/step-000010\.jsonl") as stop:
        while True:
            states.append(state(run, made[0]))
            fault.value, fault.hits = PLAN.get(len(states)), 0
            next(events)
            assert bool(fault.hits) == (len(states) in PLAN)
    assert stop.value.code == 3 and fault.hits and len(states) == 10
    states.append(state(run, made[0]))

    lines = read_lines(run.store.folder / "metrics.jsonl")[1:]
    assert [line["step"] for line in lines] == list(range(1, 11))
    for step, line in enumerate(lines, 1):
        file = f"step-{step:06d}.jsonl"
        rows = (run.store.folder / "rollouts" / file).read_bytes()
        crash = run.store.folder / "crash" / file
        assert rows.count(b"\n") == 8
        updates.append(line["update"])
        if step in PLAN:
            assert re.search(named, line["not_finite"]), line["not_finite"]
            assert crash.read_bytes() == rows
            assert states[step] == states[step - 1]
        else:
            assert line["not_finite"] == "" and not crash.exists()
            assert states[step][0] != states[step - 1][0]
            assert states[step][1] != states[step - 1][1]
    assert updates == [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    rates = [line["learning_rate"] for line in lines]
    assert rates[1] == rates[2] and rates[3] == rates[4]  # what was skipped comes next
    assert json.loads((run.store.folder / "status.json").read_text())["state"] == "diverged"


def test_the_command_line_ends_with_3_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fault, flags = Fault(), toy.flags(tmp_path)
    plant, _ = PLACES["the loss"]
    plant(monkeypatch, fault, None)  # type: ignore[arg-type]
    fault.value = math.nan
    model = str(flags.pop("model"))
    given = [word for name, x in flags.items() for word in (f"--{name.replace('_', '-')}", str(x))]
    assert cli.main(["train", model, *given]) == 3
    captured = capsys.readouterr()
    assert captured.out.count("SKIPPED, not finite: the loss") == 2
    assert "(last: the loss), so the run stops; the batch is kept in" in captured.err


def test_what_an_evaluation_meets_is_named_and_does_not_stop_the_run(
    started: tuple[Run, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that overflows on one answer: unscored, in metrics.jsonl and told."""
    (run, _), fault = started, Fault()
    plant, named = PLACES["judging, a logit"]
    plant(monkeypatch, fault, run)
    fault.value = math.nan
    events = train.train(run)
    evaluated = [next(events), next(events)][-1]
    assert isinstance(evaluated, train.Evaluated)
    reasons = [getattr(rollout.verdict, "reason", "") for rollout in evaluated.rollouts]
    assert reasons == ["", "judge-not-finite"]
    pattern = named.replace("train", "eval")
    assert re.search(pattern, evaluated.metrics["not_finite"])
    assert any(re.match("not finite: " + pattern, notice) for notice in evaluated.notices)


def test_a_spoilt_second_iteration_ends_the_step(
    started: tuple[Run, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run, made), real, calls = started, grpo.loss, []

    def loss(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        out = real(*arguments, **options)
        return out._replace(loss=out.loss * math.nan) if len(calls) == 2 else out

    monkeypatch.setattr(grpo, "loss", loss)
    object.__setattr__(run, "config", dataclasses.replace(run.config, iterations=3))
    events = train.train(run)
    first = [next(events) for _ in range(3)][-1]
    assert isinstance(first, train.Stepped)
    assert first.metrics["not_finite"] == "the loss" and first.metrics["update"] == 1
    assert len(calls) == 2 and made[0].update == 1


def test_an_update_that_spoils_a_parameter_stops_the_run_at_once(
    started: tuple[Run, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third; nothing of it is saved, not even by the clock."""
    (run, made), real = started, Optimizer.adam

    def adam(self: Optimizer, rate: float) -> None:
        real(self, rate)
        if made[0].update == 2:
            name = next(n for n in made[0].parameters if "layers.1.mlp.up_proj.lora_A" in n)
            made[0].parameters[name].data[1, 2] = math.inf

    monkeypatch.setattr(Optimizer, "adam", adam)
    monkeypatch.setattr(train, "LATEST_SECONDS", 0)
    with pytest.raises(Diverged, match=r"layers\.1\.mlp\.up_proj\.lora_A\.weight after the update"):
        list(train.train(run))
    line = read_lines(run.store.folder / "metrics.jsonl")[-1]
    assert (line["step"], line["update"]) == (3, 3) and "up_proj.lora_A" in line["not_finite"]
    assert (run.store.folder / "crash/step-000003.jsonl").exists()
    state = json.loads((run.store.checkpoints / "latest-step/state.json").read_text())
    assert state["step"] == 2
    assert json.loads((run.store.folder / "status.json").read_text())["state"] == "diverged"


def test_a_norm_that_overflows_is_named_as_such() -> None:
    """Every gradient is finite here, and the sum of their squares is not."""
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = Optimizer({"x": parameter}, Config(dtype="float32"), 10)
    optimizer.zero_grad()
    optimizer.backward((parameter * 1e30).sum())
    outcome = optimizer.step(0.0, optimizer.unscale(0.0))
    assert outcome.failed == "gradient"
    assert optimizer.update == 0 and torch.equal(parameter, torch.ones(4))


def test_a_logit_of_minus_infinity_is_seen_although_it_is_not_the_target() -> None:
    hidden, head = torch.eye(3), torch.tensor([[1.0, 0.0, 0.0], [0.0, -math.inf, 1.0]])
    logprobs, entropy = token_logprobs(hidden[2:], head, torch.tensor([1]))
    assert logprobs.isnan().all()  # 0 * -inf, as any product makes it
    softly = torch.tensor([[2.0, -math.inf]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "_scaled_logits", lambda *_: (softly, 1.0))
        logprobs, entropy = token_logprobs(hidden[:1], head, torch.tensor([0]))
    assert logprobs.isnan().all() and not torch.isfinite(entropy).any()
