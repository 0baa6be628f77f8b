"""Messages of kvproto, generated from proto/pytikv/proto by tools/gen_proto.py. Never edited by hand."""
