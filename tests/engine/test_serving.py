"""Requests that come, wait, are pushed out, share prefixes and leave early: tokens stay theirs, pages come back."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.plans.plan import ATTN, FULL, KV, plan_of
from sim.serving.columns import FREE, RUNNING, WAITING
from sim.serving.memory import reserve
from sim.serving.scheduler import begin, preempt
from tests.engine.tinies import LAYERS, assert_idle, greedy, hf_greedy, llm_of, prompts_of, tokens_of

PREFIX = prompts_of(20, seed=9)[0]


def expected_of(prompts, tokens):
    return [hf_greedy("llama-gqa", tuple(p), tokens) for p in prompts]


def drain(llm):
    while llm.engine.busy:
        llm.step()


@pytest.mark.parametrize("kv_blocks", [8, 10, 14])
def test_preempted_requests_recompute_what_they_had(kv_blocks):
    prompts = prompts_of(9, 12, 4, 14, 17, 21, seed=3)
    llm = llm_of("llama-gqa", kv_blocks=kv_blocks, max_num_batched_tokens=11)
    assert tokens_of(llm, prompts, 9) == expected_of(prompts, 9)
    assert llm.events()["preemptions"].sum() > 0


@pytest.mark.parametrize("plan", ["dense", "swift_kv:keep=3,group=3", "skip_decode:schedule_tokens=5"])
def test_prefix_hits_change_no_token(plan):
    prompts = [PREFIX + tail for tail in prompts_of(5, 1, 9, 5, seed=4)] + [PREFIX, PREFIX[:8]]
    cold = llm_of("llama-gqa", plan)
    warm = llm_of("llama-gqa", plan, prefix_caching=True)
    assert tokens_of(warm, prompts, 6) == tokens_of(cold, prompts, 6)
    assert tokens_of(warm, prompts, 6) == tokens_of(cold, prompts, 6)
    again = warm.events()["cached_tokens"][len(prompts) :]
    assert again.tolist() == [(len(p) - 1) // 4 * 4 for p in prompts], "the second time every full block is there"


def test_prefix_entries_are_evicted_when_memory_is_short():
    llm = llm_of("llama-gqa", prefix_caching=True, kv_blocks=12)
    for seed in range(4):
        prompts = prompts_of(18, 25, seed=seed)
        assert tokens_of(llm, prompts, 5) == expected_of(prompts, 5)


def test_entries_are_looked_through_only_when_one_is_gone():
    """A full device holds tens of thousands of them, and a step takes milliseconds."""
    llm = llm_of("llama-gqa", prefix_caching=True)
    tokens_of(llm, prompts_of(18, 25), 5)
    engine = llm.engine
    assert engine.cache._entries
    engine.cache._evict(engine.state._replace(resident=None))


def test_requests_join_in_mid_flight():
    prompts = prompts_of(9, 17, 5, 12, seed=5)
    llm = llm_of("llama-gqa", max_num_batched_tokens=8)
    for prompt in prompts:
        llm.add(prompt, greedy(8))
        for _ in range(3):
            llm.step()
    drain(llm)
    assert [llm.result(i).token_ids for i in range(4)] == expected_of(prompts, 8)
    assert_idle(llm)


def test_more_requests_than_the_columns_first_had_room_for():
    prompts = prompts_of(*([3, 4, 5, 6] * 25), seed=6)
    llm = llm_of("llama-gqa", prefix_caching=True, max_num_batched_tokens=64)
    assert tokens_of(llm, prompts, 2) == expected_of(prompts, 2)


@pytest.mark.parametrize("plan", ["dense", "swift_kv:keep=3", "skip_decode:schedule_tokens=4", "self_speculative"])
@pytest.mark.parametrize("after", range(8))
def test_abort_in_every_state(plan, after):
    """Waiting, in the middle of its prompt, decoding, done: the others get their tokens, every page comes back."""
    prompts = prompts_of(11, 13, 9, seed=7)
    alone = tokens_of(llm_of("llama-gqa", plan), prompts[:1], 5)[0]
    llm = llm_of("llama-gqa", plan, max_num_seqs=2, max_num_batched_tokens=4)
    kept, gone, third = (llm.add(p, greedy(5)) for p in prompts)
    for _ in range(after):
        llm.step()
    alive = llm.engine.state.status[gone] in (WAITING, RUNNING)
    assert llm.abort(gone) == alive
    assert not llm.abort(gone)
    drain(llm)
    assert llm.result(kept).token_ids == alone
    assert llm.result(gone).finish == ("abort" if alive else "length")
    assert llm.result(third).finish == "length"
    assert_idle(llm)


def test_abort_while_preempted():
    llm = llm_of("llama-gqa", kv_blocks=8, max_num_batched_tokens=11)
    prompts = prompts_of(9, 12, 4, 14, 17, 21, seed=3)
    requests = [llm.add(p, greedy(9)) for p in prompts]
    while not llm.engine.state.preempted[: len(prompts)].any():
        llm.step()
    victim = int(llm.engine.state.preempted[: len(prompts)].argmax())
    assert llm.abort(victim)
    drain(llm)
    others = [r for r in requests if r != victim]
    assert [llm.result(r).token_ids for r in others] == expected_of([prompts[r] for r in others], 9)
    assert_idle(llm)


@settings(max_examples=30)
@given(st.data())
def test_soak(data):
    """Random arrivals, steps and aborts: page counts hold after each call, survivors' tokens are their own."""
    plan = data.draw(st.sampled_from(("dense", "swift_kv:keep=2,group=2", "skip_decode:schedule_tokens=4")))
    caching = data.draw(st.booleans())
    llm = llm_of("llama-gqa", plan, kv_blocks=9, max_num_batched_tokens=7, prefix_caching=caching)
    lone = llm_of("llama-gqa", plan)
    prompts: dict[int, list[int]] = {}
    for action in data.draw(st.lists(st.sampled_from(("add", "step", "step", "step", "abort")), max_size=30)):
        if action == "add":
            tail = prompts_of(data.draw(st.integers(1, 9)), seed=len(prompts))[0]
            prompt = PREFIX[: 4 * data.draw(st.integers(0, 3))] + tail
            prompts[llm.add(prompt, greedy(5))] = prompt
        elif action == "step":
            llm.step()
        elif prompts:
            llm.abort(data.draw(st.sampled_from(sorted(prompts))))
        state, knobs = llm.engine.state, llm.engine.knobs
        assert llm.engine.cache.pages_in_use == knobs.total_units - state.counts[FREE]
    drain(llm)
    assert_idle(llm)
    for request, prompt in prompts.items():
        done = llm.result(request)
        full = tokens_of(lone, [prompt], 5)[0]
        assert done.token_ids == full[: len(done.token_ids)]
        assert done.finish == "abort" or done.token_ids == full


