// Nodes, and how numbers and strangers' words are spelled in them. Text goes into text nodes alone, never into markup.

export type Child = Node | string | null | undefined | false;
type Listener = (event: Event) => void;
type Given = Readonly<Record<string, string | number | boolean | null | undefined | Listener>>;

const isThere = <T>(value: T | null | undefined | false): value is T =>
  value !== null && value !== undefined && value !== false;

function fill<T extends Element>(node: T, given: Given, children: readonly Child[]): T {
  for (const [name, value] of Object.entries(given)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (isThere(value)) node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter(isThere));
  return node;
}

/** An HTML element; attributes that are functions are listeners: `onclick`. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K, given: Given = {}, ...children: Child[]
): HTMLElementTagNameMap[K] {
  return fill(document.createElement(tag), given, children);
}

/** An SVG element. */
export function s<K extends keyof SVGElementTagNameMap>(
  tag: K, given: Given = {}, ...children: Child[]
): SVGElementTagNameMap[K] {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), given, children);
}

/** A button; `test` is its data-testid. */
export const button = (text: string, test: string, onclick: Listener, kind = ""): HTMLButtonElement =>
  h("button", { type: "button", class: kind, "data-testid": test, onclick }, text);

/** Strangers' words as one line that shows every character: what is invisible or turns text around is spelled out. */
export function printable(text: string, longest = 200): string {
  const clean = text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (found) => `\\u{${(found.codePointAt(0) ?? 0).toString(16)}}`);
  const half = Math.floor(longest / 2);
  return clean.length <= longest ? clean : `${clean.slice(0, half)}…${clean.slice(-half)}`;
}

/** Milliseconds as people write them: 0.045 ms, 12.3 ms, 1.23 s. */
export function spellMs(value: number): string {
  if (value >= 1000) return `${Number((value / 1000).toPrecision(3))} s`;
  return `${value >= 1 ? Number(value.toPrecision(3)) : value.toFixed(3)} ms`;
}

/** A share as per cent: 83.3%. */
export const spellShare = (value: number): string => `${(100 * value).toFixed(1)}%`;

export const plural = (count: number, word: string): string => `${count} ${word}${count === 1 ? "" : "s"}`;

/** What went wrong, as one line under the error's name, with a way to try again where there is one. */
export function failure(error: unknown, again?: () => void): HTMLElement {
  const { name, message } = error instanceof Error ? error : { name: "Error", message: String(error) };
  return h("div", { class: "failure", role: "alert", "data-testid": "error" },
    h("p", {}, h("strong", {}, printable(name)), ": ", printable(message, 600)),
    again && button("Try again", "again", again),
  );
}

/** Whether an error says that the user stopped something. */
export const isStop = (error: unknown): boolean => error instanceof Error && error.name === "AbortError";

export const faintLine = (text: string): HTMLElement => h("p", { class: "faint" }, text);

/** What is said where the server cannot be reached. */
export const UNHEARD =
  "the computer does not answer. Is eetoolkit serve still running, and this device in its network?";
