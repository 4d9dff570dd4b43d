// React Native's package, its real JavaScript over a stand-in for its native module. The stand-in runs graphs by
// onnxruntime-node and has the native module's faults (onnxruntime-react-native 1.24.3, cpp/): a graph in memory loses
// its options and external data, a tensor is read from the beginning of its buffer, and half precision needs an array
// of its own that JavaScript may not have.

import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";
import { afterAll, beforeAll, expect, test } from "vitest";
import { answerCases } from "../programs/conformance.js";
import { load, type Ort } from "../src/index.js";
import type { Numbers } from "../src/tensors.js";
import { CASES, ONE_THREAD, bundleOf, copied, ort as node } from "./cases.js";

interface NativeTensor {
  readonly type: "float32";
  readonly dims: readonly number[];
  readonly cpuData: Float32Array;
}

const HERE = fileURLToPath(new URL("..", import.meta.url));
const seen = { paths: [] as string[], options: [] as object[] };

/** What the native module puts into the global object. */
function standIn(): object {
  let Tensor: new (type: string, data: unknown, dims: readonly number[]) => object;
  return {
    initOrtOnce: (_level: number, tensor: typeof Tensor) => (Tensor = tensor),
    listSupportedBackends: () => [{ name: "cpu", bundled: true }],
    createInferenceSession() {
      let session: Awaited<ReturnType<typeof node.InferenceSession.create>>;
      const metadata = (names: readonly string[]): object[] => names.map((name) => ({ name, isTensor: true, type: 1, shape: [] }));
      return {
        async loadModel(given: string | ArrayBuffer, options: object | number) {
          if (typeof given !== "string") throw new Error("it would be loaded without its options and weights");
          seen.paths.push(given);
          seen.options.push(options as object);
          session = await node.InferenceSession.create(given.replace(/^file:\/\//, ""), ONE_THREAD);
        },
        get inputMetadata() {
          return metadata(session.inputNames);
        },
        get outputMetadata() {
          return metadata(session.outputNames);
        },
        async run(feeds: Record<string, NativeTensor>, fetches: object) {
          const read = Object.entries(feeds).map(([name, { type, dims, cpuData }]) => {
            const kind = cpuData.constructor as typeof Float32Array, size = dims.reduce((a, b) => a * b, 1);
            return [name, new node.Tensor(type, new kind(cpuData.buffer, 0, size), dims)] as const;
          });
          const made = Object.entries(await session.run(Object.fromEntries(read), Object.keys(fetches)));
          return Object.fromEntries(made.map(([name, { type, data, dims }]) => {
            if (type === "float16") throw new Error("TypedArray constructor not found: Float16Array");
            return [name, new Tensor(type, data, dims)];
          }));
        },
        dispose: () => void session.release(),
      };
    },
  };
}

let folder: string;
let ort: Ort;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "eetoolkit-native-"));
  const outfile = join(folder, "native.mjs");
  await build({
    entryPoints: [join(HERE, "node_modules/onnxruntime-react-native/dist/module/index.js")],
    bundle: true, format: "esm", outfile, logLevel: "error",
    plugins: [{
      name: "react-native",
      setup({ onResolve, onLoad }) {
        onResolve({ filter: /^react-native$/ }, ({ path }) => ({ path, namespace: "react-native" }));
        const contents = "export const NativeModules = { Onnxruntime: { install() {}, ORT_EXTENSIONS_PATH: '' } };";
        onLoad({ filter: /.*/, namespace: "react-native" }, () => ({ contents }));
      },
    }],
  });
  Object.assign(globalThis, { OrtApi: standIn() });
  ort = (await import(pathToFileURL(outfile).href)) as Ort;
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("the real package's module is what `load` takes", () => {
  execFileSync(process.execPath, [join(HERE, "node_modules/typescript/bin/tsc"), "-p", join(HERE, "tests/react-native")], {
    stdio: "pipe",
  });
});

// Without half precision, of which the native module makes nothing here.
const names = ["chain", "constants", "criterion_vote", "gate", "int8_static", "loop", "most_confident", "scalars", "swap",
  "switch", "weights"];

test.each(names)("answers the case %s by path alone", async (name) => {
  const found = await answerCases((path) => readFile(join(CASES, path)), [name], ort, undefined, {}, (path) => [
    join(CASES, path),
    { readFile },
  ]);
  expect(found[name]?.failures).toEqual([]);
  expect(found[name]?.runs).toBeGreaterThan(0);
});

test("the sessions are created by path, for one row", async () => {
  const source = pathToFileURL(bundleOf("weights")).href;
  const runner = await load(source, { ort, readFile: (path) => readFile(path) });
  seen.paths.length = seen.options.length = 0;
  await runner.open();
  expect(seen.paths).toEqual([...runner.plan.segments.values()].flatMap(({ model }) => join(bundleOf("weights"), model ?? "")));
  expect(seen.options[0]).toMatchObject({ freeDimensionOverrides: { batch: 1 } });
  expect(seen.options[0]).not.toHaveProperty("externalData");
});

test("a view of a larger buffer is an input like any other", async () => {
  const runner = await load(bundleOf("chain"), { ort, readFile: (path) => readFile(path) });
  const row = Float32Array.of(0.1, 0.2, 0.3, 0.4), view = Float32Array.of(9, 9, ...row, 9).subarray(2, 6);
  const logits = async (input: Numbers): Promise<string> => String((await runner.run(input)).outputs.get("logits")?.data);
  expect(await logits(view)).toBe(await logits(row));
  const tensor = new ort.Tensor("float32", view, [1, 4]);
  expect(String((await runner.run(tensor)).outputs.get("logits")?.data)).toBe(await logits(row));
});

test("a graph that was changed is refused, though it is loaded by its path", async () => {
  await copied("chain", async (at) => {
    cpSync(join(at, "segment1-27094a93.onnx"), join(at, "segment0-d0ca9814.onnx"));
    const runner = await load(at, { ort, readFile: (path) => readFile(path) });
    await expect(runner.run([1, 2, 3, 4])).rejects.toThrow(/^segment 'segment0': .* bytes, expected 242/);
  });
});

test("a bundle that needs a newer onnxruntime names the one of the package", async () => {
  expect(ort.env.versions.common).toMatch(/^1\.24\./);
});
