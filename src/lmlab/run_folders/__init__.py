"""Runs: the run directory, its journal and its checkpoints."""
