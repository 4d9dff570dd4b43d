// That every name of a plan follows the rule and is defined, and what it stands for is sound.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <set>

#include "error.h"
#include "flow.h"
#include "validate.h"

namespace eetoolkit {
namespace {

constexpr size_t kMostSegments = 4096;
constexpr size_t kMostSlots = 16384;
constexpr std::string_view kInNames = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789.-";
constexpr size_t kFirstOfNames = 53;  // of these may stand at the beginning
// What every object of JavaScript has beside names of two leading underscores (ECMA-262, Object.prototype).
constexpr std::array<std::string_view, 7> kObjectPrototype{
    "constructor", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString", "toString", "valueOf",
};

std::vector<std::string> input_names(const Manifest& plan) {
  std::vector<std::string> names;
  for (const TensorSpec& spec : plan.inputs) names.push_back(spec.name);
  return names;
}

std::string spell(const Scalar& value) {
  if (const bool* truth = std::get_if<bool>(&value)) return *truth ? "True" : "False";
  if (const double* number = std::get_if<double>(&value)) return repr(*number);
  if (const std::string* text = std::get_if<std::string>(&value)) return quoted(*text);
  const uint64_t* large = std::get_if<uint64_t>(&value);
  return large != nullptr ? std::to_string(*large) : std::to_string(std::get<int64_t>(value));
}

// Whether an integer dtype has a number of this size and sign.
bool has_integer(DType dtype, uint64_t size, bool negative) {
  const size_t bits = 8 * bytes_of(dtype);
  const uint64_t most = ~uint64_t{0} >> (64 - bits + (is_signed(dtype) ? 1 : 0));
  return negative ? is_signed(dtype) && size <= most + 1 : size <= most;
}

// Whether a text is an integer of a dtype that is too large for a number of JSON, in plain digits.
bool holds_text(DType dtype, const std::string& text) {
  const bool negative = text[0] == '-';
  const std::string digits = text.substr(negative ? 1 : 0);
  if (is_float(dtype) || digits.size() < 16 || digits.size() > 20 || digits[0] == '0' ||
      digits.find_first_not_of("0123456789") != std::string::npos) {
    return false;
  }
  errno = 0;
  const uint64_t size = std::strtoull(digits.c_str(), nullptr, 10);
  return errno == 0 && size > static_cast<uint64_t>(kMostExact) && has_integer(dtype, size, negative);
}

// Whether a value is one of a dtype.
bool holds(DType dtype, const Scalar& value) {
  const bool is_bool = std::holds_alternative<bool>(value);
  if (dtype == DType::boolean || is_bool) return dtype == DType::boolean && is_bool;
  if (const std::string* text = std::get_if<std::string>(&value)) return holds_text(dtype, *text);
  if (const double* number = std::get_if<double>(&value)) {
    const double largest = dtype == DType::float16   ? 65504.0
                           : dtype == DType::float32 ? std::numeric_limits<float>::max()
                                                     : std::numeric_limits<double>::max();
    return is_float(dtype) && std::fabs(*number) <= largest;
  }
  const int64_t* small = std::get_if<int64_t>(&value);
  const bool negative = small != nullptr && *small < 0;
  const uint64_t size = small == nullptr ? std::get<uint64_t>(value)
                        : negative       ? ~static_cast<uint64_t>(*small) + 1
                                         : static_cast<uint64_t>(*small);
  if (size > static_cast<uint64_t>(kMostExact)) return false;
  return is_float(dtype) ? dtype != DType::float16 || size <= 65504 : has_integer(dtype, size, negative);
}

std::string problem_of(const Preprocess& preprocess, const TensorSpec& spec) {
  if (!is_float(spec.dtype)) return join("it is ", name_of(spec.dtype), ", expected floating-point numbers");
  if (spec.shape.size() != 4) return join("its shape is ", repr(spec.shape), ", expected four dimensions");
  const Dim& channels = spec.shape[preprocess.channels_first ? 1 : 3];
  const std::string spelled = repr(Shape{channels});
  const auto are_finite = [](const std::vector<double>& values) {
    return std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
  };
  if (!std::isfinite(preprocess.scale) || !are_finite(preprocess.mean) || !are_finite(preprocess.std)) {
    return "scale, mean and std must be finite";
  }
  for (const auto& [key, values] : {std::pair("mean", &preprocess.mean), std::pair("std", &preprocess.std)}) {
    const int64_t* wanted = size_in(channels);
    if (values->size() != 1 && (wanted == nullptr || static_cast<int64_t>(values->size()) != *wanted)) {
      const std::string_view dim = std::string_view(spelled).substr(1, spelled.size() - 2);
      const std::string* symbol = symbol_in(channels);
      return join(key, " has ", values->size(), " values, expected 1 or ", symbol != nullptr ? *symbol : dim);
    }
  }
  for (size_t side = 0; side < 2; ++side) {
    const int64_t* size = size_in(spec.shape[side + (preprocess.channels_first ? 2 : 1)]);
    if (size != nullptr && *size != preprocess.resize[side]) {
      return join("resize is [", preprocess.resize[0], ", ", preprocess.resize[1], "], its shape is ", repr(spec.shape));
    }
  }
  const bool has_zero = std::find(preprocess.std.begin(), preprocess.std.end(), 0.0) != preprocess.std.end();
  return has_zero ? "std is 0" : "";
}

// Refuses a name that some language could not keep things by.
void check_name(const char* what, const std::string& name) {
  if (std::find(kObjectPrototype.begin(), kObjectPrototype.end(), name) != kObjectPrototype.end()) {
    throw manifest_error("manifest.json: the ", what, ' ', quoted(name), " is a key of every JavaScript object");
  }
  const bool is_name = !name.empty() && name.size() <= 255 && name.find_first_not_of(kInNames) == std::string::npos &&
                       kInNames.find(name[0]) < kFirstOfNames && name.substr(0, 2) != "__";
  if (!is_name) {
    throw manifest_error("manifest.json: the ", what, ' ', repr(first_characters(name, 40)),
                         " is no name: up to 255 of A-Z a-z 0-9 _ . -, first a letter or one _");
  }
}

void check_constants(const Manifest& plan) {
  for (const auto& [name, constant] : plan.constants) {
    // Sizes are below 2^31, and a product that is too large for a manifest need not be exact.
    double needed = 1;
    std::vector<std::string> dims;
    for (const int64_t size : constant.shape) {
      needed *= static_cast<double>(size);
      dims.push_back(std::to_string(size));
    }
    if (needed != static_cast<double>(constant.data.size())) {
      throw manifest_error("constant ", quoted(name), ": shape [", listed(dims), "] needs ", shortened(needed, "%.0f"),
                           " values, got ", constant.data.size());
    }
    for (const Scalar& value : constant.data) {
      if (!holds(constant.dtype, value)) {
        throw manifest_error("constant ", quoted(name), ": ", spell(value), " is not a finite ",
                             name_of(constant.dtype));
      }
    }
  }
}

}  // namespace

void check_counts(const Manifest& plan) {
  const auto check = [](const char* what, size_t count, size_t most) {
    if (count > most) throw manifest_error("manifest.json: ", count, ' ', what, ", a plan has at most ", most);
  };
  check("segments", plan.segments.size(), kMostSegments);
  check("slots", plan.slots.size(), kMostSlots);
}

void check_names(const Manifest& plan) {
  for (const TensorSpec& spec : plan.inputs) check_name("input", spec.name);
  for (const TensorSpec& spec : plan.outputs) check_name("output", spec.name);
  for (const auto& [name, slot] : plan.slots) check_name("slot", name);
  for (const auto& [name, constant] : plan.constants) check_name("constant", name);
  for (const auto& [name, segment] : plan.segments) check_name("segment", name);
  const Ordered<const Exit*> exits = plan.exits();
  for (const auto& [name, exit] : exits) check_name("exit", name);
  for (const auto& [name, segment] : plan.segments) {
    for (const auto& [input, source] : segment.reads) check_name("graph input", input);
    for (const auto& [slot, source] : segment.writes) {
      if (source.output) check_name("graph output", *source.output);
    }
    if (!segment.exit) continue;
    for (const auto& [output, slot] : segment.exit->outputs) check_name("output", output);
  }
  if (plan.split) {
    check_name("server's model", plan.split->model);
    for (const auto& [input, output] : plan.split->sends) check_name("server's input", input);
    for (const ServerExit& exit : plan.split->exits) check_name("server's exit", exit.name);
  }
  std::set<std::string> users;
  std::set<std::string> titles;
  for (const TensorSpec& spec : plan.inputs) users.insert(spec.name);
  for (const auto& [name, exit] : exits) {
    users.insert(name);
    for (const auto& [output, slot] : exit->outputs) users.insert(output);
  }
  for (const std::string& name : users) titles.insert(plan.title(name));
  if (titles.size() != users.size()) {
    throw manifest_error("manifest.json: titles give two of the inputs, exits and outputs one name");
  }
}

void check_definitions(const Manifest& plan) {
  const std::vector<std::string> inputs = input_names(plan);
  if (inputs.empty()) throw manifest_error("manifest.json: no inputs");
  const std::set<std::string> distinct(inputs.begin(), inputs.end());
  if (distinct.size() != inputs.size()) {
    throw manifest_error("manifest.json: two inputs of one name among ", repr(inputs));
  }
  std::set<std::string> shared;
  for (const auto& [name, slot] : plan.slots) {
    if (distinct.count(name) > 0) shared.insert(name);
  }
  for (const auto& [name, constant] : plan.constants) {
    if (distinct.count(name) > 0 || plan.slots.has(name)) shared.insert(name);
  }
  if (!shared.empty()) {
    throw manifest_error("manifest.json: inputs, slots and constants share the names ",
                         repr(std::vector<std::string>(shared.begin(), shared.end())));
  }
  std::set<std::string> symbols;
  for (const TensorSpec& spec : plan.inputs) {
    for (const Dim& dim : spec.shape) {
      if (const std::string* symbol = symbol_in(dim)) symbols.insert(*symbol);
    }
  }
  for (const auto& [symbol, limit] : plan.limits) {
    if (symbols.count(symbol) == 0) {
      throw manifest_error("manifest.json: limits names ", quoted(symbol), ", which is no dimension of the inputs");
    }
    if (limit.max && *limit.max < limit.min) {
      throw manifest_error("manifest.json: limits of ", quoted(symbol), ": ", limit.min, " to ", *limit.max,
                           " is no size");
    }
  }
  check_constants(plan);
  std::set<std::string> unknown;
  for (const auto& [name, preprocess] : plan.preprocess) {
    if (distinct.count(name) == 0) unknown.insert(name);
  }
  if (!unknown.empty()) {
    throw manifest_error("manifest.json: preprocess names ",
                         repr(std::vector<std::string>(unknown.begin(), unknown.end())), ", the inputs are ",
                         repr(inputs));
  }
  for (const TensorSpec& spec : plan.inputs) {
    const Preprocess* preprocess = plan.preprocess.find(spec.name);
    const std::string problem = preprocess == nullptr ? "" : problem_of(*preprocess, spec);
    if (!problem.empty()) throw manifest_error("preprocess of ", quoted(spec.name), ": ", problem);
  }
}

void check_segments(const Manifest& plan) {
  const std::vector<std::string> inputs = input_names(plan);
  const std::set<std::string> distinct(inputs.begin(), inputs.end());
  const auto is_tensor = [&](const std::string& name) { return plan.slots.has(name) || distinct.count(name) > 0; };
  for (const auto& [name, segment] : plan.segments) {
    const std::string what = join("segment ", quoted(name), ": ");
    for (const auto& [input, source] : segment.reads) {
      if (!is_tensor(source) && !plan.constants.has(source)) {
        throw manifest_error(what, "reads ", quoted(input), " from ", quoted(source), ", which is not defined");
      }
    }
    bool takes_output = false;
    for (const auto& [slot, source] : segment.writes) {
      takes_output |= source.output.has_value();
      if (!plan.slots.has(slot)) {
        throw manifest_error(what, "writes ", quoted(slot), ", which is not among the slots");
      }
      if (source.slot && !is_tensor(*source.slot)) {
        throw manifest_error(what, "moves ", quoted(*source.slot), " to ", quoted(slot), ", which is not defined");
      }
      if (source.constant && !plan.constants.has(*source.constant)) {
        throw manifest_error(what, "moves the constant ", quoted(*source.constant), ", which is not defined");
      }
      if (source.output && !segment.model) {
        throw manifest_error(what, "takes output ", quoted(*source.output), " but has no model");
      }
    }
    if (segment.model && !takes_output) throw manifest_error(what, "has a model but takes no output of it");
    if (!segment.reads.empty() && !segment.model) {
      std::set<std::string> reads;
      for (const auto& [input, source] : segment.reads) reads.insert(input);
      throw manifest_error(what, "reads ", repr(std::vector<std::string>(reads.begin(), reads.end())),
                           " but has no model");
    }
    for (const auto& [use, slot] : looked_at(segment)) {
      if (!is_tensor(*slot)) throw manifest_error(what, use, " is the slot ", quoted(*slot), ", which is not defined");
    }
  }
}

}  // namespace eetoolkit
