"""Attack the viewer in the browser as a hostile program on the same computer would, and see what it survives.

    python Testing/benchmarks/attack_viewer.py [NAME ...] [--slices 24] [--pixels 128]

Starts `xviewsynth view` on a small scan and its enhancement, runs each attack (or those named) over raw connections,
and prints a table: what became of the attack, whether the viewer is alive, whether a page then scrolls and gets a new
picture, and the memory of its process before and after, MB. Exits with 1 where the viewer died, where the page does not
work, or where the memory stays more than 100 MB above what it was before.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
import msgpack
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "XViewSynth")]

from raw_page import GoneViewer, RawPage, RefusedCall, framed, packed, raw_page, scrolls  # noqa: E402
from web import Served, viewer  # noqa: E402

MOST_GROWTH_MB = 100
# Memory is given back, and connections are dropped, within this time.
SETTLE_SECONDS = 20.0
PATIENCE_SECONDS = 60.0
VIEWS = [f"XVS{row}{plane}" for row in ("Original", "Enhanced") for plane in ("Axial", "Coronal", "Sagittal")]
VIEW = "XVSEnhancedAxial"
NAN, INFINITY = float("nan"), float("inf")

Attack = Callable[[Served], Awaitable[Counter]]
ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    """Add a function to the attacks, under its own name."""
    ATTACKS[function.__name__.replace("_", " ")] = function
    return function


async def outcome(work: Awaitable[object]) -> str:
    """What becomes of one call."""
    try:
        await asyncio.wait_for(work, PATIENCE_SECONDS)
    except RefusedCall:
        return "refused"
    except (GoneViewer, aiohttp.ClientError, ConnectionError):
        return "dropped"
    except TimeoutError:
        return "no answer"
    return "answered"


async def each(served: Served, calls: list[Callable[[RawPage], Awaitable[object]]]) -> Counter:
    """What becomes of calls, each on a page of its own where the one before was dropped."""
    outcomes: Counter = Counter()
    waiting = list(reversed(calls))
    while waiting:
        try:
            async with raw_page(served) as page:
                while waiting:
                    outcomes[came := await outcome(waiting.pop()(page))] += 1
                    if came != "answered" and came != "refused":
                        break
        except GoneViewer:
            outcomes["dropped"] += 1
            if waiting:
                waiting.pop()
    return outcomes


@attack
async def coordinates_that_are_none(served: Served) -> Counter:
    odd = [NAN, INFINITY, -INFINITY, 1e300, 2**63 - 1, -(2**63), "1", None, [], {}, True]
    kinds = [
        "MouseMove",
        "MouseWheel",
        "LeftButtonPress",
        "RightButtonPress",
        "Pinch",
        "Pan",
        "Tap",
        "KeyPress",
        7,
        None,
    ]
    events = [{"type": kind, "spinY": 1, name: value} for kind in kinds for name in "xyw" for value in odd]
    events += [{"type": "MouseWheel", "spinY": value} for value in odd]
    events += [{"type": "LeftButtonPress", "ctrlKey": value} for value in odd]
    return await each(served, [lambda page, event=event: page.event(VIEW, **event) for event in events])


@attack
async def views_of_16000_pixels(served: Served) -> Counter:
    sizes = [(16000, 16000, 1), (16000, 16000, 8), (1, 16000, 8), (10**9, 10**9, 1), (NAN, 1, 1), (1, INFINITY, 1)]
    sizes += [(-5, -5, 1), (0, 0, 0), ("a", [], {}), (4096, 4096, NAN)]
    calls = [lambda page, view=view, size=size: page.resize(view, *size) for size in sizes for view in VIEWS]
    outcomes = await each(served, calls)

    async def look(page: RawPage) -> None:
        for view in VIEWS:
            await page.resize(view, 16000, 16000)
        for index in range(6):
            await page.set(index_Axial=index)
            await page.new_picture(VIEW, page.pictures.get(VIEW, b""))

    return outcomes + await each(served, [look])


@attack
async def messages_announced_with_2_GB(served: Served) -> Counter:
    def announce(size: int, offset: int = 0) -> Callable[[RawPage], Awaitable[object]]:
        async def call(page: RawPage) -> None:
            await page.send(framed(b"x" * 100, size, offset))
            await page.get_state()

        return call

    sizes = [2**31, 2**32 - 1, 2**30, 100_000_000] * 5
    return await each(served, [*map(announce, sizes), announce(1000, 900), announce(10, 2**31)])


@attack
async def unfinished_messages(served: Served) -> Counter:
    async def leave_open(page: RawPage) -> None:
        for _ in range(60):
            await page.send(framed(b"x" * 1000, 3_000_000))
        await page.get_state()

    return await each(served, [leave_open] * 5)


@attack
async def junk_of_10_MB(served: Served) -> Counter:
    async def junk(page: RawPage) -> None:
        await page.send(bytes(range(256)) * 40_000)
        await page.get_state()

    async def text(page: RawPage) -> None:
        await page.socket.send_str("{" * 1_000_000)
        await page.get_state()

    async def short(page: RawPage) -> None:
        await page.send(b"\x00" * 5)
        await page.get_state()

    return await each(served, [*[junk] * 10, *[text] * 5, short])


@attack
async def state_of_3_MB(served: Served) -> Counter:
    value = "x" * 3_000_000
    keys = ["index_Axial", "window", *(f"new_{number}" for number in range(38))]
    return await each(served, [lambda page, key=key: page.set(**{key: value}) for key in keys])


@attack
async def state_that_no_page_sets(served: Served) -> Counter:
    odd = [NAN, -1, 10**6, "1", None, [], {"a": 1}, "x" * 10_000]
    known = ["opacity", "swapped", "window", "factor", "index_Axial"]
    unknown = [
        "trame__template_main",
        "trame__scripts",
        "name",
        "said",
        "status",
        "__class__",
        "slices_Axial",
    ]
    values = [(key, value) for key in known for value in odd] + [(key, "<b>") for key in unknown]
    return await each(served, [lambda page, key=key, value=value: page.set(**{key: value}) for key, value in values])


@attack
async def calls_to_exit(served: Served) -> Counter:
    calls = [("application.exit",), ("application.exit.later", 0), ("trame.lifecycle.update", "server_exited")]
    return await each(served, [lambda page, call=call: page.call(*call) for call in calls])


@attack
async def methods_that_no_page_calls(served: Served) -> Counter:
    calls = [
        ("trame.force.push", "trame__template_main", "nothing"),
        ("trame.rca.push", VIEW, {"type": "image/jpeg"}, b"x"),
        ("trame.rca.drop", VIEW, -1),
        ("trame.rca.reset", VIEW),
        ("trame.rca.video.negotiate", VIEW, ["h264"]),
        ("trame.trigger", "on_server_exited", [], {}),
        ("trame.trigger", "trigger__1", ["a"] * 100, {"b": 1}),
        ("trame.trigger", "trigger__999", [], {}),
        ("file.server.directory.list", "/"),
        ("viewport.size", 1, 16000, 16000),
        ("viewport.mouse.interaction", {"x": NAN}),
        ("unsubscribe", "trame.state.topic"),
        ("wslink.hello",),
        ("__init__",),
        ("x" * 60_000,),
    ]
    return await each(served, [lambda page, call=call: page.call(*call) for call in calls * 20])


@attack
async def deep_and_wide_msgpack(served: Served) -> Counter:
    bodies = [
        b"\x91" * 60_000 + b"\xc0",
        b"\x81\xa1a" * 20_000 + b"\xc0",
        b"\x90" * 60_000,
        b"\xdd" + (60_000).to_bytes(4, "big") + b"\x90" * 60_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\xdb\xff\xff\xff\xff",
        b"\xc1",
        b"",
        msgpack.packb([1, 2]),
        msgpack.packb({"id": "rpc:c0:1"}),
        msgpack.packb({"id": 1, "method": 2, "args": 3}),
        msgpack.packb({"id": "rpc:c0:1", "method": "trame.state.get", "args": None}),
    ]

    def send(body: bytes) -> Callable[[RawPage], Awaitable[object]]:
        async def call(page: RawPage) -> None:
            await page.send(framed(body, len(body)))
            await page.get_state()

        return call

    large = [b"\xdd" + (3_000_000).to_bytes(4, "big") + b"\x90" * 3_000_000] * 5
    return await each(served, [send(body) for body in [*bodies, *large]])


@attack
async def half_open_connections(served: Served) -> Counter:
    outcomes: Counter = Counter()
    sockets = []
    for number in range(200):
        with suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", served.port), 5)
            connection.sendall([b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "][number % 3])
            sockets.append(connection)
    outcomes["page opens meanwhile" if await asyncio.wait_for(scrolls(served), PATIENCE_SECONDS) else "no page"] += 1
    await asyncio.sleep(12)
    for connection in sockets:
        connection.settimeout(0.01)
        try:
            outcomes["dropped" if connection.recv(1) == b"" else "answered"] += 1
        except ConnectionError:
            outcomes["dropped"] += 1
        except OSError:
            outcomes["still open"] += 1
        connection.close()
    return outcomes


@attack
async def large_requests(served: Served) -> Counter:
    requests = [
        b"GET /" + b"a" * 5_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 500_000,
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"z" * 5_000_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999999\r\n\r\n" + b"b" * 20_000_000,
        b"GET /vue.global.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20_000,
    ]
    outcomes: Counter = Counter()
    for request in requests:
        outcomes[await asyncio.to_thread(send_request, served.port, request)] += 1
    return outcomes


def send_request(port: int, request: bytes) -> str:
    """What becomes of bytes sent to a port; its answers are not read before all is sent."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.settimeout(15)
        try:
            connection.sendall(request)
            return connection.recv(12).decode() or "dropped"
        except ConnectionError:
            return "dropped"
        except OSError:
            return "not taken"


