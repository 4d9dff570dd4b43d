// A bundle made ready to run: what all its runners share, worked out once.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.h"
#include "cell.h"
#include "decision.h"
#include "flow.h"
#include "sessions.h"

namespace eetoolkit {

constexpr uint32_t kNoTensor = UINT32_MAX;

// A segment as a run follows it: names are numbers here.
struct Node {
  // A graph's input and the tensor that it reads.
  struct Read {
    const char* input;
    uint32_t tensor;
  };
  // A slot, and the graph's output, by its place, or the tensor that it points at afterwards.
  struct Write {
    uint32_t slot;
    uint32_t output;
    uint32_t tensor;
  };
  struct Output {
    const char* name;
    const Slot* slot;  // one of those that it feeds, one whose shape depends on data if there is one
  };

  const char* name = nullptr;
  size_t place = 0;  // in the plan
  bool has_model = false;
  bool stops = false;
  int64_t max_visits = 0;  // 0: no limit
  std::vector<Read> reads;
  std::vector<Write> writes;
  std::vector<Output> outputs;  // that some slot takes
  int exit = kNoExit;           // its place among the plan's exits
  const Exit* said = nullptr;   // what the plan says of the exit
  uint32_t confidence = kNoTensor;
  std::vector<uint32_t> answers;  // the tensors of the exit's outputs, in order
  uint32_t on = kNoTensor;        // the slot that decides
  std::string on_name;
  DType on_dtype = DType::boolean;
  std::vector<size_t> targets;  // by the number that it decides for
};

class Program {
 public:
  Program(Bundle bundle, Onnxruntime& ort, SessionSettings settings, bool most_confident);

  [[nodiscard]] const Manifest& plan() const { return bundle_.plan; }
  [[nodiscard]] const Bundle& bundle() const { return bundle_; }
  [[nodiscard]] const Onnxruntime& ort() const { return ort_; }
  [[nodiscard]] Sessions& sessions() { return sessions_; }
  [[nodiscard]] const Ordered<const Exit*>& exits() const { return exits_; }
  [[nodiscard]] const Decision& decision() const { return decision_; }
  [[nodiscard]] const std::vector<Node>& nodes() const { return nodes_; }
  [[nodiscard]] size_t start() const { return start_; }
  // The tensors that matter before a segment, in order.
  [[nodiscard]] std::vector<uint32_t> live(size_t place) const { return live_[place].slots(); }
  [[nodiscard]] bool is_constant(uint32_t tensor) const { return tensor >= numbers_.slots(); }
  [[nodiscard]] Cell* constant(uint32_t tensor) { return &constants_[tensor - numbers_.slots()]; }
  // What the bundle's profile says that a segment takes; 0 where it says nothing.
  [[nodiscard]] double expected_ms(size_t place) const;

 private:
  [[nodiscard]] Node node(size_t place) const;

  Bundle bundle_;
  Onnxruntime& ort_;
  Sessions sessions_;
  Ordered<const Exit*> exits_;
  Decision decision_;
  TensorNumbers numbers_;
  std::vector<SlotSet> live_;
  std::vector<Node> nodes_;
  std::vector<Cell> constants_;
  size_t start_;
};

}  // namespace eetoolkit
