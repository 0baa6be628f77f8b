"""Administration of transactional data: garbage collection, locks, ranges, regions, and a look at the versions."""
