"""Measure the time of a lookup and the memory of a grant, with a million grants.

The targets: less than 1 us per lookup, and less than 260 bytes per grant including identity and keys.

  python benchmarks/grants.py [GRANTS]
"""

from __future__ import annotations

import argparse
import ipaddress
import random
import statistics
import time
import tracemalloc

from mailauth.addresses import Address
from mailauth.grants import GrantTable

ROUNDS = 9
LOOKUPS = 20_000
SESSIONS = 500


def ipv4(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def ipv6(number: int) -> str:
    return f"2001:db8::{number >> 16:x}:{number & 0xFFFF:x}"


def fill(grants: int, identities: int) -> GrantTable:
    table = GrantTable(max_grants=grants)
    for number in range(grants):
        table.grant(ipv4(number), f"user{number % identities}", now=float(number) / 1000)
    return table


def bytes_per_grant(grants: int, identities: int) -> float:
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    table = fill(grants, identities)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(table)


def median_lookup(table: GrantTable, addresses: list[Address]) -> float:
    """Return microseconds per lookup, without the time of the loop itself."""
    find, now, times = table.find, 1.0, []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in addresses:
            pass
        empty = time.perf_counter() - start
        start = time.perf_counter()
        for address in addresses:
            find(address, now)
        times.append((time.perf_counter() - start - empty) / len(addresses) * 1e6)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "grants", nargs="?", type=int, default=1_000_000, metavar="GRANTS", help="number of grants (default: 1,000,000)"
    )
    grants: int = parser.parse_args().grants
    print(f"{grants:,} grants")
    print(f"  {bytes_per_grant(grants, grants):6.0f} bytes per grant, each of a different identity")
    print(f"  {bytes_per_grant(grants, grants // 2):6.0f} bytes per grant, two of each identity")
    table = fill(grants, 1000)
    for number in range(grants // 10):
        table.grant(ipv6(number), f"user{number % 1000}", now=float(grants) / 1000)
    draw = random.Random(1).randrange
    there = [draw(grants // 5, grants) for _ in range(LOOKUPS)]
    # A server looks up the address of each RCPT; an address not used recently is not in the CPU cache.
    samples: dict[str, list[Address]] = {
        f"IPv4 text, granted, {SESSIONS} addresses in turn": [
            ipv4(number) for _ in range(40) for number in there[:SESSIONS]
        ],
        f"IPv4 text, granted, {LOOKUPS} addresses in turn": [ipv4(number) for number in there],
        "IPv4 text, not granted": [f"11.{number & 255}.{number >> 8 & 255}.1" for number in there],
        "IPv4 value, granted": [ipaddress.IPv4Address(ipv4(number)) for number in there],
        "IPv6 value, granted": [ipaddress.IPv6Address(ipv6(draw(grants // 10))) for _ in there],
        "IPv6 text, granted": [ipv6(draw(grants // 10)) for _ in there],
    }
    for name, addresses in samples.items():
        print(f"  {median_lookup(table, addresses):6.2f} us per lookup (median), {name}")
    start = time.perf_counter()
    revoked = table.revoke_identity("user1")
    print(f"  {(time.perf_counter() - start) * 1e3:6.0f} ms to revoke an identity ({revoked} grants)")


if __name__ == "__main__":
    main()
