"""Numerics: arrays only; nothing here knows of models or text."""
