#include "workspace.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "inputs.h"

namespace eetoolkit {
namespace {

constexpr size_t kMostSteps = 4096;  // states of a plan with many gates; beyond it the steps are made anew

std::string quoted(const char* name) { return repr(std::string_view(name)); }

Cell* found_in(const Pointers& pointers, uint32_t tensor) {
  const auto at = std::lower_bound(pointers.begin(), pointers.end(), tensor,
                                   [](const auto& each, uint32_t wanted) { return each.first < wanted; });
  return at->second;
}

bool depends_on_data(const Slot& slot) {
  return std::any_of(slot.shape.begin(), slot.shape.end(), [](const Dim& dim) { return is_any(dim); });
}

Error failed(const char* segment, const OrtFailure& failure) {
  return run_error("segment ", quoted(segment), ": ", failure.text);
}

}  // namespace

Workspace::Workspace(Program& program, Watch& watch, std::vector<std::vector<int64_t>> shapes)
    : program_(program), watch_(watch), shapes_(std::move(shapes)), visits_(program.nodes().size()) {
  const auto& specs = program.plan().inputs;
  for (size_t place = 0; place < specs.size(); ++place) {
    const TensorSpec& spec = specs[place];
    inputs_.push_back(allocate(program.ort(), join("input ", repr(std::string_view(spec.name))), spec.dtype, shapes_[place]));
    for (size_t axis = 0; axis < spec.shape.size(); ++axis) {
      if (const std::string* symbol = symbol_in(spec.shape[axis])) symbols_[*symbol] = shapes_[place][axis];
    }
  }
  for (const Node& node : program.nodes()) {
    paces_.emplace_back(program.expected_ms(node.place));
    if (node.max_visits > 0) bounded_.push_back(node.place);
  }
}

bool Workspace::fits(const std::vector<const ee_tensor*>& inputs) const {
  for (size_t place = 0; place < inputs.size(); ++place) {
    const ee_tensor& tensor = *inputs[place];
    const std::vector<int64_t>& shape = shapes_[place];
    const Cell& cell = inputs_[place];
    if (tensor.dtype != static_cast<ee_dtype>(cell.dtype) || tensor.rank != shape.size() || tensor.data == nullptr ||
        (tensor.rank > 0 && tensor.shape == nullptr) || tensor.size_bytes != cell.size_bytes() || !std::equal(shape.begin(), shape.end(), tensor.shape)) {
      return false;
    }
  }
  return true;
}

size_t Workspace::size_bytes() const {
  size_t total = 0;
  const auto add_all = [&](const auto& cells) {
    for (const Cell& cell : cells) total += cell.size_bytes();
  };
  add_all(inputs_);
  for (const auto& [key, cells] : pool_) add_all(cells);
  for (const auto& [dtype, cells] : loose_) add_all(cells);
  return total;
}

Step* Workspace::begin(const std::vector<const ee_tensor*>& inputs) {
  const Manifest& plan = program_.plan();
  for (size_t place = 0; place < inputs.size(); ++place) {
    take_over(*inputs[place], plan.preprocess.find(plan.inputs[place].name), inputs_[place]);
  }
  for (const size_t place : bounded_) visits_[place] = place == program_.start() ? 1 : 0;
  old_steps_.clear();
  old_bindings_.clear();
  if (start_ == nullptr) {
    Pointers pointers;
    for (size_t place = 0; place < inputs_.size(); ++place) {
      pointers.emplace_back(static_cast<uint32_t>(place), &inputs_[place]);
    }
    start_ = step_of(program_.start(), pointers);
  }
  return start_;
}

void Workspace::run(const Step& step) { execute(*step.binding, *step.pace); }

void Workspace::execute(const Binding& bound, Pace& pace) {
  const Onnxruntime& ort = program_.ort();
  const OrtApi& api = ort.api();
  OrtIoBinding* binding = bound.binding.get();
  for (const auto& [name, cell] : bound.loose_inputs) ort.check(api.BindInput(binding, name, cell->value.get()));
  for (const auto& [name, cell] : bound.outputs) {
    if (!cell->fixed) ort.check(api.BindOutputToDevice(binding, name, ort.cpu()));
  }
  const bool watched = watch_.has_deadline() || !pace.settled();
  const Clock::time_point started = watched ? Clock::now() : Clock::time_point();
  OrtStatus* status = api.RunWithBinding(bound.session, watch_.options(), binding);
  if (watched) {
    const double took_ms = ms_between(started, Clock::now());
    if (status == nullptr) pace.ended(took_ms);
    else if (watch_.has_stopped()) pace.stopped(took_ms);
  }
  ort.check_run(status);
  if (bound.outputs.empty()) return;
  OrtValue** values = nullptr;
  size_t count = 0;
  ort.check(api.GetBoundOutputValues(binding, ort.allocator(), &values, &count));
  std::vector<Owned<OrtValue>> owned;
  for (size_t place = 0; place < count; ++place) owned.emplace_back(values[place], api.ReleaseValue);
  ort.check(api.AllocatorFree(ort.allocator(), values));
  for (size_t place = 0; place < count; ++place) {
    Cell* cell = bound.outputs[place].second;
    if (!cell->fixed) cell->hold(ort, std::move(owned[place]));
  }
}

size_t Workspace::decided(const Step& step) {
  const Node& node = *step.node;
  if (step.on == nullptr) return 0;
  const void* data = step.on->data;
  if (node.on_dtype == DType::boolean) return *static_cast<const uint8_t*>(data) != 0 ? 1 : 0;
  const int64_t value = node.on_dtype == DType::int64 ? *static_cast<const int64_t*>(data) : *static_cast<const int32_t*>(data);
  const auto cases = static_cast<int64_t>(node.targets.size());
  if (value < 0 || value >= cases) {
    throw run_error("segment ", quoted(node.name), ": the switch ", repr(std::string_view(node.on_name)), " is ", value,
                    ", expected 0 to ", cases - 1);
  }
  return static_cast<size_t>(value);
}

Step* Workspace::follow(Step& step, size_t decided) {
  Step* following = step.following[decided];
  if (following == nullptr) {
    following = step_of(step.node->targets[decided], step.after);
    if (following == nullptr) return nullptr;
    step.following[decided] = following;
  }
  if (following->node->max_visits > 0) count_visit(*following->node);
  return following;
}

void Workspace::count_visit(const Node& node) {
  if (++visits_[node.place] <= node.max_visits) return;
  throw run_error("segment ", quoted(node.name), ": more than max_visits ", node.max_visits,
                  " visits; is the loop endless?");
}

// The rest is off the hot path: it runs when a state is met for the first time.

Step* Workspace::step_of(size_t place, const Pointers& pointers) {
  Pointers before;
  std::vector<Cell*> cells;
  for (const uint32_t tensor : program_.live(place)) {
    before.emplace_back(tensor, found_in(pointers, tensor));
    cells.push_back(before.back().second);
  }
  const auto key = std::pair(place, std::move(cells));
  const auto known = steps_.find(key);
  if (known != steps_.end()) return known->second.get();
  if (steps_.size() >= kMostSteps) forget();
  const Node& node = program_.nodes()[place];
  if (node.has_model && !watch_.allows(paces_[place])) return nullptr;  // before its session is opened
  auto step = std::make_unique<Step>();
  step->node = &node;
  step->following.resize(node.targets.size());
  if (node.has_model) {
    try {
      bind(*step, before);
    } catch (const OrtFailure& failure) {
      if (watch_.has_stopped()) throw;
      throw failed(node.name, failure);
    }
  } else {
    point(*step, before, {});
  }
  return steps_.emplace(key, std::move(step)).first->second.get();
}

void Workspace::forget() {
  for (auto& [key, step] : steps_) old_steps_.push_back(std::move(step));
  for (auto& [key, binding] : bindings_) old_bindings_.push_back(std::move(binding));
  steps_.clear();
  bindings_.clear();
  start_ = nullptr;
}

void Workspace::bind(Step& step, const Pointers& before) {
  const Node& node = *step.node;
  step.pace = &paces_[node.place];
  learn_shapes(node, before);
  const std::vector<Cell*> outputs = places(node, before);
  point(step, before, outputs);
  step.binding = binding_of(node, before, outputs);
}

Cell* Workspace::source_of(uint32_t tensor, const Pointers& pointers) {
  return program_.is_constant(tensor) ? program_.constant(tensor) : found_in(pointers, tensor);
}

Binding* Workspace::binding_of(const Node& node, const Pointers& before, const std::vector<Cell*>& outputs) {
  std::vector<Cell*> inputs;
  for (const Node::Read& read : node.reads) inputs.push_back(source_of(read.tensor, before));
  std::vector<Cell*> cells = inputs;
  cells.insert(cells.end(), outputs.begin(), outputs.end());
  std::unique_ptr<Binding>& binding = bindings_[{node.place, cells}];
  if (binding == nullptr) {
    std::vector<std::pair<const char*, Cell*>> named;
    for (size_t place = 0; place < outputs.size(); ++place) named.emplace_back(node.outputs[place].name, outputs[place]);
    binding = made(node, inputs, named);
  }
  return binding.get();
}

std::unique_ptr<Binding> Workspace::made(const Node& node, const std::vector<Cell*>& inputs,
                                         const std::vector<std::pair<const char*, Cell*>>& outputs) {
  const Onnxruntime& ort = program_.ort();
  const OrtApi& api = ort.api();
  auto binding = std::make_unique<Binding>();
  binding->session = program_.sessions().at(node.place);
  binding->binding = ort.make<OrtIoBinding>(
      api.ReleaseIoBinding, [&](OrtIoBinding** made) { return api.CreateIoBinding(binding->session, made); });
  OrtIoBinding* bound = binding->binding.get();
  for (size_t place = 0; place < inputs.size(); ++place) {
    const char* name = node.reads[place].input;
    if (inputs[place]->fixed) ort.check(api.BindInput(bound, name, inputs[place]->value.get()));
    else binding->loose_inputs.emplace_back(name, inputs[place]);
  }
  bool has_loose = false;
  for (const auto& [name, cell] : outputs) {
    has_loose |= !cell->fixed;
    ort.check(cell->fixed ? api.BindOutput(bound, name, cell->value.get())
                          : api.BindOutputToDevice(bound, name, ort.cpu()));
  }
  if (has_loose) binding->outputs = outputs;
  return binding;
}

void Workspace::point(Step& step, const Pointers& before, const std::vector<Cell*>& outputs) {
  const Node& node = *step.node;
  std::map<uint32_t, Cell*> after(before.begin(), before.end());
  for (const Node::Write& write : node.writes) {
    after[write.slot] = write.output != kNoTensor ? outputs[write.output] : source_of(write.tensor, before);
  }
  std::set<uint32_t> wanted(node.answers.begin(), node.answers.end());
  for (const size_t target : node.targets) {
    for (const uint32_t tensor : program_.live(target)) wanted.insert(tensor);
  }
  for (const uint32_t tensor : wanted) step.after.emplace_back(tensor, after.at(tensor));
  for (const uint32_t tensor : node.answers) step.answers.push_back(after.at(tensor));
  const auto one = [&](const char* what, uint32_t tensor, const std::string& slot) {
    Cell* cell = after.at(tensor);
    if (cell->count == 1) return cell;
    throw run_error("segment ", quoted(node.name), ": the ", what, ' ', repr(std::string_view(slot)), " has ", cell->count,
                    " values, expected one");
  };
  if (node.exit != kNoExit) step.confidence = one("confidence", node.confidence, node.said->confidence);
  if (node.on != kNoTensor) {
    step.on = one("gate or switch", node.on, node.on_name);
  }
}

void Workspace::learn_shapes(const Node& node, const Pointers& before) {
  std::deque<Cell> cells;
  std::vector<std::pair<const char*, Cell*>> unknown;
  std::vector<size_t> outputs;
  for (size_t output = 0; output < node.outputs.size(); ++output) {
    const Slot& slot = *node.outputs[output].slot;
    const auto key = std::pair(node.place, output);
    if (depends_on_data(slot) || output_shapes_.count(key) > 0) continue;
    std::vector<int64_t> shape;
    for (const Dim& dim : slot.shape) {
      const std::string* symbol = symbol_in(dim);
      const auto known = symbol == nullptr ? symbols_.end() : symbols_.find(*symbol);
      if (symbol == nullptr) shape.push_back(*size_in(dim));
      else if (known != symbols_.end()) shape.push_back(known->second);
    }
    if (shape.size() == slot.shape.size()) {
      output_shapes_[key] = shape;
    } else {
      cells.push_back(loose(slot.dtype));
      unknown.emplace_back(node.outputs[output].name, &cells.back());
      outputs.push_back(output);
    }
  }
  if (unknown.empty()) return;
  std::vector<Cell*> inputs;
  for (const Node::Read& read : node.reads) inputs.push_back(source_of(read.tensor, before));
  execute(*made(node, inputs, unknown), paces_[node.place]);
  for (size_t place = 0; place < outputs.size(); ++place) {
    output_shapes_[{node.place, outputs[place]}] = unknown[place].second->shape;
  }
}

std::vector<Cell*> Workspace::places(const Node& node, const Pointers& before) {
  std::set<Cell*> taken;
  for (const auto& [tensor, cell] : before) taken.insert(cell);
  std::vector<Cell*> found;
  for (size_t output = 0; output < node.outputs.size(); ++output) {
    const Slot& slot = *node.outputs[output].slot;
    const bool fixed = !depends_on_data(slot);
    const std::vector<int64_t> shape = fixed ? output_shapes_.at({node.place, output}) : std::vector<int64_t>();
    std::deque<Cell>& cells = fixed ? pool_[{slot.dtype, shape}] : loose_[slot.dtype];
    auto free = std::find_if(cells.begin(), cells.end(), [&](Cell& cell) { return taken.count(&cell) == 0; });
    if (free == cells.end()) {
      const std::string what = join("segment ", quoted(node.name), ": its output ", quoted(node.outputs[output].name));
      cells.push_back(fixed ? allocate(program_.ort(), what, slot.dtype, shape) : loose(slot.dtype));
      free = std::prev(cells.end());
    }
    found.push_back(&*free);
    taken.insert(&*free);
  }
  return found;
}

}  // namespace eetoolkit
