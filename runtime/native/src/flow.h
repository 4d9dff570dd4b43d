// Where a plan's segments lead, what decides, and which slots matter where.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "plan.h"

namespace eetoolkit {

// The segments that may be next, by the number that a switch, or a gate as 0 or 1, decides for.
std::vector<const std::string*> targets(const Segment& segment);
// The slot that decides which segment is next; null where nothing does.
const std::string* decider(const Segment& segment);
// (what for, slot) of every slot looked at after the segment's writes: its exit's and its gate's.
std::vector<std::pair<std::string, const std::string*>> looked_at(const Segment& segment);

// A set of inputs and slots.
class SlotSet {
 public:
  explicit SlotSet(size_t count, bool full = false) : words_((count + 63) / 64, full ? ~uint64_t{0} : 0) {}

  void add(size_t slot) { words_[slot / 64] |= uint64_t{1} << slot % 64; }
  void remove(size_t slot) { words_[slot / 64] &= ~(uint64_t{1} << slot % 64); }
  [[nodiscard]] bool has(size_t slot) const { return (words_[slot / 64] >> slot % 64 & 1) != 0; }
  // Both return whether anything changed.
  bool add_all(const SlotSet& other);
  bool keep_all(const SlotSet& other);
  // The slots in it, in order.
  [[nodiscard]] std::vector<uint32_t> slots() const;

 private:
  std::vector<uint64_t> words_;
};

// Numbers of a plan's names: inputs come first, then slots, then constants.
class TensorNumbers {
 public:
  explicit TensorNumbers(const Manifest& plan);

  // The number of a name that the plan has.
  [[nodiscard]] uint32_t of(const std::string& name) const { return numbers_.at(name); }
  // How many inputs and slots there are: these are the lowest numbers.
  [[nodiscard]] size_t slots() const { return slots_; }
  [[nodiscard]] size_t size() const { return numbers_.size(); }

 private:
  std::unordered_map<std::string, uint32_t> numbers_;
  size_t slots_;
};

// For each segment, in order, the inputs and slots whose tensors it or a later one may still look at.
std::vector<SlotSet> live_before(const Manifest& plan, const TensorNumbers& numbers);

}  // namespace eetoolkit
