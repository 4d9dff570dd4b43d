#include "decision.h"

#include <cmath>
#include <limits>

#include "error.h"

namespace eetoolkit {
namespace {

size_t known(const Manifest& plan, const Ordered<const Exit*>& exits, const char* name) {
  std::string found = name == nullptr ? "" : name;
  for (const auto& [ours, title] : plan.titles) {
    if (title != found) continue;
    found = ours;  // the network's names go before the plan's
    break;
  }
  if (!exits.has(found)) {
    std::vector<std::string> names;
    for (const auto& [each, exit] : exits) names.push_back(each);
    throw input_error("no exit ", repr(std::string_view(found)), "; the exits are ", listed(names));
  }
  return exits.place(found);
}

}  // namespace

Decision::Decision(const Ordered<const Exit*>& exits, bool most_confident) : most_confident_(most_confident) {
  for (const auto& [name, exit] : exits) {
    const double* limit = std::get_if<double>(&exit->threshold);
    limits_.push_back(limit == nullptr ? std::numeric_limits<double>::quiet_NaN() : *limit);
    stand_ins_.push_back(std::holds_alternative<Never>(exit->threshold) ? 0 : 1);
  }
}

void Decision::exit_at(const Manifest& plan, const Ordered<const Exit*>& exits, const char* name) {
  at_ = static_cast<int>(known(plan, exits, name));
}

void Decision::set_threshold(const Manifest& plan, const Ordered<const Exit*>& exits, const ee_threshold& threshold) {
  const size_t exit = known(plan, exits, threshold.exit);
  const std::string_view name = exits.item(exit).first;
  if (exits.item(exit).second->ends()) {
    throw input_error("thresholds: ", repr(name), " ends the plan and accepts everything; it has no threshold");
  }
  if (threshold.never == 0 && std::isnan(threshold.confidence)) {
    throw input_error("thresholds: ", repr(name), " is nan, expected a number, or `never`");
  }
  const bool never = threshold.never != 0;
  limits_[exit] = never ? std::numeric_limits<double>::quiet_NaN() : threshold.confidence;
  stand_ins_[exit] = never ? 0 : 1;
}

}  // namespace eetoolkit
