"""Entry point of `python -m glassgpt`, which is also how torchrun starts it."""

from glassgpt.cli import main
from glassgpt.training.launch import exit_process

if __name__ == "__main__":
    try:
        main()
    except SystemExit as stop:
        exit_process(stop.code if isinstance(stop.code, int) else int(stop.code is not None))
    exit_process(0)
