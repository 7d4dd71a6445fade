#!/usr/bin/env bash
# Run one comparison on two nodes of four GPUs, one rank per GPU, without Hydra's launcher.
#
#     sbatch --partition=gpu scripts/slurm_multinode.sh dataset=speech_commands dataset.root=/data/speech_commands \
#       output=/shared/outputs
#
# sbatch options before the script's name override those below; trainer.nodes and trainer.devices must match them.
# `launch=slurm trainer.nodes=2` does the same.
#SBATCH --job-name=speechforget
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
set -euo pipefail

# Requeue two minutes before the time limit, and on preemption; the job then resumes from the last epoch.
trap 'scontrol requeue "$SLURM_JOB_ID"; wait' USR2

# SLURM copies this script, so the checkout is where sbatch was called. Since 22.05 srun does not inherit the number of
# cores.
cd "$SLURM_SUBMIT_DIR"
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --wait=60 \
  python run.py trainer=gpu trainer.nodes=2 trainer.devices=4 trainer.threads=8 "$@" &
wait $!
