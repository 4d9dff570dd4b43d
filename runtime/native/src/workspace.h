// The tensors of one runner for one shape of the inputs: buffers, bindings, and the plan unrolled into steps.
//
// A step is a visit of one segment with every live slot pointing at a known buffer. Where the slots point decides all
// that a step needs, so a step is made once per such state and then only followed. Buffers come from a pool per dtype and
// shape; an output takes the first one that no live slot points at, which serves chains, skipped blocks and loops alike.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "program.h"
#include "watch.h"

namespace eetoolkit {

// A graph with its tensors in known places.
struct Binding {
  OrtSession* session = nullptr;
  Owned<OrtIoBinding> binding;
  std::vector<std::pair<const char*, Cell*>> loose_inputs;   // bound afresh each time
  std::vector<std::pair<const char*, Cell*>> outputs;        // all, in order, where one is loose; else none
};

using Pointers = std::vector<std::pair<uint32_t, Cell*>>;  // tensors and where they are, in order of the tensors

struct Step {
  const Node* node = nullptr;
  Binding* binding = nullptr;  // null: the segment only moves
  Pace* pace = nullptr;
  Cell* confidence = nullptr;
  Cell* on = nullptr;
  std::vector<Cell*> answers;
  std::vector<Step*> following;  // by the number that is decided for; null: not met yet
  Pointers after;                // of what matters to this segment's exit and gate, and to later segments
};

class Workspace {
 public:
  // Shapes are those of the inputs, in order.
  Workspace(Program& program, Watch& watch, std::vector<std::vector<int64_t>> shapes);

  [[nodiscard]] const std::vector<std::vector<int64_t>>& shapes() const { return shapes_; }
  // Whether inputs in order have its dtypes and shapes.
  [[nodiscard]] bool fits(const std::vector<const ee_tensor*>& inputs) const;
  // What its buffers take.
  [[nodiscard]] size_t size_bytes() const;

  // Takes the inputs over and returns the first step; null: the watch does not allow it.
  Step* begin(const std::vector<const ee_tensor*>& inputs);
  // Runs a step's graph. Throws OrtFailure.
  void run(const Step& step);
  // The step behind one that was run, and what decided for it; null: the watch does not allow it.
  Step* follow(Step& step, size_t decided);
  // What a step's gate or switch says, 0 where it has none. Throws RunError where there is no such case.
  [[nodiscard]] static size_t decided(const Step& step);

 private:
  Step* step_of(size_t place, const Pointers& pointers);
  void count_visit(const Node& node);
  void bind(Step& step, const Pointers& before);
  Binding* binding_of(const Node& node, const Pointers& before, const std::vector<Cell*>& outputs);
  void point(Step& step, const Pointers& before, const std::vector<Cell*>& outputs);
  void learn_shapes(const Node& node, const Pointers& before);
  std::vector<Cell*> places(const Node& node, const Pointers& before);
  Cell* source_of(uint32_t tensor, const Pointers& pointers);
  std::unique_ptr<Binding> made(const Node& node, const std::vector<Cell*>& inputs,
                                const std::vector<std::pair<const char*, Cell*>>& outputs);
  void execute(const Binding& binding, Pace& pace);
  void forget();

  Program& program_;
  Watch& watch_;
  std::vector<std::vector<int64_t>> shapes_;
  std::unordered_map<std::string, int64_t> symbols_;
  std::vector<Cell> inputs_;
  std::map<std::pair<DType, std::vector<int64_t>>, std::deque<Cell>> pool_;
  std::map<DType, std::deque<Cell>> loose_;
  std::map<std::pair<size_t, size_t>, std::vector<int64_t>> output_shapes_;  // by segment and output
  std::map<std::pair<size_t, std::vector<Cell*>>, std::unique_ptr<Step>> steps_;
  std::map<std::pair<size_t, std::vector<Cell*>>, std::unique_ptr<Binding>> bindings_;
  // Of the steps that were forgotten in the middle of a call, until the next one.
  std::vector<std::unique_ptr<Step>> old_steps_;
  std::vector<std::unique_ptr<Binding>> old_bindings_;
  Step* start_ = nullptr;
  std::vector<Pace> paces_;
  std::vector<int64_t> visits_;
  std::vector<size_t> bounded_;  // segments with a limit of visits
};

}  // namespace eetoolkit
