"""How often the compiler would be asked as batches change from step to step: `python -m tests.engine.kernels.variants`.

Prints a JSON object: by case and kernel, the compiled variants. As in aot.py nothing is launched.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

import torch

from engine.kernels import attn_decode, attn_prefill, compact, ffn_predicated, norm
from tests.engine.kernels.aot import compiled, empty, fused

BF16 = torch.bfloat16


def attentions() -> Iterator[tuple[str, Callable[[], object]]]:
    """Page tables as wide as the longest text, and prompts that come in ones and many."""
    pages = empty(4096, 16, 8, 128, dtype=BF16)
    for width in (1, 15, 16, 33):
        q = fused(128, 32, 8, 128, BF16)[0]
        decode = partial(attn_decode.attn_decode_triton, q, pages, pages, empty(128, width), empty(128), scale=0.1)
        yield "table width", decode
        args = (q, pages, pages, empty(2, width), empty(2), empty(3))
        yield "table width", partial(attn_prefill.attn_prefill_triton, *args, scale=0.1)
    for seqs in (9, 16):
        q = fused(256, 32, 8, 128, BF16)[0]
        args = (q, pages, pages, empty(seqs, 512), empty(seqs), empty(seqs + 1))
        yield "prompts", partial(attn_prefill.attn_prefill_triton, *args, scale=0.1)


def gated() -> Iterator[tuple[str, Callable[[], object]]]:
    """Rows that the FFN gate compacts, and runs that the last layers cut short."""
    w = empty(512, 256, dtype=BF16)
    for rows in (193, 208):
        yield "rows", partial(compact.compact_rows_triton, empty(rows, dtype=torch.int8))
        x = empty(rows, 256, dtype=BF16)
        yield "rows", partial(ffn_predicated.ffn_gathered_triton, x, w, w[:256], empty(rows), empty(1))
    for rows, run in ((1, 1), (7, 2), (32, 16)):
        x, active = empty(rows, 256, dtype=BF16), empty(rows, dtype=torch.int8)
        gate = norm.CosineGate(0.95, active, empty(run, rows, dtype=torch.int8))
        weight = empty(256, dtype=BF16)
        yield "rows", partial(norm.add_rms_norm_triton, x, x, weight, eps=1e-5, active=active, gate=gate)


def main() -> None:
    """Prints the counts."""
    variants: dict[str, set[str]] = defaultdict(set)
    for case, launch in (*attentions(), *gated()):
        for name, kernel in compiled(launch):
            variants[f"{case} {name}"].add(kernel.hash)
    json.dump({name: len(hashes) for name, hashes in variants.items()}, sys.stdout)


if __name__ == "__main__":
    main()
