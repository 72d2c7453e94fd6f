"""Keys and values are written where the plan says, by every path, and nowhere else: pages start as NaN.

A page that somebody gives back becomes NaN again, so whatever is finite was written for its present owner.
"""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import engine.block
from engine.graphs import DecodeGraphs
from engine.kernels.ffn_predicated import ffn_gathered, ffn_predicated
from engine.llm import LLM
from sim.plans.plan import KV
from tests.engine.test_segments import SPECS
from tests.engine.tinies import greedy, llm_of, prompts_of, tokens_of
from tests.gen import plans

SHAPE = llm_of("llama-gqa").config.shape
PROMPTS = prompts_of(9, 14, 5, seed=3)


def poisoned(llm: LLM) -> LLM:
    """The engine with NaN in every page that nobody has written."""
    cache = llm.engine.cache
    give = cache._give

    def give_back(pages):
        for part in (cache.k_pages, cache.v_pages):
            part[torch.from_numpy(pages[pages >= 0]).long()] = float("nan")
        give(pages)

    cache._give = give_back
    cache.k_pages.fill_(float("nan"))
    cache.v_pages.fill_(float("nan"))
    return llm


def with_graphs(llm: LLM) -> LLM:
    llm.engine.forward.decode = DecodeGraphs(
        llm.engine.forward, max_rows=4, max_context=512, capture=False, segments=4
    )
    return llm


def written(llm: LLM) -> set[int]:
    """Slots that hold finite keys and values; whoever holds one without the other shows."""
    cache = llm.engine.cache
    k, v = (part.isfinite().flatten(2) for part in (cache.k_pages, cache.v_pages))
    assert torch.equal(k.all(-1), v.any(-1))
    assert torch.equal(k.any(-1), v.all(-1))
    return set(k.all(-1).flatten().nonzero()[:, 0].tolist())


def asked_for(llm: LLM) -> set[int]:
    """Slots of the tokens computed so far that the plan's table gives keys to, in the caches that are still alive."""
    engine, size = llm.engine, llm.engine.knobs.block_tokens
    slots = set()
    for request, table in engine.cache._tables.items():
        prompt = len(engine.streams[request].prompt)
        for position in range(int(engine.state.computed[request])):
            flags = llm.plan.flags_at(position, prompt)
            for place, layer in enumerate(llm.plan.caches):
                page = int(table[position // size, place])
                if flags[layer] & KV and page >= 0:
                    slots.add(page * size + position % size)
    return slots


def assert_only_what_the_plan_says(llm: LLM, *, graphs: bool) -> None:
    expected = tokens_of(llm_of("llama-gqa", llm.plan, dtype="float64"), PROMPTS, 7)
    llm = poisoned(with_graphs(llm) if graphs else llm)
    requests = [llm.add(p, greedy(7)) for p in PROMPTS]
    while llm.engine.busy:
        llm.step()
        assert written(llm) == asked_for(llm)
    assert [llm.result(r).token_ids for r in requests] == expected


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("spec", [spec for spec in SPECS if "speculative" not in spec])
def test_a_layer_that_is_left_out_writes_nothing(spec, graphs):
    llm = llm_of("llama-gqa", spec, dtype="float64", kv_blocks=24, max_num_batched_tokens=11)
    assert_only_what_the_plan_says(llm, graphs=graphs)


@settings(max_examples=6, phases=[Phase.generate])
@given(plans(SHAPE).filter(lambda plan: plan.draft is None), st.booleans())  # wrong drafts leave keys behind
def test_neither_does_it_under_any_other_plan(plan, graphs):
    llm = llm_of("llama-gqa", plan, dtype="float64", kv_blocks=24, max_num_batched_tokens=11)
    assert_only_what_the_plan_says(llm, graphs=graphs)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("edges", [(0, 192), (0, 1), (32, 192)])
@pytest.mark.parametrize("variant", ["llama-gqa", "opt-350m"])
def test_the_kernels_ways_through_a_gated_ffn(monkeypatch, variant, edges, graphs):
    """Predicated, gathered and whole: as on a GPU, here by the kernels' references, with NaN where no row runs."""
    spec = "ffn_skip:run_length=2,threshold=0.7,cold_layers=1,warmup_tokens=1,cadence=3"
    expected = tokens_of(plain := llm_of(variant, spec, dtype="float64"), PROMPTS, 7)
    ran: set[str] = set()

    def spied(op):
        def call(x, *args, **options):
            ran.add(op.__name__)
            return op(x, *args, out=torch.full_like(x, float("nan")), **options)

        return call

    monkeypatch.setattr(engine.block, "use_triton", lambda x: True)
    monkeypatch.setattr(engine.block, "PREDICATED_ROWS", edges[0])
    monkeypatch.setattr(engine.block, "GATHERED_ROWS", edges[1])
    for op in (ffn_predicated, ffn_gathered):
        monkeypatch.setattr(engine.block, op.__name__, spied(op))
    llm = llm_of(variant, spec, dtype="float64")
    assert tokens_of(with_graphs(llm) if graphs else llm, PROMPTS, 7) == expected
    rows, layers = plain.metrics.gated
    assert llm.metrics.gated == (rows, layers if ran else 0), "where all rows are computed, nothing stays unread"
    assert ("ffn_predicated" in ran) == (edges[0] > 2)
    assert ("ffn_gathered" in ran) == (edges[1] == 1)
