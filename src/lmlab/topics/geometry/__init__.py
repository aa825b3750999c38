"""How the embeddings and hidden states of a model fill their space."""
