"""Benchmarks: each measures rtsync side by side with something, in one run. ``python -m benchmarks.NAME [--json]``."""
