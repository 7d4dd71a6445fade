#!/usr/bin/env bash
# Run an experiment of conf/experiment on a GPU cluster.
#
#     bash scripts/slurm_experiment.sh paper_keyword_spotting FOLDER output=/shared/outputs
#     bash scripts/slurm_experiment.sh paper_keyword_spotting FOLDER model=whisper_tiny seed=0     one part of it
#     bash scripts/slurm_experiment.sh unslu_bench FOLDER plan=true                                what would be built
#
# FOLDER contains the corpus as its archives unpack: docs/experiments.md says which. Start it on the login node, in tmux
# or screen. The same command later resubmits unfinished jobs and reuses the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
experiment=${1:?"name the experiment first: a file of conf/experiment, without .yaml"}
folder=${2:?"name the folder of the corpus second"}
shift 2

python run.py experiment="$experiment" dataset.root="$folder" \
  trainer=gpu trainer.threads=8 trainer.precision=bf16-mixed \
  launch=slurm launch.partition="${PARTITION:-null}" launch.account="${ACCOUNT:-null}" \
  launch.minutes=720 launch.memory_gb=48 launch.jobs_at_once=50 \
  "$@"
