"""HTTP/2 as gRPC needs it: frames, headers, and a sans-IO connection for both roles. Pure: no I/O, no clock."""
