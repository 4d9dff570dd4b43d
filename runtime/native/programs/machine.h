// What a latency depends on beside the network: the machine, and the state it is in, from the kernel's own files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace eetoolkit::programs {

struct Machine {
  std::string processor;
  int64_t cores = 1;  // that this process may use
  std::optional<int64_t> memory_bytes;
  std::string system;
};

// Nothing where the kernel does not tell.
struct Condition {
  std::optional<std::string> governor;
  std::optional<double> clock_mhz, limit_mhz, temperature_c;
  std::optional<bool> throttled, throttling;  // since the start, now
  std::optional<double> load;
};

Machine this_machine();
Condition condition();
// This process's resident memory, now and at most.
std::optional<int64_t> resident_bytes();
std::optional<int64_t> peak_bytes();
// The smallest difference that two readings of the clock can have here.
double timer_step_us();
// Now, ISO 8601, UTC.
std::string now_utc();

}  // namespace eetoolkit::programs
