// Answers the cases of runtime/conformance/ and says where an answer is not the expected one.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "arguments.h"
#include "json.h"
#include "scores.h"
#include "tensorfile.h"
#include "text.h"

namespace {

using eetoolkit::Document;
using eetoolkit::join;
using eetoolkit::Json;
using eetoolkit::TensorFile;
using eetoolkit::programs::Failure;

constexpr const char* kUsage = "usage: ee-conformance CASES [--onnxruntime LIBRARY] [--threads N]";
constexpr const char* kStops[] = {"exit", "end", "deadline", "interrupt"};

// An answer as a case expects it.
struct Expected {
  std::string exit, stopped_by, confidence;
  std::vector<std::string> path;
  std::vector<std::pair<std::string, int64_t>> gates;
  int64_t prediction = -1;
  std::vector<std::pair<std::string, std::string>> outputs;
};

struct Run {
  std::vector<std::pair<std::string, std::string>> inputs;
  std::vector<std::pair<std::string, std::string>> thresholds;  // a number as text, or `never`
  std::string exit_at, error;
  Expected answer;
  std::vector<Expected> visits;
};

Expected read_expected(const Json& json) {
  Expected expected;
  json.members([&](std::string_view key, const Json& value) {
    if (key == "exit") expected.exit = value.text();
    if (key == "stopped_by") expected.stopped_by = value.text();
    if (key == "confidence") expected.confidence = value.text();
    if (key == "prediction" && !value.is_null()) expected.prediction = value.integer(0, INT64_MAX);
    if (key == "path") value.elements([&](const Json& name) { expected.path.push_back(name.text()); });
    if (key == "outputs") {
      value.members([&](std::string_view name, const Json& tensor) { expected.outputs.emplace_back(name, tensor.text()); });
    }
    if (key == "gates") {
      value.elements([&](const Json& gate) {
        std::string segment;
        gate.elements([&](const Json& part) {
          if (part.is_text()) segment = part.text();
          else expected.gates.emplace_back(segment, part.integer(INT64_MIN, INT64_MAX));
        });
      });
    }
  });
  return expected;
}

Run read_run(const Json& json) {
  Run run;
  json.members([&](std::string_view key, const Json& value) {
    if (key == "inputs") {
      value.members([&](std::string_view name, const Json& tensor) { run.inputs.emplace_back(name, tensor.text()); });
    }
    if (key == "thresholds") {
      value.members([&](std::string_view name, const Json& limit) {
        run.thresholds.emplace_back(name, limit.is_text() ? limit.text() : eetoolkit::repr(limit.number()));
      });
    }
    if (key == "exit_at" && !value.is_null()) run.exit_at = value.text();
    if (key == "error") run.error = value.text();
    if (key == "answer") run.answer = read_expected(value);
    if (key == "visits") value.elements([&](const Json& visit) { run.visits.push_back(read_expected(visit)); });
  });
  return run;
}

std::string unlike(const ee_tensor& found, const ee_tensor& wanted, double tolerance) {
  const bool same_shape = found.rank == wanted.rank && std::equal(found.shape, found.shape + found.rank, wanted.shape);
  if (found.dtype != wanted.dtype || !same_shape) return join("it is ", ee_dtype_name(found.dtype), " of another shape or dtype");
  for (size_t place = 0; place < wanted.size_bytes / ee_dtype_bytes(wanted.dtype); ++place) {
    const double a = eetoolkit::number_at(found, place);
    const double b = eetoolkit::number_at(wanted, place);
    const bool near = a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= tolerance;
    if (!near) return join("element ", place, " is ", eetoolkit::repr(a), ", expected ", eetoolkit::repr(b));
  }
  return "";
}

// How an answer differs from the expected one; empty where it does not.
std::string unlike(const ee_answer& answer, const Expected& expected, const TensorFile& file, double tolerance) {
  if (answer.exit != expected.exit) return join("exit is ", answer.exit, ", expected ", expected.exit);
  if (kStops[answer.stopped_by] != expected.stopped_by) return join("stopped_by is ", kStops[answer.stopped_by]);
  if (answer.prediction != expected.prediction) return join("prediction is ", answer.prediction);
  const std::vector<std::string> path(answer.path, answer.path + answer.path_count);
  if (path != expected.path) return join("path is ", eetoolkit::repr(path), ", expected ", eetoolkit::repr(expected.path));
  std::vector<std::pair<std::string, int64_t>> gates;
  for (size_t place = 0; place < answer.gate_count; ++place) {
    gates.emplace_back(answer.gates[place].segment, answer.gates[place].decision);
  }
  if (gates != expected.gates) return "gates are others";
  if (answer.output_count != expected.outputs.size()) return "outputs are others";
  for (size_t place = 0; place < answer.output_count; ++place) {
    const ee_tensor& tensor = answer.outputs[place];
    const auto found = std::find_if(expected.outputs.begin(), expected.outputs.end(),
                                    [&](const auto& each) { return each.first == tensor.name; });
    if (found == expected.outputs.end()) return join("there is an output ", tensor.name);
    const std::string difference = unlike(tensor, file.tensors.at(found->second).view(""), tolerance);
    if (!difference.empty()) return join("output ", tensor.name, ": ", difference);
  }
  const int64_t one = 1;
  const ee_tensor confidence{"", &answer.confidence, &one, 1, sizeof answer.confidence, EE_FLOAT32};
  const std::string difference = unlike(confidence, file.tensors.at(expected.confidence).view(""), tolerance);
  return difference.empty() ? "" : "confidence: " + difference;
}

// What the visits of one run are compared with.
struct Comparison {
  const Run* run;
  const TensorFile* file;
  double tolerance;
  size_t met = 0;
  std::string difference;
};

int32_t compare_visit(void* user, const ee_answer* answer) {
  Comparison& comparison = *static_cast<Comparison*>(user);
  const auto& visits = comparison.run->visits;
  if (comparison.met < visits.size() && comparison.difference.empty()) {
    comparison.difference = unlike(*answer, visits[comparison.met], *comparison.file, comparison.tolerance);
  }
  ++comparison.met;
  return 0;
}

std::string unlike(ee_runner* runner, const Run& run, const TensorFile& file, double tolerance) {
  std::vector<ee_tensor> inputs;
  for (const auto& [name, tensor] : run.inputs) inputs.push_back(file.tensors.at(tensor).view(name.c_str()));
  std::vector<ee_threshold> thresholds;
  for (const auto& [exit, limit] : run.thresholds) {
    const bool never = limit == "never";
    thresholds.push_back({exit.c_str(), never ? 0 : std::stod(limit), never ? 1 : 0});
  }
  ee_call call{};
  call.size = sizeof call;
  call.inputs = inputs.data();
  call.input_count = inputs.size();
  call.thresholds = thresholds.data();
  call.threshold_count = thresholds.size();
  call.exit_at = run.exit_at.empty() ? nullptr : run.exit_at.c_str();
  const eetoolkit::programs::ErrorHandle error(ee_error_new(), ee_error_free);
  const ee_answer* answer = nullptr;
  const ee_code code = ee_run(runner, &call, &answer, error.get());
  if (!run.error.empty() || code != EE_OK) {
    const std::string text = ee_error_text(error.get());
    return code == EE_RUN_ERROR && text == run.error ? "" : join(ee_code_name(code), ": ", text, ", expected ", run.error);
  }
  const std::string difference = unlike(*answer, run.answer, file, tolerance);
  if (!difference.empty()) return difference;
  Comparison comparison{&run, &file, tolerance, 0, ""};
  call.thresholds = nullptr;
  call.threshold_count = 0;
  call.exit_at = nullptr;
  eetoolkit::programs::check(ee_run_all_exits(runner, &call, compare_visit, &comparison, error.get()), error);
  if (!comparison.difference.empty()) return join("visit: ", comparison.difference);
  return comparison.met == run.visits.size() ? "" : join("met ", comparison.met, " exits, expected ", run.visits.size());
}

// Answers a case; returns what is wrong.
std::string answer_case(const std::filesystem::path& folder, const ee_options& options) {
  const std::string text = eetoolkit::programs::read_file((folder / "case.json").string());
  const TensorFile file = TensorFile::read(eetoolkit::programs::read_file((folder / "tensors.safetensors").string()));
  const Document document(text);
  double tolerance = 0;
  std::vector<Run> runs;
  document.root().members([&](std::string_view key, const Json& value) {
    if (key == "tolerance") tolerance = value.number();
    if (key == "runs") value.elements([&](const Json& run) { runs.push_back(read_run(run)); });
  });
  const auto bundle = eetoolkit::programs::open_bundle((folder / "bundle").string(), options);
  const auto runner = eetoolkit::programs::make_runner(bundle);
  for (size_t number = 0; number < runs.size(); ++number) {
    const std::string difference = unlike(runner.get(), runs[number], file, tolerance);
    if (!difference.empty()) return join("run ", number, ": ", difference);
  }
  return "";
}

int answer_cases(int count, char** given) {
  const eetoolkit::programs::Arguments arguments(count, given, {}, {});
  if (arguments.plain().size() != 1) throw eetoolkit::programs::Usage{};
  std::vector<std::filesystem::path> folders;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(arguments.plain()[0], error)) {
    if (std::filesystem::exists(entry.path() / "case.json")) folders.push_back(entry.path());
  }
  if (folders.empty()) throw Failure{join("there are no cases in ", arguments.plain()[0])};
  std::sort(folders.begin(), folders.end());
  ee_options options = eetoolkit::programs::options_of(arguments);
  options.check = EE_CHECK_FULL;
  size_t wrong = 0;
  for (const auto& folder : folders) {
    std::string difference;
    try {
      difference = answer_case(folder, options);
    } catch (const Failure& failure) {
      difference = failure.text;
    } catch (const eetoolkit::JsonError& thrown) {
      difference = thrown.text;
    } catch (const eetoolkit::TensorFileError& thrown) {
      difference = thrown.text;
    }
    std::printf("%s: %s\n", folder.filename().c_str(), difference.empty() ? "ok" : difference.c_str());
    wrong += difference.empty() ? 0 : 1;
  }
  std::printf("%zu of %zu cases answered as expected\n", folders.size() - wrong, folders.size());
  return wrong == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  return eetoolkit::programs::run_main(kUsage, [&] { return answer_cases(count, arguments); });
}
