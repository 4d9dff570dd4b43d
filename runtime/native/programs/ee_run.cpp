// Runs a bundle on one row and prints the answer as JSON.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "arguments.h"
#include "error.h"
#include "json.h"
#include "npy.h"
#include "scores.h"
#include "tensorfile.h"

namespace {

using eetoolkit::join;
using eetoolkit::json_quoted;
using eetoolkit::Tensor;
using namespace eetoolkit::programs;

constexpr const char* kUsage =
    "usage: ee-run BUNDLE INPUTS [--exit-at EXIT] [--threshold EXIT=NUMBER|never] [--deadline-ms MS] [--refine]\n"
    "              [--all-exits] [--runs N] [--onnxruntime LIBRARY] [--threads N] [--spin S] [--pool P] [--full]\n"
    "INPUTS is a .npy file, or a .safetensors file with a tensor for each input";
constexpr const char* kStops[] = {"exit", "end", "deadline", "interrupt"};

// JSON has no NaN and no infinity.
std::string number(double value) { return std::isfinite(value) ? eetoolkit::repr(value) : "null"; }

std::string json_of(const ee_tensor& tensor) {
  std::string shape;
  for (size_t place = 0; place < tensor.rank; ++place) shape += join(place > 0 ? ", " : "", tensor.shape[place]);
  std::string data;
  const size_t count = tensor.size_bytes / ee_dtype_bytes(tensor.dtype);
  for (size_t place = 0; place < count; ++place) {
    data += join(place > 0 ? ", " : "", number(eetoolkit::number_at(tensor, place)));
  }
  return join("{\"dtype\": \"", ee_dtype_name(tensor.dtype), "\", \"shape\": [", shape, "], \"data\": [", data, "]}");
}

std::string json_of(const ee_answer& answer, const ee_bundle* bundle) {
  std::string outputs;
  std::string path;
  std::string gates;
  for (size_t place = 0; place < answer.output_count; ++place) {
    const ee_tensor& tensor = answer.outputs[place];
    outputs += join(place > 0 ? ", " : "", json_quoted(tensor.name), ": ", json_of(tensor));
  }
  for (size_t place = 0; place < answer.path_count; ++place) path += join(place > 0 ? ", " : "", json_quoted(answer.path[place]));
  for (size_t place = 0; place < answer.gate_count; ++place) {
    const ee_decision& gate = answer.gates[place];
    gates += join(place > 0 ? ", " : "", '[', json_quoted(gate.segment), ", ", gate.decision, ']');
  }
  const char* label = ee_bundle_label(bundle, answer.prediction);
  return join("{\"exit\": ", json_quoted(answer.exit), ", \"confidence\": ", number(answer.confidence), ", \"prediction\": ",
              answer.prediction < 0 ? "null" : std::to_string(answer.prediction), ", \"label\": ",
              label == nullptr ? "null" : json_quoted(label), ", \"path\": [", path, "], \"gates\": [", gates,
              "], \"stopped_by\": \"", kStops[answer.stopped_by], "\", \"outputs\": {", outputs, "}}");
}

eetoolkit::Ordered<Tensor> read_inputs(const std::string& path, const ee_bundle* bundle) {
  const std::string content = read_file(path);
  const std::string suffix = path.substr(std::min(path.rfind('.'), path.size()));
  eetoolkit::Ordered<Tensor> inputs;
  if (suffix == ".npy") {
    inputs.set(ee_bundle_input(bundle, 0).name, read_npy(content));
    return inputs;
  }
  if (suffix != ".safetensors") throw Failure{join(path, " is neither a .npy file nor a .safetensors file")};
  try {
    return eetoolkit::TensorFile::read(content).tensors;
  } catch (const eetoolkit::TensorFileError& error) {
    throw Failure{join(path, ": ", error.text)};
  }
}

// Thresholds as `EXIT=NUMBER` or `EXIT=never`; the names stay in `names`.
std::vector<ee_threshold> thresholds_of(std::vector<std::string>& names) {
  std::vector<ee_threshold> thresholds;
  for (std::string& text : names) {
    const size_t equals = text.rfind('=');
    if (equals == std::string::npos) throw Failure{join("--threshold ", text, ", expected EXIT=NUMBER or EXIT=never")};
    const std::string value = text.substr(equals + 1);
    text.resize(equals);
    char* end = nullptr;
    const double limit = std::strtod(value.c_str(), &end);
    if (value != "never" && (value.empty() || *end != '\0')) {
      throw Failure{join("--threshold ", text, '=', value, ", expected a number, or never")};
    }
    thresholds.push_back({text.c_str(), limit, value == "never" ? 1 : 0});
  }
  return thresholds;
}

int32_t print(void* user, const ee_answer* answer) {
  std::printf("%s\n", json_of(*answer, static_cast<const ee_bundle*>(user)).c_str());
  std::fflush(stdout);
  return 0;
}

int run(int count, char** given) {
  const Arguments arguments(count, given, {"--exit-at", "--threshold", "--deadline-ms", "--runs"}, {"--refine", "--all-exits"});
  if (arguments.plain().size() != 2) throw Usage{};
  const BundleHandle bundle = open_bundle(arguments.plain()[0], options_of(arguments));
  const RunnerHandle runner = make_runner(bundle);
  const eetoolkit::Ordered<Tensor> tensors = read_inputs(arguments.plain()[1], bundle.get());
  std::vector<ee_tensor> inputs;
  for (const auto& [name, tensor] : tensors) inputs.push_back(tensor.view(name.c_str()));
  std::vector<std::string> names = arguments.all("--threshold");
  const std::vector<ee_threshold> thresholds = thresholds_of(names);
  ee_call call{};
  call.size = sizeof call;
  call.inputs = inputs.data();
  call.input_count = inputs.size();
  call.exit_at = arguments.option("--exit-at");
  call.thresholds = thresholds.data();
  call.threshold_count = thresholds.size();
  call.deadline_ms = arguments.number("--deadline-ms", 0);
  const ErrorHandle error(ee_error_new(), ee_error_free);
  for (double left = arguments.number("--runs", 1); left >= 1; --left) {
    const ee_answer* answer = nullptr;
    if (arguments.flag("--refine")) {
      check(ee_refine(runner.get(), &call, print, bundle.get(), &answer, error.get()), error);
    } else if (arguments.flag("--all-exits")) {
      check(ee_run_all_exits(runner.get(), &call, print, bundle.get(), error.get()), error);
    } else {
      check(ee_run(runner.get(), &call, &answer, error.get()), error);
      print(bundle.get(), answer);
    }
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  return run_main(kUsage, [&] { return run(count, arguments); });
}
