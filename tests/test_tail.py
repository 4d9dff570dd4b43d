"""Settings of a server, policies, and answers of both halves where the plan is no plain chain."""

from __future__ import annotations

import json
import os
import pickle
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from plans import PER_ROW, Draft, add_head, chain, column, edit, gate, leave, move, over_half, row
from tail_server import Sent, TailServer, serving
from test_monitor_drift import tuning_of

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.serve.certificate import certificate
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.plan.halves import cut_points, halves
from eetoolkit_runtime.profiling.link import LinkCost
from eetoolkit_runtime.profiling.probe import measure_link
from eetoolkit_runtime.remote.settings import TOKEN, parse
from eetoolkit_runtime.running.handover import Handover

AMPLE_MS = 20_000.0
URL = "https://host/v2/models/it"


def remote(runner: ee.Runner) -> Handover:
    assert runner.remote is not None
    return runner.remote


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)


# Settings

BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "remote: Object missing required field `url`"),
    ({"url": 5}, "remote: Expected `str`, got `int` - at `url`"),
    ({"url": URL, "polcy": "local"}, "remote: no key 'polcy'; there are url, from, policy"),
    ({"url": URL, "polcy": "local"}, "did you mean 'policy'?"),
    ({"url": URL, "policy": "fast"}, "remote: policy is 'fast', expected 'remote' or 'faster' or 'local'"),
    ({"url": URL, "timeout_ms": 0}, "remote: Expected `float` > 0.0 - at `timeout_ms`"),
    ({"url": URL, "timeout_ms": "1"}, "remote: Expected `float`, got `str` - at `timeout_ms`"),
    ({"url": URL, "expected_ms": 0}, "remote: Expected `float` > 0.0 - at `expected_ms`"),
    ({"url": URL, "retries": -1}, "remote: Expected `int` >= 0 - at `retries`"),
    ({"url": URL, "retries": 11}, "remote: Expected `int` <= 10 - at `retries`"),
    ({"url": URL, "token": "a b"}, "remote: the token is no token: expected visible"),
    ({"url": URL, "token": "a\nb"}, "remote: the token is no token"),
    ({"url": URL, "token": ""}, "remote: the token is no token"),
    ({"url": URL, "certificates": "nowhere.pem"}, "remote: certificates is 'nowhere.pem', which is no file"),
    ({"url": "ftp://host/v2/models/it"}, "remote: url is 'ftp://host/v2/models/it', expected https://HOST"),
    ({"url": "https://host"}, "expected https://HOST/v2/models/NAME"),
    ({"url": "https:///v2/models/it"}, "expected https://HOST/v2/models/NAME"),
    ({"url": f"{URL}/infer"}, "expected https://HOST/v2/models/NAME"),
    ({"url": f"{URL}?a=b"}, "expected https://HOST/v2/models/NAME"),
    ({"url": "https://host:port/v2/models/it"}, "expected https://HOST/v2/models/NAME"),
    ({"url": "https://ho st/v2/models/it"}, "expected https://HOST/v2/models/NAME"),
    ({"url": "https://me:secret@host/v2/models/it"}, "names a user or a password, which would be shown"),
    ({"url": "https://me:secret@host:port/v2/models/it"}, "names a user or a password, which would be shown"),
    ({"url": "https://me:secret@ho st/v2/models/it"}, "names a user or a password, which would be shown"),
    ({"url": "http://host/v2/models/it"}, "http:// to host is not encrypted: use https://, or say tls=False"),
    (
        {"url": "http://host/v2/models/it", "tls": False, "token": "it"},
        "the token would go to host unencrypted; use https:",
    ),
    ({"url": "grpc://host/v2/models/it"}, "grpc:// to host is not encrypted: use grpcs://, or say tls=False"),
]


@pytest.mark.parametrize(("given", "text"), BAD, ids=[text for _, text in BAD])
def test_settings_that_there_are_not_are_refused_in_a_line(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ee.InputError) as caught:
        parse(given)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "protocol", "place", "encrypted"),
    [
        ("https://host/v2/models/it", "rest", "host:443", True),
        ("https://host:8443/v2/models/it/", "rest", "host:8443", True),
        ("http://localhost:8000/v2/models/it", "rest", "localhost:8000", False),
        ("http://[::1]:8000/v2/models/it", "rest", "[::1]:8000", False),
        ("grpcs://host/v2/models/it", "grpc", "host:8001", True),
        ("grpc://127.0.0.1:9/v2/models/it", "grpc", "127.0.0.1:9", False),
    ],
)
def test_an_address_is_read(url: str, protocol: str, place: str, encrypted: bool) -> None:
    address = parse({"url": url}).address
    assert (address.protocol, address.place, address.encrypted, address.model) == (protocol, place, encrypted, "it")


