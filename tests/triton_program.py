"""A Triton that runs a bundle by its Python backend: BUNDLE NAME VERSION and three ports; it ends with its input."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from eetoolkit_runtime.running.runner import Runner


def main(bundle: str, name: str, version: int, ports: list[int]) -> None:
    runner = Runner(Path(bundle), threads=1)
    plan = runner.bundle.manifest
    exits = list(runner.bundle.exits)

    def infer(requests):  # type: ignore[no-untyped-def]
        found = []
        for request in requests:
            answer = runner.run({spec.name: request[spec.name] for spec in plan.inputs})
            number = np.array([exits.index(answer.exit)], np.int64)
            found.append({**answer.outputs, "exit": number, "confidence": np.array([answer.confidence], np.float32)})
        return found

    slots = {spec.name: spec for spec in plan.inputs} | dict(plan.slots)
    outputs = {key: slots[slot] for exit_ in runner.bundle.exits.values() for key, slot in exit_.outputs.items()}
    tensors = [
        *(Tensor(name=key, dtype=np.dtype(slot.dtype).type, shape=_dims(slot.shape)) for key, slot in outputs.items()),
        Tensor(name="exit", dtype=np.int64, shape=(1,)),
        Tensor(name="confidence", dtype=np.float32, shape=(1,)),
    ]
    server = Triton(
        config=TritonConfig(
            http_address="127.0.0.1", grpc_address="127.0.0.1", http_port=ports[0], grpc_port=ports[1],
            metrics_port=ports[2], exit_timeout_secs=5,
        )
    )  # fmt: skip
    server.bind(
        model_name=name,
        model_version=version,
        infer_func=infer,
        inputs=[Tensor(name=s.name, dtype=np.dtype(s.dtype).type, shape=_dims(s.shape)) for s in plan.inputs],
        outputs=tensors,
        config=ModelConfig(batching=False),
    )
    server.run()
    print("ready", flush=True)
    sys.stdin.read()
    server.stop()


def _dims(shape):  # type: ignore[no-untyped-def]
    return tuple(dim if isinstance(dim, int) else -1 for dim in shape)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), [int(port) for port in sys.argv[4:]])
