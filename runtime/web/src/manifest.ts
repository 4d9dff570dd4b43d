// Stand-in until the reading half is merged.
/* eslint-disable */
import type { Plan } from "./plan.js";
type J = { [k: string]: unknown };
const map = (o: unknown, f: (v: never, k: string) => unknown): Map<string, never> =>
  new Map(Object.entries((o ?? {}) as J).map(([k, v]) => [k, f(v as never, k) as never]));
export async function readManifest(text: string | Uint8Array, _what: string): Promise<Plan> {
  const m = JSON.parse(typeof text === "string" ? text : new TextDecoder().decode(text)) as J;
  const same = (v: unknown): unknown => v;
  const dims = (v: J): unknown => ({ max: null, min: 0, ...v });
  return {
    name: m["name"], onnxruntime: m["onnxruntime"] ?? null, inputs: m["inputs"], limits: map(m["limits"], dims),
    preprocess: map(m["preprocess"], (p: J) => ({ scale: 1 / 255, mean: [0], std: [1], ...p })),
    labels: m["labels"] ?? null, titles: map(m["titles"], same), slots: map(m["slots"], same),
    constants: map(m["constants"], same), start: m["start"], fallback: m["fallback"] ?? "last",
    segments: map(m["segments"], (s: J) => ({
      model: s["model"] ?? null, weights: s["weights"] ?? [], prepack: s["prepack"] ?? true, reads: map(s["reads"], same),
      writes: map(s["writes"], (w: J) => { const [kind, name] = Object.entries(w)[0]!; return { kind, name }; }),
      exit: s["exit"] ? ((e: J) => ({
        ...e, outputs: map(e["outputs"], same),
        scores: e["scores"] ? { scale: "logits", axis: 1, ...(e["scores"] as J) } : null,
        criterion: { kind: (e["criterion"] as J)["kind"], constants: [] },
      }))(s["exit"] as J) : null,
      next: s["next"], max_visits: s["max_visits"] ?? null, work: s["work"] ?? null,
    })),
    files: map(m["files"], same), golden: m["golden"] ?? null, notes: m["notes"] ?? [],
    expected_ms: map((m["profile"] as J | undefined)?.["expected_ms"], same), stale: false,
  } as unknown as Plan;
}
