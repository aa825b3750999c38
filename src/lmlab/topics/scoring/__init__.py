"""How well a model predicts: nats per token on a store, zero-shot tasks, distances to a floor."""
