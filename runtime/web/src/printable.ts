// Text that strangers wrote, for people to read: a bundle's names, labels and notes are such.

// Unicode's control, format, private and separator characters but for the space. They are spelled out since not every
// engine of React Native knows `\p{…}`.
const UNPRINTABLE = new RegExp(
  "[\\0-\\x1f\\x7f-\\xa0\\xad\\u0600-\\u0605\\u061c\\u06dd\\u070f\\u0890\\u0891\\u08e2\\u1680\\u180e\\u2000-\\u200f" +
    "\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ud800-\\uf8ff\\ufeff\\ufff0-\\ufffb\\ufffe\\uffff\\u{110bd}\\u{110cd}" +
    "\\u{13430}-\\u{1343f}\\u{1bca0}-\\u{1bca3}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e00ff}\\u{e01f0}-\\u{10ffff}]",
  "gu",
);
const SPACE = /^(?!\ufeff)[\s\x1c-\x1f\x85]/;

/** Returns one line of text that is shown and not obeyed; what else is in it is escaped as Python would. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (character) => {
    if (character === "\n") return "\\n";
    if (character === "\r") return "\\r";
    if (character === "\t") return "\\t";
    const code = character.codePointAt(0) ?? 0;
    const [letter, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
    return `\\${letter}${code.toString(16).padStart(digits, "0")}`;
  });
}

/** Returns the text without white space at its ends, by Python's notion of it. */
export function strip(text: string): string {
  let first = 0;
  let last = text.length;
  while (first < last && SPACE.test(text[first] ?? "")) first++;
  while (last > first && SPACE.test(text[last - 1] ?? "")) last--;
  return text.slice(first, last);
}

/** Returns what was said in several lines as one that is printable. */
export function flat(text: string): string {
  return printable(text.split("\n").map(strip).filter(Boolean).join(" "));
}

/** Returns a text in quotes, as Python's `repr` does. */
export function repr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  return quote + printable(text.replace(/[\\']/g, (found) => (found === quote || found === "\\" ? "\\" : "") + found)) + quote;
}

/** Returns a number as Python's `repr` of a float does: `0.5`, `1.0`, `1e-05`. */
export function spellFloat(value: number): string {
  const [digits, exponent = "0"] = value.toExponential().split("e");
  if (value !== 0 && (Number(exponent) < -4 || Number(exponent) > 15)) {
    return `${digits}e${exponent.replace(/^([+-])(\d)$/, "$10$2")}`;
  }
  return (Object.is(value, -0) ? "-" : "") + value + (Number.isInteger(value) ? ".0" : "");
}

/** Returns texts as Python's `repr` of a list does: `['a', 'b']`. */
export function reprAll(texts: Iterable<string>): string {
  return `[${Array.from(texts, repr).join(", ")}]`;
}
