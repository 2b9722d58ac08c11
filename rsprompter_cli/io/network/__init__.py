"""Downloads and the first request to a server."""
