#!/usr/bin/env bash
# bash scripts/slurm_paper_speaker_identification.sh FOLDER ...
# FOLDER contains the unpacked VoxCeleb1: wav/ and iden_split.txt; see slurm_paper.sh.
exec bash "$(dirname "$0")/slurm_paper.sh" paper_speaker_identification "$@"
