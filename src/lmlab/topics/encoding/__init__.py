"""How the output embedding holds token probability: read, steer, prune, watched as it forms."""
