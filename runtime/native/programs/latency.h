// How long something took, summarised as the Python runtime does it: no run is left out.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace eetoolkit::programs {

constexpr size_t kQuantileCount = 25;

// Milliseconds; docs/bundle-format.md says what each means.
struct Latency {
  size_t runs = 0;
  double mean_ms = 0, robust_ms = 0, p50_ms = 0, p90_ms = 0, p99_ms = 0, spread_ms = 0;
  size_t outliers = 0;
  std::array<double, kQuantileCount> quantiles_ms{};
};

// Runs of one kind, as they come.
class Runs {
 public:
  // What one took, and how many numbers its inputs were.
  void add(double took_ms, size_t size);
  [[nodiscard]] bool empty() const { return took_ms_.empty(); }
  [[nodiscard]] double total_ms() const;
  [[nodiscard]] Latency summary() const;
  // The mean without what other programs added to single runs: among runs of one size, or of a few sizes next to each
  // other, what is beyond an outlier's bound counts as that bound.
  [[nodiscard]] double robust_mean() const;

 private:
  std::vector<double> took_ms_;
  std::vector<size_t> sizes_;
};

// Of values in any order, by linear interpolation between two of them.
double quantile(std::vector<double> values, double share);

}  // namespace eetoolkit::programs
