"""Versions of keys: records byte for byte as TiKV lays them out, and how they are read."""
