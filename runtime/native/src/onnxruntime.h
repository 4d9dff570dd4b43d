// onnxruntime, opened at run time: a binary that is linked against one release does not start with another.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "error.h"
#include "plan.h"

namespace eetoolkit {

// What onnxruntime says of a call that failed.
struct OrtFailure {
  std::string text;  // one line, as its Python binding spells it
};

// A value of onnxruntime and what releases it.
template <class T>
class Owned {
 public:
  using Release = void(ORT_API_CALL*)(T*);

  Owned() = default;
  Owned(T* value, Release release) : value_(value), release_(release) {}
  ~Owned() { reset(); }
  Owned(Owned&& other) noexcept : value_(std::exchange(other.value_, nullptr)), release_(other.release_) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(value_, other.value_);
    std::swap(release_, other.release_);
    return *this;
  }

  [[nodiscard]] T* get() const { return value_; }

 private:
  void reset() {
    if (value_ != nullptr) release_(value_);
    value_ = nullptr;
  }

  T* value_ = nullptr;
  Release release_ = nullptr;
};

// One onnxruntime of this process.
class Onnxruntime {
 public:
  // The one at a path, or the one that a host has; never let go of. Throws RunError.
  static Onnxruntime& at(const char* path, const void* api_base);

  explicit Onnxruntime(const OrtApiBase& base);

  [[nodiscard]] const OrtApi& api() const { return *api_; }
  [[nodiscard]] const std::string& version() const { return version_; }
  [[nodiscard]] OrtAllocator* allocator() const { return allocator_; }
  [[nodiscard]] const OrtMemoryInfo* cpu() const { return cpu_.get(); }
  // Whether it is of a release, such as 1.20, or newer.
  [[nodiscard]] bool is_at_least(int major, int minor) const;
  // The environment; `shared` asks for one pool of threads per process. Throws RunError where it is otherwise already.
  [[nodiscard]] const OrtEnv* environment(bool shared, int threads);

  // Throws OrtFailure where a call failed.
  void check(OrtStatus* status) const {
    if (status != nullptr) fail(status);
  }

  // Throws OrtFailure, in its Python binding's words, where a run failed.
  void check_run(OrtStatus* status) const;

  // Calls what makes a value, which `release` lets go of.
  template <class T, class Make>
  [[nodiscard]] Owned<T> make(typename Owned<T>::Release release, Make make) const {
    T* value = nullptr;
    check(make(&value));
    return Owned<T>(value, release);
  }

 private:
  [[noreturn]] void fail(OrtStatus* status) const;

  const OrtApi* api_;
  std::string version_;
  OrtAllocator* allocator_ = nullptr;
  Owned<OrtMemoryInfo> cpu_;
  std::mutex mutex_;
  Owned<OrtEnv> environment_;
  std::optional<int> pool_threads_;  // of the shared pool, 0 for all; none: there is no such pool
};

ONNXTensorElementDataType element_type(DType dtype);

}  // namespace eetoolkit
