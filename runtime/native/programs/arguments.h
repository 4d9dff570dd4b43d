// The arguments of the programs, and what they share.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "eetoolkit.h"

namespace eetoolkit::programs {

using BundleHandle = std::unique_ptr<ee_bundle, decltype(&ee_bundle_free)>;
using RunnerHandle = std::unique_ptr<ee_runner, decltype(&ee_runner_free)>;
using ErrorHandle = std::unique_ptr<ee_error, decltype(&ee_error_free)>;

// What went wrong: printed by `run_main`, which ends with 1.
struct Failure {
  std::string text;
};

// How the program is used: printed by `run_main`, which ends with 2.
struct Usage {};

// Arguments that name no option, in order, and options as `--name value`.
class Arguments {
 public:
  // `flags` are the options without a value.
  Arguments(int count, char** arguments, const std::vector<std::string>& options, const std::vector<std::string>& flags);

  [[nodiscard]] const std::vector<std::string>& plain() const { return plain_; }
  // The last value of an option, or null.
  [[nodiscard]] const char* option(const std::string& name) const;
  [[nodiscard]] std::vector<std::string> all(const std::string& name) const;
  [[nodiscard]] bool flag(const std::string& name) const;
  // A number that an option says. Throws Failure where it is none.
  [[nodiscard]] double number(const std::string& name, double otherwise) const;

 private:
  std::vector<std::string> plain_;
  std::vector<std::pair<std::string, std::string>> options_;
};

// Throws Failure where a call failed.
void check(ee_code code, const ErrorHandle& error);
BundleHandle open_bundle(const std::string& folder, const ee_options& options);
RunnerHandle make_runner(const BundleHandle& bundle);
// Settings that every program takes: --onnxruntime, --threads, --spin, --pool, --full.
ee_options options_of(const Arguments& arguments);
extern const std::vector<std::string> kOptions;
extern const std::vector<std::string> kFlags;

std::string read_file(const std::string& path);

// Runs a program, and returns its exit status.
template <class Main>
int run_main(const char* usage, Main main) {
  try {
    const int status = main();
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) throw Failure{"cannot write to the standard output"};
    return status;
  } catch (const Failure& failure) {
    std::fprintf(stderr, "%s\n", failure.text.c_str());
    return 1;
  } catch (const Usage&) {
    std::fprintf(stderr, "%s\n", usage);
    return 2;
  }
}

}  // namespace eetoolkit::programs
