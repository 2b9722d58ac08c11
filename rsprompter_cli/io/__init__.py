"""Files: atomic writing, the checkpoint folder, downloads."""
