"""Counting: n-gram models, the baseline of every trained one."""
