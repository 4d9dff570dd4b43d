#include "program.h"

namespace eetoolkit {

Program::Program(Bundle bundle, Onnxruntime& ort, SessionSettings settings, bool most_confident)
    : bundle_(std::move(bundle)),
      ort_(ort),
      sessions_(bundle_, ort, std::move(settings)),
      exits_(bundle_.plan.exits()),
      decision_(exits_, most_confident),
      numbers_(bundle_.plan),
      live_(live_before(bundle_.plan, numbers_)),
      start_(bundle_.plan.segments.place(bundle_.plan.start)) {
  for (size_t place = 0; place < plan().segments.size(); ++place) nodes_.push_back(node(place));
  for (const auto& [name, constant] : plan().constants) {
    constants_.push_back(filled(ort, join("constant ", repr(std::string_view(name))), constant));
  }
}

double Program::expected_ms(size_t place) const {
  const double* found = plan().profile ? plan().profile->expected_ms.find(plan().segments.item(place).first) : nullptr;
  return found == nullptr ? 0 : *found;
}

Node Program::node(size_t place) const {
  const auto& [name, segment] = plan().segments.item(place);
  Node node;
  node.name = name.c_str();
  node.place = place;
  node.has_model = segment.model.has_value();
  node.stops = segment.stops();
  node.max_visits = segment.max_visits.value_or(0);
  for (const auto& [input, source] : segment.reads) node.reads.push_back({input.c_str(), numbers_.of(source)});
  Ordered<uint32_t> outputs;
  for (const auto& [name_of_slot, source] : segment.writes) {
    Node::Write write{numbers_.of(name_of_slot), kNoTensor, kNoTensor};
    if (source.output) {
      const Slot* slot = &plan().slots.at(name_of_slot);
      if (!outputs.has(*source.output)) {
        outputs.set(*source.output, static_cast<uint32_t>(node.outputs.size()));
        node.outputs.push_back({source.output->c_str(), slot});
      }
      write.output = outputs.at(*source.output);
      for (const Dim& dim : slot->shape) {
        if (is_any(dim)) node.outputs[write.output].slot = slot;
      }
    } else {
      write.tensor = numbers_.of(source.slot ? *source.slot : *source.constant);
    }
    node.writes.push_back(write);
  }
  if (segment.exit) {
    node.exit = static_cast<int>(exits_.place(segment.exit->name));
    node.said = &*segment.exit;
    node.confidence = numbers_.of(segment.exit->confidence);
    for (const auto& [output, slot] : segment.exit->outputs) node.answers.push_back(numbers_.of(slot));
  }
  if (const std::string* on = decider(segment)) {
    node.on = numbers_.of(*on);
    node.on_name = *on;
    const auto* is_gate = std::get_if<Gate>(&segment.next);
    const Slot* slot = plan().slots.find(*on);
    node.on_dtype = is_gate != nullptr ? DType::boolean : DType::int64;
    if (slot != nullptr) node.on_dtype = slot->dtype;
    for (const TensorSpec& spec : plan().inputs) {
      if (spec.name == *on) node.on_dtype = spec.dtype;
    }
  }
  for (const std::string* target : targets(segment)) node.targets.push_back(plan().segments.place(*target));
  return node;
}

}  // namespace eetoolkit
