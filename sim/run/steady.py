"""Many iterations at the price of few: requests that just decode are moved as one.

An iteration costs as much as what changes in it. Rows are scheduled, priced and booked as ever, by the same functions;
the requests of the flow (sim/run/flow.py) join them as sums. Where the sums cannot say what the scheduler would do
(memory or budget too short for all that run), every request gets its columns back and the plain loop takes the step.
The two agree bit for bit (INV-37).
"""

from sim.cost.price import price_step
from sim.cost.tables import ALL, ALONE, CONTEXT, OPEN, SAMPLING, SEQUENCES, SINGLE
from sim.cost.tally import tally
from sim.run.flow import (
    F_CONTEXT,
    F_OPEN,
    F_ROWS,
    N_DUE,
    N_READING,
    NEVER,
    RING,
    ROWS,
    STEP,
    YOUNGEST,
    Flow,
    add,
    catch_up,
    join,
    just_decodes,
)
from sim.run.replica import DELIVERED, NOW, STEP_END, STEP_START, Replica, release_client
from sim.serving.columns import DONE, EVICTABLE, FREE, N_DONE, N_ROWS, N_RUNNING, N_SLOTS, NOBODY, RUNNING, Ints
from sim.serving.completion import drop_finished
from sim.serving.memory import evict_oldest, private_need, release, reserve, shrink, units_now
from sim.serving.scheduler import add_row, admit, tokens_wanted


def schedule_steady(replica: Replica, flow: Flow) -> bool:
    """Whether the next iteration was scheduled from the sums; if not, nothing has changed."""
    state, knobs, scalars = replica.state, replica.knobs, flow.scalars
    units = flow.phase_units[scalars[STEP] % knobs.block_tokens]
    budget = knobs.max_num_batched_tokens - scalars[ROWS]
    if not foreseeable(replica, flow, units, budget):
        return False
    if state.running.size - state.counts[N_SLOTS] < knobs.max_num_seqs - state.counts[N_RUNNING]:
        drop_finished(state)
    state.counts[N_ROWS] = 0
    while state.counts[FREE] < units:
        evict_oldest(state, knobs)
    state.counts[FREE] -= units
    for i in range(scalars[N_READING]):
        request = flow.reading[i]
        tokens = chunk_of(replica, request, budget)
        if tokens > 0:
            reserve(state, knobs, request, state.computed[request] + tokens)
            add_row(state, request, tokens)
            budget -= tokens
    first = state.counts[N_SLOTS]
    admit(replica.asked, state, knobs, budget)
    for i in range(first, state.counts[N_SLOTS]):
        flow.reading[scalars[N_READING]] = state.running[i]
        scalars[N_READING] += 1
    return state.counts[N_ROWS] > 0 or scalars[ROWS] > 0


def chunk_of(replica: Replica, request: int, budget: int) -> int:
    """Tokens that a request with a row gets from what is left of the budget."""
    tokens = min(tokens_wanted(replica.asked, replica.state, replica.knobs, request), budget)
    if replica.knobs.long_prefill > 0:
        tokens = min(tokens, replica.knobs.long_prefill)
    return tokens


def foreseeable(replica: Replica, flow: Flow, units: int, budget: int) -> bool:
    """Whether budget and memory suffice for all that run, so that the order among them does not matter."""
    state, knobs = replica.state, replica.knobs
    room = state.counts[FREE] + state.counts[EVICTABLE] * knobs.hash_units
    for i in range(flow.scalars[N_READING]):
        request = flow.reading[i]
        whole = chunk_of(replica, request, NEVER)
        if whole > budget and state.admitted[request] < flow.scalars[YOUNGEST]:
            return False  # somebody younger would decode from what this one takes
        if knobs.hash_tokens > 0 and replica.asked.output_tokens[request] - state.generated[request] == 1:
            return False  # ends beside others: the order in which they leave decides which prefix is evicted first
        tokens = min(whole, budget)
        if tokens > 0:
            units += private_need(state, knobs, request, state.computed[request] + tokens) * state.units[request]
            budget -= tokens
    return units <= room


def price_rows_and_sums(replica: Replica, flow: Flow) -> None:
    """Price the iteration; it is pending until it is finished. The sums are zero outside the flow."""
    scratch, rows = replica.scratch, flow.scalars[ROWS]
    tally(replica.asked, replica.state, replica.tables, scratch)
    scratch.rows[SINGLE] += rows
    scratch.rows[SAMPLING] += rows
    scratch.rows[SEQUENCES] += rows
    for u in range(flow.sums.shape[0]):
        scratch.classes[u, ALL] += flow.sums[u, F_ROWS]
        scratch.classes[u, ALONE] += flow.sums[u, F_ROWS]
        scratch.classes[u, CONTEXT] += flow.sums[u, F_CONTEXT]
        scratch.classes[u, OPEN] += flow.sums[u, F_OPEN]
    replica.clock[STEP_START] = replica.clock[NOW]
    replica.clock[STEP_END] = replica.clock[NOW] + price_step(replica.tables, scratch)


def turn(replica: Replica, flow: Flow) -> None:
    """Move the sums by the iteration's token and do what is due today.

    Who ends here was admitted before every row that ends in the same iteration, and so gives back its prefix first.
    """
    state, scalars = replica.state, flow.scalars
    collect_due(state.admitted, flow)
    pass_steps(flow, 1)
    for i in range(scalars[N_DUE]):
        settle(replica, flow, flow.due[i])


def pass_steps(flow: Flow, steps: int) -> None:
    """Move the sums by so many tokens of every row."""
    flow.scalars[STEP] += steps
    for u in range(flow.sums.shape[0]):
        flow.sums[u, F_CONTEXT] += steps * flow.sums[u, F_ROWS]


def take_in(replica: Replica, flow: Flow) -> None:
    """Move the rows that decode from now on into the sums."""
    state, scalars, keep = replica.state, flow.scalars, 0
    for i in range(scalars[N_READING]):
        request = flow.reading[i]
        if state.status[request] != RUNNING:
            continue
        if just_decodes(replica, request):
            join(replica, flow, request)
        else:
            flow.reading[keep] = request
            keep += 1
    scalars[N_READING] = keep


def collect_due(admitted: Ints, flow: Flow) -> None:
    """Today's requests, oldest first as the scheduler would meet them."""
    day = flow.scalars[STEP] % RING
    request, n = flow.days[day], 0
    flow.days[day] = NOBODY
    while request != NOBODY:
        i = n
        while i > 0 and admitted[flow.due[i - 1]] > admitted[request]:
            flow.due[i] = flow.due[i - 1]
            i -= 1
        flow.due[i] = request
        n += 1
        request = flow.next[request]
    flow.scalars[N_DUE] = n


def settle(replica: Replica, flow: Flow, request: int) -> None:
    """Let a request that is due end, or change its class, its caches or its next day."""
    state = replica.state
    since = flow.scalars[STEP] - flow.since[request]
    catch_up(replica, flow, request)
    add(replica, flow, request, -1, since)
    flow.since[request] = NOBODY
    if state.generated[request] < replica.asked.output_tokens[request]:
        fed = state.computed[request] - replica.asked.prompt_tokens[request]
        shrink(state, request, units_now(fed, replica.live_units))
        join(replica, flow, request)
        return
    release(replica.asked, state, replica.knobs, request)
    state.status[request] = DONE
    state.counts[N_DONE] += 1
    state.counts[N_RUNNING] -= 1
    release_client(replica, replica.clock[DELIVERED])
