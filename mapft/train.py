"""`accelerate launch -m mapft.train overrides...`: `mapft run` in one or many processes."""

import sys

from mapft.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
