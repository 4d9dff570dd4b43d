#include "profile_json.h"

#include <algorithm>
#include <cstdlib>

#include "json.h"

namespace eetoolkit::programs {
namespace {

constexpr int kVersion = 6;

// An object that is being written.
class Object {
 public:
  Object(yyjson_mut_doc* document, yyjson_mut_val* value) : document_(document), value_(value) {}

  void set(std::string_view key, yyjson_mut_val* value) const {
    yyjson_mut_obj_add(value_, yyjson_mut_strncpy(document_, key.data(), key.size()), value);
  }
  void set(std::string_view key, double number) const { set(key, yyjson_mut_real(document_, number)); }
  void set(std::string_view key, std::string_view text) const {
    set(key, yyjson_mut_strncpy(document_, text.data(), text.size()));
  }
  void set_count(std::string_view key, uint64_t number) const { set(key, yyjson_mut_uint(document_, number)); }
  void set_flag(std::string_view key, bool value) const { set(key, yyjson_mut_bool(document_, value)); }
  void set_null(std::string_view key) const { set(key, yyjson_mut_null(document_)); }
  [[nodiscard]] Object object(std::string_view key) const {
    yyjson_mut_val* inner = yyjson_mut_obj(document_);
    set(key, inner);
    return {document_, inner};
  }
  void set(std::string_view key, const Latency& latency) const {
    const Object inner = object(key);
    inner.set_count("runs", latency.runs);
    inner.set("mean_ms", latency.mean_ms);
    inner.set("robust_ms", latency.robust_ms);
    inner.set("p50_ms", latency.p50_ms);
    inner.set("p90_ms", latency.p90_ms);
    inner.set("p99_ms", latency.p99_ms);
    inner.set("spread_ms", latency.spread_ms);
    inner.set_count("outliers", latency.outliers);
    yyjson_mut_val* quantiles = yyjson_mut_arr(document_);
    for (const double quantile : latency.quantiles_ms) yyjson_mut_arr_add_real(document_, quantiles, quantile);
    inner.set("quantiles_ms", quantiles);
  }
  void set(std::string_view key, const Condition& condition) const {
    const Object inner = object(key);
    if (condition.governor) inner.set("governor", *condition.governor);
    if (condition.clock_mhz) inner.set("clock_mhz", *condition.clock_mhz);
    if (condition.limit_mhz) inner.set("limit_mhz", *condition.limit_mhz);
    if (condition.temperature_c) inner.set("temperature_c", *condition.temperature_c);
    if (condition.throttled) inner.set_flag("throttled", *condition.throttled);
    if (condition.throttling) inner.set_flag("throttling", *condition.throttling);
    if (condition.load) inner.set("load", *condition.load);
  }
  // Sets it to the summary of some runs; null where there are none.
  void set_runs(std::string_view key, const std::map<std::string, Runs>& all, const std::string& name) const {
    const auto runs = all.find(name);
    if (runs == all.end()) set_null(key);
    else set(key, runs->second.summary());
  }

