"""The engine as a library: `LLM(folder, plan=...)`, then `generate`, `stream`, `abort`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from engine.config import ModelConfig, config_of, read_config
from engine.graphs import DecodeGraphs
from engine.llama import load_llama
from engine.loop import Engine
from engine.metrics import Metrics
from engine.model import Model
from engine.opt import load_opt
from engine.sampler import SamplingParams
from engine.text import GrowingText, read_tokenizer
from engine.weights import Checkpoint, Random, Source
from sim.errors import InputError, PlanError, UnknownName
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named
from sim.serving.config import SchedulerConfig

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
KV_SHARE = 0.9  # of the device memory that the weights leave free
CPU_KV_TOKENS = 16_384
STATUS = ("future", "waiting", "running", "done", "refused", "aborted")
Prompt = str | Sequence[int]


@dataclass(frozen=True)
class Completion:
    """What became of one request."""

    request: int
    prompt_tokens: int
    token_ids: list[int]
    text: str
    finish: str  # stop | length | abort | error
    error: str | None = None
    logprobs: list[dict[int, float]] = field(default_factory=list)
    first_token_ns: int | None = None
    last_token_ns: int | None = None


@dataclass(frozen=True)
class Chunk:
    """What a streaming request has to say: new tokens and text, and at its end why."""

    request: int
    token_ids: list[int]
    text: str
    finish: str | None = None
    error: str | None = None


class LLM:
    """A model under a plan, ready to serve.

    `model` is a checkpoint's folder, or a ModelShape for random weights. `plan` is a SkipPlan or a spec such as
    "swift_kv:keep=16"; None is the dense plan, or what a SwiftKV checkpoint was distilled for. `kv_blocks` counts
    blocks of all the plan's caches. `graphs` sends decode steps through captured CUDA graphs (the default on a GPU);
    on a CPU it sends them through the same fixed-shape segments, uncaptured. Raises InputError or PlanError where
    model, plan and device do not go together.
    """

    def __init__(
        self,
        model: str | Path | ModelShape,
        *,
        plan: SkipPlan | str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        scheduler: SchedulerConfig | None = None,
        kv_blocks: int | None = None,
        max_context: int | None = None,
        graphs: bool | None = None,
        seed: int = 0,
    ) -> None:
        self.device = _device(device)
        number = _dtype(dtype, self.device)
        self.config = config_of(model) if isinstance(model, ModelShape) else read_config(_folder(model))
        self.plan = plan_for(self.config, plan)
        self.tokenizer = read_tokenizer(self.config.folder, self.config.shape.family) if self.config.folder else None
        self.model = load(self.config, self.plan, dtype=number, device=self.device, seed=seed)
        context = min(max_context or self.config.shape.max_context, self.config.shape.max_context)
        settings = scheduler or SchedulerConfig()
        blocks = kv_blocks or _kv_blocks(self.model, self.plan, settings, context)
        self.engine = Engine(self.model, self.plan, settings, kv_blocks=blocks, max_context=context, seed=seed)
        if graphs or (graphs is None and self.device.type == "cuda"):
            capture = self.device.type == "cuda"
            forward, rows = self.engine.forward, settings.max_num_seqs
            forward.decode = DecodeGraphs(forward, max_rows=rows, max_context=context, capture=capture)
        self._texts: dict[int, GrowingText] = {}

    @property
    def metrics(self) -> Metrics:
        """What was skipped and saved so far."""
        return self.engine.metrics

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about how plan and weights were brought together."""
        return self.model.notes

    def add(self, prompt: Prompt, params: SamplingParams | None = None) -> int:
        """The number of a new request. Raises InputError for text or stop strings without a tokenizer."""
        params = params or SamplingParams()
        if isinstance(prompt, str):
            prompt = self._encode(prompt)
        if params.stop and self.tokenizer is None:
            raise InputError(f"stop={params.stop!r} needs a tokenizer, and {self.config.folder} has none")
        text = GrowingText(self.tokenizer, params.stop) if self.tokenizer else None
        request = self.engine.add(prompt, params, stop_text=text)
        if text is not None:
            self._texts[request] = text
        return request

    def step(self) -> list[int]:
        """Requests that got tokens or ended in one more iteration."""
        return self.engine.step()

    def abort(self, request: int) -> bool:
        """Whether the request was still alive, and is now gone with all that it held."""
        return self.engine.abort(request)

    def result(self, request: int) -> Completion:
        """What became of a request that has ended."""
        stream, state = self.engine.streams[request], self.engine.state
        if stream.finish is None:
            raise InputError(f"request {request} has not ended; step() on, or abort() it")
        text = self._texts.get(request)
        served = bool(stream.tokens)
        return Completion(
            request=request,
            prompt_tokens=len(stream.prompt),
            token_ids=list(stream.tokens),
            text=text.finish(stream.tokens) if text else "",
            finish=stream.finish,
            error=stream.error,
            logprobs=list(stream.logprobs),
            first_token_ns=int(state.first_token_ns[request]) if served else None,
            last_token_ns=int(state.last_token_ns[request]) if served else None,
        )

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool = False,
    ) -> list[Completion]:
        """One completion per prompt, in order; a request that cannot run carries its error, the others are served."""
        each = [params or SamplingParams()] * len(prompts) if not isinstance(params, Sequence) else list(params)
        if len(each) != len(prompts):
            raise InputError(f"{len(prompts)} prompts, but {len(each)} sampling parameters")
        requests = [self.add(prompt, p) for prompt, p in zip(prompts, each)]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=not (progress and console.is_terminal), transient=True) as bar:
            task = bar.add_task("requests", total=len(requests))
            while any(self.engine.streams[r].finish is None for r in requests):
                self.step()
                bar.update(task, completed=sum(self.engine.streams[r].finish is not None for r in requests))
        return [self.result(r) for r in requests]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Chunk]:
        """Chunks of one request as they come, others running beside it; closing the iterator aborts the request."""
        request = self.add(prompt, params)
        stream, text = self.engine.streams[request], self._texts.get(request)
        told = shown = 0
        try:
            while True:
                if stream.finish is None:
                    self.step()
                said = text.finish(stream.tokens) if text and stream.finish else text.text if text else ""
                if len(stream.tokens) > told or stream.finish:
                    yield Chunk(request, stream.tokens[told:], said[shown:], stream.finish, stream.error)
                    told, shown = len(stream.tokens), len(said)
                if stream.finish:
                    return
        finally:
            if stream.finish is None:
                self.abort(request)

    def events(self) -> dict[str, NDArray[Any]]:
        """One row per request in the simulator's columns: request, status, times in ns, tokens, preemptions."""
        n = len(self.engine.streams)
        state, asked = self.engine.state, self.engine.asked
        return {
            "request": np.arange(n),
            "status": np.array([STATUS[i] for i in state.status[:n]]),
            "arrival_ns": asked.arrival_ns[:n].copy(),
            "scheduled_ns": state.scheduled_ns[:n].copy(),
            "first_token_ns": state.first_token_ns[:n].copy(),
            "last_token_ns": state.last_token_ns[:n].copy(),
            "prompt_tokens": asked.prompt_tokens[:n].copy(),
            "output_tokens": asked.output_tokens[:n].copy(),
            "cached_tokens": state.cached[:n].copy(),
            "preemptions": state.preempted[:n].copy(),
        }

    def _encode(self, text: str) -> list[int]:
        if self.tokenizer is None:
            raise InputError(f"text needs a tokenizer, and {self.config.folder} has none; give token ids")
        return list(self.tokenizer(text)["input_ids"])


