"""Reading tokens one step late changes nothing: not a token, an iteration, a time, a count or a page.

Only who stops by itself is found out late, and has by then taken part in one iteration too many.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.llm import LLM
from engine.sampler import SamplingParams
from sim.serving.columns import FREE
from tests.engine.tinies import assert_idle, greedy, llm_of, prompts_of
from tests.gen import plans, scheduler_configs

SHAPE = llm_of("llama-gqa").config.shape
SPECS = (
    "dense",
    "skip_decode:max_budget=6,min_budget=2,schedule_tokens=5",
    "ffn_skip:run_length=2,threshold=0.7,cold_layers=1,warmup_tokens=1,cadence=3",
    "swift_kv:keep=2,group=2",
    "swift_kv:keep=3+skip_decode:speedup=2,schedule_tokens=6",
    "early_exit:at=3,kv_fill=1",
    "cross_layer_kv",
    "static_depth:drop=2",
    "unified_skip",
    "self_speculative:exit_layer=4,tokens=3",
)
PROMPTS = prompts_of(9, 12, 4, 14, 17, 21, seed=3)
Script = list[tuple[str, Any]]


class Clock:
    """Time that each forward pass moves on by its number of tokens."""

    def __init__(self, llm: LLM) -> None:
        self.now, self.forward = 1, llm.engine.forward
        llm.engine.forward, llm.engine.clock = self, lambda: self.now  # type: ignore[assignment]

    def __call__(self, batch: Any) -> Any:
        self.now += 10 + len(batch.place)
        return self.forward(batch)


def told(make: Callable[..., LLM], script: Script, *, pipelined: bool) -> dict[str, Any]:
    """All that can be told of a run: pages after each step, iterations, results, events, metrics."""
    llm = make(pipelined=pipelined)
    Clock(llm)
    iterations: list[Any] = []
    pages: list[int] = []
    llm.engine.on_iteration = lambda *iteration: iterations.append(iteration)
    steps = iter([*script, *[("step", None)] * 500])
    for action, value in steps:
        if action == "add":
            llm.add(*value)
        elif action == "abort":
            llm.abort(value)
        elif llm.engine.busy:
            before = llm.metrics.iterations
            llm.step()
            if llm.metrics.iterations > before:  # the last look at the device launches nothing
                pages.append(llm.engine.cache.pages_in_use)
        state = llm.engine.state
        assert llm.engine.cache.pages_in_use == llm.engine.knobs.total_units - state.counts[FREE]
    assert_idle(llm)
    requests = range(len(llm.engine.streams))
    return {
        "iterations": iterations,
        "pages": pages,
        "results": [llm.result(r) for r in requests],
        "events": {name: column.tolist() for name, column in llm.events().items()},
        "metrics": llm.metrics.summary(),
    }


def assert_same(make: Callable[..., LLM], script: Script) -> dict[str, Any]:
    late, plain = (told(make, script, pipelined=pipelined) for pipelined in (True, False))
    for name, value in plain.items():
        np.testing.assert_equal(late[name], value, err_msg=name)
    return late


@pytest.mark.parametrize(
    ("variant", "spec"), [*(("llama-gqa", spec) for spec in SPECS), ("opt-350m", SPECS[1]), ("opt-350m", SPECS[2])]
)
def test_every_plan_with_preemptions_and_aborts(variant, spec):
    sampled = SamplingParams(max_tokens=9, temperature=1.3, top_k=40, seed=4, ignore_eos=True)
    how = [greedy(9), sampled, greedy(9, repetition_penalty=1.5), greedy(3, logprobs=3), greedy(1), greedy(9)]
    script: Script = [("add", each) for each in zip(PROMPTS, how)]
    script[3:3] = [("step", None)] * 2
    script += [("step", None)] * 4 + [("abort", 1)] + [("step", None)] * 3 + [("abort", 5), ("abort", 3)]

    def make(**options: Any) -> LLM:
        return llm_of(variant, spec, kv_blocks=8, max_num_batched_tokens=11, dtype="float64", **options)

    late = assert_same(make, script)
    if spec == "dense":
        assert sum(late["events"]["preemptions"]) > 0, "memory was meant to be short"
    assert late["metrics"]["wasted_tokens"] == 0


@settings(max_examples=12)
@given(st.data())
def test_any_plan_under_any_schedule(data):
    plan, config = data.draw(plans(SHAPE)), data.draw(scheduler_configs())
    prompts = prompts_of(*data.draw(st.lists(st.integers(1, 14), min_size=1, max_size=4)), seed=2)
    outputs = data.draw(st.lists(st.integers(1, 6), min_size=len(prompts), max_size=len(prompts)))
    script: Script = []
    for prompt, n in zip(prompts, outputs):
        script += [("add", (prompt, greedy(n)))] + [("step", None)] * data.draw(st.integers(0, 3))
    script += [("abort", r) for r in data.draw(st.sets(st.sampled_from(range(len(prompts))), max_size=2))]
    needs = max(-(-(len(p) + n) // config.block_tokens) for p, n in zip(prompts, outputs))
    room = needs + data.draw(st.integers(0, 6))
    knobs = {name: getattr(config, name) for name in config.__dataclass_fields__}
    assert_same(lambda **options: llm_of("llama-gqa", plan, kv_blocks=room, **knobs, **options), script)


def ending(prompt: list[int], after: int) -> tuple[int, ...]:
    """The token that this prompt's greedy continuation has there."""
    return (llm_of("llama-gqa", dtype="float64").generate([prompt], greedy(after))[0].token_ids[-1],)


