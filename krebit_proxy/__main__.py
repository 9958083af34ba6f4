"""`python -m krebit_proxy` is the same as the console script."""

import sys

from krebit_proxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
