"""`python -m rsprompter_cli` is the same as `rsp`."""

from rsprompter_cli.cli.app import main

if __name__ == "__main__":
    main()
