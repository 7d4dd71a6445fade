"""The same as `python -m speechforget.report`: any number of runs as one table."""

import sys

from speechforget.report.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
