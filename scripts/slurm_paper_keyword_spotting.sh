#!/usr/bin/env bash
# bash scripts/slurm_paper_keyword_spotting.sh FOLDER ...     FOLDER is where both archives of Speech Commands v0.01 are unpacked; see slurm_paper.sh
exec bash "$(dirname "$0")/slurm_paper.sh" paper_keyword_spotting "$@"
