"""Writes `src/casefold.cpp`: Unicode's full case folding as runs of letters that fold alike."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

TARGET = Path(__file__).parents[1] / "src" / "casefold.cpp"

TEXT = """\
// Made by `tools/casefold.py` from Unicode {version}.
#include "casefold.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>

#include "text.h"

namespace eetoolkit {{
namespace {{

// From `first` to `last` every `stride`th letter is folded to the one `delta` behind it.
struct Run {{
  uint32_t first, last;
  int32_t stride, delta;
}};

constexpr std::array<Run, {run_count}> kRuns{{{{
{runs}
}}}};

struct Expansion {{
  uint32_t from;
  std::string_view to;
}};

constexpr std::array<Expansion, {expansion_count}> kExpansions{{{{
{expansions}
}}}};

}}  // namespace

void append_folded(std::string& text, char32_t character) {{
  const auto* const run = std::lower_bound(kRuns.begin(), kRuns.end(), character,
                                           [](const Run& each, char32_t wanted) {{ return each.last < wanted; }});
  if (run != kRuns.end() && run->first <= character && (character - run->first) % run->stride == 0) {{
    append_utf8(text, character + run->delta);
    return;
  }}
  for (const Expansion& each : kExpansions) {{
    if (each.from == character) {{
      text += each.to;
      return;
    }}
  }}
  append_utf8(text, character);
}}

}}  // namespace eetoolkit
"""


def runs(folded: dict[int, int]) -> list[tuple[int, int, int, int]]:
    """Returns (first, last, stride, delta) of letters that follow each other at one stride and fold by one delta."""
    found: list[tuple[int, int, int, int]] = []
    for letter, to in sorted(folded.items()):
        if found:
            first, last, stride, delta = found[-1]
            step = letter - last
            if delta == to - letter and step in ((1, 2) if first == last else (stride,)):
                found[-1] = first, letter, step, delta
                continue
        found.append((letter, letter, 1, to - letter))
    return found


def main() -> None:
    """Writes the file."""
    texts = {
        letter: chr(letter).casefold() for letter in range(sys.maxunicode + 1) if chr(letter) != chr(letter).casefold()
    }
    plain = runs({letter: ord(text) for letter, text in texts.items() if len(text) == 1})
    longer = {letter: text for letter, text in texts.items() if len(text) > 1}

    def escaped(text: str) -> str:
        return "".join(f"\\{byte:03o}" for byte in text.encode())

    TARGET.write_text(
        TEXT.format(
            version=unicodedata.unidata_version,
            run_count=len(plain),
            runs="\n".join(f"    {{{a:#x}, {b:#x}, {stride}, {delta}}}," for a, b, stride, delta in plain),
            expansion_count=len(longer),
            expansions="\n".join(f'    {{{letter:#x}, "{escaped(text)}"}},' for letter, text in longer.items()),
        )
    )


if __name__ == "__main__":
    main()
