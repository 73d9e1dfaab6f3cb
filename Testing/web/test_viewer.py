"""The viewer in the browser: what it shows, whom it lets in, and what a real Chromium makes of it."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import psutil
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("trame_slicer", reason="the packages of the extra `web` are not installed")

import slicer
from PIL import Image

import offscreen
import web
from raw_page import GoneViewer, RefusedCall, framed, packed, raw_page, scrolls
from scans import stored_as
from XViewSynthLib import InputError, Volume, write_volume
from XViewSynthScene.jobs import CANCELLED
from XViewSynthScene.layout import ENHANCED, ORIGINAL, PLANES
from XViewSynthScene.marks import BETWEEN, OBSERVED, SYNTHETIC
from XViewSynthWeb.access import check_address, is_loopback, make_access
from XViewSynthWeb.browser import BrowserFile
from XViewSynthWeb.content import Content, derive_provenance, read_content
from XViewSynthWeb.labels import direction_letters, edge_letters, position_text
from XViewSynthWeb.listening import MOST_CONNECTIONS, WebServer
from XViewSynthWeb.messages import MOST_BYTES
from XViewSynthWeb.sockets import MOST_PAGES, OpenPages
from XViewSynthWeb.viewer import WINDOWS, Viewer

pytestmark = pytest.mark.slow

FACTOR = 4
# A hang is meant, not a slow machine.
PATIENCE_MS = 1_200_000
PATIENCE_SECONDS = PATIENCE_MS / 1000

draws = pytest.mark.skipif(bool(offscreen.why_not()), reason=offscreen.why_not() or "")
browses = pytest.mark.skipif(bool(web.why_no_browser()), reason=web.why_no_browser() or "")


def thicker(scan: Volume) -> Volume:
    """A scan with slices between its own, which come out as they are."""
    last = (scan.slices("K") - 1) * FACTOR
    places = np.arange(last + 1) / FACTOR
    below = np.minimum(places.astype(int), scan.slices("K") - 2)
    share = (places - below)[:, None, None]
    voxels = np.round(scan.voxels[below] * (1 - share) + scan.voxels[below + 1] * share).astype(scan.voxels.dtype)
    return Volume(voxels, scan.upsampled_affine("K", FACTOR), scan.slice_thickness)


def uncertainty_of(enhanced: Volume) -> Volume:
    """Much uncertainty in one half of every synthetic slice, and none elsewhere."""
    voxels = np.zeros(enhanced.voxels.shape, np.float32)
    voxels[:, :, : voxels.shape[2] // 2] = 90.0
    voxels[::FACTOR] = 0.0
    return enhanced.with_voxels(voxels)


@pytest.fixture(scope="session")
def enhanced(scan):
    return thicker(scan)


@pytest.fixture(scope="session")
def files(scan, enhanced, tmp_path_factory):
    """Paths of a scan, of its enhanced volume and of its uncertainty map."""
    folder = tmp_path_factory.mktemp("scans")
    paths = {name: folder / f"{name}.nrrd" for name in ("scan", "enhanced", "uncertainty")}
    for name, volume in (("scan", scan), ("enhanced", enhanced), ("uncertainty", uncertainty_of(enhanced))):
        write_volume(volume, paths[name])
    return paths


class TestLabels:
    def test_an_axial_view_has_the_patients_right_at_its_left(self):
        letters = edge_letters(np.diag([-1.0, 1.0, 1.0, 1.0]))
        assert letters == {"left": "R", "right": "L", "top": "A", "bottom": "P"}

    def test_an_oblique_direction_has_two_letters_the_stronger_first(self):
        assert direction_letters(np.array([0.5, 0.8, 0.0])) == "AR"

    def test_a_slight_tilt_changes_no_letter(self):
        assert direction_letters(np.array([0.3, 0.0, 0.95])) == "S"

    @pytest.mark.parametrize(
        ("place", "text"), [(12.34, "S 12.3 mm"), (-12.34, "I 12.3 mm"), (-0.01, "S 0.0 mm"), (0.0, "S 0.0 mm")]
    )
    def test_a_position_has_direction_and_millimetres(self, place, text):
        matrix = np.eye(4)
        matrix[2, 3] = place
        assert position_text(matrix, 2) == text


class TestWhichSlicesAreSynthetic:
    def test_observed_are_those_that_hold_a_slice_of_the_scan(self, scan, enhanced):
        found = derive_provenance(scan, enhanced, "CT")
        assert (found.factor, found.axis, found.observed_slices) == (FACTOR, "K", scan.slices("K"))
        assert found.synthetic_slices == tuple(index for index in range(enhanced.slices("K")) if index % FACTOR)

    def test_a_slice_that_was_changed_is_not_observed(self, scan, enhanced):
        voxels = enhanced.voxels.copy()
        voxels[FACTOR] += 1
        found = derive_provenance(scan, enhanced.with_voxels(voxels), "CT")
        assert found.is_synthetic(FACTOR)
        assert not found.is_synthetic(2 * FACTOR)

    def test_it_is_found_along_any_axis_and_in_any_direction(self, scan, enhanced):
        order, flips = (2, 0, 1), (True, False, True)
        found = derive_provenance(stored_as(scan, order, flips), stored_as(enhanced, order, flips), "CT")
        assert (found.axis, found.observed_slices) == ("I", scan.slices("K"))

    def test_another_grid_has_no_provenance(self, scan, enhanced):
        cropped = Volume(enhanced.voxels[:-1], enhanced.affine)
        assert derive_provenance(scan, cropped, "CT") is None

    def test_a_volume_with_no_more_slices_has_no_provenance(self, scan):
        assert derive_provenance(scan, scan, "CT") is None


class TestReading:
    def test_a_scan_alone_is_enough(self, files):
        content = read_content(files["scan"])
        assert (content.name, content.enhanced, content.provenance) == ("scan", None, None)

    def test_a_report_gives_the_synthetic_slices(self, files, enhanced, tmp_path):
        report = tmp_path / "report.json"
        report.write_text(json.dumps(report_of(enhanced, synthetic=[1, 2])))
        content = read_content(files["scan"], files["enhanced"], report=report)
        assert content.provenance.synthetic_slices == (1, 2)

    def test_a_report_of_another_volume_is_refused(self, files, enhanced, tmp_path):
        report = tmp_path / "report.json"
        report.write_text(json.dumps(report_of(Volume(enhanced.voxels[:9], enhanced.affine), synthetic=[1])))
        with pytest.raises(InputError, match="name the report of this volume"):
            read_content(files["scan"], files["enhanced"], report=report)

    @pytest.mark.parametrize(("name", "value"), [("factor", 2.5), ("factor", True), ("model", 7)])
    def test_a_report_with_values_of_other_types_is_refused(self, files, enhanced, tmp_path, name, value):
        report = tmp_path / "report.json"
        report.write_text(json.dumps({**report_of(enhanced, synthetic=[1, 2]), name: value}))
        with pytest.raises(InputError, match="is not a report of xviewsynth enhance"):
            read_content(files["scan"], files["enhanced"], report=report)

    def test_a_folder_is_no_report(self, files, tmp_path):
        with pytest.raises(InputError, match="is not a report of xviewsynth enhance"):
            read_content(files["scan"], files["enhanced"], report=tmp_path)

    @pytest.mark.parametrize(
        "text", ["{}", "[]", "no JSON", '{"synthetic_slices": 3}', "[" * 100_000, "[" + " " * 2**24 + "]"], ids=range(6)
    )
    def test_a_file_that_is_no_report_is_refused(self, files, tmp_path, text):
        report = tmp_path / "report.json"
        report.write_text(text)
        with pytest.raises(InputError, match="is not a report of xviewsynth enhance"):
            read_content(files["scan"], files["enhanced"], report=report)

    def test_a_map_of_another_grid_is_refused(self, files):
        with pytest.raises(InputError, match="name the map that was written with it"):
            read_content(files["scan"], files["enhanced"], uncertainty=files["scan"])

    def test_a_map_without_an_enhanced_volume_is_refused(self, files):
        with pytest.raises(InputError, match="--uncertainty needs an enhanced volume"):
            read_content(files["scan"], uncertainty=files["uncertainty"])

    def test_a_volume_from_elsewhere_is_refused(self, files, enhanced, tmp_path):
        affine = enhanced.affine.copy()
        affine[2, 3] += 500
        write_volume(replace(enhanced, affine=affine), tmp_path / "elsewhere.nrrd")
        with pytest.raises(InputError, match="lies elsewhere in space"):
            read_content(files["scan"], tmp_path / "elsewhere.nrrd")


def report_of(volume: Volume, synthetic: list[int]) -> dict:
    return {
        "program": "xviewsynth 0.3.0",
        "factor": FACTOR,
        "axis": "K",
        "model": "standard",
        "model_sha256": "0123456789abcdef" * 4,
        "acquisition": "gap",
        "output": {"shape_ijk": volume.shape_ijk},
        "synthetic_slices": synthetic,
    }


class TestWhoMayConnect:
    def test_only_this_computer_by_default(self):
        access = make_access(None, None)
        assert (access.host, access.token, access.is_local) == ("127.0.0.1", None, True)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "localhost.example.org"])
    def test_other_computers_need_a_token(self, host):
        with pytest.raises(InputError, match="add --token auto"):
            make_access(host, None)
        assert not make_access(host, "a-good-token").is_local

    def test_a_token_that_is_made_is_long_and_new_each_time(self):
        tokens = {make_access("0.0.0.0", "auto").token for _ in range(3)}
        assert len(tokens) == 3
        assert min(map(len, tokens)) >= 32

    @pytest.mark.parametrize("token", ["", "short", "has space", "a/b?c=d&e", "x" * 201])
    def test_a_token_that_can_be_guessed_or_fits_in_no_address_is_refused(self, token):
        with pytest.raises(InputError, match="8 to 200 letters"):
            make_access(None, token)

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1"])
    def test_this_computer_has_several_names(self, host):
        assert is_loopback(host)

    def test_an_address_names_host_port_and_token(self):
        assert make_access("::1", "12345678").address(80) == "http://[::1]:80/?token=12345678"

    def test_a_port_in_use_is_reported_at_once(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(InputError, match=f"cannot listen on port {port} of 127.0.0.1"):
                check_address(make_access(None, None), port)


class TestCommand:
    def refusal(self, *arguments, program=web.PROGRAM):
        command = web.command(*arguments)
        command[2] = program
        finished = subprocess.run(command, env=web.environment(), capture_output=True, text=True)
        assert (finished.returncode, finished.stdout, finished.stderr.count("\n")) == (2, "", 1)
        return finished.stderr

    def test_a_host_without_a_token_is_refused(self, files):
        assert "error: With --host 0.0.0.0 other" in self.refusal(files["scan"], "--host", "0.0.0.0")

    def test_missing_packages_are_named_with_what_installs_them(self, files):
        without = "import XViewSynthWeb.command as command; command.PACKAGES = ('trame-that-is-missing',); "
        said = self.refusal(files["scan"], program=without + web.PROGRAM)
        assert 'error: The viewer needs trame-that-is-missing: run pip install "xviewsynth[web]".' in said

    def test_a_port_that_does_not_exist_is_refused(self, files):
        assert "from 0 to 65535" in self.refusal(files["scan"], "--port", "65536")

    def test_a_scan_that_does_not_exist_is_refused(self, tmp_path):
        assert "error: " in self.refusal(tmp_path / "missing.nrrd")

    def test_a_model_that_does_not_exist_is_refused(self, files):
        assert "error: " in self.refusal(files["scan"], "--model", "no-such-model")


@pytest.fixture
def show(scene, tiny_model):
    """Puts content into the scene's linked views; nothing is drawn."""
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    viewers = []

    def show(content, model=tiny_model, **options):
        viewer = Viewer(scene, offscreen.application_logic(scene), content, str(model), "cpu", **options)
        viewers.append(viewer)
        return viewer

    yield show
    for viewer in viewers:
        viewer.cancel()
        wait_for(viewer)
        viewer.close()


