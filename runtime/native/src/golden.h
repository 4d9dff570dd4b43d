// Golden samples: what the source framework computed, so that a device can check itself without it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "bundle.h"
#include "tensorfile.h"

namespace eetoolkit {

// What one exit gives for one row when it is met.
struct Visit {
  std::string exit;
  Ordered<Tensor> outputs;
  float confidence = 0;
};

// One row of inputs, and what every exit on its way gives, none firing.
struct Sample {
  Ordered<Tensor> inputs;
  std::vector<Visit> visits;
};

// The bundle's samples; none where it has none. Throws IntegrityError.
std::vector<Sample> read_golden(const Bundle& bundle);

}  // namespace eetoolkit
