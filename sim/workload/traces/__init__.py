"""Readers of the trace formats that users bring."""

from sim.workload.traces.read import read_trace

__all__ = ["read_trace"]