def test_another_machine_may_be_asked_without_encryption_where_that_is_said() -> None:
    assert not parse({"url": "http://host/v2/models/it", "tls": False}).address.encrypted


def test_the_token_is_the_settings_else_the_environments_and_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "theirs")
    assert parse({"url": URL}).token == "theirs"  # noqa: S105
    settings = parse({"url": URL, "token": "secret"})
    assert settings.token == "secret"  # noqa: S105
    assert "secret" not in repr(settings)
    monkeypatch.setenv(TOKEN, "a b")
    with pytest.raises(ee.InputError, match=f"remote: the token in the environment's {TOKEN} is no token"):
        parse({"url": URL})
    monkeypatch.setenv(TOKEN, "theirs")
    with pytest.raises(ee.InputError, match=f"the token in the environment's {TOKEN} would go to host unencrypted"):
        parse({"url": "http://host/v2/models/it", "tls": False})


def test_a_remote_error_says_whether_to_try_again() -> None:
    assert not ee.RemoteError("no").again
    assert str(pickle.loads(pickle.dumps(ee.RemoteError("no")))) == "no"  # noqa: S301 - our own


def test_grpc_without_its_client_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eetoolkit_runtime.remote.link.find_spec", lambda name: None)
    folder = chain().save(tmp_path / "it.ee")
    with pytest.raises(ee.RemoteError, match=r"^gRPC needs tritonclient: pip install 'eetoolkit\[remote\]'$"):
        ee.Runner(folder, remote={"url": "grpcs://host/v2/models/it", "from": "exit0"})


# Bundles

