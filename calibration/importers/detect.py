"""Which tool wrote a result, told from its content; and one function that reads any of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.exclusions import Excluded
from calibration.importers import published
from calibration.importers.aiperf import read_aiperf, read_aiperf_requests
from calibration.importers.distserve import read_distserve
from calibration.importers.genai_perf import read_genai_perf, read_genai_perf_requests
from calibration.importers.guidellm import read_guidellm
from calibration.importers.inference_perf import read_inference_perf, stage_files
from calibration.importers.inferencex import read_inferencex
from calibration.importers.llmservingsim import read_llmservingsim
from calibration.importers.names import engine_of, gpu_or_none, model_or_none
from calibration.importers.reading import Record, read_records, read_text
from calibration.importers.sglang_bench import read_sglang_bench
from calibration.importers.splitwise import SETTING as SPLITWISE_SETTING
from calibration.importers.splitwise import read_splitwise
from calibration.importers.vllm_bench import read_vllm_bench
from calibration.points import Point, with_known
from sim.cost.hardware import gpu_named
from sim.errors import InputError
from sim.plans.catalogue import model_named

READERS: Mapping[str, Callable[[Path], list[Point]]] = {
    "vllm_bench": read_vllm_bench,
    "sglang_bench": read_sglang_bench,
    "guidellm": read_guidellm,
    "aiperf": read_aiperf,
    "aiperf_requests": read_aiperf_requests,
    "genai_perf": read_genai_perf,
    "genai_perf_requests": read_genai_perf_requests,
    "inference_perf": read_inference_perf,
    "inferencex": read_inferencex,
    "llmservingsim": read_llmservingsim,
    "distserve": read_distserve,
    "splitwise": read_splitwise,
}
PUBLISHED = "published"
_EXPORTS = {"profile_export_aiperf.json", "profile_export_genai_perf.json"}


@dataclass(frozen=True)
class Reading:
    """What a file gave: the tool that wrote it, its points, and the rows left out (generic CSV only)."""

    tool: str
    points: tuple[Point, ...]
    excluded: tuple[Excluded, ...] = ()


def read_result(path: Path, **known: Any) -> list[Point]:
    """The points of any result file or folder; `known` fills in what the file lacks (see `points.with_known`).

    gpu, model and engine may be spelled as users do ("H100-SXM-80GB", "meta-llama/Llama-3.1-8B", "vllm-0.11").
    Raises InputError, naming file and field, for a file that cannot be read or contradicts `known`.
    """
    return list(read_all(path, **known).points)


def read_all(path: Path, **known: Any) -> Reading:
    """As `read_result`, with the tool's name and the rows excluded."""
    tool = detect(path)
    facts = _canonical(known)
    if tool == PUBLISHED:
        table = published.read_published(path)
        return Reading(tool, tuple(with_known(point, **facts) for point in table.points), table.excluded)
    return Reading(tool, tuple(with_known(point, **facts) for point in READERS[tool](_file(path))))


def detect(path: Path) -> str:
    """The tool that wrote `path`: a key of READERS, or "published". Raises InputError where none is recognised."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        return _folder(path)
    first = read_text(path).lstrip()[:1]
    if first not in ("{", "["):
        return _table(path)
    tool = _document(read_records(path)[0])
    if tool is None:
        raise InputError(f"{path}: none of the fields that tell one of {', '.join(READERS)} is present")
    return tool


def _folder(path: Path) -> str:
    names = {item.name for item in path.iterdir()}
    if {"requests.jsonl", "meta.json"} <= names:
        return "llmservingsim"
    if stage_files(path):
        return "inference_perf"
    if names & _EXPORTS:
        return detect(_file(path))
    raise InputError(f"{path}: holds neither stage_N_lifecycle_metrics.json, nor requests.jsonl with meta.json, nor "
                     f"{' or '.join(sorted(_EXPORTS))}")  # fmt: skip


def _file(path: Path) -> Path:
    """A folder of an aiperf or genai-perf run stands for its statistics file; any other path for itself."""
    exports = sorted(_EXPORTS & {item.name for item in path.iterdir()}) if path.is_dir() else []
    return path / exports[0] if exports else path


def _table(path: Path) -> str:
    header = read_text(path).splitlines()[0].split(",")
    if {"source", "metric", "value", "unit"} <= set(header):
        return PUBLISHED
    if set(SPLITWISE_SETTING) <= set(header):
        return "splitwise"
    raise InputError(f"{path}:1: neither JSON nor a table of measurements; columns are {', '.join(header)[:200]}")


def _document(record: Record) -> str | None:
    """The tool by the fields that only it writes; the order matters where one writes a superset of another."""

    def has(*keys: str) -> bool:
        return all(record.get(key) is not None for key in keys)

    telling: tuple[tuple[str, bool], ...] = (
        ("guidellm", has("benchmarks", "metadata")),
        ("inference_perf", has("load_summary", "successes")),
        ("genai_perf_requests", has("experiments")),
        ("aiperf_requests", has("metadata", "metrics")),
        ("genai_perf", has("input_config.perf_analyzer")),
        ("aiperf", any(has(f"{field}.unit") for field in ("request_latency", "request_throughput"))),
        ("sglang_bench", has("mean_e2e_latency_ms") or has("total_output_tokens_retokenized")),
        ("inferencex", has("tput_per_gpu") or has("median_ttft", "max_concurrency")),
        ("vllm_bench", has("completed", "total_input_tokens")),
        ("distserve", _is_distserve(record)),
    )
    return next((tool for tool, found in telling if found), None)


def _is_distserve(record: Record) -> bool:
    fits = [fit for by_tp in record.data.values() if isinstance(by_tp, Mapping) for fit in by_tp.values()]
    return bool(fits) and all(isinstance(fit, Mapping) and "prefill" in fit for fit in fits)


def _canonical(known: Mapping[str, Any]) -> dict[str, Any]:
    """The user's facts in catalogue spelling; raises UnknownName for a GPU or model that is not there."""
    facts = {name: value for name, value in known.items() if value is not None}
    if "gpu" in facts:
        facts["gpu"] = gpu_or_none(facts["gpu"]) or gpu_named(facts["gpu"]).name
    if "model" in facts:
        facts["model"] = model_or_none(facts["model"]) or model_named(facts["model"]).name
    if "engine" in facts:
        facts["engine"], version = engine_of(facts["engine"])
        if version:
            facts.setdefault("engine_version", version)
    return facts
