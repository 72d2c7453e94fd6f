"""The price list of one plan on one deployment: small integer tables, so that a step is priced by looking up.

Rows of the tables are numbers of rows (tokens) a kernel works on, 0..R. All times are integer nanoseconds, so sums do
not depend on their order and the compiled loop equals the interpreted one bit for bit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]

# kinds of per-layer work, rows of Tables.ns
QKVO = 0  # fused QKV projection and output projection
QO = 1  # the same without K and V (somebody else's cache, or K and V of other rows)
FFN_GEMMS = 2
ATTN_POINTWISE = 3  # norm, rotary embedding, KV write
FFN_POINTWISE = 4  # norm, activation
REDUCE = 5  # one all-reduce over the GPUs
HEAD = 6  # final norm, LM head, sampler: once per step
EMBED = 7
KINDS = 8

# parts of a step's time
WEIGHTS, KV_READ, COMPUTE, POINTWISE, COMMUNICATION, LAUNCH, HOST = range(7)
PARTS = 7
PART_NAMES = ("weights", "kv", "compute", "pointwise", "communication", "launch", "host")

# counters of work done, and of what the dense model would have done for the same rows
(
    FLOPS,
    FLOPS_DENSE,
    WEIGHT_BYTES,
    WEIGHT_BYTES_DENSE,
    KV_BYTES,
    KV_BYTES_DENSE,
    OUTSIDE_NS,
    ROW_LAYERS,
    ROW_LAYERS_DENSE,
) = range(9)
COUNTERS = 9
COUNTER_NAMES = (
    "flops",
    "flops_dense",
    "weight_bytes",
    "weight_bytes_dense",
    "kv_read_bytes",
    "kv_read_bytes_dense",
    "outside_ns",
    "row_layers",
    "row_layers_dense",
)

# tallies of a step's rows
(
    PROMPT,  # prompt tokens, the last one of each prompt excepted
    SAMPLED,  # last prompt tokens
    SAMPLED_CONTEXT,  # sum of their context lengths
    SINGLE,  # decoding rows
    DRAFTS,  # drafted tokens to verify
    DRAFT_PASSES,  # most drafts of one row
    SAMPLING,  # rows that yield a token
    SEQUENCES,
) = range(8)
ROW_TALLIES = 8
CHUNK_NS, CHUNK_PAIRS, CHUNK_KV = range(3)


class Tables(NamedTuple):
    """Everything the price of an iteration depends on. G groups of layers that the plan treats alike, U row classes."""

    ns: Ints  # [KINDS, R + 1] one layer's work (HEAD, EMBED: the step's)
    outside: Bytes  # [KINDS, R + 1] whether that price is extrapolated
    kv_ns: Ints  # [G, R + 1] K and V projections of the whole group where they are not fused with Q
    kv_outside: Bytes  # [G, R + 1]
    layers: Ints  # [G] layers in the group
    prompt: Ints  # [G] flags of prompt tokens
    sampled: Ints  # [G] flags of the last prompt token
    decode: Ints  # [U, G] flags of generated tokens, by class
    class_of: Ints  # [T] class of generated token t; the last holds for ever
    fused: Bytes  # [G] K and V come from the layer's own stream, together with Q
    gate_all: Floats  # [G, S + 1] probability that all of so many gated rows skip the FFN; column 0 is 0 where ungated
    gate_skip: Floats  # [G] probability that one does
    drafted: Bytes  # [G] layers that draft tokens run through
    prefill_new: Ints  # [A] axes and nodes of the attention grids
    prefill_context: Ints  # [B]
    prefill_ns: Floats  # [A, B] one sequence, one layer
    prefill_outside: Bytes  # [A, B]
    decode_rows: Ints  # [C]
    decode_context: Ints  # [D]
    decode_ns: Floats  # [C, D] one layer
    decode_outside: Bytes  # [C, D]
    attn_params: float  # of one layer, whole model: query and output projections
    kv_params: float  # key and value projections
    ffn_params: float
    head_params: float
    d_q: float  # width of the queries, for attention FLOPs
    weight_bytes: float  # per parameter of a layer
    kv_token_bytes: float  # of one token in one cache, whole model
    total_layers: int
    prompt_layers: int  # layers in which prompt tokens attend
    class_layers: Ints  # [U] layers in which a generated token of the class attends
    gate_warmup: int  # generated tokens before the gate opens
    compact_rows: int  # FFN rows from which skipping rows leave the GEMM (row compaction pays)
    draft_tokens: int
    acceptance: float  # probability that a draft token is accepted
    kernels_attn: int  # launched per layer that attends
    kernels_kv: int
    kernels_ffn: int
    kernels_step: int
    graph_rows: int
    graph_gap_ns: int
    eager_launch_ns: int
    host_step_ns: int
    host_row_ns: int
    host_overlap: int
    graph_prompts: int
    request_ns: int
    request_gap_ns: int
    stream_token_ns: int


class Scratch(NamedTuple):
    """Working memory of the pricing loop, and its results: no allocation per step."""

    rows: Ints  # [ROW_TALLIES] of the step
    chunk: Floats  # [3] prompt chunks: attention ns, query-key pairs, cached tokens read; per layer
    class_rows: Ints  # [U] generated tokens of the step, by class
    class_single: Ints  # [U] of those, the ones that decode (the rest are recomputed in chunks)
    class_context: Ints  # [U] sum of their context lengths, themselves included
    class_drafts: Ints  # [U] drafts that follow them
    class_gated: Ints  # [U] of those that decode, the ones with an open FFN gate
    class_chunk: Floats  # [U, 3] recomputed chunks, as `chunk`
    parts_ns: Ints  # [PARTS] of this step
    counters: Floats  # [COUNTERS] running totals


def scratch_for(tables: Tables) -> Scratch:
    """Zeroed working memory for these tables."""
    u = tables.decode.shape[0]
    return Scratch(
        rows=np.zeros(ROW_TALLIES, np.int64),
        chunk=np.zeros(3),
        class_rows=np.zeros(u, np.int64),
        class_single=np.zeros(u, np.int64),
        class_context=np.zeros(u, np.int64),
        class_drafts=np.zeros(u, np.int64),
        class_gated=np.zeros(u, np.int64),
        class_chunk=np.zeros((u, 3)),
        parts_ns=np.zeros(PARTS, np.int64),
        counters=np.zeros(COUNTERS),
    )
