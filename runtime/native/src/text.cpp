#include "text.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "casefold.h"

namespace eetoolkit {
namespace {

struct Range {
  char32_t first, last;
};

// Unicode's control, format, private and separator characters but for the space.
constexpr std::array<Range, 30> kUnprintable{{
    {0x00, 0x1F},       {0x7F, 0xA0},       {0xAD, 0xAD},       {0x600, 0x605},     {0x61C, 0x61C},
    {0x6DD, 0x6DD},     {0x70F, 0x70F},     {0x890, 0x891},     {0x8E2, 0x8E2},     {0x1680, 0x1680},
    {0x180E, 0x180E},   {0x2000, 0x200F},   {0x2028, 0x202F},   {0x205F, 0x206F},   {0x3000, 0x3000},
    {0xD800, 0xF8FF},   {0xFEFF, 0xFEFF},   {0xFFF0, 0xFFFB},   {0xFFFE, 0xFFFF},   {0x110BD, 0x110BD},
    {0x110CD, 0x110CD}, {0x13430, 0x1343F}, {0x1BCA0, 0x1BCA3}, {0x1D173, 0x1D17A}, {0x1FFFE, 0x1FFFF},
    {0x2FFFE, 0x2FFFF}, {0x3FFFE, 0x3FFFF}, {0xE0000, 0xE00FF}, {0xE01F0, 0xFFFFF}, {0x100000, 0x10FFFF},
}};

bool is_printable(char32_t character) {
  for (const Range& range : kUnprintable) {
    if (character <= range.last) return character < range.first;
  }
  return true;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

void append_escaped(std::string& text, char32_t character) {
  if (character == '\n' || character == '\r' || character == '\t') {
    text += character == '\n' ? "\\n" : character == '\r' ? "\\r" : "\\t";
    return;
  }
  std::array<char, 12> spelled{};
  const char* format = character < 0x100 ? "\\x%02x" : character < 0x10000 ? "\\u%04x" : "\\U%08x";
  std::snprintf(spelled.data(), spelled.size(), format, static_cast<unsigned>(character));
  text += spelled.data();
}

void append_printable(std::string& text, std::string_view part) {
  for (size_t at = 0; at < part.size();) {
    const size_t start = at;
    const char32_t character = next_character(part, at);
    if (is_printable(character)) {
      text += part.substr(start, at - start);
    } else {
      append_escaped(text, character);
    }
  }
}

}  // namespace

char32_t next_character(std::string_view text, size_t& at) {
  const auto byte = [&](size_t place) { return static_cast<unsigned char>(text[place]); };
  const unsigned char first = byte(at);
  const size_t length = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (length == 1 || first < 0xC0 || at + length > text.size()) {
    ++at;
    return first;
  }
  char32_t character = first & (0xFF >> (length + 1));
  for (size_t next = 1; next < length; ++next) character = character << 6 | (byte(at + next) & 0x3F);
  at += length;
  return character;
}

void append_utf8(std::string& text, char32_t character) {
  if (character < 0x80) {
    text += static_cast<char>(character);
    return;
  }
  const int more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
  text += static_cast<char>((0xF00 >> more & 0xFF) | character >> (6 * more));
  for (int left = more - 1; left >= 0; --left) text += static_cast<char>(0x80 | (character >> (6 * left) & 0x3F));
}

std::string repr(std::string_view name) {
  const bool single = name.find('\'') == std::string_view::npos || name.find('"') != std::string_view::npos;
  const char quote = single ? '\'' : '"';
  std::string text(1, quote);
  for (size_t at = 0; at < name.size();) {
    const size_t start = at;
    next_character(name, at);
    const std::string_view character = name.substr(start, at - start);
    if (character[0] == quote || character[0] == '\\') text += '\\';
    append_printable(text, character);
  }
  return text + quote;
}

std::string repr(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  std::array<char, 40> digits{};
  const double size = std::fabs(number);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto format = fixed ? std::chars_format::fixed : std::chars_format::scientific;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number, format).ptr;
  std::string text(digits.data(), end);
  if (fixed && text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string repr(const std::vector<std::string>& names) {
  std::string text = "[";
  for (const std::string& name : names) {
    if (text.size() > 1) text += ", ";
    text += repr(name);
  }
  return text + "]";
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) {
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text;
}

std::string shortened(double number, const char* format) {
  std::array<char, 40> digits{};
  std::snprintf(digits.data(), digits.size(), format, number);
  return digits.data();
}

std::string flat(std::string_view text) {
  std::string line;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    const std::string_view part = stripped(text.substr(start, end - start));
    if (!part.empty() && !line.empty()) line += ' ';
    append_printable(line, part);
    start = end + 1;
  }
  return line;
}

std::string first_line(std::string_view text) {
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    const std::string_view line = stripped(text.substr(start, end - start));
    const std::string_view shown = first_characters(line, 299);
    if (!line.empty()) return first_characters(line, 300) == line ? std::string(line) : join(shown, "…");
    start = end + 1;
  }
  return "no message";
}

std::string_view stripped(std::string_view text) {
  size_t first = text.size();
  size_t last = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    if (!is_space(next_character(text, at))) {
      first = std::min(first, start);
      last = at;
    }
  }
  return first < last ? text.substr(first, last - first) : std::string_view();
}

std::string_view first_characters(std::string_view text, size_t most) {
  size_t at = 0;
  for (; most > 0 && at < text.size(); --most) next_character(text, at);
  return text.substr(0, at);
}

std::string case_folded(std::string_view text) {
  std::string folded;
  for (size_t at = 0; at < text.size();) append_folded(folded, next_character(text, at));
  return folded;
}

}  // namespace eetoolkit
