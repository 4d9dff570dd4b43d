// Whether a bundle gives on this very machine what the source network gave.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "plan.h"
#include "program.h"
#include "tensorfile.h"

namespace eetoolkit {

// One exit over all its visits: the largest differences found, and how many decisions were ties.
struct ExitCheck {
  std::string exit;
  size_t samples = 0;
  double output_difference = 0;
  double confidence_difference = 0;
  size_t ties = 0;
};

struct VerifyReport {
  double tolerance = 0;
  size_t samples = 0;
  std::vector<ExitCheck> exits;
  std::vector<std::string> failures;

  // For people.
  [[nodiscard]] std::string text() const;
};

// Compares the bundle's golden samples with what runs here, every file's hash checked first.
// Throws InputError where there are none.
VerifyReport verify(const std::shared_ptr<Program>& program);

// The largest absolute difference over the larger of 1 and the largest finite expected magnitude; infinity where shapes
// differ, or where one is NaN or infinite and the other is not the same.
double difference(const ee_tensor& found, const ee_tensor& expected);

}  // namespace eetoolkit
