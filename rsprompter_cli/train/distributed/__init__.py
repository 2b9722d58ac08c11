"""A run in several processes: ranks, launcher, DDP and DeepSpeed (decision 0014)."""
