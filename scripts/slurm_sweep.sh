#!/usr/bin/env bash
# Run a sweep on a GPU cluster: each job gets two GPUs of one node, and shared models are trained once, first.
#
#     bash scripts/slurm_sweep.sh dataset=speech_commands dataset.root=/data/speech_commands output=/shared/outputs
#
# Start it on the login node, in tmux or screen: it submits the jobs, waits and prints the table. Ctrl-C cancels
# them. If the terminal is lost, the jobs go on. The same command later resubmits unfinished jobs and reuses the rest.
set -euo pipefail
cd "$(dirname "$0")/.."

python run.py 'method=glob(*)' task=sample,class seed=0,1,2 \
  trainer=gpu trainer.devices=2 trainer.threads=8 \
  launch=slurm launch.partition="${PARTITION:-null}" launch.account="${ACCOUNT:-null}" \
  launch.minutes=240 launch.memory_gb=32 launch.jobs_at_once=20 \
  "$@"
