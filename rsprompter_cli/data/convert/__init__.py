"""Converters, one file per pair of formats."""