def plan_for(config: ModelConfig, plan: SkipPlan | str | None) -> SkipPlan:
    """The plan that was asked for, checked against the model. Raises PlanError if its depth is another."""
    if plan is None:
        swift = f"swift_kv:keep={config.swift_keep},group={config.swift_group}"
        plan = swift if config.swift_keep else "dense"
    made = strategy_named(plan, config.shape) if isinstance(plan, str) else plan
    if made.layers != config.shape.layers:
        have = f"{config.shape.name or 'the model'} has {config.shape.layers}"
        raise PlanError(f"plan {made.name!r} is for {made.layers} layers, {have}; make it for this model")
    return made


def load(config: ModelConfig, plan: SkipPlan, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Model:
    """The model's weights as far as the plan needs them; random ones where the config has no folder."""
    source: Source
    if config.folder:
        source = Checkpoint(config.folder, dtype=dtype, device=device)
    else:
        source = Random(seed, dtype=dtype, device=device)
    return (load_opt if config.shape.family == "opt" else load_llama)(config, source, plan)


def _folder(model: str | Path) -> Path:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give one with config.json and *.safetensors")
    return folder


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise UnknownName("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device='cuda': this machine has no usable NVIDIA GPU; use cpu")
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UnknownName("dtype", name, ("auto", *DTYPES))
    return DTYPES[name]


def _kv_blocks(model: Model, plan: SkipPlan, config: SchedulerConfig, context: int) -> int:
    """Blocks of all caches: what fits beside the weights on a GPU; on a CPU enough for a few contexts."""
    if model.embedding.is_cuda:
        free, _ = torch.cuda.mem_get_info()
        token = model.config.shape.kv_bytes_per_token_layer(model.weight_bytes) * plan.caches.size
        return max(1, int(free * KV_SHARE / (token * config.block_tokens)))
    return max(CPU_KV_TOKENS, context) // config.block_tokens + 1
