"""PD: timestamps, ids, the map of regions and stores, keyspaces, GC safe points, and the services that show them."""
