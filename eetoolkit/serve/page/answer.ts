// An answer: which class, which exit, how sure, and how much was not run.

import type { Plan } from "eetoolkit-runtime";
import { h, plural, printable, spellMs, spellShare } from "./dom.js";
import type { Ran, Sample } from "./protocol.js";

/** What a class is called. */
export const classOf = ({ labels }: Plan, prediction: number | null): string =>
  prediction === null ? "no class" : printable(labels?.[prediction] ?? `class ${prediction}`, 60);

/** How sure an exit was, as its criterion counts. */
function spellSure({ segments }: Plan, { exit: name, confidence }: Ran): string {
  const exits = [...segments.values()].flatMap(({ exit }) => (exit === null ? [] : [exit]));
  const exit = exits.find((each) => each.name === name), { threshold } = exit ?? {};
  const shares = exit?.criterion.kind === "max_prob";
  const spell = (value: number): string => (shares ? spellShare(value) : String(Number(value.toPrecision(3))));
  const sure = shares ? `${spell(confidence)} sure` : `confidence ${spell(confidence)}`;
  if (typeof threshold === "number") return confidence >= threshold ? `${sure} (${spell(threshold)} needed)` : sure;
  return threshold === "always" ? `${sure}, the last exit` : sure;
}

/** How much of all multiply-adds was not run, 0 to 1; null where that is not known, or segments are run again. */
function saved({ segments }: Plan, { path }: Ran): number | null {
  const all = [...segments.values()].filter(({ model }) => model !== null);
  const works = all.map(({ work, max_visits }) => (max_visits === null ? (work?.multiply_adds ?? null) : null));
  if (works.some((work) => work === null)) return null;
  const sum = (values: readonly (number | null | undefined)[]): number =>
    values.reduce<number>((a, b) => a + (b ?? 0), 0);
  const total = sum(works);
  return total > 0 ? 1 - sum(path.map((name) => segments.get(name)?.work?.multiply_adds)) / total : null;
}

/** All segments in a row: those that ran, and those that did not. */
function strip({ segments }: Plan, { path, exit }: Ran): HTMLElement {
  const names = [...segments].filter(([, { model }]) => model !== null).map(([name]) => name);
  const last = path.at(-1);
  return h("ol", { class: "strip", "data-testid": "strip" }, ...names.map((name) => {
    const times = path.filter((each) => each === name).length;
    const more = times > 1 ? ` × ${times}` : "";
    const answered = name === last && segments.get(name)?.exit?.name === exit ? ", answered" : "";
    const words = times === 0 ? "not run" : `ran${more}${answered}`;
    return h("li", { class: times > 0 ? "ran" : "" }, h("b", {}, printable(name, 20)), h("span", {}, words));
  }));
}

/** The answer's figures; `sample` where its input is a golden sample. */
export function answerOf(plan: Plan, ran: Ran, sample: Sample | null): HTMLElement[] {
  const { titles } = plan, exit = printable(titles.get(ran.exit) ?? ran.exit, 40);
  const models = [...plan.segments.values()].filter(({ model }) => model !== null).length;
  const left = models - new Set(ran.path).size, share = saved(plan, ran);
  const not = left === 0
    ? "All segments were run"
    : share === null
      ? `${left} of ${plural(models, "segment")} not run`
      : `${spellShare(Math.max(0, share))} of the multiply-adds not run`;
  const said = sample?.said.find((each) => each.exit === ran.exit);
  return [
    h("p", { class: "class", "data-testid": "class" }, classOf(plan, ran.prediction)),
    h("p", { "data-testid": "exit" }, h("b", { class: "mark" }, exit), ` answered, ${spellSure(plan, ran)}`),
    h("p", { "data-testid": "not-run" }, h("b", {}, not),
      " ", h("span", { class: "faint whole" }, `in ${ran.ms < 0.1 ? "under 0.1 ms" : spellMs(ran.ms)}`)),
    strip(plan, ran),
    ...(said === undefined ? [] : [
      h("p", { class: said.prediction === ran.prediction ? "faint" : "bad", "data-testid": "expected" },
        `Its network said ${classOf(plan, said.prediction)} at this exit.`),
    ]),
  ];
}

/** The same in one sentence, for who hears it. */
export const spoken = (plan: Plan, ran: Ran): string =>
  `${classOf(plan, ran.prediction)}, answered by ${printable(plan.titles.get(ran.exit) ?? ran.exit, 40)}.`;
