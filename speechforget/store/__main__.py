"""`python -m speechforget.store`: the store's commands."""

import sys

from speechforget.cli.store import main

if __name__ == "__main__":
    sys.exit(main())
