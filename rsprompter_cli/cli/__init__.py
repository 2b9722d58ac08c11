"""The command line: signatures, help and one error table; commands only translate and call."""
