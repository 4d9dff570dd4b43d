// Text for people, as the Python runtime writes it, so that both say the same.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace eetoolkit {

// A name in quotes, with what a terminal would obey escaped.
std::string repr(std::string_view name);
inline std::string quoted(const std::string& name) { return repr(std::string_view(name)); }
// The shortest digits that give the number back: `0.5`, `1e-05`, `inf`.
std::string repr(double number);
// `['a', 'b']`.
std::string repr(const std::vector<std::string>& names);
// `a, b`.
std::string listed(const std::vector<std::string>& names);
// As `%.4g`.
std::string shortened(double number, const char* format = "%.4g");

// One line that a terminal shows and does not obey.
std::string flat(std::string_view text);
// The first line that says anything, at most 300 characters of it.
std::string first_line(std::string_view text);
// The text without the white space, of any script, at its ends.
std::string_view stripped(std::string_view text);
// At most so many characters.
std::string_view first_characters(std::string_view text, size_t most);
// What texts that differ only in case have in common.
std::string case_folded(std::string_view text);

// Reads one character of valid UTF-8 and moves `at` behind it.
char32_t next_character(std::string_view text, size_t& at);
void append_utf8(std::string& text, char32_t character);

inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, char part) { text += part; }
template <class Number, std::enable_if_t<std::is_integral_v<Number>, int> = 0>
void append(std::string& text, Number part) {
  text += std::to_string(part);
}

template <class... Parts>
std::string join(const Parts&... parts) {
  std::string text;
  (append(text, parts), ...);
  return text;
}

}  // namespace eetoolkit
