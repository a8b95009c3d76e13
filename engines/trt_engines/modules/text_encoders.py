"""Text encoders: CLIP's layers and pooled prompts, T5-XXL, and Qwen3 layers tapped on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen3Config,
    Qwen3Model,
    Qwen3VLTextConfig,
    Qwen3VLTextModel,
    T5Config,
    T5EncoderModel,
)

from trt_engines.architectures import text_encoders as facts
from trt_engines.architectures.network import Network
from trt_engines.architectures.ports import Ports
from trt_engines.modules.library_module import LibraryModule
from trt_engines.modules.module_spec import ModuleSpec
from trt_engines.modules.patches import attend
from trt_engines.modules.rotary import rotate_halves, rotation


class PooledClip(LibraryModule):
    """input_ids int64 [rows, 77] -> pooled [rows, width]: the last layer, normed, at the first end token."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return _pooled(self.model, input_ids, _clip_layers(self.model, input_ids)[-1])


class ClipLayers(LibraryModule):
    """input_ids int64 [rows, 77] -> context [layers, rows, 77, width].

    Entry k - 1 is what a clip skip of k asks for: the state after all but the last k - 1 layers.
    """

    def __init__(self, model: Any, *, normed: bool = True, absent: int = 0) -> None:
        """Args: normed: states go through the last norm. absent: last layers that the model lacks, though a clip skip
        counts them; the last one there is stands in for each."""
        super().__init__(model)
        self.normed, self.absent = normed, absent

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        states = _clip_layers(self.model, input_ids)[:0:-1]
        if self.normed:
            states = [self.model.final_layer_norm(state) for state in states]
        return torch.stack([*states[:1] * self.absent, *states])


class ClipLayersAndPooled(LibraryModule):
    """input_ids int64 [rows, 77] -> context [layers, rows, 77, width], not normed, and pooled [rows, projected].

    Context is that of `ClipLayers`; pooled is the last layer, normed, at the first end token, projected.
    """

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        text = self.model.text_model
        states = _clip_layers(text, input_ids)[:0:-1]
        return torch.stack(states), self.model.text_projection(_pooled(text, input_ids, states[0]))


class ClipLastAndPooled(LibraryModule):
    """input_ids int64 [rows, 77] -> context [rows, 77, width], not normed, and pooled [rows, projected].

    Context is the last layer; pooled is that, normed, at the first end token, projected. Tokens past the first end
    token are padding that no token looks at.
    """

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        text = self.model.text_model
        position = torch.arange(input_ids.shape[1], dtype=torch.float32, device=input_ids.device)
        kept = position <= _first_end(text, input_ids, position)
        earlier = position[None, :] <= position[:, None]
        last = _clip_layers(text, input_ids, (earlier & kept[:, None, :])[:, None])[-1]
        return last, self.model.text_projection(_pooled(text, input_ids, last))


def _clip_layers(model: Any, input_ids: torch.Tensor, mask: torch.Tensor | None = None) -> list[torch.Tensor]:
    """The embedded text, then the state after each layer: [rows, tokens, width].

    Args: mask: bool, broadcast to [rows, heads, tokens, tokens]; None: a token looks at those up to its own.
    """
    embeddings = model.embeddings
    states = embeddings.token_embedding(input_ids) + embeddings.position_embedding.weight[: input_ids.shape[1]]
    found = [states]
    for layer in model.encoder.layers:
        states = states + _clip_attention(layer.self_attn, layer.layer_norm1(states), mask)
        states = states + layer.mlp(layer.layer_norm2(states))
        found.append(states)
    return found


