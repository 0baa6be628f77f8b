"""The wire: HTTP/2 and gRPC for both sides, and BatchCommands multiplexing. Imports neither half of the product."""
