"""The client half: connections, PD, regions and stores, the request path, and the raw clients on top."""
