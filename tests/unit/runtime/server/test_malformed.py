"""A thousand requests that nobody should send: each gets a status from 400 to 499, and the server lives on."""

import io
import json
import random
import string

import numpy as np

from slimmable.runtime.server.settings import Settings
from tests.unit.runtime.fakes import image
from tests.unit.runtime.server.conftest import npy, picture, send, serving

COUNT = 1000
MOST = 20_000
TENSOR, JSON, PICTURE = "application/octet-stream", "application/json", "image/png"


def is_sound_npy(body):
    """By numpy's own reader, which shares no line with ours."""
    try:
        array = np.load(io.BytesIO(body), allow_pickle=False)
        with np.errstate(all="ignore"):
            fits = array.dtype.kind in "fiub" and np.isfinite(array.astype(np.float32)).all()
        return fits and array.shape[-3:] == (3, 8, 8) and array.size <= 8 * 192 and array.ndim <= 4
    except Exception:
        return False


def is_sound_json(body):
    try:
        found = json.loads(body)
        array = np.array(found["x"] if isinstance(found, dict) else found)
        return array.dtype.kind in "fiub" and array.shape[-3:] == (3, 8, 8)
    except Exception:
        return False


def mutated(draw, body):
    """A body with bytes flipped, cut, doubled, or put in."""
    body = bytearray(body)
    for _ in range(draw.choice([1, 1, 2, 8])):
        # Most of what can go wrong is said at the beginning.
        place = draw.randrange(min(len(body), draw.choice([16, 130, len(body)])) or 1)
        kind = draw.randrange(5)
        if kind == 0 and body:
            body[place] = draw.randrange(256)
        elif kind == 1:
            del body[place:]
        elif kind == 2:
            del body[place : place + draw.randrange(1, 40)]
        elif kind == 3:
            body[place:place] = draw.randbytes(draw.randrange(1, 40))
        else:
            body += body[place:]
        body = body[:MOST] or bytearray(b"\0")
    return bytes(body)


def header(draw):
    """An .npy file whose header says what it should not."""
    fields = {"descr": "<f4", "fortran_order": False, "shape": (1, 3, 8, 8)}
    wrong = {
        "descr": [
            "|O",
            "<f2000000",
            "<c8",
            "|S4",
            "<U3",
            [("a", "<f4")],
            "<M8[s]",
            "__import__('os')",
            None,
            "<f16",
            "b8",
        ],
        "fortran_order": [1, None, "False"],
        "shape": [
            (),
            (0,),
            (-1, 3, 8, 8),
            (10**8, 3, 8, 8),
            (2**40,),
            (1, 3, 8, 9),
            (9, 3, 8, 8),
            [1, 3, 8, 8],
            "1",
            (1.0,),
        ],
    }
    name = draw.choice(list(wrong))
    text = repr({**fields, name: draw.choice(wrong[name])}).encode()
    if draw.random() < 0.1:
        text = b"(" * draw.choice([50, 5000]) + text
    length = len(text) if draw.random() < 0.8 else draw.randrange(65536)
    data = b"\0" * draw.choice([0, 767, 769, 800])
    if name == "fortran_order":
        data = data[:-1]
    return b"\x93NUMPY" + bytes([draw.choice([1, 1, 2, 3]), 0]) + length.to_bytes(2, "little") + text + data


def lists(draw):
    """JSON that is no tensor."""
    sound = image().tolist()
    wrong = [
        *(
            None,
            True,
            1,
            "x",
            {},
            [],
            [[]],
            [[[[]]]],
            {"y": sound},
            {"x": sound, "y": sound},
            {"x": None},
            {"x": {"x": 1}},
        ),
        *([sound], [*sound, 1], sound * 9, [[sound[0][0]] * 2], [[[[1] * 8] * 8] * 2 + [[[1] * 8] * 7]]),
        *([[[["1"] * 8] * 8] * 3], [[[[None] * 8] * 8] * 3], [[[[10**400] * 8] * 8] * 3], [[[[1e300] * 8] * 8] * 3]),
    ]
    text = json.dumps(draw.choice(wrong))
    return draw.choice(
        [
            text.encode(),
            text.encode(),
            text.encode("utf-16"),
            b"[" * 9999,
            b"\xff" + text.encode(),
            b"[" + b"9" * 9999 + b"]",
        ]
    )


