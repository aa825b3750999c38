"""What all studies share: corpora, run requests, parts, workers, status."""
