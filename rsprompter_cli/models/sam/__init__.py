"""Segment Anything: its modules, weights, automatic masks and caches of its outputs."""
