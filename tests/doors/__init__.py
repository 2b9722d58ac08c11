"""Files from strangers: every kind of damage and malice ends in one line, in bounded time and memory."""
