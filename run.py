"""Run speechforget from a checkout: `python run.py` is the command `speechforget` of an installed package."""

from speechforget.cli.command import main

if __name__ == "__main__":
    main()