@pytest.mark.parametrize("kv_blocks", [8, 200])
@pytest.mark.parametrize("prefix_caching", [False, True])
def test_who_stops_wastes_at_most_one_token(kv_blocks, prefix_caching):
    stops = [greedy(9, stop_token_ids=ending(p, 2 + i)) for i, p in enumerate(PROMPTS)]

    def run(**options: Any) -> Any:
        llm = llm_of(
            "llama-gqa",
            kv_blocks=kv_blocks,
            max_num_batched_tokens=11,
            dtype="float64",
            prefix_caching=prefix_caching,
            **options,
        )
        done = llm.generate(PROMPTS, stops)
        assert_idle(llm)
        return llm, done

    (late, results), (plain, expected) = run(pipelined=True), run()
    key = [(c.token_ids, c.finish, c.text) for c in expected]
    assert [(c.token_ids, c.finish, c.text) for c in results] == key
    assert {c.finish for c in expected} == {"stop"}
    events, same = late.events(), plain.events()
    for name in ("status", "output_tokens", "prompt_tokens"):
        assert events[name].tolist() == same[name].tolist()
    assert 0 < late.metrics.wasted <= len(PROMPTS)
    assert late.metrics.emitted == plain.metrics.emitted
    if kv_blocks == 200:
        assert late.metrics.tokens == plain.metrics.tokens + late.metrics.wasted


def test_a_stop_on_the_last_token_wastes_nothing():
    done = llm_of("llama-gqa", dtype="float64", pipelined=True)
    result = done.generate(PROMPTS[:1], greedy(4, stop_token_ids=ending(PROMPTS[0], 4)))[0]
    assert (result.finish, len(result.token_ids)) == ("stop", 4)
    assert done.metrics.wasted == 0


def test_lost_tokens_end_their_request_alone():
    llm, plain = (llm_of("llama-gqa", pipelined=p) for p in (True, False))
    good = prompts_of(9, 5, vocab=70)
    for each in (llm, plain):
        each.model.embedding[77] = float("nan")
    done, expected = (each.generate([good[0], [3, 77, 4], good[1]], greedy(6)) for each in (llm, plain))
    assert [(c.token_ids, c.finish, c.error) for c in done] == [(c.token_ids, c.finish, c.error) for c in expected]
    assert done[1].finish == "error"
    assert_idle(llm)


def test_preempted_in_the_iteration_that_it_wasted():
    """It stops, is pushed out before anybody knows, and must not come back from the queue."""
    for blocks in (8, 9, 11):
        for after in (2, 4, 6):
            how = [greedy(9), greedy(9), greedy(9), *(greedy(9, stop_token_ids=ending(p, after)) for p in PROMPTS[3:])]
            llm, plain = (
                llm_of("llama-gqa", kv_blocks=blocks, max_num_batched_tokens=16, dtype="float64", pipelined=p)
                for p in (True, False)
            )
            results, expected = (each.generate(PROMPTS, how) for each in (llm, plain))
            assert [c.token_ids for c in results] == [c.token_ids for c in expected]
            assert (llm.events()["status"] == "done").all()
            assert_idle(llm)


def test_what_an_abort_finds_out_is_told_by_the_next_step():
    llm = llm_of("llama-gqa", pipelined=True)
    ends, gone = llm.add(PROMPTS[0], greedy(3)), llm.add(PROMPTS[1], greedy(9))
    told = [request for _ in range(3) for request in llm.step()]
    assert llm.engine.streams[ends].finish is None
    llm.abort(gone)
    assert llm.result(ends).finish == "length"
    while llm.engine.busy:
        told += llm.step()
    assert told.count(ends) == 3
    assert_idle(llm)


def test_streams_and_closing_them():
    llm, plain = (llm_of("llama-gqa", pipelined=p) for p in (True, False))
    llm.add(PROMPTS[0], greedy(20))
    chunks = list(llm.stream(PROMPTS[1], greedy(7)))
    assert [t for c in chunks for t in c.token_ids] == plain.generate([PROMPTS[1]], greedy(7))[0].token_ids
    stream = llm.stream(PROMPTS[2], greedy(50))
    next(stream)
    stream.close()
    while llm.engine.busy:
        llm.step()
    assert_idle(llm)


def test_the_next_step_is_launched_before_the_last_is_read():
    """What makes it worth while: when the device is given step n + 1, nobody has looked at the tokens of step n."""
    llm = llm_of("llama-gqa", pipelined=True)
    order: list[str] = []
    forward, land = llm.engine.forward, llm.engine._land
    llm.engine.forward = lambda batch: (order.append("launch"), forward(batch))[1]  # type: ignore[assignment]
    llm.engine._land = lambda flight: (order.append("read"), land(flight))[1]  # type: ignore[method-assign]
    llm.generate(PROMPTS[:1], greedy(4))
    assert order == ["launch", *["launch", "read"] * 3, "read"]


def test_a_late_token_reaches_the_next_step_on_the_device():
    llm = llm_of("llama-gqa", pipelined=True)
    request = llm.add(PROMPTS[0], greedy(4))
    fed: list[torch.Tensor] = []
    forward = llm.engine.forward
    llm.engine.forward = lambda batch: (fed.append(batch.tokens.clone()), forward(batch))[1]  # type: ignore[assignment]
    while llm.engine.busy:
        llm.step()
    assert [int(t[-1]) for t in fed[1:]] == llm.result(request).token_ids[:-1]
