"""One thread: shared machines punish more, and sums of floats keep their order."""

import torch
from transformers.utils import logging

torch.set_num_threads(1)
logging.disable_progress_bar()
