"""The engine's loop: the simulator's scheduler decides, the model runs, tokens are booked.

`arrive`, `schedule`, `complete` and `abort` are the very functions that the simulator compiles; here they run as they
are, on columns that grow as requests come. Each call is followed by the cache's, which moves real pages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns

import numpy as np
from torch import Tensor

from engine.batch import Piece, batch_of
from engine.cache import Cache
from engine.columns import Prefixes, Room, columns_for, grown
from engine.forward import Forward
from engine.metrics import Metrics
from engine.model import Model
from engine.sampler import LOST, Draw, SamplingParams, draw_tokens
from sim.plans.plan import SkipPlan
from sim.serving.columns import HEAD, N_FRONT, N_RUNNING, REFUSED, TAIL, Asked, State
from sim.serving.config import SchedulerConfig, knobs_of
from sim.serving.scheduler import abort, arrive, complete, samples, schedule

StopText = Callable[[list[int]], bool]


@dataclass
class Stream:
    """One request: its tokens, how it is sampled, how it ended."""

    prompt: list[int]
    params: SamplingParams
    seed: int
    stop_ids: frozenset[int]
    stop_text: StopText | None = None  # told the new tokens; whether a stop string has appeared
    tokens: list[int] = field(default_factory=list)  # generated
    logprobs: list[dict[int, float]] = field(default_factory=list)
    finish: str | None = None  # stop | length | abort | error
    error: str | None = None


class Engine:
    """A model, a plan, a scheduler and a cache, advanced one iteration at a time."""

    def __init__(
        self,
        model: Model,
        plan: SkipPlan,
        config: SchedulerConfig,
        *,
        kv_blocks: int,
        max_context: int,
        seed: int = 0,
        clock: Callable[[], int] = perf_counter_ns,
    ) -> None:
        self.model = model
        self.plan = plan
        self.seed = seed
        self.clock = clock
        self.device = model.embedding.device
        shape, dtype = model.config.shape, model.embedding.dtype
        hash_tokens = config.block_tokens if config.prefix_caching else 0
        self.knobs = knobs_of(config, plan, kv_blocks=kv_blocks, max_context=max_context, hash_tokens=hash_tokens)
        self.cache = Cache(
            plan, self.knobs, kv_heads=shape.kv_heads, head_dim=shape.head_dim, dtype=dtype, device=self.device
        )
        self.forward = Forward(model, plan, self.cache)
        self.metrics = Metrics(shape, model.weight_bytes, self.cache.k_pages.element_size())
        self.streams: list[Stream] = []
        self.on_iteration: Callable[[int, int, list[tuple[int, int, int]]], None] | None = None
        self._live_units = np.array(plan.live_caches)
        self._emitted = np.zeros(config.max_num_seqs, dtype=np.int64)
        self._prefixes = Prefixes(plan, config.block_tokens) if config.prefix_caching else None
        self._room = Room(64, 64, 64)
        self.asked, self.state = self._blank()

    @property
    def waiting(self) -> int:
        """Requests that are in the queue."""
        counts = self.state.counts
        return int(counts[TAIL] - counts[HEAD] + counts[N_FRONT])

    @property
    def busy(self) -> bool:
        """Whether anybody runs or waits."""
        return bool(self.state.counts[N_RUNNING]) or self.waiting > 0

    def add(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        stop_text: StopText | None = None,
    ) -> int:
        """The request's number. One that can never run is finished at once, with an error and nothing held."""
        request = len(self.streams)
        tokens = [int(token) for token in prompt]
        stop = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else {*self.model.config.eos})
        seed = (self.seed << 32) + request if params.seed is None else params.seed
        stream = Stream(tokens, params, seed, frozenset(stop), stop_text)
        self.streams.append(stream)
        ids = self._prefixes.ids(tokens) if self._prefixes else np.empty(0, dtype=np.int64)
        self._make_room(request + 1, ids.size)
        asked = self.asked
        first = asked.hash_offsets[request]
        asked.hash_offsets[request + 1] = first + ids.size
        asked.hash_ids[first : first + ids.size] = ids
        asked.arrival_ns[request] = self.clock()
        asked.prompt_tokens[request] = len(tokens)
        asked.output_tokens[request] = params.max_tokens
        error = self._unusable(tokens)
        if error is None and not arrive(asked, self.state, self.knobs, request):
            error = self._refusal(len(tokens), params.max_tokens)
        if error is not None:
            self.state.status[request] = REFUSED
            stream.finish, stream.error = "error", error
        return request

    def abort(self, request: int) -> bool:
        """Whether the request was waiting or running and is now gone, with all that it held."""
        gone = abort(self.asked, self.state, self.knobs, request)
        self.cache.after_abort(self.state, request)
        if gone:
            self.streams[request].finish = "abort"
        return gone

    def step(self) -> list[int]:
        """Requests that got tokens or ended in the next iteration; none when there is nothing to run."""
        start_ns = self.clock()
        rows = schedule(self.asked, self.state, self.knobs)
        self.cache.after_schedule(self.asked, self.state)
        if not rows:
            return []
        pieces = [self._piece(row) for row in range(rows)]
        drafts = self._draft(pieces)
        pieces = [_with(piece, draft) for piece, draft in zip(pieces, drafts)]
        batch = batch_of(pieces, self.plan, self.cache, self.device)
        outcome = self.forward(batch)
        self.metrics.note(batch, outcome)
        told = self._emit(pieces, drafts, outcome.logits)
        end_ns = self.clock()
        complete(self.asked, self.state, self.knobs, self._live_units, self._emitted, start_ns, end_ns)
        self.cache.after_complete(self.asked, self.state)
        if self.on_iteration:
            self.on_iteration(start_ns, end_ns, [(p.request, p.start, len(p.tokens)) for p in pieces])
        return told

    def _piece(self, row: int) -> Piece:
        state = self.state
        request, start = int(state.row_request[row]), int(state.row_start[row])
        stream = self.streams[request]
        end = min(start + int(state.row_tokens[row]), len(stream.prompt) + len(stream.tokens))
        tokens = [*stream.prompt, *stream.tokens][start:end]
        return Piece(request, len(stream.prompt), start, tokens, int(samples(self.asked, state, row)))

    def _draft(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Tokens guessed by the plan's first layers for each decoding row, as many as the scheduler made room for."""
        drafts: list[list[int]] = [[] for _ in pieces]
        if self.plan.draft is None:
            return drafts
        wanted = self.state.row_tokens[: len(pieces)] - np.array([len(p.tokens) for p in pieces])
        for step in range(int(wanted.max())):
            rows = np.flatnonzero(wanted > step).tolist()
            heads = []
            for i in rows:
                p, last = pieces[i], drafts[i][-1] if drafts[i] else pieces[i].tokens[-1]
                heads.append(Piece(p.request, p.prompt_tokens, p.start + step, [last], 1))
            batch = batch_of(heads, self.plan, self.cache, self.device, until=self.plan.draft.exit_layer)
            outcome = self.forward(batch)
            self.metrics.note(batch, outcome, draft=True)
            guesses = outcome.logits.argmax(-1).tolist()
            for i, guess in zip(rows, guesses):
                drafts[i].append(guess)
        return drafts

    def _emit(self, pieces: Sequence[Piece], drafts: Sequence[list[int]], logits: Tensor) -> list[int]:
        """Draw tokens for every sampling row, further ones while drafts prove right; says who got any."""
        offset = np.cumsum([0] + [p.outputs for p in pieces])
        told = alive = [i for i, p in enumerate(pieces) if p.outputs]
        for i in told:
            self._emitted[i] = 0
        at = 0
        while alive:
            streams = [self.streams[pieces[i].request] for i in alive]
            draws = [Draw(s.params, s.seed, len(s.tokens), [*s.prompt, *s.tokens]) for s in streams]
            drawn = draw_tokens(logits[[int(offset[i]) + at for i in alive]], draws)
            going = []
            for i, stream, token, logprobs in zip(alive, streams, drawn.tokens, drawn.logprobs):
                ended = self._book(pieces[i].request, stream, token, logprobs)
                self._emitted[i] += 1
                right = at < len(drafts[i]) and drafts[i][at] == token
                if right and not ended:
                    going.append(i)
                self.metrics.accepted += right
            alive, at = going, at + 1
        self.metrics.drafted += sum(len(draft) for draft in drafts)
        self.metrics.emitted += int(self._emitted[told].sum())
        return [pieces[i].request for i in told]

    def _book(self, request: int, stream: Stream, token: int, logprobs: dict[int, float] | None) -> bool:
        """Whether the request has ended with this token; one that ends early asks for no more output."""
        if token == LOST:
            stream.finish, stream.error = "error", "the model's logits are not numbers (NaN or infinity)"
        else:
            stream.tokens.append(token)
            if logprobs is not None:
                stream.logprobs.append(logprobs)
            if token in stream.stop_ids or (stream.stop_text is not None and stream.stop_text(stream.tokens)):
                stream.finish = "stop"
            elif len(stream.tokens) == stream.params.max_tokens:
                stream.finish = "length"
        if stream.finish is not None:
            self.asked.output_tokens[request] = len(stream.tokens) + (token == LOST)
        return stream.finish is not None

    def _unusable(self, tokens: list[int]) -> str | None:
        vocab = self.model.config.shape.vocab
        if not tokens:
            return "the prompt is empty; give at least one token"
        bad = [token for token in tokens if not 0 <= token < vocab]
        return f"token {bad[0]} is not in the vocabulary of {vocab}" if bad else None

    def _refusal(self, prompt: int, output: int) -> str:
        asks = f"a prompt of {prompt} tokens and max_tokens={output}"
        if prompt + output > self.knobs.max_context:
            return f"{asks} exceed the context of {self.knobs.max_context}; shorten the prompt or lower max_tokens"
        held = self.knobs.total_units // self.knobs.full_units * self.knobs.block_tokens
        return f"{asks} never fit into KV memory of {held} tokens; raise kv_blocks or lower max_tokens"

    def _blank(self) -> tuple[Asked, State]:
        knobs = self.knobs
        return columns_for(
            self._room,
            max_num_seqs=knobs.max_num_seqs,
            total_units=knobs.total_units,
            full_units=knobs.full_units,
        )

    def _make_room(self, requests: int, hashes: int) -> None:
        used = int(self.asked.hash_offsets[requests - 1])
        entries = self._prefixes.count if self._prefixes else 0
        room = self._room.at_least(Room(requests, used + hashes, entries))
        if room != self._room:
            self._room = room
            self.asked, self.state = grown(self.asked, self.state, self._blank())


def _with(piece: Piece, draft: list[int]) -> Piece:
    """The piece with its drafts behind it; each of them gets logits too."""
    if not draft:
        return piece
    return Piece(piece.request, piece.prompt_tokens, piece.start, [*piece.tokens, *draft], 1 + len(draft))
