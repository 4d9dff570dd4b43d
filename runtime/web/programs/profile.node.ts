// `node build/profile.node.mjs BUNDLE [SECONDS]` prints the bundle's profile in this Node, with one thread, as JSON.

import * as ort from "onnxruntime-node";
import { load } from "../src/index.js";

const [bundle = "", seconds = "10"] = process.argv.slice(2);
const runner = await load(bundle, { ort, session: { intraOpNumThreads: 1, interOpNumThreads: 1 } });
console.log(JSON.stringify(await runner.profile({ seconds: Number(seconds) }), null, 1));
await runner.close();
