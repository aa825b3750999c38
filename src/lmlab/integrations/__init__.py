"""Adapters to other programs; nothing but the commands imports them."""
