#include "half.h"

#include <cmath>
#include <limits>

namespace eetoolkit {
namespace {

constexpr int kFractionBits = 10;
constexpr int kBias = 15;
constexpr uint16_t kInfinity = 0x7C00;
constexpr double kSmallestStep = 1.0 / (1 << 24);

}  // namespace

float float_of_half(uint16_t half) {
  const int exponent = half >> kFractionBits & 31;
  const int fraction = half & 1023;
  const float size = exponent == 31   ? (fraction != 0 ? std::numeric_limits<float>::quiet_NaN()
                                                       : std::numeric_limits<float>::infinity())
                     : exponent == 0 ? std::ldexp(static_cast<float>(fraction), 1 - kBias - kFractionBits)
                                     : std::ldexp(static_cast<float>(fraction + 1024), exponent - kBias - kFractionBits);
  return (half & 0x8000) != 0 ? -size : size;
}

uint16_t half_of(double value) {
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const double size = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7E00;
  if (size >= 65520.0) return sign | kInfinity;  // half a step beyond the largest
  int exponent = 0;
  std::frexp(size, &exponent);
  const double step = size < 1.0 / (1 << 14) ? kSmallestStep : std::ldexp(1.0, exponent - 1 - kFractionBits);
  const auto steps = static_cast<uint32_t>(std::nearbyint(size / step));
  if (step == kSmallestStep && steps <= 1024) return static_cast<uint16_t>(sign | steps);
  // A fraction that rounds up to the next power of two carries into the exponent by itself.
  const auto biased = static_cast<uint32_t>(exponent - 1 + kBias);
  return static_cast<uint16_t>(sign | ((biased << kFractionBits) + (steps - 1024)));
}

}  // namespace eetoolkit
