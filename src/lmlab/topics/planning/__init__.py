"""How many seeds, documents and tokens a difference takes."""
