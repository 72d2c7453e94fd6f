"""Named tensors: from a checkpoint's safetensors files, or random ones of the right shape."""

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sim.errors import InputError

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Source(Protocol):
    """Where a model's tensors come from."""

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name."""

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor, in the engine's dtype on its device. Raises InputError if it is missing or has another shape."""


class Checkpoint:
    """The safetensors files of a folder; pickles are never opened."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        self.folder = folder
        self.dtype = dtype
        self.device = device
        self._open: dict[Path, Any] = {}
        self._file_of = {name: file for file in _files(folder) for name in self._handle(file).keys()}  # noqa: SIM118
        _check_index(folder, self._file_of)

    def has(self, name: str) -> bool:
        """Whether the checkpoint has the tensor."""
        return name in self._file_of

    def take(self, name: str, *shape: int) -> Tensor:
        """As `Source.take`; what is not a float tensor (a quantised one, say) is refused."""
        if name not in self._file_of:
            raise InputError(f"{self.folder}: tensor {name!r} is missing; {self._nearest(name)}")
        file = self._file_of[name]
        handle = self._handle(file)
        have = tuple(handle.get_slice(name).get_shape())
        if have != shape:
            raise InputError(f"{file}: tensor {name!r} has shape {list(have)}; config.json makes it {list(shape)}")
        try:
            tensor = handle.get_tensor(name)
        except (SafetensorError, RuntimeError) as error:
            raise InputError(f"{file}: tensor {name!r} cannot be read ({error}); download the file again") from error
        if tensor.dtype not in FLOATS:
            raise InputError(f"{file}: tensor {name!r} is {tensor.dtype}; known are float32, float16, bfloat16")
        return tensor.to(device=self.device, dtype=self.dtype)

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            try:
                self._open[file] = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise InputError(f"{file}: is broken or truncated ({error}); download the file again") from error
        return self._open[file]

    def _nearest(self, name: str) -> str:
        leaf = name.split(".")[-2]
        if any(f"{leaf}_swiftkv" in known for known in self._file_of):
            return "this is a SwiftKV checkpoint; run it with the swift_kv plan of its config.json"
        return f"the files hold {len(self._file_of)} tensors, of another architecture or incomplete"


class Random:
    """Normal weights from a seed, norms at one, biases small; for speed, where only shapes matter."""

    def __init__(self, seed: int, *, dtype: torch.dtype, device: torch.device, std: float = 0.02) -> None:
        self.dtype = dtype
        self.device = device
        self.std = std
        self._generator = torch.Generator(device).manual_seed(seed)

    def has(self, name: str) -> bool:
        """Whether a plain checkpoint would have the tensor."""
        return "swiftkv" not in name

    def take(self, name: str, *shape: int) -> Tensor:
        """As `Source.take`; nothing is missing."""
        if "norm" in name:
            return (torch.zeros if name.endswith("bias") else torch.ones)(shape, dtype=self.dtype, device=self.device)
        noise = torch.empty(shape, dtype=self.dtype, device=self.device)
        return noise.normal_(0.0, self.std, generator=self._generator)


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = sorted({folder / name for name in _weight_map(index).values()})
        missing = [file for file in files if not file.exists()]
        if missing:
            raise InputError(f"{missing[0]}: is missing; {index.name} lists it")
        return files
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
    if pickles:
        raise InputError(f"{folder}: {pickles[0]} is a pickle, which can run code: refused; convert it to safetensors")
    raise InputError(f"{folder}: holds no *.safetensors file")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index}: is no index of safetensors files ({error!r})") from error


def _check_index(folder: Path, file_of: dict[str, Path]) -> None:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        absent = [(name, file) for name, file in _weight_map(index).items() if name not in file_of]
        if absent:
            name, file = absent[0]
            raise InputError(f"{folder / file}: tensor {name!r} is missing; {index.name} lists it there")
