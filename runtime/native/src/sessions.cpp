#include "sessions.h"

#include <algorithm>
#include <cstdlib>
#include <set>

#include "files.h"

namespace eetoolkit {
namespace {

constexpr const char* kBriefSpinUs = "20";
constexpr int kSpinDurationSince = 26;  // the first release 1.x that reads session.intra_op.spin_duration_us

std::vector<std::string> as_vector(const std::set<std::string>& names) { return {names.begin(), names.end()}; }

}  // namespace

Sessions::Sessions(const Bundle& bundle, Onnxruntime& ort, SessionSettings settings)
    : bundle_(bundle), ort_(ort), settings_(std::move(settings)), sessions_(bundle.plan.segments.size()) {
  const std::string needed = bundle.plan.onnxruntime.value_or("0.0");
  if (!ort.is_at_least(std::atoi(needed.c_str()), std::atoi(needed.c_str() + needed.find('.') + 1))) {
    throw bundle_error(shown(bundle.folder), " needs onnxruntime ", needed, " or newer, ", ort.version(), " runs here");
  }
  try {
    environment_ = ort.environment(settings_.shared_pool, settings_.threads);
    // A provider that onnxruntime does not know is refused now, and not in the middle of a call.
    const auto scratch = ort.make<OrtSessionOptions>(ort.api().ReleaseSessionOptions, ort.api().CreateSessionOptions);
    append_providers(shown(bundle.folder), scratch.get());
  } catch (const OrtFailure& failure) {
    throw run_error("onnxruntime ", ort.version(), " does not start: ", failure.text);
  }
}

OrtSession* Sessions::at(size_t segment) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Owned<OrtSession>& session = sessions_[segment];
  if (session.get() == nullptr) {
    const auto& [name, found] = bundle_.plan.segments.item(segment);
    session = open(name, found);
  }
  return session.get();
}

void Sessions::open_all() {
  for (size_t segment = 0; segment < sessions_.size(); ++segment) {
    if (bundle_.plan.segments.item(segment).second.model) static_cast<void>(at(segment));
  }
}

Owned<OrtSession> Sessions::open(const std::string& name, const Segment& segment) const {
  const std::string what = join("segment ", repr(std::string_view(name)));
  std::string graph;
  try {
    graph = bundle_.graph(segment);
  } catch (const Error& error) {
    throw integrity_error(what, ": ", error.what());
  }
  const OrtApi& api = ort_.api();
  try {
    const Owned<OrtSessionOptions> chosen = options(segment);
    append_providers(what, chosen.get());
    Owned<OrtSession> session = ort_.make<OrtSession>(api.ReleaseSession, [&](OrtSession** made) {
      return api.CreateSessionFromArray(environment_, graph.data(), graph.size(), chosen.get(), made);
    });
    check_names(what, session.get(), segment);
    return session;
  } catch (const OrtFailure& failure) {
    throw integrity_error(what, ": onnxruntime ", ort_.version(), " cannot load ",
                          joined_path(bundle_.folder, *segment.model), ": ", failure.text);
  }
}

Owned<OrtSessionOptions> Sessions::options(const Segment& segment) const {
  const OrtApi& api = ort_.api();
  auto made = ort_.make<OrtSessionOptions>(api.ReleaseSessionOptions, api.CreateSessionOptions);
  OrtSessionOptions* options = made.get();
  const auto set = [&](const char* key, const char* value) {
    ort_.check(api.AddSessionConfigEntry(options, key, value));
  };
  ort_.check(api.SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_FATAL));
  if (!settings_.arena) ort_.check(api.DisableCpuMemArena(options));
  if (!settings_.prepack || !segment.prepack) set("session.disable_prepacking", "1");
  ort_.check(api.AddFreeDimensionOverrideByName(options, kBatch.data(), 1));
  set("session.model_external_initializers_file_folder_path", bundle_.folder.c_str());
  if (settings_.shared_pool) {
    ort_.check(api.DisablePerSessionThreads(options));
    return made;
  }
  if (settings_.threads > 0) ort_.check(api.SetIntraOpNumThreads(options, settings_.threads));
  ort_.check(api.SetInterOpNumThreads(options, 1));
  if (settings_.spin == Spin::never) {
    set("session.intra_op.allow_spinning", "0");
  } else if (settings_.spin == Spin::brief && ort_.is_at_least(1, kSpinDurationSince)) {
    set("session.intra_op.spin_duration_us", kBriefSpinUs);
  } else if (settings_.spin == Spin::brief) {
    set("session.force_spinning_stop", "1");
  }
  return made;
}

void Sessions::append_providers(const std::string& what, OrtSessionOptions* options) const {
  for (const Provider& provider : settings_.providers) {
    std::vector<const char*> keys;
    std::vector<const char*> values;
    for (const auto& [key, value] : provider.options) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
    try {
      ort_.check(ort_.api().SessionOptionsAppendExecutionProvider(options, provider.name.c_str(), keys.data(),
                                                                  values.data(), keys.size()));
    } catch (const OrtFailure& failure) {
      throw Error(EE_PROVIDER_ERROR, join(what, ": onnxruntime ", ort_.version(), " cannot use the provider ",
                                          repr(std::string_view(provider.name)), ": ", failure.text));
    }
  }
}

void Sessions::check_names(const std::string& what, OrtSession* session, const Segment& segment) const {
  std::set<std::string> reads;
  std::set<std::string> outputs;
  for (const auto& [input, source] : segment.reads) reads.insert(input);
  for (const auto& [slot, source] : segment.writes) {
    if (source.output) outputs.insert(*source.output);
  }
  const auto check = [&](const char* kind, const std::vector<std::string>& got, const std::set<std::string>& expected,
                         bool exact) {
    const std::set<std::string> distinct(got.begin(), got.end());
    const bool has_all = std::includes(distinct.begin(), distinct.end(), expected.begin(), expected.end());
    if (has_all && (!exact || distinct.size() == expected.size())) return;
    throw integrity_error(what, ": its graph's ", kind, " are ", repr(got), ", the manifest names ",
                          repr(as_vector(expected)), "; export again");
  };
  check("inputs", names(session, true), reads, true);
  check("outputs", names(session, false), outputs, false);
  for (const std::string& output : outputs) {
    if (reads.count(output) == 0) continue;
    // onnxruntime leaves a bound output as it was there, and says nothing.
    throw integrity_error(what, ": the output ", repr(std::string_view(output)),
                          " of its graph is an input; write it as a move");
  }
}

std::vector<std::string> Sessions::names(OrtSession* session, bool inputs) const {
  const OrtApi& api = ort_.api();
  size_t count = 0;
  ort_.check(inputs ? api.SessionGetInputCount(session, &count) : api.SessionGetOutputCount(session, &count));
  std::vector<std::string> found;
  for (size_t place = 0; place < count; ++place) {
    char* name = nullptr;
    const auto get = inputs ? api.SessionGetInputName : api.SessionGetOutputName;
    ort_.check(get(session, place, ort_.allocator(), &name));
    found.emplace_back(name);
    ort_.check(api.AllocatorFree(ort_.allocator(), name));
  }
  return found;
}

}  // namespace eetoolkit
