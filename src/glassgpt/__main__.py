"""Entry point of `python -m glassgpt`, which is also how torchrun starts it."""

from glassgpt.cli import main
from glassgpt.training.launch import leave

if __name__ == "__main__":
    try:
        main()
    except SystemExit as stop:
        leave(stop.code if isinstance(stop.code, int) else int(stop.code is not None))
    leave(0)
