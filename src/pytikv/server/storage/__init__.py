"""Commands on an engine, typed and below protobuf: what the gRPC services and the embedded client both call."""
