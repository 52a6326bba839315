"""Where calls may go."""

from __future__ import annotations

from pathlib import Path

import pytest
from handrail.contracts import Contracts
from handrail.flow import Flows
from handrail_action.addresses import Forbidden, check_address, check_base_url

ROOT = Path(__file__).parents[3]
INSIDE = [
    "127.0.0.1",
    "127.8.8.8",
    "::1",
    "::ffff:127.0.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "fd00::1",
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "fe80::1",
    "fe80::1%eth0",
    "100.100.100.200",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::",
]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside_are_refused(address: str) -> None:
    with pytest.raises(Forbidden):
        check_address(address, loopback=False, private=False)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"])
def test_public_addresses_may_be_called(address: str) -> None:
    check_address(address, loopback=False, private=False)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_may_be_called_where_the_file_allows_it(address: str) -> None:
    check_address(address, loopback=True, private=False)
    with pytest.raises(Forbidden, match="loopback: true"):
        check_address(address, loopback=False, private=True)


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "fd00::1", "::ffff:10.0.0.1"])
def test_private_addresses_may_be_called_where_the_file_allows_it(address: str) -> None:
    check_address(address, loopback=False, private=True)
    with pytest.raises(Forbidden, match="private: true"):
        check_address(address, loopback=True, private=False)


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "100.100.100.200"])
def test_metadata_and_link_local_addresses_are_never_called(address: str) -> None:
    with pytest.raises(Forbidden):
        check_address(address, loopback=True, private=True)


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_the_unspecified_address_is_this_machine(address: str) -> None:
    with pytest.raises(Forbidden):
        check_address(address, loopback=False, private=True)


@pytest.mark.parametrize("url", ["http://10.0.0.1/x", "http://[::1]:8080", "http://169.254.169.254"])
def test_a_literal_address_in_the_file_is_checked_at_the_start(url: str) -> None:
    billing = Flows.load(ROOT / "flows", ROOT / "systems", Contracts.load(ROOT / "contracts")).systems["billing"]
    refusing = billing.model_copy(
        update={"base_url": url, "allow": billing.allow.model_copy(update={"loopback": False})}
    )
    with pytest.raises(Forbidden):
        check_base_url(refusing)
    check_base_url(refusing.model_copy(update={"base_url": "https://billing.example.com"}))
