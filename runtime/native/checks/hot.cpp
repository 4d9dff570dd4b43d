// What a call costs beside onnxruntime once all is met: how often the runner allocates, which must be never, and how long
// it takes outside of onnxruntime. `ee-hot BUNDLE INPUTS.npy [RUNS]`.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <new>
#include <vector>

#include "arguments.h"
#include "npy.h"

namespace {

std::atomic<size_t> allocations{0};

}  // namespace

// onnxruntime has operators of its own: these count what the runner asks for.
void* operator new(size_t size) {
  ++allocations;
  if (void* found = std::malloc(size == 0 ? 1 : size)) return found;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

using namespace eetoolkit::programs;
using Clock = std::chrono::steady_clock;

// What one call spends inside of onnxruntime.
struct Inside {
  double total_ms = 0;
  size_t segments = 0;
};

double median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

int measure(int count, char** given) {
  const Arguments arguments(count, given, {"--exit-at", "--deadline-ms"}, {});
  if (arguments.plain().size() < 2) throw Usage{};
  const int runs = arguments.plain().size() > 2 ? std::atoi(arguments.plain()[2].c_str()) : 1000;
  const BundleHandle bundle = open_bundle(arguments.plain()[0], options_of(arguments));
  const RunnerHandle runner = make_runner(bundle);
  const eetoolkit::Tensor tensor = read_npy(read_file(arguments.plain()[1]));
  const ee_tensor input = tensor.view(ee_bundle_input(bundle.get(), 0).name);
  ee_call call{};
  call.size = sizeof call;
  call.inputs = &input;
  call.input_count = 1;
  call.exit_at = arguments.option("--exit-at");
  call.deadline_ms = arguments.number("--deadline-ms", 0);
  const ErrorHandle error(ee_error_new(), ee_error_free);
  const ee_answer* answer = nullptr;
  for (int warm = 0; warm < 10; ++warm) check(ee_run(runner.get(), &call, &answer, error.get()), error);
  Inside inside;
  ee_runner_trace(
      runner.get(),
      [](void* user, const char*, double latency_ms) {
        static_cast<Inside*>(user)->total_ms += latency_ms;
        ++static_cast<Inside*>(user)->segments;
      },
      &inside);
  std::vector<double> calls_us(static_cast<size_t>(runs));
  std::vector<double> own_us(static_cast<size_t>(runs));
  const size_t before = allocations;
  for (size_t run = 0; run < calls_us.size(); ++run) {
    inside = {};
    const Clock::time_point started = Clock::now();
    const ee_code code = ee_run(runner.get(), &call, &answer, error.get());
    calls_us[run] = std::chrono::duration<double, std::micro>(Clock::now() - started).count();
    own_us[run] = calls_us[run] - 1e3 * inside.total_ms;
    check(code, error);
  }
  const size_t made = allocations - before;
  std::printf("{\"runs\": %d, \"allocations\": %zu, \"call_us\": %.3f, \"segments\": %zu, \"own_us\": %.3f}\n", runs, made,
              median(calls_us), inside.segments, median(own_us));
  return made == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  return run_main("usage: ee-hot BUNDLE INPUTS.npy [RUNS] [--exit-at EXIT] [--deadline-ms MS]",
                  [&] { return measure(count, arguments); });
}
