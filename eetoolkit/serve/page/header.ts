// The top of the page: which bundle, and in which mode it runs.

import type { Plan } from "eetoolkit-runtime";
import { h, plural, printable } from "./dom.js";
import type { TensorSpec } from "./protocol.js";
import type { Site } from "./view.js";

const MODES: Readonly<Record<Site["mode"], string>> = {
  https: "https",
  localhost: "this computer alone",
  http: "http",
  static: "static files",
};

/** Threads that this page may have. */
export const mostThreads = (): number =>
  globalThis.crossOriginIsolated ? Math.max(1, navigator.hardwareConcurrency) : 1;
export const usualThreads = (): number => Math.min(4, mostThreads());

/** What is missing in this mode and why; empty where nothing is. */
export function missing({ mode }: Site): string {
  if (!globalThis.isSecureContext) {
    return "Over http a browser gives a page one thread and no camera stream. Pictures come as files, and hashes are " +
      "computed in JavaScript. Serve without --http for all of it.";
  }
  if (!globalThis.crossOriginIsolated) {
    return "This page has one thread, since it is not isolated: the web server does not send the headers that the " +
      "export's README names, or the browser does not heed them.";
  }
  return mode === "static" ? "Nothing is sent anywhere: a profile is kept by downloading it." : "";
}

/** The bundle's select where there are several, else its name. */
export function title(site: Site, number: number, choose: (number: number) => void): HTMLElement {
  const names = site.bundles.map(({ name }) => printable(name, 60));
  if (names.length === 1) return h("h1", { "data-testid": "bundle" }, names[0]);
  const select = h("select", {
    id: "bundle", "data-testid": "bundle", onchange: () => choose(select.selectedIndex),
  }, ...names.map((name, index) => h("option", { selected: index === number }, name)));
  return h("h1", {}, h("label", { for: "bundle", class: "hidden" }, "Bundle"), select);
}

/** One line on the network. */
export function summary({ segments, inputs, titles }: Plan): string {
  const all = [...segments.values()], exits = new Set(all.flatMap(({ exit }) => exit?.name ?? []));
  const spell = ({ name, shape }: TensorSpec): string => {
    const dims = shape.filter((dim) => dim !== "batch").map((dim) => printable(String(dim ?? "?"), 20));
    return `${printable(titles.get(name) ?? name, 40)} ${dims.join(" × ")}`.trim();
  };
  const models = all.filter(({ model }) => model !== null).length;
  return `${plural(models, "segment")}, ${plural(exits.size, "exit")}; takes ${inputs.map(spell).join(", ")}`;
}

/** Mode, backend, threads and isolation; `change` is told another number of threads. */
export function facts(site: Site, threads: number, change: (threads: number) => void): HTMLElement {
  const counts = Array.from({ length: mostThreads() }, (_, index) => index + 1);
  const select = h("select", {
    id: "threads", "data-testid": "threads", onchange: () => change(Number(select.value)),
  }, ...counts.map((count) => h("option", { value: count, selected: count === threads }, String(count))));
  const fact = (name: string, value: Node | string): HTMLElement => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const why = missing(site);
  return h("div", { "data-testid": "mode" },
    h("dl", { class: "facts" },
      fact("Mode", MODES[site.mode] ?? "unknown"),
      fact("Backend", `onnxruntime-web ${printable(site.onnxruntime_web, 20)}, WASM`),
      h("div", {},
        h("dt", {}, h("label", { for: "threads" }, "Threads")), h("dd", {}, counts.length > 1 ? select : "1")),
      fact("Isolated", globalThis.crossOriginIsolated ? "yes" : "no"),
    ),
    why !== "" && h("p", { class: "notice" }, why),
  );
}

/** What the exporter wants people to know. */
export function notes({ notes: all, quantization }: Plan): HTMLElement | null {
  const lines = quantization?.stale ? ["Its thresholds are those from before it was quantised.", ...all] : all;
  if (lines.length === 0) return null;
  return h("details", { class: "notes" }, h("summary", {}, plural(lines.length, "note") + " on this bundle"),
    h("ul", {}, ...lines.map((line) => h("li", {}, printable(line, 1000)))));
}
