"""TCP's metrics agree with what was sent, with what the kernel keeps by network and by connection, and with delays made.

The metrics are of the host, so a test looks at sizes and times that nobody else has, and takes what the host's own
network did as the room above.
"""

from __future__ import annotations

import select

from tests.kernel.live import Live
from tests.kernel.numbers.networks import HOST, Networks, protocol_counters, two_networks
from tests.workloads import Worker, eventually

MS = 1_000_000
SIZE = 54_321  # nobody else's


def test_bytes_are_those_that_were_sent(probes: Live) -> None:
    """40 times 54,321 bytes in either direction: not less, and not more than the host's own network moved besides."""
    with Worker(own_network=True) as worker, probes.watch(protocol_counters(HOST)) as watch:
        worker.call("tcp_transfer", count=40, size=SIZE)
    (host,) = watch.brackets
    for direction, octets in (("transmit", "OutOctets"), ("receive", "InOctets")):
        assert watch.change.count("tcp_size", low=SIZE, high=SIZE, direction=direction) == 40
        moved = watch.change.sum("tcp_bytes", direction=direction)
        assert 40 * SIZE <= moved <= 40 * SIZE + host.most[f"IpExt:{octets}"] + 65_536
        assert watch.change.count("tcp_size", direction=direction) == watch.change.sum(
            "tcp_packets", direction=direction
        )


def test_bytes_that_were_only_looked_at_are_not_received(probes: Live) -> None:
    """20 times peeked at and then taken: 20 and not 40."""
    with Worker(own_network=True) as worker, probes.watch() as watch:
        worker.call("tcp_peek", count=20, size=SIZE)
    assert watch.change.count("tcp_size", low=SIZE, high=SIZE, direction="receive") == 20


def test_a_late_reader_is_seen_as_packet_latency(probes: Live) -> None:
    """10 times 60 ms between the first byte and its reading, the second byte notwithstanding; never more than was seen."""
    with Worker(own_network=True) as worker, probes.watch() as watch:
        longest = worker.call("tcp_late_reader", count=10, seconds=0.06)["longest_ns"]
    assert watch.change.count("tcp_packet_latency", low=60 * MS, high=longest) >= 10


def test_connections_are_timed_whether_taken_or_refused(probes: Live) -> None:
    """20 of each: as many as the networks opened (ActiveOpens), none longer than the workload saw."""
    with (
        Worker(own_network=True) as worker,
        probes.watch(protocol_counters(worker.pid), protocol_counters(HOST)) as watch,
    ):
        longest = worker.call("tcp_connects", count=20)["longest_ns"]
    own, host = watch.brackets
    assert own.least["Tcp:ActiveOpens"] == 40
    assert watch.change.count("tcp_connect_latency", high=longest) >= 40
    assert watch.change.count("tcp_connect_latency") <= 40 + host.most["Tcp:ActiveOpens"] + 20


def test_round_trip_times_are_those_of_the_connection(probes: Live) -> None:
    """The kernel's own values for the connection (TCP_INFO) after each of 400 sends: that many samples lie in their range,
    a bucket's width (12.5 %) and a microsecond of rounding added, both for the mean and for the deviation.
    """
    with Worker(own_network=True) as worker, probes.watch() as watch:
        kept = worker.call("tcp_echo", count=200, size=1000)
    for metric, values in (("tcp_srtt", kept["rtt_us"]), ("tcp_jitter", kept["deviation_us"])):
        low, high = min(values) * 1000, (max(values) + 1) * 1000
        assert watch.change.count(metric, low=low / 1.125, high=high * 1.125) >= 400


def connected(networks: Networks) -> None:
    port = networks.far.call("tcp_listen", address=networks.far_address)["port"]
    networks.near.call("tcp_connect", address=networks.far_address, port=port)
    networks.far.call("tcp_accept")


def test_segments_sent_again_are_those_of_the_connection(probes: Live) -> None:
    """As many as the connection (TCP_INFO) and its network (RetransSegs) count; the host's network may add its own."""
    with two_networks() as networks:
        near = networks.near
        connected(networks)
        before = near.call("tcp_retransmits")["segments"]
        with probes.watch(protocol_counters(near.pid), protocol_counters(HOST)) as watch:
            networks.lose_answers(lose=True)
            for _ in range(3):
                near.call("tcp_send", size=20_000)
            eventually(lambda: near.call("tcp_retransmits")["segments"] >= before + 3, "segments are sent again")
            networks.lose_answers(lose=False)
            eventually(lambda: near.call("tcp_retransmits")["unacknowledged"] == 0, "all is acknowledged")
        known = near.call("tcp_retransmits")["segments"] - before
    own, host = watch.brackets
    assert own.least["Tcp:RetransSegs"] == known
    assert known <= watch.change.sum("tcp_retransmit") <= known + host.most["Tcp:RetransSegs"] + 5


def test_a_connection_takes_as_long_as_its_answer(probes: Live) -> None:
    """The first answer gets lost, the second comes a second later: as long as the workload waited for it."""
    with two_networks() as networks:
        port = networks.far.call("tcp_listen", address=networks.far_address)["port"]
        networks.lose_answers(lose=True)
        with probes.watch(protocol_counters(networks.near.pid)) as watch:
            networks.near.begin("tcp_connect", address=networks.far_address, port=port)
            select.select([], [], [], 0.2)  # the first attempt is to be lost
            networks.lose_answers(lose=False)
            spent = networks.near.end()["ns"]
    assert spent >= 900 * MS
    assert watch.change.count("tcp_connect_latency", low=0.9 * spent, high=spent) >= 1
    assert watch.change.sum("tcp_retransmit") >= watch.brackets[0].least["Tcp:RetransSegs"] >= 1
