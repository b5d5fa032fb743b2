"""The models with a short name: their rows, and their shapes, which ship as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import minihmx
from minihmx.instruments.estimate import parameter_counts
from minihmx.models.configs import FAMILIES, ModelConfig
from minihmx.models.folder import shipped_config
from minihmx.models.known import MODEL_GROUPS, MODELS
from minihmx.results.paper import PAPER_NAMES

SHAPES = json.loads((Path(minihmx.__file__).parent / "data" / "shapes.json").read_text("utf-8"))
# Parameters, layers, rows of the embedding and context as published.
PUBLISHED = {
    "qwen3-0.6b": (596_049_920, 28, 151936, 40960),
    "qwen3-4b": (4_022_468_096, 36, 151936, 40960),
    "qwen3-8b": (8_190_735_360, 36, 151936, 40960),
    "gemma2-2b": (2_614_341_888, 26, 256000, 8192),
    "llama3.2-3b": (3_212_749_824, 28, 128256, 131072),
    "smollm2-135m": (134_515_008, 30, 49152, 8192),
    "smollm2-360m": (361_821_120, 32, 49152, 8192),
    "smollm2-1.7b": (1_711_376_384, 24, 49152, 8192),
    "qwen2.5-0.5b": (494_032_768, 24, 151936, 32768),
    "qwen2.5-1.5b": (1_543_714_304, 28, 151936, 32768),
    "qwen2.5-3b": (3_085_938_688, 36, 151936, 32768),
    "llama3.2-1b": (1_235_814_400, 16, 128256, 131072),
    "qwen3-1.7b": (1_720_574_976, 28, 151936, 40960),
}
HEAD_TWICE = {"qwen3-0.6b", "qwen3-1.7b"}  # tied, and stored all the same


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_shape_has_the_published_parameters(name: str) -> None:
    shape, (total, layers, vocabulary, context) = shipped_config(name), PUBLISHED[name]
    assert sum(parameter_counts(shape)) == total
    assert (shape.num_hidden_layers, shape.vocab_size) == (layers, vocabulary)
    assert shape.max_positions == context
    info = MODELS[name]
    assert shape.model_type == info.family and info.family in FAMILIES
    embedding = parameter_counts(shape)[1]
    stored = 2 * (total + embedding * (name in HEAD_TWICE)) / 1e9
    assert info.gigabytes == pytest.approx(stored, rel=0.02)
    unit = {"M": 1e6, "B": 1e9}[info.parameters[-1]]
    assert float(info.parameters[:-1]) * unit == pytest.approx(total, rel=0.03)


def test_rows_and_data_name_the_same_models() -> None:
    assert SHAPES.keys() == PUBLISHED.keys() == MODELS.keys() - {"tiny"}
    assert len({info.repo for info in MODELS.values()}) == len(MODELS) == 14
    assert [info.gated for name, info in MODELS.items() if "llama" in name] == [True, True]
    assert {name for name, info in MODELS.items() if info.paper} == PAPER_NAMES.keys()
    assert [name for names in MODEL_GROUPS.values() for name in names] == [*MODELS]


def test_every_field_of_the_data_is_read() -> None:
    """What from_hf does not ask for has no place there, and a value that it needs is there."""

    class Asked(dict[str, object]):
        def __getitem__(self, key: str) -> object:
            seen.add(key)
            return super().__getitem__(key)

        def get(self, key: str, default: object = None) -> object:
            seen.add(key)
            return super().get(key, default)

    for name, shape in SHAPES.items():
        seen: set[str] = set()
        ModelConfig.from_hf(Asked(shape))
        assert shape.keys() <= seen, name
    assert shipped_config("llama3.2-1b").rope_scaling == shipped_config("llama3.2-3b").rope_scaling
    rope = shipped_config("llama3.2-1b").rope_scaling
    assert rope is not None and rope.factor == 32 and rope.original_context == 8192
    assert shipped_config("gemma2-2b").windows[:2] == (4096, None)
    assert shipped_config("smollm2-1.7b").rope_theta == 130_000
