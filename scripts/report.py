"""The same as `python -m speechforget.report`: any number of runs as one table."""

import sys

from speechforget.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
