// The C interface: values and exceptions of the runner as handles and codes.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "eetoolkit.h"
#include "runner.h"
#include "verify.h"

using eetoolkit::Error;
using eetoolkit::input_error;
using eetoolkit::Program;

struct ee_error {
  ee_code code = EE_OK;
  std::string text;
};

struct ee_bundle {
  std::shared_ptr<Program> program;
  std::vector<std::vector<int64_t>> input_shapes;
  std::vector<const char*> segments;
  std::string report;
};

struct ee_runner {
  eetoolkit::Runner runner;
};

namespace {

void set(ee_error* error, ee_code code, const char* text) noexcept {
  if (error == nullptr) return;
  error->code = code;
  try {
    error->text = text;
  } catch (const std::bad_alloc&) {
    error->text.clear();
  }
}

// Calls a function and returns what it threw as a code.
template <class Function>
ee_code guarded(ee_error* error, Function function) noexcept {
  ee_code code = EE_OK;
  try {
    function();
    if (error != nullptr) {
      error->code = EE_OK;
      error->text.clear();
    }
    return EE_OK;
  } catch (const Error& thrown) {
    code = thrown.code();
    set(error, code, thrown.what());
  } catch (const eetoolkit::OrtFailure& failure) {
    code = EE_RUN_ERROR;
    set(error, code, failure.text.c_str());
  } catch (const std::bad_alloc&) {
    code = EE_RUN_ERROR;
    set(error, code, "no memory");
  } catch (const std::exception& thrown) {
    code = EE_RUN_ERROR;
    set(error, code, thrown.what());
  }
  return code;
}

void require(const void* pointer, const char* what) {
  if (pointer == nullptr) throw input_error(what, " is NULL");
}

// A struct of a caller that may have been compiled with an older or a newer header.
template <class Struct>
Struct complete(const Struct* given, const char* what) {
  Struct whole{};
  if (given == nullptr) return whole;
  if (given->size < sizeof(size_t)) throw input_error(what, ".size is ", given->size, ", expected sizeof(", what, ')');
  std::memcpy(&whole, given, std::min(given->size, sizeof(Struct)));
  return whole;
}

void check_choice(const char* what, int32_t value, int32_t most) {
  if (value < 0 || value > most) throw input_error(what, " is ", value, ", expected 0 to ", most);
}

constexpr int32_t kMostThreads = 1024;

eetoolkit::SessionSettings settings_of(const ee_options& options) {
  check_choice("threads", options.threads, kMostThreads);
  check_choice("spin", options.spin, EE_SPIN_NEVER);
  check_choice("pool", options.pool, EE_POOL_SHARED);
  check_choice("load", options.load, EE_LOAD_EAGER);
  check_choice("check", options.check, EE_CHECK_FULL);
  check_choice("fallback", options.fallback, EE_FALLBACK_MOST_CONFIDENT);
  eetoolkit::SessionSettings settings;
  settings.threads = options.threads;
  settings.spin = static_cast<eetoolkit::Spin>(options.spin);
  settings.shared_pool = options.pool == EE_POOL_SHARED;
  settings.arena = options.no_arena == 0;
  settings.prepack = options.no_prepack == 0;
  if (options.provider_count > 0) require(options.providers, "providers");
  for (size_t place = 0; place < options.provider_count; ++place) {
    const ee_provider& given = options.providers[place];
    require(given.name, "the name of a provider");
    eetoolkit::Provider provider{given.name, {}};
    for (size_t option = 0; option < given.option_count; ++option) {
      require(given.keys, "the keys of a provider");
      require(given.values, "the values of a provider");
      require(given.keys[option], "a key of a provider");
      require(given.values[option], "a value of a provider");
      provider.options.emplace_back(given.keys[option], given.values[option]);
    }
    settings.providers.push_back(std::move(provider));
  }
  return settings;
}

std::unique_ptr<ee_bundle> open(const char* folder, const ee_options& options) {
  require(folder, "folder");
  const eetoolkit::SessionSettings settings = settings_of(options);
  eetoolkit::Bundle bundle = eetoolkit::open_bundle(folder, options.check == EE_CHECK_FULL);
  auto& ort = eetoolkit::Onnxruntime::at(options.onnxruntime, options.ort_api_base);
  const bool most_confident = options.fallback == EE_FALLBACK_BUNDLE ? bundle.plan.most_confident
                                                                     : options.fallback == EE_FALLBACK_MOST_CONFIDENT;
  auto opened = std::make_unique<ee_bundle>();
  opened->program = std::make_shared<Program>(std::move(bundle), ort, settings, most_confident);
  if (options.load == EE_LOAD_EAGER) opened->program->sessions().open_all();
  for (const eetoolkit::TensorSpec& spec : opened->program->plan().inputs) {
    std::vector<int64_t>& shape = opened->input_shapes.emplace_back();
    for (const eetoolkit::Dim& dim : spec.shape) shape.push_back(size_in(dim) == nullptr ? -1 : *size_in(dim));
  }
  for (const eetoolkit::Node& node : opened->program->nodes()) {
    if (node.has_model) opened->segments.push_back(node.name);
  }
  return opened;
}

const eetoolkit::Manifest& plan_of(const ee_bundle* bundle) { return bundle->program->plan(); }

}  // namespace

