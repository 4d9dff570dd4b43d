// Which class an answer says (docs/bundle-format.md, "One score").

import type { ClassScores, Scale } from "./plan.js";
import { elementsOf, isFloat, sizeOf, type AnyTensor } from "./tensors.js";

/** From where on one score means class 1. */
const CUT: Readonly<Record<Scale, number>> = { logits: 0, log_probs: Math.log(0.5), probs: 0.5 };

/** The class that the answer for one row says; null where it says none, or is NaN. */
export function predicted(outputs: ReadonlyMap<string, AnyTensor>, scores: ClassScores | null): number | null {
  const label = outputs.get("label");
  if (label !== undefined && sizeOf(label.dims) === 1 && /int/.test(label.type)) {
    const voted = Number(elementsOf(label)[0]);
    return voted >= 0 ? voted : null;
  }
  const found = scores === null ? undefined : outputs.get(scores.output);
  if (found === undefined || scores === null) return null;
  const size = sizeOf(found.dims), several = found.dims.length === 2 && found.dims[0] === 1;
  if (found.dims.length === 0 || size === 0 || (size > 1 && !several)) return null;
  const values = elementsOf(found);
  const first = Number(values[0]);
  if (size === 1) return Number.isNaN(first) || !isFloat(found.type) ? null : Number(reaches(first, found.type, scores.scale));
  let best = 0;
  for (let index = 0; index < size; index++) {
    const value = values[index];
    if (value !== value) return null; // NaN
    if (value !== undefined && value > (values[best] ?? 0)) best = index;
  }
  return best;
}

/** Compared in the score's own precision: ln 0.5 in float32 is another number than in float64. */
function reaches(score: number, type: string, scale: Scale): boolean {
  return score >= (type === "float64" ? CUT[scale] : Math.fround(CUT[scale]));
}
