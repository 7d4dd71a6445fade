"""Run the command `python -m speechforget.report`."""

import sys

from speechforget.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
