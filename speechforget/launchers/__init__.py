"""Launch sweeps for `launch=slurm` and `launch=submitit_local`."""
