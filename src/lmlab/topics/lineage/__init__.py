"""Which models come from which: trees of their similarities, held against a known lineage."""
