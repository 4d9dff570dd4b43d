// Half precision (IEEE 754 binary16).
#pragma once

#include <cstdint>

namespace eetoolkit {

float float_of_half(uint16_t half);
// The nearest half, the even one of two; infinity beyond the largest.
uint16_t half_of(double value);

}  // namespace eetoolkit
