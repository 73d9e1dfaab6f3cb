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
from collections.abc import Awaitable, Callable, Iterable
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
PATIENCE_SECONDS = 120.0
VIEWS = [f"XVS{row}{plane}" for row in ("Original", "Enhanced") for plane in ("Axial", "Coronal", "Sagittal")]
VIEW = "XVSEnhancedAxial"
NAN, INFINITY = float("nan"), float("inf")
NO_NUMBERS = [NAN, INFINITY, -INFINITY, 1e300, 2**63 - 1, -(2**63), "1", None, [], {}, True]
ASK = {"wslink": "1.0", "id": "rpc:c0:1", "method": "trame.state.get", "args": [], "kwargs": {}}

Step = Callable[[RawPage], Awaitable[object]]
ATTACKS: dict[str, Callable[[Served], Awaitable[Counter]]] = {}


def attack(function: Callable) -> Callable:
    """Add a function to the attacks, under its own name."""
    ATTACKS[function.__name__.replace("_", " ")] = function
    return function


async def outcome(work: Awaitable[object]) -> str:
    """What becomes of one step."""
    try:
        await asyncio.wait_for(work, PATIENCE_SECONDS)
    except RefusedCall:
        return "refused"
    except (GoneViewer, aiohttp.ClientError, ConnectionError):
        return "dropped"
    except TimeoutError:
        return "no answer"
    return "answered"


async def each(served: Served, steps: Iterable[Step]) -> Counter:
    """What becomes of steps, on a new page after one that was dropped."""
    outcomes: Counter = Counter()
    waiting = list(steps)[::-1]
    while waiting:
        try:
            async with raw_page(served) as page:
                lasting = True
                while waiting and lasting:
                    became = await outcome(waiting.pop()(page))
                    outcomes[became] += 1
                    lasting = became in ("answered", "refused")
        except GoneViewer:
            outcomes["kept out"] += 1
            waiting and waiting.pop()
    return outcomes


def calling(*call: object) -> Step:
    """A step that makes a call."""
    return lambda page: page.call(*call)


def sending(*messages: bytes | str) -> Step:
    """A step that sends messages as they are, and asks for the state then."""

    async def send(page: RawPage) -> None:
        for message in messages:
            await (page.socket.send_str(message) if isinstance(message, str) else page.send(message))
        await page.get_state()

    return send


@attack
async def coordinates_that_are_none(served: Served) -> Counter:
    kinds = ["MouseMove", "MouseWheel", "LeftButtonPress", "RightButtonPress", "Pinch", "Pan", "Tap", "KeyPress", 7]
    events = [{"type": kind, "spinY": 1, name: odd} for kind in kinds for name in "xyw" for odd in NO_NUMBERS]
    events += [{"type": "MouseWheel", name: odd} for name in ("spinY", "ctrlKey", "type") for odd in NO_NUMBERS]
    return await each(served, [lambda page, event=event: page.event(VIEW, **event) for event in events])


@attack
async def views_of_16000_pixels(served: Served) -> Counter:
    sizes = [(16000, 16000, 1), (16000, 16000, 8), (1, 16000, 8), (10**9, 10**9, 1), (NAN, 1, 1), (1, INFINITY, 1)]
    sizes += [(-5, -5, 1), (0, 0, 0), ("a", [], {}), (4096, 4096, NAN)]

    async def scroll(page: RawPage) -> None:
        for view in VIEWS:
            await page.resize(view, 16000, 16000)
        for index in range(0, 8, 2):
            await page.set(index_Axial=index)
            await page.new_picture(VIEW, page.pictures.get(VIEW, b""))

    steps = [lambda page, view=view, size=size: page.resize(view, *size) for size in sizes for view in VIEWS]
    return await each(served, [*steps, scroll])


@attack
async def messages_announced_with_2_GB(served: Served) -> Counter:
    sizes = [2**31, 2**32 - 1, 2**30, 100_000_000] * 5
    odd = [framed(b"x" * 100, 1000, 900), framed(b"x" * 100, 10, 2**31), framed(b"x" * 100, 0)]
    return await each(served, map(sending, [*(framed(b"x" * 100, size) for size in sizes), *odd]))


@attack
async def messages_left_unfinished(served: Served) -> Counter:
    return await each(served, [sending(*(framed(b"x" * 1000, 3_000_000) for _ in range(60)))] * 5)


