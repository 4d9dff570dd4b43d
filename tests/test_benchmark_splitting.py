"""The benchmark of splitting: its slow link passes every byte, and its slower device is slower in all that counts."""

from __future__ import annotations

import hashlib
import socket
import threading

import msgspec
import numpy as np
import pytest
from plans import chain

import eetoolkit as ee
from benchmarks.slow_link import slow_link
from benchmarks.splitting_process import _crossing, _slowed


def test_a_slow_link_passes_all_bytes_in_order_each_way() -> None:
    sent = np.random.default_rng(0).bytes(1 << 20)

    def echo() -> None:
        connection, _ = listening.accept()
        with connection:
            while piece := connection.recv(1 << 16):
                connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=echo)
        thread.start()
        with (
            slow_link(listening.getsockname()[1], 1.0, 1000.0) as port,
            socket.create_connection(("127.0.0.1", port)) as client,
        ):
            writing = threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR)))
            writing.start()
            got = b"".join(iter(lambda: client.recv(1 << 16), b""))
            writing.join()
        thread.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()


def test_a_slower_device_takes_so_many_times_as_long_and_has_the_same_shares(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    bundle = ee.load(chain(0.5, 0.5).save(tmp_path_factory.mktemp("slow") / "chain.ee"))
    x = np.random.default_rng(0).uniform(0, 1, (6, 4)).astype(np.float32)
    found = ee.profile(bundle, x, threads=1, seconds=0)
    slow = _slowed(found, 20)
    for name, cost in found.segments.items():
        own, other = cost.latency, slow.segments[name].latency
        assert own is not None
        assert other is not None
        assert (other.robust_ms, other.runs) == (pytest.approx(20 * own.robust_ms), own.runs)
        assert other.quantiles_ms == pytest.approx([20 * each for each in own.quantiles_ms])
    assert slow.overhead_us == pytest.approx(20 * found.overhead_us)
    assert {name: cost.share for name, cost in slow.exits.items()} == {n: cost.share for n, cost in found.exits.items()}
    assert msgspec.structs.replace(slow, segments={}, exits={}, overhead_us=0) == msgspec.structs.replace(
        found, segments={}, exits={}, overhead_us=0
    )


def test_a_path_crosses_where_a_segment_behind_the_cut_is_on_it() -> None:
    plan = chain(0.5, 0.5).plan()
    paths = [("segment0",), ("segment0", "segment1"), ("segment0", "segment1", "segment2")]
    assert _crossing(plan, "exit0", paths).tolist() == [False, True, True]
    assert _crossing(plan, "exit1", paths).tolist() == [False, False, True]
