"""Emotion vectors from mean residuals, how well they read texts they were not made from, and what
chance would give. Plain linear algebra on the CPU; no model is run here.

Shapes: n texts, E emotions, L layers, D hidden size, S draws of chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

NEUTRAL_SHARE = 0.5  # of the neutral texts' variance is projected out
DRAWN = 1000  # spaces and shuffles that stand for chance


class Fitted(NamedTuple):
    """unit: a vector of length 1 for each emotion and layer, [E, L, D]. centre: the mean over
    emotions of the states it was made from, [L, D]."""

    unit: Tensor
    centre: Tensor


def neutral_bases(states: Tensor) -> list[Tensor]:
    """For each layer the principal components of neutral states [n, L, D] that hold half of their
    variance, largest first, [k, D]."""
    bases = []
    for layer in states.unbind(1):
        _, values, components = torch.linalg.svd(layer - layer.mean(0), full_matrices=False)
        held = (values**2).cumsum(0) / (values**2).sum()
        bases.append(components[: int((held < NEUTRAL_SHARE).sum()) + 1])
    return bases


def without(states: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """States [n, L, D] with each layer's orthonormal components projected out."""
    layers = zip(states.unbind(1), bases, strict=True)
    return torch.stack([x - x @ basis.T @ basis for x, basis in layers], 1)


def fit(clean: Tensor, labels: Tensor, emotions: int) -> Fitted:
    """Vectors from states [n, L, D] of which the neutral components are out; labels [n] below E.

    An emotion's vector is its mean less the mean over emotions, so that what all stories share is
    gone, however many stories each has.
    """
    counts = functional.one_hot(labels, emotions).to(clean)
    means = torch.einsum("ne,nld->eld", counts / counts.sum(0), clean)
    centre = means.mean(0)
    return Fitted(functional.normalize(means - centre, dim=-1), centre)


def vector_readings(fitted: Fitted, clean: Tensor) -> Tensor:
    """How far each state lies along each vector, [n, L, E]."""
    return torch.einsum("nld,eld->nle", clean - fitted.centre, fitted.unit)


def accuracy(fitted: Fitted, clean: Tensor, labels: Tensor) -> Tensor:
    """The share of states whose own emotion is the highest reading, by layer, [L]."""
    return (vector_readings(fitted, clean).argmax(-1) == labels[:, None]).float().mean(0)


def best_layer(by_layer: Tensor) -> int:
    """The place of the most accurate layer; of equal ones the first."""
    return int((by_layer == by_layer.max()).nonzero()[0, 0])


def shuffled_labels(labels: Tensor, topics: Tensor, draws: int, seed: int) -> Iterator[Tensor]:
    """Labels [n] drawn anew: those of one topic change places among its stories alone."""
    generator = torch.Generator().manual_seed(seed)
    groups = [(topics == topic).nonzero()[:, 0] for topic in sorted(set(topics.tolist()))]
    for _ in range(draws):
        drawn = labels.clone()
        for group in groups:
            order = torch.randperm(len(group), generator=generator)
            drawn[group] = labels[group[order]]
        yield drawn


def random_spaces(clean: Tensor, emotions: int, draws: int, seed: int) -> Iterator[Tensor]:
    """Sets of E vectors, [E, L, D], with the states' own covariance, made as the emotions' are.

    Each is a random sum of the states, the same one in all layers. Directions drawn evenly instead
    would lie where no activation ever does, and anything beats those.
    """
    generator = torch.Generator().manual_seed(seed)
    centred = clean - clean.mean(0)
    for _ in range(draws):
        weights = torch.randn(emotions, len(clean), generator=generator)
        vectors = torch.einsum("en,nld->eld", weights, centred)
        yield vectors - vectors.mean(0)


def share_inside(delta: Tensor, vectors: Tensor) -> Tensor:
    """How much of the squared length of delta [L, D] lies in the space of vectors [E, L, D]: [L].

    The vectors need not be independent: twelve that add up to zero span eleven dimensions.
    """
    along = torch.einsum("eld,ld->le", vectors, delta)
    gram = torch.einsum("eld,fld->lef", vectors, vectors)
    inverse = torch.linalg.pinv(gram, rtol=1e-5)
    inside: Tensor = torch.einsum("le,lef,lf->l", along, inverse, along)
    return inside / (delta**2).sum(-1).clamp_min(1e-30)


def orthonormal(vectors: Tensor) -> Tensor:
    """An orthonormal basis of the space of vectors [E, D] at one layer, [rank, D]."""
    components: Tensor
    _, values, components = torch.linalg.svd(vectors, full_matrices=False)
    return components[values > 1e-4 * values[0]]


def p_of_draws(observed: float, drawn: Tensor) -> float:
    """The chance of at least the observed: (1 + how many drawn ones reach it) / (1 + S)."""
    return (1 + int((drawn >= observed).sum())) / (1 + len(drawn))


def p_over_layers(observed: Tensor, drawn: Tensor, place: int) -> float:
    """The same for the layer at this place, [L] against draws [S, L], as if it had been picked for
    the largest: each layer in its own standard deviations, each draw with its largest layer."""
    centre, spread = drawn.mean(0), drawn.std(0).clamp_min(1e-12)
    largest = ((drawn - centre) / spread).amax(1)
    return p_of_draws(float((observed - centre)[place] / spread[place]), largest)
