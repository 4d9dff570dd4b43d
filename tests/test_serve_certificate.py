"""The certificate of https, and where this computer can be reached."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import eetoolkit as ee
from eetoolkit.serve.addresses import checked_host, host_names, host_of, lan_addresses, listen

pytest.importorskip("cryptography")

from cryptography import x509

from eetoolkit.serve.certificate import Certificate, certificate

HOSTS = ("192.0.2.7", "box.local", "localhost", "127.0.0.1")
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def read(made: Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(made.path.read_bytes())


def test_it_names_every_host_and_can_sign_no_other(tmp_path: Path) -> None:
    found = read(certificate(HOSTS, cache=tmp_path)).extensions
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"box.local", "localhost"}
    assert set(map(str, names.get_values_for_type(x509.IPAddress))) == {"192.0.2.7", "127.0.0.1"}
    assert not found.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not found.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_its_owner_alone_can_read_the_key(tmp_path: Path) -> None:
    made = certificate(HOSTS, cache=tmp_path)
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.path.parent.stat().st_mode) == 0o700


def test_it_is_the_same_again_and_in_another_order(tmp_path: Path) -> None:
    made = certificate(HOSTS, cache=tmp_path)
    again = certificate(HOSTS[::-1], cache=tmp_path)
    assert made.is_new
    assert (again.fingerprint, again.is_new) == (made.fingerprint, False)


def test_another_network_has_another_and_the_first_stays(tmp_path: Path) -> None:
    home = certificate(HOSTS, cache=tmp_path)
    work = certificate(("198.51.100.3", *HOSTS[1:]), cache=tmp_path)
    assert work.fingerprint != home.fingerprint
    assert certificate(HOSTS, cache=tmp_path).fingerprint == home.fingerprint


@pytest.mark.parametrize(("days", "is_new"), [(0, False), (380, False), (391, True), (500, True), (-3, True)])
def test_it_is_made_anew_before_it_ends(tmp_path: Path, days: int, is_new: bool) -> None:
    certificate(HOSTS, cache=tmp_path, now=NOW)
    assert certificate(HOSTS, cache=tmp_path, now=NOW + dt.timedelta(days=days)).is_new == is_new


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def open_to_all(path: Path) -> None:
    path.chmod(0o644)


def of_another_key(path: Path) -> None:
    other = certificate(("other.local",), cache=path.parent).path.read_bytes()
    key, end, _ = other.partition(b"-----END PRIVATE KEY-----\n")
    path.write_bytes(key + end + path.read_bytes().partition(end)[2])


def linked(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


@pytest.mark.parametrize("spoil", [cut, open_to_all, of_another_key, linked])
def test_one_that_was_touched_is_not_used(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    made = certificate(HOSTS, cache=tmp_path)
    spoil(made.path)
    again = certificate(HOSTS, cache=tmp_path)
    assert again.is_new
    assert stat.S_IMODE(again.path.lstat().st_mode) == 0o600
    assert not certificate(HOSTS, cache=tmp_path).is_new


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "certificates").write_text("a file")
    with pytest.raises(ee.EEToolkitError, match=r"cannot keep a certificate in .*: "):
        certificate(HOSTS, cache=tmp_path)


# Addresses


def test_addresses_are_those_of_networks() -> None:
    for address in lan_addresses():
        found = ipaddress.ip_address(address)
        assert not (found.is_loopback or found.is_unspecified)


def test_a_computer_without_a_network_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert lan_addresses() == ()


def test_private_addresses_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: None)
    monkeypatch.setattr(socket.socket, "getsockname", lambda _: ("127.0.0.1", 1))
    answers = [(2, 1, 0, "", (address, 0)) for address in ("8.8.4.4", "192.168.1.5", "127.0.1.1", "10.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answers)
    assert lan_addresses() == ("192.168.1.5", "10.0.0.2", "8.8.4.4")


@pytest.mark.parametrize(
    ("name", "found"),
    [("Box", ("box", "box.local")), ("box.lan", ("box.lan",)), ("localhost", ()), ("a b", ()), ("-x", ())],
)
def test_names_are_those_that_an_address_may_hold(
    monkeypatch: pytest.MonkeyPatch, name: str, found: tuple[str, ...]
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert host_names() == found


@pytest.mark.parametrize(
    ("header", "host"),
    [("Box.local:8443", "box.local"), ("box", "box"), ("[::1]:80", "[::1]"), ("a:b", "a:b"), (" x ", "x")],
)
def test_a_host_is_read_without_its_port(header: str, host: str) -> None:
    assert host_of(header) == host


@pytest.mark.parametrize("name", ["", "a/b", "a:1", "http://a", "a b", "-a", "a..b", "x" * 300])
def test_what_no_address_may_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        checked_host(name)


def test_a_port_that_is_taken_is_said() -> None:
    with listen(lan=False, port=None) as first:
        port = first.getsockname()[1]
        assert first.getsockname()[0] == "127.0.0.1"
        with pytest.raises(ee.EEToolkitError) as caught:
            listen(lan=False, port=port)
    assert str(caught.value) == (
        f"port {port} of 127.0.0.1 is taken by another program: choose another with --port, or leave --port out for a "
        "free one"
    )


def test_the_next_free_port_is_taken() -> None:
    with listen(lan=False, port=None) as first:
        port = first.getsockname()[1]
        with listen(lan=False, port=None, ports=(port,)) as second:
            assert second.getsockname()[1] != port


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may have every port")
def test_a_port_that_this_user_may_not_have_is_said() -> None:
    with pytest.raises(ee.EEToolkitError, match=r"port 1 of 127.0.0.1 \(Permission denied\)"):
        listen(lan=False, port=1)
