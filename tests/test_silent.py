"""What docs/decisions.md names as an alternative: each flag changes what it should and no more."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from command_line import in_process, refused

from minihmx import grpo, train
from minihmx.advantages import assign_advantages, assign_weights, group_advantages
from minihmx.config import FIELDS, Config, check_config, is_told, learning_rate, science
from minihmx.engine.draw import cut_softmax, draw
from minihmx.engine.samplers import USUAL, Sampler, respelled, sampler_of
from minihmx.errors import UserError
from minihmx.judge import reward
from minihmx.records import Completion, Question, Rollout, Unscored, Verdict
from minihmx.results.audit import audit_path
from minihmx.run import open_run
from minihmx.storage.disk import read_lines
from minihmx.storage.identity import science_digest

LATE = {name for name, field in FIELDS.items() if field.metadata["late"]}
CONFIG = Config(max_completion_length=8)


def answers(
    rewards: Sequence[float | None], lengths: Sequence[int], cut: Sequence[int] = ()
) -> list[Rollout]:
    """Groups of four; `cut` are those that ran into the cap."""
    found = []
    for i, (value, length) in enumerate(zip(rewards, lengths, strict=True)):
        ids = list(range(length))
        said = Completion(ids, [], "", "length" if i in cut else "stop")
        question = Question(f"q{i // 4}", "c", "?", "train", "ours")
        found.append(Rollout(question, i % 4, "?", [], said, reward=value))
    return found


# --- advantages, rewards, weights, loss -----------------------------------------------------------


def test_divisors_by_hand() -> None:
    rewards = [7, 8, 8, 9]
    root = math.sqrt(0.5)  # of (1 + 0 + 0 + 1) / 4; with n - 1 it is sqrt(2 / 3)
    assert group_advantages(rewards, 1e-4, "population") == pytest.approx(
        [-1 / (root + 1e-4), 0, 0, 1 / (root + 1e-4)]
    )
    assert group_advantages(rewards, 1e-4, "none") == [-1, 0, 0, 1]
    step = [7.0, 8.0, 8.0, 9.0, 0.0, 0.0, 4.0]
    # mean 36 / 7; the sum of squares 274 less 36² / 7 is 88.857, over 6: 14.8095
    by_step = 1 / (math.sqrt(14.809523809523809) + 1e-4)
    assert group_advantages(rewards, 1e-4, "batch", step) == pytest.approx(
        [-by_step, 0, 0, by_step]
    )


@pytest.mark.parametrize("divisor", ["sample", "population", "batch", "none"])
def test_a_divisor_is_that_of_every_group_and_mirrors(divisor: str) -> None:
    values = [7.0, 8.0, None, 9.0, 1.0, 5.0, 5.0, 5.0]
    config = replace(CONFIG, advantage_divisor=divisor)
    forward = answers(values, [4] * 8)
    reverse = answers([None if v is None else -v for v in values], [4] * 8)
    for rollouts in (forward, reverse):
        assign_advantages(rollouts, config)
    assert [r.advantage for r in reverse] == [-r.advantage for r in forward]
    assert forward[2].advantage == 0 and sum(r.advantage for r in forward[4:]) == pytest.approx(0)
    assert forward[0].group_std == 1.0  # of 7, 8, 9 by n - 1, whatever divides
    if divisor == "batch":
        rewards = [v for v in values if v is not None]
        centre = sum(rewards) / 7
        spread = math.sqrt(sum((v - centre) ** 2 for v in rewards) / 6)
        assert forward[0].advantage == pytest.approx(-1 / (spread + 1e-4))
        assert forward[4].advantage == pytest.approx(-3 / (spread + 1e-4))


def test_an_unscored_answer_as_zero_is_the_best_in_reverse() -> None:
    verdicts = [Verdict(7, (0, 1)), Verdict(3, (0, 1)), Unscored("no-line"), Verdict(5, (0, 1))]
    for direction, values in (("forward", [7, 3, 0, 5]), ("reverse", [-7, -3, 0, -5])):
        config = replace(CONFIG, direction=direction, unscored="zero")
        assert [reward(v, direction, "zero") for v in verdicts] == values
        rollouts = answers([reward(v, direction, "zero") for v in verdicts], [4] * 4)
        assign_advantages(rollouts, config)
        best = max(rollouts, key=lambda r: r.advantage)
        assert best is rollouts[2 if direction == "reverse" else 0]
        # mean 3.75; squares 10.5625, 0.5625, 14.0625 and 1.5625 over 3
        expected = [(v - sum(values) / 4) / (math.sqrt(26.75 / 3) + 1e-4) for v in values]
        assert [r.advantage for r in rollouts] == pytest.approx(expected)
    assert math.isnan(reward(Unscored("judge-not-finite"), "reverse", "zero") or 0.0)


@pytest.mark.parametrize(
    ("loss_type", "weights"),
    [
        # 3 + 2 + 1 tokens count in the first group and 4 in each of four rows of the second
        ("bnpo", [1 / 12, 0, 1 / 12, 1 / 12, *[1 / 32] * 4]),
        ("grpo", [1 / 24, 0, 1 / 16, 1 / 8, *[1 / 32] * 4]),
        ("dr_grpo", [1 / 64, 0, 1 / 64, 1 / 64, *[1 / 64] * 4]),
        ("dapo", [1 / 22, 0, 1 / 22, 1 / 22, *[1 / 22] * 4]),
    ],
)
def test_a_masked_answer_weighs_nothing_and_counts_in_no_normaliser(
    loss_type: str, weights: list[float]
) -> None:
    rollouts = answers([1.0] * 8, [3, 8, 2, 1, 4, 4, 4, 4], cut=[1])
    assign_weights(rollouts, replace(CONFIG, loss_type=loss_type, truncated="masked"))
    assert [r.weight for r in rollouts] == pytest.approx(weights)
    rollouts[1].reward = 9.0
    assign_advantages(rollouts, CONFIG)
    assert rollouts[1].advantage > 0 > rollouts[0].advantage  # and it stays in its group


@pytest.mark.parametrize("old", [None, torch.tensor([-1.0, -100.0])])
def test_a_token_that_weighs_nothing_spoils_no_step(old: torch.Tensor | None) -> None:
    """Its k3 and, from the second iteration on, its ratio overflow; what is NaN still shows."""
    policy = torch.tensor([-1.0, -200.0 if old is None else -1.0], requires_grad=True)
    reference = torch.tensor([-1.5, -1.0 if old is None else 200.0])
    advantage, weights = torch.tensor([2.0, -3.0]), torch.tensor([0.5, 0.0])
    found = grpo.loss(policy, reference, advantage, weights, beta=0.1, clip=0.2, old_N=old)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(0.5 * (0.1 * (math.exp(-0.5) - 0.5) - 2.0))
    # the derivative of k3 by the policy is 1 - exp(reference - policy)
    expected = 0.5 * (0.1 * (1 - math.exp(-0.5)) - 2.0)
    assert policy.grad is not None and policy.grad.tolist() == [pytest.approx(expected), 0.0]
    assert math.isinf(found.kl[1].item())  # and it is told as it is
    spoilt = reference * torch.tensor([1.0, math.nan])
    bad = grpo.loss(policy, spoilt, advantage, weights, beta=0.1, clip=0.2, old_N=old)
    assert math.isnan(bad.loss.item())


@pytest.mark.parametrize("which", ["policy", "reference", "both", "old"])
def test_a_weightless_token_that_no_model_would_say_spoils_no_step(which: str) -> None:
    """A log-prob of minus infinity; loss and gradient are those of the other token, to the bit."""
    finite = torch.tensor([-1.0, -2.0])
    never = torch.tensor([-1.0, -math.inf])
    found = []
    for bad in (finite, never):
        policy = (bad if which in ("policy", "both") else finite).clone().requires_grad_()
        reference = (bad if which in ("reference", "both") else finite) - 0.5
        old = bad if which == "old" else None
        advantage, weights = torch.tensor([2.0, -3.0]), torch.tensor([0.5, 0.0])
        loss = grpo.loss(policy, reference, advantage, weights, beta=0.1, clip=0.2, old_N=old).loss
        loss.backward()
        assert policy.grad is not None
        found.append((loss.item(), *policy.grad.tolist()))
    assert found[0] == found[1] and found[1][2] == 0.0


def test_shuffled_rows_are_divided_by_the_tokens_of_their_part() -> None:
    lengths = [3, 8, 2, 1, 4, 5, 6, 7]
    rollouts = answers([1.0] * 8, lengths)
    config = replace(CONFIG, loss_type="bnpo_shuffled")
    assign_weights(rollouts, config)
    parts: dict[float, int] = {}
    for r in rollouts:
        parts[r.weight] = parts.get(r.weight, 0) + len(r.completion.ids)
    assert {weight: 1 / (2 * tokens) for weight, tokens in parts.items()} == pytest.approx(
        {weight: weight for weight in parts}
    )
    assert len(parts) == 2 and sum(parts.values()) == sum(lengths)
    own = [r.weight for r in rollouts]
    other = answers([-1.0] * 8, lengths)
    assign_weights(other, replace(config, direction="reverse"))
    assert [r.weight for r in other] == own  # both directions shuffle alike
    shuffles = set()
    for seed in range(1, 9):
        assign_weights(other, replace(config, seed=seed))
        shuffles.add(tuple(r.weight for r in other))
    assert len(shuffles) > 4  # and another seed does otherwise


def test_a_higher_upper_bound_by_hand() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    for ratio, advantage, high, expected in (
        (2.0, 1.0, 0.0, -1.2),
        (2.0, 1.0, 0.5, -1.5),
        (2.0, -1.0, 0.5, 2.0),
        (0.5, -1.0, 0.5, 0.8),  # the lower bound stays
    ):
        policy = torch.log(torch.tensor([ratio]))
        result = grpo.loss(
            policy, zero, advantage * one, one, beta=0.0, clip=0.2, clip_high=high, old_N=zero
        )
        assert result.loss.item() == pytest.approx(expected)


def test_the_schedule_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = Config(learning_rate=0.5, warmup_ratio=0.3, first_rate="zero")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 3, 10)
    for update in range(10):
        assert learning_rate(update, 10, config) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert learning_rate(0, 10, config) == 0 < learning_rate(0, 10, Config())


# --- drawing --------------------------------------------------------------------------------------


def brute(logits: torch.Tensor, sampler: Sampler) -> list[float]:
    """The distribution, token by token in plain Python."""
    values = [value / sampler.temperature for value in logits.tolist()]
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    order = order[: sampler.top_k or None]
    weights = {i: math.exp(values[i] - max(values)) for i in order}
    total, held, kept = sum(weights.values()), 0.0, {}
    for i in order:
        if held < sampler.top_p * total:
            kept[i] = weights[i]
        held += weights[i]
    return [kept.get(i, 0.0) / sum(kept.values()) for i in range(len(values))]


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(1.0),
        Sampler(0.6),
        Sampler(1.0, top_k=3),
        Sampler(1.0, top_p=0.7),
        Sampler(0.6, top_k=20, top_p=0.95),
        Sampler(2.0, top_k=5, top_p=0.5),
        Sampler(1.0, top_k=10**9, top_p=1e-9),
    ],
)
def test_a_sampler_draws_from_the_brute_force_distribution(sampler: Sampler) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(300, generator=generator) * 3
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    token, logprob = draw(logits.expand(len(u), -1), 0.8, u, sampler)
    shares = torch.bincount(token, minlength=300) / len(u)
    expected = torch.tensor(brute(logits, sampler))
    assert (shares - expected).abs().max() <= 2 / len(u)
    assert not shares[expected == 0].any()
    # What trains is plain softmax at the run's temperature, whatever drew the token.
    torch.testing.assert_close(logprob, torch.log_softmax(logits / 0.8, -1)[token])


def test_one_token_is_argmax_and_of_equals_the_first() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 2.0], [3.0, 1.0, 3.0, 3.0]])
    for u in (1e-9, 0.5, 1 - 1e-9):
        noise = torch.full((2,), u, dtype=torch.float64)
        token, _ = draw(logits, 1.0, noise, sampler_of("greedy", 1.0))
        assert token.tolist() == logits.argmax(-1).tolist() == [1, 0]


def test_a_token_that_plain_softmax_rounds_to_nothing_has_a_logprob() -> None:
    logits = torch.tensor([[0.0, 200.0]])
    token, logprob = draw(logits, 1.0, torch.tensor([1e-9]).double(), Sampler(1000.0))
    assert (token.item(), logprob.item()) == (0, pytest.approx(-200.0))
    assert not torch.isfinite(draw(logits * torch.nan, 1.0, torch.tensor([0.5]).double())[1]).any()
    bad = draw(logits * torch.nan, 1.0, torch.tensor([0.5]).double(), Sampler(1.0, 5, 0.5))
    assert not torch.isfinite(bad[1]).any() and 0 <= bad[0].item() < 2


@pytest.mark.parametrize("sampler", [Sampler(1.0, 5, 0.5), Sampler(0.7, 4), Sampler(1.0, 0, 0.6)])
def test_equal_logits_are_cut_by_their_ids_and_nothing_is_sorted(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(20, 300, generator=generator) * 2).round()
    third = torch.arange(300) % 3
    logits[0] = torch.where(third == 0, -20.0, torch.where(third == 1, 0.0, -0.0))  # 200 are equal
    monkeypatch.setattr(torch.Tensor, "argsort", None)  # what took 0.6 s for 40 x 150,000
    found = cut_softmax(logits, sampler)
    for row, cut in zip(logits, found / found.sum(-1, keepdim=True), strict=True):
        torch.testing.assert_close(cut, torch.tensor(brute(row, sampler)), atol=1e-6, rtol=1e-5)


def test_nothing_is_cut_without_a_reason() -> None:
    logits = torch.randn(2, 50)
    assert torch.equal(cut_softmax(logits, Sampler(1.0)), torch.softmax(logits, -1))


# --- what cannot work -----------------------------------------------------------------------------

REFUSED = {
    "sampler": {
        "greedy": "would be the same",
        "top_k=1": "would be the same",
        "top_k=0": "give plain",
        "top_p=0": "give plain",
        "top_p=1.5": "give plain",
        "temperature=nan": "give plain",
        "temperature=0": "give plain",
        "temperature=1e-9": "a temperature from 0.0001 on",
        "top_k=2.5": "give plain",
        "top_k=5,top_k=6": "give plain",
        "min_p=0.1": "give plain",
        "": "give plain",
        "train": "give plain",
    },
    "judge_sampler": {"train": "give plain, greedy", "argmax": "give plain, greedy"},
    "eval_sampler": {"greedy": "add --eval-samples 1", "x": "or train"},
    "stop_ids": {"x": "token ids", "1,": "token ids", "-1": "token ids", "1 2": "token ids"},
    "advantage_divisor": {"std": "sample, population, batch, none"},
    "unscored": {"0": "left-out, zero"},
    "truncated": {"mask": "perhaps masked"},
    "first_rate": {"0": "moves, zero"},
    "loss_type": {"bnpo-shuffled": "perhaps bnpo_shuffled"},
    "clip_epsilon_high": {-0.1: "0, or a number from", math.nan: "0, or a number from"},
}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [(name, value, words) for name, values in REFUSED.items() for value, words in values.items()],
)
def test_bad_values_are_refused_in_one_sentence(name: str, value: Any, words: str) -> None:
    with pytest.raises(UserError) as error:
        check_config(Config(**{name: value}), 4096)
    flag = f"--{name.replace('_', '-')}"
    text = str(error.value)
    assert text.startswith(flag) and words in text and text.count(". ") == 0


def test_they_are_refused_as_typed(tmp_path: Path) -> None:
    done = in_process("train", "tiny", "--sampler", "top_p=2", "--out", tmp_path)
    refused(done, "--sampler top_p=2 cannot work: give plain")
    done = in_process("train", "tiny", "--sampler", "model", "--out", tmp_path)
    refused(done, "names no temperature, top_k or top_p", "--sampler temperature=0.6")
    done = in_process("train", "tiny", "--stop-ids", "4,99999", "--out", tmp_path)
    refused(done, "--stop-ids 4,99999 cannot work")
    assert not list(tmp_path.iterdir())


# --- whole runs -----------------------------------------------------------------------------------


def trained(folder: Path, stop_after: int = -1, **changes: object) -> Path:
    """A run of toy's, or its first steps; returns its folder."""
    folder.mkdir(exist_ok=True)
    run, done = open_run(toy.flags(folder, **changes)), 0

    def should_stop() -> bool:
        return done == stop_after

    for event in train.train(run, should_stop):
        done += isinstance(event, train.Stepped)
    run.store._lock.close()
    return run.store.folder


