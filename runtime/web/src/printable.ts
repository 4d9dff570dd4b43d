// Text that strangers wrote, for people to read: a bundle's names, labels and notes are such.

const UNPRINTABLE = unprintable(); // control, format, private and unassigned characters, separators but for the space
const SPACE = /^(?!\ufeff)[\s\x1c-\x1f\x85]/;

function unprintable(): RegExp {
  try {
    return new RegExp("(?! )[\\p{C}\\p{Z}]", "gu");
  } catch {
    return /[\0-\x1f\x7f-\xa0\xad\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g; // not every React Native knows \p
  }
}

/** Returns one line of text that is shown and not obeyed; what else is in it is escaped as Python would. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (character) => {
    if ("\n\r\t".includes(character)) return JSON.stringify(character).slice(1, -1);
    const digits = character.codePointAt(0)?.toString(16) ?? "";
    const [letter, length] = digits.length < 3 ? ["x", 2] : digits.length < 5 ? ["u", 4] : ["U", 8];
    return `\\${letter}${digits.padStart(length, "0")}`;
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

/** Returns a text, an integer, None, or a list of such, as Python's `repr` does. */
export function repr(value: string | number | bigint | boolean | null | readonly (string | number | null)[]): string {
  if (typeof value === "object") return value ? `[${value.map(repr).join(", ")}]` : "None";
  if (typeof value !== "string") return String(value).replace(/^[tf]/, (letter) => letter.toUpperCase());
  const quote = value.includes("'") && !value.includes('"') ? '"' : "'";
  const escaped = value.replace(quote === "'" ? /[\\']/g : /\\/g, "\\$&");
  return quote + printable(escaped) + quote;
}

/** Returns a number as Python's `repr` of a float does: `0.5`, `1.0`, `1e-05`. */
export function reprFloat(value: number): string {
  const [digits, exponent = "0"] = value.toExponential().split("e");
  if (value !== 0 && (Number(exponent) < -4 || Number(exponent) > 15)) {
    return `${digits}e${exponent.replace(/^([+-])(\d)$/, "$10$2")}`;
  }
  return (Object.is(value, -0) ? "-" : "") + value + (Number.isInteger(value) ? ".0" : "");
}
