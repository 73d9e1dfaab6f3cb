"""The page of a reading kit in a real Chromium."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image

import web
from scans import affine_from, anatomy
from XViewSynthLib import Volume
from XViewSynthLib.evaluation.reading_kit import PAGE, Settings, write_kit
from XViewSynthLib.geometry.acquisition import thin

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(web.why_no_browser()), reason=web.why_no_browser() or ""),
]

CRITERIA = ("sharpness", "artefacts", "noise", "diagnostic trust")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kit")
    truth = Volume(anatomy((33, 64, 64)), affine_from((0.8, 0.8, 1.0)), slice_thickness=1.0)
    write_kit(thin(truth, 4), {"truth": truth}, folder, Settings(seed=3))
    return (folder / PAGE).as_uri()


@pytest.fixture(scope="module")
def chromium():
    with web.browser() as browser:
        yield browser


@pytest.fixture
def context(chromium):
    context = chromium.new_context(viewport={"width": 1200, "height": 700})
    yield context
    context.close()


def opened(context, address):
    page = context.new_page()
    page.complaints, page.requested = [], []
    page.on("console", lambda said: page.complaints.append(said.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requested.append(request.url))
    page.goto(address)
    page.get_by_test_id("state").filter(has_text="ratings are given").wait_for()
    return page


@pytest.fixture
def page(context, address):
    return opened(context, address)


def picture(page, letter) -> np.ndarray:
    shot = page.get_by_test_id(f"view-{letter}").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("L")).astype(int)


def test_shows_every_series_and_asks_for_nothing_else(page, address):
    assert all(np.ptp(picture(page, letter)) > 100 for letter in "ABC")
    assert page.requested == [address]
    assert page.complaints == []


def test_all_series_follow_wheel_and_keys(page):
    before = [picture(page, letter) for letter in "ABC"]
    assert page.get_by_test_id("slice").text_content() == "17 of 33"
    page.get_by_test_id("view-B").hover()
    page.mouse.wheel(0, 100)
    page.get_by_test_id("slice").filter(has_text="18 of 33").wait_for()
    page.keyboard.press("PageDown")
    assert page.get_by_test_id("slice").text_content() == "28 of 33"
    page.keyboard.press("PageDown")
    assert page.get_by_test_id("slice").text_content() == "33 of 33"
    assert all((picture(page, letter) != seen).any() for letter, seen in zip("ABC", before, strict=True))


def test_planes_and_windows(page):
    axial = picture(page, "A")
    page.keyboard.press("c")
    assert page.get_by_test_id("slice").text_content() == "33 of 64"
    coronal = picture(page, "A")
    # 33 slices of 1 mm by 64 pixels of 0.8 mm.
    assert coronal.shape[1] / coronal.shape[0] == pytest.approx(64 * 0.8 / 33, rel=0.02)
    assert axial.shape[1] / axial.shape[0] == pytest.approx(1, rel=0.02)
    page.keyboard.press("b")
    assert (picture(page, "A") != coronal).any()


def test_zooms_and_moves_all_series(page):
    before = [box(page, letter) for letter in "ABC"]
    page.keyboard.press("+")
    larger = [box(page, letter) for letter in "ABC"]
    assert all(
        now["width"] == pytest.approx(1.25 * old["width"], rel=0.01) for now, old in zip(larger, before, strict=True)
    )
    x, y = before[0]["x"] + 50, before[0]["y"] + 50
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 10)
    page.mouse.up()
    moved = [box(page, letter) for letter in "ABC"]
    assert all(now["x"] == pytest.approx(old["x"] + 30, abs=1) for now, old in zip(moved, larger, strict=True))
    page.keyboard.press("0")
    assert [box(page, letter) for letter in "ABC"] == before


def box(page, letter):
    return page.get_by_test_id(f"view-{letter}").bounding_box()


def test_small_turns_of_a_wheel_add_up(page):
    page.get_by_test_id("view-B").hover()
    for _ in range(5):
        page.mouse.wheel(0, 10)
    page.get_by_test_id("slice").filter(has_text="18 of 33").wait_for()


def test_marks_can_be_given_by_the_keyboard(page):
    page.get_by_test_id("reader").fill("R1")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    for key, mark in (("4", 4), ("ArrowRight", 5), ("ArrowLeft", 4), ("2", 2)):
        page.keyboard.press(key)
        assert checked(page) == [("A", CRITERIA[0], mark)]
    assert page.get_by_test_id("slice").text_content() == "17 of 33"


def test_every_reader_has_marks_of_their_own(page):
    page.get_by_test_id("reader").fill("R1")
    page.get_by_test_id("A-noise-4").click()
    page.get_by_test_id("reader").fill("R2")
    assert checked(page) == []
    page.get_by_test_id("A-noise-1").click()
    page.get_by_test_id("reader").fill("R1")
    assert checked(page) == [("A", "noise", 4)]


def checked(page) -> list[tuple[str, str, int]]:
    found = page.locator("fieldset input:checked").evaluate_all(
        "all => all.map(i => [i.dataset.letter, i.dataset.criterion, i.value])"
    )
    return [(letter, criterion, int(mark)) for letter, criterion, mark in found]


def test_no_mark_is_taken_without_a_reader(page):
    page.get_by_test_id("A-noise-4").click()
    assert page.get_by_test_id("state").text_content() == "Enter the reader's code first."
    assert checked(page) == []
    page.keyboard.type("R1")
    page.get_by_test_id("A-noise-4").click()
    assert checked(page) == [("A", "noise", 4)]


def test_nothing_moves_at_the_largest_zoom(page):
    for _ in range(12):
        page.keyboard.press("+")
    x, y = 200, 300
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 10)
    page.mouse.up()
    moved = box(page, "A")
    page.keyboard.press("+")
    assert box(page, "A") == moved


def test_nothing_is_saved_without_a_reader(page):
    page.get_by_test_id("save").click()
    assert page.get_by_test_id("state").text_content() == "Enter the reader's code first."


def test_ratings_stay_and_are_saved(context, page, address):
    page.get_by_test_id("reader").fill("=R1")
    for letter in "ABC":
        for mark, criterion in enumerate(CRITERIA, 1):
            page.get_by_test_id(f"{letter}-{criterion}-{mark}").click()
    page.get_by_test_id("state").filter(has_text="All ratings are given").wait_for()
    page.close()
    again = opened(context, address)
    again.get_by_test_id("reader").fill("=R1")
    assert again.get_by_test_id("state").text_content() == "All ratings are given."
    with again.expect_download() as download:
        again.get_by_test_id("save").click()
    with open(download.value.path(), newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["series"] for row in rows] == ["A", "B", "C"]
    assert {row["reader"] for row in rows} == {"'=R1"}
    assert all([row[criterion] for criterion in CRITERIA] == ["1", "2", "3", "4"] for row in rows)
