"""``python -m mi_superposition.cli``."""

import sys

from mi_superposition.cli import main

if __name__ == "__main__":
    sys.exit(main())