@pytest.fixture
def pair(scan, enhanced):
    provenance = derive_provenance(scan, enhanced, "CT")
    return Content("CT", scan, enhanced, uncertainty_of(enhanced), provenance)


def wait_for(viewer):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while viewer.busy:
        assert time.monotonic() < deadline
        viewer.poll()
        time.sleep(0.05)


class TestViewer:
    def test_both_rows_show_the_slice_that_is_scrolled_to(self, show, pair):
        viewer = show(pair)
        viewer.scroll("Axial", 5)
        offsets = [viewer.views.slice_node(row, "Axial").GetSliceOffset() for row in (ORIGINAL, ENHANCED)]
        assert offsets == pytest.approx([95.0, 95.0])
        told = viewer.look()
        assert (told["index_Axial"], told["slices_Axial"], told["position_Axial"]) == (5, 65, "S 95.0 mm")

    @pytest.mark.parametrize("plane", PLANES)
    def test_every_slice_of_a_plane_can_be_reached(self, show, pair, plane):
        viewer = show(pair)
        for index in (0, viewer.look()[f"slices_{plane}"] - 1):
            viewer.scroll(plane, index)
            assert viewer.look()[f"index_{plane}"] == index

    def test_scrolling_ends_with_the_volume(self, show, pair):
        viewer = show(pair)
        viewer.scroll("Axial", 1000)
        assert viewer.look()["index_Axial"] == 64

    @pytest.mark.parametrize(("index", "kind", "above"), [(8, OBSERVED, OBSERVED), (9, SYNTHETIC, BETWEEN)])
    def test_the_mark_shows_whether_a_slice_was_observed(self, show, pair, index, kind, above):
        viewer = show(pair)
        viewer.scroll("Axial", index)
        told = viewer.look()
        assert told["mark_Enhanced_Axial"] == f"enhanced x4 - {kind} slice"
        assert (told["kind_Enhanced_Axial"], told["kind_Original_Axial"]) == (kind, above)

    def test_views_across_the_slices_are_neither(self, show, pair):
        assert show(pair).look()["kind_Enhanced_Coronal"] == "plain"

    def test_without_provenance_no_slice_is_called_anything(self, show, pair):
        assert show(replace(pair, provenance=None)).look()["kind_Enhanced_Axial"] == "plain"

    def test_a_window_is_that_of_both_volumes(self, show, pair):
        viewer = show(pair)
        viewer.choose_window("Lung")
        for row in (ORIGINAL, ENHANCED):
            volume = slicer.mrmlScene.GetNodeByID(viewer.views.composite_node(row, "Axial").GetBackgroundVolumeID())
            display = volume.GetScalarVolumeDisplayNode()
            assert (display.GetWindow(), display.GetLevel()) == WINDOWS["Lung"]
        assert viewer.look()["window"] == "Lung"

    def test_a_window_set_by_hand_is_called_so_and_undone_by_name(self, show, pair):
        viewer = show(pair)
        viewer.set_window(123, 45)
        assert (viewer.look()["window"], viewer.look()["window_text"]) == ("By hand", "W 123  L 45")
        viewer.choose_window("Automatic")
        assert viewer.look()["window"] == "Automatic"

    def test_the_map_of_uncertainty_fades(self, show, pair):
        viewer = show(pair)
        viewer.set_opacity(0.2)
        assert viewer.views.composite_node(ENHANCED, "Axial").GetLabelOpacity() == pytest.approx(0.2)

    def test_swapped_views_show_the_original_below_and_say_so(self, show, pair):
        viewer = show(pair)
        viewer.set_swapped(True)
        assert viewer.look()["mark_Enhanced_Axial"].startswith("original")
        viewer.set_swapped(False)
        assert viewer.look()["mark_Enhanced_Axial"].startswith("enhanced x4")

    @pytest.mark.parametrize(("height", "bounded"), [(1e-12, 0.1), (1e12, 1e5), (40.0, 40.0)])
    def test_no_view_shows_too_little_or_too_much(self, show, pair, height, bounded):
        viewer = show(pair)
        node = viewer.views.slice_node(ENHANCED, "Axial")
        node.SetFieldOfView(height, height, 1.0)
        viewer.bound_zoom()
        assert node.GetFieldOfView()[:2] == pytest.approx((bounded, bounded))

    def test_every_change_is_reported(self, show, pair):
        told = []
        viewer = show(pair, on_change=lambda: told.append(True))
        for change in (
            lambda: viewer.scroll("Sagittal", 3),
            lambda: viewer.choose_window("Bone"),
            lambda: viewer.set_opacity(0.7),
        ):
            told.clear()
            change()
            assert told

    def test_the_state_fits_into_json(self, show, pair):
        told = show(pair).look()
        assert json.loads(json.dumps(told)) == told


