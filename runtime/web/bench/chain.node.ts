// `node build/chain.node.mjs FOLDER SEED SECONDS` prints what `measure` returns, in this Node.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { measure } from "./chain.js";

const [folder = "", seed = "0", seconds = "5"] = process.argv.slice(2);
const read = async (file: string): Promise<Uint8Array> => new Uint8Array(await readFile(join(folder, file)));
const { versions } = ort.env;
console.log(JSON.stringify({ ...(await measure(ort, read, join(folder, "network.ee"), Number(seed), Number(seconds))), versions }));
