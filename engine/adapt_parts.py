"""The parts of a transformers model by what they do, for the two ways a family builds a layer."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, relu, rms_norm, silu

from engine.config import ModelConfig
from sim.errors import InputError


class Parts(Protocol):
    """A model's layers as functions; weights stay where transformers put them, under its names."""

    layers: Any  # the modules of the layers
    rope: tuple[Tensor, Tensor] | None  # cos and sin [context, head_dim / 2]

    def embed(self, tokens: Tensor) -> Tensor:
        """Residual streams [rows, positions, hidden] of token ids from position 0 on."""

    def attn_norm(self, layer: int, x: Tensor) -> Tensor:
        """The layer's input norm."""

    def swift_norm(self, x: Tensor) -> Tensor:
        """The norm that SwiftKV's upper layers share."""

    def ffn(self, layer: int, x: Tensor) -> Tensor:
        """What the layer's FFN, its norm included, adds to the stream."""

    def out(self, layer: int) -> nn.Module:
        """The attention's output projection."""

    def head(self, x: Tensor) -> Tensor:
        """Logits of streams that left the last layer."""


class LlamaParts:
    """Llama, Qwen2, Mistral: RMSNorm, SwiGLU, rotary positions."""

    def __init__(self, hf: Any, config: ModelConfig) -> None:
        self.hf, self.eps = hf, config.norm_eps
        self.layers = hf.model.layers
        assert config.rope is not None
        self.rope: tuple[Tensor, Tensor] | None = config.rope.tables(config.shape.max_context, config.shape.head_dim)

    def _norm(self, module: nn.Module, x: Tensor) -> Tensor:
        return rms_norm(x, (x.shape[-1],), module.weight, self.eps)  # type: ignore[arg-type]

    def embed(self, tokens: Tensor) -> Tensor:
        """As `Parts.embed`."""
        return self.hf.model.embed_tokens(tokens)

    def attn_norm(self, layer: int, x: Tensor) -> Tensor:
        """As `Parts.attn_norm`."""
        return self._norm(self.layers[layer].input_layernorm, x)

    def swift_norm(self, x: Tensor) -> Tensor:
        """As `Parts.swift_norm`."""
        return self._norm(self.hf.model.norm_swiftkv, x)

    def ffn(self, layer: int, x: Tensor) -> Tensor:
        """As `Parts.ffn`."""
        block = self.layers[layer]
        u, mlp = self._norm(block.post_attention_layernorm, x), block.mlp
        return mlp.down_proj(silu(mlp.gate_proj(u)) * mlp.up_proj(u))

    def out(self, layer: int) -> nn.Module:
        """As `Parts.out`."""
        return self.layers[layer].self_attn.o_proj

    def head(self, x: Tensor) -> Tensor:
        """As `Parts.head`."""
        return linear(self._norm(self.hf.model.norm, x), self.hf.lm_head.weight)


class OptParts:
    """OPT with norms before its blocks: LayerNorm, ReLU, learned positions."""

    def __init__(self, hf: Any, config: ModelConfig) -> None:
        if config.post_norm or config.embed_dim != config.shape.hidden:
            raise InputError(f"{config.folder}: OPT with post-norms or projected embeddings (350m) cannot be adapted")
        self.hf, self.decoder = hf, hf.model.decoder
        self.layers = self.decoder.layers
        self.rope: tuple[Tensor, Tensor] | None = None

    def _norm(self, module: nn.Module, x: Tensor) -> Tensor:
        return layer_norm(x, (x.shape[-1],), module.weight, module.bias, 1e-5)  # type: ignore[arg-type]

    def embed(self, tokens: Tensor) -> Tensor:
        """As `Parts.embed`; OPT's positions start at row 2 of their table."""
        place = torch.arange(2, 2 + tokens.shape[1], device=tokens.device)
        return self.decoder.embed_tokens(tokens) + self.decoder.embed_positions.weight[place]

    def attn_norm(self, layer: int, x: Tensor) -> Tensor:
        """As `Parts.attn_norm`."""
        return self._norm(self.layers[layer].self_attn_layer_norm, x)

    def swift_norm(self, x: Tensor) -> Tensor:
        """As `Parts.swift_norm`; the format knows no OPT."""
        raise NotImplementedError("SwiftKV checkpoints are defined for the Llama family")

    def ffn(self, layer: int, x: Tensor) -> Tensor:
        """As `Parts.ffn`."""
        block = self.layers[layer]
        return block.fc2(relu(block.fc1(self._norm(block.final_layer_norm, x))))

    def out(self, layer: int) -> nn.Module:
        """As `Parts.out`."""
        return self.layers[layer].self_attn.out_proj

    def head(self, x: Tensor) -> Tensor:
        """As `Parts.head`."""
        return linear(self._norm(self.decoder.final_layer_norm, x), self.hf.lm_head.weight)


def parts_of(hf: Any, config: ModelConfig) -> Parts:
    """The parts of a transformers model that was built for this config."""
    return OptParts(hf, config) if config.shape.family == "opt" else LlamaParts(hf, config)
