// Follows a bundle's plan and stops at the first confident exit. For one thread at a time.
#pragma once

#include <memory>
#include <vector>

#include "program.h"
#include "watch.h"
#include "workspace.h"

namespace eetoolkit {

// What a callback of the C interface is told with.
struct Told {
  ee_on_answer call;
  void* user;
};

class Runner {
 public:
  // Decides as the program does, or as told.
  explicit Runner(const std::shared_ptr<Program>& program) : Runner(program, program->decision()) {}
  Runner(std::shared_ptr<Program> program, Decision decision);

  // See eetoolkit.h. Answers are valid until the next call.
  const ee_answer& run(const ee_call& call);
  const ee_answer& refine(const ee_call& call, Told told);
  void run_all_exits(const ee_call& call, Told told);
  void trace(ee_on_segment told, void* user);
  void interrupt() { watch_.interrupt(); }
  void clear() { watch_.clear(); }

 private:
  // An answer whose tensors were copied, since later segments may write their buffers.
  struct Kept {
    const Step* step = nullptr;  // null: none
    float confidence = 0;
    size_t path_count = 0;
    size_t gate_count = 0;
    std::vector<std::vector<unsigned char>> data;
    std::vector<std::vector<int64_t>> shapes;
  };
  enum class Ended { by_exit, at_the_end, too_early };

  // Runs the plan, calling `met` with every exit; true stops it.
  template <class Met>
  Ended visit(const ee_call& call, Met met);
  template <class Met>
  Ended visit_steps(Met met);
  Workspace& admit(const ee_call& call);
  void run_step(const Step& step);
  // Leaves a step's answer, or the one that was kept, in `answer_`.
  const ee_answer& say(const Step& step);
  const ee_answer& say_kept(StoppedBy stopped_by);
  void finish(const Step& step, float confidence, StoppedBy stopped_by);
  void keep(const Step& step);
  [[nodiscard]] bool is_better(const Step& step) const;
  [[nodiscard]] Error too_late() const;

  std::shared_ptr<Program> program_;
  Watch watch_;
  std::vector<std::unique_ptr<Workspace>> workspaces_;  // the one that was met last comes last
  Workspace* workspace_ = nullptr;
  Decision own_;       // of calls that say nothing else
  Decision decision_;  // of this call
  std::vector<const ee_tensor*> ordered_;
  std::vector<const char*> path_;
  std::vector<ee_decision> gates_;
  std::vector<ee_tensor> outputs_;
  Kept best_;
  ee_answer answer_{};
  ee_on_segment traced_ = nullptr;
  void* tracer_ = nullptr;
};

}  // namespace eetoolkit
