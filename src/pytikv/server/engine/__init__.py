"""Storage engines: an ordered map of bytes in named column families, atomic batches, snapshots."""
