"""SAM without training: everything in an image, or one object for each prompt."""
