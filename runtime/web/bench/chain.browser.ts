// A page's part: `measured(SEED, SECONDS)` in the window, with onnxruntime-web beside it in `ort/`.

import type * as web from "onnxruntime-web";
import { measure } from "./chain.js";

async function read(file: string): Promise<Uint8Array> {
  const response = await fetch(file);
  if (!response.ok) throw new Error(`${file}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function measured(seed: number, seconds: number): Promise<unknown> {
  const ort = (await import(new URL("ort/ort.wasm.min.mjs", location.href).href)) as typeof web;
  ort.env.wasm.numThreads = 1;
  const { versions } = ort.env;
  return { ...(await measure(ort, read, null, seed, seconds)), versions, isolated: crossOriginIsolated };
}

Object.assign(globalThis, { measured });
