"""Addresses of application entities, and files of TLS."""

from __future__ import annotations

import ssl

import pytest

from XViewSynthLib import InputError
from XViewSynthLib.node.settings import Peer, Tls, parse_address, parse_title, parse_url


class TestPeer:
    @pytest.mark.parametrize(
        ("text", "peer"),
        [
            ("PACS@10.0.0.1:104", Peer("PACS", "10.0.0.1", 104)),
            ("My PACS@pacs.hospital.org:11112", Peer("My PACS", "pacs.hospital.org", 11112)),
            ("A@B@host:1", Peer("A@B", "host", 1)),
            ("PACS@[::1]:104", Peer("PACS", "::1", 104)),
        ],
    )
    def test_has_title_host_and_port(self, text, peer):
        assert Peer.parse(text, has_port=True) == peer

    def test_a_caller_has_no_port(self):
        assert Peer.parse("CT1@scanner", has_port=False) == Peer("CT1", "scanner")
        assert str(Peer.parse("CT1@scanner", has_port=False)) == "CT1@scanner"

    @pytest.mark.parametrize(
        "text",
        ["PACS", "PACS@host", "@host:1", "PACS@:1", "PACS@host:70000", "SEVENTEEN LETTERS@host:1", "A\\B@host:1"],
    )
    def test_other_texts_are_refused(self, text):
        with pytest.raises(ValueError, match="must be AET@HOST:PORT"):
            Peer.parse(text, has_port=True)

    def test_a_port_is_refused_where_none_belongs(self):
        with pytest.raises(ValueError, match="must be AET@HOST$"):
            Peer.parse("CT1@scanner:104", has_port=False)


class TestAddress:
    def test_has_host_and_port(self):
        assert parse_address("0.0.0.0:11112") == ("0.0.0.0", 11112)
        assert parse_address("[::]:104") == ("::", 104)

    @pytest.mark.parametrize("text", ["host", "host:", ":1", "a b:1", "host:99999"])
    def test_other_texts_are_refused(self, text):
        with pytest.raises(ValueError, match="must be HOST:PORT"):
            parse_address(text)


class TestUrl:
    def test_is_kept_without_its_last_slash(self):
        assert parse_url("https://pacs.hospital.org/dicom-web/") == "https://pacs.hospital.org/dicom-web"

    @pytest.mark.parametrize("text", ["pacs", "ftp://pacs", "https://", "https://me:secret@pacs", "http://a b"])
    def test_other_texts_are_refused(self, text):
        with pytest.raises(ValueError, match="must be a URL"):
            parse_url(text)


class TestTitle:
    def test_is_kept(self):
        assert parse_title("XVIEWSYNTH") == "XVIEWSYNTH"

    @pytest.mark.parametrize("text", ["", " A", "A ", "SEVENTEEN LETTERS", "A\\B", "Ä", "A\nB"])
    def test_other_texts_are_refused(self, text):
        with pytest.raises(ValueError, match="must be an AE title"):
            parse_title(text)


def test_files_that_are_no_certificates_are_refused(tmp_path):
    file = tmp_path / "file.pem"
    for content in (None, "nothing"):
        if content:
            file.write_text(content)
        with pytest.raises(InputError, match="check --tls-cert, --tls-key and --tls-ca"):
            Tls(file, file, file).context(ssl.Purpose.CLIENT_AUTH)
