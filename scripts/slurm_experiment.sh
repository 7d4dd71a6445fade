#!/usr/bin/env bash
# Run one of the paper's experiments on a GPU cluster. Called by slurm_paper_keyword_spotting.sh and
# slurm_paper_speaker_identification.sh.
#
#     bash scripts/slurm_paper_keyword_spotting.sh FOLDER output=/shared/outputs
#     bash scripts/slurm_paper_keyword_spotting.sh FOLDER model=whisper_tiny seed=0     one part of it
#     bash scripts/slurm_paper_keyword_spotting.sh FOLDER plan=true                     what would be built
#
# Start it on the login node, in tmux or screen. The same command later resubmits unfinished jobs and reuses the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
experiment=$1
folder=${2:?"name the folder of the corpus first"}
shift 2

python run.py experiment="$experiment" dataset.root="$folder" \
  trainer=gpu trainer.threads=8 trainer.precision=bf16-mixed \
  launch=slurm launch.partition="${PARTITION:-null}" launch.account="${ACCOUNT:-null}" \
  launch.minutes=720 launch.memory_gb=48 launch.jobs_at_once=50 \
  "$@"
