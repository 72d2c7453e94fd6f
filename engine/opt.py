"""OPT checkpoints: learned positions, ReLU, biases; the 350m's post-norms and projected embedding."""

from engine.block import Block, Linear, Norm
from engine.config import ModelConfig
from engine.model import KvLoader, Model, block_of
from engine.weights import Source
from sim.plans.plan import SkipPlan


def load_opt(config: ModelConfig, source: Source, plan: SkipPlan) -> Model:
    """The model with the weights that the plan needs. Raises InputError for a tensor that is missing or misshapen."""
    shape, width = config.shape, config.embed_dim
    root = "decoder" if source.has("decoder.embed_tokens.weight") else "model.decoder"  # older uploads: no head wrapper

    def norm(name: str) -> Norm:
        weight, bias = (source.take(f"{root}.{name}.{part}", shape.hidden) for part in ("weight", "bias"))
        return Norm(weight, bias, config.norm_eps)

    def dense(name: str, out: int, into: int, *, bias: bool) -> Linear:
        weight = source.take(f"{root}.{name}.weight", out, into)
        return Linear(weight, source.take(f"{root}.{name}.bias", out) if bias else None)

    def projection(layer: int, which: str) -> Linear:
        name = f"layers.{layer}.self_attn.{which[0]}_proj"
        return dense(name, shape.hidden, shape.hidden, bias=config.qkv_bias)

    def attn_norm(layer: int) -> Norm:
        return Norm(None) if config.post_norm else norm(f"layers.{layer}.self_attn_layer_norm")

    def block(layer: int) -> Block:
        return block_of(
            loader,
            bulk,
            layer,
            attn_norm=norm(f"layers.{layer}.self_attn_layer_norm"),
            ffn_norm=norm(f"layers.{layer}.final_layer_norm"),
            out=dense(f"layers.{layer}.self_attn.out_proj", shape.hidden, shape.hidden, bias=config.out_bias),
            up=dense(f"layers.{layer}.fc1", shape.ffn, shape.hidden, bias=config.ffn_bias),
            down=dense(f"layers.{layer}.fc2", shape.hidden, shape.ffn, bias=config.ffn_bias),
        )

    loader = KvLoader(config, plan, source, projection, attn_norm=attn_norm, swift_norm=lambda: Norm(None))
    bulk = loader.bulk()
    embedding = source.take(f"{root}.embed_tokens.weight", shape.vocab, width)
    projected = width != shape.hidden
    tied = shape.tied_embeddings
    return Model(
        config=config,
        embedding=embedding,
        positions=source.take(f"{root}.embed_positions.weight", shape.max_context + 2, shape.hidden),
        project_in=dense("project_in", shape.hidden, width, bias=False) if projected else None,
        blocks=tuple(block(j) if runs else None for j, runs in enumerate(plan.resident_layers)),
        bulk=bulk,
        final_norm=norm("final_layer_norm") if config.final_norm else Norm(None),
        project_out=dense("project_out", width, shape.hidden, bias=False) if projected else None,
        head=Linear(embedding if tied else source.take("lm_head.weight", shape.vocab, width)),
        rope=None,
        notes=tuple(loader.notes),
    )
