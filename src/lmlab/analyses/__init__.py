"""Analyses: one file each; subject.py is the only door to a model."""
