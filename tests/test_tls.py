"""Shards over TLS: refused where the certificate isn't trusted, read where it is."""

import shutil
import socket
import subprocess

import pytest

from dvae.data.http import HttpStore
from dvae.data.manifest import find_split
from dvae.data.patience import Patience
from dvae.data.reader import Reader
from dvae.data.storage import StoreError
from tests.fault_server import serving
from tests.faults.shard_files import make_shards, picture

PATIENCE = Patience(total=8, first_pause=0.002, longest_pause=0.01)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Of 127.0.0.1, signed by itself, with its key, in one file."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl command to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += " -subj /CN=dvae-test -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-keyout", path, "-out", path.with_suffix(".crt")], check=True
    )
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


@pytest.fixture(scope="module")
def server(certificate, tmp_path_factory):
    folder = make_shards(tmp_path_factory.mktemp("served") / "data")
    with serving(folder, certificate=certificate) as server:
        yield server


def store_of(server, host="127.0.0.1"):
    return HttpStore(f"https://dog:hushhush@{host}:{server.server_address[1]}/data", PATIENCE)


def test_a_certificate_that_nobody_vouches_for_is_refused_with_the_reason_and_the_remedy(server):
    with pytest.raises(
        StoreError, match=r"self-signed certificate\): .* by SSL_CERT_FILE"
    ) as raised:
        find_split(store_of(server), "train")
    assert "gave up" not in str(raised.value)  # nor is it tried again
    assert "hushhush" not in str(raised.value)
    assert server.seen == []  # so no secret was sent


def test_with_the_certificate_named_the_shards_are_read_and_other_hosts_refused(
    server, certificate, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))
    split = find_split(store_of(server), "train")
    assert Reader(split).picture(5).data == picture(5)
    with pytest.raises(StoreError, match="Hostname mismatch"):
        find_split(store_of(server, "localhost"), "train")


def test_a_server_without_tls_is_named_as_that(server):
    with serving(server.folder) as plain, pytest.raises(StoreError, match=r"TLS failed \("):
        store_of(plain).size("manifest.json")


def test_a_connection_that_breaks_in_the_handshake_is_tried_again(server, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))
    handler, begun = server.RequestHandlerClass, []

    class Hasty(handler):
        def setup(self):
            begun.append(self)
            if len(begun) == 1:
                self.request.shutdown(socket.SHUT_RDWR)
            super().setup()

    monkeypatch.setattr(server, "RequestHandlerClass", Hasty)
    assert store_of(server).size("manifest.json") > 0
    assert len(begun) == 2
