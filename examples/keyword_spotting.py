"""Keyword spotting on a stream: a recurrent network whose state goes in and out, and that stops early.

A small recurrent layer hears every chunk and answers at once where it is sure. Only else a large one goes on. Both keep
what they heard in a state (layers, rows, width), which the caller hands back with the next chunk: a bundle remembers
nothing from one run to the next.

The sounds are made up: eight bands of energy, in which a word is a tone that rises or falls over two chunks. Half a
word is none, so no chunk can be understood without the one before it.

    python examples/keyword_spotting.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import eetoolkit as ee

WORDS = ["nothing", "rising", "falling"]
BANDS, FRAMES, CHUNKS = 8, 8, 8
SMALL, LARGE = 16, 48
SURE = 0.95


class Spotter(nn.Module):
    """Two recurrent layers, an exit behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.GRU(BANDS, SMALL, batch_first=True), nn.GRU(SMALL, LARGE, batch_first=True)
        self.early, self.late = nn.Linear(SMALL, len(WORDS)), nn.Linear(LARGE, len(WORDS))

    def forward(self, sound: Tensor, memory: Tensor, context: Tensor) -> dict[str, dict[str, Tensor]]:
        """Returns both exits, each with the states for the next chunk; the early one leaves `context` as it was."""
        heard, memory = self.small(sound, memory)
        understood, after = self.large(heard, context)
        return {
            "early": {"logits": self.early(heard[:, -1]), "memory": memory, "context": context},
            "late": {"logits": self.late(understood[:, -1]), "memory": memory, "context": after},
        }


def silence(rows: int) -> tuple[Tensor, Tensor]:
    """Returns the states before anything was heard."""
    return torch.zeros(1, rows, SMALL), torch.zeros(1, rows, LARGE)


def streams(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns sounds, (rows, CHUNKS, FRAMES, BANDS), and the word that ends with each chunk, (rows, CHUNKS)."""
    rng = np.random.default_rng(seed)
    sounds = rng.normal(0, 0.2, (rows, CHUNKS, FRAMES, BANDS)).astype(np.float32)
    words = np.zeros((rows, CHUNKS), np.int64)
    tone = np.repeat(np.eye(BANDS, dtype=np.float32), 2, 0)  # one band after the other, over two chunks
    for row in range(rows):
        place = 0
        while place < CHUNKS - 1:
            kind = rng.integers(6)  # three of them are silence, one is half a word
            halves = tone[:: -1 if kind == 1 else 1].reshape(2, FRAMES, BANDS)
            if kind < 2:
                sounds[row, place : place + 2] += halves
                words[row, place + 1] = 1 + kind
                place += 1
            elif kind == 2:
                sounds[row, place] += halves[rng.integers(2)]
            place += 1
    return torch.from_numpy(sounds), torch.from_numpy(words)


def train(steps: int = 120) -> Spotter:
    """Returns a trained network. As on the device, a row that leaves early takes no part in the large layer."""
    torch.manual_seed(0)
    network = Spotter()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for step in range(steps):
        sounds, words = streams(64, seed=step)
        memory, context = silence(len(sounds))
        loss = torch.zeros(())
        for place in range(CHUNKS):
            exits = network(sounds[:, place], memory, context)
            early, late = exits["early"], exits["late"]
            loss = loss + sum(functional.cross_entropy(each["logits"], words[:, place]) for each in (early, late))
            leaves = early["logits"].detach().softmax(1).amax(1) >= SURE
            memory = early["memory"]
            context = torch.where(leaves[:, None], early["context"], late["context"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def export(network: Spotter, folder: Path) -> ee.Bundle:
    """Returns the bundle. That rows lie along the second dimension of the states, the export finds out."""
    sounds, _ = streams(8, seed=1000)
    memory, context = silence(1)
    example = {"sound": sounds[:1, 0], "memory": memory, "context": context}
    memory, context = silence(8)
    golden = {"sound": sounds[:, 1], "memory": memory, "context": context}
    return ee.export(
        network, example, folder / "spotter.ee", labels=WORDS, threshold=SURE, golden_inputs=golden, overwrite=True
    )


def listen(runner: ee.Runner, stream: Tensor) -> list[ee.Answer]:
    """Returns the answer to each chunk of one stream; what a run leaves behind goes into the next one."""
    memory, context = (state.numpy() for state in silence(1))
    answers = []
    for chunk in stream.numpy():
        answer = runner.run({"sound": chunk[None], "memory": memory, "context": context})
        memory, context = answer.outputs["memory"], answer.outputs["context"]
        answers.append(answer)
    return answers


def main(folder: Path) -> None:
    """Trains, exports, and listens to streams that it was not trained on."""
    bundle = export(train(), folder)
    print({spec.name: list(spec.shape) for spec in bundle.manifest.inputs})
    sounds, words = streams(50, seed=2000)
    with ee.Runner(bundle, threads=1) as runner:
        answers = [answer for stream in sounds for answer in listen(runner, stream)]
    right = np.mean([answer.prediction == word for answer, word in zip(answers, words.flatten().tolist(), strict=True)])
    early = np.mean([answer.exit == "early" for answer in answers])
    print(f"{len(answers)} chunks: {right:.1%} right, {early:.1%} left early, where the large layer did not run")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
