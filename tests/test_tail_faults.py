"""Whatever a link or a server does wrong: always an answer or a typed error, and nothing sent but the live slots."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import pytest
from plans import chain, row
from proxy import Fault, Proxy, proxied
from tail_server import HEADER, Sent, TailServer, serving

import eetoolkit as ee
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.halves import Halves, cut_point, halves
from eetoolkit_runtime.running.handover import _RESERVE, Handover

AMPLE_MS = 20_000.0  # what a test waits for at most that does not fail
SOON_MS = 200.0  # and one whose server gives no answer in time
HERE, EARLY, DEEP = row(0.9), row(0.1, 0.9), row(0.1, 0.1, 0.3)
"""What exit0 answers, exit1 behind the cut, and the last exit."""
SIDES = ("whole", "device")


class Both(NamedTuple):
    """A bundle, its halves, and the answers that it gives by itself."""

    bundle: Bundle
    halves: Halves
    right: dict[int, ee.Answer]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    bundle = ee.load(chain(0.5, 0.5).save(tmp_path_factory.mktemp("tail") / "chain.ee"))
    with ee.Runner(bundle, threads=1) as runner:
        right = {id(x): runner.run(x) for x in (HERE, EARLY, DEEP)}
    return Both(bundle, halves(bundle.manifest, cut_point(bundle.manifest, "exit0")), right)


@pytest.fixture(scope="module")
def half(both: Both) -> Iterator[ee.Runner]:
    with ee.Runner(Bundle(both.bundle.path, both.halves.server), threads=1) as runner:
        yield runner


@pytest.fixture
def server(half: ee.Runner) -> Iterator[TailServer]:
    with serving(half) as server:
        yield server


Open = Callable[..., ee.Runner]


@pytest.fixture
def open_(both: Both) -> Iterator[Open]:
    """Gives what opens a runner of a side with a server."""
    with ExitStack() as runners:

        def open_(side: str, url: str, **remote: Any) -> ee.Runner:
            settings = {"url": url, "timeout_ms": AMPLE_MS, "retries": 0} | remote
            bundle = Bundle(both.bundle.path, both.halves.device)
            if side == "whole":
                bundle, settings = both.bundle, {"from": "exit0"} | settings
            return runners.enter_context(ee.Runner(bundle, threads=1, remote=settings))

        yield open_


def remote(runner: ee.Runner) -> Handover:
    assert runner.remote is not None
    return runner.remote


def same(answer: ee.Answer, right: ee.Answer, *, remote: bool) -> None:
    """Checks that an answer is the whole bundle's."""
    assert (answer.exit, answer.path, answer.gates) == (right.exit, right.path, right.gates)
    assert (answer.segments, answer.stopped_by, answer.scores) == (right.segments, right.stopped_by, right.scores)
    assert answer.remote is remote
    assert answer.confidence == right.confidence
    assert answer.outputs.keys() == right.outputs.keys()
    for name, array in right.outputs.items():
        np.testing.assert_array_equal(answer.outputs[name], array)


def instead(answer: ee.Answer, side: str, both: Both, stopped_by: str = "remote") -> None:
    """Checks the answer to `EARLY` where the server gives none: a whole bundle goes on, a half answers by exit0."""
    if side == "whole":
        same(answer, both.right[id(EARLY)], remote=False)
        return
    assert (answer.exit, answer.path, answer.stopped_by, answer.remote) == ("exit0", ("segment0",), stopped_by, False)
    assert answer.segments == 3
    assert list(answer.outputs) == ["logits"]
    np.testing.assert_array_equal(answer.outputs["logits"], EARLY * 2)


# It works


