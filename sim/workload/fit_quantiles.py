"""Fits the shipped length tables: `python -m sim.workload.fit_quantiles ../shared/data/traces > azure_quantiles.toml`.

For each trace: quantiles of the prompt, and quantiles of the output within each twentieth of the prompts, so that the
dependence of the two survives. Quantiles are lengths that occur in the trace (inverted CDF), so atoms stay atoms.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.errors import ElideError
from sim.workload.arrivals import Offline
from sim.workload.traces import read_trace
from sim.workload.workload import Workload

_TAIL = [0.0, 0.001, 0.005, 0.01, 0.025]
PROMPT_LEVELS = np.round([*_TAIL, *np.arange(0.05, 0.951, 0.025), *(1 - q for q in reversed(_TAIL))], 4)
OUTPUT_LEVELS = np.round([0.0, 0.01, *np.arange(0.05, 0.951, 0.05), 0.975, 0.99, 0.995, 1.0], 4)
BANDS = 20

_AZURE = "Azure/AzurePublicDataset b469a113, Azure LLM Inference Trace 2023, {}; Patel et al., Splitwise, ISCA 2024"
TRACES = {
    "azure-conv": ("AzureLLMInferenceTrace_conv.csv", _AZURE.format("conversation"), "CC-BY 4.0, Microsoft Azure"),
    "azure-code": ("AzureLLMInferenceTrace_code.csv", _AZURE.format("code"), "CC-BY 4.0, Microsoft Azure"),
    "arxiv-summarization": (
        "vidur_arxiv_summarization.csv",
        "microsoft/vidur 7d475133, arXiv summarisation lengths; Agrawal et al., Vidur, MLSys 2024",
        "MIT, Microsoft",
    ),
}


def quantile_toml(name: str, trace: Workload, source: str, licence: str) -> Iterator[str]:
    """The lines of one table."""
    prompt, output = trace.prompt_tokens, trace.output_tokens
    by_prompt = np.argsort(prompt, kind="stable")
    yield f"[{name}]"
    yield f'source = "{source}; {len(trace)} requests"'
    yield f'licence = "{licence}"'
    yield f"prompt_levels = {PROMPT_LEVELS.tolist()}"
    yield f"prompt_tokens = {_quantiles(prompt, PROMPT_LEVELS)}"
    yield f"output_levels = {OUTPUT_LEVELS.tolist()}"
    yield "output_tokens = ["
    yield from (f"    {_quantiles(output[band], OUTPUT_LEVELS)}," for band in np.array_split(by_prompt, BANDS))
    yield "]"


def _quantiles(tokens: NDArray[np.int64], levels: NDArray[np.float64]) -> list[int]:
    return [int(q) for q in np.quantile(tokens, levels, method="inverted_cdf")]


def main(folder: str) -> str:
    """The whole file, from the traces in `folder`; raises InputError where one is missing."""
    lines = ["# Written by `python -m sim.workload.fit_quantiles ../shared/data/traces`; do not edit."]
    lines.append("# Output quantiles: one row for each twentieth of the prompts, shortest prompts first.")
    for name, (file, source, licence) in TRACES.items():
        trace = read_trace(Path(folder) / file, arrivals=Offline())
        lines += ["", *quantile_toml(name, trace, source, licence)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m sim.workload.fit_quantiles FOLDER-WITH-TRACES")
    try:
        sys.stdout.write(main(sys.argv[1]))
    except ElideError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
