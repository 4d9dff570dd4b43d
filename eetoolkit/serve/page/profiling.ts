// "Profile": what each segment and exit costs in this browser.

import type { Profile } from "eetoolkit-runtime";
import { barsOf, draw, legend, table } from "./chart.js";
import { button, failure, faintLine, h, isStop, plural, printable, spellMs } from "./dom.js";
import { isPicture, pictureInput, rangesOf, rowOfFile } from "./pixels.js";
import type { Row } from "./protocol.js";
import { saving } from "./saving.js";
import { awake, newBar, phases, type View } from "./view.js";

const SECONDS = [5, 10, 30, 60], USUAL = 10;

/** The section. */
export function profiling(view: View): HTMLElement {
  const { plan, engine, lock } = view;
  const result = h("div", { "data-testid": "profile-result" }), state = h("div", { "aria-live": "polite" });
  const seconds = h("select", { id: "seconds", "data-testid": "seconds" },
    ...SECONDS.map((each) => h("option", { value: each, selected: each === USUAL }, `${each} s`)));
  const files = h("input", {
    type: "file", multiple: true, id: "profile-files", "data-testid": "profile-files",
    accept: `.npy,.safetensors${pictureInput(plan) === null ? "" : ",image/*"}`, onchange: () => told(),
  });
  const clear = button("Golden samples again", "profile-golden", () => {
    files.value = "";
    told();
  });
  const what = h("span", { class: "faint" });
  const told = (): void => {
    const own = files.files?.length ?? 0;
    what.textContent = own === 0
      ? "Runs its golden samples, where no files of your own are chosen."
      : `Runs ${plural(own, "file")} of your own.`;
    clear.hidden = own === 0;
  };
  told();
  const start = button("Profile", "profile", () => void lock.alone(profile), "main");
  lock.heard((held) => (start.disabled = seconds.disabled = files.disabled = clear.disabled = held));

  async function rows(): Promise<Row[] | null> {
    const picture = pictureInput(plan), found: Row[] = [];
    for (const file of files.files ?? []) {
      if (picture !== null && isPicture(file)) {
        found.push(await rowOfFile(file, picture, rangesOf(picture, await view.samples())));
      } else {
        const bytes = new Uint8Array(await file.arrayBuffer());
        found.push(...(await engine.call("read", { name: file.name, bytes })));
      }
    }
    return found.length === 0 ? null : found;
  }

  async function profile(): Promise<void> {
    const stop = new AbortController();
    const bar = newBar("Profiling", button("Stop", "profile-stop", () => stop.abort()));
    const opening = phases(plan);
    bar.show("Loading onnxruntime-web", null);
    state.replaceChildren(bar.node);
    try {
      const given = { rows: await rows(), seconds: Number(seconds.value) };
      const found = await awake(() => engine.call("profile", given, {
        signal: stop.signal,
        progress: (progress) => {
          const { what, name, done, total } = progress;
          if (what !== "profile" || total === null) bar.show(opening(progress)[0], null);
          else bar.show(`${capital(name)}, ${Math.max(0, Math.ceil(total - done))} s left`, done / total);
        },
      }));
      state.replaceChildren(h("p", { class: "hidden" }, "The profile is done."));
      result.replaceChildren(...shown(view, found));
    } catch (error) {
      state.replaceChildren(isStop(error)
        ? faintLine("Stopped.")
        : failure(error, () => void lock.alone(profile)));
    }
  }

  return h("section", { "aria-labelledby": "profile-title" },
    h("h2", { id: "profile-title" }, "Profile"),
    h("p", {}, "Times every segment and exit in this browser."),
    h("div", { class: "controls" },
      h("div", {}, h("label", { for: "profile-files" }, "Inputs"), files),
      h("div", {}, h("label", { for: "seconds" }, "For"), seconds),
    ),
    h("p", {}, what, " ", clear),
    start, state, result,
  );
}

const capital = (text: string): string => text.slice(0, 1).toUpperCase() + text.slice(1);

function shown(view: View, profile: Profile): HTMLElement[] {
  const { titles } = view.plan, name = (exit: string): string => titles.get(exit) ?? exit;
  const bars = barsOf(profile), { expected, full_path, machine, backend, threads, timer_step_us, rows } = profile;
  const figure = (what: string, value: string, more: string): HTMLElement =>
    h("div", {}, h("dt", {}, what), h("dd", {}, value, h("small", {}, more)));
  const times = full_path.robust_ms / expected.robust_ms;
  const gaps = profile.no_time_for.length > 0
    ? faintLine(`There was no time for all of it (${profile.no_time_for.join(", ")}): profile for longer.`)
    : null;
  const where = [machine.processor, backend, threads === null ? "" : plural(threads, "thread"), plural(rows, "input")];
  return [
    h("dl", { class: "figures" },
      figure("mean call", spellMs(expected.robust_ms), `p90 ${spellMs(expected.p90_ms)}`),
      figure("full path", spellMs(full_path.robust_ms), "no exit fires"),
      times > 1.05 && figure("speed-up", `${times.toPrecision(3)} ×`, "by leaving early"),
    ),
    h("figure", {}, h("figcaption", {}, "What the segments take"),
      draw(bars, expected.robust_ms, name), legend(expected.robust_ms)),
    faintLine(printable(where.filter((each) => each !== "").join(", "), 400)),
    faintLine(`The clock here has steps of ${Number(timer_step_us.toPrecision(2))} µs; ` +
      "what is too short for it is run several times in a row."),
    ...(gaps === null ? [] : [gaps]),
    h("details", {}, h("summary", {}, "In numbers"), table(profile, bars, name)),
    saving(view.site, view.number, profile),
  ];
}
