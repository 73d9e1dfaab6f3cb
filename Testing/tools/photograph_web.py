"""Photograph the viewer in the browser: Resources/Screenshots/web_*.png.

    python Testing/tools/photograph_web.py SCAN ENHANCED --uncertainty FILE [--report REPORT.json]

The files are what `xviewsynth enhance SCAN ENHANCED --uncertainty FILE --report REPORT.json` read and wrote. A browser
without a window takes the pictures: the page that offers the enhancement, that with the enhancement at work, and that
with its result.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "XViewSynth"), str(REPOSITORY / "Testing")]

import web  # noqa: E402

SCREENSHOTS = REPOSITORY / "Resources" / "Screenshots"
# The last pictures of the views, of better quality, come when nothing has moved for a moment.
SETTLE_MS = 3000
PATIENCE_MS = 1_200_000


def main() -> None:
    """Write the pictures."""
    arguments = read_arguments()
    if web.why_no_browser():
        raise SystemExit(f"error: {web.why_no_browser()}")
    with web.browser() as browser:
        width, height = arguments.size
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE_MS)
        if not arguments.result_only:
            with web.viewer(arguments.scan) as served:
                page.goto(served.address)
                choose_window(page, arguments.window)
                photograph(page, arguments.output / "web_offer.png")
                page.get_by_test_id("enhance").click()
                page.wait_for_function("document.querySelector('[data-test=time-left]')?.innerText.includes('left')")
                photograph(page, arguments.output / "web_running.png")
        named = ["--uncertainty", arguments.uncertainty] if arguments.uncertainty else []
        named += ["--report", arguments.report] if arguments.report else []
        with web.viewer(arguments.scan, arguments.enhanced, *named) as served:
            page.goto(served.address)
            choose_window(page, arguments.window)
            for plane, steps in zip(("Axial", "Coronal", "Sagittal"), arguments.steps):
                slider = page.get_by_test_id(f"slice-{plane}").get_by_role("slider")
                for _ in range(abs(steps)):
                    slider.press("ArrowRight" if steps > 0 else "ArrowLeft")
            page.mouse.move(0, 0)
            photograph(page, arguments.output / "web_views.png")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Photograph the viewer in the browser.")
    parser.add_argument("scan", type=Path)
    parser.add_argument("enhanced", type=Path)
    parser.add_argument("--uncertainty", type=Path, help="becomes the overlay")
    parser.add_argument("--report", type=Path, help="of the enhancement, JSON")
    parser.add_argument("--window", default="Lung", help="its name on the page")
    parser.add_argument(
        "--steps", type=int, nargs=3, default=(2, 0, 0), metavar="N", help="slices to scroll: axial, coronal, sagittal"
    )
    parser.add_argument("--size", type=int, nargs=2, default=(1480, 900), metavar=("WIDTH", "HEIGHT"), help="pixels")
    parser.add_argument("--result-only", action="store_true", help="leave out the pictures of the enhancement at work")
    parser.add_argument("--output", type=Path, default=SCREENSHOTS, metavar="FOLDER")
    return parser.parse_args()


def choose_window(page, name: str) -> None:
    """Choose a window from the page's list."""
    page.get_by_test_id("window").click()
    page.get_by_role("option", name=name).click()


def photograph(page, path: Path) -> None:
    """Write a picture of the page once it stands still."""
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=path)
    print(path)


if __name__ == "__main__":
    main()
