// A profile as a picture: its segments one after the other as bars, where exits leave, and how many inputs do.

import type { Profile } from "eetoolkit-runtime";
import { h, printable, s, spellMs, spellShare } from "./dom.js";

/** One segment. Times are robust means; `callMs` is what of it the mean call runs. */
export interface Bar {
  readonly segment: string;
  readonly startMs: number;
  readonly fullMs: number;
  readonly callMs: number;
  readonly exit: string | null;
  /** Of the inputs that answered there; null where an earlier bar has said it. */
  readonly share: number | null;
  /** What the calls take that it answers; null where it answers none. */
  readonly exitMs: number | null;
}

/** A bar for each segment that an input came to, as `eetoolkit profile --picture` has them. */
export function barsOf({ segments, exits, full_path }: Profile): Bar[] {
  const told = new Set<string>(), found: Bar[] = [];
  let startMs = 0;
  for (const [segment, { latency, visits, exit }] of Object.entries(segments)) {
    if (latency === null) continue;
    const fullMs = (latency.robust_ms * latency.runs) / full_path.runs;
    const cost = exit === null || told.has(exit) ? undefined : exits[exit];
    if (exit !== null) told.add(exit);
    const callMs = Math.min(fullMs, latency.robust_ms * visits);
    found.push({
      segment, startMs, fullMs, callMs, exit, share: cost?.share ?? null, exitMs: cost?.call?.robust_ms ?? null,
    });
    startMs += fullMs;
  }
  return found;
}

/** Who leaves at an exit: `exit0 answers 83.3% in 0.045 ms`. */
function spellExit({ exit, share, exitMs }: Bar, name: (exit: string) => string): string {
  if (exit === null) return "";
  const who = printable(name(exit), 24);
  if (share === null) return `${who}, as above`;
  return `${who} answers ${spellShare(share)}${exitMs === null ? "" : ` in ${spellMs(exitMs)}`}`;
}

const BAR = 12, NAME = 16;

/** The picture, as wide as its place; `name` gives a segment's or exit's title. */
export function draw(bars: readonly Bar[], meanMs: number, name: (exit: string) => string): SVGSVGElement {
  const last = bars.at(-1), endMs = Math.max(meanMs, (last?.startMs ?? 0) + (last?.fullMs ?? 0), 1e-9);
  const place = (ms: number): string => `${((100 * ms) / endMs).toFixed(3)}%`;
  const nodes: SVGElement[] = [];
  const anchors = [["start", 6], ["middle", 0], ["end", -6]] as const;
  let y = 0;
  for (const bar of bars) {
    const { startMs, fullMs, callMs, exit, share } = bar;
    nodes.push(
      s("text", { x: 0, y: y + NAME - 4, class: "name" }, printable(bar.segment, 30)),
      s("text", { x: "100%", y: y + NAME - 4, "text-anchor": "end" }, spellMs(fullMs)),
      s("rect", { x: 0, y: y + NAME, width: "100%", height: BAR, class: "track" }),
      s("rect", { x: place(startMs), y: y + NAME, width: place(fullMs), height: BAR, class: "full" }),
      s("rect", { x: place(startMs), y: y + NAME, width: place(callMs), height: BAR, class: "call" }),
      s("line", { x1: place(meanMs), x2: place(meanMs), y1: y + NAME - 2, y2: y + NAME + BAR + 2, class: "mean" }),
    );
    y += NAME + BAR;
    if (exit !== null) {
      const at = startMs + fullMs, side = Number(at > 0.3 * endMs) + Number(at > 0.7 * endMs); // where words have room
      const [anchor, dx] = anchors[side] ?? anchors[0];
      nodes.push(
        s("line", { x1: place(at), x2: place(at), y1: y - BAR, y2: side === 1 ? y + 2 : y + 14, class: "exit" }),
        s("text", {
          x: place(at), dx, y: y + 14, "text-anchor": anchor, class: share ? "exit" : "",
        }, spellExit(bar, name)),
      );
      y += 16;
    }
    y += 10;
  }
  const words = bars.map((bar) =>
    `${bar.segment} ${spellMs(bar.fullMs)}${bar.exit === null ? "" : `, ${spellExit(bar, name)}`}`);
  const told = `The segments one after the other: ${words.join("; ")}. The mean call takes ${spellMs(meanMs)}.`;
  const label = printable(told, 4000);
  return s("svg", { class: "chart", role: "img", "aria-label": label, height: y, width: "100%" }, ...nodes);
}

/** What the colours mean. */
export const legend = (meanMs: number): HTMLElement => h("ul", { class: "legend" },
  h("li", {}, h("i", { class: "call" }), "in the mean call"),
  h("li", {}, h("i", { class: "full" }), "only in a full path"),
  h("li", {}, h("i", { class: "mean" }), `mean call ${spellMs(meanMs)}`),
);

/** The picture's numbers as a table. */
export function table({ segments }: Profile, bars: readonly Bar[], name: (exit: string) => string): HTMLElement {
  const heads = ["segment", "p50", "p90", "runs", "exit", "answers"];
  const rows = bars.map(({ segment, exit, share }) => {
    const latency = segments[segment]?.latency;
    const cells = [
      spellMs(latency?.p50_ms ?? NaN), spellMs(latency?.p90_ms ?? NaN), String(latency?.runs ?? ""),
      exit === null ? "" : printable(name(exit), 40), share === null ? "" : spellShare(share),
    ];
    return h("tr", {}, h("th", { scope: "row" }, printable(segment, 40)), ...cells.map((cell) => h("td", {}, cell)));
  });
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Segments in numbers" },
    h("table", {},
      h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, ...rows)));
}
