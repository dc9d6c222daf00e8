"""A model's server on loopback that sees: it reads contact sheets pixel by pixel, and misbehaves on demand.

Pictures made by :func:`scene` carry in their colours which subtask is under way, which frame they are, and whether
the attempt and the episode succeed. The server reads that from the JPEGs it is sent, so its answers are right only if
the right frames came, in an order and with times that it can tell. Run as a program, it is what a serve command starts.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import itertools
import json
import os
import random
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

#: Pictures of scenes, and the tiles that they become: (width, height).
SIZE, TILE = (96, 72), 96
NAMES = ("reach the cup", "grasp the cup", "move to the shelf", "place the cup")
#: Other names for the same, as a model may give them.
VARIANTS = {
    "reach the cup": ("reach the cup", "Reach the cup.", "move towards the cup"),
    "grasp the cup": ("grasp the cup", "grasp a cup", "pick up the cup"),
    "move to the shelf": ("move to the shelf", "Move to shelf", "move to the shelf"),
    "place the cup": ("place the cup", "place cup", "put down the cup"),
}
_COLORS = np.array([[220, 40, 40], [40, 200, 40], [50, 60, 220], [220, 200, 40]])

#: (name, start, end, done), frames.
Truth = Sequence[tuple[str, int, int, bool]]


def scene(frame: int, subtask: int, *, done: bool = True, success: bool = True) -> np.ndarray:
    """A picture, uint8 [72, 96, 3], that says all a model needs; the upper part is left to the time's badge."""
    out = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
    out[24:48, :64] = _COLORS[subtask]
    out[24:48, 64:] = 255 if done else 60
    for block, value in enumerate((frame // 256, frame // 16 % 16, frame % 16)):
        out[48:, block * 24 : (block + 1) * 24] = value * 16 + 8
    out[48:, 72:] = 240 if success else 50
    return out


def scenes(truth: Truth, *, success: bool = True) -> list[np.ndarray]:
    """The pictures of an episode."""
    return [
        scene(f, NAMES.index(name), done=done, success=success)
        for name, start, end, done in truth
        for f in range(start, end)
    ]


@dataclass(frozen=True)
class Look:
    """What one tile shows."""

    frame: int
    subtask: int
    done: bool
    success: bool


def looks(messages: list[dict[str, Any]]) -> list[Look]:
    """What the contact sheets of a request show, in the order of the sheets."""
    from PIL import Image

    found = []
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] != "image_url":
                continue
            head, data = part["image_url"]["url"].split(",", 1)
            assert head == "data:image/jpeg;base64"
            sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
            width, height = TILE, TILE * SIZE[1] // SIZE[0]
            assert sheet.shape[0] % height == 0 and sheet.shape[1] % width == 0, sheet.shape
            for y, x in itertools.product(range(0, sheet.shape[0], height), range(0, sheet.shape[1], width)):
                tile = sheet[y : y + height, x : x + width]
                color = tile[30:42, 8:56].mean(axis=(0, 1))
                if color.max() < 30:
                    continue
                hi, mid, lo = (int(tile[54:68, b * 24 + 6 : b * 24 + 18].mean() // 16) for b in range(3))
                subtask = int(np.abs(_COLORS - color).sum(axis=1).argmin())
                done, success = tile[30:42, 72:90].mean() > 150, tile[54:68, 78:92].mean() > 150
                found.append(Look(hi * 256 + mid * 16 + lo, subtask, bool(done), bool(success)))
    return found


def _text(messages: list[dict[str, Any]]) -> str:
    parts = messages[0]["content"]
    return parts if isinstance(parts, str) else "\n".join(p["text"] for p in parts if p["type"] == "text")


@dataclass
class Options:
    """How the server behaves.

    Attributes:
        fps: of the recordings.
        fault: what goes wrong with a call, by its number: 500, hang, drip, cut, page, prose, json, names, beyond, …
        schema: whether it takes JSON schemas.
        refusal: what it says where it takes none.
        key: that it asks for.
        delay: seconds before it answers.
        open_names: it gives names of its own, another spelling an episode.
        busy: of the first calls, how many are told to come again after a second.
        lacks: parameters that it does not take.
    """

    fps: float = 10.0
    fault: Callable[[int], str | None] = lambda number: None
    schema: bool = True
    refusal: str = "response_format.type must be text"
    key: str | None = None
    delay: float = 0.0
    open_names: bool = False
    busy: int = 0
    lacks: tuple[str, ...] = ()
    answer: Callable[[str, dict[str, Any]], str | None] = lambda kind, body: None


@dataclass
class VlmServer:
    """The server's doings, for tests to look at.

    Attributes:
        bodies: requests to /chat/completions, as they came.
        most: calls that were in flight at a time, at most.
    """

    options: Options
    base_url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)
    most: int = 0
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def digests(self) -> list[str]:
        """Requests by content."""
        return [hashlib.sha256(json.dumps(b, sort_keys=True).encode()).hexdigest() for b in self.bodies]

    def kind(self, body: dict[str, Any]) -> str:
        text = _text(body["messages"])
        return "describe" if "Describe in the order" in text else "merge" if '{"merge"' in text else "segment"

    def reply(self, body: dict[str, Any], fault: str | None) -> str:
        """The content of the answer."""
        kind = self.kind(body)
        said = self.options.answer(kind, body)
        if said is not None:
            return said
        if fault == "prose":
            return "I am sorry, but the robot in these pictures seems to be doing several things at once."
        if kind == "describe":
            return "The robot moves: " + ", ".join(f"{x.subtask}@{x.frame}" for x in looks(body["messages"])[::7])
        if kind == "merge":
            return self._merge(_text(body["messages"]))
        return self._segment(body, fault)

    def _segment(self, body: dict[str, Any], fault: str | None) -> str:
        text = _text(body["messages"])
        low, high = map(float, re.search(r"Divide ([\d.]+) s to ([\d.]+) s", text).groups())
        seen = sorted(set(looks(body["messages"])), key=lambda x: x.frame)
        assert [x.frame for x in seen] == [x.frame for x in sorted(seen, key=lambda x: x.frame)]
        subtasks: list[dict[str, Any]] = []
        for group in _runs(seen):
            start = low if not subtasks else group[0].frame / self.options.fps
            if subtasks:
                subtasks[-1]["end"] = start
            name = NAMES[group[0].subtask]
            if self.options.open_names:
                # The first frame that it sees decides how this model words things.
                options = VARIANTS[name]
                name = options[(seen[-1].frame + group[0].subtask) % len(options)]
            subtasks.append({"name": name, "start": start, "end": high, "done": group[0].done})
        if fault == "names":
            subtasks[0]["name"] = "dance"
            subtasks[0]["done"] = "maybe" if self.options.open_names else True
        if fault == "beyond":
            subtasks[-1]["end"] = high + 30
        answer: dict[str, Any] = {"subtasks": subtasks}
        if '"success" is true only if' in text:
            answer["success"] = seen[-1].success
        out = json.dumps(answer)
        return out[: len(out) // 2] if fault == "json" else out

    def _merge(self, text: str) -> str:
        names = re.findall(r"^- (.*) \(\d+ times\)$", text, re.MULTILINE)
        meaning = {v.lower().rstrip("."): n for n, variants in VARIANTS.items() for v in variants}
        first: dict[str, str] = {}
        for name in names:
            first.setdefault(meaning.get(name, name), name)
        merges = [{"name": n, "into": first[meaning[n]]} for n in names if first[meaning.get(n, n)] != n]
        return "Here it is:\n```json\n" + json.dumps({"merge": merges}) + "\n```"


def _with_echo(text: str, said: str) -> str:
    """An answer that repeats a header: in its first name where it has names."""
    try:
        answer = json.loads(text)
        answer["subtasks"][0]["name"] = said
        return json.dumps(answer)
    except (ValueError, KeyError):
        return f"{text} You sent {said}."


def _runs(seen: list[Look]) -> Iterator[list[Look]]:
    for _, group in itertools.groupby(seen, key=lambda x: (x.subtask, x.done)):
        yield list(group)


def thirty_percent(seed: int = 0) -> Callable[[int], str | None]:
    """Faults of all kinds in three calls of every ten."""
    rng = random.Random(seed)
    kinds = itertools.cycle(("500", "hang", "cut", "prose", "json", "names", "beyond", "echo"))
    planned: list[str | None] = []

    def fault(number: int) -> str | None:
        while len(planned) <= number:
            ten: list[str | None] = [*itertools.islice(kinds, 3), *[None] * 7]
            rng.shuffle(ten)
            planned.extend(ten)
        return planned[number]

    return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    vlm: VlmServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _send(self, status: int, value: Any, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", headers.pop("kind", "application/json"))
        self.send_header("Content-Length", str(len(data)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._send(200 if self.path.endswith("/models") else 404, {"object": "list", "data": []})

    def do_POST(self) -> None:
        vlm, options = self.vlm, self.vlm.options
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with vlm.lock:
            number = len(vlm.bodies)
            vlm.bodies.append(body)
            vlm.headers.append(dict(self.headers))
            fault = options.fault(number)
            if fault:
                vlm.faults[number] = fault
            vlm.now += 1
            vlm.most = max(vlm.most, vlm.now)
        try:
            self._answer(body, number, fault)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with vlm.lock:
                vlm.now -= 1

    def _answer(self, body: dict[str, Any], number: int, fault: str | None) -> None:
        vlm, options = self.vlm, self.vlm.options
        vlm.closing.wait(options.delay)
        said = self.headers.get("Authorization", "")
        if options.key is not None and said != f"Bearer {options.key}":
            return self._send(
                401, {"error": {"message": f"Incorrect API key provided: {said.removeprefix('Bearer ')}"}}
            )
        if number < options.busy:
            return self._send(429, {"error": {"message": "slow down"}}, Retry_After="1")
        for name in options.lacks:
            if name in body:
                hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                return self._send(400, {"error": {"message": f"Unsupported parameter: '{name}'.{hint}"}})
        if not options.schema and "response_format" in body:
            return self._send(400, {"error": {"message": options.refusal}})
        if fault == "500":
            # Some echo what they were sent.
            return self._send(500, {"error": {"message": f"internal error, your header was {said}"}})
        if fault == "hang":
            vlm.closing.wait(30)
            return None
        if fault == "400":
            return self._send(400, {"error": {"message": "the image could not be loaded"}})
        text = vlm.reply(body, fault)
        if fault == "echo":
            text = _with_echo(text, said)
        if fault == "think":
            # The opening tag stands in the prompt, as chat templates have it.
            text = 'The hand {or is it?} moves: {"subtasks": 1}, no.\n</think>\n\n' + text
        half = len(text) // 2
        content = {
            "parts": [
                {"type": "thinking", "thinking": []},
                *({"type": "text", "text": t} for t in (text[:half], text[half:])),
            ],
            "object": {"text": text},
        }.get(str(fault), text)
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        if fault == "length":
            choice["finish_reason"] = "length"
        usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        value = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        data = json.dumps({**value, "usage": usage}).encode()
        if fault == "page":
            return self._send(200, b"<html>welcome to the proxy</html>", kind="text/html")
        if fault == "empty":
            return self._send(200, {**value, "choices": []})
        if fault in ("cut", "drip"):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data) + 600))
            self.end_headers()
            if fault == "cut":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                # Reset, not closed: the client sees the connection break.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                return None
            for _ in range(600):
                self.wfile.write(b" ")
                self.wfile.flush()
                if vlm.closing.wait(0.05):
                    return None
        return self._send(200, data)


@contextmanager
def vlm_server(**options: Any) -> Iterator[VlmServer]:
    """A running server."""
    found = VlmServer(Options(**options))
    handler = type("Handler", (_Handler,), {"vlm": found})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    found.base_url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.closing.set()
        http.shutdown()
        http.server_close()


def main() -> None:
    """What a serve command starts: slow to come up, chatty about its settings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fps", type=float, default=10.0)
    parser.add_argument("--die", action="store_true")
    parser.add_argument("--mute", action="store_true")
    parser.add_argument("--pid-file", type=Path)
    arguments = parser.parse_args()
    print("starting with the key", os.environ.get("TEST_VLM_KEY"), flush=True)
    if arguments.pid_file:
        arguments.pid_file.write_text(str(os.getpid()))
    if arguments.die:
        print("no such model", flush=True)
        sys.exit(3)
    time.sleep(1000 if arguments.mute else 0.5)
    handler = type("Handler", (_Handler,), {"vlm": VlmServer(Options(fps=arguments.fps))})
    ThreadingHTTPServer(("127.0.0.1", arguments.port), handler).serve_forever()


if __name__ == "__main__":
    main()
