"""What the link to a server costs, and what runs behind it, as a profile keeps it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from eetoolkit_runtime.printable import spell_figure
from eetoolkit_runtime.profiling.latency import Count, Latency

Rate = Annotated[float, msgspec.Meta(gt=0, le=1e15)]


class LinkCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it costs to go on at a server, measured from this machine over one kept connection.

    Attributes:
        at: The exit behind which the plan was cut.
        protocol: How the server was asked.
        round_trip: A request that moves next to nothing and computes nothing.
        request: A whole request for one row, from this machine and back.
        server: What of it the server takes: `request` less a round trip and less what its bytes take.
        sent_bytes: What crosses to the server for a row: HTTP's head and body, or gRPC's tensors.
        received_bytes: And back.
        up_mbit_s: Megabits a second to the server, by what a larger request takes longer; None: too many to be told
            beside the round trip's own spread.
        down_mbit_s: From the server, likewise.
        encoded: How many bytes the tensors took for one of theirs: more than 1 as JSON's numbers.
    """

    at: str
    protocol: Literal["rest", "grpc"]
    round_trip: Latency
    request: Latency
    server: Latency
    sent_bytes: Count
    received_bytes: Count
    up_mbit_s: Rate | None = None
    down_mbit_s: Rate | None = None
    encoded: Rate = 1.0

    @property
    def round_trip_ms(self) -> float:
        """The median round trip."""
        return self.round_trip.p50_ms

    @property
    def server_ms(self) -> float:
        """What the server takes for a row, the median."""
        return self.server.p50_ms

    def __str__(self) -> str:
        both = ("up", self.up_mbit_s), ("down", self.down_mbit_s)
        rates = [f"{spell_figure(rate)} Mbit/s {way}" for way, rate in both if rate]
        moved = f"{self.sent_bytes} bytes there, {self.received_bytes} back"
        request, trip, server = map(spell_figure, (self.request.p50_ms, self.round_trip_ms, self.server_ms))
        times = f"a request {request} ms, of which {trip} ms are a round trip and {server} ms the server's"
        return ", ".join((times, moved, *rates))

    def expected_ms(self, sent_bytes: int, received_bytes: int) -> float:
        """Returns what so many bytes take beside the server's work: the round trip, and bytes over bandwidth."""
        return self.round_trip_ms + took_ms(sent_bytes, self.up_mbit_s) + took_ms(received_bytes, self.down_mbit_s)


def took_ms(size_bytes: int, mbit_s: float | None) -> float:
    """Returns what bytes take on a link; nothing where it is too fast to be told."""
    return 0.0 if mbit_s is None else size_bytes * 8 / mbit_s / 1e3
