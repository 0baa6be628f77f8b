"""The gRPC services of a store, over the storage commands."""
