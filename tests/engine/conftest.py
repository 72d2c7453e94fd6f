"""One thread: shared machines punish more, and sums of floats keep their order. What needs a GPU says so."""

import pytest
import torch
from transformers.utils import logging

torch.set_num_threads(1)
logging.disable_progress_bar()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests marked `gpu` where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU (make test-gpu)"))
