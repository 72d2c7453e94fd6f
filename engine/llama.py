"""Llama, Qwen2 and Mistral checkpoints, plain or distilled for SwiftKV."""

import torch

from engine.block import Block, Linear, Norm
from engine.config import ModelConfig
from engine.model import KvLoader, Model, block_of
from engine.weights import Source
from sim.plans.plan import SkipPlan


def load_llama(config: ModelConfig, source: Source, plan: SkipPlan) -> Model:
    """The model with the weights that the plan needs. Raises InputError for a tensor that is missing or misshapen."""
    shape = config.shape

    def norm(name: str) -> Norm:
        return Norm(source.take(f"model.{name}.weight", shape.hidden), eps=config.norm_eps)

    def dense(name: str, out: int, into: int, *, bias: bool) -> Linear:
        weight = source.take(f"model.layers.{name}.weight", out, into)
        return Linear(weight, source.take(f"model.layers.{name}.bias", out) if bias else None)

    def projection(layer: int, which: str) -> Linear:
        letter, _, swift = which.partition("_")
        name = f"{layer}.self_attn.{letter}_proj" + (f"_{swift}" if swift else "")
        return dense(name, shape.d_q if letter == "q" else shape.d_kv, shape.hidden, bias=config.qkv_bias)

    def block(layer: int) -> Block:
        gate = dense(f"{layer}.mlp.gate_proj", shape.ffn, shape.hidden, bias=config.ffn_bias)
        up = dense(f"{layer}.mlp.up_proj", shape.ffn, shape.hidden, bias=config.ffn_bias)
        bias = torch.cat([gate.bias, up.bias]) if gate.bias is not None and up.bias is not None else None
        return block_of(
            loader,
            bulk,
            layer,
            attn_norm=loader.attn_norm(layer),
            ffn_norm=norm(f"layers.{layer}.post_attention_layernorm"),
            out=dense(f"{layer}.self_attn.o_proj", shape.hidden, shape.d_q, bias=config.out_bias),
            up=Linear(torch.cat([gate.weight, up.weight]), bias),
            down=dense(f"{layer}.mlp.down_proj", shape.hidden, shape.ffn, bias=config.ffn_bias),
        )

    loader = KvLoader(
        config,
        plan,
        source,
        projection,
        attn_norm=lambda layer: norm(f"layers.{layer}.input_layernorm"),
        swift_norm=lambda: norm("norm_swiftkv"),
    )
    bulk = loader.bulk()
    embedding = source.take("model.embed_tokens.weight", shape.vocab, shape.hidden)
    assert config.rope is not None
    cos, sin = config.rope.tables(shape.max_context, shape.head_dim)
    return Model(
        config=config,
        embedding=embedding,
        positions=None,
        project_in=None,
        blocks=tuple(block(j) if runs else None for j, runs in enumerate(plan.resident_layers)),
        bulk=bulk,
        final_norm=norm("norm"),
        project_out=None,
        head=Linear(embedding if shape.tied_embeddings else source.take("lm_head.weight", shape.vocab, shape.hidden)),
        rope=(cos.to(embedding.device), sin.to(embedding.device)),
        notes=tuple(loader.notes),
    )
