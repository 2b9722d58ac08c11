"""Checkpoints of the original RSPrompter code: import, export, key names, settings."""
