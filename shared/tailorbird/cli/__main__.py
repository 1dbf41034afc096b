"""python -m tailorbird.cli: the `tailorbird` command where no script is installed."""

from tailorbird.cli.app import main

if __name__ == "__main__":
    main()
