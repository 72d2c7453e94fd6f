"""What runs where: a model on so many GPUs, in which precision, under which host; and how much KV memory is left."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from sim.cost.hardware import Gpu
from sim.errors import CapacityError, InputError, UnknownName
from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FFN, KV, SkipPlan

Dtype = Literal["bf16", "fp8"]
BYTES = {"bf16": 2.0, "fp8": 1.0}
GIB = 1024**3


@dataclass(frozen=True)
class Host:
    """What the CPU adds to a step, in nanoseconds.

    Defaults are typical of vLLM 0.11 with CUDA graphs and synchronous scheduling on an x86 server; calibrate them from
    your own benchmark file where you have one.
    """

    step_ns: int = 900_000  # schedule, prepare inputs, sample, detokenise: per step
    row_ns: int = 6_000  # the same, per sequence of the step
    overlap: bool = False  # asynchronous scheduling: the host prepares step n+1 while the device runs step n
    graph_rows: int = 512  # steps of at most so many tokens are replayed from CUDA graphs
    graph_gap_ns: int = 1_000  # between two kernels of a graph
    eager_launch_ns: int = 5_000  # per kernel that is launched one by one; hidden while the device is busier
    graph_prompts: bool = True  # steps with prompt tokens are replayed too (vLLM); False: only pure decode steps are

    def __post_init__(self) -> None:
        for name in ("step_ns", "row_ns", "graph_rows", "graph_gap_ns", "eager_launch_ns"):
            if getattr(self, name) < 0:
                raise InputError(f"host {name}={getattr(self, name)}: must not be negative")


@dataclass(frozen=True)
class Frontend:
    """What stands between a client and the engine, in nanoseconds; the default is a client inside the engine.

    Requests that arrive together reach the engine `request_gap_ns` apart, which is what breaks up the lockstep of
    clients that send requests of equal length. Tokens leave through one process that serves them in order
    (detokenise, serialise, send). Where it is slower than the engine, its queue grows into TTFT and TPOT, and
    throughput ends at 1e9 / stream_token_ns tokens per second.
    """

    request_ns: int = 0  # network, HTTP, tokenisation: before the engine sees a request
    request_gap_ns: int = 0  # of that, what one process does for one request after the other
    stream_token_ns: int = 0  # per generated token

    def __post_init__(self) -> None:
        for name in ("request_ns", "request_gap_ns", "stream_token_ns"):
            if getattr(self, name) < 0:
                raise InputError(f"frontend {name}={getattr(self, name)}: must not be negative")


@dataclass(frozen=True)
class Deployment:
    """One replica: `tp` GPUs that hold the model together (tensor parallel within a node)."""

    model: ModelShape
    gpu: Gpu
    tp: int = 1
    weights: Dtype = "bf16"
    kv: Dtype = "bf16"
    memory_utilization: float = 0.9
    kv_blocks: int | None = None  # `num_gpu_blocks` of the server, where it is known; else computed
    host: Host = field(default_factory=Host)
    frontend: Frontend = field(default_factory=Frontend)

    def __post_init__(self) -> None:
        if self.tp not in (1, 2, 4, 8, 16) or self.model.heads % self.tp:
            raise InputError(f"tp={self.tp}: must be 1, 2, 4, 8 or 16 and divide the {self.model.heads} heads")
        if self.tp % self.model.kv_heads and self.model.kv_heads % self.tp:
            raise InputError(f"tp={self.tp} neither divides nor is a multiple of the {self.model.kv_heads} KV heads")
        for name in ("weights", "kv"):
            if getattr(self, name) not in get_args(Dtype):
                raise UnknownName(f"{name} dtype", str(getattr(self, name)), get_args(Dtype))
        if not 0 < self.memory_utilization <= 1:
            raise InputError(f"memory_utilization={self.memory_utilization}: must be a share in (0, 1]")
        if self.kv_blocks is not None and self.kv_blocks < 1:
            raise InputError(f"kv_blocks={self.kv_blocks}: must be at least 1")

    @property
    def heads_per_gpu(self) -> int:
        """Query heads of one GPU."""
        return self.model.heads // self.tp

    @property
    def kv_heads_per_gpu(self) -> int:
        """KV heads of one GPU; replicated where there are more GPUs than KV heads."""
        return max(1, self.model.kv_heads // self.tp)

    def weight_bytes_per_gpu(self, plan: SkipPlan) -> float:
        """Bytes of weights in each GPU's memory: the blocks the plan ever runs, head and embeddings (16-bit)."""
        m = self.model
        flags = plan.prompt | plan.sampled
        for row in plan.decode:
            flags = flags | row
        attention = float(((flags & ATTN) > 0).sum()) * m.p_qo + float(((flags & KV) > 0).sum()) * m.p_kv
        ffn = float(((flags & FFN) > 0).sum()) * m.p_ffn
        vocabulary = m.p_head * (1 if m.tied_embeddings else 2) * 2.0
        return ((attention + ffn) * BYTES[self.weights] + vocabulary) / self.tp

    def activation_bytes_per_gpu(self, max_num_batched_tokens: int, max_num_seqs: int) -> float:
        """Bytes kept free for activations, logits and the CUDA context; an engine measures this with a dummy step."""
        m = self.model
        per_token = 2.0 * (4 * m.hidden + (m.d_q + 2 * m.d_kv + (3 if m.gated_ffn else 2) * m.ffn) / self.tp)
        logits = 2 * 4.0 * min(max_num_seqs, max_num_batched_tokens) * m.vocab / self.tp
        return per_token * max_num_batched_tokens + logits + 1.0 * GIB

    def kv_bytes_per_block(self, plan: SkipPlan, block_tokens: int) -> float:
        """Bytes of one KV block in all caches of the plan, on one GPU."""
        per_token = 2 * self.kv_heads_per_gpu * self.model.head_dim * BYTES[self.kv]
        return per_token * block_tokens * plan.caches.size

    def kv_capacity_blocks(
        self, plan: SkipPlan, *, block_tokens: int, max_num_batched_tokens: int, max_num_seqs: int
    ) -> int:
        """KV blocks that fit, each holding `block_tokens` tokens in every cache of the plan.

        A given `kv_blocks` is what the server reports for the *dense* model; plans with fewer caches get more.
        Raises CapacityError where the weights leave no room for a single block, InputError for a plan without caches.
        """
        if not plan.caches.size:
            raise InputError(f"plan {plan.name!r}: nobody attends anywhere, so there is no KV memory to size")
        if self.kv_blocks is not None:
            return self.kv_blocks * self.model.layers // int(plan.caches.size)
        total = self.memory_utilization * self.gpu.memory_bytes
        weights = self.weight_bytes_per_gpu(plan)
        left = total - weights - self.activation_bytes_per_gpu(max_num_batched_tokens, max_num_seqs)
        blocks = int(left // self.kv_bytes_per_block(plan, block_tokens))
        if blocks < 1:
            raise CapacityError(
                f"{self.model.name} on {self.tp} x {self.gpu.name}: weights take {weights / GIB:.1f} GiB per GPU of the"
                f" {total / GIB:.1f} GiB usable, which leaves no KV memory; raise --tp, use fp8 weights or a larger GPU"
            )
        return blocks
