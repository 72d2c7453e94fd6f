"""The whole engine on its kernels, as a GPU runs it: tokens are transformers', or those of a model without kernels."""

import pytest

from engine.graphs import DecodeGraphs
from engine.llm import LLM
from sim.serving.config import SchedulerConfig
from tests.engine.kernels.support import DEVICE
from tests.engine.plain import Plain, follow
from tests.engine.tinies import folder_of, hf_greedy, hf_of, prompts_of, tokens_of

PROMPTS = prompts_of(6, 2, 3)
OUTPUTS = 3
SPECS = [
    ("skip_decode:max_budget=6,min_budget=2,schedule_tokens=3", True),
    ("ffn_skip:run_length=2,threshold=0.7,cold_layers=1,warmup_tokens=0,cadence=3", True),
    ("swift_kv:keep=2,group=2+skip_decode:speedup=2,schedule_tokens=4", False),
]


def llm_of(variant: str, plan: str, *, segments: bool) -> LLM:
    """An engine whose third prompt joins the others' decodes, in pages of four tokens."""
    config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=9, block_tokens=4)
    llm = LLM(
        folder_of(variant), plan=plan, device=DEVICE, dtype="float32", scheduler=config, kv_blocks=100, graphs=False
    )
    if segments:
        llm.engine.forward.decode = DecodeGraphs(llm.engine.forward, max_rows=4, max_context=512, capture=False)
    return llm


@pytest.mark.parametrize(("variant", "segments"), [("llama-gqa", False), ("opt", True)])
def test_dense_tokens_are_those_of_transformers(variant, segments):
    tokens = tokens_of(llm_of(variant, "dense", segments=segments), PROMPTS, OUTPUTS)
    assert tokens == [hf_greedy(variant, tuple(prompt), OUTPUTS) for prompt in PROMPTS]


@pytest.mark.parametrize(("spec", "segments"), SPECS)
def test_skipping_gives_the_tokens_of_a_model_without_kernels(spec, segments):
    llm = llm_of("llama-gqa", spec, segments=segments)
    plain = Plain(hf_of("llama-gqa"))
    assert tokens_of(llm, PROMPTS, OUTPUTS) == [follow(plain, llm.plan, prompt, OUTPUTS)[0] for prompt in PROMPTS]
    assert llm.plan.gate is None or llm.metrics.gated[0] > 0, "nothing was skipped: the gate tests nothing"
