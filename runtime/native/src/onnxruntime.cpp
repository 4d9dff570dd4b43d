#include "onnxruntime.h"

#include <dlfcn.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace eetoolkit {
namespace {

constexpr const char* kVariable = "EETOOLKIT_ONNXRUNTIME";
#if defined(__APPLE__)
constexpr const char* kLibrary = "libonnxruntime.dylib";
#else
constexpr const char* kLibrary = "libonnxruntime.so";
#endif

// What onnxruntime's Python binding calls its codes.
constexpr std::array<const char*, 12> kCodes{
    "OK", "FAIL", "INVALID_ARGUMENT", "NO_SUCHFILE", "NO_MODEL", "ENGINE_ERROR",
    "RUNTIME_EXCEPTION", "INVALID_PROTOBUF", "MODEL_LOADED", "NOT_IMPLEMENTED", "INVALID_GRAPH", "EP_FAIL",
};

const OrtApiBase& open_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    throw run_error("cannot open onnxruntime: ", reason == nullptr ? path.c_str() : reason, "; name its library by ",
                    kVariable, " or the option `onnxruntime`");
  }
  using GetApiBase = const OrtApiBase*(ORT_API_CALL*)();
  const auto get = reinterpret_cast<GetApiBase>(dlsym(library, "OrtGetApiBase"));
  if (get == nullptr) throw run_error(path, " is no library of onnxruntime: it has no OrtGetApiBase");
  return *get();
}

std::string text_of(const OrtApi& api, const OrtStatus& status) {
  const OrtErrorCode code = api.GetErrorCode(&status);
  const char* name = static_cast<size_t>(code) < kCodes.size() ? kCodes[code] : "UNKNOWN";
  return first_line(join("[ONNXRuntimeError] : ", static_cast<int>(code), " : ", name, " : ",
                         api.GetErrorMessage(&status)));
}

}  // namespace

Onnxruntime& Onnxruntime::at(const char* path, const void* api_base) {
  static std::mutex mutex;
  static auto& opened = *new std::map<const OrtApiBase*, std::unique_ptr<Onnxruntime>>;  // beyond the end of `main`
  const char* variable = std::getenv(kVariable);
  const bool is_set = variable != nullptr && *variable != '\0';
  const OrtApiBase& base = api_base != nullptr ? *static_cast<const OrtApiBase*>(api_base)
                           : path != nullptr   ? open_library(path)
                                               : open_library(is_set ? variable : kLibrary);
  const std::lock_guard<std::mutex> lock(mutex);
  auto& found = opened[&base];
  if (found == nullptr) found = std::make_unique<Onnxruntime>(base);
  return *found;
}

Onnxruntime::Onnxruntime(const OrtApiBase& base) : api_(base.GetApi(ORT_API_VERSION)), version_(base.GetVersionString()) {
  if (api_ == nullptr) throw run_error("onnxruntime ", version_, " is too old, expected 1.", ORT_API_VERSION, " or newer");
  check(api_->GetAllocatorWithDefaultOptions(&allocator_));
  cpu_ = make<OrtMemoryInfo>(api_->ReleaseMemoryInfo, [&](OrtMemoryInfo** made) {
    return api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, made);
  });
}

bool Onnxruntime::is_at_least(int major, int minor) const {
  std::array<int, 2> own{};
  std::sscanf(version_.c_str(), "%d.%d", &own[0], &own[1]);
  return std::pair(own[0], own[1]) >= std::pair(major, minor);
}

const OrtEnv* Onnxruntime::environment(bool shared, int threads) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (environment_.get() == nullptr && shared) {
    const auto options = make<OrtThreadingOptions>(api_->ReleaseThreadingOptions, api_->CreateThreadingOptions);
    check(api_->SetGlobalIntraOpNumThreads(options.get(), threads));
    check(api_->SetGlobalInterOpNumThreads(options.get(), 1));
    environment_ = make<OrtEnv>(api_->ReleaseEnv, [&](OrtEnv** made) {
      return api_->CreateEnvWithGlobalThreadPools(ORT_LOGGING_LEVEL_FATAL, "eetoolkit", options.get(), made);
    });
    pool_threads_ = threads;
  } else if (environment_.get() == nullptr) {
    environment_ = make<OrtEnv>(api_->ReleaseEnv, [&](OrtEnv** made) {
      return api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "eetoolkit", made);
    });
  }
  if (shared && !pool_threads_) {
    throw run_error("this process runs bundles with pools of their own already; open all with one pool or the other");
  }
  if (!shared && pool_threads_) {
    throw run_error("this process has a shared pool, beside which onnxruntime allows no other: pass EE_POOL_SHARED");
  }
  const auto spelled = [](int count) { return count == 0 ? std::string("all") : std::to_string(count); };
  if (shared && *pool_threads_ != threads) {
    throw run_error("the shared pool has ", spelled(*pool_threads_), " threads in this process already, asked for ",
                    spelled(threads), ": onnxruntime sets it once");
  }
  return environment_.get();
}

void Onnxruntime::fail(OrtStatus* status) const {
  OrtFailure failure{text_of(*api_, *status)};
  api_->ReleaseStatus(status);
  throw failure;
}

void Onnxruntime::check_run(OrtStatus* status) const {
  if (status == nullptr) return;
  OrtFailure failure{first_line(join("Error in execution: ", api_->GetErrorMessage(status)))};
  api_->ReleaseStatus(status);
  throw failure;
}

ONNXTensorElementDataType element_type(DType dtype) {
  constexpr std::array<ONNXTensorElementDataType, 12> kTypes{
      ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,  ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
      ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
      ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,   ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
      ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,  ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
  };
  return kTypes[static_cast<size_t>(dtype)];
}

}  // namespace eetoolkit
