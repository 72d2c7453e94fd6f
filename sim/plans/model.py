"""The shape of a decoder-only transformer, and what follows from it in closed form."""

from dataclasses import dataclass
from typing import Literal

from sim.errors import InputError

Family = Literal["opt", "llama", "qwen2", "mistral"]


@dataclass(frozen=True)
class ModelShape:
    """The numbers that decide what a model costs; weights themselves are never needed here.

    Symbols of the closed forms: L layers, d hidden, d_q = heads·head_dim, d_kv = kv_heads·head_dim, f ffn, V vocab.
    """

    name: str
    family: Family
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_context: int
    gated_ffn: bool  # SwiGLU has three matrices, OPT's ReLU two
    tied_embeddings: bool
    source: str = ""

    def __post_init__(self) -> None:
        for field in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "max_context"):
            if getattr(self, field) < 1:
                raise InputError(f"model {self.name!r}: {field}={getattr(self, field)} must be at least 1")
        if self.heads % self.kv_heads:
            raise InputError(f"model {self.name!r}: {self.heads} heads do not share {self.kv_heads} KV heads evenly")

    @property
    def d_q(self) -> int:
        """Width of the queries."""
        return self.heads * self.head_dim

    @property
    def d_kv(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_dim

    @property
    def p_qo(self) -> int:
        """Parameters of the query and output projections of one layer."""
        return 2 * self.hidden * self.d_q

    @property
    def p_kv(self) -> int:
        """Parameters of the key and value projections of one layer."""
        return 2 * self.hidden * self.d_kv

    @property
    def p_ffn(self) -> int:
        """Parameters of the feed-forward block of one layer."""
        return (3 if self.gated_ffn else 2) * self.hidden * self.ffn

    @property
    def p_layer(self) -> int:
        """Parameters of one layer, norms and biases ignored."""
        return self.p_qo + self.p_kv + self.p_ffn

    @property
    def p_head(self) -> int:
        """Parameters of the LM head (read in full by each step that samples)."""
        return self.hidden * self.vocab

    @property
    def parameters(self) -> int:
        """Matrix parameters that occupy memory: layers, head, and input embeddings unless tied."""
        return self.layers * self.p_layer + self.p_head * (1 if self.tied_embeddings else 2)

    def kv_bytes_per_token_layer(self, kv_dtype_bytes: float = 2.0) -> float:
        """Bytes of keys and values that one token leaves in one layer's cache."""
        return 2 * self.d_kv * kv_dtype_bytes
