"""Which replica a request goes to: routers, and the loop that lets replicas catch up, looks at them and routes.

Like the replica's loop this is written once, runs interpreted as it stands, and compiled through `sim.run.handles`. A
router that looks at replicas sees them as they were just before the request came: iterations that end at that very
nanosecond are over for the replica, not yet for the router. Replicas that no router looks at run behind and catch up.
"""

from typing import NamedTuple

from numpy.typing import NDArray

from sim.run.handles import Members, seat_at, step_to
from sim.run.replica import FULL, GAPS, L_NS, L_STEPS, L_USED, L_WAITING, LOGGED, NOW, REFUSALS, STEP_END, TRACED
from sim.run.seat import BUSY_NS, GONE, HASHES, KV_PEAK, PROMPTS, QUEUE_PEAK, STEPS, TAKEN, Seat
from sim.serving.columns import EVICTABLE, FREE, N_DONE, N_RUNNING, NOBODY, Ints
from sim.serving.memory import units_now

ROUTERS = ("round_robin", "random", "least", "kv", "p2c")
ROUND_ROBIN, RANDOM, LEAST, KV_AWARE, TWO_CHOICES = range(5)

# where a request went, where it is no replica
HELD = -1  # nobody serves its class now
SHED = -2  # turned away
LATER = -3  # a replica wants attention first

# scalars of the desk
(ROW, WHO, WHY, TIER) = range(4)
SCALARS = 4
LOG_IS_FULL, NO_SLOT = range(2)  # why a replica wants attention
NO_LIMIT = 2**60


class Batch(NamedTuple):
    """Requests in the order in which they are routed."""

    arrival_ns: Ints  # [n] when they are routed
    prompt_tokens: Ints  # [n]
    output_tokens: Ints  # [n]
    number: Ints  # [n] which request of the traffic
    kind: Ints  # [n] its class
    attempt: Ints  # [n] earlier attempts that a failure ended
    born_ns: Ints  # [n] when its client sent it
    first_ns: Ints  # [n] its first token's time, where the keys of its prompt come along; else NOBODY
    luck: NDArray  # type: ignore[type-arg]  # [n, 2] uniforms for routers that draw
    hash_ids: Ints  # [m]
    hash_offsets: Ints  # [n + 1]
    placed: Ints  # [n] out: the replica, or why none


class Desk(NamedTuple):
    """Where the dispatcher stands, and what it knows of classes and replicas."""

    scalars: Ints  # [SCALARS]
    open: Ints  # [K, T, N] replicas that take requests of a class, by preference
    n_open: Ints  # [K, T]
    limit: Ints  # [K, T] outstanding requests from which on the chosen replica takes no more
    turn: Ints  # [K, T] of round robin
    live: Ints  # [N] replicas that have requests or may get some
    n_live: Ints  # [1]
    router: int
    weight: float  # of a block to prefill against a block in memory (`kv`)
    keep: int  # 1: the log of iterations is kept, and drained outside


def outstanding(seat: Seat) -> int:
    """Requests that were routed to the replica and are not finished."""
    totals, replica = seat.totals, seat.replica
    return totals[GONE] + totals[TAKEN] - replica.state.counts[N_DONE] - replica.clock[REFUSALS]


def behind(seat: Seat, until_ns: int) -> bool:
    """Whether something may happen at the replica up to then; nothing does before time 0, where its clock starts."""
    clock = seat.replica.clock
    return clock[NOW] <= until_ns and clock[STEP_END] <= until_ns and outstanding(seat) > 0


def fold(seat: Seat) -> None:
    """Add the iterations of the log to the totals, and empty it."""
    clock, log, totals = seat.replica.clock, seat.replica.log, seat.totals
    for line in range(clock[LOGGED]):
        totals[STEPS] += log[line, L_STEPS]
        totals[BUSY_NS] += log[line, L_NS]
        totals[KV_PEAK] = max(totals[KV_PEAK], log[line, L_USED])
        totals[QUEUE_PEAK] = max(totals[QUEUE_PEAK], log[line, L_WAITING])
    clock[LOGGED] = 0
    clock[TRACED] = 0
    clock[GAPS] = 0


