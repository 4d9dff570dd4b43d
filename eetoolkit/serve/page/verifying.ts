// "Verify": whether the bundle answers in this browser as its network did.

import { button, failure, h, isStop, plural, printable } from "./dom.js";
import { newBar, phases, type View } from "./view.js";

/** The section. */
export function verifying({ plan, engine, lock }: View): HTMLElement {
  const result = h("div", { "aria-live": "polite", "data-testid": "verify-result" });
  const start = button("Verify", "verify", () => void lock.alone(verify), "main");
  lock.heard((held) => (start.disabled = held));

  async function verify(): Promise<void> {
    const stop = new AbortController();
    const bar = newBar("Verifying", button("Stop", "verify-stop", () => stop.abort()));
    const told = phases(plan);
    bar.show("Loading onnxruntime-web", null);
    result.replaceChildren(bar.node);
    try {
      const { passed, samples, lines } = await engine.call("verify", {}, {
        signal: stop.signal, progress: (progress) => bar.show(...told(progress)),
      });
      const words = passed
        ? `It answers here as its network did, on all ${plural(samples, "golden sample")}.`
        : "It answers here otherwise than its network did.";
      result.replaceChildren(
        h("p", { class: `verdict ${passed ? "good" : "bad"}` }, passed ? "✓ " : "✗ ", words),
        h("pre", {}, lines.map((line) => printable(line, 600)).join("\n")),
      );
    } catch (error) {
      if (isStop(error)) result.replaceChildren(h("p", { class: "faint" }, "Stopped."));
      else result.replaceChildren(failure(error, () => void lock.alone(verify)));
    }
  }

  return h("section", { "aria-labelledby": "verify-title" },
    h("h2", { id: "verify-title" }, "Verify"),
    h("p", {}, "Checks every file, then runs inputs whose answers are known."),
    start, result,
  );
}