class TestEnhancing:
    def test_the_page_says_what_will_come_out(self, show, scan):
        told = show(Content("CT", scan)).look()
        assert told["outlook"].startswith("4 mm → 1 mm, 17 → 65 slices")
        assert (told["possible"], told["has_enhanced"]) == (True, False)

    def test_a_scan_that_is_thin_enough_is_not_offered_more(self, show, thin_scan):
        viewer = show(Content("CT", thin_scan))
        assert not viewer.look()["possible"]
        viewer.set_factor(2)
        assert viewer.look()["possible"]

    def test_the_result_is_shown_at_the_place_where_the_scan_was(self, show, scan):
        viewer = show(Content("CT", scan))
        viewer.set_factor(2)
        viewer.scroll("Axial", 3)
        viewer.enhance()
        assert viewer.look()["status"] == "running"
        wait_for(viewer)
        told = viewer.look()
        assert (told["has_enhanced"], told["has_uncertainty"], told["slices_Axial"]) == (True, True, 33)
        assert told["index_Axial"] == 6
        assert told["kind_Enhanced_Axial"] == OBSERVED
        assert "16 of its 33 slices are synthetic" in told["message"]

    def test_a_cancelled_enhancement_leaves_the_offer_and_no_process(self, show, scan):
        viewer = show(Content("CT", scan))
        viewer.enhance()
        viewer.cancel()
        assert viewer.look()["status"] == "stopping"
        wait_for(viewer)
        told = viewer.look()
        assert (told["status"], told["has_enhanced"]) == ("idle", False)
        assert CANCELLED in told["message"]
        assert psutil.Process().children() == []

    def test_a_failure_is_reported_in_its_own_words(self, show, scan, tmp_path):
        viewer = show(Content("CT", scan), model=tmp_path / "gone")
        viewer.enhance()
        wait_for(viewer)
        assert not viewer.look()["has_enhanced"]
        assert viewer.look()["message"]