 private:
  yyjson_mut_doc* document_;
  yyjson_mut_val* value_;
};

void write_machine(const Object& root, const Program& program) {
  const Machine machine = this_machine();
  const Object inner = root.object("machine");
  inner.set("processor", machine.processor);
  inner.set_count("cores", static_cast<uint64_t>(machine.cores));
  if (machine.memory_bytes) inner.set_count("memory_bytes", static_cast<uint64_t>(*machine.memory_bytes));
  inner.set("system", machine.system);
  inner.set("onnxruntime", program.ort().version());
}

void write_memory(const Object& root, const Measured& measured) {
  const Object inner = root.object("memory");
  if (measured.resident) inner.set_count("before", static_cast<uint64_t>(*measured.resident));
  if (measured.opened) inner.set_count("opened", static_cast<uint64_t>(*measured.opened));
  if (measured.peak) inner.set_count("peak", static_cast<uint64_t>(*measured.peak));
}

// What the manifest says of the segments' `work`, as it stands there.
std::map<std::string, std::map<std::string, uint64_t>> works_of(const std::string& manifest) {
  std::map<std::string, std::map<std::string, uint64_t>> works;
  const Document document(manifest);
  yyjson_val* segments = yyjson_obj_get(document.root().value(), "segments");
  Json(segments).members([&](std::string_view name, const Json& segment) {
    yyjson_val* work = yyjson_obj_get(segment.value(), "work");
    for (const char* key : {"nodes", "parameters", "multiply_adds"}) {
      yyjson_val* number = yyjson_obj_get(work, key);
      if (yyjson_is_uint(number)) works[std::string(name)][key] = yyjson_get_uint(number);
    }
  });
  return works;
}

void write_segments(const Object& root, const Program& program, const Measured& measured, const std::vector<Row>& rows,
                    const Found& found) {
  const Object all = root.object("segments");
  const Manifest& plan = program.plan();
  const auto works = works_of(program.bundle().text);
  for (const auto& [name, segment] : plan.segments) {
    if (!segment.model) continue;
    const Object inner = all.object(name);
    if (const auto work = works.find(name); work != works.end()) {
      for (const auto& [key, number] : work->second) inner.set_count(key, number);
    }
    uint64_t size = plan.files.at(*segment.model).size;
    for (const std::string& file : segment.weights) size += plan.files.at(file).size;
    size_t visits = 0;
    for (const Row& row : rows) visits += static_cast<size_t>(std::count(row.path.begin(), row.path.end(), name));
    inner.set_count("size_bytes", size);
    inner.set("load_ms", measured.load_ms.at(name));
    inner.set_runs("latency", found.segments, name);
    inner.set("visits", static_cast<double>(visits) / static_cast<double>(rows.size()));
    if (segment.exit) inner.set("exit", segment.exit->name);
  }
}

// What the segments of some paths take in the mean, each path as often as it was run.
double mean_of_paths(const std::map<Path, size_t>& paths, const std::map<std::string, double>& means) {
  double total = 0;
  size_t runs = 0;
  for (const auto& [path, count] : paths) {
    double taken = 0;
    for (const std::string& name : path) taken += means.at(name);
    total += static_cast<double>(count) * taken;
    runs += count;
  }
  return total / static_cast<double>(runs);
}

void write_exits(const Object& root, const Program& program, const std::vector<Row>& rows, const Found& found) {
  std::map<std::string, double> means;
  for (const auto& [name, runs] : found.segments) means[name] = runs.robust_mean();
  const auto set_paths = [&](const Object& inner, const char* key, const auto& all, const std::string& name) {
    if (const auto paths = all.find(name); paths != all.end()) inner.set(key, mean_of_paths(paths->second, means));
  };
  const auto calls = static_cast<double>(found.all_calls.summary().runs);
  const Object all = root.object("exits");
  for (const auto& [name, exit] : program.exits()) {
    const Object inner = all.object(name);
    size_t here = 0;
    for (const Row& row : rows) here += row.exit == name ? 1 : 0;
    inner.set_runs("latency", found.exits, name);
    set_paths(inner, "segments_ms", found.reached, name);
    inner.set_runs("call", found.calls, name);
    set_paths(inner, "called_ms", found.called, name);
    const auto ended = found.calls.find(name);
    inner.set("expected_ms", ended == found.calls.end() ? 0.0 : ended->second.total_ms() / calls);
    inner.set("share", static_cast<double>(here) / static_cast<double>(rows.size()));
  }
}

// All calls; what is robust is so for each exit, since deep calls are no outliers.
Latency expected(const Found& found) {
  Latency latency = found.all_calls.summary();
  latency.robust_ms = 0;
  for (const auto& [name, runs] : found.calls) {
    const Latency one = runs.summary();
    latency.robust_ms += static_cast<double>(one.runs) * one.robust_ms / static_cast<double>(latency.runs);
  }
  return latency;
}

}  // namespace

std::string profile_json(const Program& program, const Measured& measured, const std::vector<Row>& rows, const Found& found) {
  const std::unique_ptr<yyjson_mut_doc, void (*)(yyjson_mut_doc*)> document(yyjson_mut_doc_new(nullptr), yyjson_mut_doc_free);
  yyjson_mut_val* value = yyjson_mut_obj(document.get());
  yyjson_mut_doc_set_root(document.get(), value);
  const Object root(document.get(), value);
  const Manifest& plan = program.plan();
  root.set_count("version", kVersion);
  root.set("bundle", plan.name);
  const Object files = root.object("files");
  for (const auto& [name, file] : plan.files) {
    if (name.size() > 5 && name.substr(name.size() - 5) == ".onnx") files.set(name, file.sha256);
  }
  root.set("measured", measured.began);
  write_machine(root, program);
  root.set("backend", std::string_view("native"));
  root.set("timer_step_us", timer_step_us());
  root.set("before", measured.before);
  root.set("after", measured.after);
  if (measured.threads > 0) root.set_count("threads", static_cast<uint64_t>(measured.threads));
  else root.set_null("threads");
  root.set("spin", measured.spin);
  root.set("pool", measured.pool);
  root.set_count("rows", rows.size());
  root.set_count("timed", found.timed);
  yyjson_mut_val* lacking = yyjson_mut_arr(document.get());
  for (const char* part : found.no_time_for) yyjson_mut_arr_add_str(document.get(), lacking, part);
  root.set("no_time_for", lacking);
  root.set_count("rounds", found.rounds);
  root.set_count("warmup_rounds", found.warmup_rounds);
  root.set_flag("steady", found.steady);
  const Object thresholds = root.object("thresholds");
  for (const auto& [name, exit] : program.exits()) {
    if (const double* number = std::get_if<double>(&exit->threshold)) thresholds.set(name, *number);
    else thresholds.set(name, std::string_view(exit->ends() ? "always" : "never"));
  }
  write_segments(root, program, measured, rows, found);
  write_exits(root, program, rows, found);
  root.set("expected", expected(found));
  root.set("full_path", found.full.summary());
  root.set("overhead_us", 1e3 * quantile(found.overheads_ms, 0.5));
  write_memory(root, measured);
  size_t length = 0;
  char* text = yyjson_mut_write(document.get(), YYJSON_WRITE_PRETTY_TWO_SPACES | YYJSON_WRITE_NEWLINE_AT_END, &length);
  if (text == nullptr) throw std::bad_alloc();
  const std::unique_ptr<char, void (*)(void*)> owned(text, std::free);
  return {text, length};
}

}  // namespace eetoolkit::programs