# Some of a toy's answers end by themselves with these, so that lengths differ.
ENDS: dict[str, object] = {
    "stop_ids": ",".join(map(str, range(40, 90))),
    "max_completion_length": 16,
    "seed": 12,
}
FROM_REWARDS = {"group_mean", "group_std", "advantage"}
# Of each alternative, the columns of the first step that may differ from the default's.
CHANGES: dict[str, tuple[dict[str, object], set[str]]] = {
    "population": ({"advantage_divisor": "population"}, {"advantage"}),
    "batch": ({"advantage_divisor": "batch"}, {"advantage"}),
    "none": ({"advantage_divisor": "none"}, {"advantage"}),
    "zero": ({"unscored": "zero"}, {"reward", *FROM_REWARDS}),
    "masked": ({"truncated": "masked"}, {"weight"}),
    "shuffled": ({"loss_type": "bnpo_shuffled"}, {"weight"}),
    "first rate": ({"first_rate": "zero"}, set()),
    "greedy": ({"eval_samples": 1, "eval_sampler": "greedy"}, set()),
    "higher": ({"iterations": 2, "clip_epsilon": 1e-4, "clip_epsilon_high": 5.0}, set()),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """The run with the defaults, made once."""
    made: list[Path] = []

    def make() -> Path:
        if not made:
            made.append(trained(tmp_path_factory.mktemp("plain") / "run", **ENDS))
        return made[0]

    return make


@pytest.mark.parametrize("name", CHANGES)
def test_a_flag_changes_what_it_should_and_nothing_else(
    name: str, judged: None, plain: Callable[[], Path], tmp_path: Path
) -> None:
    flags, columns = CHANGES[name]
    default, other = plain(), trained(tmp_path / "run", **ENDS, **flags)
    first = [read_lines(run / "rollouts/step-000001.jsonl") for run in (default, other)]
    differ = {
        column
        for one, two in zip(*first, strict=True)
        for column in one
        if one[column] != two[column]
    }
    assert differ == columns
    metrics = [read_lines(run / "metrics.jsonl") for run in (default, other)]
    before, after = ([line for line in lines if line["kind"] == "step"] for lines in metrics)
    zero = name == "first rate"
    assert (after[0]["learning_rate"] == 0) == zero
    if zero:  # the first step taught nothing, so the second asks the untouched model
        assert after[1]["kl"] == 0 < before[1]["kl"]
    if name == "greedy":
        for path in sorted(default.glob("rollouts/*")):  # training never sees an evaluation
            assert (other / "rollouts" / path.name).read_bytes() == path.read_bytes()
    elif columns:
        assert after[-1]["kl"] != before[-1]["kl"]


def test_a_higher_bound_matters_behind_the_first_iteration(judged: None, tmp_path: Path) -> None:
    shared = {"iterations": 2, "clip_epsilon": 1e-4}
    low, high = (
        trained(tmp_path / str(i), **shared, **more)
        for i, more in enumerate(({}, {"clip_epsilon_high": 5.0}))
    )
    losses = [[line.get("kl") for line in read_lines(run / "metrics.jsonl")] for run in (low, high)]
    assert losses[0][:2] == losses[1][:2] and losses[0][-1] != losses[1][-1]


def test_a_greedy_evaluation_is_greedy(judged: None, tmp_path: Path) -> None:
    flags = {"eval_samples": 1, "eval_sampler": "greedy"}
    rows = []
    for seed in (1, 2):  # at epoch 0 every seed is the untouched model, so only noise could differ
        run = trained(tmp_path / str(seed), stop_after=1, seed=seed, **flags)
        rows.append(read_lines(run / "evaluations/epoch-00.jsonl"))
    assert [row["ids"] for row in rows[0]] == [row["ids"] for row in rows[1]]
    line, *_ = read_lines(run / "metrics.jsonl")
    assert line["sampler_gap"] < 1e-4


def test_answers_end_at_the_given_ids(judged: None, tmp_path: Path) -> None:
    free = trained(tmp_path / "free", stop_after=1, max_completion_length=40)
    rows = read_lines(free / "evaluations/epoch-00.jsonl")
    token = rows[0]["ids"][3]
    run = trained(tmp_path / "run", stop_after=1, max_completion_length=40, stop_ids=str(token))
    ended = read_lines(run / "evaluations/epoch-00.jsonl")
    assert ended[0]["finish"] == "stop" and ended[0]["ids"][-1] == token
    assert len(ended[0]["ids"]) <= 4
    assert all((row["ids"][-1] == token) == (row["finish"] == "stop") for row in ended)
    assert json.loads((run / "config.json").read_text())["science"]["stop_ids"] == str(token)


@pytest.mark.parametrize(
    ("generation", "text"),
    [
        ({"temperature": 0.6, "top_k": 20, "top_p": 0.95}, "temperature=0.6,top_k=20,top_p=0.95"),
        ({"top_p": 0.9, "top_k": 0, "do_sample": True}, "top_p=0.9"),
        ({"temperature": 0.6, "repetition_penalty": 1.0}, "temperature=0.6"),
    ],
)
def test_the_model_s_own_sampler_is_written_out(
    generation: dict[str, Any], text: str, judged: None, tmp_path: Path
) -> None:
    flags = toy.flags(tmp_path)
    path = tmp_path / "toy" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 4, **generation}))
    own = {"sampler": "model", "judge_sampler": "model", "eval_sampler": "model"}
    run = open_run(flags | own | {"temperature": 0.7})
    found = [run.config.sampler, run.config.judge_sampler, run.config.eval_sampler]
    assert found == [text, text, "train"]  # which is the same as of the answers that train
    for event in train.train(run, lambda: True):
        assert event
    config = json.loads((run.store.folder / "config.json").read_text())
    assert config["science"]["sampler"] == text and config["sources"]["sampler"] == "flag"
    expected = sampler_of(text, 0.7)
    assert expected and config["sampler"] | {"note": ""} == {
        "temperature": expected.temperature,
        "top_k": expected.top_k or None,
        "top_p": expected.top_p,
        "note": "",
    }
    run.store._lock.close()
    open_run(flags | dict.fromkeys(own, text) | {"temperature": 0.7}).store._lock.close()


