// Whether an exit answers, in a call's thresholds; and which one stands in where none fired.
#pragma once

#include <string>
#include <vector>

#include "eetoolkit.h"
#include "plan.h"

namespace eetoolkit {

constexpr int kNoExit = -1;

class Decision {
 public:
  Decision() = default;
  // Of a plan's own thresholds.
  Decision(const Ordered<const Exit*>& exits, bool most_confident);

  // A call's decision is a copy of the plan's, changed by these; exits are named as the plan or the network calls them. Throw InputError.
  void exit_at(const Manifest& plan, const Ordered<const Exit*>& exits, const char* name);
  void set_threshold(const Manifest& plan, const Ordered<const Exit*>& exits, const ee_threshold& threshold);

  // A float32 confidence is widened to float64; NaN reaches nothing.
  [[nodiscard]] bool fires(int exit, float confidence) const {
    return at_ == kNoExit ? static_cast<double>(confidence) >= limits_[static_cast<size_t>(exit)] : exit == at_;
  }
  // Whether the exit may stand in for one that fired.
  [[nodiscard]] bool may_stand_in(int exit) const { return at_ != kNoExit || stand_ins_[static_cast<size_t>(exit)] != 0; }
  // Whether the most confident exit answers where none fired, else the last.
  [[nodiscard]] bool most_confident() const { return most_confident_ && at_ == kNoExit; }

 private:
  std::vector<double> limits_;      // of each exit, in the plan's order; NaN: it never fires
  std::vector<char> stand_ins_;
  int at_ = kNoExit;
  bool most_confident_ = false;
};

}  // namespace eetoolkit