@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "json"])
@pytest.mark.parametrize("side", SIDES)
def test_both_halves_answer_as_the_whole(side: str, binary: bool, both: Both, server: TailServer, open_: Open) -> None:
    server.binary = binary
    runner = open_(side, server.url())
    remote(runner).check()
    for x in (HERE, EARLY, DEEP):
        for options in ({}, {"deadline_ms": AMPLE_MS}, {"interrupt": ee.Interrupt()}):
            same(runner.run(x, **options), both.right[id(x)], remote=x is not HERE)
    batch = np.concatenate([DEEP, HERE, EARLY, HERE])
    for answers in (runner.run_batch(batch), list(runner.stream(np.split(batch, 4)))):
        for answer, x in zip(answers, (DEEP, HERE, EARLY, HERE), strict=True):
            same(answer, both.right[id(x)], remote=x is not HERE)
    assert remote(runner).last_failure is None
    assert {str(seen.path) for seen in server.inferred} == {f"/v2/models/it/versions/{server.version}/infer"}


@pytest.mark.parametrize("side", SIDES)
def test_nothing_crosses_but_the_live_slots(side: str, both: Both, server: TailServer, open_: Open) -> None:
    with proxied(server.port) as proxy:
        runner = open_(side, server.url(proxy.port), token="it")  # noqa: S106
        for x in (HERE, EARLY):
            runner.run(x)
        heads, bodies = requests(bytes(proxy.sent[0]))
    assert proxy.connections == 1
    assert [head.partition("\r\n")[0].split(" ")[:2] for head in heads] == [
        ["GET", "/v2"],
        ["POST", f"/v2/models/it/versions/{server.version}/infer"],
    ]
    names = [{line.partition(":")[0].lower() for line in head.splitlines()[1:] if line} for head in heads]
    asked = {"host", "user-agent", "accept-encoding", "authorization"}
    assert names == [asked, asked | {"content-type", "content-length", HEADER.lower()}]
    size = int(next(line.partition(":")[2] for line in heads[1].splitlines() if line.startswith(HEADER)))
    said, raw = json.loads(bodies[1][:size]), bodies[1][size:]
    assert said == {
        "inputs": [
            {"name": name, "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
            for name in ("h0", "x")
        ],
        "parameters": {"binary_data_output": True},
    }
    np.testing.assert_array_equal(np.frombuffer(raw, np.float32), np.concatenate([EARLY * 2, EARLY], axis=None))


def requests(data: bytes) -> tuple[list[str], list[bytes]]:
    """Returns the heads and bodies of the requests that a connection has carried, which leave nothing over."""
    heads, bodies = [], []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        heads.append(head.decode())
        lengths = [line.partition(":")[2] for line in heads[-1].splitlines() if line.startswith("Content-Length")]
        size = int(lengths[0]) if lengths else 0
        bodies.append(data[:size])
        data = data[size:]
    return heads, bodies


def test_a_connection_is_kept_and_replaced_when_it_was_closed_meanwhile(
    both: Both, server: TailServer, open_: Open
) -> None:
    with proxied(server.port) as proxy:
        runner = open_("device", server.url(proxy.port))
        for _ in range(3):
            same(runner.run(EARLY), both.right[id(EARLY)], remote=True)
        assert proxy.connections == 1
        proxy.drop()
        same(runner.run(EARLY), both.right[id(EARLY)], remote=True)
        assert proxy.connections == 2


def test_a_request_that_is_cut_on_a_used_connection_is_sent_on_another(
    both: Both, server: TailServer, open_: Open
) -> None:
    with proxied(server.port, Fault("cut", "request", after=200)) as proxy:
        same(open_("device", server.url(proxy.port)).run(EARLY), both.right[id(EARLY)], remote=True)
        assert proxy.sent[0].startswith(b"GET /v2 ")
        assert b"POST" in proxy.sent[0]
        assert proxy.connections == 2
        assert len(server.inferred) == 1


# The server says something wrong


def status(number: int, body: bytes = b'{"error": "no"}', **headers: str) -> Callable[[Sent], None]:
    def change(sent: Sent) -> None:
        sent.status, sent.body, sent.headers = number, body, {name.replace("_", "-"): v for name, v in headers.items()}

    return change


def said(**changes: Any) -> Callable[[Sent], None]:
    """Changes the JSON of an answer."""

    def change(sent: Sent) -> None:
        size = int(sent.headers[HEADER])
        text = json.dumps(json.loads(sent.body[:size]) | changes).encode()
        sent.body, sent.headers = text + sent.body[size:], {HEADER: str(len(text))}

    return change


def output(place: int, **changes: Any) -> Callable[[Sent], None]:
    """Changes what an answer says of an output: logits, exit, confidence."""

    def change(sent: Sent) -> None:
        outputs = json.loads(sent.body[: int(sent.headers[HEADER])])["outputs"]
        outputs[place] |= changes
        said(outputs=outputs)(sent)

    return change


def sent_bytes(change_body: Callable[[bytes], bytes], **headers: str) -> Callable[[Sent], None]:
    def change(sent: Sent) -> None:
        sent.body = change_body(sent.body)
        sent.headers |= {name.replace("_", "-"): value for name, value in headers.items()}

    return change


def as_exit(number: object) -> Callable[[Sent], None]:
    return output(1, parameters=None, data=[number])


def without_exit_bytes(change: Callable[[Sent], None]) -> Callable[[Sent], None]:
    """Takes the eight bytes of the number away, which JSON holds then."""

    def both_changes(sent: Sent) -> None:
        change(sent)
        size = int(sent.headers[HEADER])
        sent.body = sent.body[: size + 16] + sent.body[size + 24 :]

    return both_changes


PORTAL = b"<!DOCTYPE html><html><title>Log in</title></html>"
DEEPLY = b'{"outputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
WRONG: dict[str, tuple[Callable[[Sent], None], str]] = {
    "500": (status(500), "the server answers with status 500: no"),
    "503": (status(503), "the server answers with status 503: no"),
    "400": (status(400, b"<html>"), "the server answers with status 400"),
    "another bundle": (status(404), "does not run the other half of this bundle (status 404: no)"),
    "401": (status(401), "wants a token (status 401): pass token="),
    "403": (status(403), "wants a token (status 403): pass token="),
    "redirect": (status(302, b"", Location="http://localhost:1/"), "redirects elsewhere (status 302)"),
    "empty": (status(200, b""), "cannot be read"),
    "garbage": (status(200, b"\xff\xfe garbage"), "cannot be read"),
    "a captive portal": (status(200, PORTAL), "cannot be read: got a web page, such as a captive portal's"),
    "hello": (status(200, b"hello"), "cannot be read"),
    "JSON of another": (status(200, b'{"status": "ok"}'), "missing required field `outputs`"),
    "deep": (status(200, DEEPLY), "cannot be read"),
    "no JSON length": (sent_bytes(bytes, **{HEADER: "many"}), "cannot be read"),
    "JSON length below none": (sent_bytes(bytes, **{HEADER: "-5"}), "cannot be read"),
    "JSON length of another": (sent_bytes(bytes, **{HEADER: "7"}), "cannot be read"),
    "too short": (sent_bytes(lambda body: body[:-2]), "is shorter than its output 'confidence'"),
    "too long": (sent_bytes(lambda body: body + b"x"), "has 1 bytes that no output claims"),
    "too large": (sent_bytes(bytes, Content_Length=str(1 << 40)), "an answer of 1099511627776 bytes"),
    "another version": (said(model_version="1"), "answers by version 1 of the model"),
    "no outputs": (said(outputs=[]), "has 28 bytes that no output claims"),
    "another name": (output(0, name="other"), "has no output 'logits'"),
    "another dtype": (output(0, datatype="INT32"), "'logits' is int32[1, 4], expected float32[batch, 4] of one row"),
    "another shape": (output(0, shape=[4]), "'logits' is float32[4], expected float32[batch, 4]"),
    "two rows": (output(0, shape=[2, 2]), "'logits' is float32[2, 2], expected"),
    "a shape of other bytes": (output(0, shape=[1, 5]), "output 'logits' is not FP32[1, 5]"),
    "a shape below none": (output(0, shape=[-1, 4]), "'logits' has no dtype or shape"),
    "a huge shape": (output(0, shape=[1 << 60, 1 << 60]), "output 'logits' is not FP32"),
    "no dtype": (output(0, datatype="BYTES"), "'logits' has no dtype or shape"),
    "texts": (output(0, parameters=None, data=["a"] * 4), "output 'logits' is not FP32[1, 4]"),
    "no data": (output(0, parameters=None), "output 'logits' is not FP32[1, 4]"),
    "bytes below none": (output(0, parameters={"binary_data_size": -16}), "shorter than its output 'logits'"),
    "no exit": (output(1, name="other"), "has no 'exit'"),
    "an exit beyond": (without_exit_bytes(as_exit(2)), "answers by exit 2 of 2"),
    "an exit below": (without_exit_bytes(as_exit(-1)), "answers by exit -1 of 2"),
    "an exit in words": (without_exit_bytes(as_exit("two")), "output 'exit' is not INT64[1]"),
    "an exit that is none": (output(1, datatype="FP64"), "has no 'exit', or not one number"),
    "no confidence": (output(2, name="other"), "has no 'confidence'"),
    "gates that are none": (said(parameters={"gates": "[["}), "says no gates"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_not_believed(name: str, both: Both, server: TailServer, open_: Open) -> None:
    change, text = WRONG[name]
    for side in SIDES:
        server.changes.append(change)
        runner = open_(side, server.url())
        instead(runner.run(EARLY), side, both)
        assert isinstance(remote(runner).last_failure, ee.RemoteError)
        assert text in str(remote(runner).last_failure)
        same(runner.run(DEEP), both.right[id(DEEP)], remote=True)  # the next one is right, and is believed
        assert remote(runner).last_failure is None


def test_a_wrong_answer_in_json_is_not_believed(both: Both, server: TailServer, open_: Open) -> None:
    server.binary = False
    for data, text in (
        ([1.5], "output 'exit' is not INT64"),
        ([None], "output 'exit' is not INT64"),
        ([1 << 70], "output 'exit' is not INT64"),
        ([True], None),
    ):

        def change(sent: Sent, data: Any = data) -> None:
            body = json.loads(sent.body)
            body["outputs"][1]["data"] = data
            sent.body = json.dumps(body).encode()

        server.changes.append(change)
        runner = open_("device", server.url())
        runner.run(EARLY)
        assert (text is None) == (remote(runner).last_failure is None)
        assert text is None or text in str(remote(runner).last_failure)


STRANGERS: dict[str, tuple[bytes, str]] = {
    "a captive portal": (PORTAL, "got a web page, such as a captive portal's or another server's, where a model's"),
    "hello": (b"hello", "does not speak the Open Inference Protocol: got 'hello' where a model's metadata was"),
    "nothing": (b"", "got nothing where"),
    "JSON": (b'{"status": "ok"}', """got '{"status": "ok"}' where"""),
    "no object": (b"[]", "got '[]' where"),
    "no text": (b'{"name": 5}', "does not speak"),
    "bytes": (b"\xff\x1b[31m", "does not speak"),
    "deep": (b"[" * 100_000, "does not speak"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_check_believes_no_stranger_that_answers_with_status_200(name: str, server: TailServer, open_: Open) -> None:
    server.portal, text = STRANGERS[name]
    for side in SIDES:
        with pytest.raises(ee.RemoteError) as caught:
            remote(open_(side, server.url())).check()
        assert text in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 250


X, H0 = ({"name": name, "datatype": "FP32", "shape": [-1, 4]} for name in ("x", "h0"))


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ([X], "x FP32"),
        ([X, H0 | {"datatype": "INT64"}], "h0 INT64, x FP32"),
        ([X, H0 | {"name": "h1"}], "h1 FP32, x FP32"),
        ([X, H0, H0 | {"name": "more"}], "h0 FP32, more FP32, x FP32"),
        ([H0, X], None),
        ([], None),
        (None, None),
    ],
)
def test_check_compares_the_models_inputs_as_far_as_the_server_tells_them(
    inputs: list[Any] | None, found: str | None, server: TailServer, open_: Open
) -> None:
    server.metadata = {"name": "it"} | ({} if inputs is None else {"inputs": inputs})
    for side in SIDES:
        handover = remote(open_(side, server.url()))
        if found is None:
            handover.check()
            continue
        with pytest.raises(ee.RemoteError) as caught:
            handover.check()
        expected = f"the server's model 'it' takes {found}, expected h0 FP32, x FP32: it is not the other half of"
        assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("side", SIDES)
def test_a_busy_server_is_asked_again(side: str, both: Both, server: TailServer, open_: Open) -> None:
    server.changes.append(status(503))
    same(open_(side, server.url(), retries=1).run(EARLY), both.right[id(EARLY)], remote=True)
    assert len(server.inferred) == 2


def test_retries_have_a_limit_and_other_statuses_have_none(both: Both, server: TailServer, open_: Open) -> None:
    for number, asked in ((503, 3), (502, 3), (504, 3), (500, 1), (404, 1), (401, 1)):
        server.always = status(number)
        server.seen.clear()
        instead(open_("device", server.url(), retries=2).run(EARLY), "device", both)
        assert len(server.inferred) == asked


def test_a_server_that_fails_is_left_alone_for_a_while(
    both: Both, server: TailServer, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eetoolkit_runtime.remote.link._FIRST_REST_S", 3600.0)
    monkeypatch.setattr("eetoolkit_runtime.remote.link._LONGEST_REST_S", 3600.0)
    server.always = status(500)
    runner = open_("whole", server.url())
    for _ in range(5):
        instead(runner.run(EARLY), "whole", both)
    assert len(server.inferred) == 2
    monkeypatch.setattr("eetoolkit_runtime.remote.link.time.perf_counter", lambda: 1e9)
    server.always = None
    assert remote(runner).link.may_ask()


# The link fails

LOST = {
    "refused": Fault("refuse"),
    "cut in the request": Fault("cut", "request", after=20),
    "no answer": Fault("cut", "answer"),
    "cut in the head": Fault("cut", "answer", after=250),
    "half an answer": Fault("cut", "answer", after=420),
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("side", SIDES)
def test_a_lost_connection_is_made_up_for(side: str, name: str, both: Both, server: TailServer, open_: Open) -> None:
    with proxied(server.port, LOST[name]) as proxy:
        runner = open_(side, server.url(proxy.port))
        instead(runner.run(EARLY), side, both)
        assert isinstance(remote(runner).last_failure, ee.RemoteError)
        same(runner.run(EARLY), both.right[id(EARLY)], remote=True)
    with proxied(server.port, LOST[name]) as proxy:
        same(open_(side, server.url(proxy.port), retries=1).run(EARLY), both.right[id(EARLY)], remote=True)


@pytest.mark.parametrize("side", SIDES)
def test_a_server_that_is_not_there(side: str, both: Both, open_: Open) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        runner = open_(side, f"http://127.0.0.1:{free.getsockname()[1]}/v2/models/it", retries=2)
        instead(runner.run(EARLY), side, both)
        instead(runner.run(EARLY, deadline_ms=AMPLE_MS), side, both)
        same(runner.run(HERE), both.right[id(HERE)], remote=False)
        for answer, x in zip(runner.run_batch(np.concatenate([HERE, EARLY])), (HERE, EARLY), strict=True):
            if x is HERE:
                same(answer, both.right[id(HERE)], remote=False)
            else:
                instead(answer, side, both)
        with pytest.raises(ee.RemoteError, match="the connection failed"):
            remote(runner).check()


SLOW = {
    "held before the answer": Fault("hold", "answer"),
    "held in the answer": Fault("hold", "answer", after=420),
    "held in the request": Fault("hold", "request", after=200),
    "trickled": Fault("trickle", "answer", seconds=0.02),
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("side", SIDES)
def test_a_slow_server_holds_no_call_longer_than_its_time(
    side: str, name: str, both: Both, server: TailServer, open_: Open
) -> None:
    with proxied(server.port, SLOW[name], SLOW[name]) as proxy:
        runner = open_(side, server.url(proxy.port), timeout_ms=SOON_MS)
        instead(runner.run(EARLY), side, both)
        assert str(remote(runner).last_failure) == "no answer in time"
        answer = runner.run(EARLY, deadline_ms=SOON_MS)
        if answer.exit == "exit0":  # nothing was left of the time to go on with
            instead(answer, "device", both, "deadline")
        else:
            assert side == "whole"
            same(answer, both.right[id(EARLY)], remote=False)


def test_time_for_the_rest_of_a_whole_bundle_is_kept_back(both: Both, server: TailServer, open_: Open) -> None:
    with proxied(server.port, Fault("hold"), Fault("hold")) as proxy:
        runner = open_("whole", server.url(proxy.port))
        remote(runner)._tail_ms = (AMPLE_MS - SOON_MS) / _RESERVE
        same(runner.run(EARLY, deadline_ms=AMPLE_MS), both.right[id(EARLY)], remote=False)
        assert str(remote(runner).last_failure) == "no answer in time"


def test_a_server_that_is_too_far_for_a_deadline_is_not_waited_for(both: Both, server: TailServer, open_: Open) -> None:
    runner, half = (open_(side, server.url(), expected_ms=2 * AMPLE_MS) for side in ("whole", "device"))
    asked = [runner.run(EARLY, deadline_ms=AMPLE_MS).remote for _ in range(16)]
    assert asked == [False] * 15 + [True]  # and is known to be nearer from then on
    assert runner.run(EARLY, deadline_ms=AMPLE_MS).remote
    assert half.run(EARLY, deadline_ms=AMPLE_MS).remote  # which has nothing else to do


def test_a_call_in_a_hurry_does_not_send_the_server_to_rest(both: Both, server: TailServer, open_: Open) -> None:
    with proxied(server.port, *[Fault("hold")] * 3) as proxy:
        runner = open_("device", server.url(proxy.port), expected_ms=AMPLE_MS)
        runner.run(HERE)  # which opens the first segment
        for _ in range(3):
            instead(runner.run(EARLY, deadline_ms=SOON_MS), "device", both, "deadline")
            assert str(remote(runner).last_failure) == "no answer in time"
        same(runner.run(EARLY), both.right[id(EARLY)], remote=True)


def test_a_far_server_answers_in_time(both: Both, server: TailServer, open_: Open) -> None:
    with proxied(server.port, Fault("delay", seconds=0.02)) as proxy:
        runner = open_("device", server.url(proxy.port))
        same(runner.run(EARLY, deadline_ms=AMPLE_MS), both.right[id(EARLY)], remote=True)
        assert (remote(runner).link.took_ms or 0) >= 20


@pytest.mark.parametrize("side", SIDES)
def test_a_server_that_is_started_anew_is_found_again(
    side: str, both: Both, server: TailServer, half: ee.Runner, open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eetoolkit_runtime.remote.link._LONGEST_REST_S", 0.0)
    with proxied(server.port) as proxy:
        runner = open_(side, server.url(proxy.port))
        same(runner.run(EARLY), both.right[id(EARLY)], remote=True)
        target, proxy._target = proxy._target, ("127.0.0.1", 1)
        proxy.drop()
        for _ in range(3):
            instead(runner.run(EARLY), side, both)
        proxy._target = target
        same(runner.run(EARLY), both.right[id(EARLY)], remote=True)


def test_a_token_stops_the_wait(both: Both, server: TailServer, open_: Open) -> None:
    token = ee.Interrupt()

    def stop(sent: Sent) -> None:
        token.set()
        proxy.release.wait(AMPLE_MS / 1e3)

    with proxied(server.port) as proxy:
        server.always = stop
        for side in SIDES:
            token.clear()
            runner = open_(side, server.url(proxy.port))
            answer = runner.run(EARLY, interrupt=token)
            instead(answer, "device", both, "interrupt")
            assert remote(runner).last_failure is None  # it says nothing of the server
        proxy.release.set()


def test_proxies_end(server: TailServer) -> None:
    with proxied(server.port) as proxy:
        assert isinstance(proxy, Proxy)
    assert not any(thread.is_alive() for thread in proxy._threads)
