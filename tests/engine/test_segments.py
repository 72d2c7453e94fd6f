"""The fixed-shape decode path that CUDA graphs hold is the gathering one, mask for mask; replaying it needs a GPU."""

import pytest
import torch

import engine.block
from engine.graphs import DecodeGraphs
from engine.llm import LLM
from tests.engine.tinies import folder_of, greedy, llm_of, prompts_of, recorded, tokens_of

SPECS = [
    "dense",
    "skip_decode:max_budget=6,min_budget=2,schedule_tokens=5",
    "ffn_skip:run_length=2,threshold=0.7,cold_layers=1,warmup_tokens=1,cadence=3",
    "swift_kv:keep=2,group=2",
    "swift_kv:keep=3+skip_decode:speedup=2,schedule_tokens=6",
    "cross_layer_kv",
    "early_exit:at=3,kv_fill=1",
    "static_depth:drop=2",
    "unified_skip",
    "self_speculative:exit_layer=4,tokens=3",
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("variant", ["llama-gqa", "opt", "opt-350m"])
def test_segments_give_the_tokens_of_gathered_rows(variant, spec):
    prompts = prompts_of(9, 14, 5, seed=3)
    plain, fixed = (llm_of(variant, spec, dtype="float64") for _ in range(2))
    fixed.engine.forward.decode = DecodeGraphs(
        fixed.engine.forward, max_rows=4, max_context=512, capture=False, segments=4
    )
    assert tokens_of(fixed, prompts, 8) == tokens_of(plain, prompts, 8)
    assert fixed.metrics.graph_hits > 0
    assert fixed.metrics.gated == plain.metrics.gated


def test_logits_are_equal_and_padding_is_inert():
    prompts = prompts_of(9, 14, 5, seed=3)  # three rows in a bucket of four
    seen = []
    for graphs in (False, True):
        llm = llm_of("llama-gqa", dtype="float64")
        if graphs:
            llm.engine.forward.decode = DecodeGraphs(llm.engine.forward, max_rows=4, max_context=512, capture=False)
        logits = recorded(llm)
        llm.generate(prompts, greedy(6))
        seen.append([part.clone() for part in logits])
        pages = llm.engine.cache.k_pages
        assert torch.isfinite(pages).all()
    for gathered, fixed in zip(*seen, strict=True):
        assert gathered.shape == fixed.shape
        assert (gathered - fixed).abs().max() < 1e-10


def test_only_needed_segments_run():
    llm = llm_of("llama-gqa", "early_exit:at=3")
    graphs = DecodeGraphs(llm.engine.forward, max_rows=4, max_context=512, capture=False, segments=6)
    llm.engine.forward.decode = graphs
    ran: list[int] = []
    for bucket in graphs.buckets.values():
        bucket.spans = [lambda i=i, step=step: (ran.append(i), step()) for i, step in enumerate(bucket.spans)]
    tokens_of(llm, prompts_of(9), 4)
    assert ran == [0, 1, 2] * 3


@pytest.mark.parametrize("spec", ["skip_decode:max_budget=6,min_budget=2,schedule_tokens=5", "static_depth:drop=2"])
def test_a_replay_saves_the_bytes_that_its_segments_leave_out(monkeypatch, spec):
    """As on a GPU: whole segments are read; with one layer in each that is what the plan asks for."""
    monkeypatch.setattr(engine.block, "use_triton", lambda x: True)
    monkeypatch.setattr(engine.block, "PREDICATED_ROWS", 0)

    def saved(segments: int | None) -> float:
        llm = llm_of("llama-gqa", spec, dtype="float64")
        if segments:
            llm.engine.forward.decode = DecodeGraphs(
                llm.engine.forward, max_rows=4, max_context=512, capture=False, segments=segments
            )
        tokens_of(llm, prompts_of(9, 14, 5, seed=3), 8)
        return llm.metrics.summary()["weight_bytes_skip_realised"]

    assert saved(6) == saved(None) > 0
    skips_for_all = spec.startswith("static_depth")  # layers that are not there are never read
    assert saved(1) == (saved(None) if skips_for_all else 0)
    assert saved(1) <= saved(2) <= saved(3) <= saved(6)


@pytest.mark.parametrize("spec", ["swift_kv:keep=2,group=2", "swift_kv:keep=3+skip_decode:speedup=2,schedule_tokens=6"])
def test_the_upper_half_of_mixed_steps_replays(spec):
    """Prompt chunks beside decodes, recomputed tokens too: above l* only single sampled tokens are left."""
    prompts = prompts_of(9, 12, 4, 14, 17, 21, seed=3)
    plain, fixed = (llm_of("llama-gqa", spec, dtype="float64", kv_blocks=8, max_num_batched_tokens=11) for _ in "ab")
    graphs = DecodeGraphs(fixed.engine.forward, max_rows=4, max_context=512, capture=False, segments=4)
    fixed.engine.forward.decode = graphs
    finished: list[bool] = []
    finish = graphs.finish
    graphs.finish = lambda *step: (finished.append((outcome := finish(*step)) is not None), outcome)[1]
    assert tokens_of(fixed, prompts, 9) == tokens_of(plain, prompts, 9)
    assert any(finished)


@pytest.mark.gpu
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("variant", ["llama-gqa", "opt"])
def test_replay_is_eager(variant, spec):
    prompts = prompts_of(*range(3, 20), seed=3)

    def tokens(*, graphs: bool) -> list[list[int]]:
        llm = LLM(folder_of(variant), plan=spec, device="cuda", dtype="float32", graphs=graphs)
        return tokens_of(llm, prompts, 12)

    assert tokens(graphs=True) == tokens(graphs=False)
