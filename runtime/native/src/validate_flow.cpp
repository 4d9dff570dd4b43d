// That a plan's files are listed, that its segments lead to a stop, and that no slot is read before it is written.
#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <set>

#include "error.h"
#include "flow.h"
#include "validate.h"

namespace eetoolkit {
namespace {

constexpr size_t kLongestNameBytes = 255;

using Edges = std::vector<std::vector<size_t>>;

bool is_plain(const std::string& name) {
  constexpr std::array<std::string_view, 5> kOwn{"", ".", "..", kManifest, kJournal};
  return std::find(kOwn.begin(), kOwn.end(), name) == kOwn.end() &&
         name.find_first_of(std::string_view("/\\:\0", 4)) == std::string::npos && name == stripped(name);
}

Edges edges_of(const Manifest& plan) {
  Edges edges(plan.segments.size());
  for (size_t place = 0; place < edges.size(); ++place) {
    for (const std::string* name : targets(plan.segments.item(place).second)) {
      edges[place].push_back(plan.segments.place(*name));
    }
  }
  return edges;
}

Edges turned(const Edges& edges) {
  Edges backwards(edges.size());
  for (size_t place = 0; place < edges.size(); ++place) {
    for (const size_t other : edges[place]) backwards[other].push_back(place);
  }
  return backwards;
}

std::vector<bool> closure(std::vector<size_t> waiting, const Edges& edges) {
  std::vector<bool> found(edges.size());
  for (const size_t place : waiting) found[place] = true;
  while (!waiting.empty()) {
    const size_t place = waiting.back();
    waiting.pop_back();
    for (const size_t other : edges[place]) {
      if (!found[other]) waiting.push_back(other);
      found[other] = true;
    }
  }
  return found;
}

// The names of the segments of which `in` says `wanted`, in order.
std::string segments_where(const Manifest& plan, const std::vector<bool>& in, bool wanted) {
  std::set<std::string> names;
  for (size_t place = 0; place < in.size(); ++place) {
    if (in[place] == wanted) names.insert(plan.segments.item(place).first);
  }
  return names.empty() ? "" : repr(std::vector<std::string>(names.begin(), names.end()));
}

// Takes off the nodes that no other node which is left leads to, in turn.
void take_sources_off(const Edges& edges, std::vector<bool>& left) {
  std::vector<size_t> arrows(edges.size());
  for (size_t place = 0; place < edges.size(); ++place) {
    for (const size_t other : edges[place]) arrows[other] += left[place] ? 1 : 0;
  }
  std::vector<size_t> free;
  for (size_t place = 0; place < edges.size(); ++place) {
    if (left[place] && arrows[place] == 0) free.push_back(place);
  }
  while (!free.empty()) {
    const size_t place = free.back();
    free.pop_back();
    left[place] = false;
    for (const size_t other : edges[place]) {
      if (left[other] && --arrows[other] == 0) free.push_back(other);
    }
  }
}

void check_cycles(const Manifest& plan, const Edges& edges) {
  std::vector<bool> left;
  for (const auto& [name, segment] : plan.segments) left.push_back(!segment.model || !segment.max_visits);
  take_sources_off(edges, left);
  take_sources_off(turned(edges), left);
  const std::string names = segments_where(plan, left, true);
  if (!names.empty()) {
    throw manifest_error("segments ", names, " lie on a cycle without a bound: give one with a model `max_visits`");
  }
}

void check_ends(const std::string& name, const Segment& segment) {
  const std::string what = join("segment ", quoted(name), ": ");
  if (segment.stops()) {
    if (!segment.exit) throw manifest_error(what, "stops without an exit");
    if (!segment.exit->ends()) {
      throw manifest_error(what, "exit ", quoted(segment.exit->name), " ends the plan: \"threshold\" is ",
                           spell(segment.exit->threshold), ", expected \"always\"");
    }
  } else if (segment.exit && segment.exit->ends()) {
    throw manifest_error(what, "exit ", quoted(segment.exit->name), " has the threshold \"always\" but does not stop");
  }
}

void check_profile(const Manifest& plan) {
  if (!plan.profile) return;
  for (const auto& [name, latency_ms] : plan.profile->expected_ms) {
    if (!plan.segments.has(name)) {
      throw manifest_error("manifest.json: profile names ", quoted(name), ", which is not a segment");
    }
    if (!std::isfinite(latency_ms)) {
      throw manifest_error("manifest.json: profile says ", repr(latency_ms), " ms for ", quoted(name),
                           ", which is not finite");
    }
  }
}

void check_quantization(const Manifest& plan) {
  if (!plan.quantization) return;
  const auto& [methods, activations] = *plan.quantization;
  bool has_static = false;
  for (const auto& [name, method] : methods) {
    if (!plan.segments.has(name) || !plan.segments.at(name).model) {
      throw manifest_error("manifest.json: quantization names ", quoted(name), ", which is not a segment with a model");
    }
    has_static |= method == "static";
  }
  if (has_static != activations.has_value()) {
    throw manifest_error("manifest.json: quantization: activations ", activations ? quoted(*activations) : "None",
                         ", those of static segments alone");
  }
}

// What the device's half of a bundle says of its handover.
void check_split(const Manifest& plan) {
  if (!plan.split) return;
  const Split& split = *plan.split;
  const Ordered<const Exit*> exits = plan.exits();
  const Exit* const* exit = exits.find(split.exit);
  if (exit == nullptr || !(*exit)->ends()) {
    throw manifest_error("manifest.json: split hands over at ", quoted(split.exit),
                         ", which is not an exit that ends the plan");
  }
  if (!exits.has(split.local) || split.local == split.exit) {
    throw manifest_error("manifest.json: split stands in for ", quoted(split.local), ", which is not another exit");
  }
  const char* const empty = split.answers.empty() ? "answers" : split.sends.empty() ? "sends" : split.exits.empty() ? "exits" : nullptr;
  if (empty != nullptr) throw manifest_error("manifest.json: split: ", quoted(empty), " is empty");
  std::vector<std::string> taken = split.answers;
  for (const auto& [input, output] : split.sends) taken.push_back(output);
  for (const std::string& output : taken) {
    if (!(*exit)->outputs.has(output)) {
      throw manifest_error("manifest.json: split takes ", quoted(output), ", which is not an output of ",
                           quoted(split.exit));
    }
  }
  std::set<std::string> names;
  for (const ServerExit& each : split.exits) names.insert(each.name);
  if (names.size() != split.exits.size()) throw manifest_error("manifest.json: split: two exits of one name");
}

// An exit that stands in several segments is one exit.
void check_twins(const Manifest& plan) {
  const auto kind_of = [](const Exit& exit) {
    std::set<std::string> outputs;
    for (const auto& [output, slot] : exit.outputs) outputs.insert(output);
    return std::pair(spell(exit.threshold), outputs);
  };
  const Ordered<const Exit*> exits = plan.exits();
  for (const auto& [name, segment] : plan.segments) {
    if (segment.exit && kind_of(*segment.exit) != kind_of(*exits.at(segment.exit->name))) {
      throw manifest_error("segment ", quoted(name), ": exit ", quoted(segment.exit->name),
                           " stands elsewhere with another threshold or outputs");
    }
  }
}

}  // namespace

void check_files(const Manifest& plan) {
  check_twins(plan);
  Ordered<std::string> folded;
  folded.set(kManifest, kManifest);
  for (const auto& [name, file] : plan.files) {
    if (!is_plain(name)) {
      throw manifest_error("manifest.json: ", quoted(name), " is not a plain file name inside the bundle");
    }
    if (name.size() > kLongestNameBytes) {
      throw manifest_error("manifest.json: the file name ", repr(first_characters(name, 20)), "… has over ",
                           kLongestNameBytes, " bytes");
    }
    const std::string key = case_folded(name);
    if (const std::string* other = folded.find(key)) {
      throw manifest_error("manifest.json: ", quoted(*other), " and ", quoted(name),
                           " are one file on a case-insensitive disk");
    }
    folded.set(key, name);
  }
  for (const auto& [name, segment] : plan.segments) {
    std::vector<std::string> used = segment.weights;
    if (segment.model) used.insert(used.begin(), *segment.model);
    for (const std::string& file : used) {
      if (!plan.files.has(file)) {
        throw manifest_error("segment ", quoted(name), ": the file ", quoted(file), " is not listed under files");
      }
    }
  }
  const auto check_own = [&](const char* what, const std::string& file) {
    if (!plan.files.has(file)) {
      throw manifest_error("manifest.json: the ", what, " file ", quoted(file), " is not listed under files");
    }
  };
  if (plan.golden) check_own("golden", plan.golden->file);
  if (plan.profile && plan.profile->file) check_own("profile", *plan.profile->file);
  if (plan.golden && !std::isfinite(plan.golden->tolerance)) {
    throw manifest_error("manifest.json: the golden tolerance is ", repr(plan.golden->tolerance), ", not finite");
  }
}

void check_flow(const Manifest& plan) {
  if (!plan.segments.has(plan.start)) {
    throw manifest_error("manifest.json: start is ", quoted(plan.start), ", which is not a segment");
  }
  for (const auto& [name, segment] : plan.segments) {
    const auto* next = std::get_if<Switch>(&segment.next);
    if (next != nullptr && next->cases.empty()) throw manifest_error("segment ", quoted(name), ": a switch without cases");
    std::vector<const std::string*> following = targets(segment);
    if (std::holds_alternative<Gate>(segment.next)) std::swap(following[0], following[1]);
    for (const std::string* other : following) {
      if (!plan.segments.has(*other)) {
        throw manifest_error("segment ", quoted(name), ": goes to ", quoted(*other), ", which is not a segment");
      }
    }
    check_ends(name, segment);
  }
  const Edges edges = edges_of(plan);
  const std::string unreachable = segments_where(plan, closure({plan.segments.place(plan.start)}, edges), false);
  if (!unreachable.empty()) {
    throw manifest_error("segments ", unreachable, " cannot be reached from ", quoted(plan.start));
  }
  std::vector<size_t> stops;
  for (size_t place = 0; place < edges.size(); ++place) {
    if (plan.segments.item(place).second.stops()) stops.push_back(place);
  }
  const std::string endless = segments_where(plan, closure(stops, turned(edges)), false);
  if (!endless.empty()) {
    throw manifest_error("segments ", endless, " cannot reach a stop: the plan would loop for ever");
  }
  check_profile(plan);
  check_quantization(plan);
  check_split(plan);
  check_cycles(plan, edges);
}

void check_assignment(const Manifest& plan) {
  const TensorNumbers numbers(plan);
  const Edges edges = edges_of(plan);
  std::vector<SlotSet> before(edges.size(), SlotSet(numbers.slots(), true));
  std::vector<SlotSet> writes(edges.size(), SlotSet(numbers.slots()));
  std::deque<size_t> waiting;
  for (size_t place = 0; place < edges.size(); ++place) {
    waiting.push_back(place);
    for (const auto& [slot, source] : plan.segments.item(place).second.writes) writes[place].add(numbers.of(slot));
  }
  SlotSet& at_start = before[plan.segments.place(plan.start)];
  at_start = SlotSet(numbers.slots());
  for (const TensorSpec& spec : plan.inputs) at_start.add(numbers.of(spec.name));
  while (!waiting.empty()) {
    const size_t place = waiting.front();
    waiting.pop_front();
    SlotSet after = before[place];
    after.add_all(writes[place]);
    for (const size_t following : edges[place]) {
      if (before[following].keep_all(after)) waiting.push_back(following);
    }
  }
  for (size_t place = 0; place < edges.size(); ++place) {
    const auto& [name, segment] = plan.segments.item(place);
    const std::string what = join("segment ", quoted(name), ": ");
    const auto is_known = [&](const std::string& slot) { return before[place].has(numbers.of(slot)); };
    for (const auto& [input, source] : segment.reads) {
      if (!plan.constants.has(source) && !is_known(source)) {
        throw manifest_error(what, "reads ", quoted(source), ", which some path to it leaves unwritten");
      }
    }
    for (const auto& [slot, source] : segment.writes) {
      if (source.slot && !is_known(*source.slot)) {
        throw manifest_error(what, "moves ", quoted(*source.slot), ", which some path to it leaves unwritten");
      }
    }
    for (const auto& [use, slot] : looked_at(segment)) {
      if (!is_known(*slot) && !segment.writes.has(*slot)) {
        throw manifest_error(what, use, ' ', quoted(*slot), " is left unwritten by some path");
      }
    }
  }
}

}  // namespace eetoolkit