int32_t ee_version(void) { return EE_API_VERSION; }

const char* ee_code_name(ee_code code) {
  constexpr std::array<const char*, 8> kNames{"OK",       "BundleError", "ManifestError", "IntegrityError",
                                              "RunError", "InputError",  "DeadlineError", "ProviderError"};
  return code >= 0 && static_cast<size_t>(code) < kNames.size() ? kNames[static_cast<size_t>(code)] : "EEToolkitError";
}

ee_error* ee_error_new(void) { return new (std::nothrow) ee_error; }
void ee_error_free(ee_error* error) { delete error; }
ee_code ee_error_code(const ee_error* error) { return error == nullptr ? EE_OK : error->code; }
const char* ee_error_text(const ee_error* error) { return error == nullptr ? "" : error->text.c_str(); }

const char* ee_dtype_name(ee_dtype dtype) {
  // All names are literals, so each ends with NUL.
  return dtype >= EE_FLOAT32 && dtype <= EE_BOOL ? eetoolkit::name_of(static_cast<eetoolkit::DType>(dtype)).data()
                                                 : nullptr;
}

size_t ee_dtype_bytes(ee_dtype dtype) {
  return dtype >= EE_FLOAT32 && dtype <= EE_BOOL ? eetoolkit::bytes_of(static_cast<eetoolkit::DType>(dtype)) : 0;
}

ee_code ee_bundle_open(const char* folder, const ee_options* options, ee_bundle** bundle, ee_error* error) {
  return guarded(error, [&] {
    require(bundle, "bundle");
    *bundle = nullptr;
    *bundle = open(folder, complete(options, "ee_options")).release();
  });
}

void ee_bundle_free(ee_bundle* bundle) { delete bundle; }

const char* ee_bundle_name(const ee_bundle* bundle) { return plan_of(bundle).name.c_str(); }

const char* ee_bundle_manifest(const ee_bundle* bundle, size_t* length) {
  const std::string& text = bundle->program->bundle().text;
  if (length != nullptr) *length = text.size();
  return text.c_str();
}

size_t ee_bundle_input_count(const ee_bundle* bundle) { return plan_of(bundle).inputs.size(); }

ee_tensor ee_bundle_input(const ee_bundle* bundle, size_t index) {
  ee_tensor tensor{};
  if (index >= plan_of(bundle).inputs.size()) return tensor;
  const eetoolkit::TensorSpec& spec = plan_of(bundle).inputs[index];
  const std::vector<int64_t>& shape = bundle->input_shapes[index];
  tensor.name = spec.name.c_str();
  tensor.shape = shape.data();
  tensor.rank = shape.size();
  tensor.dtype = static_cast<ee_dtype>(spec.dtype);
  return tensor;
}

