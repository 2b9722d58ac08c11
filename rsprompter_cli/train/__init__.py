"""Training: the run, the engine, the schedule, resuming, logs."""
