"""`python -m backend`: the command line."""

import sys

from backend.runtime.collector import nothing_is_garbage

if __name__ == "__main__":
    with nothing_is_garbage():
        from backend.cli.main import main
    sys.exit(main())
