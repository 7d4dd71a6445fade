"""Plugins of Hydra: the launchers of `launch=slurm` and `launch=submitit_local` (docs/slurm.md), a sweeper, `my_conf`.

Hydra imports these modules at the start of every command, so they import nothing slow.
"""
