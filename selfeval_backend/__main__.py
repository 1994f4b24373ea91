"""The command line, as ``python -m selfeval_backend``."""

from selfeval_backend.cli.main import main

if __name__ == "__main__":
    main()