def catch_up(members: Members, desk: Desk, i: int, until_ns: int) -> bool:
    """Whether the replica got to `until_ns`; if not, its log or its slots want attention between two iterations."""
    while behind(seat_at(members, i), until_ns):
        if step_to(seat_at(members, i), until_ns) != FULL:
            break
        seat = seat_at(members, i)
        if desk.keep == 0:
            fold(seat)
        if desk.keep > 0 or 2 * seat.totals[TAKEN] > seat.number.size:
            desk.scalars[WHO], desk.scalars[WHY] = i, LOG_IS_FULL
            return False
    return True


def settle(members: Members, desk: Desk, until_ns: int) -> bool:
    """Whether all replicas got to `until_ns`; if not, one wants attention first."""
    place = 0
    while place < desk.n_live[0] and catch_up(members, desk, desk.live[place], until_ns):
        place += 1
    return bool(place == desk.n_live[0])


def dispatch(members: Members, desk: Desk, batch: Batch, until_ns: int) -> bool:
    """Whether all requests that come before `until_ns` were routed; if not, a replica wants attention first."""
    scalars = desk.scalars
    while scalars[ROW] < batch.arrival_ns.size and batch.arrival_ns[scalars[ROW]] < until_ns:
        row = scalars[ROW]
        i = place(members, desk, batch, row)
        if i == LATER:
            return False
        if i >= 0 and not give(seat_at(members, i), batch, row):
            scalars[WHO], scalars[WHY] = i, NO_SLOT
            return False
        for tier in range(scalars[TIER] + 1):
            desk.turn[batch.kind[row], tier] += 1
        batch.placed[row] = i
        scalars[ROW] = row + 1
    return True


def place(members: Members, desk: Desk, batch: Batch, row: int) -> int:
    """The replica for a request, or HELD, SHED, LATER: the first choice of each tier, where it is not at its limit."""
    kind, reason = batch.kind[row], HELD
    for tier in range(desk.n_open.shape[1]):
        desk.scalars[TIER] = tier
        if desk.n_open[kind, tier] == 0:
            continue
        i = choose(members, desk, batch, row, tier)
        limit = desk.limit[kind, tier]
        if i == LATER or limit == NO_LIMIT:
            return i
        if not catch_up(members, desk, i, batch.arrival_ns[row] - 1):
            return LATER
        if outstanding(seat_at(members, i)) < limit:
            return i
        reason = SHED
    return reason


def choose(members: Members, desk: Desk, batch: Batch, row: int, tier: int) -> int:
    """The router's choice among a tier's replicas, or LATER."""
    kind = batch.kind[row]
    there, n = desk.open[kind, tier], desk.n_open[kind, tier]
    if desk.router == ROUND_ROBIN:
        return there[desk.turn[kind, tier] % n]
    first = int(batch.luck[row, 0] * n)
    if desk.router == RANDOM or n == 1:
        return there[first]
    before_ns = batch.arrival_ns[row] - 1
    if desk.router == TWO_CHOICES:
        second = int(batch.luck[row, 1] * (n - 1))
        if second >= first:
            second += 1
        a, b = there[first], there[second]
        if not catch_up(members, desk, a, before_ns) or not catch_up(members, desk, b, before_ns):
            return LATER
        return a if outstanding(seat_at(members, a)) <= outstanding(seat_at(members, b)) else b
    best, least = NOBODY, 0.0
    for position in range(n):
        i = there[position]
        if not catch_up(members, desk, i, before_ns):
            return LATER
        cost = float(outstanding(seat_at(members, i)))
        if desk.router == KV_AWARE:
            cost = blocks_ahead(seat_at(members, i), batch, row, desk.weight)
        if best == NOBODY or cost < least or (cost == least and fewer(members, i, best)):
            best, least = i, cost
    return best


