"""What a bundle is measured against: the same trained network, the same exits and thresholds, run in other ways.

`write` makes the files once; `open_peers` opens them in the process that measures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import Tensor

from benchmarks import earlyon_peer
from benchmarks.cases.case import Case, Link
from benchmarks.policy import Policy
from benchmarks.turns import Way
from eetoolkit_exporters.capturing.capture import Network, capture
from eetoolkit_exporters.capturing.cascade import open_source
from eetoolkit_exporters.capturing.source import choose_exits
from eetoolkit_exporters.criteria.confidences import add_confidences
from eetoolkit_exporters.criteria.resolve import choose_criteria
from eetoolkit_exporters.emitting.graphs import whole_model
from eetoolkit_exporters.export import export
from eetoolkit_exporters.single_file.single_file import write_single_file
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.archive import EXITS
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.sessions import SessionSettings

Rows = list[tuple[Array, ...]]
BUNDLE = "network.ee"
ONE_FILE = "one_file.onnx"
WHOLE = "whole.onnx"


@dataclass(frozen=True)
class Peer(Way):
    """One way to run the network.

    Attributes:
        answer: From what `run` returned to the row's logits (1, classes), and the exit, counted as the network counts.
    """

    answer: Callable[[Any], tuple[Array, int]]


def export_bundle(case: Case, policy: Policy, path: Path) -> Bundle:
    """Returns the network as a bundle with the exits that the policy keeps."""
    names = [exit_name(number) for number in policy.exits]
    thresholds = dict(zip(names, policy.thresholds, strict=False))
    return export(case.network, case.example, path, exits=names, threshold=thresholds, name=case.name, **case.options)


def write(case: Case, policy: Policy, fixed: int, folder: Path) -> str | None:
    """Writes the bundle and all peers' ONNX files into `folder`; returns why there is no one file, if so."""
    bundle = export_bundle(case, policy, folder / BUNDLE)
    refusal = None
    try:
        write_single_file(bundle, folder / ONE_FILE)
    except ExportError as error:
        refusal = str(error)
    network = judged(case)
    kept = [exit_name(number) for number in policy.exits]
    save(network, kept[-1:], folder / WHOLE, confidences=False)
    save(network, [exit_name(fixed)], folder / _fixed(fixed), confidences=False)
    for place, number in enumerate(policy.exits):
        save(network, kept[: place + 1], folder / _truncated(number), confidences=True)
        save(network, [kept[place]], folder / _bare(number), confidences=True)
    return refusal


def openings(
    policy: Policy, fixed: int, stopped: Sequence[int], rows: Rows, folder: Path, threads: int | None
) -> dict[str, Callable[[], Peer]]:
    """Returns what opens each peer that onnxruntime runs, see `open_peers`."""
    # The batch fixed at 1, as the runner has it; of several workers one pool for all, as chains want it.
    settings = SessionSettings(threads, pool="own" if threads == 1 else "shared", one_row=True)

    def session(name: str) -> ort.InferenceSession:
        return settings.open(str(folder / name), name)

    names = [spec.name for spec in load(folder / BUNDLE).manifest.inputs]
    feeds = [dict(zip(names, row, strict=True)) for row in rows]
    given = [row[0] if len(row) == 1 else row for row in rows]
    kept = {exit_name(number): number for number in policy.exits}
    places = [policy.exits.index(stop) for stop in stopped]

    def bundle() -> Peer:
        runner = Runner(folder / BUNDLE, threads=threads, pool=settings.pool, load="eager")
        return Peer(given, runner.run, lambda found: (found.outputs["logits"], kept[found.exit]))

    def truncated(file: Callable[[int], str]) -> Peer:
        return _sessions([session(file(number)) for number in policy.exits], policy.exits, places, feeds)

    opening: dict[str, Callable[[], Peer]] = {
        "bundle": bundle,
        "whole": lambda: _sessions([session(WHOLE)], [policy.exits[-1]], [0] * len(rows), feeds),
        "fixed": lambda: _sessions([session(_fixed(fixed))], [fixed], [0] * len(rows), feeds),
        "hand-truncated": lambda: truncated(_truncated),
        "hand-truncated, no earlier heads": lambda: truncated(_bare),
    }
    if (folder / ONE_FILE).exists():
        opening["one file"] = lambda: _one_file(session(ONE_FILE), kept, feeds)
    return opening


