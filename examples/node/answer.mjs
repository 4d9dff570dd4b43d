// Answers rows with a bundle's plan as one ONNX file, in Node. A phone's app does the same in its own language.
//
//     eetoolkit pack digits.ee --single-file -o digits.onnx
//     node examples/node/answer.mjs digits.onnx rows.f32     rows.f32: float32 rows, as numpy's tofile() writes them

import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";

const [model, rows] = process.argv.slice(2);
const session = await ort.InferenceSession.create(model, { intraOpNumThreads: 1 });

const shape = [1, 1, 8, 8]; // one row a call
const size = shape.reduce((product, dim) => product * dim, 1);
const bytes = readFileSync(rows);
const numbers = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);

for (let start = 0; start < numbers.length; start += size) {
  const image = new ort.Tensor("float32", numbers.slice(start, start + size), shape);
  const { logits, exit, confidence } = await session.run({ image });
  const label = logits.data.indexOf(Math.max(...logits.data));
  console.log(`class ${label}, exit ${exit.data[0]}, confidence ${confidence.data[0].toFixed(4)}`);
}