Serve = Callable[..., tuple[TailServer, Bundle, Bundle]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Gives what serves the tail of a draft behind a cut: the server, the whole bundle and the device's half."""
    with ExitStack() as open_:

        def serve(draft: Any, at: int = 0, **options: Any) -> tuple[TailServer, Bundle, Bundle]:
            place = tmp_path / f"it{len(list(tmp_path.iterdir()))}"
            bundle = ee.load(draft if isinstance(draft, Path) else draft.save(place))
            found = halves(bundle.manifest, cut_points(bundle.manifest)[at])
            half = open_.enter_context(ee.Runner(Bundle(bundle.path, found.server), threads=1))
            server = open_.enter_context(serving(half, **options))
            return server, bundle, Bundle(bundle.path, found.device)

        yield serve


def opened(bundle: Bundle, server: TailServer, monitor: ee.Monitor | None = None, **more: Any) -> ee.Runner:
    settings = {"url": server.url(), "timeout_ms": AMPLE_MS, "retries": 0} | more
    if bundle.manifest.split is None:
        settings = {"from": cut_points(bundle.manifest)[0].segment} | settings
    return ee.Runner(bundle, threads=1, remote=settings, monitor=monitor)


def test_where_a_whole_bundle_is_cut_must_be_said(serve: Serve) -> None:
    server, whole, device = serve(chain())
    with pytest.raises(ee.InputError, match=r"is a whole bundle; say where it is cut: from='EXIT' \(--from EXIT\)"):
        ee.Runner(whole, remote={"url": server.url()})
    with pytest.raises(ee.InputError, match="has no exit or segment 'exit9'; it can be cut at exit0, exit1"):
        ee.Runner(whole, remote={"url": server.url(), "from": "exit9"})
    with pytest.raises(ee.InputError, match="from is 'exit1', but 'drafted' was cut behind 'exit0'"):
        ee.Runner(device, remote={"url": server.url(), "from": "exit1"})
    with pytest.raises(ee.InputError, match="'faster' needs a whole bundle"):
        ee.Runner(device, remote={"url": server.url(), "policy": "faster"})
    with pytest.raises(ee.RunError, match="remote is 'x', expected a mapping or None"):
        ee.Runner(whole, remote="x")  # type: ignore[arg-type]
    ee.Runner(device, remote={"url": server.url(), "from": "exit0"}).close()


def test_exits_behind_the_cut_are_the_servers(serve: Serve) -> None:
    server, whole, device = serve(chain())
    x = row(0.1, 0.9)
    with opened(whole, server) as runner, opened(device, server) as half, ee.Runner(whole, threads=1) as alone:
        for options in ({"exit_at": "exit2"}, {"thresholds": {"exit1": 0.95}}, {"exit_at": "exit0"}):
            answer, right = runner.run(x, **options), alone.run(x, **options)
            assert (answer.exit, answer.path, answer.remote) == (right.exit, right.path, False)
        assert server.inferred == []
        for options in ({"exit_at": "exit2"}, {"thresholds": {"exit1": 0.95}}, {"exit_at": "handover"}):
            for call in (half.run, half.run_batch):
                with pytest.raises(ee.InputError, match="is not on this machine: behind 'exit0' the server decides"):
                    call(x, **options)
        with pytest.raises(ee.InputError, match="no exit 'nope'"):
            half.run(x, exit_at="nope")
        assert (half.run(x, exit_at="exit0").exit, half.run(x, exit_at="exit0").remote) == ("exit0", False)
        for each in (runner, half):
            assert each.run(row(0.9), thresholds={"exit0": 0.95}).remote
            assert each.run(x, thresholds={"exit0": 0.05}).exit == "exit0"
            with pytest.raises(ee.InputError, match="got 2 rows"):
                each.run(np.concatenate([x, x]))


@pytest.mark.parametrize("side", ["whole", "device"])
@pytest.mark.parametrize("answers", [True, False], ids=["server", "no server"])
def test_the_most_confident_exit_answers_on_whichever_side_it_is(
    side: str, answers: bool, serve: Serve, tmp_path: Path
) -> None:
    folder = edit(chain(0.9, 0.9).save(tmp_path / "sure.ee"), fallback="most_confident")
    server, whole, device = serve(folder)
    if not answers:
        server.always = lambda sent: setattr(sent, "status", 500)
    rows = [row(0.7, 0.2, 0.3), row(0.2, 0.7, 0.3), row(0.2, 0.3, 0.7), row(0.2, 0.95, 0.1), row(0.7, 0.7, 0.7)]
    with opened(whole if side == "whole" else device, server) as runner, ee.Runner(whole, threads=1) as alone:
        for deadline_ms in (None, AMPLE_MS):
            for x in rows:
                answer, right = runner.run(x, deadline_ms=deadline_ms), alone.run(x)
                if side == "device" and not answers:
                    assert (answer.exit, answer.stopped_by) == ("exit0", "remote")
                    continue
                assert (answer.exit, answer.path, answer.stopped_by) == (right.exit, right.path, right.stopped_by)
                assert answer.confidence == right.confidence
                assert answer.remote is (answers and right.exit != "exit0")
        found = [answer.exit for answer in runner.run_batch(np.concatenate(rows))]
        assert found == (["exit0"] * 5 if side == "device" and not answers else [alone.run(x).exit for x in rows])


@pytest.mark.parametrize("side", ["whole", "device"])
@pytest.mark.parametrize(("own", "asked"), [("last", "most_confident"), ("most_confident", "last")])
def test_a_fallback_that_the_server_does_not_have_is_refused(
    side: str, own: str, asked: Any, serve: Serve, tmp_path: Path
) -> None:
    server, whole, device = serve(edit(chain(0.9, 0.9).save(tmp_path / "sure.ee"), fallback=own))
    bundle = whole if side == "whole" else device
    settings = {"url": server.url(), **({"from": "exit0"} if side == "whole" else {})}
    with pytest.raises(ee.InputError, match=f"fallback is '{asked}', but where no exit fires .* answers by '{own}'"):
        ee.Runner(bundle, remote=settings, fallback=asked)
    ee.Runner(bundle, remote=settings | {"policy": "local"}, fallback=asked).close()
    ee.Runner(bundle, remote=settings, fallback=own).close()  # type: ignore[arg-type]
    one = {"from": "exit1"} if side == "whole" else {}
    if one:  # of one exit behind the cut there is but one answer, whatever the fallback
        ee.Runner(bundle, remote=settings | one, fallback=asked).close()


def test_a_batch_that_fails_sends_none_of_its_other_rows(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _, device = serve(chain())
    begun: list[int] = []
    left = threading.Event()
    shutdown = ThreadPoolExecutor.shutdown

    def leaving(self: ThreadPoolExecutor, wait: bool = True, **more: Any) -> None:
        shutdown(self, wait=False, **more)
        left.set()
        shutdown(self, wait=wait)

    def go_on(*_: Any) -> ee.Answer:
        begun.append(len(begun))
        if begun[-1] > 0:
            left.wait(AMPLE_MS / 1e3)
        raise ee.RunError("no more")

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", leaving)
    monkeypatch.setattr(Handover, "_go_on", go_on)
    with opened(device, server) as runner, pytest.raises(ee.RunError, match="no more"):
        runner.run_batch(np.concatenate([row(0.1)] * 100))
    assert len(begun) < 20


def gate_behind_an_exit() -> Draft:
    """Two segments of `chain` with an exit in the first, then a block that is skipped unless x[1] > 0.5."""
    draft = Draft()
    draft.slot("sure0", shape=PER_ROW)
    draft.slot("open", "bool", PER_ROW)
    draft.segment(
        "first", f"{column('sure0', 0)}  h = Abs(x)", reads=["x"], writes=["sure0", "h"],
        exit=leave("early", "h", "sure0", 0.5), next="gate",
    )  # fmt: skip
    draft.segment(
        "gate", over_half("open", 1), reads=["x"], writes={"open": "open", "y": move("h")},
        next=gate("open", "block", "head"),
    )  # fmt: skip
    draft.segment("block", "y = Neg(x)", reads=["x"], writes=["y"], next="head")
    add_head(draft, "y")
    return draft


@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "json"])
def test_a_way_that_hangs_on_the_row_is_what_the_server_says(serve: Serve, binary: bool) -> None:
    server, whole, device = serve(gate_behind_an_exit())
    server.binary = binary
    assert device.manifest.split is not None
    assert device.manifest.split.exits[0].path is None
    with ee.Runner(whole, threads=1) as alone, opened(whole, server) as runner, opened(device, server) as half:
        for x in (row(0.9), row(0.1, 0.9), row(0.1, 0.1)):
            right = alone.run(x)
            for each in (runner, half):
                answer = each.run(x)
                assert (answer.exit, answer.path, answer.gates) == (right.exit, right.path, right.gates)
                assert answer.remote is (right.exit == "last")
                np.testing.assert_array_equal(answer.outputs["logits"], right.outputs["logits"])


