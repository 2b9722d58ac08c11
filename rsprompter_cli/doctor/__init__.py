"""`rsp doctor`: whether this machine, its libraries and the bundled model work."""
