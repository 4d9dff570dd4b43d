// onnxruntime sessions: one per segment, opened when first reached, with thread settings that do not fight each other.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bundle.h"
#include "onnxruntime.h"

namespace eetoolkit {

enum class Spin { brief, always, never };

struct Provider {
  std::string name;
  std::vector<std::pair<std::string, std::string>> options;
};

struct SessionSettings {
  int threads = 0;  // workers for each operator; 0: one per physical core
  Spin spin = Spin::brief;
  bool shared_pool = false;
  bool arena = true;
  bool prepack = true;
  std::vector<Provider> providers;  // before the CPU
};

// The sessions of a bundle, by the place of their segment in the plan; safe under concurrent calls.
class Sessions {
 public:
  // Throws BundleError where this onnxruntime is too old for the bundle, ProviderError where it has no such provider.
  Sessions(const Bundle& bundle, Onnxruntime& ort, SessionSettings settings);

  // Opens a segment's session if need be. Throws IntegrityError where it cannot be loaded.
  [[nodiscard]] OrtSession* at(size_t segment);
  void open_all();

 private:
  [[nodiscard]] Owned<OrtSession> open(const std::string& name, const Segment& segment) const;
  [[nodiscard]] Owned<OrtSessionOptions> options(const Segment& segment) const;
  void append_providers(const std::string& what, OrtSessionOptions* options) const;
  void check_names(const std::string& what, OrtSession* session, const Segment& segment) const;
  [[nodiscard]] std::vector<std::string> names(OrtSession* session, bool inputs) const;

  const Bundle& bundle_;
  Onnxruntime& ort_;
  SessionSettings settings_;
  const OrtEnv* environment_;
  std::mutex mutex_;
  std::vector<Owned<OrtSession>> sessions_;
};

}  // namespace eetoolkit
