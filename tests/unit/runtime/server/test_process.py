"""The server as a process: what no client in the same process can send, and an orderly end."""

import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from types import SimpleNamespace

import numpy as np
import pytest

from slimmable.cli.main import main
from slimmable.errors import DeploymentError
from slimmable.runtime.server.__main__ import main as module_main
from slimmable.runtime.server.connections import MOST, Connection
from slimmable.runtime.server.options import milliseconds, size
from slimmable.runtime.server.serving import _ended_by_signals
from slimmable.runtime.server.settings import Settings
from tests.unit.runtime.fakes import image
from tests.unit.runtime.server.conftest import npy

PROGRAM = """
import sys
from slimmable.runtime.server.serving import serve
from slimmable.runtime.server.settings import Settings
from tests.unit.runtime.fakes import FakeRuntime, RealClock
runtime = FakeRuntime(RealClock(), seconds=({seconds},) * 4)
serve(runtime, Settings(port=0, read_seconds=1.0, max_body_bytes=100_000), cache=False)
assert "torch" not in sys.modules
print("the end")
"""


@contextmanager
def process(seconds=0.0):
    """A running server, and its port."""
    code = PROGRAM.format(seconds=seconds)
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            pytest.fail("".join(said))
        yield server, int(found[1])
    finally:
        server.kill()
        server.communicate()


def ask(port, body=None):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as client:
        client.request(
            "POST", "/predict", npy(image()) if body is None else body, {"Content-Type": "application/x-npy"}
        )
        answer = client.getresponse()
        return answer.status, answer.read()


def raw(port, content, patience=20.0):
    """All that the server says before it hangs up."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=patience)) as client:
        client.sendall(content)
        said = b""
        while part := client.recv(65536):
            said += part
            if b"\r\n\r\n" in said and b"connection: close" not in said.lower():
                break
        return said


def test_it_survives_what_is_no_http_and_ends_in_order():
    with process(seconds=0.02) as (server, port):
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-npy\r\n"
        generator = np.random.default_rng(0)
        for content in [
            *(generator.bytes(200) + b"\r\n\r\n" for _ in range(20)),
            *(b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\r\n\r\n", head + b"Content-Length: -1\r\n\r\n"),
            head + b"Content-Length: x\r\n\r\n",
            head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n",
        ]:
            assert re.match(rb"HTTP/1.1 4\d\d", raw(port, content)), content[:80]
        # A body that never ends is cut off where it gets too long; one that never comes, after a while.
        endless = head + b"Transfer-Encoding: chunked\r\n\r\n" + 11 * (b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        assert b"HTTP/1.1 413" in raw(port, endless)
        assert b"HTTP/1.1 413" in raw(port, head + b"Content-Length: 999999999\r\n\r\nx")
        assert b"HTTP/1.1 408" in raw(port, head + b"Content-Length: 100\r\n\r\nx")
        with closing(socket.create_connection(("127.0.0.1", port))) as client:
            client.sendall(head + b"Content-Length: 100\r\n\r\nx")
        assert ask(port)[0] == 200

        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask(port)[0])) for _ in range(10)]
        for thread in threads:
            thread.start()
        time.sleep(0.06)
        server.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        out, err = server.communicate(timeout=20)

        assert answers == [200] * 10
        assert (server.returncode, out.strip()) == (0, "the end"), err
        assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_before_anybody_listens_is_not_lost(number):
    before, interrupt = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    reached = []

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have jobs in the background ignore it
        with _ended_by_signals():
            signal.raise_signal(number)
            reached.append("what would serve for ever")
    finally:
        signal.signal(signal.SIGINT, interrupt)

    assert not reached
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "begun", [b"", b"POST /predict HTTP/1.1\r\nHost", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /"]
)
def test_connections_without_a_request_are_closed(begun):
    with process() as (_, port), closing(socket.create_connection(("127.0.0.1", port), timeout=8)) as client:
        client.sendall(begun)

        said = b""
        while part := client.recv(65536):
            said += part

        assert said.startswith(b"HTTP/1.1 200") == begun.startswith(b"GET")


@pytest.mark.parametrize(
    ("last", "now", "closed"), [(None, None, True), (None, True, False), (True, True, True), (False, False, False)]
)
def test_connections_on_which_a_request_runs_stay_open(last, now, closed):
    before = None if last is None else SimpleNamespace(response_complete=last)
    cycle = before if last == now else SimpleNamespace(response_complete=now)
    hung_up = []

    own = SimpleNamespace(cycle=cycle, transport=SimpleNamespace(close=lambda: hung_up.append(True)))
    Connection._hang_up(own, before)

    assert hung_up == [True] * closed


def test_more_connections_than_there_is_room_for_are_closed_at_once():
    with process() as (_, port), ExitStack() as stack:
        clients = [
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=8)))
            for _ in range(MOST + 20)
        ]
        began = time.perf_counter()
        with suppress(ConnectionResetError):
            assert clients[-1].recv(1) == b""
        assert time.perf_counter() - began < 0.9
        time.sleep(1.5)

        assert ask(port)[0] == 200


def test_bodies_that_hardly_arrive_hold_nobody_s_place():
    with process() as (_, port), ExitStack() as stack:
        for _ in range(Settings().queue + 6):
            client = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\nx")

        assert ask(port)[0] == 200


def test_times_and_sizes_have_units():
    assert (milliseconds("20ms"), milliseconds("0.02s"), size("1.5kB")) == (20, 20, 1500)
    for wrong in ("20", "ms", "-1ms", "20 apples", "1e3ms", ""):
        with pytest.raises(DeploymentError, match="no time with a unit"):
            milliseconds(wrong)


@pytest.mark.parametrize("entry", [lambda *words: main(["serve", *words]), lambda *words: module_main(words)])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--latency", "20"], "no time with a unit"),
        (["--max-batch", "0"], "max_batch=0"),
        (["--port", "70000"], "70000"),
    ],
)
def test_wrong_options_are_one_line(entry, words, message, capsys):
    assert entry("model.slim", *words) == 2
    assert message in capsys.readouterr().err


def test_both_command_lines_serve_alike(monkeypatch):
    served = []
    monkeypatch.setattr("slimmable.runtime.server.serving.serve", lambda *given, **named: served.append((given, named)))
    words = ["model.slim", "--latency", "0.02s", "--memory", "64MB", "--width", "0.5", "--queue", "9", "--lenient"]
    words += ["--sessions", "1"]

    assert main(["serve", *words]) == module_main(words) == 0

    assert served[0] == served[1]
    (path, settings), named = served[0]
    assert (path, settings.queue, settings.max_batch, settings.max_body_bytes) == ("model.slim", 9, 8, 2**24)
    assert named == {
        "latency_ms": 20.0,
        "percentile": 95.0,
        "memory_mb": 64.0,
        "width": "0.5",
        "backend": "onnx",
        "threads": 1,
        "sessions": 1,
        "strict": False,
        "cache": True,
    }


def test_the_server_needs_no_torch_and_says_what_it_needs():
    code = """
import sys
for package in ("torch", "jsonargparse", "rich", "fastapi"):
    sys.modules[package] = None
from slimmable.runtime.server.__main__ import main
print(main(["model.slim"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout.strip() == "2", done.stderr
    assert "serving needs fastapi, which is not installed: pip install 'slimmable[serve]'" in done.stderr
