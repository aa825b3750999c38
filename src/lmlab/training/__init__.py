"""The loop, optimizers, precision."""
