"""inference-perf reports: `stage_N_lifecycle_metrics.json`, one per rate, all times in seconds.

- `load_summary` has requested_rate and achieved_rate (sent), `successes` has latency, throughput, prompt_len,
  output_len.
- `time_per_output_token` and `inter_token_latency` count SSE chunks. Servers that send two per token make them 0.475
  of the truth; they are not read. Mean TPOT is derived: (E2E − TTFT) / (output tokens − 1).
- `output_len` counts the re-tokenised text. With `ignore_eos: true` the server generates exactly `output_len` tokens;
  where the run's config.yaml lies in the folder or above it, that number is used, and the output rate scaled to it.
  (In the KubeCon runs of 2025 the text counts as 62.4 tokens, the server's own counters say 64.0.)
- "constant" load draws exponential gaps and scales them to the length of the stage: Poisson given the count.
- Workers hold at most num_workers · worker_max_concurrency requests in flight. Above that the client queues
  (`schedule_delay` grows) and E2E, which starts when a request is sent, stops growing: the load is a closed loop.
- `shared_prefix` data: num_unique_system_prompts · num_users_per_system_prompt distinct prompts in rotation. A server
  with prefix caching finds whole prompts again, not only the system prompt.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from calibration.importers.reading import PERCENTILES, Record, read_records, read_text
from calibration.points import Load, Point
from calibration.units import check_plausible, tpot_from_e2e
from sim.errors import InputError

_STAGE = re.compile(r"stage_(\d+)_lifecycle_metrics\.json")
_SETTING = re.compile(r"^[\s-]*(\w+):\s*([\w.]+)\s*$", re.MULTILINE)
_DELAYED_S = 0.1


def stage_files(folder: Path) -> list[Path]:
    """The folder's stage files in the order of their stages."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _STAGE.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def read_inference_perf(path: Path) -> list[Point]:
    """One Point per stage, of a folder or of one stage file. Raises InputError for a folder without stages."""
    folder = path if path.is_dir() else path.parent
    files = stage_files(path) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: holds no stage_N_lifecycle_metrics.json")
    settings = _settings(folder)
    return [_point(record, settings) for file in files for record in read_records(file)]


def _settings(folder: Path) -> dict[str, str]:
    """The scalars of config.yaml by key, nesting forgotten: the keys read here occur once."""
    for candidate in (folder / "config.yaml", folder.parent / "config.yaml"):
        if candidate.exists():
            return dict(_SETTING.findall(read_text(candidate)))
    return {}


def _point(record: Record, settings: Mapping[str, str]) -> Point:
    requests = int(record.number("successes.count"))
    if requests < 1:
        raise InputError(f"{record.where}: field 'successes.count' is 0; nothing was measured")
    counted = record.number("successes.output_len.mean")
    forced = float(settings.get("output_len", 0)) if settings.get("ignore_eos") == "true" else 0.0
    osl = forced or counted
    measured = _latencies(record, "ttft", "time_to_first_token") | _latencies(record, "e2e", "request_latency")
    try:
        measured["tpot_mean_ms"] = tpot_from_e2e(measured["e2e_mean_ms"], measured["ttft_mean_ms"], osl)
    except InputError as cause:
        raise InputError(f"{record.where}: {cause}") from cause
    rates = record.part("successes.throughput")
    output, prompt = rates.number("output_tokens_per_sec") * osl / counted, rates.number("input_tokens_per_sec")
    measured |= {
        "requests_per_s": rates.number("requests_per_sec"),
        "output_tokens_per_s": output,
        "total_tokens_per_s": output + prompt,
    }
    check_plausible(measured, osl, where=record.where, requests=requests)
    prompts = _product(settings, "num_unique_system_prompts", "num_users_per_system_prompt")
    prefix = settings.get("system_prompt_len")
    return Point(
        source=record.where,
        measured=measured,
        load=_load(record, settings),
        isl=record.number("successes.prompt_len.mean"),
        osl=osl,
        prefix_tokens=float(prefix) if prefix else None,
        distinct_prompts=prompts,
        requests=requests,
        notes=_notes(record, counted, forced),
    )


def _latencies(record: Record, kind: str, field: str) -> dict[str, float]:
    latency = record.part(f"successes.latency.{field}")
    keys = {"mean": "mean", "p50": "median"} | {f"p{p}": f"p{p}" for p in PERCENTILES if p != 50}
    return {f"{kind}_{statistic}_ms": latency.number(key) * 1e3 for statistic, key in keys.items()}


def _load(record: Record, settings: Mapping[str, str]) -> Load:
    concurrency = record.optional("load_summary.concurrency")
    if concurrency:
        return Load("concurrency", concurrency)
    cap = _product(settings, "num_workers", "worker_max_concurrency")
    return Load("qps", record.number("load_summary.requested_rate"), cap, "poisson")


def _notes(record: Record, counted: float, forced: float) -> tuple[str, ...]:
    notes = []
    if forced:
        notes.append(f"output length {forced:g} as forced; the text re-tokenises to {counted:.2f}")
    delay = record.optional("load_summary.schedule_delay.mean") or 0.0
    if delay > _DELAYED_S:
        sent = record.number("load_summary.achieved_rate")
        notes.append(f"the client fell {delay:.1f} s behind on average and sent {sent:.1f} requests per second")
    failed = record.optional("failures.count") or 0
    if failed:
        notes.append(f"{failed:.0f} requests failed")
    return tuple(notes)


def _product(settings: Mapping[str, str], *keys: str) -> int | None:
    if any(key not in settings for key in keys):
        return None
    product = 1
    for key in keys:
        product *= int(settings[key])
    return product
