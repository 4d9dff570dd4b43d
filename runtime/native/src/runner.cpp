#include "runner.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "inputs.h"
#include "scores.h"

namespace eetoolkit {
namespace {

constexpr size_t kShapesKept = 128;
constexpr size_t kShapesKeptBytes = size_t{64} << 20;

float confidence_of(const Step& step) { return *static_cast<const float*>(step.confidence->data); }

// Orders answers by confidence; NaN ranks lowest.
float rank(float confidence) {
  return std::isnan(confidence) ? -std::numeric_limits<float>::infinity() : confidence;
}

StoppedBy stopped_at(const Step& step) { return step.node->stops ? StoppedBy::end : StoppedBy::exit; }

// Ends the watch over a call, however that ends.
class Watched {
 public:
  Watched(Watch& watch, double deadline_ms) : watch_(watch) { watch.begin(deadline_ms); }
  ~Watched() { watch_.finish(); }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

 private:
  Watch& watch_;
};

}  // namespace

Runner::Runner(std::shared_ptr<Program> program, Decision decision)
    : program_(std::move(program)), watch_(program_->ort()), own_(std::move(decision)) {}

void Runner::trace(ee_on_segment told, void* user) {
  traced_ = told;
  tracer_ = user;
}

const ee_answer& Runner::run(const ee_call& call) {
  const bool keeps = call.deadline_ms > 0 || call.interruptible != 0 ||
                     (own_.most_confident() && call.exit_at == nullptr);
  const Step* last = nullptr;
  const Ended ended = visit(call, [&](const Step& step) {
    last = &step;
    if (decision_.fires(step.node->exit, confidence_of(step))) return true;
    if (keeps && is_better(step)) keep(step);
    return false;
  });
  if (ended == Ended::by_exit) return say(*last);
  if (ended == Ended::too_early && best_.step == nullptr) throw too_late();
  if (best_.step == nullptr) return say(*last);
  const ee_answer& answer = say_kept(ended == Ended::too_early ? watch_.stopped_by() : StoppedBy::end);
  answer_.path_count = path_.size();
  answer_.gate_count = gates_.size();
  return answer;
}

const ee_answer& Runner::refine(const ee_call& call, Told told) {
  if (call.exit_at != nullptr) throw input_error("refine answers at every exit, so it takes no exit_at");
  StoppedBy stopped_by = StoppedBy::exit;
  const Ended ended = visit(call, [&](const Step& step) {
    if (!is_better(step)) return false;
    keep(step);
    stopped_by = stopped_at(step);
    return told.call != nullptr && told.call(told.user, &say(step)) != 0;
  });
  if (ended == Ended::too_early && best_.step == nullptr) throw too_late();
  return say_kept(stopped_by);
}

void Runner::run_all_exits(const ee_call& call, Told told) {
  const Ended ended = visit(call, [&](const Step& step) {
    return told.call != nullptr && told.call(told.user, &say(step)) != 0;
  });
  if (ended == Ended::too_early) throw too_late();
}

template <class Met>
Runner::Ended Runner::visit(const ee_call& call, Met met) {
  if (std::isnan(call.deadline_ms) || call.deadline_ms < 0) {
    throw input_error("deadline_ms is ", repr(call.deadline_ms), ", expected milliseconds, more than 0; 0: none");
  }
  path_.clear();
  gates_.clear();
  best_.step = nullptr;
  const Watched watched(watch_, call.deadline_ms);
  decision_ = own_;
  if (call.thresholds == nullptr && call.threshold_count > 0) throw input_error("thresholds is NULL");
  for (size_t place = 0; place < call.threshold_count; ++place) {
    decision_.set_threshold(program_->plan(), program_->exits(), call.thresholds[place]);
  }
  if (call.exit_at != nullptr) decision_.exit_at(program_->plan(), program_->exits(), call.exit_at);
  workspace_ = &admit(call);
  try {
    return visit_steps(met);
  } catch (const OrtFailure& failure) {
    if (watch_.has_stopped()) return Ended::too_early;
    throw run_error(failure.text);
  }
}

template <class Met>
Runner::Ended Runner::visit_steps(Met met) {
  Step* step = workspace_->begin(ordered_);
  while (step != nullptr) {
    const Node& node = *step->node;
    if (node.has_model) {
      if (!watch_.allows(*step->pace)) return Ended::too_early;
      run_step(*step);
      path_.push_back(node.name);
    }
    if (node.exit != kNoExit && met(*step)) return Ended::by_exit;
    if (node.stops) return Ended::at_the_end;
    const size_t decided = Workspace::decided(*step);
    if (step->on != nullptr) gates_.push_back({node.name, static_cast<int64_t>(decided)});
    step = workspace_->follow(*step, decided);
  }
  return Ended::too_early;
}

void Runner::run_step(const Step& step) {
  const Clock::time_point started = traced_ != nullptr ? Clock::now() : Clock::time_point();
  try {
    workspace_->run(step);
  } catch (const OrtFailure& failure) {
    if (watch_.has_stopped()) throw;
    throw run_error("segment ", repr(std::string_view(step.node->name)), ": ", failure.text);
  }
  if (traced_ != nullptr) traced_(tracer_, step.node->name, ms_between(started, Clock::now()));
}

Workspace& Runner::admit(const ee_call& call) {
  const Manifest& plan = program_->plan();
  put_in_order(plan, call, ordered_);
  if (workspace_ != nullptr && workspace_->fits(ordered_)) return *workspace_;
  check_inputs(plan, ordered_);
  std::vector<std::vector<int64_t>> shapes;
  for (const ee_tensor* tensor : ordered_) shapes.emplace_back(tensor->shape, tensor->shape + tensor->rank);
  const auto found = std::find_if(workspaces_.begin(), workspaces_.end(),
                                  [&](const auto& each) { return each->shapes() == shapes; });
  if (found != workspaces_.end()) {
    std::rotate(found, found + 1, workspaces_.end());
    return *workspaces_.back();
  }
  auto made = std::make_unique<Workspace>(*program_, watch_, std::move(shapes));
  size_t total = 0;
  for (const auto& each : workspaces_) total += each->size_bytes();
  while (!workspaces_.empty() && (workspaces_.size() >= kShapesKept || total >= kShapesKeptBytes)) {
    total -= workspaces_.front()->size_bytes();
    workspaces_.erase(workspaces_.begin());
  }
  workspaces_.push_back(std::move(made));
  return *workspaces_.back();
}

bool Runner::is_better(const Step& step) const {
  if (!decision_.may_stand_in(step.node->exit)) return false;
  return !decision_.most_confident() || best_.step == nullptr || rank(confidence_of(step)) >= rank(best_.confidence);
}

void Runner::keep(const Step& step) {
  best_.step = &step;
  best_.confidence = confidence_of(step);
  best_.path_count = path_.size();
  best_.gate_count = gates_.size();
  const size_t count = step.answers.size();
  if (best_.data.size() < count) {
    best_.data.resize(count);
    best_.shapes.resize(count);
  }
  for (size_t place = 0; place < count; ++place) {
    const Cell& cell = *step.answers[place];
    const auto* bytes = static_cast<const unsigned char*>(cell.data);
    best_.data[place].assign(bytes, bytes + cell.size_bytes());
    best_.shapes[place].assign(cell.shape.begin(), cell.shape.end());
  }
}

const ee_answer& Runner::say(const Step& step) {
  outputs_.clear();
  for (size_t place = 0; place < step.answers.size(); ++place) {
    const Cell& cell = *step.answers[place];
    const char* name = step.node->said->outputs.item(place).first.c_str();
    outputs_.push_back({name, cell.data, cell.shape.data(), cell.shape.size(), cell.size_bytes(),
                        static_cast<ee_dtype>(cell.dtype)});
  }
  answer_.path_count = path_.size();
  answer_.gate_count = gates_.size();
  finish(step, confidence_of(step), stopped_at(step));
  return answer_;
}

const ee_answer& Runner::say_kept(StoppedBy stopped_by) {
  const Step& step = *best_.step;
  outputs_.clear();
  for (size_t place = 0; place < step.answers.size(); ++place) {
    const char* name = step.node->said->outputs.item(place).first.c_str();
    const std::vector<int64_t>& shape = best_.shapes[place];
    const std::vector<unsigned char>& data = best_.data[place];
    outputs_.push_back({name, data.data(), shape.data(), shape.size(), data.size(),
                        static_cast<ee_dtype>(step.answers[place]->dtype)});
  }
  answer_.path_count = best_.path_count;
  answer_.gate_count = best_.gate_count;
  finish(step, best_.confidence, stopped_by);
  return answer_;
}

void Runner::finish(const Step& step, float confidence, StoppedBy stopped_by) {
  answer_.size = sizeof(ee_answer);
  answer_.exit = step.node->said->name.c_str();
  answer_.outputs = outputs_.data();
  answer_.output_count = outputs_.size();
  answer_.path = path_.data();
  answer_.gates = gates_.data();
  answer_.confidence = confidence;
  answer_.stopped_by = static_cast<int32_t>(stopped_by);
  answer_.prediction = predicted(outputs_.data(), outputs_.size(), step.node->said->scores);
}

Error Runner::too_late() const {
  std::vector<std::string> ran(path_.begin(), path_.end());
  const std::string done = ran.empty() ? "no segment was finished" : "ran " + listed(ran);
  if (watch_.stopped_by() == StoppedBy::interrupt) {
    return {EE_DEADLINE_ERROR, join("interrupted before there was an answer; ", done)};
  }
  return {EE_DEADLINE_ERROR, join("no answer within deadline_ms ", shortened(watch_.deadline_ms(), "%g"), "; ", done)};
}

}  // namespace eetoolkit
