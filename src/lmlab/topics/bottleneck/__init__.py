"""How much of the gradient of the logits passes the head of a model."""
