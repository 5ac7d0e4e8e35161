"""``python -m eigenmill``: the command line."""

from eigenmill.jobs.cli import main

if __name__ == "__main__":
    main()
