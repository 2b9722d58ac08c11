"""From joined objects to files."""
