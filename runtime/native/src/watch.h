// How long segments take, and what may stop a call before its end.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "onnxruntime.h"

namespace eetoolkit {

using Clock = std::chrono::steady_clock;

double ms_between(Clock::time_point start, Clock::time_point end);

// How long one segment takes with inputs of one shape: what the bundle's profile says, else the least time in which it
// has ended, and at least the time after which it was broken off. A call with less time left does not start it. What is
// expected without a profile may be wrong by now, so the time that such calls had left is added up: at 16 times what is
// expected, the segment is tried again.
class Pace {
 public:
  explicit Pace(double profiled_ms = 0) : profiled_ms_(profiled_ms) {}

  // Whether it was watched often enough for plain calls; the first runs are slower.
  [[nodiscard]] bool settled() const { return runs_ >= 3; }
  // Whether a call that has so much time left may start it.
  [[nodiscard]] bool fits(double left_ms);
  // Learns from a run that ended, or was broken off.
  void ended(double took_ms);
  void stopped(double took_ms);

 private:
  int runs_ = 0;
  double profiled_ms_;
  double expected_ms_ = 0;  // 0: nothing is known
  double left_ms_ = 0;
};

enum class StoppedBy { exit = 0, end = 1, deadline = 2, interrupt = 3 };

// Watches over the calls of one runner: it is asked between two segments, and within one it has onnxruntime stop, which
// looks between two nodes of a graph.
class Watch {
 public:
  explicit Watch(const Onnxruntime& ort);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Begins a call; 0 ms is no deadline.
  void begin(double deadline_ms);
  void finish();

  // Whether a segment may run now; false stops the call.
  [[nodiscard]] bool allows(Pace& pace);
  [[nodiscard]] bool has_deadline() const { return deadline_ms_ > 0; }
  [[nodiscard]] double deadline_ms() const { return deadline_ms_; }
  // Why no further segment may run; `exit` while one may.
  [[nodiscard]] StoppedBy stopped_by() const { return stopped_by_.load(std::memory_order_acquire); }
  [[nodiscard]] bool has_stopped() const { return stopped_by() != StoppedBy::exit; }
  [[nodiscard]] const OrtRunOptions* options() const { return options_.get(); }

  // Called from other threads: stops this call and later ones, until `clear`.
  void interrupt();
  void clear();

 private:
  void stop(StoppedBy why);  // with the mutex
  void wait_for_deadlines();

  const Onnxruntime& ort_;
  Owned<OrtRunOptions> options_;
  double deadline_ms_ = 0;
  Clock::time_point end_;
  std::atomic<StoppedBy> stopped_by_{StoppedBy::exit};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool armed_ = false;
  Clock::time_point wakes_ = Clock::time_point::max();  // when the thread looks by itself
  bool interrupted_ = false;
  bool closing_ = false;
  std::thread thread_;  // started by the first deadline
};

}  // namespace eetoolkit
