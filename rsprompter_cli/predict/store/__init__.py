"""What a prediction keeps on disk, so that a run that was stopped can go on."""
