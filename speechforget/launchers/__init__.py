"""The mechanics of `launch=slurm` and `launch=submitit_local`."""
