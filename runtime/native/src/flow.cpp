#include "flow.h"

#include <deque>

#include "text.h"

namespace eetoolkit {

std::vector<const std::string*> targets(const Segment& segment) {
  if (const auto* next = std::get_if<Goto>(&segment.next)) return {&next->segment};
  if (const auto* next = std::get_if<Gate>(&segment.next)) return {&next->otherwise, &next->then};
  std::vector<const std::string*> found;
  if (const auto* next = std::get_if<Switch>(&segment.next)) {
    for (const std::string& name : next->cases) found.push_back(&name);
  }
  return found;
}

const std::string* decider(const Segment& segment) {
  if (const auto* next = std::get_if<Gate>(&segment.next)) return &next->on;
  if (const auto* next = std::get_if<Switch>(&segment.next)) return &next->on;
  return nullptr;
}

std::vector<std::pair<std::string, const std::string*>> looked_at(const Segment& segment) {
  std::vector<std::pair<std::string, const std::string*>> found;
  if (segment.exit) {
    for (const auto& [name, slot] : segment.exit->outputs) found.emplace_back("exit output " + repr(std::string_view(name)), &slot);
    found.emplace_back("confidence", &segment.exit->confidence);
  }
  const bool is_gate = std::holds_alternative<Gate>(segment.next);
  if (const std::string* on = decider(segment)) found.emplace_back(is_gate ? "gate" : "switch", on);
  return found;
}

bool SlotSet::add_all(const SlotSet& other) {
  bool changed = false;
  for (size_t place = 0; place < words_.size(); ++place) {
    const uint64_t now = words_[place] | other.words_[place];
    changed |= now != words_[place];
    words_[place] = now;
  }
  return changed;
}

bool SlotSet::keep_all(const SlotSet& other) {
  bool changed = false;
  for (size_t place = 0; place < words_.size(); ++place) {
    const uint64_t now = words_[place] & other.words_[place];
    changed |= now != words_[place];
    words_[place] = now;
  }
  return changed;
}

std::vector<uint32_t> SlotSet::slots() const {
  std::vector<uint32_t> found;
  for (size_t slot = 0; slot < words_.size() * 64; ++slot) {
    if (has(slot)) found.push_back(static_cast<uint32_t>(slot));
  }
  return found;
}

TensorNumbers::TensorNumbers(const Manifest& plan) {
  const auto number = [&](const std::string& name) { numbers_.emplace(name, static_cast<uint32_t>(numbers_.size())); };
  for (const TensorSpec& spec : plan.inputs) number(spec.name);
  for (const auto& [name, slot] : plan.slots) number(name);
  slots_ = numbers_.size();
  for (const auto& [name, constant] : plan.constants) number(name);
}

std::vector<SlotSet> live_before(const Manifest& plan, const TensorNumbers& numbers) {
  const size_t count = plan.segments.size();
  std::vector<SlotSet> used(count, SlotSet(numbers.slots()));
  std::vector<std::vector<size_t>> sources(count);
  const auto use = [&](size_t place, const std::string& name) {
    const uint32_t number = numbers.of(name);
    if (number < numbers.slots()) used[place].add(number);
  };
  for (size_t place = 0; place < count; ++place) {
    const Segment& segment = plan.segments.item(place).second;
    for (const std::string* name : targets(segment)) sources[plan.segments.place(*name)].push_back(place);
    for (const auto& [what, slot] : looked_at(segment)) {
      if (!segment.writes.has(*slot)) use(place, *slot);
    }
    for (const auto& [input, source] : segment.reads) use(place, source);
    for (const auto& [slot, source] : segment.writes) {
      if (source.slot) use(place, *source.slot);
    }
  }
  std::vector<SlotSet> live = used;
  std::deque<size_t> waiting;
  std::vector<bool> waits(count, true);
  for (size_t place = count; place-- > 0;) waiting.push_back(place);
  while (!waiting.empty()) {
    const size_t place = waiting.front();
    waiting.pop_front();
    waits[place] = false;
    const Segment& segment = plan.segments.item(place).second;
    SlotSet after(numbers.slots());
    for (const std::string* name : targets(segment)) after.add_all(live[plan.segments.place(*name)]);
    for (const auto& [slot, source] : segment.writes) after.remove(numbers.of(slot));
    if (!live[place].add_all(after)) continue;
    for (const size_t source : sources[place]) {
      if (!waits[source]) waiting.push_back(source);
      waits[source] = true;
    }
  }
  return live;
}

}  // namespace eetoolkit
