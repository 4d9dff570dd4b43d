// Arrays as numpy saves them (.npy, versions 1 to 3).
#pragma once

#include <string_view>

#include "tensorfile.h"

namespace eetoolkit::programs {

// The array in a file's bytes: numbers or booleans, little-endian, in C order. Throws Failure.
Tensor read_npy(std::string_view content);

}  // namespace eetoolkit::programs
