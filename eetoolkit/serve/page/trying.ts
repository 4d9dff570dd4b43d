// "Try it": a drawing, the camera, a file or a golden sample, answered at once.

import { answerOf, classOf, spoken } from "./answer.js";
import { hasStream, newCamera } from "./camera.js";
import { failure, faintLine, h, isStop } from "./dom.js";
import { newPad } from "./drawing.js";
import {
  RANGES, canvasOfFile, canvasOfRow, isPicture, pictureInput, rangesOf, rowOf, turned, type PictureInput, type Ranges,
} from "./pixels.js";
import type { Row, Sample } from "./protocol.js";
import { phases, type View } from "./view.js";

/** One way to make an input. */
interface Way {
  readonly id: string;
  readonly name: string;
  readonly node: HTMLElement;
  /** What to do, where nothing was done yet. */
  readonly hint: string;
  /** Its input at this moment; null where there is none. */
  readonly input: () => Input | null;
  readonly leave?: () => void;
}
type Input =
  | { readonly kind: "picture"; readonly canvas: HTMLCanvasElement }
  | { readonly kind: "row"; readonly row: Row; readonly sample: Sample | null };

const FRAME_MS = 150; // between two pictures of the camera

/** The section. */
export function trying(view: View): HTMLElement {
  const body = h("div", { "data-testid": "try" }, faintLine("Reading the golden samples"));
  const read = async (): Promise<void> => {
    let samples: readonly Sample[] = [], problem: HTMLElement | null = null;
    try {
      samples = await view.samples();
    } catch (error) {
      problem = failure(error, () => void read());
    }
    body.replaceChildren(...(problem === null ? [] : [problem]), ...bench(view, samples));
  };
  void read();
  return h("section", { "aria-labelledby": "try-title" }, h("h2", { id: "try-title" }, "Try it"), body);
}

function bench(view: View, samples: readonly Sample[]): HTMLElement[] {
  const { plan, engine, lock } = view, picture = pictureInput(plan);
  const ranges = picture === null ? null : rangesOf(picture, samples);
  const shown = h("div", { class: "answer", "data-testid": "answer" });
  const heard = h("p", { class: "hidden", "aria-live": "polite" });
  const seen = h("div", { class: "seen", hidden: true });
  const levels = picture === null || ranges === null ? null : levelsOf(ranges, () => void ask());
  const empty = (): void => {
    shown.replaceChildren(faintLine(`${way?.hint ?? ""} The answer comes here.`));
    seen.hidden = true;
  };
  const opening = phases(plan);
  let way: Way | null = null, busy = false, again = false;

  const rowAt = (input: Input): Row => {
    if (input.kind === "row") return input.row;
    return rowOf(input.canvas, picture as PictureInput, (levels as Levels).range(), (levels as Levels).invert.checked);
  };

  /** Runs what is there now; of what comes meanwhile only the last. */
  async function ask(): Promise<void> {
    if (busy || lock.held()) {
      again = busy;
      return;
    }
    const input = way?.input() ?? null;
    if (input === null) {
      empty();
      return;
    }
    busy = true;
    try {
      const row = rowAt(input);
      const ran = await engine.call("run", { row }, {
        progress: (progress) => shown.replaceChildren(faintLine(opening(progress)[0])),
      });
      shown.replaceChildren(...answerOf(plan, ran, input.kind === "row" ? input.sample : null));
      const words = spoken(plan, ran);
      if (heard.textContent !== words) heard.textContent = words;
      const sight = picture === null ? null : canvasOfRow(row, picture);
      seen.replaceChildren(...(sight === null ? [] : [sight, h("span", { class: "faint" }, "what the network sees")]));
      seen.hidden = sight === null;
    } catch (error) {
      if (!isStop(error)) shown.replaceChildren(failure(error, () => void ask()));
    } finally {
      busy = false;
    }
    if (again) {
      again = false;
      void ask();
    }
  }

  const changed = (): void => void ask();
  const ways = [
    ...(picture !== null && ranges !== null && levels !== null ? pictureWays(picture, ranges, levels, changed) : []),
    ...(samples.length > 0 ? [sampleWay(view, samples, picture, changed)] : []),
    fileWay(view, picture, ranges, levels, changed),
  ];
  const panel = h("div", { class: "way" });
  const choose = (chosen: Way): void => {
    way?.leave?.();
    way = chosen;
    panel.replaceChildren(chosen.node);
    if (levels !== null) levels.node.hidden = chosen.id === "samples";
    empty();
    void ask();
  };
  const choices = ways.map((each, index) => h("label", { "data-testid": `way-${each.id}` },
    h("input", { type: "radio", name: `way${view.number}`, checked: index === 0, onchange: () => choose(each) }),
    h("span", {}, each.name)));
  const frame = h("fieldset", {}, h("legend", { class: "hidden" }, "How to make an input"),
    h("div", { class: "ways" }, ...choices),
    h("div", { class: "bench" }, h("div", {}, panel, levels?.node), h("div", {}, shown, seen)), heard);
  lock.heard((held) => {
    frame.disabled = held;
    if (held) way?.leave?.();
    else void ask(); // what was drawn meanwhile
  });
  if (ways[0] !== undefined) choose(ways[0]);
  return [frame];
}

interface Levels {
  readonly node: HTMLElement;
  readonly invert: HTMLInputElement;
  readonly range: () => { black: number; white: number };
}