SPELLED = {
    "top_p=0.90,top_k=020": "top_k=20,top_p=0.9",
    "top_p=9e-1,temperature=0.60": "temperature=0.6,top_p=0.9",
    "temperature=0.6,top_p=1.0": "temperature=0.6",
    "temperature=2,top_k=5": "temperature=2,top_k=5",
    "top_k=1": "greedy",
    "temperature=0.7": "plain",
    "top_p=1": "plain",
}


@pytest.mark.parametrize("text", SPELLED)
def test_two_spellings_are_one_experiment(text: str, tmp_path: Path) -> None:
    flags = toy.flags(tmp_path) | {"temperature": 0.7, "eval_samples": 1}
    for field in ("judge_sampler", "eval_sampler"):
        run = open_run(flags | {field: text, "stop_ids": "9,07,9"})
        wanted = "train" if (field, SPELLED[text]) == ("eval_sampler", "plain") else SPELLED[text]
        assert (getattr(run.config, field), run.config.stop_ids) == (wanted, "7,9")
        same = sampler_of(text, 0.7), sampler_of(SPELLED[text], 0.7)
        assert same[0] == (same[1] or Sampler(0.7))
        next(train.train(run, lambda: True))
        run.store._lock.close()
        open_run(flags | {field: SPELLED[text], "stop_ids": "7,9"}).store._lock.close()
        (run.store.folder / "config.json").unlink()


