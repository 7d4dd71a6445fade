"""`python run.py` compares an original, an oracle and an unlearned speech model; `python run.py --help` says what can be chosen."""

import hydra
from omegaconf import DictConfig

from speechforget.cli.main import guard, job


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float:
    """One job of the command line."""
    return job(config)


if __name__ == "__main__":
    guard(main)