def exit_in_two_places() -> Draft:
    """An exit `early`, and behind it `again` in two segments that follow each other: by x[1], then by x[2]."""
    draft = Draft()
    for k in range(3):
        draft.slot(f"sure{k}", shape=PER_ROW)
        draft.segment(
            f"segment{k}", f"{column(f'sure{k}', k)}  h{k} = Abs(x)", reads=["x"], writes=[f"sure{k}", f"h{k}"],
            exit=leave("early" if k == 0 else "again", f"h{k}", f"sure{k}", 0.5), next=f"segment{k + 1}",
        )  # fmt: skip
    add_head(draft, "h2", "segment3")
    return draft


def test_the_way_to_an_exit_in_two_places_is_what_the_server_says(serve: Serve) -> None:
    server, whole, device = serve(exit_in_two_places())
    with ee.Runner(whole, threads=1) as alone, opened(whole, server) as runner, opened(device, server) as half:
        for x in (row(0.1, 0.9), row(0.1, 0.1, 0.9), row(0.1)):
            right = alone.run(x)
            for each in (runner, half):
                answer = each.run(x)
                assert (answer.exit, answer.path, answer.remote) == (right.exit, right.path, True)


def test_what_is_not_said_to_go_on_stays_here(serve: Serve) -> None:
    server, whole, _ = serve(chain())
    with opened(whole, server) as runner:
        assert [answer.exit for answer in runner.run_all_exits(row(0.1))] == ["exit0", "exit1", "exit2"]
        assert [answer.exit for answer in runner.refine(row(0.1))][-1] == "exit2"
        runner.warmup(row(0.1))
        runner.trace(row(0.1), lambda name, took: None)
    assert server.seen == []


def test_a_closed_runner_asks_nobody(serve: Serve) -> None:
    server, whole, _ = serve(chain())
    runner = opened(whole, server)
    runner.close()
    for call in (runner.run, runner.run_batch):
        with pytest.raises(ee.RunError, match="this runner is closed"):
            call(row(0.1))
    assert server.seen == []


