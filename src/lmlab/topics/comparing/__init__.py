"""Any models on the same text or the same tasks: differences, ranking, and where they lie."""
