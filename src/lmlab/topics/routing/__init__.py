"""A gate between two finished models: for each token, how much to believe which."""
