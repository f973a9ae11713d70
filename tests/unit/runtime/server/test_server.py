"""What the server answers to those who ask properly, and to those who do not."""

import threading
import time

import numpy as np
import pytest

from slimmable.errors import DeploymentError
from slimmable.runtime.server.settings import Settings
from tests.unit.runtime.fakes import NAMES, image
from tests.unit.runtime.server.conftest import LABELS, npy, picture, send, serving


def softmax(scores):
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


def test_the_likeliest_classes_of_a_tensor(client):
    x = image(3)
    [scores] = client.runtime.run(x, at=3)

    found = send(client, npy(x), top=2).json()

    assert found["width"] == "1.0"
    assert found["milliseconds"] >= 0
    [classes] = found["predictions"]
    best = np.argsort(-scores[0])[:2]
    assert [each["label"] for each in classes] == [LABELS[place] for place in best]
    assert [each["probability"] for each in classes] == pytest.approx(softmax(scores[0])[best].tolist(), abs=1e-6)


def test_all_forms_of_a_request_give_the_same_answer(client):
    x = image(4)
    answers = [
        send(client, npy(x)),
        send(client, npy(x[0])),
        send(client, npy(np.asfortranarray(x))),
        send(client, npy(x.astype(np.float64)), kind="application/x-npy"),
        client.post("/predict", json=x.tolist()),
        client.post("/predict", json=x[0].tolist()),
        client.post("/predict", json={"x": x.tolist()}),
        client.post("/predict", files={"file": ("x.npy", npy(x))}),
    ]

    assert [each.status_code for each in answers] == [200] * len(answers)
    assert all(each.json()["predictions"] == answers[0].json()["predictions"] for each in answers)


def test_an_image_is_answered_however_it_is_sent(client):
    raw = client.post("/predict", content=picture(), headers={"content-type": "image/png"})
    form = client.post("/predict", files={"image": ("bee.png", picture(), "image/png")})

    assert raw.status_code == form.status_code == 200
    assert raw.json()["predictions"] == form.json()["predictions"]


def test_several_examples_get_several_answers(client):
    x = np.concatenate([image(seed) for seed in range(3)])

    together = send(client, npy(x)).json()["predictions"]

    assert together == [send(client, npy(each)).json()["predictions"][0] for each in x]
    assert send(client, npy(np.concatenate([x] * 3))).status_code == 400


def test_raw_outputs_without_labels_and_null_for_what_is_not_finite():
    with serving(labels=None) as client:
        found = send(client, npy(image(1))).json()["outputs"]
        np.testing.assert_allclose(found, client.runtime.run(image(1), at=3), rtol=1e-6)

        client.runtime.projection[:, 0], client.runtime.projection[:, 1] = np.inf, np.nan
        [[row]] = send(client, npy(image(1))).json()["outputs"]
        assert row[:2] == [None, None]
        assert None not in row[2:]


def test_scores_that_are_not_finite_have_no_probability(client):
    client.runtime.projection[:, 0] = np.nan

    [classes] = send(client, npy(image(1))).json()["predictions"]

    assert [each["probability"] for each in classes] == [None] * 5


def test_the_width_can_be_seen_pinned_and_given_back(client):
    assert client.get("/width").json()["active"] == "1.0"
    for method in (client.put, client.post):
        answer = method("/width", json={"width": "0.5"})
        assert (answer.status_code, answer.json()["pinned"]) == (200, "0.5")
        assert send(client, npy(image())).json()["width"] == "0.5"
    [switch] = client.get("/width").json()["switches"]
    assert (switch["from"], switch["to"], switch["reason"]) == ("1.0", "0.5", "pinned")

    assert client.put("/width", json={"width": None}).json()["pinned"] is None
    send(client, npy(image()))
    assert sum(client.get("/width").json()["requests"].values()) == 3


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"width": 0.5}', b'{"width": "0.3"}', b"[" * 4000, b"{" * 9000])
def test_a_width_that_does_not_exist_is_refused(client, body):
    answer = client.put("/width", content=body)

    assert answer.status_code in (400, 413)
    assert answer.json()["error"]
    assert client.model.state.pinned is None


def test_health_and_metrics(client):
    send(client, npy(image()))
    send(client, b"nonsense")

    assert client.get("/health").json() == {"status": "ok", "in_flight": 0}
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert 'slimmable_requests_total{width="1.0"} 1.0' in page.text
    assert 'slimmable_rejected_total{reason="malformed"} 1.0' in page.text
    assert "slimmable_queue_depth 0.0" in page.text