@pytest.fixture(scope="module")
def compared(files):
    """A viewer of a pair of volumes, for this computer."""
    with web.viewer(files["scan"], files["enhanced"], "--disagreement", files["uncertainty"]) as served:
        yield served


@pytest.fixture(scope="module")
def guarded(files, tiny_model):
    """A viewer of a scan alone, with a token."""
    with web.viewer(files["scan"], "--token", "auto", "--model", tiny_model, "--device", "cpu") as served:
        yield served


def ask(served, path="/index.html", method="GET", **headers):
    """Status, headers and body of what a viewer answers to a request that is sent as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        # A WebSocket that was accepted has no body to wait for.
        return answer.status, answer.headers, b"" if answer.status == 101 else answer.read()
    finally:
        connection.close()


def ask_for_websocket(served, **headers):
    """Status that a viewer answers to a request for a WebSocket."""
    key = {"Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec_WebSocket_Version": "13"}
    return ask(served, "/ws", Connection="Upgrade", Upgrade="websocket", **key, **headers)[0]


@draws
class TestLocalServer:
    def test_the_page_is_served(self, compared):
        status, headers, body = ask(compared)
        assert status == 200
        assert b"<html" in body
        assert headers["X-Frame-Options"] == "DENY"

    def test_it_listens_on_the_loopback_address_alone(self, compared):
        listening = [c for c in psutil.Process(compared.process.pid).net_connections() if c.status == "LISTEN"]
        assert [(place.laddr.ip, place.laddr.port) for place in listening] == [("127.0.0.1", compared.port)]

    @pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "["])
    def test_a_name_that_leads_here_from_elsewhere_is_refused(self, compared, name):
        assert ask(compared, Host=name)[0] in (400, 403)

    def test_other_ports_may_lead_here(self, compared):
        assert ask(compared, Host="localhost:4711")[0] == 200

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"])
    def test_pages_of_other_sites_get_no_websocket(self, compared, origin):
        assert ask_for_websocket(compared, Origin=origin) == 403

    def test_its_own_page_gets_a_websocket(self, compared):
        assert ask_for_websocket(compared, Origin=f"http://127.0.0.1:{compared.port}") == 101

    @pytest.mark.parametrize(
        "path",
        [
            "/../../../../../../../../etc/passwd",
            "/assets/../../../../../../../../../../etc/passwd",
            "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
            "/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
            "/..%5c..%5c..%5c..%5c..%5cetc%5cpasswd",
            "/%252e%252e/%252e%252e/etc/passwd",
            "//etc/passwd",
            "/%2fetc/passwd",
            "/etc/passwd",
            "/file:///etc/passwd",
            "/ws/../../../../etc/passwd",
        ],
    )
    def test_no_other_file_can_be_read(self, compared, path):
        status, _, body = ask(compared, path)
        assert status in (400, 403, 404)
        assert b"root:" not in body

    def test_not_even_the_files_that_are_shown(self, compared, files):
        for path in (str(files["scan"]), f"/..{files['scan']}", "/scan.nrrd", "/../scan.nrrd"):
            assert ask(compared, path)[0] in (400, 403, 404)

    def test_no_folder_is_listed(self, compared):
        assert ask(compared, "/assets/")[0] in (403, 404)


def talk(served, script, **options):
    """Open a page without a browser, and give the result of what it does."""

    async def visit():
        async with raw_page(served, **options) as page:
            return await script(page)

    return asyncio.run(visit())


def works(served) -> bool:
    """Whether the viewer is alive, and a new page can scroll."""
    return served.process.poll() is None and asyncio.run(scrolls(served))


VIEW = "XVSEnhancedAxial"


@draws
class TestWhatAPageMaySay:
    @pytest.mark.parametrize(
        "call",
        [
            ("application.exit",),
            ("application.exit.later", 0),
            ("trame.force.push", "name"),
            ("trame.rca.push", VIEW, {"type": "image/jpeg"}, b"x"),
            ("trame.trigger", "trigger__99", [], {}),
            ("viewport.size", 1, 16000, 16000),
            ("x" * 50_000,),
        ],
    )
    def test_other_calls_are_refused_without_effect(self, compared, call):
        async def script(page):
            before = await page.get_state()
            with pytest.raises(RefusedCall):
                await page.call(*call)
            return before, await page.get_state()

        before, after = talk(compared, script)
        assert before == after
        assert works(compared)

    @pytest.mark.parametrize(
        "setting",
        [
            {"index_Axial": 65},
            {"index_Axial": float("nan")},
            {"window": "<b>"},
            {"factor": 99},
            {"trame__template_main": "x"},
            {"new": 1},
        ],
    )
    def test_other_values_are_refused_without_effect(self, compared, setting):
        async def script(page):
            before = await page.get_state()
            with pytest.raises(RefusedCall):
                await page.set(**setting)
            return before, await page.get_state()

        before, after = talk(compared, script)
        assert before == after

    def test_what_one_page_sets_reaches_the_others(self, compared):
        async def script(first):
            async with raw_page(compared) as second:
                await second.get_state()
                await first.set(index_Coronal=7)
                while second.state.get("index_Coronal") != 7:
                    await second.receive()
                return first.state.get("index_Coronal")

        assert talk(compared, script) is None

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, "1", None, {}])
    def test_events_that_would_end_vtk_do_not(self, compared, value):
        async def script(page):
            for name, kind in (("x", "MouseMove"), ("w", "LeftButtonPress"), ("spinY", "MouseWheel")):
                with pytest.raises(RefusedCall):
                    await page.event(VIEW, **{"type": kind, "spinY": 1, name: value})

        talk(compared, script)
        assert works(compared)

    @pytest.mark.parametrize("size", [(16000, 16000, 1), (16000, 1, 8), (900, 16000, 1), (10**6, 10**6, 8)])
    def test_no_picture_is_larger_than_a_screen_shows(self, compared, size):
        async def script(page):
            await page.resize(VIEW, 200, 100)
            small = await page.new_picture(VIEW)
            await page.resize(VIEW, *size)
            return await page.new_picture(VIEW, small)

        width, height = Image.open(io.BytesIO(talk(compared, script))).size
        assert max(width, height) <= 4096
        assert width * height <= 2_000_000
        assert works(compared)

    def test_a_view_that_was_resized_shows_its_slice(self, compared):
        async def script(page):
            await page.set(window="Soft tissue")
            for size in ((500, 400), (100, 80), (300, 200)):
                await page.resize(VIEW, *size)
                seen = await page.picture_of(VIEW, *size)
            return seen

        picture = Image.open(io.BytesIO(talk(compared, script)))
        assert picture.size == (300, 200)
        assert np.asarray(picture).max() > 100

    def test_the_size_of_a_page_that_has_gone_is_forgotten(self, compared):
        async def script(page):
            await page.resize(VIEW, 320, 200)
            await page.picture_of(VIEW, 320, 200)
            async with raw_page(compared) as other:
                await other.resize(VIEW, 160, 100)
                small = await page.picture_of(VIEW, 160, 100)
            own = await page.picture_of(VIEW, 320, 200)
            return [Image.open(io.BytesIO(picture)).size for picture in (small, own)]

        assert talk(compared, script) == [(160, 100), (320, 200)]

    @pytest.mark.parametrize(
        "message",
        [
            framed(b"x" * 100, 2**31),
            framed(b"x" * 1000, 3_000_000),
            framed(b"x" * 10, 10, offset=2**31),
            b"x" * (MOST_BYTES + 1),
            bytes(3),
            framed(b"\x91" * 60_000, 60_000),
            packed(
                {"id": "rpc:c0:1", "method": "trame.state.update", "args": [[{"key": "x", "value": "x" * 3_000_000}]]}
            ),
        ],
        ids=["2 GB announced", "unfinished", "elsewhere", "too large", "too short", "deep", "1 MB of state"],
    )
    def test_a_page_that_sends_anything_else_is_dropped(self, compared, message):
        async def send_and_ask(page):
            await page.send(message)
            await page.get_state()

        async def script(page):
            with pytest.raises(GoneViewer):  # while the message is sent, or after it
                await send_and_ask(page)

        talk(compared, script)
        assert works(compared)

    def test_text_is_no_message(self, compared):
        async def script(page):
            await page.socket.send_str("{}")
            with pytest.raises(GoneViewer):
                await page.get_state()

        talk(compared, script)

    def test_a_page_says_hello_first(self, compared):
        async def script(page):
            with pytest.raises(RefusedCall):
                await page.get_state()

        talk(compared, script, greet=False)

    def test_a_page_too_many_is_refused_until_another_has_gone(self, compared):
        async def fill():
            async with AsyncExitStack() as stack:
                for _ in range(MOST_PAGES):
                    await stack.enter_async_context(raw_page(compared))
                with pytest.raises(GoneViewer, match="503"):
                    await stack.enter_async_context(raw_page(compared))
                return await asyncio.to_thread(ask, compared)

        status, _, body = asyncio.run(fill())
        assert (status, body) == (503, b"8 pages are open: close one, and reload this one.")
        until(lambda: is_open(compared))

    def test_pages_that_come_and_go_leave_nothing_behind(self, compared):
        async def storm():
            for _ in range(30):
                async with raw_page(compared) as page:
                    await page.send(packed({"id": "rpc:c0:1", "method": "trame.state.get", "args": []}))

        asyncio.run(storm())
        until(lambda: is_open(compared))
        assert works(compared)


def is_open(served) -> bool:
    """Whether a viewer takes another page."""
    try:
        asyncio.run(scrolls(served))
    except GoneViewer:
        return False
    return True


class TestPagesThatReadSlowly:
    def test_only_the_latest_waits(self):
        """A page that reads nothing, while a thousand pictures of a megabyte are published."""
        pictures = asyncio.run(self.publish_to_a_slow_page(1000))
        assert len(pictures) < 100
        assert pictures[-1] == 999

    async def publish_to_a_slow_page(self, count):
        pages = OpenPages(lambda _page, _call: None, lambda _page: None)
        server = WebServer(make_access(None, None), pages, {})
        await server.start(0)
        served = web.Served(None, f"http://127.0.0.1:{server.port}/")
        try:
            async with raw_page(served) as page:
                for number in range(count):
                    content = number.to_bytes(4, "big") + bytes(2**20)
                    pages.publish("trame.rca.topic.stream", {"name": "view", "content": content})
                    await asyncio.sleep(0)
                return await self.read(page, count - 1)
        finally:
            await server.stop()

    async def read(self, page, last):
        numbers = []
        while last not in numbers:
            await page.receive()
            numbers.append(int.from_bytes(page.pictures["view"][:4], "big"))
        return numbers

    def test_state_is_sent_once_for_each_name(self):
        async def publish():
            pages = OpenPages(lambda _page, _call: None, lambda _page: None)
            server = WebServer(make_access(None, None), pages, {})
            await server.start(0)
            try:
                async with raw_page(web.Served(None, f"http://127.0.0.1:{server.port}/")) as page:
                    for number in range(1000):
                        pages.publish("trame.state.topic", {"place": number, f"only_{number % 3}": number})
                    await page.receive()
                    return page.state
            finally:
                await server.stop()

        assert asyncio.run(publish()) == {"place": 999, "only_0": 999, "only_1": 997, "only_2": 998}


@draws
class TestConnections:
    def opened(self, stack, served, count, said=b""):
        """Connections that have sent no whole request."""
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", served.port))) for _ in range(count)]
        for connection in connections:
            connection.sendall(said)
        return connections

    def test_requests_that_are_never_finished_are_dropped(self, compared):
        with ExitStack() as stack:
            begun = (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
            for (connection,) in [self.opened(stack, compared, 1, said) for said in begun]:
                connection.settimeout(PATIENCE_SECONDS)
                with suppress(ConnectionResetError):
                    assert connection.recv(1) == b""

    def test_unfinished_requests_block_no_other(self, compared):
        with ExitStack() as stack:
            self.opened(stack, compared, 2 * MOST_CONNECTIONS, b"GET / HT")
            assert ask(compared)[0] == 200
            assert works(compared)
            process = psutil.Process(compared.process.pid)
            until(lambda: len(process.net_connections()) < MOST_CONNECTIONS + MOST_PAGES + 10)

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
    def test_only_reading_is_served(self, compared, method):
        assert ask(compared, method=method)[0] == 405

    @pytest.mark.parametrize(
        "request_",
        [
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
            b"no request\r\n\r\n",
            b"\x16\x03\x01\x02\x00" + bytes(100),
        ],
        ids=["line", "header", "headers", "words", "TLS"],
    )
    def test_what_is_no_request_or_too_large_is_refused(self, compared, request_):
        with socket.create_connection(("127.0.0.1", compared.port), PATIENCE_SECONDS) as connection:
            connection.sendall(request_)
            answer = connection.recv(1000)
        assert answer.startswith(b"HTTP/1.0 400 ")
        assert b"Server: XViewSynth\r\n" in answer
        assert not any(word in answer for word in (b"Python", b"aiohttp", b"Traceback", b"site-packages"))

    @pytest.mark.parametrize("path", ["/", "/index.html", "/missing", "/assets/", "/ws", "/%00", "/index.html?token=x"])
    def test_no_response_names_a_version(self, compared, path):
        _, headers, body = ask(compared, path)
        assert headers["Server"] == "XViewSynth"
        told = str(headers) + (body.decode() if headers["Content-Type"].startswith("text/plain") else "")
        assert not any(word in told for word in ("Python", "aiohttp", "site-packages", "Traceback"))


@draws
class TestBrowserFile:
    def test_only_its_user_can_read_it(self):
        file = BrowserFile()
        path = path_of(file.write("http://127.0.0.1:1/?token=a&b"))
        try:
            assert "url=http://127.0.0.1:1/?token=a&amp;b" in path.read_text()
            if os.name == "posix":
                modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent)]
                assert modes == [0o600, 0o700]
        finally:
            file.remove()
        assert not path.parent.exists()
        file.remove()

    @pytest.mark.skipif(os.name != "posix", reason="a program of a line stands for the browser")
    def test_the_token_is_no_argument_of_the_browser_and_ctrl_c_removes_the_file(self, files, tmp_path):
        said = tmp_path / "said.txt"
        with web.viewer(files["scan"], "--token", "auto", browser=recorder(said)) as served:
            until(lambda: said.exists() and said.read_text())
            address = said.read_text()
            assert served.token not in address
            path = path_of(address)
            assert served.token in path.read_text()
            served.process.send_signal(signal.SIGINT)
            served.process.wait(PATIENCE_SECONDS)
        assert not path.parent.exists()

    @pytest.mark.skipif(os.name != "posix", reason="a program of a line stands for the browser")
    def test_without_a_token_the_browser_gets_the_address(self, files, tmp_path):
        said = tmp_path / "said.txt"
        with web.viewer(files["scan"], browser=recorder(said)) as served:
            until(lambda: said.exists() and said.read_text())
            assert said.read_text() == served.address


def path_of(address: str) -> Path:
    """Path of a file, from its address."""
    return Path(url2pathname(urlsplit(address).path))


def recorder(said: Path) -> str:
    """A command that stands for a browser, and writes what it is to open."""
    program = f"import sys; open({str(said)!r}, 'w').write(sys.argv[1])"
    return shlex.join([sys.executable, "-c", program]) + " %s"


@draws
class TestToken:
    @pytest.mark.parametrize(
        "path", ["/", "/index.html", "/?token=wrong-token", "/index.html?token=", "/vue.global.js"]
    )
    def test_nothing_is_served_without_it(self, guarded, path):
        assert ask(guarded, path)[0] == 401

    def test_no_websocket_without_it(self, guarded):
        assert ask_for_websocket(guarded) == 401
        assert ask_for_websocket(guarded, Cookie=f"xviewsynth-{guarded.port}=guess") == 401

    def test_it_opens_only_the_page(self, guarded):
        assert ask(guarded, f"/vue.global.js?token={guarded.token}")[0] == 401

    def test_it_is_exchanged_for_a_cookie_that_opens_all(self, guarded):
        status, headers, body = ask(guarded, f"/?token={guarded.token}")
        assert (status, b"url=index.html" in body) == (200, True)
        assert "HttpOnly" in headers["Set-Cookie"]
        assert "SameSite=Strict" in headers["Set-Cookie"]
        assert guarded.token not in headers["Set-Cookie"]
        cookie = headers["Set-Cookie"].split(";")[0]
        assert ask(guarded, Cookie=cookie)[0] == 200
        assert ask_for_websocket(guarded, Cookie=cookie) == 101
        assert ask_for_websocket(guarded, Cookie=cookie, Origin="http://evil.example") == 403


@draws
class TestEnd:
    @pytest.mark.skipif(os.name != "posix", reason="signals end processes differently here")
    def test_ctrl_c_ends_it_with_all_that_it_has_started(self, files):
        with web.viewer(files["scan"], files["enhanced"]) as served:
            children = psutil.Process(served.process.pid).children(recursive=True)
            served.process.send_signal(signal.SIGINT)
            assert served.process.wait(PATIENCE_SECONDS) == 0
            assert served.process.stdout.read() == ""
            assert not any(child.is_running() for child in children)


@pytest.fixture(scope="module")
def chromium():
    with web.browser() as browser:
        yield browser


def opened(chromium, served):
    """A page that shows a viewer, and all that its browser complained about."""
    page = chromium.new_page(viewport={"width": 1200, "height": 760})
    page.set_default_timeout(PATIENCE_MS)
    page.complaints, page.requested = [], []
    page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: page.requested.append(request.url))
    page.goto(served.address)
    page.get_by_test_id("position-Axial").wait_for()
    until(lambda: picture(page, ORIGINAL, "Axial").max() > 100)
    return page


@pytest.fixture(scope="module")
def page(chromium, compared):
    return opened(chromium, compared)


def picture(page, row, plane) -> np.ndarray:
    """(height, width, 3) what a view looks like, less its edges with their letters."""
    shot = page.get_by_test_id(f"view-{row}-{plane}").screenshot()
    seen = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)
    return seen[40:-40, 40:-40]


def coloured(page, row, plane) -> int:
    """Pixels of a view with the colours of the uncertainty map."""
    seen = picture(page, row, plane)
    return int((seen[..., 0] - seen[..., 2] > 60).sum())


def middle(page, test_id):
    """Place of the middle of an element, pixels."""
    box = page.get_by_test_id(test_id).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, test_id, button, by):
    x, y = middle(page, test_id)
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    for step in range(1, 6):
        page.mouse.move(x + by[0] * step / 5, y + by[1] * step / 5)
    page.mouse.up(button=button)


def until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def text(page, test_id):
    return page.get_by_test_id(test_id).inner_text().strip()


@draws
@browses
@pytest.mark.browser
class TestInChromium:
    def test_no_view_is_black(self, page):
        for row in (ORIGINAL, ENHANCED):
            for plane in PLANES:
                until(lambda row=row, plane=plane: (picture(page, row, plane) > 60).mean() > 0.02)

    def test_the_edges_of_the_views_have_their_letters(self, page):
        seen = {plane: [text(page, f"{edge}-Enhanced-{plane}") for edge in ("left", "top")] for plane in PLANES}
        assert seen == {"Axial": ["R", "A"], "Coronal": ["R", "S"], "Sagittal": ["A", "S"]}

    @pytest.mark.parametrize("row", [ORIGINAL, ENHANCED])
    def test_the_wheel_in_one_view_scrolls_the_linked_one(self, page, row):
        other = ENHANCED if row == ORIGINAL else ORIGINAL
        before, place = picture(page, other, "Axial"), text(page, "position-Axial")
        page.mouse.move(*middle(page, f"view-{row}-Axial"))
        page.mouse.wheel(0, -120)
        until(lambda: text(page, "position-Axial") != place)
        until(lambda: not np.array_equal(picture(page, other, "Axial"), before))

    def test_the_slider_scrolls_both_views_and_their_mark_follows(self, page):
        slider = page.get_by_test_id("slice-Axial").get_by_role("slider")
        slider.press("Home")
        until(lambda: text(page, "mark-Enhanced-Axial") == "enhanced x4 - observed slice")
        slider.press("ArrowRight")
        until(lambda: text(page, "mark-Enhanced-Axial") == "enhanced x4 - synthetic slice")
        assert text(page, "mark-Original-Axial") == "original - between slices"
        assert "xvs-synthetic" in page.get_by_test_id("mark-Enhanced-Axial").get_attribute("class")

    def test_zooming_in_one_view_zooms_the_linked_one(self, page):
        page.get_by_test_id("fit").click()
        before = (picture(page, ENHANCED, "Coronal") > 60).mean()
        drag(page, "view-Original-Coronal", "right", (0, 100))
        until(lambda: abs((picture(page, ENHANCED, "Coronal") > 60).mean() - before) > 0.02)
        page.get_by_test_id("fit").click()

    def test_dragging_in_one_view_changes_the_window_of_all(self, page):
        before = text(page, "window-text")
        linked = picture(page, ENHANCED, "Sagittal")
        drag(page, "view-Original-Axial", "left", (60, 60))
        until(lambda: text(page, "window-text") != before)
        until(lambda: not np.array_equal(picture(page, ENHANCED, "Sagittal"), linked))

    def test_a_window_can_be_chosen_by_name(self, page):
        page.get_by_test_id("window").click()
        page.get_by_role("option", name="Soft tissue").click()
        until(lambda: text(page, "window-text") == "W 400  L 40")

    def test_the_overlay_fades_with_its_slider(self, page):
        page.get_by_test_id("fit").click()
        until(lambda: coloured(page, ENHANCED, "Coronal") > 500)
        assert coloured(page, ORIGINAL, "Coronal") == 0
        thumb = page.get_by_test_id("opacity").get_by_role("slider").bounding_box()
        page.mouse.move(thumb["x"] + thumb["width"] / 2, thumb["y"] + thumb["height"] / 2)
        page.mouse.down()
        page.mouse.move(thumb["x"] - 400, thumb["y"], steps=8)
        page.mouse.up()
        until(lambda: text(page, "opacity-text") == "0 %")
        until(lambda: coloured(page, ENHANCED, "Coronal") == 0)

    def test_swapped_views_say_that_they_show_the_original(self, page):
        page.get_by_test_id("swap").click()
        until(lambda: text(page, "mark-Enhanced-Coronal") == "original")
        page.get_by_test_id("swap").click()
        until(lambda: text(page, "mark-Enhanced-Coronal") == "enhanced x4")

    def test_the_page_needs_nothing_from_elsewhere_and_breaks_no_rule(self, page, compared):
        own = f"http://127.0.0.1:{compared.port}/"
        assert [url for url in page.requested if not url.startswith((own, "data:", "blob:"))] == []
        assert [said for said in page.complaints if "Content Security Policy" in said] == []

    def test_the_file_with_the_token_leads_to_the_page(self, chromium, guarded):
        file = BrowserFile()
        page = chromium.new_context().new_page()
        page.set_default_timeout(PATIENCE_MS)
        try:
            page.goto(file.write(guarded.address))
            page.get_by_test_id("position-Axial").wait_for()
        finally:
            file.remove()
        assert guarded.token not in page.url
        page.close()

    def test_without_the_token_the_browser_sees_nothing(self, chromium, guarded):
        page = chromium.new_context().new_page()
        assert page.goto(f"http://127.0.0.1:{guarded.port}/").status == 401
        assert page.get_by_test_id("position-Axial").count() == 0


@draws
@browses
class TestEnhancingInChromium:
    def test_enhance_cancel_enhance_again_and_see_the_result(self, chromium, guarded):
        page = opened(chromium, guarded)
        assert guarded.token not in page.url
        assert text(page, "outlook").startswith("4 mm → 1 mm, 17 → 65 slices")
        page.get_by_test_id("enhance").click()
        page.get_by_test_id("cancel").click()
        until(lambda: "cancelled" in text(page, "message"))
        page.get_by_test_id("factor").click()
        page.get_by_role("option", name="x 2").click()
        until(lambda: "17 → 33 slices" in text(page, "outlook"))
        page.get_by_test_id("enhance").click()
        until(lambda: text(page, "stage") != "")
        page.get_by_test_id("offer").wait_for(state="detached")
        assert "16 of its 33 slices are synthetic" in text(page, "result")
        until(lambda: text(page, "mark-Enhanced-Coronal") == "enhanced x2")
        until(lambda: (picture(page, ENHANCED, "Axial") > 60).mean() > 0.02)

    @pytest.mark.skipif(os.name != "posix", reason="signals end processes differently here")
    def test_ctrl_c_ends_an_enhancement_too(self, chromium, files):
        with web.viewer(files["scan"]) as served:
            page = opened(chromium, served)
            page.get_by_test_id("enhance").click()
            until(lambda: psutil.Process(served.process.pid).children())
            workers = psutil.Process(served.process.pid).children(recursive=True)
            served.process.send_signal(signal.SIGINT)
            assert served.process.wait(PATIENCE_SECONDS) == 0
            assert not any(worker.is_running() for worker in workers)
            page.close()