RECORDED: dict[str, object] = {"sampler": "plain", "judge_sampler": "top_k=1", "stop_ids": "9,07,9"}


@pytest.mark.parametrize("text", ["plain", "top_p=0.90,top_k=020"])
def test_a_run_that_recorded_another_spelling_goes_on_as_it_was(text: str, tmp_path: Path) -> None:
    """As code did that kept what was typed; the run's digest stays that of what it recorded."""
    recorded = RECORDED | {"eval_sampler": text}
    flags = toy.flags(tmp_path, stop_ids="7,9", eval_sampler=text)
    folder = trained(tmp_path, stop_after=1, stop_ids="7,9", eval_sampler=text)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["science"] |= recorded
    config["sources"] |= dict.fromkeys(recorded, "flag")
    config["fingerprint"] = science_digest(config["science"])
    path.write_text(json.dumps(config))
    trained(tmp_path, **flags)
    again = json.loads(path.read_text())
    assert (again["science"], again["fingerprint"]) == (config["science"], config["fingerprint"])
    assert audit_path(folder).findings == []
    others = {"eval_sampler": "top_p=0.91", "stop_ids": "7", "sampler": "top_k=5"}
    for name, value in others.items():
        with pytest.raises(UserError, match=f"{name} is "):
            open_run(flags | {name: value})


