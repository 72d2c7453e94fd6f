"""Between host and device without waiting: arrays go through pinned memory, results land beside an event.

A copy from pageable memory may make the driver wait for everything queued on the stream, and reading a device tensor
always does. The loop does neither while it builds the next iteration. On a CPU both directions are no copies at all.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """The array as a tensor there; a GPU's copy is only queued, and its source may be forgotten."""
    return move(torch.from_numpy(np.ascontiguousarray(array)), device)


def move(host: Tensor, device: torch.device) -> Tensor:
    """The same for a tensor in host memory."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)


class Landing:
    """Tensors on their way to the host, and the moment when they are there."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = list(tensors)
        if device.type == "cuda":
            pinned = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
            self._host = [there.copy_(here, non_blocking=True) for there, here in zip(pinned, tensors)]
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def wait(self) -> list[Tensor]:
        """The tensors on the host, once everything queued before them is done."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
