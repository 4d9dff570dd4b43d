// Is compiled, never run: the module of the real package is what `load` takes.
import * as ort from "onnxruntime-react-native";
import { load, type Ort, type Runner } from "../../src/index.js";

export const found: Ort = ort;
export const opened: Promise<Runner> = load("file:///data/user/0/app/files/digits.ee", {
  ort,
  readFile: async (path: string): Promise<Uint8Array> => new Uint8Array(path.length),
});
