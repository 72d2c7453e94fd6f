"""The engine as a library: `LLM(folder, plan=...)`, then `generate`, `stream`, `abort`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from engine.agreement import dense_twin
from engine.config import config_of, read_config
from engine.graphs import DecodeGraphs
from engine.loading import device_named, dtype_named, folder_of, free_memory, kv_blocks_for, load, plan_for
from engine.loop import Engine
from engine.metrics import Metrics
from engine.sampler import SamplingParams
from engine.text import GrowingText, read_tokenizer
from sim.errors import InputError
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan
from sim.serving.config import SchedulerConfig

STATUS = ("future", "waiting", "running", "done", "refused", "aborted")
MOST = 2**31 - 1  # pages are numbered, and seeds the upper half of requests' own, in 32 bits
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
    on a CPU it sends them through the same fixed-shape segments, uncaptured. `pipelined` reads tokens one step late
    while the next step runs (the default on a GPU). `agreement` is the share of tokens for which a dense run of the
    same model is asked too: it costs another copy of the weights and a dense forward pass each, and fills the metric
    agreement_top1. Raises InputError or PlanError where model, plan and device do not go together, or a number is out
    of range.
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
        pipelined: bool | None = None,
        agreement: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.device = device_named(device)
        number = dtype_named(dtype, self.device)
        self.config = config_of(model) if isinstance(model, ModelShape) else read_config(folder_of(model))
        self.plan = plan_for(self.config, plan)
        most = self.config.shape.max_context
        context = _within("max_context", most if max_context is None else max_context, 1, most)
        _within("kv_blocks", 1 if kv_blocks is None else kv_blocks, 1, MOST)
        _within("seed", seed, 0, MOST)
        free_memory(self.device)
        self.tokenizer = read_tokenizer(self.config.folder, self.config.shape.family) if self.config.folder else None
        self.model = load(self.config, self.plan, dtype=number, device=self.device, seed=seed)
        settings = scheduler or SchedulerConfig()
        full_depth = dense_twin(self.model, share=agreement, max_context=context, seed=seed) if agreement else None
        blocks = kv_blocks or kv_blocks_for(self.model, self.plan, settings, context)
        cuda = self.device.type == "cuda"
        self.engine = Engine(
            self.model,
            self.plan,
            settings,
            kv_blocks=blocks,
            max_context=context,
            seed=seed,
            pipelined=cuda if pipelined is None else pipelined,
        )
        self.engine.full_depth = full_depth
        if graphs or (graphs is None and cuda):
            forward, rows = self.engine.forward, settings.max_num_seqs
            forward.decode = DecodeGraphs(forward, max_rows=rows, max_context=context, capture=cuda)
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
        request = self.engine.add(prompt, params, stop_text=text if params.stop else None)
        if text is not None:
            self._texts[request] = text
        return request

    def step(self) -> list[int]:
        """Requests that got tokens or ended in one more iteration."""
        return self.engine.step()

    def abort(self, request: int) -> bool:
        """Whether the request was still alive, and is now gone with all that it held. InputError: no such request."""
        self._check_known(request)
        return self.engine.abort(request)

    def _check_known(self, request: int) -> None:
        known = len(self.engine.streams)
        if not 0 <= request < known:
            raise InputError(f"request {request}: there are {known} so far, numbered from 0; add() returns the number")

    def result(self, request: int) -> Completion:
        """What became of a request that has ended. InputError for one that has not, and for one that never was."""
        self._check_known(request)
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
        requests: list[int] = []
        try:
            requests += (self.add(prompt, p) for prompt, p in zip(prompts, each))
        except InputError:  # nobody would ask for those before it
            for request in requests:
                self.abort(request)
            raise
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=not (progress and console.is_terminal), transient=True) as bar:
            task = bar.add_task("requests", total=len(requests))
            left = requests
            while left := [r for r in left if self.engine.streams[r].finish is None]:
                bar.update(task, completed=len(requests) - len(left))
                self.step()
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
                if text and not stream.params.stop:
                    text(stream.tokens)
                said = "" if text is None else text.finish(stream.tokens) if stream.finish else text.settled
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


def _within(name: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise InputError(f"{name}={value}: must be in {least}..{most}")
    return value
