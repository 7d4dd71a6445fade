"""Run the commands of `python -m speechforget.store`."""

import sys

from speechforget.cli.store import main

if __name__ == "__main__":
    sys.exit(main())