@attack
async def reconnect_storm(served: Served) -> Counter:
    async def visit() -> str:
        async def come_and_go() -> None:
            async with raw_page(served) as page:
                await page.resize(VIEW, 100, 100)

        return await outcome(come_and_go())

    outcomes: Counter = Counter()
    for _ in range(10):
        outcomes.update(await asyncio.gather(*(visit() for _ in range(40))))
    return outcomes


@attack
async def many_pages_at_once(served: Served) -> Counter:
    outcomes: Counter = Counter()
    async with AsyncExitStack() as stack:
        for number in range(60):
            try:
                await stack.enter_async_context(raw_page(served, greet=number % 2 == 0))
                outcomes["opened"] += 1
            except GoneViewer:
                outcomes["refused"] += 1
    return outcomes


@attack
async def pages_that_read_nothing(served: Served) -> Counter:
    outcomes: Counter = Counter()
    async with AsyncExitStack() as stack:
        deaf = [await stack.enter_async_context(raw_page(served)) for _ in range(5)]
        ask = packed({"wslink": "1.0", "id": "rpc:c0:1", "method": "trame.state.get", "args": [], "kwargs": {}})
        for page in deaf:
            with suppress(asyncio.TimeoutError, GoneViewer):
                await asyncio.wait_for(ask_again(page, ask, 20_000), 4)
        speaking = await stack.enter_async_context(raw_page(served))
        for view in VIEWS:
            await speaking.resize(view, 1500, 1200)
        end = time.monotonic() + 15
        while time.monotonic() < end:
            for index in range(8):
                await speaking.set(index_Axial=index)
            await asyncio.sleep(0.05)
        outcomes["others served meanwhile"] += 1
    return outcomes


