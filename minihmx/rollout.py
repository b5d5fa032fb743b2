"""Answers and verdicts: the policy speaks with its adapter on, then the same model judges with it
off (paper section 3.2, Figure 1).

Every reward comes from here. `ask_policy` serves training and the evaluation on the held-out
questions alike. `ask_judge` serves both of them and `minihmx doctor --judge`, so that what is
probed is the very judge that gives the rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from minihmx import lora
from minihmx.engine import ranks
from minihmx.engine.memory import Limit, merging
from minihmx.engine.prefill import Prefix
from minihmx.engine.samplers import AS_TRAINED, Sampler, sampler_of, token_ids
from minihmx.engine.sampling import generate
from minihmx.judge import parse_score, reward, score_line_end
from minihmx.models.decoder import Decoder
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Question, Rollout, Unscored, Verdict
from minihmx.run import Run


def ask_policy(
    run: Run, questions: Sequence[Question], samples: int, phase: str, epoch: int
) -> list[Rollout]:
    """`samples` answers to each of Q questions: a list of Q * samples rollouts, in this order.

    phase: "train" or "eval", which names a random stream of its own.
    """
    config, decoder = run.config, run.decoder
    wanted = [(question, s) for question in questions for s in range(samples)]
    prompts = [run.prompts.policy(question.text) for question, _ in wanted]
    # The names say everything that an answer's noise depends on, and the direction is not among
    # them: forward and reverse runs of one seed are asked in the same order and draw the same
    # random numbers, so that whatever differs between them comes from the reward.
    noise = [(phase, config.seed, epoch, question.id, s) for question, s in wanted]
    same = phase == "train" or config.eval_sampler == AS_TRAINED
    drawn_from = config.sampler if same else config.eval_sampler
    # Decoding makes many small products one after another, so merging A and B into the weights
    # saves most here (in fp32 only). Training keeps them apart, for their gradients.
    with run.clock.timed("sample"), merging(decoder, config.max_completion_length):
        mine = generate(
            decoder,
            run.prompts.tokenizer.decode,
            ranks.split(prompts),
            max_new_tokens=config.max_completion_length,
            stop_ids=token_ids(config.stop_ids) or decoder.config.eos_ids,
            temperature=config.temperature,
            noise=ranks.split(noise),
            limit=run.decode_limit,
            sampler=sampler_of(drawn_from, config.temperature),
        )
        completions = ranks.gather(mine)
    return [
        Rollout(question, s, question.text, ids, completion, noise=names)
        for (question, s), ids, completion, names in zip(
            wanted, prompts, completions, noise, strict=True
        )
    ]


def judge(run: Run, rollouts: Sequence[Rollout], phase: str) -> None:
    """Fill in verdict and reward of each rollout: all answers are judged in one batch.

    phase: as in `ask_policy`. With --judge-reason evaluations the judge gives its reason in the
    phase "eval" alone.

    The judge sees the answer's decoded text. It never sees the answer's token ids, so an answer
    cannot write a control token that would close its own turn and speak for the judge.
    """
    # An answer whose logits were not finite is noise, so it is not judged. Its verdict says so, and
    # judge.reward makes NaN of that.
    sound = [r for r in rollouts if r.completion.finite]
    prompts = [run.prompts.judge(r.question.text, r.completion.text) for r in sound]
    # A judge that is not greedy has a random stream of its own beside that of each answer, so its
    # verdict depends on the answer and its place in the run, and on nothing else.
    config, greedy = run.config, run.config.judge_sampler == "greedy"
    reasoned = phase == "eval" and config.judge_reason == "evaluations"
    noise = None if greedy else ranks.split([("judge", *r.noise) for r in sound])
    with run.clock.timed("judge"), lora.adapter_off(run.decoder):
        mine = ask_judge(
            run.decoder,
            run.prompts.tokenizer,
            ranks.split(prompts),
            max_new_tokens=config.judge_max_tokens,
            limit=run.decode_limit,
            noise=noise,
            temperature=config.temperature,
            sampler=sampler_of(config.judge_sampler, config.temperature),
            reason=config.judge_reason == "always" or reasoned,
            rubric=run.rubric_prefix,
        )
        judgements = ranks.gather(mine)
    for rollout in rollouts:
        rollout.verdict = Unscored("not-finite")
    for rollout, judgement in zip(sound, judgements, strict=True):
        rollout.judge_text, rollout.judge_finish, rollout.verdict = judgement
    for rollout in rollouts:
        rollout.reward = reward(rollout.verdict, config.direction, config.unscored)


class Judgement(NamedTuple):
    """The judge's words, how they ended ("stop", "length", or "" where none were asked for), and
    the verdict that was read from them."""

    text: str
    finish: str
    verdict: Verdict | Unscored


def ask_judge(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    limit: Limit,
    noise: Sequence[tuple[object, ...]] | None = None,
    temperature: float = 1.0,
    sampler: Sampler | None = None,
    reason: bool = True,
    rubric: Prefix | None = None,
) -> list[Judgement]:
    """The judgement for each prompt (token ids). Without `noise` it is greedy; with `noise` its
    tokens are drawn from the sampler, or at the temperature where no sampler is given.

    The decoder judges as it is, so the caller switches an adapter off. Without `reason` generation
    ends with the score line, so the score is the same. rubric: the tokens that all prompts begin
    with, if they were computed before.
    """
    # A judge's prompt may exceed the context although the answer did not: broken bytes take more
    # tokens to write down than they took to generate. Cutting the prompt would change the rubric
    # or the answer, so such an answer stays unscored.
    room = decoder.config.max_positions - max_new_tokens
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) <= room]
    completions = generate(
        decoder,
        tokenizer.decode,
        [prompts[i] for i in fitting],
        max_new_tokens=max_new_tokens,
        stop_ids=decoder.config.eos_ids,
        # Greedy, a verdict depends on the answer alone. Sampled, as the probe wants it, its spread
        # shows how sure the judge is.
        temperature=0.0 if noise is None else temperature,
        sampler=sampler,
        noise=None if noise is None else [noise[i] for i in fitting],
        limit=limit,
        known=rubric,
        enough=None if reason else lambda text: score_line_end(text) is not None,
    )
    found = [Judgement("", "", Unscored("too-long"))] * len(prompts)
    for i, completion in zip(fitting, completions, strict=True):
        text = completion.text if reason else completion.text[: score_line_end(completion.text)]
        verdict = parse_score(text, completion.finish_reason == "stop")
        # Where logits are NaN, argmax still gives a token. Such a text might parse, for example as
        # "Score: 9", and must not become a score.
        if not completion.finite:
            verdict = Unscored("judge-not-finite")
        found[i] = Judgement(text, completion.finish_reason, verdict)
    return found
