#!/usr/bin/env bash
# A sweep on a GPU cluster: each job gets one node and two of its GPUs, and the models that jobs share are trained once, before them.
#
#     bash scripts/slurm_sweep.sh dataset=speech_commands dataset.root=/data/speech_commands output=/shared/outputs
#
# Start it on the login node, in tmux or screen: it hands in the jobs, waits for them and prints the table. Ctrl-C cancels them. Should the terminal
# be lost, the jobs go on; the same command later hands in again what is not finished, and finds the rest.
set -euo pipefail
cd "$(dirname "$0")/.."

python run.py 'method=glob(*)' task=sample,class seed=0,1,2 \
  trainer=gpu trainer.devices=2 trainer.threads=8 \
  launch=slurm launch.partition="${PARTITION:-null}" launch.account="${ACCOUNT:-null}" launch.minutes=240 launch.memory_gb=32 launch.jobs_at_once=20 \
  "$@"
