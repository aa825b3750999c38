"""Training runs: the list of them, the page of one, and how far they are."""
