"""What transactional commands do to the versions of keys, as functions named as in TiKV."""
