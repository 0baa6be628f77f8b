"""A bare grpcio stub: unary RawGet with bytes made beforehand. What any client on grpcio pays before its own work."""

from __future__ import annotations

import sys

import floor
import grpc
import loop


def main() -> None:
    """Serve the one case, from `HOST:PORT` (the neutral server answers commands on every port)."""
    channel = grpc.insecure_channel(sys.argv[1])
    call = channel.unary_unary("/tikvpb.Tikv/RawGet")
    request = floor.field(1, floor.field(1, 1_000_000_000)) + floor.field(2, loop.KEYS[0])

    def get(n: int) -> None:
        for _ in range(n):
            call(request)

    get(1)
    loop.serve({"get": get}, version=grpc.__version__)


if __name__ == "__main__":
    main()
