// Says whether a bundle gives on this machine what the source network gave.
#include "arguments.h"

namespace {

constexpr const char* kUsage = "usage: ee-verify BUNDLE [--onnxruntime LIBRARY] [--threads N] [--spin S] [--pool P]";

int verify(int count, char** given) {
  using namespace eetoolkit::programs;
  const Arguments arguments(count, given, {}, {});
  if (arguments.plain().size() != 1) throw Usage{};
  const BundleHandle bundle = open_bundle(arguments.plain()[0], options_of(arguments));
  const ErrorHandle error(ee_error_new(), ee_error_free);
  int32_t passed = 0;
  const char* report = nullptr;
  check(ee_verify(bundle.get(), &passed, &report, error.get()), error);
  std::printf("%s\n", report);
  return passed == 1 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  return eetoolkit::programs::run_main(kUsage, [&] { return verify(count, arguments); });
}
