// Outputs that stay on a GPU, as `preferredOutputLocation` asks for; here a Map plays the GPU's part.

import { expect, test } from "vitest";
import { load, type Ort } from "../src/index.js";
import type { AnyTensor, Numbers } from "../src/tensors.js";
import { bundleOf, filesOf, change, ort, wrapped } from "./cases.js";

/** onnxruntime whose sessions give tensors on the GPU, how many are there, and how many there were at most. */
function farAway(): { far: Ort; there: Set<object>; most: () => number; total: () => number } {
  const there = new Set<object>();
  let most = 0, total = 0;
  const contents = new WeakMap<object, Numbers>();
  const far = wrapped(async (_run, feeds, session) => {
    const near = await Promise.all(Object.entries(feeds as Record<string, AnyTensor>).map(async ([name, tensor]) => {
      if (tensor.location === "gpu-buffer" && !there.has(tensor.gpuBuffer)) throw new Error(`${name} was let go of`);
      return [name, new ort.Tensor(tensor.type as "float32", (await tensor.getData()) as Float32Array, tensor.dims)] as const;
    }));
    const made = Object.entries(await session.run(Object.fromEntries(near)));
    return Object.fromEntries(made.map(([name, { type, data, dims }]) => {
      total += 1;
      const buffer = { size: 4, mapState: "unmapped" as const };
      contents.set(buffer, data as Numbers);
      most = Math.max(most, there.add(buffer).size);
      return [name, ort.Tensor.fromGpuBuffer(buffer as never, {
        dataType: type as "float32", dims,
        download: async () => contents.get(buffer) as never,
        dispose: () => void there.delete(buffer),
      })];
    }));
  });
  return { far, there, most: () => most, total: () => total };
}

const X = [0.1, 0.2, 0.3, 0.4];

test.each(["chain", "most_confident", "gate", "switch", "loop"])("the answers of %s come to the CPU, and nothing stays", async (name) => {
  const { far, there } = farAway();
  const [near, away] = [await load(bundleOf(name), { ort }), await load(bundleOf(name), { ort: far })];
  const row = new Map(near.plan.inputs.map(({ name: input, shape, dtype }) => {
    const size = shape.reduce<number>((product, dim) => product * (typeof dim === "number" ? dim : 1), 1);
    return [input, dtype === "float32" ? [...X, ...X].slice(0, size) : [1]] as const;
  }));
  const said = (answers: Awaited<ReturnType<typeof near.runAllExits>>): unknown => answers.map(({ exit, confidence, outputs }) =>
    [exit, confidence, [...outputs].map(([output, tensor]) => [output, tensor.location, String(tensor.data)])]);
  expect(said([await away.run(row)])).toEqual(said([await near.run(row)]));
  expect(said(await away.runAllExits(row))).toEqual(said(await near.runAllExits(row)));
  const refined = away.refine(row);
  await refined.next();
  await refined.return();
  expect(there.size).toBe(0);
});

test("a long loop holds no more than its slots", async () => {
  const { far, there, most, total } = farAway();
  const files = filesOf("loop");
  change(files, (manifest) => Object.assign(manifest.segments["step"] ?? {}, { max_visits: 300 }));
  const runner = await load(files, { ort: far });
  const { path } = await runner.run([250, 0, 0, 0]); // it counts to x[0]
  expect(path.length).toBeGreaterThan(250);
  expect(total()).toBeGreaterThan(250);
  expect(most()).toBeLessThan(30);
  expect(there.size).toBe(0);
});
