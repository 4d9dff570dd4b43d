// What people install: the package as it is packed.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as sources from "../src/index.js";
import { bundleOf, ort } from "./cases.js";

const HERE = fileURLToPath(new URL("..", import.meta.url));
/** A little over what it has: it is not to grow unnoticed. */
const MOST_BYTES = 33_500;

let folder: string, packed: { size: number; files: { path: string }[]; filename: string };

beforeAll(() => {
  execFileSync(process.execPath, ["build.mjs", "--package"], { cwd: HERE });
  folder = mkdtempSync(join(tmpdir(), "eetoolkit-package-"));
  const command = ["pack", "--json", "--ignore-scripts", "--offline", "--pack-destination", folder];
  const [found] = JSON.parse(execFileSync("npm", command, { cwd: HERE, encoding: "utf8", stdio: "pipe" })) as [typeof packed];
  packed = found;
  const modules = join(folder, "node_modules");
  mkdirSync(join(modules, "eetoolkit-runtime"), { recursive: true });
  execFileSync("tar", ["xzf", join(folder, packed.filename), "--strip-components=1", "-C", join(modules, "eetoolkit-runtime")]);
  for (const name of ["onnxruntime-common", "onnxruntime-node"]) symlinkSync(join(HERE, "node_modules", name), join(modules, name));
}, 60_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("the package", () => {
  test("holds what it needs, and does not grow unnoticed", () => {
    const paths = packed.files.map(({ path }) => path);
    expect(paths).toEqual(expect.arrayContaining(["README.md", "package.json", "dist/index.js", "dist/index.d.ts"]));
    expect(paths.filter((path) => !/^(README\.md|package\.json|dist\/\w+(\.d\.ts|\.js))$/.test(path))).toEqual([]);
    expect(packed.size).toBeLessThan(MOST_BYTES);
  });

  test("exports what its sources export, and runs a bundle", async () => {
    const built = (await import(pathToFileURL(join(folder, "node_modules/eetoolkit-runtime/dist/index.js")).href)) as typeof sources;
    expect(Object.keys(built).sort()).toEqual(Object.keys(sources).sort());
    const runner = await built.load(bundleOf("chain"), { ort });
    expect((await runner.run([0.1, 0.2, 0.3, 0.4])).path[0]).toBe("segment0");
    await expect(runner.run([1])).rejects.toThrow(built.InputError);
    expect([built.InputError.name, new built.InputError("x").name]).toEqual(["InputError", "InputError"]); // minified
  });

  test("has types that stand alone", () => {
    writeFileSync(join(folder, "user.ts"), `
      import * as ort from "onnxruntime-node";
      import { load, exitsOf, InputError, type Answer, type Profile, type Runner } from "eetoolkit-runtime";
      const runner: Runner = await load("digits.ee", { ort });
      const { exit, prediction }: Answer = await runner.run({ image: new Float32Array(784) }, { deadlineMs: 5 });
      const profile: Profile = await runner.profile();
      export const found: [string, number | null, number, 6] = [exit, prediction, exitsOf(runner.plan).size, profile.version];
      export const wrong = new InputError("text");
      // @ts-expect-error an exit is asked for by its name
      await runner.run([1], { exitAt: 1 });
    `);
    const options = { module: "NodeNext", target: "ES2022", lib: ["ES2023", "DOM"], strict: true, noEmit: true, types: [] };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions: options, files: ["user.ts"] }));
    writeFileSync(join(folder, "package.json"), JSON.stringify({ type: "module" }));
    const typescript = join(HERE, "node_modules/typescript/bin/tsc");
    expect(existsSync(typescript)).toBe(true);
    const done = (() => {
      try {
        return execFileSync(process.execPath, [typescript, "-p", folder], { encoding: "utf8" });
      } catch (error) {
        return (error as { stdout: string }).stdout;
      }
    })();
    expect(done.split("\n").filter((line) => !line.includes("onnxruntime-"))).toEqual([""]);
  });
});
