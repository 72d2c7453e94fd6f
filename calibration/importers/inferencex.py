"""InferenceX (once InferenceMAX) results: vllm bench serve in a closed loop, with latencies in seconds and no `_ms`.

Raw runs: `model_id, max_concurrency, num_prompts, completed, total_*_tokens, median_ttft, p99_tpot, ...`. Aggregated
rows (one object, or a list of them): `hw, model, framework, precision, isl, osl, conc, tp, tput_per_gpu, mean_ttft,
...`; `*_intvty` is 1 / TPOT.

The recipes send 10 prompts per slot at infinite rate, lengths uniform in [0.8·L, L] (--random-range-ratio 0.8), so
mean lengths are 0.9 of the nominal `isl` and `osl`; --ignore-eos; the engine runs with max-num-seqs = concurrency and
prefix caching off. Before the warm-up was added, the first wave of `conc` prompts is a tenth of all TTFTs.
"""

from pathlib import Path

from calibration.importers.names import dtype_or_none, engine_of, gpu_or_none, model_or_none
from calibration.importers.reading import PERCENTILES, Record, read_records
from calibration.importers.vllm_bench import completed_requests
from calibration.points import Load, Point
from calibration.units import check_plausible
from sim.errors import InputError

RANGE_RATIO = 0.8
_KINDS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2e"}


def read_inferencex(path: Path) -> list[Point]:
    """One Point per raw run or aggregated row. Raises InputError for a row without TTFT."""
    return [_aggregated(r) if r.get("tput_per_gpu") is not None else _raw(r) for r in read_records(path)]


def jittered(length: float) -> tuple[float, tuple[float, float]]:
    """Mean and bounds of lengths drawn uniformly from [0.8·L, L]."""
    return length * (1 + RANGE_RATIO) / 2, (float(int(length * RANGE_RATIO)), float(length))


def _raw(record: Record) -> Point:
    completed = completed_requests(record)
    osl = record.number("total_output_tokens") / completed
    isl = record.number("total_input_tokens") / completed
    measured = _latencies(record)
    measured["requests_per_s"] = record.number("request_throughput")
    measured["output_tokens_per_s"] = record.number("output_throughput")
    measured["total_tokens_per_s"] = measured["requests_per_s"] * (isl + osl)
    check_plausible(measured, osl, where=record.where, requests=completed)
    label = str(record.get("model_id", ""))
    return Point(
        source=record.where,
        measured=measured,
        load=Load("concurrency", record.number("max_concurrency")),
        model=model_or_none(label),
        model_label=label,
        isl=isl,
        osl=osl,
        requests=completed,
    )


def _aggregated(record: Record) -> Point:
    disaggregated = bool(record.get("disagg"))
    workers = ("num_prefill_gpu", "num_decode_gpu") if disaggregated else ("tp", "pp")
    counts = [record.optional(key) for key in workers]
    n_gpus = int(sum(c or 0 for c in counts) if disaggregated else (counts[0] or 0) * (counts[1] or 1))
    if n_gpus < 1:
        raise InputError(f"{record.where}: fields {' and '.join(workers)} do not say how many GPUs there are")
    isl, isl_range = jittered(record.number("isl"))
    osl, osl_range = jittered(record.number("osl"))
    measured = _latencies(record)
    measured["total_tokens_per_s"] = record.number("tput_per_gpu") * n_gpus
    output = record.optional("output_tput_per_gpu")
    if output is not None and not disaggregated:
        measured["output_tokens_per_s"] = output * n_gpus
    check_plausible(measured, osl, where=record.where)
    label, concurrency = str(record.get("model", "")), record.number("conc")
    flags = {"max_num_seqs": int(concurrency), "prefix_caching": False}
    flags |= {"disaggregated": True} if disaggregated else {}
    return Point(
        source=record.where,
        measured=measured,
        load=Load("concurrency", concurrency),
        gpu=gpu_or_none(str(record.get("hw", "")).split("-")[0]),
        n_gpus=n_gpus,
        tp=None if disaggregated else int(record.number("tp")),
        model=model_or_none(label),
        model_label=label,
        weights_dtype=dtype_or_none(str(record.get("precision", ""))),
        engine=engine_of(str(record.get("framework", "")))[0] or None,
        isl=isl,
        osl=osl,
        isl_range=isl_range,
        osl_range=osl_range,
        requests=int(10 * concurrency),
        flags=flags,
        notes=_notes(record),
    )


def _latencies(record: Record) -> dict[str, float]:
    found = {}
    for theirs, ours in _KINDS.items():
        keys = {"mean": f"mean_{theirs}", "p50": f"median_{theirs}"}
        keys |= {f"p{p}": f"p{p}_{theirs}" for p in PERCENTILES if p != 50}
        for statistic, key in keys.items():
            value = record.optional(key)
            if value is not None:
                found[f"{ours}_{statistic}_ms"] = value * 1e3
    if not any(name.startswith("ttft") for name in found):
        raise InputError(f"{record.where}: field 'median_ttft' is missing")
    return found


def _notes(record: Record) -> tuple[str, ...]:
    notes = ["lengths uniform in [0.8 L, L]; request count and flags as in the public recipes"]
    if record.get("spec_decoding") not in (None, "none", "", "off"):
        notes.append(f"speculative decoding: {record.get('spec_decoding')}")
    return tuple(notes)