def test_a_recorded_config_is_spelled_as_today_s_files_are() -> None:
    assert {name: FIELDS[name].default for name in USUAL} == USUAL
    assert respelled({"temperature": 0.7} | RECORDED) == {"temperature": 0.7, "stop_ids": "7,9"}
    for strange in ({"sampler": 7}, {"stop_ids": "x"}, {"stop_ids": "9" * 99}, {"temperature": ""}):
        science = {"temperature": 0.7, "seed": 1} | strange
        assert respelled(science) == science


def test_a_model_that_asks_for_no_sampling_is_greedy(tmp_path: Path) -> None:
    flags = toy.flags(tmp_path)
    path = tmp_path / "toy" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 4, "do_sample": False, "temperature": 0.7}))
    with pytest.raises(UserError, match="the model's own is greedy, so all answers of a group"):
        open_run(flags | {"sampler": "model"})
    run = open_run(flags | {"judge_sampler": "model"})
    assert run.config.judge_sampler == "greedy" and "judge_sampler" not in science(run.config)
    run.store._lock.close()


def test_a_run_whose_only_update_would_move_nothing_is_refused(tmp_path: Path) -> None:
    flags = toy.flags(tmp_path, first_rate="zero", epochs=1)
    one = flags | {"prompts_per_step": 6}
    with pytest.raises(UserError, match="--first-rate zero cannot work: this run has a single"):
        open_run(one)
    for more in ({"iterations": 2}, {"epochs": 2}, {"warmup_ratio": 0.0}, {"first_rate": "moves"}):
        open_run(one | more).store._lock.close()


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        ({"repetition_penalty": 1.1, "temperature": 0.7}, "repetition_penalty = 1.1"),
        ({}, "names no temperature"),
        ({"temperature": "hot"}, "names no temperature"),
        ({"temperature": 0.5, "top_p": True}, "names no temperature"),
    ],
)
def test_an_own_sampler_that_cannot_be_drawn_is_refused(
    generation: dict[str, Any], words: str, tmp_path: Path
) -> None:
    flags = toy.flags(tmp_path)
    path = tmp_path / "toy" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 4, **generation}))
    with pytest.raises(UserError, match=words) as error:
        open_run(flags | {"judge_sampler": "model"})
    assert "--judge-sampler" in str(error.value) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("field", ["sampler", "eval_sampler"])
