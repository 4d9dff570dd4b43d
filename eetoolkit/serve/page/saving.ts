// Brings a profile to the computer, or to the user's downloads. It stays on the page until it is in one of them.

import type { Profile } from "eetoolkit-runtime";
import { UNHEARD, button, failure, faintLine, h, printable } from "./dom.js";
import { faultOf } from "./engine.js";
import type { Site } from "./view.js";

interface Kept {
  readonly saved: string;
  readonly next: string;
}

const unsaved = new Set<Profile>();
globalThis.addEventListener("beforeunload", (event) => {
  if (unsaved.size > 0) event.preventDefault();
});

async function post(number: number, profile: Profile): Promise<Kept> {
  let response: Response;
  const headers = { "content-type": "application/json" };
  try {
    response = await fetch(`profiles/${number}`, { method: "POST", headers, body: JSON.stringify(profile) });
  } catch {
    throw faultOf("Not sent", UNHEARD);
  }
  const told = (await response.json().catch(() => ({}))) as Partial<Kept & { error: string }>;
  if (response.ok && typeof told.saved === "string" && typeof told.next === "string") return told as Kept;
  throw faultOf("Not saved", told.error ?? `the server answered ${response.status} ${response.statusText}`.trimEnd());
}

function download(profile: Profile): void {
  const url = URL.createObjectURL(new Blob([JSON.stringify(profile, null, 1)], { type: "application/json" }));
  const name = profile.bundle.replace(/[^\w.-]+/g, "-").slice(0, 60);
  h("a", { href: url, download: `${name}-profile.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  unsaved.delete(profile);
}

function copyable(command: string): HTMLElement {
  const code = h("code", { "data-testid": "next", tabindex: 0 },
    ...printable(command, 2000).split(" ").flatMap((word, index) => [index > 0 && " ", h("span", {}, word)]));
  const copy = button("Copy", "copy", () => void put());
  const put = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(command);
      copy.textContent = "Copied";
    } catch {
      globalThis.getSelection()?.selectAllChildren(code); // http has no clipboard
      copy.textContent = document.execCommand("copy") ? "Copied" : "Selected";
    }
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  };
  return h("div", { class: "command" }, code, copy);
}

/** Sends a profile where the server takes it, and says where it is and what to do next. */
export function saving({ upload }: Site, number: number, profile: Profile): HTMLElement {
  const node = h("div", { "aria-live": "polite", "data-testid": "saved" });
  const keep = (): HTMLButtonElement => button("Download the profile", "download", () => download(profile));
  unsaved.add(profile);

  async function send(): Promise<void> {
    node.replaceChildren(faintLine("Sending it to the computer"));
    try {
      const { saved, next } = await post(number, profile);
      unsaved.delete(profile);
      node.replaceChildren(
        h("p", {}, h("span", { class: "good" }, "✓ Saved on the computer: "), h("code", {}, printable(saved, 300))),
        h("p", {}, "Tune the bundle by it there, with labelled rows of yours:"), copyable(next),
      );
    } catch (error) {
      const calm = faintLine("Nothing is lost: the profile is still here.");
      node.replaceChildren(failure(error, () => void send()), calm, keep());
    }
  }

  if (upload) void send();
  else node.replaceChildren(keep(), h("p", {}, "Then tune the bundle by it:"),
    copyable("eetoolkit tune BUNDLE --data YOUR.npz --profile PROFILE.json --max-accuracy-drop 0.01"));
  return node;
}
