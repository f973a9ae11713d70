"""Forms: one file, and nothing that takes long to find out."""

import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimmable.runtime.server.bodies import inputs_of
from slimmable.runtime.server.images import Preprocessing
from slimmable.runtime.server.refusals import Refused
from tests.unit.runtime.fakes import FakeRuntime, image
from tests.unit.runtime.server.conftest import PREPROCESSING, npy, picture

KIND = "multipart/form-data; boundary=XX"
FILE = b'Content-Disposition: form-data; name="f"; filename="a.png"'
INPUTS = FakeRuntime().artifact.inputs
SIXTEEN = 2**24


def form(head, content=b"", end=b"\r\n--XX--\r\n"):
    return b"--XX\r\n" + head + b"\r\n\r\n" + content + end


def inputs_in(body, kind=KIND):
    return inputs_of(body, kind, INPUTS, Preprocessing.of(PREPROCESSING, INPUTS), most=8, max_pixels=10_000)


@pytest.mark.parametrize("name", ["a.png", 'a".png', "fünf; filename*=x", ""])
@pytest.mark.parametrize("content", [npy(image()), picture()], ids=["tensor", "image"])
def test_a_file_is_what_a_client_put_into_the_form(name, content):
    sent = httpx.Request("POST", "http://x", files={"image": (name, content, "image/png")})
    if not name:
        sent = httpx.Request("POST", "http://x", content=form(FILE, content), headers={"content-type": KIND})
    sent.read()

    [found] = inputs_in(sent.content, sent.headers["content-type"])

    [expected] = inputs_in(content, "application/x-npy" if content.startswith(b"\x93") else "image/png")
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "body",
    [
        form(b"content-disposition:form-data;filename=x", npy(image())),
        form(b"Content-Disposition: form-data;\r\n filename*=UTF-8''x%20y", npy(image())),
        b"whatever\r\n" + form(FILE, npy(image())) + b"whatever",
        form(FILE, npy(image())).replace(b"--XX\r\n", b"--XX  \r\n", 1),
    ],
)
def test_other_spellings_of_a_sound_form(body):
    assert inputs_in(body)[0].shape == (1, 3, 8, 8)
    assert inputs_in(body, 'Multipart/Form-Data; charset=x; boundary="XX"')[0].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form(FILE, end=b"") + b"\r\n" + form(FILE), "several parts"),
        (form(FILE, end=b"\r\n--XX\r\n") * 1000, "several parts"),
        (form(FILE, npy(image()), end=b"\r\n--XX"), "several parts"),
        (form(FILE, npy(image()), end=b""), "cannot be read"),
        (form(FILE.replace(b"filename", b"other"), npy(image())), "no file"),
        (form(b"Content-Disposition: form-data; filename*=UTF-8''x; filename*0=y; filename*0*=z"), "cannot be read"),
        (form(b"Content-Disposition: form-data; filename*=x; filename*0=y"), "the"),
        (form(FILE + b"\r\n" + b"a: b\r\n" * 1000, npy(image())), "cannot be read"),
        (form(FILE), "empty"),
    ],
)
def test_what_is_no_form_with_one_file_is_refused(body, message):
    with pytest.raises(Refused, match=message) as refused:
        inputs_in(body)

    assert refused.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n" * (SIXTEEN // 2),
        b"--XX\r\n" + b"a" * SIXTEEN,
        form(b"", end=b"\r\n") * (SIXTEEN // 12),
        form(b"a: b\r\n" * (SIXTEEN // 6)),
        form(FILE, b"\r\n--X" * (SIXTEEN // 5)),
        form(FILE + b"; x" * 1000),
    ],
    ids=["nothing", "a header", "parts", "headers", "nearly boundaries", "parameters"],
)
def test_sixteen_megabytes_of_nonsense_are_refused_at_once(body):
    began = time.process_time()
    with pytest.raises(Refused):
        inputs_in(body)

    assert time.process_time() - began < 2


PIECES = [b"filename", b"*", b"*0", b"*1*", b"=", b";", b"'", b'"', b"\r\n", b"%", b"--XX", b"\\", b"\xff", b":", b"\0"]


@given(
    before=st.lists(st.sampled_from(PIECES), max_size=8),
    after=st.lists(st.sampled_from(PIECES), max_size=8),
    kind=st.lists(st.sampled_from(["", "boundary", "=", "XX", "*0", "*", ";", "'", '"']), max_size=8),
)
def test_headers_that_contradict_themselves_are_refused(before, after, kind):
    head = b"Content-Disposition: form-data; " + b"".join(before) + b"filename" + b"".join(after) + b"x"

    for each in (KIND, "multipart/form-data; " + "".join(kind)):
        with pytest.raises(Refused):
            inputs_in(form(head), each)
