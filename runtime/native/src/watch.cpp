#include "watch.h"

#include <algorithm>
#include <system_error>

namespace eetoolkit {
namespace {

constexpr double kTryAfter = 16;

}  // namespace

double ms_between(Clock::time_point start, Clock::time_point end) {
  return std::chrono::duration<double, std::milli>(end - start).count();
}

bool Pace::fits(double left_ms) {
  const double expected_ms = std::max(profiled_ms_, expected_ms_);
  if (left_ms >= expected_ms || left_ms < profiled_ms_) return left_ms >= expected_ms;
  left_ms_ += left_ms;
  if (left_ms_ < kTryAfter * expected_ms) return false;
  left_ms_ = expected_ms_ = 0;
  return true;
}

void Pace::ended(double took_ms) {
  ++runs_;
  expected_ms_ = expected_ms_ == 0 ? took_ms : std::min(expected_ms_, took_ms);
}

void Pace::stopped(double took_ms) {
  ++runs_;
  expected_ms_ = std::max(expected_ms_, took_ms);
}

Watch::Watch(const Onnxruntime& ort)
    : ort_(ort), options_(ort.make<OrtRunOptions>(ort.api().ReleaseRunOptions, ort.api().CreateRunOptions)) {
  // What stops a segment on purpose is no error to print.
  ort.check(ort.api().RunOptionsSetRunLogSeverityLevel(options_.get(), ORT_LOGGING_LEVEL_FATAL));
}

Watch::~Watch() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Watch::begin(double deadline_ms) {
  const Clock::time_point now = Clock::now();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (has_stopped()) ort_.check(ort_.api().RunOptionsUnsetTerminate(options_.get()));
  stopped_by_.store(StoppedBy::exit, std::memory_order_release);
  if (interrupted_) stop(StoppedBy::interrupt);
  deadline_ms_ = deadline_ms;
  if (deadline_ms == 0) return;
  // A clock has no room for the centuries that a number may say.
  const double bounded_ms = std::min(deadline_ms, 1e12);
  end_ = now + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double, std::milli>(bounded_ms));
  armed_ = true;
  try {
    if (!thread_.joinable()) thread_ = std::thread(&Watch::wait_for_deadlines, this);
  } catch (const std::system_error& error) {
    throw run_error("no thread to watch the deadline: ", error.what());
  }
  if (end_ < wakes_) changed_.notify_one();
}

void Watch::finish() {
  if (!has_deadline()) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  armed_ = false;
}

bool Watch::allows(Pace& pace) {
  if (has_deadline() && !has_stopped()) {
    const double left_ms = ms_between(Clock::now(), end_);
    if (left_ms <= 0 || !pace.fits(left_ms)) {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop(StoppedBy::deadline);
    }
  }
  return !has_stopped();
}

void Watch::interrupt() {
  const std::lock_guard<std::mutex> lock(mutex_);
  interrupted_ = true;
  stop(StoppedBy::interrupt);
}

void Watch::clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  interrupted_ = false;
}

void Watch::stop(StoppedBy why) {
  if (has_stopped()) return;
  stopped_by_.store(why, std::memory_order_release);
  OrtStatus* status = ort_.api().RunOptionsSetTerminate(options_.get());
  if (status != nullptr) ort_.api().ReleaseStatus(status);
}

void Watch::wait_for_deadlines() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!closing_) {
    if (armed_ && Clock::now() >= end_) {
      armed_ = false;
      stop(StoppedBy::deadline);
    }
    wakes_ = armed_ ? end_ : Clock::time_point::max();
    if (armed_) changed_.wait_until(lock, end_);
    else changed_.wait(lock);
  }
}

}  // namespace eetoolkit