async def ask_again(page: RawPage, message: bytes, times: int) -> None:
    """Send a message many times, and read no answer."""
    for _ in range(times):
        await page.send(message)


@attack
async def flood_of_events(served: Served) -> Counter:
    async def flood(page: RawPage) -> None:
        keys = dict.fromkeys(("shiftKey", "altKey", "ctrlKey"), 0)
        for number in range(3000):
            event = {"type": "MouseMove", "x": number % 300, "y": 9, "w": 300, "h": 200, **keys}
            await page.send(packed({"id": "rpc:c0:1", "method": "trame.rca.event", "args": [VIEW, "", event]}))
        await page.get_state()

    return await each(served, [flood])


@attack
async def flood_of_pings(served: Served) -> Counter:
    async def flood(page: RawPage) -> None:
        for number in range(50_000):
            await page.socket.ping()
            if number % 1000 == 0:
                await page.get_state()

    return await each(served, [flood])


@attack
async def zoom_without_end(served: Served) -> Counter:
    async def zoom(page: RawPage, factor: float) -> None:
        places = {"0": {"x": 100, "y": 100}, "1": {"x": 200, "y": 100}}
        for _ in range(150):
            for kind, size in (("StartPinch", 1.0), ("Pinch", factor), ("EndPinch", factor)):
                await page.event(VIEW, type=kind, positions=places, factor=size)
        await page.event(VIEW, type="RightButtonPress")
        for _ in range(50):
            await page.event(VIEW, type="MouseMove", y=-(10**6))
            await page.event(VIEW, type="MouseMove", y=10**6)
        await page.event(VIEW, type="RightButtonRelease")

    calls = [lambda page, factor=factor: zoom(page, factor) for factor in (100.0, 0.01)]
    return await each(served, calls)


