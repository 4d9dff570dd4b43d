// Builds the package into dist/, the programs of the tests into build/, and the page of `eetoolkit serve` where it is.

import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const from = (...parts) => join(here, ...parts);
const shared = {
  bundle: true, format: "esm", target: "es2022", minify: true, legalComments: "none", logLevel: "warning",
};

/** The package: one module, and declarations of what it exports. */
async function buildPackage() {
  rmSync(from("dist"), { recursive: true, force: true });
  await build({ ...shared, entryPoints: [from("src", "index.ts")], outfile: from("dist", "index.js") });
  const typescript = from("node_modules", ".bin", "tsc");
  execFileSync(typescript, ["-p", from("tsconfig.build.json")], { stdio: "inherit", cwd: here });
  // Declarations of modules that index does not name are of no use to anybody.
  const named = new Set(["index.d.ts", "load.d.ts", "api.d.ts", "errors.d.ts", "plan.d.ts", "profile.d.ts"]);
  for (const name of readdirSync(from("dist"))) {
    if (name.endsWith(".d.ts") && !named.has(name)) rmSync(from("dist", name));
  }
}

/** What answers the conformance cases and takes profiles in Node, and the same cases in a page. */
async function buildPrograms() {
  const programs = { ...shared, minify: false };
  const names = readdirSync(from("programs")).filter((name) => name.endsWith(".node.ts"));
  await build({
    ...programs, platform: "node", external: ["onnxruntime-node"],
    entryPoints: names.map((name) => from("programs", name)), outdir: from("build"), outExtension: { ".js": ".mjs" },
  });
  await build({
    ...programs,
    entryPoints: [from("programs", "conformance.ts")], outfile: from("build", "conformance.browser.js"),
  });
}

/** The scripts of the page: its own and its worker's. */
async function buildPage() {
  const serve = from("..", "..", "eetoolkit", "serve"), page = join(serve, "page"), target = join(serve, "static");
  if (!existsSync(page)) return;
  for (const [name, output] of [["main.ts", "page.js"], ["worker.ts", "worker.js"]]) {
    await build({
      ...shared, alias: { "eetoolkit-runtime": from("src", "index.ts") },
      entryPoints: [join(page, name)], outfile: join(target, output),
    });
  }
}

await buildPackage();
if (!process.argv.includes("--package")) await Promise.all([buildPrograms(), buildPage()]);
