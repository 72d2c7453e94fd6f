"""A small deployment that every test of the study shares: runs take milliseconds."""

import pytest

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.plans.catalogue import model_named


@pytest.fixture(scope="session")
def h200() -> Deployment:
    """Llama-3.1-8B on one H200."""
    return Deployment(model_named("llama-3.1-8b"), gpu_named("h200"))
