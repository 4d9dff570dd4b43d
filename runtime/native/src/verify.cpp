#include "verify.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "golden.h"
#include "half.h"
#include "runner.h"
#include "scores.h"

namespace eetoolkit {
namespace {

constexpr size_t kShown = 5;
constexpr int kNoisyRuns = 8;
constexpr double kRounding = 0.1;  // of the tolerance: what other orders of summation change a value by

using Gates = std::vector<std::vector<std::pair<std::string, int64_t>>>;

// What an exit said, its tensors copied.
struct Said {
  std::string exit;
  float confidence = 0;
  std::vector<std::pair<std::string, Tensor>> outputs;
};

struct Met {
  std::vector<Said> answers;
  Gates gates;
};

std::vector<ee_tensor> views(const Ordered<Tensor>& tensors) {
  std::vector<ee_tensor> found;
  for (const auto& [name, tensor] : tensors) found.push_back(tensor.view(name.c_str()));
  return found;
}

ee_call call_of(const std::vector<ee_tensor>& inputs) {
  ee_call call{};
  call.size = sizeof call;
  call.inputs = inputs.data();
  call.input_count = inputs.size();
  return call;
}

Met meet_all(Runner& runner, const Ordered<Tensor>& inputs) {
  Met met;
  const std::vector<ee_tensor> tensors = views(inputs);
  const auto remember = [](void* user, const ee_answer* answer) -> int32_t {
    Met& into = *static_cast<Met*>(user);
    Said said{answer->exit, answer->confidence, {}};
    for (size_t place = 0; place < answer->output_count; ++place) {
      const ee_tensor& tensor = answer->outputs[place];
      said.outputs.emplace_back(
          tensor.name, Tensor{static_cast<DType>(tensor.dtype), {tensor.shape, tensor.shape + tensor.rank},
                              std::string(static_cast<const char*>(tensor.data), tensor.size_bytes)});
    }
    into.answers.push_back(std::move(said));
    auto& gates = into.gates.emplace_back();
    for (size_t place = 0; place < answer->gate_count; ++place) {
      gates.emplace_back(answer->gates[place].segment, answer->gates[place].decision);
    }
    return 0;
  };
  runner.run_all_exits(call_of(tensors), {remember, &met});
  return met;
}

template <class T>
void disturb(std::string& data, double noise, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  auto* values = reinterpret_cast<T*>(data.data());
  for (size_t place = 0; place < data.size() / sizeof(T); ++place) {
    values[place] = static_cast<T>(values[place] * (1 + noise * normal(random)));
  }
}

void disturb_half(std::string& data, double noise, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  auto* values = reinterpret_cast<uint16_t*>(data.data());
  for (size_t place = 0; place < data.size() / sizeof(uint16_t); ++place) {
    values[place] = half_of(float_of_half(values[place]) * (1 + noise * normal(random)));
  }
}

// Whether noise of the size of a rounding, put on the inputs, sends a gate another way: then this machine and the source
// framework may each be right and go different ways.
bool hangs_by_rounding(Runner& runner, const Ordered<Tensor>& inputs, const Gates& usual, double noise) {
  if (std::all_of(usual.begin(), usual.end(), [](const auto& gates) { return gates.empty(); })) return false;
  std::mt19937_64 random(0);
  for (int run = 0; run < kNoisyRuns; ++run) {
    Ordered<Tensor> noisy;
    for (const auto& [name, tensor] : inputs) {
      Tensor changed = tensor;
      if (tensor.dtype == DType::float32) disturb<float>(changed.data, noise, random);
      if (tensor.dtype == DType::float64) disturb<double>(changed.data, noise, random);
      if (tensor.dtype == DType::float16) disturb_half(changed.data, noise, random);
      noisy.set(name, std::move(changed));
    }
    if (meet_all(runner, noisy).gates != usual) return true;
  }
  return false;
}

// Differences so far.
class Tally {
 public:
  Tally(const Ordered<const Exit*>& exits, double tolerance) : exits_(exits), tolerance_(tolerance) {
    for (const auto& [name, exit] : exits) checks.push_back({name, 0, 0, 0, 0});
  }

  // Counts one sample, the answers of all exits and the exit of an ordinary run, and returns what is wrong.
  std::vector<std::string> compare(const std::string& what, const Sample& sample, const std::vector<Said>& answers,
                                   const std::string& answered) {
    std::vector<std::string> met;
    std::vector<std::string> expected;
    for (const Said& said : answers) met.push_back(said.exit);
    for (const Visit& visit : sample.visits) expected.push_back(visit.exit);
    if (met != expected) return {join(what, ": met the exits ", repr(met), ", expected ", repr(expected))};
    std::vector<std::string> failures;
    for (size_t place = 0; place < answers.size(); ++place) {
      compare_visit(what, answers[place], sample.visits[place], failures);
    }
    const std::vector<std::string> allowed = allowed_exits(sample);
    if (std::find(allowed.begin(), allowed.end(), answered) == allowed.end()) {
      failures.push_back(join(what, ": ", answered, " answered, expected ", allowed.front()));
    } else if (std::any_of(allowed.begin(), allowed.end(), [&](const auto& exit) { return exit != allowed.front(); })) {
      ++check_of(answered).ties;
    }
    return failures;
  }