def _pooled(model: Any, input_ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """The last layer, normed, at the first end token: [rows, width]."""
    position = torch.arange(input_ids.shape[1], dtype=torch.float32, device=input_ids.device)
    first = (position == _first_end(model, input_ids, position)).to(states.dtype)
    pooled: torch.Tensor = (first.unsqueeze(1) @ model.final_layer_norm(states)).squeeze(1)
    return pooled


def _first_end(model: Any, input_ids: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """The place of the first end token, or the last place of a text without any: [rows, 1]."""
    ends = torch.where(input_ids == model.config.eos_token_id, position, float(input_ids.shape[1] - 1))
    return ends.amin(dim=1, keepdim=True)


def _clip_attention(attention: Any, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    query, key, value = (
        projection(states).unflatten(-1, (attention.num_heads, attention.head_dim)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
    projected: torch.Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return projected


class T5Encoder(LibraryModule):
    """input_ids int64 [rows, tokens] -> context [rows, tokens, width] of the last layer, normed; no mask.

    Padding is looked at, as the models that use it were trained and as ComfyUI does.
    """

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        encoder = self.model.encoder
        states = self.model.shared(input_ids)
        bias = self._bias(input_ids.shape[1], input_ids.device)
        for block in encoder.block:
            mixing, feeding = block.layer
            states = states + _t5_attention(mixing.SelfAttention, mixing.layer_norm(states), bias)
            states = states + feeding.DenseReluDense(feeding.layer_norm(states))
        context: torch.Tensor = encoder.final_layer_norm(states)
        return context

    def _bias(self, length: int, device: torch.device) -> torch.Tensor:
        """What the first block's table adds to the scores by distance: [1, heads, tokens, tokens]."""
        attention = self.model.encoder.block[0].layer[0].SelfAttention
        position = torch.arange(length, device=device)
        ahead = position[None, :] - position[:, None]
        half = attention.relative_attention_num_buckets // 2
        edges = bucket_edges(half, attention.relative_attention_max_distance)
        reached = ahead.abs()[..., None] >= torch.tensor(edges, device=device)
        bucket = reached.to(torch.int64).sum(-1) + (ahead > 0).to(torch.int64) * half
        table: torch.Tensor = attention.relative_attention_bias(bucket)
        return table.permute(2, 0, 1).unsqueeze(0)


def bucket_edges(buckets: int, farthest: int) -> list[int]:
    """The distances at which T5's bucket number rises by one: exact for the first half, then logarithmic.

    A list of edges rather than the logarithm itself, whose rounding at an edge differs between libraries.
    Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1, and its reference code.
    """
    exact = buckets // 2
    growth = farthest / exact
    logarithmic = [math.ceil(exact * growth ** (step / (buckets - exact)) - 1e-9) for step in range(1, buckets - exact)]
    return [*range(1, exact + 1), *logarithmic]


def _t5_attention(attention: Any, states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    query, key, value = (
        projection(states).unflatten(-1, (attention.n_heads, attention.key_value_proj_dim)).transpose(1, 2)
        for projection in (attention.q, attention.k, attention.v)
    )
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    projected: torch.Tensor = attention.o(mixed.transpose(1, 2).flatten(2))
    return projected


class QwenTaps(LibraryModule):
    """input_ids int64 [rows, tokens], context_mask bool [rows, tokens] -> context [rows, tokens, taps * width].

    A tap k is the state after k layers, without the last norm; taps of one token lie side by side. Layers past the
    last tap are not part of the network. A token, padding too, looks at tokens up to its own that the mask keeps, and
    at the first one, which every prompt has: so there is always something to look at.
    """

    def __init__(self, model: Any, taps: tuple[int, ...], *, counts_kept: bool) -> None:
        """Args: counts_kept: a token's position is the number of kept ones before it, not of all."""
        super().__init__(model)
        self.taps = taps
        self.counts_kept = counts_kept

    def forward(self, input_ids: torch.Tensor, context_mask: torch.Tensor) -> torch.Tensor:
        model, config = self.model, self.model.config
        states = model.embed_tokens(input_ids)
        turn = rotation((self._positions(context_mask),), (config.head_dim,), config.rope_parameters["rope_theta"])
        order = torch.arange(input_ids.shape[1], device=input_ids.device)
        earlier = order[None, :] <= order[:, None]
        mask = (earlier & (context_mask | (order == 0))[:, None, :])[:, None]
        tapped = []
        for number, layer in enumerate(model.layers, start=1):
            attention, normed = layer.self_attn, layer.input_layernorm(states)
            query, key, value = (
                projection(normed).unflatten(-1, (-1, attention.head_dim))
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            query = rotate_halves(attention.q_norm(query), turn)
            key = rotate_halves(attention.k_norm(key), turn)
            groups = attention.num_key_value_groups
            key, value = key.repeat_interleave(groups, dim=2), value.repeat_interleave(groups, dim=2)
            states = states + attention.o_proj(attend(query, key, value, mask))
            states = states + layer.mlp(layer.post_attention_layernorm(states))
            if number in self.taps:
                tapped.append(states)
        return torch.cat(tapped, dim=-1)

    def _positions(self, context_mask: torch.Tensor) -> torch.Tensor:
        if self.counts_kept:
            return (context_mask.to(torch.float32).cumsum(dim=1) - 1).clamp(min=0)
        order = torch.arange(context_mask.shape[1], dtype=torch.float32, device=context_mask.device)
        return order.expand(context_mask.shape[0], -1)


def make_clip(config: Mapping[str, Any]) -> nn.Module:
    """CLIP-L, pooled, of a configuration of `CLIPTextConfig`."""
    return PooledClip(CLIPTextModel(CLIPTextConfig(**config))).eval()


def make_clip_layers(config: Mapping[str, Any]) -> nn.Module:
    """CLIP with all its layers, normed, of a configuration of `CLIPTextConfig`."""
    return ClipLayers(CLIPTextModel(CLIPTextConfig(**config))).eval()


def make_clip_unnormed_layers(config: Mapping[str, Any]) -> nn.Module:
    """CLIP with all its layers, not normed, of a configuration of `CLIPTextConfig`."""
    return ClipLayers(CLIPTextModel(CLIPTextConfig(**config)), normed=False).eval()


def make_open_clip_h(config: Mapping[str, Any]) -> nn.Module:
    """OpenCLIP-H with all its layers, normed, of a configuration of `CLIPTextConfig`."""
    return ClipLayers(CLIPTextModel(CLIPTextConfig(**config)), absent=_absent(config)).eval()


def _absent(config: Mapping[str, Any]) -> int:
    """Last layers that a configuration of OpenCLIP-H lacks: diffusers' folders, and files made of them, have 23."""
    return int(config["num_hidden_layers"] == OPEN_CLIP_H_LAYERS - 1)


def make_clip_layers_and_pooled(config: Mapping[str, Any]) -> nn.Module:
    """CLIP with all its layers, not normed, and its projection, of a configuration of `CLIPTextConfig`.

    The end token is set right: configurations converted from OpenCLIP carry a wrong one (2), which the library replaces
    by the largest token number, and that is the same token.
    """
    return ClipLayersAndPooled(_projecting(config)).eval()


def make_clip_last_and_pooled(config: Mapping[str, Any]) -> nn.Module:
    """As `make_clip_layers_and_pooled`, with the last layer alone."""
    return ClipLastAndPooled(_projecting(config)).eval()


def _projecting(config: Mapping[str, Any]) -> Any:
    end = {"eos_token_id": config["vocab_size"] - 1}
    return CLIPTextModelWithProjection(CLIPTextConfig(**{**config, **end}))


def make_t5(config: Mapping[str, Any]) -> nn.Module:
    """The encoder of a configuration of `T5Config`."""
    return T5Encoder(T5EncoderModel(T5Config(**config))).eval()


def make_qwen3(config: Mapping[str, Any]) -> nn.Module:
    """Taps of a configuration of `Qwen3Config`, plus its `taps`."""
    return _tapped(Qwen3Model, Qwen3Config, config, counts_kept=False)


def make_qwen3_vl(config: Mapping[str, Any]) -> nn.Module:
    """Taps of the language model of a configuration of `Qwen3VLTextConfig`, plus its `taps`."""
    return _tapped(Qwen3VLTextModel, Qwen3VLTextConfig, config, counts_kept=True)


def _tapped(model_class: Any, config_class: Any, config: Mapping[str, Any], *, counts_kept: bool) -> nn.Module:
    # A published configuration is of all layers, `layer_types` one word for each.
    own = {key: value for key, value in config.items() if key not in ("taps", "num_hidden_layers", "layer_types")}
    model = model_class(config_class(**own, num_hidden_layers=max(config["taps"])))
    model.norm = nn.Identity()  # past the last tap
    return QwenTaps(model, config["taps"], counts_kept=counts_kept).eval()


def _clip_config(width: int, layers: int, heads: int, activation: str, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": 49408,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": facts.CHUNK,
        "hidden_act": activation,
        "bos_token_id": 49406,
        "eos_token_id": facts.CLIP_END,
        **more,
    }


_SMALL_CLIP: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "bos_token_id": 1022,
    "eos_token_id": 1023,
}


def _layers_ports(config: Mapping[str, Any]) -> Ports:
    return facts.clip_layers_ports(config["num_hidden_layers"], config["hidden_size"])


def _open_clip_h_ports(config: Mapping[str, Any]) -> Ports:
    return facts.clip_layers_ports(config["num_hidden_layers"] + _absent(config), config["hidden_size"])


def _layers_and_pooled_ports(config: Mapping[str, Any]) -> Ports:
    layers, width, projected = (config[key] for key in ("num_hidden_layers", "hidden_size", "projection_dim"))
    return facts.clip_layers_and_pooled_ports(layers, width, projected)


def _last_and_pooled_ports(config: Mapping[str, Any]) -> Ports:
    return facts.clip_last_and_pooled_ports(config["hidden_size"], config["projection_dim"])


def _clip(
    network: Network,
    make: Callable[[Mapping[str, Any]], nn.Module],
    ports: Callable[[Mapping[str, Any]], Ports],
    config: Mapping[str, Any],
    lacking: tuple[str, Mapping[str, Any]] | None = None,
) -> ModuleSpec:
    small = {**config, **_SMALL_CLIP} | ({"projection_dim": 32} if "projection_dim" in config else {})
    return ModuleSpec(network=network, make=make, config=config, small_config=small, ports=ports, lacking=lacking)


CLIP_L_POOLED = ModuleSpec(
    network=facts.CLIP_L_POOLED,
    make=make_clip,
    config={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "eos_token_id": 49407,
    },
    small_config={
        "vocab_size": 1024,
        "hidden_size": 768,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": 1022,
        "eos_token_id": 1023,
    },
)

_CLIP_L = _clip_config(768, 12, 12, "quick_gelu")
CLIP_L_LAYERS = _clip(facts.CLIP_L_LAYERS, make_clip_layers, _layers_ports, _CLIP_L)
"""Stable Diffusion 1's."""

OPEN_CLIP_H_LAYERS = 24
OPEN_CLIP_H = _clip(
    facts.OPEN_CLIP_H,
    make_open_clip_h,
    _open_clip_h_ports,
    _clip_config(1024, OPEN_CLIP_H_LAYERS, 16, "gelu"),
    lacking=(
        f"encoder.layers.{OPEN_CLIP_H_LAYERS - 1}.layer_norm1.weight",
        {"num_hidden_layers": OPEN_CLIP_H_LAYERS - 1},
    ),
)
"""Stable Diffusion 2's."""

CLIP_L_UNNORMED = _clip(facts.CLIP_L_LAYERS, make_clip_unnormed_layers, _layers_ports, _CLIP_L)
"""SDXL's first."""

_OPEN_CLIP_BIGG = _clip_config(1280, 32, 20, "gelu", projection_dim=1280)
OPEN_CLIP_BIGG = _clip(facts.OPEN_CLIP_BIGG, make_clip_layers_and_pooled, _layers_and_pooled_ports, _OPEN_CLIP_BIGG)
"""SDXL's second."""

OPEN_CLIP_BIGG_LAST = _clip(
    facts.OPEN_CLIP_BIGG_LAST, make_clip_last_and_pooled, _last_and_pooled_ports, _OPEN_CLIP_BIGG
)
"""Stable Cascade's."""


def t5_xxl(network: Network) -> ModuleSpec:
    """T5-XXL as a model's text encoder."""
    return ModuleSpec(
        network=network,
        make=make_t5,
        config={
            "vocab_size": 32128,
            "d_model": 4096,
            "d_kv": 64,
            "d_ff": 10240,
            "num_layers": 24,
            "num_heads": 64,
            "feed_forward_proj": "gated-gelu",
            "dropout_rate": 0.0,
        },
        small_config={
            "vocab_size": 1024,
            "d_model": 4096,
            "d_kv": 16,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
            "feed_forward_proj": "gated-gelu",
            "dropout_rate": 0.0,
        },
    )


_QWEN3_4B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": facts.QWEN3_4B_WIDTH,
    "intermediate_size": 9728,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
_SMALL_QWEN3: dict[str, Any] = _QWEN3_4B | {
    "vocab_size": 1024,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def _wide(taps: tuple[int, ...], small_taps: tuple[int, ...]) -> int:
    return facts.QWEN3_4B_WIDTH * len(taps) // len(small_taps)


def qwen3_4b(network: Network, taps: tuple[int, ...], small_taps: tuple[int, ...]) -> ModuleSpec:
    """Qwen3-4B up to its last tap, as a model's text encoder.

    Args:
        taps: layers whose states are the context.
        small_taps: the same of the small configuration, whose states are so wide that the context is as wide as in the
            full one.
    """
    return ModuleSpec(
        network=network,
        make=make_qwen3,
        config=_QWEN3_4B | {"taps": taps},
        small_config=_SMALL_QWEN3 | {"taps": small_taps, "hidden_size": _wide(taps, small_taps)},
    )


_VL_ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
_SMALL_VL_ROPE = _VL_ROPE | {"mrope_section": [4, 2, 2]}


def qwen3_vl_4b(network: Network, taps: tuple[int, ...], small_taps: tuple[int, ...]) -> ModuleSpec:
    """The language model of Qwen3-VL-4B up to its last tap; for text its three position axes are one."""
    return ModuleSpec(
        network=network,
        make=make_qwen3_vl,
        config=_QWEN3_4B | {"taps": taps, "rope_parameters": _VL_ROPE},
        small_config=_SMALL_QWEN3
        | {"taps": small_taps, "rope_parameters": _SMALL_VL_ROPE, "hidden_size": _wide(taps, small_taps)},
    )
