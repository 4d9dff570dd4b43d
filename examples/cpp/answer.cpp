// Answers rows with a bundle, in C++ over the native runner's C interface.
//
//     answer digits.ee rows.f32        rows.f32: float32 rows, as numpy's tofile() writes them
#include <eetoolkit.h>

#include <cstdio>
#include <fstream>
#include <vector>

int main(int count, char** arguments) {
  if (count != 3) return std::fprintf(stderr, "usage: answer BUNDLE ROWS\n"), 2;
  ee_error* error = ee_error_new();
  ee_bundle* bundle = nullptr;
  ee_runner* runner = nullptr;
  if (ee_bundle_open(arguments[1], nullptr, &bundle, error) != EE_OK || ee_runner_new(bundle, &runner, error) != EE_OK) {
    return std::fprintf(stderr, "%s\n", ee_error_text(error)), 1;
  }

  ee_tensor input = ee_bundle_input(bundle, 0);  // its name, dtype and shape; the first dimension is the rows
  std::vector<int64_t> shape(input.shape, input.shape + input.rank);
  shape[0] = 1;
  size_t size = 1;
  for (const int64_t dimension : shape) size *= static_cast<size_t>(dimension);
  std::vector<float> row(size);
  input.data = row.data();
  input.shape = shape.data();
  input.size_bytes = size * sizeof(float);
  ee_call call{};
  call.size = sizeof call;
  call.inputs = &input;
  call.input_count = 1;

  std::ifstream rows(arguments[2], std::ios::binary);
  while (rows.read(reinterpret_cast<char*>(row.data()), static_cast<std::streamsize>(input.size_bytes))) {
    const ee_answer* answer = nullptr;  // valid until the next call
    if (ee_run(runner, &call, &answer, error) != EE_OK) return std::fprintf(stderr, "%s\n", ee_error_text(error)), 1;
    std::printf("class %lld, %s, confidence %.4f\n", static_cast<long long>(answer->prediction), answer->exit,
                static_cast<double>(answer->confidence));
  }
  ee_runner_free(runner);
  ee_bundle_free(bundle);
  ee_error_free(error);
}
