// A canvas to draw on, white on black, and what was drawn as the network's pictures have it.

import { button, h } from "./dom.js";
import { resized, type PictureInput, type Ranges } from "./pixels.js";

const SIDE = 280;

export interface Pad {
  readonly node: HTMLElement;
  /** What was drawn, in the input's size, moved and scaled as its golden samples are; null where nothing was. */
  readonly picture: () => HTMLCanvasElement | null;
  readonly clear: () => void;
}

/** A pad; `changed` is called while something is drawn. */
export function newPad({ height, width }: PictureInput, { extent }: Ranges, changed: () => void): Pad {
  const canvas = h("canvas", {
    width: SIDE, height: SIDE, class: "pad", role: "img", "data-testid": "pad",
    "aria-label": "Draw here with a finger or a mouse. By keyboard, choose a sample instead.",
  });
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  const thick = SIDE * (0.055 + 0.6 / Math.max(height, width)); // a pen's line is some pixels wide, also in small ones
  let last: readonly [number, number] | null = null;
  let box: [left: number, top: number, right: number, bottom: number] | null = null;

  const place = (event: PointerEvent): readonly [number, number] => {
    const { left, top, width: wide, height: high } = canvas.getBoundingClientRect();
    return [((event.clientX - left) * SIDE) / wide, ((event.clientY - top) * SIDE) / high];
  };

  function stroke(to: readonly [number, number]): void {
    if (brush === null) return;
    const from = last ?? to, half = thick / 2;
    brush.strokeStyle = "#fff";
    brush.lineWidth = thick;
    brush.lineCap = brush.lineJoin = "round";
    brush.beginPath();
    brush.moveTo(...from);
    brush.lineTo(...to);
    brush.stroke();
    const [left, top, right, bottom] = box ?? [SIDE, SIDE, 0, 0], [x, y] = to;
    box = [
      Math.max(0, Math.min(left, x - half)), Math.max(0, Math.min(top, y - half)),
      Math.min(SIDE, Math.max(right, x + half)), Math.min(SIDE, Math.max(bottom, y + half)),
    ];
    last = to;
    changed();
  }

  function clear(): void {
    if (brush !== null) {
      brush.fillStyle = "#000";
      brush.fillRect(0, 0, SIDE, SIDE);
    }
    box = last = null;
    changed();
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    event.preventDefault();
    last = null;
    stroke(place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last === null || event.buttons === 0) return;
    const between = event.getCoalescedEvents?.() ?? [];
    for (const each of between.length > 0 ? between : [event]) stroke(place(each));
  });
  for (const end of ["pointerup", "pointercancel"] as const) canvas.addEventListener(end, () => (last = null));
  if (brush !== null) {
    brush.fillStyle = "#000";
    brush.fillRect(0, 0, SIDE, SIDE);
  }

  return {
    node: h("div", {}, canvas, button("Clear", "clear", clear)),
    clear,
    picture() {
      if (box === null) return null;
      const [left, top, right, bottom] = box;
      const side = Math.max(right - left, (bottom - top)) / extent; // a square with the drawing in its middle
      const framed = document.createElement("canvas");
      framed.width = framed.height = Math.ceil(side);
      const on = framed.getContext("2d");
      if (on === null) return null;
      on.fillRect(0, 0, side, side);
      const [wide, high] = [right - left, bottom - top];
      on.drawImage(canvas, left, top, wide, high, (side - wide) / 2, (side - high) / 2, wide, high);
      return resized(framed, [0, 0, framed.width, framed.height], width, height);
    },
  };
}