def test_a_model_without_metrics_has_no_page():
    with serving(model={"metrics": None}) as client:
        assert send(client, npy(image())).status_code == 200
        assert client.get("/metrics").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("get", "/", 404), ("get", "/predict", 405), ("delete", "/width", 405), ("get", "/docs", 404)],
)
def test_unknown_paths_and_methods_are_errors_in_json(client, method, path, status):
    answer = getattr(client, method)(path)

    assert (answer.status_code, list(answer.json())) == (status, ["error"])


@pytest.mark.parametrize(
    "query", [{"top": 0}, {"top": "x"}, {"deadline_ms": -1}, {"deadline_ms": "nan"}, {"deadline_ms": "inf"}]
)
def test_queries_are_checked(client, query):
    answer = send(client, npy(image()), **query)

    assert answer.status_code == 422
    assert next(iter(query)) in answer.json()["error"]


def test_a_deadline_chooses_a_width():
    with serving(seconds=(0.001, 0.01, 0.02, 0.03)) as client:
        assert send(client, npy(image())).json()["width"] == "1.0"
        assert send(client, npy(image()), deadline_ms=5).json()["width"] == "0.25"
        assert send(client, npy(image()), deadline_ms=1000).json()["width"] == "1.0"


def test_bodies_are_limited_while_they_arrive():
    with serving(Settings(max_body_bytes=1000)) as client:
        read = []

        def endless():
            for _ in range(1000):
                read.append(1)
                yield b"x" * 500

        announced = send(client, b"x" * 1001)
        streamed = send(client, endless())

        for answer in (announced, streamed):
            assert (answer.status_code, answer.headers["connection"]) == (413, "close")
            assert "1000" in answer.json()["error"]
        assert send(client, npy(image())).status_code == 200


@pytest.mark.parametrize("length", ["-5", "1e9", "99999999999999999999999999", "٣"])
def test_lengths_that_lie_are_refused(client, length):
    answer = client.post(
        "/predict",
        content=npy(image()),
        headers={"content-length": length.encode(), "content-type": "application/x-npy"},
    )

    assert answer.status_code in (400, 413)


def test_a_full_queue_says_so_and_when_to_come_again():
    with serving(Settings(queue=2)) as client:
        client.runtime.seconds = (0.3,) * 4
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(send(client, npy(image())))) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(each.status_code for each in answers) == [200, 200, 503, 503, 503]
        [full] = {each.headers["retry-after"] for each in answers if each.status_code == 503}
        assert full == "1"
        assert 'slimmable_rejected_total{reason="full"} 3.0' in client.get("/metrics").text
        assert send(client, npy(image())).status_code == 200


def test_a_run_that_fails_is_an_error_of_the_server_and_it_lives_on(client, caplog):
    run, client.runtime.run = client.runtime.run, lambda *inputs, at=None: 1 / 0
    answer = send(client, npy(image()))
    client.runtime.run = run

    assert (answer.status_code, list(answer.json())) == (500, ["error"])
    assert "ZeroDivisionError" in caplog.text
    assert "slimmable_failed_total 1.0" in client.get("/metrics").text
    assert send(client, npy(image())).status_code == 200


def test_values_that_the_network_cannot_take_are_a_fault_of_the_request(client):
    sound = client.runtime.run

    def run(*inputs, at=None):
        if inputs[0].any():
            raise DeploymentError("index 7 is behind the end of the table")
        return sound(*inputs, at=at)

    client.runtime.run = run
    answer = send(client, npy(image()))
    client.runtime.run = sound

    assert answer.status_code == 422
    assert "index 7 is behind the end" in answer.json()["error"]
    page = client.get("/metrics").text
    assert 'slimmable_rejected_total{reason="unfit"} 1.0' in page
    assert "slimmable_failed_total 0.0" in page
    assert send(client, npy(image())).status_code == 200


def test_no_request_fails_while_widths_change():
    with serving(seconds=(0.001, 0.002, 0.003, 0.004), build=0.01, gain=0.5, keep=2) as client:
        over = threading.Event()
        statuses = []

        def ask(seed):
            while not over.is_set():
                statuses.append(send(client, npy(image(seed))).status_code)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(40):
            assert client.put("/width", json={"width": NAMES[turn % 4] if turn % 5 else None}).status_code == 200
            time.sleep(0.02)
        over.set()
        for thread in threads:
            thread.join()

        assert set(statuses) == {200}
        assert len(statuses) > 20
        assert sum(client.model.state.requests.values()) == len(statuses)


@pytest.mark.parametrize(
    "wrong",
    [{"port": 70000}, {"queue": 0}, {"max_batch": -1}, {"max_wait_ms": -1.0}, {"read_seconds": 0.0}, {"top": 0}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(DeploymentError, match=next(iter(wrong)).split("_")[0]):
        Settings(**wrong)