/** What black and white are to the network, and whether they change places. */
function levelsOf({ black, white, why }: Ranges, changed: () => void): Levels {
  const spell = (value: number): string => String(value).replace("-", "−");
  const select = h("select", { id: "range", "data-testid": "range", onchange: changed }, ...RANGES.map(([low, high]) =>
    h("option", { selected: low === black && high === white }, `${spell(low)} to ${spell(high)}`)));
  const invert = h("input", { type: "checkbox", "data-testid": "invert", onchange: changed });
  const range = (): { black: number; white: number } => {
    const [low, high] = RANGES[select.selectedIndex] ?? RANGES[0];
    return { black: low, white: high };
  };
  const node = h("details", { class: "levels" }, h("summary", {}, "Pixels"),
    h("div", { class: "controls" },
      h("div", {}, h("label", { for: "range" }, "From black to white"), select, h("span", { class: "faint" }, why)),
      h("label", { class: "check" }, invert, h("span", {}, "Dark and bright change places"))));
  return { node, invert, range };
}

function pictureWays(picture: PictureInput, ranges: Ranges, levels: Levels, changed: () => void): Way[] {
  const found: Way[] = [];
  const as = (canvas: HTMLCanvasElement | null): Input | null =>
    canvas === null ? null : { kind: "picture", canvas };
  if (picture.channels === 1) {
    const pad = newPad(picture, ranges, () => {
      levels.invert.checked = !ranges.brightOnDark;
      changed();
    });
    const hint = "Draw in the square.";
    found.push({ id: "draw", name: "Draw", node: pad.node, hint, input: () => as(pad.picture()) });
  }
  if (hasStream()) {
    let timer = 0;
    const frame = (): void => {
      changed();
      timer = setTimeout(frame, FRAME_MS) as unknown as number;
    };
    const camera = newCamera(picture, () => {
      const first = camera.picture();
      if (first !== null) levels.invert.checked = turned(first, picture, ranges);
      frame();
    });
    const leave = (): void => {
      clearTimeout(timer);
      camera.stop();
    };
    const hint = "Start the camera.";
    found.push({ id: "camera", name: "Camera", node: camera.node, hint, input: () => as(camera.picture()), leave });
  }
  return found;
}

function sampleWay({ plan }: View, samples: readonly Sample[], picture: PictureInput | null, changed: () => void): Way {
  let chosen: Sample | null = null;
  const buttons = samples.map((sample, index) => {
    const sight = picture === null ? null : canvasOfRow(sample.row, picture);
    const node = h("button", {
      type: "button", "aria-pressed": "false", "data-testid": `sample-${index}`, onclick: () => {
        chosen = sample;
        for (const each of buttons) each.setAttribute("aria-pressed", String(each === node));
        changed();
      },
    }, sight, `${sight === null ? "Sample " : ""}${index + 1}`);
    const last = sample.said.at(-1);
    const says = last === undefined || last.prediction === null ? "" : `, ${classOf(plan, last.prediction)}`;
    node.setAttribute("aria-label", `Sample ${index + 1}${says}`);
    return node;
  });
  const node = h("div", { class: "samples", role: "group", "aria-label": "Golden samples" }, ...buttons);
  const input = (): Input | null => (chosen === null ? null : { kind: "row", row: chosen.row, sample: chosen });
  return { id: "samples", name: "Samples", node, hint: "Choose a sample.", input };
}

function fileWay(
  { engine }: View, picture: PictureInput | null, ranges: Ranges | null, levels: Levels | null, changed: () => void,
): Way {
  let input: Input | null = null;
  const problem = h("div", {});
  const accept = `${picture === null ? "" : "image/*,"}.npy,.safetensors`;

  async function take(file: File | undefined): Promise<void> {
    if (file === undefined) return;
    problem.replaceChildren();
    input = null;
    try {
      if (picture !== null && ranges !== null && levels !== null && isPicture(file)) {
        const canvas = await canvasOfFile(file, picture);
        levels.invert.checked = turned(canvas, picture, ranges);
        input = { kind: "picture", canvas };
      } else {
        const [row] = await engine.call("read", { name: file.name, bytes: new Uint8Array(await file.arrayBuffer()) });
        if (row !== undefined) input = { kind: "row", row, sample: null };
      }
    } catch (error) {
      problem.replaceChildren(failure(error));
    }
    changed();
  }

  const pick = (id: string, label: string, more: Record<string, string>): HTMLElement => {
    const field: HTMLInputElement = h("input", {
      type: "file", id, "data-testid": id, ...more, onchange: () => {
        void take(field.files?.[0]);
        field.value = ""; // so that the same file can be chosen again
      },
    });
    return h("div", {}, h("label", { for: id }, label), field);
  };
  const byPhone = picture !== null && !hasStream();
  const node = h("div", { class: "drop" },
    byPhone && pick("try-photo", "Take a picture", { accept: "image/*", capture: "environment" }),
    pick("try-file", `${picture === null ? "An" : "A picture, an"} .npy or .safetensors file`, { accept }),
    h("p", { class: "faint" }, "Or drop it here."), problem);
  node.addEventListener("dragover", (event) => event.preventDefault());
  node.addEventListener("drop", (event) => {
    event.preventDefault();
    void take(event.dataTransfer?.files[0]);
  });
  return { id: "file", name: byPhone ? "Photo or file" : "File", node, hint: "Choose a file.", input: () => input };
}
