"""Emotion vectors on planted states, where the right answer is known, and what chance gives."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from minihmx.probes import emotion, stories, vectors
from minihmx.probes.shift import decomposed

E, L, D, TOPICS = 4, 3, 24, 12
SIGNAL = 1  # the layer that holds the planted emotions


def planted(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(states, labels, topics, the emotions' directions): noise, and at one layer an emotion."""
    generator = torch.Generator().manual_seed(seed)
    directions, _ = torch.linalg.qr(torch.randn(D, E, generator=generator))
    labels = torch.arange(E).repeat(TOPICS)
    topics = torch.arange(TOPICS).repeat_interleave(E)
    states = 0.3 * torch.randn(len(labels), L, D, generator=generator)
    states[:, SIGNAL] += 2 * directions.T[labels]
    return states, labels, topics, directions.T


def test_planted_emotions_are_found_at_their_layer_on_other_topics() -> None:
    states, labels, topics, directions = planted()
    train = topics < 9
    fitted = vectors.fit(states[train], labels[train], E)
    by_layer = vectors.accuracy(fitted, states[~train], labels[~train])
    assert vectors.best_layer(by_layer) == SIGNAL and by_layer[SIGNAL] == 1.0
    assert by_layer[0] < 0.8 and by_layer[2] < 0.8
    wanted = torch.nn.functional.normalize(directions - directions.mean(0), dim=-1)
    assert (fitted.unit[:, SIGNAL] * wanted).sum(-1).min() > 0.95
    assert torch.allclose(fitted.unit.norm(dim=-1), torch.ones(E, L))


def test_an_emotion_with_many_stories_does_not_move_the_centre() -> None:
    states, labels, _, _ = planted()
    more = torch.cat([torch.arange(len(labels)), (labels == 0).nonzero()[:, 0].repeat(9)])
    fitted = vectors.fit(states[more], labels[more], E)
    assert torch.allclose(fitted.centre, vectors.fit(states, labels, E).centre, atol=1e-6)


def test_neutral_components_hold_half_of_the_variance_and_are_gone() -> None:
    generator = torch.Generator().manual_seed(1)
    scale = torch.tensor([5.0, 4.0, *[0.5] * (D - 2)])
    neutral = torch.randn(60, 1, D, generator=generator) * scale + 7.0
    (basis,) = vectors.neutral_bases(neutral)
    assert len(basis) == 1 and abs(float(basis[0, 0])) > 0.9
    states, labels, _, _ = planted()
    clean = vectors.without(states[:, :1], [basis])
    fitted = vectors.fit(clean, labels, E)
    assert (fitted.unit[:, 0] @ basis.T).abs().max() < 1e-5
    assert torch.allclose(vectors.without(clean, [basis]), clean, atol=1e-5)


def test_labels_change_places_within_their_topic_alone() -> None:
    _, labels, topics, _ = planted()
    labels, topics = labels[3:], topics[3:]  # a topic that lacks stories keeps what it has
    draws = list(vectors.shuffled_labels(labels, topics, 20, seed=0))
    for topic in topics.unique():
        own = topics == topic
        assert all(sorted(d[own].tolist()) == sorted(labels[own].tolist()) for d in draws)
    assert sum(torch.equal(draw, labels) for draw in draws) == 0


def test_shuffled_labels_read_no_held_out_topic() -> None:
    states, labels, topics, _ = planted()
    train, highest = topics < 9, list[Tensor]()
    for drawn in vectors.shuffled_labels(labels, topics, 60, seed=0):
        fitted = vectors.fit(states[train], drawn[train], E)
        highest.append(vectors.accuracy(fitted, states[~train], drawn[~train]).max())
    assert vectors.p_of_draws(1.0, torch.stack(highest)) < 0.05


def test_random_spaces_have_the_covariance_of_the_states() -> None:
    states, _, _, _ = planted()
    states[:, :, 0] = 5.0  # nothing varies here, and much there
    states[:, :, 1] *= 10
    drawn = torch.stack(list(vectors.random_spaces(states, E, 200, seed=0)))
    assert drawn[..., 0].abs().max() < 1e-3
    ratio = drawn[..., 1].var() / drawn[..., 2].var()
    assert ratio == pytest.approx(float(states[..., 1].var() / states[..., 2].var()), rel=0.4)
    assert drawn.sum(1).abs().max() < 1e-3  # they span as many dimensions as the emotions do


