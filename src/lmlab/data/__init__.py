"""Text to ids: documents, tokenizers, token store, windows, order."""
