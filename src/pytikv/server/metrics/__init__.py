"""What a store and PD count about themselves, and the pages that show it. See `model`."""
