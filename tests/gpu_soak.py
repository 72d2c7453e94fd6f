"""What only a GPU can show, in three runs: `python -m tests.gpu_soak`, or `--dry` for the same at small size on a CPU.

Soak: requests of every kind come and are aborted at random for thousands of steps, and no page, unit or token is lost.
Replay: captured graphs give the tokens of the eager path, for every row bucket and every plan.
Greedy: bfloat16 tokens are transformers', or their logits tie within bfloat16's rounding.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from engine.graphs import BUCKETS
from engine.llm import LLM
from engine.sampler import SamplingParams
from engine.tiny import make_tiny
from sim.serving.columns import FREE
from sim.serving.config import SchedulerConfig

PLANS = (
    "dense",
    "skip_decode:max_budget=6,min_budget=2,schedule_tokens=5",
    "ffn_skip:run_length=2,threshold=0.7,cold_layers=1,warmup_tokens=1,cadence=3",
    "swift_kv:keep=2,group=2",
    "swift_kv:keep=3+skip_decode:speedup=2,schedule_tokens=6",
    "early_exit:at=3,kv_fill=1",
    "self_speculative:exit_layer=4,tokens=3",
)
TIE = 2.0**-7  # relative to the largest logit: one unit of bfloat16
LAYERS = 6


def soak(folder: Path, plan: str, *, steps: int, device: str, seed: int = 0) -> int:
    """Requests served; raises AssertionError where pages and units disagree, or a request never ends."""
    config = SchedulerConfig(max_num_seqs=16, max_num_batched_tokens=64, block_tokens=16, prefix_caching=True)
    llm = LLM(folder, plan=plan, device=device, scheduler=config, kv_blocks=48, pipelined=True, graphs=True)
    rng = np.random.default_rng(seed)
    alive: list[int] = []
    for _ in range(steps):
        if rng.random() < 0.3:
            alive.append(llm.add(rng.integers(2, 300, rng.integers(1, 90)).tolist(), _params(rng)))
        if alive and rng.random() < 0.05:
            llm.abort(alive[rng.integers(len(alive))])
        llm.step()
        state, knobs = llm.engine.state, llm.engine.knobs
        assert llm.engine.cache.pages_in_use == knobs.total_units - state.counts[FREE]
        alive = [r for r in alive if llm.engine.streams[r].finish is None]
    while llm.engine.busy:
        llm.step()
    assert not llm.engine.cache._tables
    endings = {stream.finish for stream in llm.engine.streams}
    assert endings <= {"stop", "length", "abort"}, endings
    return len(llm.engine.streams)


def _params(rng: np.random.Generator) -> SamplingParams:
    hot = rng.random() < 0.5
    return SamplingParams(
        max_tokens=int(rng.integers(1, 40)),
        temperature=1.2 if hot else 0.0,
        top_k=20 if hot else 0,
        repetition_penalty=1.3 if rng.random() < 0.2 else 1.0,
        stop_token_ids=(int(rng.integers(2, 300)),),
        ignore_eos=True,
    )


def replay(folder: Path, plan: str, *, rows: int, device: str) -> None:
    """None; raises AssertionError where fixed shapes, captured on a GPU, change a token of that many requests."""
    prompts = np.random.default_rng(rows).integers(2, 300, (rows, 7)).tolist()
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    config = SchedulerConfig(max_num_seqs=rows, max_num_batched_tokens=max(64, rows))

    exact = "float64" if device == "cpu" else "float32"  # the widest that the paths compute in

    def tokens(*, graphs: bool) -> list[list[int]]:
        llm = LLM(folder, plan=plan, device=device, dtype=exact, scheduler=config, kv_blocks=2 * rows, graphs=graphs)
        done = [c.token_ids for c in llm.generate(prompts, params)]
        assert not graphs or llm.metrics.graph_hits, "no step was replayed"
        return done

    assert tokens(graphs=True) == tokens(graphs=False), f"{plan}, {rows} rows"


def greedy_parity(folder: Path, *, device: str) -> None:
    """None; raises AssertionError where a bfloat16 token is neither transformers' likeliest nor tied with it."""
    reference = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.bfloat16)
    reference = reference.to(device).eval()
    llm = LLM(folder, device=device, dtype="bfloat16", kv_blocks=64)
    prompts = [np.random.default_rng(n).integers(2, 300, n).tolist() for n in (3, 17, 64, 33)]
    for prompt, done in zip(prompts, llm.generate(prompts, SamplingParams(max_tokens=24, ignore_eos=True))):
        text = torch.tensor([prompt + done.token_ids], device=device)
        with torch.no_grad():
            logits = reference(text).logits[0, len(prompt) - 1 : -1].float()
        chosen = logits.gather(1, torch.tensor(done.token_ids, device=device)[:, None])[:, 0]
        short = logits.amax(1) - chosen
        assert (short <= 4 * TIE * logits.abs().amax(1)).all(), float(short.max())


def main() -> None:
    """Run all three; `--dry` at small size on a CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--steps", type=int, default=10_000)
    options = parser.parse_args()
    device, steps = ("cpu", 40) if options.dry else ("cuda", options.steps)
    with tempfile.TemporaryDirectory() as place:
        folder = make_tiny(Path(place) / "llama", layers=LAYERS)
        greedy_parity(folder, device=device)
        for plan in PLANS[:2] if options.dry else PLANS:
            for rows in (1, 4) if options.dry else BUCKETS:
                replay(folder, plan, rows=rows, device=device)
            served = soak(folder, plan, steps=steps, device=device)
            print(f"{plan}: replay is eager; {served} requests in a soak of {steps} steps")


if __name__ == "__main__":
    main()
