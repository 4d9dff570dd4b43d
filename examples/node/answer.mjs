// Answers rows with a bundle's plan as one ONNX file, in Node. A phone's app does the same in its own language.
//
//     eetoolkit pack digits.ee --single-file -o digits.onnx              writes digits.onnx and digits.json
//     node examples/node/answer.mjs digits.onnx rows.f32                 rows.f32: float32, as numpy's tofile() writes
//     node examples/node/answer.mjs digits.onnx rows.f32 exit0=0.99      another threshold

import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";

const [model, rows, ...thresholds] = process.argv.slice(2);
const file = readFileSync(model);
const about = JSON.parse(readFileSync(model.replace(/\.onnx$/, ".json"), "utf8"));

for (const [name, value] of thresholds.map((text) => text.split("="))) {
  const { threshold } = about.exits.find((exit) => exit.name === name);
  file.writeFloatLE(Number(value), threshold.offset); // in memory; the file stays as it is
}
const session = await ort.InferenceSession.create(file, { intraOpNumThreads: 1 });

const [input] = about.inputs;
const size = input.shape.reduce((product, dim) => product * dim, 1); // one row a call
const bytes = readFileSync(rows);
const numbers = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);

for (let start = 0; start < numbers.length; start += size) {
  const row = new ort.Tensor("float32", numbers.slice(start, start + size), input.shape);
  const answer = await session.run({ [input.name]: row });
  const exit = about.exits[Number(answer.exit.data[0])];
  const scores = answer[exit.scores.output].data;
  const label = scores.indexOf(Math.max(...scores));
  console.log(`${about.labels?.[label] ?? label} at ${exit.name}, confidence ${answer.confidence.data[0].toFixed(4)}`);
}
