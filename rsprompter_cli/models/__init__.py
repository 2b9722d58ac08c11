"""The networks and their blocks."""
