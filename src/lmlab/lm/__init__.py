"""The one door to a model: weights, tokenizer, reading, order, head, states and embeddings."""
