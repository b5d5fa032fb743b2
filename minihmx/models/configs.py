"""A model family is a handful of scalars read from Hugging Face's config.json.

The families differ in: q/k norms (Qwen3); biases on q, k and v (Qwen2, Qwen2.5); norms after
attention and MLP, 1 + w norm weights, tanh-gelu, scaled embeddings, two softcaps and sliding
windows (Gemma 2); llama3 rope scaling.
A new family is one function here and one entry in FAMILIES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from minihmx.errors import UserError, quoted

SIZES = dict.fromkeys(("vocab_size", "max_position_embeddings"), 2**24)  # and the largest believed
SIZES |= dict.fromkeys(("hidden_size", "intermediate_size", "head_dim"), 2**20)
SIZES |= dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 2**20)
SIZES |= {"num_hidden_layers": 2**10, "sliding_window": 2**62}
# Fields whose name in config.json is the same.
VERBATIM = ["vocab_size", "hidden_size", "intermediate_size"]
VERBATIM += ["num_hidden_layers", "num_attention_heads"]
# Numbers beyond 1e-15 and 1e15 become 0 or infinity in fp32; with these below 1, angles race.
AT_LEAST_ONE = ("rope_theta", "factor", "original_max_position_embeddings")


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's frequency rescale: long wavelengths are divided by `factor`, short ones kept."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and scalars of one decoder. Names follow Hugging Face where it has one."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tied: bool
    max_positions: int
    attention_scale: float
    eos_ids: tuple[int, ...]
    qk_norm: bool = False
    qkv_bias: bool = False
    sandwich: bool = False  # norms after attention and MLP as well as before
    norm_offset: float = 0.0  # added to every norm weight
    activation: str = "silu"
    embed_scale: float = 1.0
    attention_softcap: float | None = None
    final_softcap: float | None = None
    windows: tuple[int | None, ...] = ()  # per layer; empty: full attention everywhere

    @classmethod
    def from_hf(
        cls, config: Mapping[str, Any], generation: Mapping[str, Any] | None = None
    ) -> ModelConfig:
        """Read config.json and generation_config.json, in the hub's or transformers 5's spelling.

        Raises UserError for what is missing, and for a model_type, activation, bias or rope variant
        that is not supported; ValueError, naming the field, for values that no decoder can have.
        """
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in FAMILIES:
            raise UserError(
                f"model_type {quoted(kind)} is not supported: minihmx reads {', '.join(FAMILIES)}."
            )
        try:
            shared = _shared_fields(kind, config, generation or {})
            found = cls(**shared, **FAMILIES[kind](config))
        except KeyError as missing:
            raise UserError(
                f"config.json has no {missing}, without which the model cannot be built; "
                "download the model again."
            ) from None
        _check_values(found)
        return found

    def attention_bytes(self, rows: int, length: int) -> int:
        """Bytes that attention keeps in fp32 for the backward of so many rows of so many tokens, in
        all layers: queries, keys, values and their sum, and scores, which not every torch can do
        without."""
        sides = 2 * (self.num_attention_heads + self.num_key_value_heads) * self.head_dim
        scores = self.num_attention_heads * length * (1 if self.attention_softcap is None else 3)
        return 4 * self.num_hidden_layers * rows * length * (sides + scores)


def _size(name: str, size: Any) -> Any:
    """The size, where a decoder can have it; before time or memory is spent on it.

    Raises ValueError.
    """
    if type(size) is not int or not 1 <= size <= SIZES[name]:
        raise ValueError(f"{name} is {quoted(size)}")
    return size


def _number(name: str, value: Any) -> Any:
    """The number, where fp32 can hold it and its inverse. Raises ValueError."""
    least = 1 if name in AT_LEAST_ONE else 1e-15
    if type(value) not in (int, float) or not least <= value <= 1e15:
        raise ValueError(f"{name} is {quoted(value)}")
    return value


def _check_values(config: ModelConfig) -> None:
    """Raises ValueError."""
    rope = config.rope_scaling
    if rope and rope.low_freq_factor >= rope.high_freq_factor:
        raise ValueError("low_freq_factor is not below high_freq_factor")
    if config.num_attention_heads % config.num_key_value_heads:
        raise ValueError("num_attention_heads is no multiple of num_key_value_heads")
    if config.head_dim % 2:
        raise ValueError(f"head_dim is odd: {config.head_dim}")
    if type(config.tied) is not bool:
        raise ValueError(f"tie_word_embeddings is {quoted(config.tied)}")
    if not all(type(token) is int for token in config.eos_ids):
        raise ValueError(f"eos_token_id is {quoted(list(config.eos_ids))}")


def _shared_fields(
    kind: str, config: Mapping[str, Any], generation: Mapping[str, Any]
) -> dict[str, Any]:
    for bias in ("attention_bias", "mlp_bias"):
        if config.get(bias) not in (None, False):
            raise UserError(
                f"{bias} is set in config.json, but no supported {kind} model has it, and without "
                "these biases every answer would be wrong; name a model that has none."
            )
    sizes = {name: _size(name, config[name]) for name in VERBATIM}
    heads = sizes["num_attention_heads"]
    default_head_dim = {"qwen3": 128, "gemma2": 256}.get(kind, sizes["hidden_size"] // heads)
    head_dim = _size("head_dim", _given(config, "head_dim", default_head_dim))
    kv_heads = _given(config, "num_key_value_heads", heads)
    # Gemma 2's default is 256 whatever the size of a head.
    attended = _given(config, "query_pre_attn_scalar", 256 if kind == "gemma2" else head_dim)
    theta, scaling = _rope(config)
    eos = generation.get("eos_token_id")
    eos = config.get("eos_token_id") if eos is None else eos
    return dict(
        sizes,
        model_type=kind,
        num_key_value_heads=_size("num_key_value_heads", kv_heads),
        head_dim=head_dim,
        rms_norm_eps=_number("rms_norm_eps", config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=config.get("tie_word_embeddings", kind == "gemma2"),
        max_positions=_size("max_position_embeddings", config["max_position_embeddings"]),
        attention_scale=_number("query_pre_attn_scalar", attended) ** -0.5,
        eos_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
    )


def _rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """(theta, scaling); transformers 5 holds both in `rope_parameters`."""
    name = "rope_scaling" if config.get("rope_parameters") is None else "rope_parameters"
    rope = _given(config, name, {})
    if not isinstance(rope, dict):
        raise ValueError(f"{name} is {quoted(rope)}")
    theta = _number("rope_theta", rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return float(theta), None
    if kind != "llama3":
        raise UserError(
            f"rope type {quoted(kind)} is not supported: minihmx reads default and llama3."
        )
    fields = "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"
    return float(theta), RopeScaling(*(_number(field, rope[field]) for field in fields))


def _given(config: Mapping[str, Any], key: str, absent: Any) -> Any:
    """What stands under the key, even 0 or an empty list; `absent` where nothing or null does."""
    value = config.get(key)
    return absent if value is None else value


def _expect_activation(config: Mapping[str, Any], key: str, expected: str) -> None:
    found = config.get(key, expected)
    if found != expected:
        raise UserError(
            f"{key} {quoted(found)} is not supported for this family, only {expected!r}."
        )


def _expect_full_attention(config: Mapping[str, Any]) -> None:
    if config.get("use_sliding_window") not in (None, False):
        raise UserError("use_sliding_window is set, but no supported Qwen model has it.")


def _llama(config: Mapping[str, Any]) -> dict[str, Any]:
    _expect_activation(config, "hidden_act", "silu")
    return {}


def _qwen2(config: Mapping[str, Any]) -> dict[str, Any]:
    _expect_full_attention(config)
    return dict(_llama(config), qkv_bias=True)


def _qwen3(config: Mapping[str, Any]) -> dict[str, Any]:
    _expect_full_attention(config)
    return dict(_llama(config), qk_norm=True)


def _gemma2(config: Mapping[str, Any]) -> dict[str, Any]:
    _expect_activation(config, "hidden_activation", "gelu_pytorch_tanh")
    layers, window = config["num_hidden_layers"], config.get("sliding_window", 4096)
    if window is not None:
        _size("sliding_window", window)
    turns = "sliding_attention", "full_attention"
    kinds = _given(config, "layer_types", [turns[layer % 2] for layer in range(layers)])
    if not isinstance(kinds, list) or not all(kind in turns for kind in kinds):
        raise ValueError(f"layer_types is {quoted(kinds)}")
    if len(kinds) != layers:
        raise ValueError("layer_types and num_hidden_layers disagree")
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    caps = {name: config.get(name, cap) for name, cap in caps.items()}
    attention, final = (None if c is None else _number(name, c) for name, c in caps.items())
    return dict(
        sandwich=True,
        norm_offset=1.0,
        activation="gelu_tanh",
        embed_scale=config["hidden_size"] ** 0.5,
        attention_softcap=attention,
        final_softcap=final,
        windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
    )


FAMILIES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
}
