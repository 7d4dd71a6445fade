"""Hydra's way to clusters: `launch=slurm` and `launch=submitit_local` (docs/slurm.md).

Hydra imports every module here whose name has no leading underscore at the start of every command, so `launcher.py` imports nothing that takes time.
"""