def test_streaming_says_what_generate_says():
    llm = llm_of("llama-gqa")
    background = llm.add(prompts_of(9)[0], greedy(30))
    chunks = list(llm.stream("The quick brown", greedy(12)))
    whole = llm_of("llama-gqa").generate(["The quick brown"], greedy(12))[0]
    assert [t for c in chunks for t in c.token_ids] == whole.token_ids
    assert "".join(c.text for c in chunks) == whole.text
    assert [c.finish for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
    drain(llm)
    assert llm.result(background).token_ids == expected_of([prompts_of(9)[0]], 30)[0]


def test_a_stream_that_is_closed_gives_its_pages_back():
    llm = llm_of("llama-gqa")
    stream = llm.stream(prompts_of(9)[0], greedy(50))
    next(stream)
    stream.close()
    assert_idle(llm)


def test_events_have_the_simulators_columns():
    llm = llm_of("llama-gqa")
    tokens_of(llm, prompts_of(9, 5), 4)
    events = llm.events()
    assert list(events) == [
        "request", "status", "arrival_ns", "scheduled_ns", "first_token_ns", "last_token_ns",
        "prompt_tokens", "output_tokens", "cached_tokens", "preemptions",
    ]  # fmt: skip
    assert (events["status"] == "done").all()
    order = [events[name] for name in ("arrival_ns", "scheduled_ns", "first_token_ns", "last_token_ns")]
    assert all((a <= b).all() for a, b in pairwise(order))
    assert events["output_tokens"].tolist() == [4, 4]


def test_a_prompts_last_block_is_its_own_where_the_plan_treats_its_last_token_apart():
    """Prompt tokens leave out an FFN below a cache that later tokens read; the sampled one runs it."""
    layers = range(LAYERS)
    plan = plan_of(LAYERS, name="apart", prompt=[FULL if j else ATTN | KV for j in layers])
    prompts = [PREFIX[:8], PREFIX[:12], PREFIX]
    warm, cold = (llm_of("llama-gqa", plan, prefix_caching=caching) for caching in (True, False))
    for prompt in prompts:
        assert tokens_of(warm, [prompt], 6) == tokens_of(cold, [prompt], 6)
    assert warm.events()["cached_tokens"].tolist() == [0, 4, 8]


def test_pushed_out_and_back_within_one_call_starts_with_new_pages():
    llm = llm_of("llama-gqa", max_num_batched_tokens=8)
    request = llm.add(prompts_of(20)[0], greedy(4))
    llm.step()
    llm.step()
    engine = llm.engine
    preempt(engine.asked, engine.state, engine.knobs, request)
    begin(engine.asked, engine.state, engine.knobs, request, 0)
    assert reserve(engine.state, engine.knobs, request, 4)
    engine.cache.after_schedule(engine.asked, engine.state)
    assert engine.cache.pages_in_use == LAYERS
    drain(llm)
    assert llm.result(request).token_ids == expected_of(prompts_of(20), 4)[0]
