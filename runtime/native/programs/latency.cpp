#include "latency.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace eetoolkit::programs {
namespace {

constexpr double kFar = 5;         // spreads above the median from which a latency counts as an outlier
constexpr size_t kAlike = 20;      // runs, at least, that are judged together
constexpr double kLeastMs = 1e-6;  // what a run takes at least, however coarse the clock
constexpr std::array<double, kQuantileCount> kQuantiles{0,    0.01, 0.02, 0.05, 0.1,  0.15, 0.2,  0.25,
                                                        0.3,  0.35, 0.4,  0.45, 0.5,  0.55, 0.6,  0.65,
                                                        0.7,  0.75, 0.8,  0.85, 0.9,  0.95, 0.98, 0.99,
                                                        1};

double at(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double fence(const std::vector<double>& sorted) {
  return at(sorted, 0.5) + kFar * (at(sorted, 0.75) - at(sorted, 0.25));
}

}  // namespace

void Runs::add(double took_ms, size_t size) {
  took_ms_.push_back(std::max(took_ms, kLeastMs));
  sizes_.push_back(size);
}

double Runs::total_ms() const { return std::accumulate(took_ms_.begin(), took_ms_.end(), 0.0); }

double Runs::robust_mean() const {
  std::vector<size_t> order(took_ms_.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sizes_[a] < sizes_[b]; });
  double total = 0;
  size_t start = 0;
  for (size_t end = 1; end <= order.size(); ++end) {
    const bool is_last = end == order.size();
    if (!is_last && sizes_[order[end]] == sizes_[order[end - 1]]) continue;
    if (!is_last && (end - start < kAlike || order.size() - end < kAlike)) continue;
    std::vector<double> alike;
    for (size_t place = start; place < end; ++place) alike.push_back(took_ms_[order[place]]);
    std::sort(alike.begin(), alike.end());
    const double limit = fence(alike);
    for (const double took : alike) total += std::min(took, limit);
    start = end;
  }
  return total / static_cast<double>(order.size());
}

Latency Runs::summary() const {
  std::vector<double> sorted = took_ms_;
  std::sort(sorted.begin(), sorted.end());
  Latency latency;
  latency.runs = sorted.size();
  latency.mean_ms = total_ms() / static_cast<double>(sorted.size());
  latency.robust_ms = robust_mean();
  latency.p50_ms = at(sorted, 0.5);
  latency.p90_ms = at(sorted, 0.9);
  latency.p99_ms = at(sorted, 0.99);
  latency.spread_ms = (at(sorted, 0.75) - at(sorted, 0.25)) / 2;
  latency.outliers = static_cast<size_t>(sorted.end() - std::upper_bound(sorted.begin(), sorted.end(), fence(sorted)));
  for (size_t place = 0; place < kQuantileCount; ++place) latency.quantiles_ms[place] = at(sorted, kQuantiles[place]);
  return latency;
}

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return at(values, share);
}

}  // namespace eetoolkit::programs
