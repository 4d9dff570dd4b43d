// Unicode's full case folding.
#pragma once

#include <string>

namespace eetoolkit {

// Appends what a character has in common with those that differ from it only in case.
void append_folded(std::string& text, char32_t character);

}  // namespace eetoolkit