@attack
async def junk_of_10_MB(served: Served) -> Counter:
    junk = [bytes(range(256)) * 40_000] * 10
    return await each(served, map(sending, [*junk, "{" * 10_000_000, "[" * 1_000_000, "x", bytes(5), b""]))


@attack
async def state_of_3_MB(served: Served) -> Counter:
    keys = ["index_Axial", "window", *(f"new_{number}" for number in range(38))]
    return await each(served, [lambda page, key=key: page.set(**{key: "x" * 3_000_000}) for key in keys])


@attack
async def state_that_no_page_sets(served: Served) -> Counter:
    known = ["opacity", "swapped", "window", "factor", "index_Axial"]
    unknown = ["trame__template_main", "trame__scripts", "name", "said", "status", "__class__", *map(str, range(500))]
    values = [(key, odd) for key in known for odd in [*NO_NUMBERS, -1, 10**6, "x" * 10_000, {"a": [1]}]]
    values += [(key, "<b>") for key in unknown]
    return await each(served, [lambda page, key=key, value=value: page.set(**{key: value}) for key, value in values])


@attack
async def calls_to_exit(served: Served) -> Counter:
    calls = [("application.exit",), ("application.exit.later", 0), ("trame.lifecycle.update", "server_exited")]
    return await each(served, [calling(*call) for call in calls])


@attack
async def methods_that_no_page_calls(served: Served) -> Counter:
    calls = [
        ("trame.force.push", "trame__template_main", "nothing"),
        ("trame.rca.push", VIEW, {"type": "image/jpeg"}, b"x"),
        ("trame.rca.drop", VIEW, -1),
        ("trame.rca.video.negotiate", VIEW, ["h264"]),
        ("trame.trigger", "on_server_exited", [], {}),
        ("trame.trigger", "trigger__1", ["a"] * 100, {"b": 1}),
        ("file.server.directory.list", "/"),
        ("viewport.size", 1, 16000, 16000),
        ("viewport.mouse.interaction", {"x": NAN}),
        ("unsubscribe", "trame.state.topic"),
        ("x" * 60_000,),
    ]
    return await each(served, [calling(*call) for call in calls * 20])


@attack
async def deep_and_wide_msgpack(served: Served) -> Counter:
    bodies = [b"\x91" * 60_000 + b"\xc0", b"\x81\xa1a" * 20_000 + b"\xc0", b"\x90" * 60_000, b"\xc1", b""]
    bodies += [b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count for count in (60_000, 3_000_000)]
    bodies += [kind + b"\xff\xff\xff\xff\x05" for kind in (b"\xdd", b"\xdf", b"\xc9", b"\xdb", b"\xc6")]
    shapes = [[1, 2], {"id": "rpc:c0:1"}, {"id": 1, "method": 2, "args": 3}, {**ASK, "args": None}, {**ASK, "id": None}]
    bodies += [msgpack.packb(shape) for shape in shapes]
    return await each(served, [sending(framed(body, len(body))) for body in bodies])


