"""The command line of the node, its page and its metrics, as users and monitors see them."""

from __future__ import annotations

import json
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodes import Inbox, NodeProcess, send
from XViewSynthLib import InputError
from XViewSynthLib.cli import node as command
from XViewSynthLib.cli.main import main
from XViewSynthLib.node.queue import FAILED, Queue
from XViewSynthLib.node.settings import Tls
from XViewSynthLib.node.status import describe, metrics, status_page


@pytest.fixture
def queue(tmp_path) -> Iterator[Queue]:
    """A queue with a series that has failed, and one that waits."""
    queue = Queue(tmp_path)
    queue.add("bad", "a", 2 * 10**9)
    series = queue.next_complete(0)
    queue.begin(series)
    queue.end(series, FAILED, "Its <slices> are missing.")
    queue.add("good", "b", 10**9)
    yield queue
    queue.close()


class TestStatus:
    def test_is_printed(self, queue, tmp_path, capsys):
        assert main(["node", "status", "--folder", str(tmp_path)]) == 0
        printed = capsys.readouterr().out
        assert "1 receiving, 0 enhancing, 0 delivering, 0 done, 0 skipped, 1 failed" in printed
        assert "Waiting: 1.00 GB." in printed
        assert "bad: failed: Its <slices> are missing." in printed

    def test_is_printed_as_json(self, queue, tmp_path, capsys):
        assert main(["node", "status", "--folder", str(tmp_path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == queue.summary()

    def test_of_another_folder_is_refused(self, tmp_path, capsys):
        assert main(["node", "status", "--folder", str(tmp_path)]) == 2
        assert "holds no queue of a node" in capsys.readouterr().err

    def test_names_attempts(self, queue):
        queue.retry(queue.next_complete(0), "receiving", 0, "")
        series = queue.next_complete(0)
        queue.begin(series)
        queue.retry(series, "receiving", 0, "It crashed.")
        assert "good: receiving, attempt 1: It crashed." in describe(queue.summary())


class TestPage:
    @pytest.fixture
    def page(self, queue) -> Iterator[str]:
        with status_page(0, queue) as address:
            yield address

    def test_shows_the_queue(self, page):
        with urllib.request.urlopen(page, timeout=60) as answer:
            text = answer.read().decode()
            assert answer.headers["Cache-Control"] == "no-store"
            assert "Python" not in answer.headers["Server"]
        assert "Its &lt;slices&gt; are missing." in text
        assert "1.00 GB wait" in text

    def test_has_metrics_for_prometheus(self, page, queue):
        with urllib.request.urlopen(f"{page}metrics", timeout=60) as answer:
            text = answer.read().decode()
        assert text == metrics(queue.summary())
        assert 'xviewsynth_node_series{state="failed"} 1\n' in text
        assert "xviewsynth_node_waiting_bytes 1000000000\n" in text

    @pytest.mark.parametrize(("path", "method", "status"), [("other", "GET", 404), ("", "POST", 501), ("", "PUT", 501)])
    def test_nothing_else_is_answered(self, page, path, method, status):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(page + path, method=method), timeout=60)
        assert refused.value.code == status
        refused.value.close()

    def test_a_port_in_use_is_refused(self, page, queue):
        port = int(page.rstrip("/").rpartition(":")[2])
        with pytest.raises(InputError, match="choose another --page"), status_page(port, queue):
            pass


class TestArguments:
    RUN = ("node", "run", "--folder", "node", "--to", "PACS@127.0.0.1:104")

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("node",), "ACTION"),
            (("node", "run", "--folder", "node"), "--to --to-web is required"),
            ((*RUN, "--to-web", "https://pacs"), "not allowed with argument --to"),
            ((*RUN, "--from-web", "pacs"), "must be a URL that begins with https://"),
            (("node", "run", "--folder", "node", "--to", "PACS"), "must be AET@HOST:PORT, not 'PACS'"),
            ((*RUN, "--allow", "CT1"), "must be AET@HOST, not 'CT1'"),
            ((*RUN, "--aet", "SEVENTEEN LETTERS"), "must be an AE title"),
            ((*RUN, "--listen", "nowhere"), "must be HOST:PORT, not 'nowhere'"),
            ((*RUN, "--quiet-seconds", "0"), "must be a number above 0, not '0'"),
            ((*RUN, "--thicker-than", "nan"), "must be a number above 0, not 'nan'"),
            ((*RUN, "--tls-cert", "a.pem"), "TLS needs all of --tls-cert, --tls-key and --tls-ca"),
            ((*RUN, "--model", "nowhere"), "nowhere"),
        ],
    )
    def test_that_are_wrong_are_refused_in_a_sentence(self, arguments, sentence, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(list(arguments)) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert sentence in error
        assert list(tmp_path.iterdir()) == []

    def test_the_missing_extra_is_named(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(command, "find_spec", lambda _: None)
        assert main([*self.RUN]) == 2
        assert "pip install 'xviewsynth[pacs]'" in capsys.readouterr().err


@pytest.mark.slow
class TestProcess:
    def test_stops_at_a_signal_and_continues_later(self, tmp_path, archive, series, tiny_model):
        options = ("--model", str(tiny_model), "--device", "cpu", "--factor", "2", "--page", "0")
        with NodeProcess(tmp_path / "node", archive.address, *options, "--quiet-seconds", "1000") as node:
            send(series(), node.port)
            node.process.send_signal(signal.SIGTERM)
            assert node.process.wait(60) == 0
        assert "Its page is http://127.0.0.1:" in node.log
        with NodeProcess(tmp_path / "node", archive.address, *options) as node:
            node.prints("delivered")
        assert len(archive.images) == 11
        assert node.process.returncode == 0

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot kill in this way")
    def test_survives_its_own_death(self, tmp_path, archive, series, tiny_model):
        options = ("--model", str(tiny_model), "--device", "cpu", "--factor", "2")
        with NodeProcess(tmp_path / "node", archive.address, *options) as node:
            send(series(), node.port)
            node.process.kill()
            node.process.wait(60)
        with NodeProcess(tmp_path / "node", archive.address, *options) as node:
            node.prints("delivered")
        assert len(archive.images) == 11
        assert set(archive.counts.values()) == {1}


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
class TestTls:
    @pytest.fixture(scope="class")
    @classmethod
    def certificates(cls, tmp_path_factory) -> Path:
        """A folder with an authority, certificates of it for two hosts, and one of a stranger."""
        folder = tmp_path_factory.mktemp("tls")
        for name in ("ca", "stranger"):
            subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
            cls._openssl(folder, "req", "-x509", *cls._new(name), *subject, "-days", "2", "-out", f"{name}.pem")
        for name in ("node", "scanner"):
            cls._openssl(folder, "req", *cls._new(name), "-subj", f"/CN={name}", "-out", f"{name}.csr")
            (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
            signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2"]
            cls._openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
        return folder

    @staticmethod
    def _new(name: str) -> list[str]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]

    @staticmethod
    def _openssl(folder: Path, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    @contextmanager
    def secured(self, certificates: Path, tmp_path: Path, model: Path) -> Iterator[tuple[NodeProcess, Inbox]]:
        own = Tls(*(certificates / name for name in ("node.pem", "node.key", "ca.pem")))
        files = ("--tls-cert", own.certificate, "--tls-key", own.key, "--tls-ca", own.authority)
        with (
            Inbox(tls=own.context(ssl.Purpose.CLIENT_AUTH)) as box,
            NodeProcess(tmp_path / "node", box.address, "--model", str(model), *map(str, files)) as node,
        ):
            yield node, box

    @pytest.mark.slow
    def test_protects_both_sides(self, certificates, tmp_path, series, tiny_model):
        known = Tls(*(certificates / name for name in ("scanner.pem", "scanner.key", "ca.pem")))
        with self.secured(certificates, tmp_path, tiny_model) as (node, box):
            context = known.context(ssl.Purpose.SERVER_AUTH)
            assert send(series(), node.port, tls=(context, "127.0.0.1")) == [0] * 6
            node.prints("delivered")
        assert set(box.counts.values()) == {1}

    @pytest.mark.slow
    def test_refuses_a_stranger_and_a_caller_without_it(self, certificates, tmp_path, series, tiny_model):
        files = [certificates / name for name in ("stranger.pem", "stranger.key", "ca.pem")]
        stranger = Tls(*files).context(ssl.Purpose.SERVER_AUTH)
        with self.secured(certificates, tmp_path, tiny_model) as (node, _):
            assert send(series()[:1], node.port, tls=(stranger, "127.0.0.1")) == []
            assert send(series()[:1], node.port) == []
            assert node.process.poll() is None
