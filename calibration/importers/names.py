"""Names as result files spell them, in the spelling of the catalogues."""

import re

from sim.cost.hardware import gpu_named
from sim.errors import UnknownName
from sim.plans.catalogue import MODELS, catalogue_name

_ENGINES = {"tensorrt-llm": "trtllm", "trt-llm": "trtllm", "tensorrtllm": "trtllm", "trt": "trtllm"}
_ENGINES |= {"dynamo-trt": "trtllm", "dynamo-vllm": "vllm", "dynamo-sglang": "sglang"}
_DTYPES = {"fp16": "bf16", "float16": "bf16", "bfloat16": "bf16", "16-bit": "bf16", "half": "bf16"}
_DTYPES |= {"bf16": "bf16", "fp8": "fp8", "float8": "fp8", "fp8_e4m3": "fp8", "e4m3": "fp8", "fp8_block": "fp8"}
_DTYPES |= {"fp4": "fp4", "nvfp4": "fp4", "mxfp4": "fp4", "int8": "int8", "w8a8": "int8"}
_DTYPES |= dict.fromkeys(("int4", "w4a16", "awq", "gptq", "bitsandbytes"), "int4")
# What follows the shape in a checkpoint's name: quantisation, and how the table's author marked the variant.
_QUANTISED = r"-(fp8(-dynamic|-kv|-block)?|bf16|fp16|nvfp4|fp4|awq|gptq|int[48]|w\d+a\d+|quantized\.\w+)(?=[-\s]|$)"
_VARIANT = re.compile(rf"({_QUANTISED}|-swiftkv|\s*\+\s*swiftkv|\s*\(dense\))", re.I)
_ALIASES = {"bloom-176b": "bloom", "llama-3.1-nemotron-70b": "llama-3.1-70b"}
_ALIASES |= {f"deepseek-r1-distill-llama-{size}": f"llama-3.1-{size}" for size in ("8b", "70b")}
_ALIASES |= {f"deepseek-r1-distill-qwen-{size}": f"qwen2.5-{size}" for size in ("7b", "14b", "32b")}
_LLAMA = re.compile(r"^(?:meta-)?llama-?(\d)(?:\.(\d))?-(\d+b)")


def gpu_or_none(label: str) -> str | None:
    """The catalogue's name of a GPU, remarks in brackets ignored; None for one that is not in it."""
    try:
        return gpu_named(re.sub(r"\(.*?\)", "", label).strip()).name
    except UnknownName:
        return None


def model_or_none(label: str) -> str | None:
    """The catalogue's name of a model or of its fine-tune or quantisation; None for a shape that is not in it.

    Llama 3.3 70B has the shape of 3.1 70B, Meta-Llama-3 8B and 70B those of 3.1, distilled models those they began as.
    """
    plain = _VARIANT.sub("", label.strip().replace("_", "-")).strip()
    short = catalogue_name(plain.replace(" ", "-"))
    llama = _LLAMA.match(short)
    if llama:
        version, minor, size = llama.groups()
        minor = "1" if version == "3" and size in ("8b", "70b") else minor
        short = f"llama-{version}{f'.{minor}' if minor else ''}-{size}" + short[llama.end() :]
    short = _ALIASES.get(short, short)
    return short if short in MODELS else None


def dtype_or_none(label: str) -> str | None:
    """Our dtype: "bf16" for any 16-bit float; None where the label says nothing. A trailing "?" is a guess."""
    return _DTYPES.get(re.sub(r"\(.*?\)", "", label).strip().lower().rstrip("?"))


def engine_of(label: str) -> tuple[str, str | None]:
    """Engine and version of "vllm-0.11", "trtllm 1.0.0rc3", "vLLM V1 0.9.1"; "tensorrt-llm" is spelled "trtllm"."""
    plain = re.sub(r"\bv[01](?=\s|$)", "", label.strip().lower()).strip()  # vLLM's two loops, not its version
    match = re.fullmatch(r"(.+?)(?:[-_ ]+v?(\d[\w.]*))?", plain)
    if match is None:
        return "", None
    name = match[1].strip()
    if name not in _ENGINES:
        name = next((ours for theirs, ours in _ENGINES.items() if len(theirs) > 5 and theirs in name), name)
    return _ENGINES.get(name, name), match[2]
