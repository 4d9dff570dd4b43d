#include "validate.h"

#include <cmath>

#include "error.h"
#include "flow.h"

namespace eetoolkit {
namespace {

constexpr int64_t kMostElements = int64_t{1} << 40;

Slot slot_of(const Constant& constant) { return {constant.dtype, Shape(constant.shape.begin(), constant.shape.end())}; }

bool has_any(const Shape& shape) {
  for (const Dim& dim : shape) {
    if (is_any(dim)) return true;
  }
  return false;
}

bool fits(const Slot& source, const Slot& target) {
  if (source.dtype != target.dtype || source.shape.size() != target.shape.size()) return false;
  if (has_any(source.shape) && !has_any(target.shape)) return false;  // what depends on data is not fixed
  for (size_t place = 0; place < source.shape.size(); ++place) {
    const int64_t* from = size_in(source.shape[place]);
    const int64_t* to = size_in(target.shape[place]);
    if (from != nullptr && to != nullptr && *from != *to) return false;
  }
  return true;
}

std::string spell(const Slot& slot) { return spell(slot.dtype, slot.shape); }

// Refuses a slot that is not one value per row, of one of these dtypes.
void check_per_row(const std::string& what, const Slot& slot, std::initializer_list<DType> dtypes) {
  const auto is_row = [](const Dim& dim) { return symbol_in(dim) != nullptr || (size_in(dim) != nullptr && *size_in(dim) == 1); };
  const bool is_one = slot.shape.empty() || (slot.shape.size() == 1 && is_row(slot.shape[0]));
  std::string expected;
  bool is_allowed = false;
  for (const DType dtype : dtypes) {
    expected += expected.empty() ? std::string(name_of(dtype)) : join(" or ", name_of(dtype));
    is_allowed |= slot.dtype == dtype;
  }
  if (!is_allowed || !is_one) throw manifest_error(what, " is ", spell(slot), ", expected one ", expected, " per row");
}

// Slots that one output feeds hold one tensor.
void check_twin_slots(const std::string& what, const Segment& segment, const Ordered<Slot>& slots) {
  Ordered<std::string> first;
  for (const auto& [target, source] : segment.writes) {
    if (!source.output) continue;
    const std::string* other = first.find(*source.output);
    if (other == nullptr) {
      first.set(*source.output, target);
    } else if (!fits(slots.at(*other), slots.at(target)) || !fits(slots.at(target), slots.at(*other))) {
      throw manifest_error(what, "output ", quoted(*source.output), " feeds ", quoted(*other), ", ",
                           spell(slots.at(*other)), ", and ", quoted(target), ", ", spell(slots.at(target)));
    }
  }
}

void check_exit(const Manifest& plan, const std::string& what, const Exit& exit, const Ordered<Slot>& slots) {
  check_per_row(join(what, "confidence ", quoted(exit.confidence)), slots.at(exit.confidence), {DType::float32});
  if (exit.outputs.empty()) throw manifest_error(what, "exit ", quoted(exit.name), " has no outputs");
  for (const auto& [key, constant] : exit.criterion.named_constants()) {
    if (!plan.constants.has(constant)) {
      throw manifest_error(what, "the ", key, ' ', quoted(constant), " is not among the constants");
    }
  }
  const double* threshold = std::get_if<double>(&exit.threshold);
  if (threshold != nullptr && !std::isfinite(*threshold)) {
    throw manifest_error(what, "the threshold is ", repr(*threshold), ", not finite; 'never' disables it");
  }
}

}  // namespace

void validate(const Manifest& plan) {
  check_counts(plan);
  check_names(plan);
  check_definitions(plan);
  check_segments(plan);
  check_files(plan);
  check_flow(plan);
  check_assignment(plan);
  check_types(plan);
}

void check_types(const Manifest& plan) {
  Ordered<Slot> slots;
  for (const TensorSpec& spec : plan.inputs) slots.set(spec.name, {spec.dtype, spec.shape});
  for (const auto& [name, slot] : plan.slots) slots.set(name, slot);
  for (const auto& [name, slot] : slots) {
    double elements = 1;
    for (const Dim& dim : slot.shape) elements *= size_in(dim) != nullptr ? static_cast<double>(*size_in(dim)) : 1.0;
    if (elements > static_cast<double>(kMostElements)) {
      throw manifest_error("manifest.json: ", quoted(name), " is ", spell(slot), ", over ", kMostElements, " elements");
    }
  }
  for (const auto& [name, segment] : plan.segments) {
    const std::string what = join("segment ", quoted(name), ": ");
    check_twin_slots(what, segment, slots);
    for (const auto& [target, source] : segment.writes) {
      if (source.output) continue;
      const Slot from = source.slot ? slots.at(*source.slot) : slot_of(plan.constants.at(*source.constant));
      if (!fits(from, slots.at(target))) {
        throw manifest_error(what, quoted(target), " takes ", spell(from), ", it is ", spell(slots.at(target)));
      }
    }
    if (segment.exit) check_exit(plan, what, *segment.exit, slots);
    if (const std::string* on = decider(segment)) {
      const std::string gate = what + quoted(*on);
      if (std::holds_alternative<Gate>(segment.next)) check_per_row(gate, slots.at(*on), {DType::boolean});
      else check_per_row(gate, slots.at(*on), {DType::int64, DType::int32});
    }
  }
}

}  // namespace eetoolkit
