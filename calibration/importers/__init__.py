"""Readers of other people's measurements: kernel tables, and the result files of load generators.

`calibration.importers.detect.read_result` reads any of the result files; each tool has a module of its own.
"""
