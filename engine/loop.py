"""The engine's loop: the simulator's scheduler decides, the model runs, tokens are booked.

`arrive`, `schedule`, `complete` and `abort` are the very functions that the simulator compiles; here they run as they
are, on columns that grow as requests come. Each call is followed by the cache's, which moves real pages.

Pipelined, the host builds the next iteration while the device runs this one: a sampled token goes into it on the device
and is read one step late. A request that stops has by then taken part in one iteration too many, at most.
"""

from collections.abc import Callable, Sequence
from time import perf_counter_ns

import numpy as np
from torch import Tensor

from engine.batch import Piece, batch_of
from engine.cache import Cache
from engine.columns import Prefixes, Room, columns_for, grown, retire
from engine.drafting import drafts_of, verified
from engine.flight import Flight, FullDepth
from engine.forward import Forward
from engine.metrics import Metrics
from engine.model import Model
from engine.sampler import Draw, SamplingParams, Token, draw_tokens
from engine.stream import StopText, Stream, refusal, unusable
from engine.transfer import to_device
from sim.plans.plan import SkipPlan
from sim.serving.columns import HEAD, N_FRONT, N_RUNNING, REFUSED, TAIL
from sim.serving.completion import abort, complete, samples
from sim.serving.config import SchedulerConfig, knobs_of
from sim.serving.scheduler import arrive, schedule


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
        pipelined: bool = False,
        clock: Callable[[], int] = perf_counter_ns,
    ) -> None:
        self.model = model
        self.plan = plan
        self.seed = seed
        self.clock = clock
        self.device = model.embedding.device
        self.pipelined = pipelined and plan.draft is None  # how much of a draft is right decides what comes after it
        self.full_depth: FullDepth | None = None
        self._flying: Flight | None = None
        self._untold: list[int] = []  # who got tokens when an abort had to read them
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
        self.asked, self.state = columns_for(self._room, self.knobs)

    @property
    def waiting(self) -> int:
        """Requests that are in the queue."""
        counts = self.state.counts
        return int(counts[TAIL] - counts[HEAD] + counts[N_FRONT])

    @property
    def busy(self) -> bool:
        """Whether anybody runs or waits, or tokens are still to be read or told."""
        return bool(self.state.counts[N_RUNNING] or self.waiting or self._flying or self._untold)

    def add(self, prompt: Sequence[int], params: SamplingParams, *, stop_text: StopText | None = None) -> int:
        """The request's number. One that can never run is finished at once, with an error and nothing held."""
        request = len(self.streams)
        tokens = [int(token) for token in prompt]
        seed, eos = (self.seed << 32) + request, self.model.config.eos
        stream = Stream.of(tokens, params, seed=seed, eos=eos, stop_text=stop_text)
        self.streams.append(stream)
        error = unusable(tokens, self.model.config.shape.vocab)
        ids = self._prefixes.ids(tokens) if self._prefixes and error is None else np.empty(0, dtype=np.int64)
        self._make_room(request + 1, ids.size)
        asked = self.asked
        first = asked.hash_offsets[request]
        asked.hash_offsets[request + 1] = first + ids.size
        asked.hash_ids[first : first + ids.size] = ids
        asked.arrival_ns[request] = self.clock()
        asked.prompt_tokens[request] = len(tokens)
        asked.output_tokens[request] = params.max_tokens
        if error is None and not arrive(asked, self.state, self.knobs, request):
            error = refusal(self.knobs, len(tokens), params.max_tokens)
        if error is not None:
            self.state.status[request] = REFUSED
            stream.finish, stream.error = "error", error
        return request

    def abort(self, request: int) -> bool:
        """Whether the request was waiting or running and is now gone, with all that it held."""
        self._untold += self._land_last()  # it may have stopped by itself
        if gone := self._remove(request):
            self.streams[request].finish = "abort"
        return gone

    def step(self) -> list[int]:
        """Requests whose tokens or end became known in one more iteration; none when there is nothing to run."""
        flight = self._launch()
        if self.pipelined:
            if flight is not None:
                self._complete(flight, flight.launched_ns)
            told, self._untold = [*dict.fromkeys([*self._untold, *self._land_last()])], []
            self._flying = flight
            if flight and all(self.streams[p.request].finish for p in flight.pieces):
                self._land_last()  # nobody waits for it, so nobody would ask again
            return told
        if flight is None:
            return []
        told, end_ns = self._land(flight)
        self._complete(flight, end_ns)
        return told

    def _launch(self) -> Flight | None:
        """The next iteration, queued on the device; None when there is nothing to run."""
        start_ns = self.clock()
        rows = schedule(self.asked, self.state, self.knobs)
        self.cache.after_schedule(self.asked, self.state)
        if not rows:
            return None
        pieces = [self._piece(row) for row in range(rows)]
        drafts = drafts_of(pieces, self.state.row_tokens[:rows], self._guess)  # none, unless the plan has a draft
        pieces = [verified(piece, draft) for piece, draft in zip(pieces, drafts)]
        last = self._flying.drawn.tokens if self._flying else None
        batch = batch_of(pieces, self.plan, self.cache, self.device, drawn=last)
        outcome = self.forward(batch)
        self.metrics.note(batch, outcome)
        sampling = [i for i, p in enumerate(pieces) if p.outputs]
        first = np.cumsum([0] + [p.outputs for p in pieces])[sampling]
        every = len(first) == len(outcome.logits)
        logits = outcome.logits if every else outcome.logits[to_device(first, self.device)]
        drawn = draw_tokens(logits, [self._draw(pieces[i], last) for i in sampling])
        self._emitted[sampling] = 1
        return Flight(pieces, drafts, outcome.logits, drawn, sampling, start_ns, self.clock())

    def _guess(self, heads: list[Piece]) -> list[int]:
        assert self.plan.draft is not None
        batch = batch_of(heads, self.plan, self.cache, self.device, until=self.plan.draft.exit_layer)
        outcome = self.forward(batch)
        self.metrics.note(batch, outcome, draft=True)
        return list(outcome.logits.argmax(-1).tolist())

    def _piece(self, row: int) -> Piece:
        state = self.state
        request, start = int(state.row_request[row]), int(state.row_start[row])
        stream, end = self.streams[request], start + int(state.row_tokens[row])
        tokens, late = stream.part(start, end), None
        if self._flying and end > stream.known:
            late = self._flying.places[request]
            tokens.append(0)
        return Piece(request, len(stream.prompt), start, tokens, int(samples(self.asked, state, row)), late)

    def _draw(self, piece: Piece, last: Tensor | None) -> Draw:
        stream = self.streams[piece.request]
        late = last[piece.late : piece.late + 1] if last is not None and piece.late is not None else None
        step = len(stream.tokens) + (late is not None)
        return stream.draw(late, checked=self.full_depth is not None and self.full_depth.wants(piece.request, step))

    def _complete(self, flight: Flight, end_ns: int) -> None:
        """Book the iteration with the scheduler, which can then plan the next one."""
        complete(self.asked, self.state, self.knobs, self._live_units, self._emitted, flight.start_ns, end_ns)
        self.cache.after_complete(self.asked, self.state)

    def _land_last(self) -> list[int]:
        """Read what the last iteration drew, if that is still to be done; says who got any."""
        if self._flying is None:
            return []
        flight, self._flying = self._flying, None
        fresh = {p.request for p in flight.pieces if p.outputs and not self.streams[p.request].tokens}
        told, end_ns = self._land(flight)
        for request in told:
            self.state.last_token_ns[request] = end_ns
            if request in fresh:
                self.state.first_token_ns[request] = end_ns
            if self.streams[request].finish is not None:
                retire(self.state, request, self.streams[request].drawn, removed=self._remove(request))
        return told

    def _land(self, flight: Flight) -> tuple[list[int], int]:
        """Requests that got tokens, and when the device was done with the iteration."""
        tokens = flight.drawn.read()
        end_ns = self.clock() if self.device.type == "cuda" else flight.launched_ns
        told = self._emit(flight, tokens)
        if self.on_iteration:
            rows = [(p.request, p.start, len(p.tokens)) for p in flight.pieces]
            self.on_iteration(flight.start_ns, end_ns, rows)
        return told, end_ns

    def _emit(self, flight: Flight, tokens: Sequence[Token]) -> list[int]:
        """Give every sampling row its token, further ones while drafts prove right; says who got any."""
        pieces, drafts = flight.pieces, flight.drafts
        offset = np.cumsum([0] + [p.outputs for p in pieces])
        told: list[int] = []
        alive, at = flight.sampling, 0
        while alive:
            going = []
            for i, drawn in zip(alive, tokens, strict=True):
                request = pieces[i].request
                if self.streams[request].finish is not None:  # it stopped before this iteration's tokens were read
                    self.metrics.wasted += 1
                    continue
                if at == 0:
                    told.append(request)
                ended = self._book(request, drawn)
                right = at < len(drafts[i]) and drafts[i][at] == drawn.token
                self.metrics.accepted += right
                if right and not ended:
                    going.append(i)
            alive, at = going, at + 1
            if alive:
                self._emitted[alive] += 1
                rows = to_device(offset[alive] + at, self.device)
                draws = [self.streams[pieces[i].request].draw() for i in alive]
                tokens = draw_tokens(flight.logits[rows], draws).read()
        self.metrics.drafted += sum(len(draft) for draft in drafts)
        return told

    def _book(self, request: int, drawn: Token) -> bool:
        """Whether the request has ended with this token; one that ends early asks for no more output."""
        stream = self.streams[request]
        if drawn.top1 is not None and self.full_depth is not None:
            self.metrics.compared += 1
            self.metrics.agreed += drawn.top1 == self.full_depth.top1([*stream.prompt, *stream.tokens])
        self.metrics.emitted += 1
        if ended := stream.take(drawn):
            self.asked.output_tokens[request] = stream.drawn
        return ended

    def _remove(self, request: int) -> bool:
        """Whether the request was waiting or running, and holds nothing any more."""
        gone = abort(self.asked, self.state, self.knobs, request)
        self.cache.after_abort(self.state, request)
        return gone

    def _make_room(self, requests: int, hashes: int) -> None:
        used = int(self.asked.hash_offsets[requests - 1])
        entries = self._prefixes.count if self._prefixes else 0
        room = self._room.at_least(Room(requests, used + hashes, entries))
        if room != self._room:
            self._room = room
            self.asked, self.state = grown(self.asked, self.state, columns_for(room, self.knobs))