@attack
async def half_open_connections(served: Served) -> Counter:
    outcomes: Counter = Counter()
    begun = [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "]
    connections = [socket.create_connection(("127.0.0.1", served.port), 5) for _ in range(200)]
    for number, connection in enumerate(connections):
        with suppress(OSError):
            connection.sendall(begun[number % 3])
    outcomes["a page meanwhile " + await outcome(scrolls(served))] += 1
    await asyncio.sleep(12)
    for connection in connections:
        outcomes[state_of(connection)] += 1
        connection.close()
    return outcomes


def state_of(connection: socket.socket) -> str:
    """Whether a connection, on which nothing was asked, is still open."""
    connection.settimeout(0.01)
    try:
        return "answered" if connection.recv(1) else "dropped"
    except ConnectionError:
        return "dropped"
    except OSError:
        return "still open"


@attack
async def large_requests(served: Served) -> Counter:
    head = b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    requests = [
        b"GET /" + b"a" * 5_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /" + head + b"X: y\r\n" * 500_000,
        b"GET /" + head + b"X: " + b"z" * 5_000_000 + b"\r\n\r\n",
        b"POST /" + head + b"Content-Length: 9999999999\r\n\r\n" + b"b" * 20_000_000,
        (b"GET /vue.global.js" + head + b"\r\n") * 20_000,
    ]
    return Counter([await asyncio.to_thread(answer_to, served.port, request) for request in requests])


def answer_to(port: int, request: bytes) -> str:
    """How a port answers to bytes, whose sender reads nothing before all is sent."""
    with socket.create_connection(("127.0.0.1", port), 15) as connection:
        try:
            connection.sendall(request)
            return connection.recv(12).decode() or "dropped"
        except ConnectionError:
            return "dropped"
        except OSError:
            return "not taken"


@attack
async def reconnect_storm(served: Served) -> Counter:
    async def come_and_go() -> None:
        async with raw_page(served) as page:
            await page.resize(VIEW, 100, 100)

    outcomes: Counter = Counter()
    for _ in range(10):
        outcomes.update(await asyncio.gather(*(outcome(come_and_go()) for _ in range(40))))
    return outcomes


@attack
async def many_pages_at_once(served: Served) -> Counter:
    async with AsyncExitStack() as stack:
        opening = [stack.enter_async_context(raw_page(served, greet=number % 2 == 0)) for number in range(60)]
        return Counter([await outcome(page) for page in opening])


@attack
async def pages_that_read_nothing(served: Served) -> Counter:
    async with AsyncExitStack() as stack:
        for _ in range(5):
            deaf = await stack.enter_async_context(raw_page(served))
            with suppress(asyncio.TimeoutError, GoneViewer):
                await asyncio.wait_for(sending(*[packed(ASK)] * 20_000)(deaf), 4)
        end = time.monotonic() + 30
        outcomes: Counter = Counter()
        while time.monotonic() < end:
            outcomes["a page meanwhile " + await outcome(scrolls(served))] += 1
        return outcomes


@attack
async def flood_of_events(served: Served) -> Counter:
    keys = dict.fromkeys(("shiftKey", "altKey", "ctrlKey"), 0)
    moves = [{"type": "MouseMove", "x": x % 300, "y": 9, "w": 300, "h": 200, **keys} for x in range(3000)]
    calls = [{**ASK, "method": "trame.rca.event", "args": [VIEW, "", move]} for move in moves]
    return await each(served, [sending(*map(packed, calls))])


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
        for _ in range(30):
            for kind, size in (("StartPinch", 1.0), ("Pinch", factor), ("EndPinch", factor)):
                await page.event(VIEW, type=kind, positions=places, factor=size)
        await drag(page, "Right")

    return await each(served, [lambda page, factor=factor: zoom(page, factor) for factor in (100.0, 0.01)])


@attack
async def window_without_end(served: Served) -> Counter:
    return await each(served, [lambda page: drag(page, "Left"), lambda page: page.set(window="Lung")])


async def drag(page: RawPage, button: str) -> None:
    """Move the mouse far up and down with a button pressed."""
    await page.event(VIEW, type=f"{button}ButtonPress")
    for number in range(40):
        await page.event(VIEW, type="MouseMove", x=150, y=(-1) ** (number // 9) * 10**6)
        await page.event(VIEW, type="MouseMove")
    await page.event(VIEW, type=f"{button}ButtonRelease")


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
    """Run attacks, on a new viewer after one that did harm; 1 where one did."""
    waiting, harmed = names[::-1], False
    while waiting:
        with viewer(*scans) as served:
            # The first picture takes memory that stays.
            asyncio.run(scrolls(served))
            sound = True
            while waiting and sound:
                sound = asyncio.run(run_attack(served, waiting.pop()))
            harmed |= not sound
    return int(harmed)


async def run_attack(served: Served, name: str) -> bool:
    """Run one attack and print its row; whether the viewer is none the worse."""
    before = memory(served)
    outcomes = await ATTACKS[name](served)
    after = await settled(served, before)
    alive = served.process.poll() is None
    works = alive and await outcome(scrolls(served)) == "answered"
    became = ", ".join(f"{what} {count}" for what, count in outcomes.most_common())
    marks = ["yes" if sound else "NO" for sound in (alive, works)]
    print(f"| {name} | {became} | {' | '.join(marks)} | {before:.0f} | {after:.0f} |", flush=True)
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


def make_scans(folder: Path, slices: int, pixels: int) -> list[Path]:
    """A scan made by formula, and one with twice as many slices."""
    from scans import affine_from, anatomy
    from XViewSynthLib import Volume, write_volume
    from XViewSynthLib.geometry.interpolation import upsample

    scan = Volume(anatomy((slices, pixels, pixels)), affine_from(), slice_thickness=4.0)
    paths = [folder / "scan.nrrd", folder / "enhanced.nrrd"]
    for volume, path in zip((scan, upsample(scan, 2, "K", "linear")), paths):
        write_volume(volume, path)
    return paths


if __name__ == "__main__":
    sys.exit(main())