@attack
async def window_without_end(served: Served) -> Counter:
    async def drag(page: RawPage) -> None:
        await page.event(VIEW, type="LeftButtonPress")
        for number in range(300):
            await page.event(VIEW, type="MouseMove", x=(-1) ** (number // 9) * 10**6, y=10**6)
            await page.event(VIEW, type="MouseMove", x=150, y=100)
        await page.event(VIEW, type="LeftButtonRelease")
        await page.set(window="Lung")

    return await each(served, [drag])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("attacks", nargs="*", choices=[[], *ATTACKS], metavar="NAME", help="default: all")
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--pixels", type=int, default=128)
    arguments = parser.parse_args()
    print("| attack | what became of it | alive | page works | MB before | MB after |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        scans = make_scans(Path(folder), arguments.slices, arguments.pixels)
        return survive(scans, arguments.attacks or list(ATTACKS))


def survive(scans: list[Path], names: list[str]) -> int:
    """Run attacks, on a new viewer after one that killed it; 1 where one did harm."""
    harmed = False
    waiting = list(reversed(names))
    while waiting:
        with viewer(*scans) as served:
            # The first picture takes memory that stays.
            asyncio.run(scrolls(served))
            while waiting:
                sound = asyncio.run(run_attack(served, waiting.pop()))
                harmed |= not sound
                if served.process.poll() is not None:
                    break
    return int(harmed)


async def run_attack(served: Served, name: str) -> bool:
    """Run one attack and print its row; whether the viewer is none the worse."""
    before = memory(served)
    outcomes = await ATTACKS[name](served)
    after = await settled(served, before)
    alive = served.process.poll() is None
    works = alive and await outcome(scrolls(served)) == "answered"
    became = ", ".join(f"{what} {count}" for what, count in outcomes.most_common())
    print(f"| {name} | {became} | {yes(alive)} | {yes(works)} | {before:.0f} | {after:.0f} |", flush=True)
    return alive and works and after - before <= MOST_GROWTH_MB


async def settled(served: Served, before: float) -> float:
    """Memory once it is back near what it was before, or after some time."""
    end = time.monotonic() + SETTLE_SECONDS
    while (now := memory(served)) > before + MOST_GROWTH_MB / 2 and time.monotonic() < end:
        await asyncio.sleep(0.5)
    return now


def memory(served: Served) -> float:
    """Resident memory of a viewer, MB; 0 once it has ended."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(served.process.pid).memory_info().rss / 1e6
    return 0.0


def yes(what: bool) -> str:
    """A word for a table."""
    return "yes" if what else "NO"


def make_scans(folder: Path, slices: int, pixels: int) -> list[Path]:
    """A scan made by formula, and one with twice as many slices."""
    from scans import affine_from, anatomy
    from XViewSynthLib import Volume, write_volume
    from XViewSynthLib.baselines import upsample

    scan = Volume(anatomy((slices, pixels, pixels)), affine_from(), slice_thickness=4.0)
    paths = [folder / "scan.nrrd", folder / "enhanced.nrrd"]
    for volume, path in zip((scan, upsample(scan, 2, "K", "linear")), paths):
        write_volume(volume, path)
    return paths


if __name__ == "__main__":
    sys.exit(main())
