"""Which addresses nothing is sent to."""

from __future__ import annotations

import pytest

from reconciler.adapters.addresses import is_loopback_name, why_forbidden


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.1.1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "::ffff:0:169.254.169.254",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
        "2002:a9fe:a9fe::1",
        "::a9fe:a9fe",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "240.0.0.1",
    ],
)
@pytest.mark.parametrize("may_be_loopback", [True, False])
def test_metadata_and_what_is_no_server_is_refused_whatever_is_allowed(address: str, may_be_loopback: bool) -> None:
    assert why_forbidden(address, may_be_loopback=may_be_loopback)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_reached_only_where_it_is_allowed_by_name(address: str) -> None:
    assert "this machine" in why_forbidden(address, may_be_loopback=False)
    assert why_forbidden(address, may_be_loopback=True) == ""


@pytest.mark.parametrize(
    "address", ["10.0.0.7", "192.168.1.9", "172.20.0.3", "93.184.215.14", "2606:4700::1", "fd1::9"]
)
def test_other_addresses_may_be_reached(address: str) -> None:
    assert why_forbidden(address, may_be_loopback=False) == ""


def test_names_of_this_machine_are_known() -> None:
    assert all(map(is_loopback_name, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback_name, ("localhost.example", "10.0.0.1", "", "hooks.example")))