  ExitCheck& check_of(const std::string& exit) { return checks[exits_.place(exit)]; }

  std::vector<ExitCheck> checks;

 private:
  void compare_visit(const std::string& what, const Said& said, const Visit& visit, std::vector<std::string>& failures) {
    double outputs = 0;
    for (const auto& [name, tensor] : said.outputs) {
      outputs = std::max(outputs, difference(tensor.view(""), visit.outputs.at(name).view("")));
    }
    const std::vector<int64_t> one{1};
    const auto view = [&](const float& number) {
      return ee_tensor{"", &number, one.data(), 1, sizeof(float), EE_FLOAT32};
    };
    const double confidence = difference(view(said.confidence), view(visit.confidence));
    for (const auto& [kind, value] : {std::pair("outputs", outputs), std::pair("confidence", confidence)}) {
      if (!(value <= tolerance_)) {
        failures.push_back(join(what, ": ", said.exit, ": ", kind, " off by ", shortened(value, "%.1e"), ", more than ",
                                shortened(tolerance_, "%.0e")));
      }
    }
    ExitCheck& check = check_of(said.exit);
    ++check.samples;
    check.output_difference = std::max(check.output_difference, outputs);
    check.confidence_difference = std::max(check.confidence_difference, confidence);
  }

  // The exits that may answer: the first that fires, and those passed or met by a rounding only.
  [[nodiscard]] std::vector<std::string> allowed_exits(const Sample& sample) const {
    std::vector<std::string> allowed;
    for (const Visit& visit : sample.visits) {
      const Exit& exit = *exits_.at(visit.exit);
      const bool counted = exit.criterion.counted();
      const double tolerance = counted ? 0 : tolerance_;
      const double* limit = std::get_if<double>(&exit.threshold);
      if (!exit.ends() && (limit == nullptr || !(visit.confidence >= *limit - tolerance))) continue;
      allowed.push_back(visit.exit);
      if (exit.ends() || counted || visit.confidence > *limit + tolerance) break;
    }
    return allowed;
  }

  const Ordered<const Exit*>& exits_;
  double tolerance_;
};

}  // namespace

double difference(const ee_tensor& found, const ee_tensor& expected) {
  const double infinity = std::numeric_limits<double>::infinity();
  if (found.rank != expected.rank || !std::equal(found.shape, found.shape + found.rank, expected.shape)) return infinity;
  double largest = 0;
  double scale = 1;
  const size_t count = expected.size_bytes / ee_dtype_bytes(expected.dtype);
  for (size_t place = 0; place < count; ++place) {
    const double a = number_at(found, place);
    const double b = number_at(expected, place);
    const bool same = a == b || (std::isnan(a) && std::isnan(b));
    if (!std::isfinite(b) ? !same : !std::isfinite(a)) return infinity;
    if (!std::isfinite(b)) continue;
    largest = std::max(largest, std::fabs(a - b));
    scale = std::max(scale, std::fabs(b));
  }
  return largest / scale;
}

VerifyReport verify(const std::shared_ptr<Program>& program) {
  program->bundle().check_hashes();
  const std::vector<Sample> samples = read_golden(program->bundle());
  if (samples.empty()) throw input_error("verify: the bundle has no golden samples; export it with some");
  const double tolerance = program->plan().golden->tolerance;
  Runner runner(program, Decision(program->exits(), false));
  Tally tally(program->exits(), tolerance);
  VerifyReport report{tolerance, samples.size(), {}, {}};
  for (size_t number = 0; number < samples.size(); ++number) {
    const Sample& sample = samples[number];
    const Met met = meet_all(runner, sample.inputs);
    const std::vector<ee_tensor> inputs = views(sample.inputs);
    const std::string answered = runner.run(call_of(inputs)).exit;
    const std::vector<ExitCheck> before = tally.checks;
    const auto failures = tally.compare(join("sample ", number), sample, met.answers, answered);
    if (!failures.empty() && hangs_by_rounding(runner, sample.inputs, met.gates, kRounding * tolerance)) {
      tally.checks = before;
      ++tally.check_of(met.answers.back().exit).ties;
    } else {
      report.failures.insert(report.failures.end(), failures.begin(), failures.end());
    }
  }
  report.exits = tally.checks;
  return report;
}

std::string VerifyReport::text() const {
  std::string text;
  for (const ExitCheck& check : exits) {
    text += flat(join(check.exit, ": ", check.samples, check.samples == 1 ? " sample" : " samples",
                      ", outputs differ by at most ", shortened(check.output_difference, "%.1e"), ", confidence by ",
                      shortened(check.confidence_difference, "%.1e")));
    text += check.ties > 0 ? join(", ", check.ties, " ties\n") : "\n";
  }
  for (size_t place = 0; place < std::min(kShown, failures.size()); ++place) text += flat(failures[place]) + '\n';
  if (failures.size() > kShown) text += join("... and ", failures.size() - kShown, " more\n");
  const std::string verdict = failures.empty() ? "passed" : join("FAILED (", failures.size(), ')');
  return text + join("verify ", verdict, ", tolerance ", shortened(tolerance, "%.0e"));
}

}  // namespace eetoolkit
