"""The same mathematics, computed faster on CPUs (decisions 0010 and 0023)."""
