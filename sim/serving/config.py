"""The scheduler's knobs, named as vLLM names them."""

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, get_args

from sim.errors import InputError, UnknownName
from sim.plans.plan import KV, SkipPlan

Policy = Literal["chunked", "prefill_first", "static"]
CHUNKED, PREFILL_FIRST, STATIC = range(3)


@dataclass(frozen=True)
class SchedulerConfig:
    """How requests become iterations.

    `chunked`: one token budget per step for prompts and decodes alike, decodes first (vLLM V1, Sarathi-Serve).
    `prefill_first`: a step holds whole prompts or decodes, prompts win (vLLM V0, after Orca's iteration-level batches).
    `static`: batches of equal age; the next one starts when the last request of this one is done (the papers' setting).
    """

    policy: Policy = "chunked"
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    long_prefill_token_threshold: int = 0  # 0: a prompt may take the whole budget
    block_tokens: int = 16
    prefix_caching: bool = False
    watermark: float = 0.0  # share of KV memory that an admission must leave free
    reserve_output: bool = False  # admit only with room for all output tokens: nobody is preempted (TensorRT-LLM)

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise UnknownName("policy", str(self.policy), get_args(Policy))
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name.startswith("long") else 1
            if field.type is int and value < least:
                raise InputError(f"{field.name}={value}: must be at least {least}")
        if not 0 <= self.watermark < 1:
            raise InputError(f"watermark={self.watermark}: must be a share in 0..1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise InputError(
                f"max_num_batched_tokens={self.max_num_batched_tokens} is below max_num_seqs={self.max_num_seqs}:"
                " a full batch could not decode; raise the first or lower the second"
            )


class Knobs(NamedTuple):
    """The same as plain integers, for the scheduler's loop, with what the plan says about memory."""

    policy: int
    max_num_seqs: int
    max_num_batched_tokens: int
    long_prefill: int
    block_tokens: int
    total_units: int  # KV memory in units of one block of one layer's cache
    full_units: int  # units of one block in every cache
    watermark_units: int
    hash_tokens: int  # tokens of one prefix-cache entry; 0: no prefix caching
    hash_units: int  # units of one prefix-cache entry
    draft_tokens: int  # self-speculative tokens drafted per decode step
    max_context: int
    reserve_output: int


def knobs_of(
    config: SchedulerConfig, plan: SkipPlan, *, kv_blocks: int, max_context: int, hash_tokens: int = 0
) -> Knobs:
    """The scheduler's integers for a replica whose memory holds `kv_blocks` blocks of all the plan's caches.

    Raises InputError where prefix blocks of the trace do not divide into KV blocks, and where a prompt's last token
    leaves fewer keys than the others: a longer prompt could not reuse its block.
    """
    caching = config.prefix_caching and hash_tokens > 0
    if caching and (plan.prompt & ~plan.sampled & KV)[plan.caches].any():
        raise InputError(
            f"plan {plan.name!r}: the sampled prompt token leaves keys in fewer layers than the tokens before it, so"
            " prefix blocks cannot be shared; turn prefix caching off"
        )
    if caching and hash_tokens % config.block_tokens:
        raise InputError(
            f"prefix blocks of {hash_tokens} tokens do not divide into KV blocks of {config.block_tokens};"
            f" choose block_tokens among the divisors of {hash_tokens}"
        )
    full = int(plan.caches.size)
    total = kv_blocks * full
    return Knobs(
        policy=get_args(Policy).index(config.policy),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        long_prefill=config.long_prefill_token_threshold,
        block_tokens=config.block_tokens,
        total_units=total,
        full_units=full,
        watermark_units=int(total * config.watermark),
        hash_tokens=hash_tokens if caching else 0,
        hash_units=hash_tokens // config.block_tokens * full if caching else 0,
        draft_tokens=plan.draft.tokens if plan.draft else 0,
        max_context=max_context,
        reserve_output=int(config.reserve_output),
    )
