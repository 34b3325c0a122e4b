"""``python -m cellflow.cli``."""

from cellflow.cli.commands import main

if __name__ == "__main__":
    main()
