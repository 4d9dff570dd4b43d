#include "arguments.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "error.h"
#include "files.h"

namespace eetoolkit::programs {

const std::vector<std::string> kOptions{"--onnxruntime", "--threads", "--spin", "--pool"};
const std::vector<std::string> kFlags{"--full"};

Arguments::Arguments(int count, char** arguments, const std::vector<std::string>& options,
                     const std::vector<std::string>& flags) {
  const auto is_in = [](const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (int place = 1; place < count; ++place) {
    const std::string argument = arguments[place];
    if (is_in(flags, argument) || is_in(kFlags, argument)) {
      options_.emplace_back(argument, "");
    } else if (is_in(options, argument) || is_in(kOptions, argument)) {
      if (++place == count) throw Usage{};
      options_.emplace_back(argument, arguments[place]);
    } else if (argument.size() > 1 && argument[0] == '-') {
      throw Usage{};
    } else {
      plain_.push_back(argument);
    }
  }
}

const char* Arguments::option(const std::string& name) const {
  const auto found = std::find_if(options_.rbegin(), options_.rend(), [&](const auto& each) { return each.first == name; });
  return found == options_.rend() ? nullptr : found->second.c_str();
}

std::vector<std::string> Arguments::all(const std::string& name) const {
  std::vector<std::string> found;
  for (const auto& [option, value] : options_) {
    if (option == name) found.push_back(value);
  }
  return found;
}

bool Arguments::flag(const std::string& name) const { return option(name) != nullptr; }

double Arguments::number(const std::string& name, double otherwise) const {
  const char* text = option(name);
  if (text == nullptr) return otherwise;
  char* end = nullptr;
  const double number = std::strtod(text, &end);
  if (*text == '\0' || *end != '\0' || std::isnan(number)) throw Failure{join(name, " is ", repr(std::string_view(text)), ", expected a number")};
  return number;
}

void check(ee_code code, const ErrorHandle& error) {
  if (code != EE_OK) throw Failure{join(ee_code_name(code), ": ", ee_error_text(error.get()))};
}

BundleHandle open_bundle(const std::string& folder, const ee_options& options) {
  const ErrorHandle error(ee_error_new(), ee_error_free);
  ee_bundle* bundle = nullptr;
  check(ee_bundle_open(folder.c_str(), &options, &bundle, error.get()), error);
  return {bundle, ee_bundle_free};
}

RunnerHandle make_runner(const BundleHandle& bundle) {
  const ErrorHandle error(ee_error_new(), ee_error_free);
  ee_runner* runner = nullptr;
  check(ee_runner_new(bundle.get(), &runner, error.get()), error);
  return {runner, ee_runner_free};
}

ee_options options_of(const Arguments& arguments) {
  const auto choice = [&](const char* name, std::initializer_list<const char*> choices) {
    const char* text = arguments.option(name);
    int32_t place = 0;
    for (const char* each : choices) {
      if (text == nullptr || std::strcmp(text, each) == 0) return place;
      ++place;
    }
    throw Failure{join(name, " is ", repr(std::string_view(text)), ", expected ",
                       listed(std::vector<std::string>(choices.begin(), choices.end())))};
  };
  ee_options options{};
  options.size = sizeof options;
  options.onnxruntime = arguments.option("--onnxruntime");
  options.threads = static_cast<int32_t>(std::clamp(arguments.number("--threads", 0), -1.0, 1e6));
  options.spin = choice("--spin", {"brief", "always", "never"});
  options.pool = choice("--pool", {"own", "shared"});
  options.check = arguments.flag("--full") ? EE_CHECK_FULL : EE_CHECK_QUICK;
  return options;
}

std::string read_file(const std::string& path) {
  try {
    return read_regular(path, UINT32_MAX);
  } catch (const FileError& error) {
    throw Failure{join("cannot read ", path, ": ", std::strerror(error.number))};
  } catch (const Error& error) {
    throw Failure{error.what()};
  }
}

}  // namespace eetoolkit::programs
