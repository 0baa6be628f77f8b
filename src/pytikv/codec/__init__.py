"""Pure encodings: memcomparable bytes, keys of each API version, varints and the hand-encoded hot messages."""