size_t ee_bundle_exit_count(const ee_bundle* bundle) { return bundle->program->exits().size(); }

const char* ee_bundle_exit(const ee_bundle* bundle, size_t index) {
  const auto& exits = bundle->program->exits();
  return index < exits.size() ? exits.item(index).first.c_str() : nullptr;
}

double ee_bundle_exit_threshold(const ee_bundle* bundle, size_t index) {
  const auto& exits = bundle->program->exits();
  const double* number = index < exits.size() ? std::get_if<double>(&exits.item(index).second->threshold) : nullptr;
  return number == nullptr ? std::numeric_limits<double>::quiet_NaN() : *number;
}

size_t ee_bundle_segment_count(const ee_bundle* bundle) { return bundle->segments.size(); }

const char* ee_bundle_segment(const ee_bundle* bundle, size_t index) {
  return index < bundle->segments.size() ? bundle->segments[index] : nullptr;
}

size_t ee_bundle_label_count(const ee_bundle* bundle) { return plan_of(bundle).labels.size(); }

const char* ee_bundle_label(const ee_bundle* bundle, int64_t index) {
  const auto& labels = plan_of(bundle).labels;
  return index >= 0 && static_cast<size_t>(index) < labels.size() ? labels[static_cast<size_t>(index)].c_str() : nullptr;
}

const char* ee_bundle_onnxruntime(const ee_bundle* bundle) { return bundle->program->ort().version().c_str(); }

ee_code ee_runner_new(const ee_bundle* bundle, ee_runner** runner, ee_error* error) {
  return guarded(error, [&] {
    require(runner, "runner");
    *runner = nullptr;
    require(bundle, "bundle");
    *runner = new ee_runner{eetoolkit::Runner(bundle->program)};
  });
}

void ee_runner_free(ee_runner* runner) { delete runner; }

ee_code ee_run(ee_runner* runner, const ee_call* call, const ee_answer** answer, ee_error* error) {
  return guarded(error, [&] {
    require(runner, "runner");
    require(call, "call");
    if (answer != nullptr) *answer = nullptr;
    const ee_answer& found = runner->runner.run(complete(call, "ee_call"));
    if (answer != nullptr) *answer = &found;
  });
}

ee_code ee_refine(ee_runner* runner, const ee_call* call, ee_on_answer told, void* user, const ee_answer** answer,
                  ee_error* error) {
  return guarded(error, [&] {
    require(runner, "runner");
    require(call, "call");
    if (answer != nullptr) *answer = nullptr;
    const ee_answer& found = runner->runner.refine(complete(call, "ee_call"), {told, user});
    if (answer != nullptr) *answer = &found;
  });
}

ee_code ee_run_all_exits(ee_runner* runner, const ee_call* call, ee_on_answer told, void* user, ee_error* error) {
  return guarded(error, [&] {
    require(runner, "runner");
    require(call, "call");
    runner->runner.run_all_exits(complete(call, "ee_call"), {told, user});
  });
}

void ee_runner_trace(ee_runner* runner, ee_on_segment told, void* user) { runner->runner.trace(told, user); }
void ee_runner_interrupt(ee_runner* runner) { runner->runner.interrupt(); }
void ee_runner_clear(ee_runner* runner) { runner->runner.clear(); }

ee_code ee_verify(ee_bundle* bundle, int32_t* passed, const char** report, ee_error* error) {
  return guarded(error, [&] {
    require(bundle, "bundle");
    const eetoolkit::VerifyReport found = eetoolkit::verify(bundle->program);
    bundle->report = found.text();
    if (passed != nullptr) *passed = found.failures.empty() ? 1 : 0;
    if (report != nullptr) *report = bundle->report.c_str();
  });
}
