// Runs one bundle in many threads, each with a runner of its own: all answer alike, whoever opens a segment first, while
// deadlines run out and another thread interrupts. `ee-threads BUNDLE INPUTS.npy` is for the thread sanitizer.
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "arguments.h"
#include "error.h"
#include "npy.h"

namespace {

using namespace eetoolkit::programs;

constexpr int kThreads = 4;
constexpr int kRuns = 50;

struct Given {
  ee_bundle* bundle;
  ee_tensor input;
};

std::string run(ee_runner* runner, const ee_tensor& input, double deadline_ms) {
  ee_call call{};
  call.size = sizeof call;
  call.inputs = &input;
  call.input_count = 1;
  call.deadline_ms = deadline_ms;
  call.interruptible = 1;
  const ErrorHandle error(ee_error_new(), ee_error_free);
  const ee_answer* answer = nullptr;
  if (ee_run(runner, &call, &answer, error.get()) != EE_OK) return ee_code_name(ee_error_code(error.get()));
  const auto* bytes = static_cast<const char*>(answer->outputs[0].data);
  return answer->exit + std::string(bytes, answer->outputs[0].size_bytes);
}

// Runs with deadlines that are far and that are near, interrupted now and then; counts answers unlike the first.
void work(const Given& given, const std::string& expected, std::atomic<int>& wrong) {
  ee_runner* runner = nullptr;
  if (ee_runner_new(given.bundle, &runner, nullptr) != EE_OK) {
    ++wrong;
    return;
  }
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) {
      ee_runner_interrupt(runner);
      ee_runner_clear(runner);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  for (int number = 0; number < kRuns; ++number) run(runner, given.input, number % 3 == 0 ? 0.01 : 0);
  done = true;
  other.join();
  for (int number = 0; number < kRuns; ++number) {
    if (run(runner, given.input, number % 2 == 0 ? 1e6 : 0) != expected) ++wrong;
  }
  ee_runner_free(runner);
}

int check(int count, char** given) {
  const Arguments arguments(count, given, {}, {});
  if (arguments.plain().size() != 2) throw Usage{};
  const ee_options options = options_of(arguments);
  const BundleHandle bundle = open_bundle(arguments.plain()[0], options);
  const eetoolkit::Tensor tensor = read_npy(read_file(arguments.plain()[1]));
  const Given all{bundle.get(), tensor.view(ee_bundle_input(bundle.get(), 0).name)};
  // Another bundle of the same folder, so that the threads are the first to open segments of this one.
  const BundleHandle twin = open_bundle(arguments.plain()[0], options);
  const RunnerHandle runner = make_runner(twin);
  const std::string expected = run(runner.get(), all.input, 0);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int number = 0; number < kThreads; ++number) threads.emplace_back([&] { work(all, expected, wrong); });
  for (std::thread& thread : threads) thread.join();
  std::printf("%d answers of %d are unlike the first\n", wrong.load(), kThreads * kRuns);
  return wrong == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  return run_main("usage: ee-threads BUNDLE INPUTS.npy", [&] { return check(count, arguments); });
}