def test_concurrent_calls_each_have_their_own_answer(serve: Serve) -> None:
    server, whole, _ = serve(chain())
    wrong: list[Any] = []
    with opened(whole, server) as runner:

        def ask(number: int) -> None:
            for k in range(8):
                x = row(0.1, 0.9, number, k)
                answer = runner.run(x)
                if not answer.remote or not np.array_equal(answer.outputs["logits"], x * 4):
                    wrong.append((answer, remote(runner).last_failure))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:this process was forked after the import:RuntimeWarning")
def test_a_forked_process_asks_by_connections_of_its_own(serve: Serve) -> None:
    server, whole, _ = serve(chain())
    with opened(whole, server) as runner:
        assert runner.run(row(0.1, 0.9)).remote
        child = os.fork()
        if child == 0:
            ok = False
            try:
                ok = runner.run(row(0.1, 0.9)).remote and remote(runner).last_failure is None
            finally:
                os._exit(0 if ok else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert runner.run(row(0.1, 0.9)).remote


# Policies


def test_the_policy_local_asks_nobody(serve: Serve) -> None:
    server, whole, device = serve(chain())
    with opened(whole, server, policy="local") as runner, opened(device, server, policy="local") as half:
        assert runner.run(row(0.1, 0.9)).exit == "exit1"
        assert (half.run(row(0.1, 0.9)).exit, half.run(row(0.1, 0.9)).stopped_by) == ("exit0", "remote")
    assert server.seen == []


def test_the_policy_faster_learns_both_ways_and_then_takes_the_faster(serve: Serve) -> None:
    server, whole, _ = serve(chain())
    with opened(whole, server, policy="faster") as runner:
        glue = remote(runner)
        assert runner.run(row(0.1, 0.9)).remote  # nothing is known
        assert not runner.run(row(0.1, 0.9)).remote  # nothing is known of this machine
        glue.link.took_ms, glue._tail_ms = 1.0, 5.0
        assert runner.run(row(0.1, 0.9)).remote
        glue.link.took_ms, glue._tail_ms = 1000.0, 5.0
        asked = [runner.run(row(0.1, 0.9)).remote for _ in range(20)]
        assert asked.count(True) == 1  # it is tried again, and is seen to be no faster yet
        assert asked.index(True) >= 10
        assert glue.link.took_ms < 1000  # but what is known gets better


def test_what_a_profile_says_of_the_rest_is_what_faster_goes_by(serve: Serve, tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "known.ee")
    profile = ee.profile(folder, row(0.1), threads=1, seconds=0)
    known = profile.save(folder).manifest.profile
    assert known is not None
    server, whole, _ = serve(folder)
    with opened(whole, server, policy="faster") as runner:
        assert remote(runner).link.took_ms is None
        tail_ms = remote(runner)._tail_ms
        assert tail_ms == pytest.approx(known.expected_ms["segment1"] + known.expected_ms["segment2"])

    with opened(whole, server, policy="faster", expected_ms=1e9) as runner:
        assert not runner.run(row(0.1, 0.9)).remote  # it is known to be slower at once


# TLS and the token


def context_of(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def test_tls_takes_the_certificates_that_it_is_told_and_no_others(serve: Serve, tmp_path: Path) -> None:
    ours = certificate(["localhost"], cache=tmp_path / "ours").path
    others = certificate(["localhost"], cache=tmp_path / "others").path
    elsewhere = certificate(["elsewhere"], cache=tmp_path / "elsewhere").path
    draft = chain()
    server, whole, device = serve(draft, context=context_of(ours))
    x = row(0.1, 0.9)
    for bundle in (whole, device):
        with opened(bundle, server, url=server.url(scheme="https"), certificates=str(ours)) as runner:
            assert runner.run(x).remote
        for wrong in (str(others), None):
            more = {} if wrong is None else {"certificates": wrong}
            with opened(bundle, server, url=server.url(scheme="https"), **more) as runner:
                answer = runner.run(x)
                assert (answer.remote, answer.stopped_by) == (False, "exit" if bundle is whole else "remote")
                assert "the server's certificate is not trusted" in str(remote(runner).last_failure)
    named, _, device = serve(draft, context=context_of(elsewhere))
    with opened(device, named, url=named.url(scheme="https"), certificates=str(elsewhere)) as runner:
        assert not runner.run(x).remote
        assert "the server's certificate is not trusted: Hostname mismatch" in str(remote(runner).last_failure)
    plain, _, _ = serve(draft)
    with opened(device, plain, url=plain.url().replace("http:", "https:")) as runner:
        assert not runner.run(x).remote
        said = "the server speaks no TLS at this port: use http://, or the port at which it does"
        assert str(remote(runner).last_failure) == said
    with pytest.raises(ee.RemoteError, match="cannot be read"):
        (tmp_path / "no.pem").write_text("no certificate")
        with opened(device, named, url=named.url(scheme="https"), certificates=tmp_path / "no.pem") as runner:
            remote(runner).check()


def test_the_token_is_sent_and_shown_nowhere(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, whole, _ = serve(chain())
    server.token = "hush"  # noqa: S105
    with opened(whole, server, token="hush") as runner:  # noqa: S106
        assert runner.run(row(0.1, 0.9)).remote
    monkeypatch.setenv(TOKEN, "hush")
    with opened(whole, server) as runner:
        assert runner.run(row(0.1, 0.9)).remote
        assert "hush" not in f"{runner!r} {remote(runner).settings!r} {remote(runner).link.settings!r}"
    with caplog.at_level("DEBUG"), opened(whole, server, token="wrong-one") as runner:  # noqa: S106
        assert not runner.run(row(0.1, 0.9)).remote
        assert "refuses the token" in str(remote(runner).last_failure)
        with pytest.raises(ee.RemoteError) as caught:
            remote(runner).check()
    assert "gives no answer: the server refuses the token" in caplog.text
    assert "wrong-one" not in caplog.text + str(caught.value)


# The link


def test_a_link_is_measured_and_kept_in_the_profile(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eetoolkit_runtime.profiling.profiler._LINK_S", 0.0)
    folder = chain().save(tmp_path / "measured.ee")
    server, _, _ = serve(folder)
    given = {"url": server.url(), "from": "exit0", "timeout_ms": AMPLE_MS}
    found = ee.profile(folder, row(0.1, 0.9), threads=1, seconds=0, remote=given)
    link = found.link
    assert isinstance(link, LinkCost)
    assert (link.at, link.protocol, link.request.runs) == ("exit0", "rest", 5)
    posted = server.inferred[0]
    head = sum(len(name) + len(value) + 4 for name, value in posted.headers.items())
    assert link.sent_bytes == len(f"POST {posted.path} HTTP/1.1\r\n\r\n") + head + len(posted.body)
    assert 0 < link.received_bytes < 2000
    assert link.encoded == 1  # heads are not the tensors'
    assert 0 < link.server_ms <= link.request.quantiles_ms[-1]
    assert "the link: a request " in str(found)
    assert ee.Profile.read(found.write(tmp_path / "it.json")) == found
    assert all(seen.tensors.keys() == {"h0", "x"} for seen in server.inferred)
    server.binary = False
    with ee.Runner(folder, threads=1, remote=given) as runner:
        assert 2 < measure_link(runner, row(0.1, 0.9, 0.3, 0.7), seconds=0).encoded < 6
    server.always = lambda sent: setattr(sent, "status", 500)
    with pytest.raises(ee.RemoteError, match="status 500"):
        ee.profile(folder, row(0.1), threads=1, seconds=0, remote=given)


def test_bytes_over_bandwidth_are_added_to_the_round_trip() -> None:
    latency = {"runs": 1, "mean_ms": 20.0, "p50_ms": 20.0, "p90_ms": 20.0, "p99_ms": 20.0}
    keys = {"at": "a", "protocol": "rest", "round_trip": latency, "request": latency, "server": latency}
    link = msgspec.convert(
        keys | {"sent_bytes": 1, "received_bytes": 1, "up_mbit_s": 8.0, "down_mbit_s": None}, LinkCost
    )
    assert "8 Mbit/s up" in str(link)
    assert "3,950 Mbit/s up" in str(msgspec.structs.replace(link, up_mbit_s=3950.4))
    assert link.expected_ms(5000, 10**9) == pytest.approx(20 + 5)  # 40,000 bits at 8,000 a millisecond


# The command line


def test_run_says_once_why_rows_get_no_answer_and_then_how_many(serve: Serve, tmp_path: Path) -> None:
    server, whole, _ = serve(chain())
    ee.split(whole.path, "exit0", tmp_path / "device.ee", tmp_path / "repository", servers=["mlserver"])
    np.save(tmp_path / "x.npy", np.concatenate([row(0.9), *[row(0.1, 0.9)] * 5]))

    def gone(sent: Sent) -> None:
        sent.status, sent.body, sent.headers = 404, b'{"error": "no"}', {}

    for more in ([str(tmp_path / "device.ee")], [str(whole.path), "--from", "exit0"]):
        ask = ["run", *more, str(tmp_path / "x.npy"), "--pool", "own", "--threads", "1", "--remote", server.url()]
        server.changes.append(lambda _sent: None)  # the first is answered
        server.always = gone
        done = CliRunner().invoke(main, [*ask, "--timeout-ms", "20000"])
        assert done.exit_code == 0, done.output
        assert len(done.stdout.splitlines()) == 6
        why = "the server does not run the other half of this bundle (status 404: no)"
        assert [line for line in done.stderr.splitlines() if "warning" in line] == [
            f"warning: {tmp_path / 'x.npy'}[2]: no answer of the server: {why}",
            f"warning: 4 of 5 rows that went on got no answer from the server, at last: {why}",
        ]
    done = CliRunner().invoke(main, [*ask, "--policy", "local"])
    assert (done.exit_code, "warning" in done.stderr) == (0, False)


def test_a_monitor_counts_what_the_server_answers_under_its_exits_names(serve: Serve) -> None:
    tuned = chain()
    shares = {"exit0": (0.5, 0.4, 0.6), "exit1": (0.3, 0.2, 0.4), "exit2": (0.2, 0.1, 0.3)}
    tuned.options["tuning"] = tuning_of(tuned.plan(), shares)
    server, whole, device = serve(tuned)
    here, early, deep = row(0.9), row(0.1, 0.9), row(0.1, 0.1, 0.3)
    for bundle in (whole, device):
        server.always, monitor = None, ee.Monitor()
        with opened(bundle, server, monitor=monitor) as runner:
            answers = [runner.run(x) for x in (here, early, deep)]
            answers += runner.run_batch(np.concatenate([deep, here, early]))
            answers += runner.stream([early, here])
            found = monitor.snapshot()
            assert {name: exit_.answers for name, exit_ in found.exits.items() if exit_.answers} == {
                "exit0": 3, "exit1": 3, "exit2": 2
            }  # fmt: skip
            assert found.exits["exit1"].latency.calls == found.exits["exit2"].latency.calls == 1
            assert (found.answers, found.remote, sum(answer.remote for answer in answers)) == (8, 5, 5)
            assert (handover := remote(runner)).answered == 5
            assert "5 by a server" in str(found).splitlines()
            text = ee.prometheus_text(monitor)
            assert 'eetoolkit_remote_answers_total{bundle="drafted"} 5.0' in text.splitlines()
            server.always = lambda sent: setattr(sent, "status", 404)
            late = runner.run(early)
            assert (late.remote, handover.unanswered, monitor.snapshot().remote) == (False, 1, 5)
        assert monitor.snapshot().stopped_by["remote"] == int(bundle is device)


def test_run_says_that_an_answer_was_remote(serve: Serve, tmp_path: Path) -> None:
    server, whole, _ = serve(chain())
    np.save(tmp_path / "x.npy", np.concatenate([row(0.9), row(0.1, 0.9)]))
    token = tmp_path / "token"
    token.write_text("hush\n")
    server.token = "hush"  # noqa: S105
    run = ["run", str(whole.path), str(tmp_path / "x.npy"), "--pool", "own", "--threads", "1"]
    ask = [*run, "--remote", server.url(), "--from", "exit0", "--timeout-ms", "20000", "--token-file", str(token)]
    done = CliRunner().invoke(main, ask)
    assert done.exit_code == 0, done.output
    assert [line.partition(": ")[2] for line in done.stdout.splitlines()] == [
        "class 0, exit0, confidence 0.9, 1 of 3 segments",
        "class 1, exit1, confidence 0.9, 2 of 3 segments, remote",
    ]
    found = CliRunner().invoke(main, [*ask, "--json"]).stdout.splitlines()
    assert [msgspec.json.decode(line)["remote"] for line in found] == [False, True]
    token.write_text("wrong")
    done = CliRunner().invoke(main, ask)
    assert done.exit_code == 0
    assert "x.npy[1]: no answer of the server: the server refuses the token" in done.stderr.replace("\n", " ")
    assert "wrong" not in done.output
    assert "warning: 1 of 1 row that went on got no answer from the server, at last: the server refuses" in done.stderr
    for text, what in (("\n", "empty"), ("two words", "no token: expected visible ASCII without spaces")):
        token.write_text(text)
        done = CliRunner().invoke(main, ask)
        assert (done.exit_code, f"the first line of {token} is {what}" in done.stderr) == (2, True)
    token.write_text("hush")
    for more in (["--from", "exit0"], ["--policy", "local"], ["--token-file", str(token)]):
        done = CliRunner().invoke(main, [*run, *more])
        assert done.exit_code == 2
        assert "--remote URL" in done.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--remote", URL], "say where it is cut: --from EXIT"),
        (["--remote", "http://host/v2/models/it", "--from", "exit0"], "use https://, or say --unencrypted"),
        (["--remote", "https://me:it@host/v2/models/it", "--from", "exit0"], "would be shown; pass --token-file FILE"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "profile"])
def test_a_shell_is_told_options_and_no_arguments(verb: str, more: list[str], said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", row(0.1, 0.9))
    inputs = [str(tmp_path / "x.npy")] if verb == "run" else ["--inputs", str(tmp_path / "x.npy"), "--seconds", "0"]
    command = [verb, str(chain().save(tmp_path / "it.ee")), *inputs, "--pool", "own", "--threads", "1", *more]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, done.stderr.count("\n"), said in done.stderr) == (1, 1, True), done.stderr


def test_a_wanted_token_is_asked_for_by_the_option(serve: Serve, tmp_path: Path) -> None:
    server, whole, _ = serve(chain())
    server.token = "hush"  # noqa: S105
    np.save(tmp_path / "x.npy", row(0.1, 0.9))
    ask = ["--pool", "own", "--threads", "1", "--remote", server.url(), "--from", "exit0", "--timeout-ms", "20000"]
    done = CliRunner().invoke(main, ["run", str(whole.path), str(tmp_path / "x.npy"), *ask])
    assert f"wants a token (status 401): pass --token-file FILE, or set {TOKEN}" in done.stderr


def test_what_a_shell_measures_of_a_link_is_what_it_tunes_by(serve: Serve, tmp_path: Path) -> None:
    # With the command line's own pool, which is the process's and beside which onnxruntime allows no other.
    server, _, _ = serve(chain().save(tmp_path / "it.ee"))
    rows = np.concatenate([row(0.9), row(0.1, 0.9), row(0.1, 0.2, 0.8), row(0.2, 0.8)] * 30)
    np.save(tmp_path / "x.npy", rows[:2])
    np.savez(tmp_path / "val.npz", x=rows, labels=rows.argmax(axis=1))
    ask = ["--threads", "1", "--remote", server.url(), "--from", "exit0", "--timeout-ms", str(AMPLE_MS)]
    more = ["--seconds", "0", "--operators", "--trace", "trace.json", "--output", "pi.json", "--save"]
    commands = [["profile", "it.ee", "--inputs", "x.npy", *more, *ask], ["run", "it.ee", "x.npy", *ask, "--json"]]
    code = (
        "from eetoolkit.cli import main; from eetoolkit_runtime.profiling import profiler; profiler._LINK_S = 0.0\n"
        f"for command in {commands!r}: main(command, standalone_mode=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["remote"] for line in done.stdout.splitlines()[-2:]] == [False, True]
    link = ee.Profile.read(tmp_path / "pi.json").link
    assert link is not None
    tune = ["tune", str(tmp_path / "it.ee"), "--data", str(tmp_path / "val.npz"), "--threads", "1", "--json"]
    tuned = CliRunner().invoke(main, [*tune, "--link", str(tmp_path / "pi.json"), "--server-speedup", "10"])
    assert tuned.exit_code == 0, tuned.stderr
    told = json.loads(tuned.stdout)["split"]["link"]
    assert (told["round_trip_ms"], told["up_mbit_s"]) == (link.round_trip_ms, link.up_mbit_s)
