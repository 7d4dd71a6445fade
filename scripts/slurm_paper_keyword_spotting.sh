#!/usr/bin/env bash
# bash scripts/slurm_paper_keyword_spotting.sh FOLDER ...
# FOLDER contains both unpacked archives of Speech Commands v0.01; see slurm_paper.sh.
exec bash "$(dirname "$0")/slurm_paper.sh" paper_keyword_spotting "$@"
