"""The tour: a small edition of every study."""