def form(draw):
    """A form without exactly one sound file."""
    boundary = "".join(draw.choices(string.ascii_letters, k=8))
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'.encode()
    end = f"\r\n--{boundary}--\r\n".encode()
    body = draw.choice(
        [
            *(b"", part, end, part + end, part + picture()[: draw.randrange(30)] + end),
            *(part + b"x\r\n" + part + b"y" + end, part.replace(b"filename", b"other") + b"x" + end, part * 3),
            *(part[:20] + end, part.replace(b"form-data", b"\xff\xff") + mutated(draw, npy(image())[:100]) + end),
        ]
    )
    kind = f"multipart/form-data; boundary={boundary}"
    return body, draw.choice([kind, kind, "multipart/form-data", "multipart/form-data; boundary=", f"{kind}x"])


def malformed(draw):
    """A request that is wrong in one way or another: method, path, body, type, query."""
    kind = draw.randrange(9)
    sound = npy(image())
    if kind == 0:
        body = mutated(draw, sound)
        return None if is_sound_npy(body) else ("post", "/predict", body, TENSOR, {})
    if kind == 1:
        return "post", "/predict", header(draw), TENSOR, {}
    if kind == 2:
        body = mutated(draw, json.dumps(np.ones((3, 8, 8)).tolist()).encode())
        return None if is_sound_json(body) else ("post", "/predict", body, JSON, {})
    if kind == 3:
        return "post", "/predict", lists(draw), JSON, {}
    if kind == 4:
        cut = picture(kind=draw.choice(["PNG", "JPEG", "WEBP", "BMP"]))
        body = draw.randbytes(4) + cut[4:] if draw.random() < 0.5 else cut[: draw.randrange(len(cut) // 2)]
        return "post", "/predict", body, draw.choice([PICTURE, "image/jpeg", "image/", "IMAGE/x"]), {}
    if kind == 5:
        body, kind = form(draw)
        return "post", "/predict", body, kind, {}
    if kind == 6:
        body = draw.choice([sound, draw.randbytes(draw.randrange(1000)), b"a=b", b""])
        kinds = [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/pickle",
            "x" * 500,
            ";;;",
            "\x7f",
            "video/*",
        ]
        return "post", "/predict", body, draw.choice(kinds), {}
    if kind == 7:
        queries = [
            {"top": "-1"},
            {"top": "1e9"},
            {"top": "x"},
            {"deadline_ms": "0"},
            {"deadline_ms": "nan"},
            {"deadline_ms": ""},
        ]
        return "post", "/predict", sound, TENSOR, draw.choice(queries)
    method, path = draw.choice(
        [("put", "/width"), ("post", "/width"), ("get", "/predict"), ("delete", "/predict"), ("post", "/x")]
    )
    body = draw.choice(
        [draw.randbytes(50), b"{}", b'{"width": "7"}', b'{"width": {}}', b"x" * 5000, b'{"width": "\xed\xa0\x80"}']
    )
    return method, path, body if path == "/width" else b"", JSON, {}


def test_a_thousand_malformed_requests_are_refused_and_the_server_lives_on():
    draw = random.Random(7)
    with serving(Settings(max_body_bytes=MOST)) as client:
        sent, statuses = 0, set()
        while sent < COUNT:
            if (request := malformed(draw)) is None:
                continue
            method, path, body, kind, query = request
            answer = client.request(method, path, content=body, headers={"content-type": kind}, params=query)
            assert 400 <= answer.status_code < 500, (request, answer.text)
            assert answer.json()["error"], request
            statuses.add(answer.status_code)
            sent += 1

        assert statuses >= {400, 404, 405, 413, 415, 422}
        assert client.runtime.runs[-1][1] == 1
        assert sum(client.model.state.requests.values()) == 0
        assert send(client, npy(image())).status_code == 200
        assert client.get("/health").json() == {"status": "ok", "in_flight": 0}
