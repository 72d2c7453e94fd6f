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

# counters of work done; all are whole numbers, so that sums do not depend on their order (`sim.cost.work` weighs them)
(
    ATTN_ROWS,  # rows times layers that attend, leave keys, run the FFN
    KV_ROWS,
    FFN_ROWS,
    ATTN_READS,  # layers whose weights were read
    KV_READS,
    FFN_READS,
    PAIRS,  # query-key pairs times layers
    CACHED,  # cached tokens read, times layers
    PAIRS_DENSE,  # the same in one layer of the dense model
    CACHED_DENSE,
    ROWS_DENSE,
    STEPS,
    HEAD_ROWS,  # rows that yield a token
    HEAD_READS,
    OUTSIDE_NS,  # time priced outside the measured domain, attention of decoding rows excepted
    OUTSIDE_KV_NS,  # attention of decoding rows
) = range(16)
COUNTERS = 16
# behind a gate, for each group: rows that may skip its FFN, and the share of its weights that nobody read
GATED, UNREAD = range(2)
GATE_COUNTERS = 2
WHOLE = 2**30  # of UNREAD

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
    CHUNK_PAIRS,  # query-key pairs of prompt chunks
    CHUNK_CACHED,  # cached tokens that they read
    RECOMPUTED,  # chunks of generated tokens
    TOTAL,  # rows of all kinds
    KERNELS,  # launched
    CLASSES,  # of generated tokens that are there
) = range(14)
ROW_TALLIES = 14
CHUNK_NS, CHUNK_OUTSIDE_NS = range(2)  # attention of chunks, per layer

# tallies of generated tokens, by class
ALL, ALONE, CONTEXT, DRAFTED, OPEN, PAIRS_AGAIN, CACHED_AGAIN = range(7)
CLASS_TALLIES = 7

# tallies of a group's rows, by what they do in its layers; and where the decoding ones were last found in their grid
IN_ATTN, IN_KV, IN_FFN, IN_GATE, SOLO, SOLO_CONTEXT, CELL_ROWS, CELL_CONTEXT = range(8)
GROUP_TALLIES = 8

AHEAD = 32  # steps that are priced ahead at most
AHEAD_KV, AHEAD_OUTSIDE, AHEAD_LAUNCH, AHEAD_NS = range(4)  # decode attention, of that outside, launch, all
AHEADS = 4


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
    gate_warmup: int  # generated tokens before the gate opens
    gathered_rows: int  # FFN rows from which skipping rows leave the GEMM
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
    chunk_ns: Floats  # [2] of prompt chunks
    classes: Ints  # [U, CLASS_TALLIES]
    there: Ints  # [U] the first CLASSES are the classes with rows: most plans have few at a time
    class_ns: Floats  # [U, 2] of recomputed chunks
    groups: Ints  # [G, GROUP_TALLIES]
    parts_ns: Ints  # [PARTS] of this step
    counters: Ints  # [COUNTERS] of this step
    gates: Ints  # [G, GATE_COUNTERS] of this step
    totals: Ints  # [COUNTERS] of all steps
    gate_totals: Ints  # [G, GATE_COUNTERS] of all steps
    ahead_ns: Ints  # [AHEADS, AHEAD] of the steps to come


def scratch_for(tables: Tables) -> Scratch:
    """Zeroed working memory for these tables."""
    u, g = tables.decode.shape

    def zeros(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    return Scratch(
        rows=zeros(ROW_TALLIES),
        chunk_ns=np.zeros(2),
        classes=zeros(u, CLASS_TALLIES),
        there=zeros(u),
        class_ns=np.zeros((u, 2)),
        groups=zeros(g, GROUP_TALLIES),
        parts_ns=zeros(PARTS),
        counters=zeros(COUNTERS),
        gates=zeros(g, GATE_COUNTERS),
        totals=zeros(COUNTERS),
        gate_totals=zeros(g, GATE_COUNTERS),
        ahead_ns=zeros(AHEADS, AHEAD),
    )
