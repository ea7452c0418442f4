"""`python -m glassgpt` is the command line."""

from glassgpt.cli import main

if __name__ == "__main__":
    main()
