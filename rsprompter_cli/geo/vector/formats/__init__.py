"""Vector files before a driver opens them: their format, their limits, their text."""
