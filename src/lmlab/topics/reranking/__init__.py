"""Continuations of a forward model, reranked by a backward one and judged by a third."""