def test_an_own_sampler_that_is_greedy_is_refused_where_answers_have_to_differ(
    field: str, tmp_path: Path
) -> None:
    flags = toy.flags(tmp_path)
    path = tmp_path / "toy" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 4, "temperature": 0.7, "top_k": 1}))
    with pytest.raises(UserError, match="top_k=1, so all answers") as error:
        open_run(flags | {field: "model", "eval_samples": 2})
    assert f"--{field.replace('_', '-')} model" in str(error.value)
    assert not (tmp_path / "runs").exists()
    open_run(flags | {"judge_sampler": "model"}).store._lock.close()


# --- a judge that is not greedy -------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """What may not depend on when and how often a run was started."""
    names = ("rollouts/*", "evaluations/*", "metrics.jsonl", "checkpoints/epoch-*/*.safetensors")
    paths = [path for name in names for path in folder.glob(name)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_sampled_judge_is_the_same_after_a_stop_and_in_any_batch(tmp_path: Path) -> None:
    flags: dict[str, object] = {"judge_sampler": "plain", "judge_max_tokens": 12}
    whole = trained(tmp_path / "whole", **flags)
    parts = tmp_path / "parts"
    trained(parts, stop_after=2, **flags)
    parted = trained(parts, **flags)
    found = contents(whole)
    assert len(found) > 10 and contents(parted) == found
    greedy = trained(tmp_path / "greedy", judge_max_tokens=12)
    rows, plain = (read_lines(run / "evaluations/epoch-00.jsonl") for run in (whole, greedy))
    assert [row["ids"] for row in rows] == [row["ids"] for row in plain]
    assert [row["judge"] for row in rows] != [row["judge"] for row in plain]
    reverse = trained(tmp_path / "reverse", direction="reverse", **flags)
    mirrored = read_lines(reverse / "evaluations/epoch-00.jsonl")
    assert [row["judge"] for row in mirrored] == [row["judge"] for row in rows]
    narrow = trained(tmp_path / "narrow", decode_rows=3, stop_after=1, **flags)
    one_by_one = read_lines(narrow / "evaluations/epoch-00.jsonl")
    assert [row["judge"] for row in one_by_one] == [row["judge"] for row in rows]
    again = read_lines(whole / "evaluations/epoch-01.jsonl")
    assert [row["judge"] for row in again] != [row["judge"] for row in rows]


# --- runs of code that did not have these fields --------------------------------------------------


def test_a_default_run_names_none_of_the_late_fields(
    judged: None, plain: Callable[[], Path]
) -> None:
    config = json.loads((plain() / "config.json").read_text())
    for part, told in (("science", {"stop_ids"}), ("settings", set()), ("sources", {"stop_ids"})):
        assert LATE & config[part].keys() == told
    assert config["sampler"] == {
        "temperature": 1.0,
        "top_k": None,
        "top_p": None,
        "note": "plain softmax; generation_config's is not applied",
    }
    assert not LATE & science(Config()).keys() and len(LATE) == 9
    # The digest of the defaults as the last code without these fields had it.
    old = "2051110974094aa43dddb46044622fc26a0017c5e8849c7ce98c534706b5da38"
    assert science_digest(science(Config())) == old
    changed = Config(unscored="zero")
    assert science(changed)["unscored"] == "zero" and is_told(changed, "unscored")
    assert not is_told(changed, "truncated") and is_told(changed, "beta")


def test_another_value_is_another_experiment_and_says_so(judged: None, tmp_path: Path) -> None:
    trained(tmp_path, stop_after=1)
    with pytest.raises(UserError, match="unscored is its default there and 'zero' here"):
        open_run(toy.flags(tmp_path, unscored="zero"))
    trained(tmp_path, stop_after=1, unscored="left-out")  # the default, typed