def test_a_share_is_that_of_the_space_however_it_is_written() -> None:
    states, labels, _, _ = planted()
    unit = vectors.fit(states, labels, E).unit  # of sum about 0: they span three dimensions
    inside = (unit * torch.tensor([1.0, -2.0, 0.5, 0.0])[:, None, None]).sum(0)
    assert torch.allclose(vectors.share_inside(inside, unit), torch.ones(L), atol=1e-4)
    basis = vectors.orthonormal(unit[:, SIGNAL])
    other = torch.randn(D, generator=torch.Generator().manual_seed(2))
    outside = (other - other @ basis.T @ basis).expand(L, D)
    assert vectors.share_inside(outside, unit)[SIGNAL] < 1e-4
    assert (
        vectors.share_inside(torch.zeros(L, D), unit).tolist() == [0.0] * L
    )  # untrained: no shift


def test_a_chance_is_never_nothing_and_more_over_layers() -> None:
    drawn = torch.arange(99.0)
    assert vectors.p_of_draws(1e9, drawn) == 0.01 and vectors.p_of_draws(-1.0, drawn) == 1.0
    generator = torch.Generator().manual_seed(0)
    table, observed = torch.randn(500, 6, generator=generator), torch.full((6,), 1.5)
    single = vectors.p_of_draws(1.5, table[:, 2])
    assert vectors.p_over_layers(observed, table, 2) > 2 * single


def gate(states: Tensor, fitted: vectors.Fitted, bases: list[Tensor], **changes: object) -> int:
    """How many of E messages with these states pass the gate."""
    names = [f"emotion {i}" for i in range(E)]
    prompts = SimpleNamespace(policy=lambda text: [1, *map(ord, text), 2])
    inside = SimpleNamespace(prompts=prompts, bases=bases, fitted=fitted, place=SIGNAL)
    inside.emotions, inside.read = names, lambda rows: states
    found = emotion._gate(inside, dict.fromkeys(names, "text"))  # type: ignore[arg-type]
    return int(found["gate"]["hits"])


def test_the_gate_asks_for_the_emotions_and_not_for_valence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The planted directions are at right angles: no first component tells good from bad."""
    states, labels, _, directions = planted()
    fitted = vectors.fit(states, labels, E)
    none = [torch.zeros(0, D)] * L
    monkeypatch.setattr(stories, "AMONG_FIRST", 1)
    messages = directions[:, None].expand(E, L, D) + 40.0  # messages lie elsewhere than stories
    assert gate(messages, fitted, none) == E
    assert gate(messages.flip(0), fitted, none) == 0


def test_total_is_wording_and_weights() -> None:
    states, labels, _, _ = planted()
    inside = SimpleNamespace(
        fitted=vectors.fit(states, labels, E), clean=states, place=SIGNAL, emotions=list("abcd")
    )
    base_on_base, base_on_own, trained_on_own = torch.randn(3, L, D).unbind(0)
    found = decomposed(inside, base_on_base, base_on_own, trained_on_own)  # type: ignore[arg-type]
    for parts in found.values():
        assert parts["total"] == pytest.approx(parts["wording"] + parts["weights"], abs=1e-4)
    same = decomposed(inside, base_on_base, base_on_own, base_on_own)  # type: ignore[arg-type]
    assert all(parts["weights"] == 0.0 for parts in same.values())


# --- texts ----------------------------------------------------------------------------------------


def test_material_names_no_emotion_in_its_own_message() -> None:
    found = stories.material()
    assert list(found.names) == list(found.messages) and len(found.names) == 12
    assert len(set(found.topics)) == 64 and len(set(found.facts)) == 50
    assert len(found.things) * len(found.neutral) == 100
    for emotion_name, text in found.messages.items():
        assert not stories.names_emotion(text, found.names[emotion_name])
        assert stories.names_emotion(emotion_name, found.names[emotion_name])


def test_what_becomes_of_a_text() -> None:
    assert stories.fate_of("He was so happy.", [7] * 130, "happy*") == stories.NAMED_IT
    assert stories.fate_of("He was so happy.", [7] * 119, "happy*") == stories.TOO_SHORT
    assert stories.fate_of("He danced; what happens?", [7] * 130, "happy*") == stories.KEPT_TEXT


def test_four_fifths_of_the_topics_are_fitted_on() -> None:
    topics = stories.material().topics
    train, test = stories.split_topics(topics, 64)
    assert len(train) == 51 and len(test) == 13 and not {*train} & {*test}
    few, _ = stories.split_topics(topics, 10)
    assert len(few) == 8 and {*few} <= {*topics}