def open_peers(
    case: Case,
    policy: Policy,
    fixed: int,
    stopped: Sequence[int],
    rows: Rows,
    folder: Path,
    threads: int | None,
    seed: int,
) -> tuple[dict[str, Peer], dict[str, str]]:
    """Returns all peers, and for those that cannot run this network the reason.

    Args:
        case: The network.
        policy: What all but `whole` and `fixed` stop by.
        fixed: The exit at which the best static network ends.
        stopped: The exit of each row, which `hand-truncated` has to be told.
        rows: The inputs.
        folder: Where `write` wrote.
        threads: Workers of every session and of torch; None: one per core.
        seed: Of the order in which they are opened: where the memory of a session lies is worth some per cent.
    """
    opening = openings(policy, fixed, stopped, rows, folder, threads)
    refused = {} if "one file" in opening else {"one file": "not exported"}
    order = np.random.default_rng(seed).permutation(list(opening))
    opened = {name: opening[name]() for name in order.tolist()}
    peers = {name: opened[name] for name in opening}
    first = [torch.from_numpy(row[0]) for row in rows]
    links = kept_links(case.chain, policy)
    exits = policy.exits
    peers["eager"] = Peer(first, eager(links, policy), lambda found: (found[0].numpy(), exits[found[1]]), torch=True)
    for name, build in (("earlyon eager", earlyon_peer.eager), ("earlyon staged", earlyon_peer.staged)):
        try:
            run = build(links, policy.thresholds, first[0], case.network(*case.example)[-1].shape[1])
        except ValueError as error:
            refused[name] = str(error)
            continue
        peers[name] = Peer(first, run, lambda found: (found.prediction.numpy(), exits[found.exit_taken]), torch=True)
    return peers, refused


def eager(links: Sequence[Link], policy: Policy) -> Callable[[Tensor], tuple[Tensor, int]]:
    """Returns what runs the network in PyTorch up to the exit that fires: logits, and the exit's place among them."""
    early = [(link.trunk, link.head, limit) for link, limit in zip(links, policy.thresholds, strict=False)]
    last = links[-1]

    @torch.inference_mode()
    def run(features: Tensor) -> tuple[Tensor, int]:
        for place, (trunk, head, threshold) in enumerate(early):
            features = trunk(features)
            logits = head(features)
            if logits.softmax(dim=1).max().item() >= threshold:
                return logits, place
        return last.head(last.trunk(features)), len(early)

    return run


def kept_links(chain: Sequence[Link], policy: Policy) -> list[Link]:
    """Returns the chain with only the policy's exits: what lies between two of them is one trunk."""
    links, start = [], 0
    for number in policy.exits:
        trunks = [link.trunk for link in chain[start : number + 1]]
        links.append(Link(trunks[0] if len(trunks) == 1 else torch.nn.Sequential(*trunks), chain[number].head))
        start = number + 1
    return links


def exit_name(number: int) -> str:
    """Returns what an exporter calls the exit of a network that returns a tuple."""
    return f"exit{number}"


def judged(case: Case) -> Network:
    """Returns the network as it is exported, with a criterion at each exit."""
    source = open_source(case.network, case.example)
    network = capture(source, choose_exits(source, None), **case.options)
    add_confidences(network, choose_criteria(network.exits, "max_prob"))
    return network


def save(network: Network, exits: list[str], path: Path, *, confidences: bool) -> None:
    """Writes the network as one file that computes these exits."""
    ir.save(whole_model(network, exits, confidences=confidences), path)


def _sessions(
    sessions: Sequence[ort.InferenceSession], exits: Sequence[int], places: Sequence[int], feeds: list[dict[str, Array]]
) -> Peer:
    """Returns a peer that runs each row in the session of its place, as users run one: `session.run(None, feeds)`."""
    needed = [{value.name for value in session.get_inputs()} for session in sessions]
    output = [
        [value.name for value in session.get_outputs()].index(f"{exit_name(exits[place])}_logits")
        for place, session in enumerate(sessions)
    ]
    given = [
        (sessions[place].run, {name: array for name, array in feed.items() if name in needed[place]}, place)
        for place, feed in zip(places, feeds, strict=True)
    ]

    def run(row: Any) -> Any:
        return row[0](None, row[1]), row[2]

    return Peer(given, run, lambda found: (found[0][output[found[1]]], exits[found[1]]))


def _one_file(session: ort.InferenceSession, kept: dict[str, int], feeds: list[dict[str, Array]]) -> Peer:
    exits = json.loads(session.get_modelmeta().custom_metadata_map[EXITS])
    names = [value.name for value in session.get_outputs()]
    logits, exit_ = names.index("logits"), names.index("exit")
    return Peer(
        feeds, lambda feed: session.run(None, feed), lambda found: (found[logits], kept[exits[int(found[exit_])]])
    )


def _truncated(number: int) -> str:
    return f"truncated{number}.onnx"


def _bare(number: int) -> str:
    return f"bare{number}.onnx"


def _fixed(number: int) -> str:
    return f"fixed{number}.onnx"
