"""Imported once by the process whose forks are the ranks of a run; see `ranks.fork_ranks`."""

import tests.make.norms
import tests.make.tiny_models  # noqa: F401