def fewer(members: Members, i: int, other: int) -> bool:
    """Whether a replica has got fewer requests so far: ties go round instead of to the first."""
    one, two = seat_at(members, i).totals, seat_at(members, other).totals
    return one[GONE] + one[TAKEN] < two[GONE] + two[TAKEN]


def blocks_ahead(seat: Seat, batch: Batch, row: int, weight: float) -> float:
    """What a request would find: blocks to prefill before its first token, weighted, and blocks in use by others.

    To prefill is its own prompt less what the replica has cached, and the prompts of those who wait, at the mean
    length of all that the replica got. The form is that of NVIDIA Dynamo's KV router (cost = weight · prefill blocks +
    decode blocks); residency is exact and as of now, as published KV events would tell, so a prompt that waits to be
    read does not count as cached yet.
    """
    knobs, state, totals = seat.replica.knobs, seat.replica.state, seat.totals
    fresh = batch.prompt_tokens[row] - cached_tokens(seat, batch, row)
    ever = totals[GONE] + totals[TAKEN]
    waiting = outstanding(seat) - state.counts[N_RUNNING]
    if ever > 0:
        fresh += waiting * totals[PROMPTS] / ever
    used = knobs.total_units - state.counts[FREE] - state.counts[EVICTABLE] * knobs.hash_units
    return weight * fresh / knobs.block_tokens + used / knobs.full_units


def cached_tokens(seat: Seat, batch: Batch, row: int) -> int:
    """Leading prompt tokens whose keys the replica holds; the last token always remains to be computed."""
    tokens = seat.replica.knobs.hash_tokens
    if tokens == 0:
        return 0
    first = batch.hash_offsets[row]
    most = min(batch.hash_offsets[row + 1] - first, (batch.prompt_tokens[row] - 1) // tokens)
    hits = 0
    while hits < most and seat.replica.state.resident[batch.hash_ids[first + hits]]:
        hits += 1
    return hits * tokens


def give(seat: Seat, batch: Batch, row: int) -> bool:
    """Whether the request got a slot of the replica; if not, nothing has changed and slots must be added."""
    asked, totals = seat.replica.asked, seat.totals
    slot, used = totals[TAKEN], totals[HASHES]
    first = batch.hash_offsets[row]
    ids = batch.hash_offsets[row + 1] - first if seat.replica.knobs.hash_tokens > 0 else 0
    if slot == seat.number.size or used + ids > asked.hash_ids.size:
        return False
    asked.arrival_ns[slot] = batch.arrival_ns[row]
    asked.prompt_tokens[slot] = batch.prompt_tokens[row]
    asked.output_tokens[slot] = batch.output_tokens[row]
    for i in range(ids):
        asked.hash_ids[used + i] = batch.hash_ids[first + i]
    asked.hash_offsets[slot + 1] = used + ids
    seat.number[slot] = batch.number[row]
    seat.kind[slot] = batch.kind[row]
    seat.attempt[slot] = batch.attempt[row]
    seat.born_ns[slot] = batch.born_ns[row]
    if batch.first_ns[row] != NOBODY:
        bring_keys(seat, batch, row, slot)
    totals[TAKEN] = slot + 1
    totals[HASHES] = used + ids
    totals[PROMPTS] += batch.prompt_tokens[row]
    return True


def bring_keys(seat: Seat, batch: Batch, row: int, slot: int) -> None:
    """The prompt was read elsewhere: its keys are here, where later tokens need them, and its first token is out."""
    state = seat.replica.state
    state.computed[slot] = batch.prompt_tokens[row]
    state.generated[slot] = 1
    state.units[slot] = units_now(0, seat.replica.live_units)
    state.first_token_ns[slot] = batch.first_ns[row]
    state.last_token_ns[slot] = batch.first_ns[row]
