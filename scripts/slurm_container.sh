#!/usr/bin/env bash
# Run a sweep in a container if the login node has no Python: an array with one job per seed. The jobs share originals
# and oracles through the output folder.
#
#     IMAGE=speechforget.sif sbatch --partition=gpu scripts/slurm_container.sh 'method=glob(*)' output=/shared/outputs
#
# With enroot (pyxis), replace the last srun line by
#     srun --cpus-per-task=8 --container-image="$IMAGE" --container-mounts="$PWD,/shared" \
#       --container-workdir="$PWD" python run.py -m ... &
#SBATCH --job-name=speechforget
#SBATCH --array=0-2
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --output=slurm-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
set -euo pipefail

# This runs outside the container, where scontrol exists: requeue before the time limit, then resume from the last
# epoch.
trap 'scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; wait' USR2

cd "$SLURM_SUBMIT_DIR"
run=(python run.py -m trainer=gpu trainer.threads=8 seed="$SLURM_ARRAY_TASK_ID" "$@")
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  apptainer exec --nv --bind "$PWD,/shared" "${IMAGE:?name the image file}" "${run[@]}" &
wait $!
