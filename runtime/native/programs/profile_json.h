// A profile as JSON, with the keys and units of docs/profile.schema.json.
#pragma once

#include <optional>
#include <string>

#include "machine.h"
#include "rounds.h"

namespace eetoolkit::programs {

// What was measured beside the rounds.
struct Measured {
  std::string began;
  Condition before, after;
  std::optional<int64_t> resident, opened, peak;  // bytes
  std::map<std::string, double> load_ms;          // by segment
  int threads = 0;                                // 0: one per physical core
  std::string spin, pool;
};

std::string profile_json(const Program& program, const Measured& measured, const std::vector<Row>& rows, const Found& found);

}  // namespace eetoolkit::programs
