// The page of `eetoolkit serve`: a bundle's name and mode, then verify, profile, and a place to try it.

import { UNHEARD, failure, faintLine, h, printable } from "./dom.js";
import { engineOf, faultOf, tooOld } from "./engine.js";
import { facts, notes, summary, title, usualThreads } from "./header.js";
import { profiling } from "./profiling.js";
import type { Sample } from "./protocol.js";
import { trying } from "./trying.js";
import { verifying } from "./verifying.js";
import { newLock, type Bundle, type Site } from "./view.js";

/** A module that adds two vectors, which is valid where WebAssembly has SIMD. */
const SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
);

async function read(): Promise<Site> {
  let response: Response;
  try {
    response = await fetch("serve.json", { cache: "no-cache" });
  } catch {
    throw faultOf("No answer", UNHEARD);
  }
  if (!response.ok) {
    throw faultOf("No answer", `serve.json: the server answered ${response.status} ${response.statusText}`.trimEnd());
  }
  const site = (await response.json()) as Site & { version: number };
  if (site.version !== 1 || site.bundles.length === 0) {
    throw faultOf("Error", "serve.json is of another version; reload the page");
  }
  return site;
}

/** One bundle's part of the page. What it found stays there while another is looked at. */
function shelf(site: Site, number: number, choose: (number: number) => void): HTMLElement {
  const { path } = site.bundles[number] as Bundle;
  const threads = usualThreads();
  const engine = engineOf(new URL(path, location.href).href, threads), lock = newLock();
  const about = h("div", { "data-testid": "about" }), main = h("main", {});
  const mode = facts(site, threads, engine.restart);
  lock.heard((held) => {
    const select = mode.querySelector("select");
    if (select !== null) select.disabled = held;
  });

  async function open(): Promise<void> {
    about.replaceChildren(faintLine("Opening the bundle"));
    main.replaceChildren();
    try {
      const { plan } = await engine.open();
      let samples: Promise<readonly Sample[]> | null = null;
      const view = {
        site, number, plan, engine, lock,
        samples: () => {
          const mine = (samples ??= engine.call("samples", {}));
          mine.catch(() => (samples = null));
          return mine;
        },
      };
      about.replaceChildren(faintLine(summary(plan)), ...[notes(plan)].filter((each) => each !== null));
      main.replaceChildren(verifying(view), profiling(view), trying(view));
    } catch (error) {
      about.replaceChildren(failure(error, () => void open()));
    }
  }

  void open();
  const head = h("header", {}, h("p", { class: "brand" }, "eetoolkit"), title(site, number, choose), about, mode);
  return h("div", {}, head, main);
}

async function start(): Promise<void> {
  const place = h("div", { id: "page" });
  const starting = document.getElementById("starting");
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) throw tooOld("WebAssembly with SIMD");
  const site = await read();
  const shelves = new Map<number, HTMLElement>();
  const choose = (number: number): void => {
    const found = shelves.get(number) ?? shelf(site, number, choose);
    shelves.set(number, found);
    place.replaceChildren(found);
    const select = found.querySelector<HTMLSelectElement>("#bundle");
    if (select !== null) select.selectedIndex = number;
    document.title = `${printable(site.bundles[number]?.name ?? "", 60)} – eetoolkit`;
  };
  starting?.replaceWith(place);
  choose(0);
}

start().catch((error: unknown) => {
  const again = (): void => location.reload();
  (document.getElementById("starting") ?? document.body.appendChild(h("div"))).replaceWith(failure(error, again));
});
