"""Who runs the shards of a scene: processes of this machine, or Ray actors."""
