"""`python -m mapft COMMAND ...` and `accelerate launch -m mapft COMMAND ...`."""

import sys

from mapft.cli import main

if __name__ == "__main__":
    sys.exit(main())
