"""Packets and bytes are those of the devices, drops those of the protocols' own counters.

The metrics are of the host: at least what the test's own networks did, at most that and what the host's network did.
"""

from __future__ import annotations

from tests.kernel.live import Live
from tests.kernel.numbers.networks import HOST, device_counters, protocol_counters, two_networks
from tests.workloads import Worker


def test_packets_and_bytes_are_those_of_the_devices(probes: Live) -> None:
    """Exactly, Ethernet headers aside, which are on at this place when sending and off when receiving; above by what
    was under way at the readings, a packet in each network at most, and 64 kB for networks of others.
    """
    with two_networks() as networks:
        own = device_counters(networks.near.pid, networks.far.pid)
        every = device_counters(networks.near.pid, networks.far.pid, HOST)
        with probes.watch(own, every) as watch:
            networks.near.call("udp_flood", count=1000, size=700, address=networks.far_address, port=9)
    least, most = watch.brackets
    for direction in ("receive", "transmit"):
        packets = watch.change.sum("network_packets", direction=direction)
        size = watch.change.sum("network_bytes", direction=direction)
        assert least.least[f"{direction} packets"] <= packets <= most.most[f"{direction} packets"] + 100
        assert least.least[f"{direction} bytes"] <= size <= most.most[f"{direction} bytes"] + 65_536
    assert least.least["transmit bytes"] >= 1000 * 700
    assert watch.change.sum("network_transmit_complete") == watch.change.sum("network_packets", direction="transmit")


def test_datagrams_that_find_no_room_are_drops(probes: Live) -> None:
    """As many as the protocol counts (RcvbufErrors); the rest of the host may add 5 % + 20."""
    with Worker(own_network=True) as worker, probes.watch(protocol_counters(worker.pid)) as watch:
        worker.call("udp_flood", count=2000, size=1000)
    (udp,) = watch.brackets
    dropped = watch.change.sum("network_drop")
    assert udp.least["Udp:RcvbufErrors"] >= 1900
    assert udp.least["Udp:RcvbufErrors"] <= dropped <= 1.05 * udp.most["Udp:RcvbufErrors"] + 20


def test_packets_without_a_route_are_drops(probes: Live) -> None:
    """Answers of a network that has lost its way back: as many as the protocol counts (OutNoRoutes)."""
    with two_networks() as networks:
        port = networks.far.call("tcp_listen", address=networks.far_address)["port"]
        networks.near.call("tcp_connect", address=networks.far_address, port=port)
        networks.far.call("tcp_accept")
        networks.lose_answers(lose=True)
        with probes.watch(protocol_counters(networks.far.pid)) as watch:
            for _ in range(5):
                networks.near.call("tcp_send", size=1000)
    (far,) = watch.brackets
    assert far.least["Ip:OutNoRoutes"] >= 1
    assert watch.change.sum("network_drop") >= far.least["Ip:OutNoRoutes"]
