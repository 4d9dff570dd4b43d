#include "machine.h"

#include <sys/utsname.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

namespace eetoolkit::programs {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kReadings = 1000;
constexpr int64_t kThrottlingNow = 0b1111;  // of the Raspberry Pi's `get_throttled`; bits 16 to 19: ever
constexpr const char* kCpus = "/sys/devices/system/cpu";

// A kernel's file without white space at its end; nothing where it is not there or may not be read.
std::optional<std::string> text_of(const std::string& path) {
  std::ifstream file(path);
  std::stringstream content;
  if (!file || !(content << file.rdbuf())) return std::nullopt;
  std::string text = content.str();
  text.erase(text.find_last_not_of(std::string(" \n\t\0", 4)) + 1);
  return text;
}

std::optional<double> number_in(const std::string& text, int base = 0) {
  char* end = nullptr;
  const double number = base == 16 ? static_cast<double>(std::strtoll(text.c_str(), &end, 16)) : std::strtod(text.c_str(), &end);
  if (end == text.c_str()) return std::nullopt;
  return number;
}

// What every entry of a folder whose name begins so has in a file below it.
std::vector<std::string> texts_of(const std::string& folder, const std::string& beginning, const std::string& file) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().filename().string().compare(0, beginning.size(), beginning) != 0) continue;
    if (auto text = text_of((entry.path() / file).string())) found.push_back(*text);
  }
  return found;
}

std::vector<double> numbers_of(const std::string& folder, const std::string& beginning, const std::string& file) {
  std::vector<double> found;
  for (const std::string& text : texts_of(folder, beginning, file)) {
    if (const auto number = number_in(text)) found.push_back(*number);
  }
  return found;
}

// What stands behind a key in every line that begins with it.
std::vector<std::string> lines_of(const std::string& path, const std::string& key) {
  std::vector<std::string> found;
  std::stringstream lines(text_of(path).value_or(""));
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(':');
    if (line.compare(0, key.size(), key) != 0 || colon == std::string::npos) continue;
    const size_t start = line.find_first_not_of(" \t", colon + 1);
    found.push_back(start == std::string::npos ? "" : line.substr(start));
  }
  return found;
}

std::optional<int64_t> kibibytes_in(const std::string& path, const std::string& key) {
  const std::vector<std::string> lines = lines_of(path, key);
  const auto number = lines.empty() ? std::nullopt : number_in(lines.front());
  if (!number) return std::nullopt;
  return static_cast<int64_t>(*number) * 1024;
}

std::optional<double> mean(const std::vector<double>& values) {
  if (values.empty()) return std::nullopt;
  double total = 0;
  for (const double value : values) total += value;
  return total / static_cast<double>(values.size());
}

std::optional<double> highest(const std::vector<double>& values, double scale) {
  if (values.empty()) return std::nullopt;
  return *std::max_element(values.begin(), values.end()) * scale;
}

std::optional<double> clock_mhz() {
  if (const auto khz = mean(numbers_of(kCpus, "cpu", "cpufreq/scaling_cur_freq"))) return *khz / 1e3;
  std::vector<double> found;
  for (const std::string& line : lines_of("/proc/cpuinfo", "cpu MHz")) {
    if (const auto mhz = number_in(line)) found.push_back(*mhz);
  }
  return mean(found);
}

}  // namespace

Machine this_machine() {
  utsname names{};
  uname(&names);
  Machine machine;
  const std::vector<std::string> models = lines_of("/proc/cpuinfo", "model name");
  const std::string board = text_of("/proc/device-tree/model").value_or("");
  machine.processor = models.empty() ? "" : models.front();
  if (!board.empty()) machine.processor += (machine.processor.empty() ? "" : ", ") + board;
  if (machine.processor.empty()) machine.processor = names.machine;
  machine.cores = std::max(1U, std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) machine.cores = CPU_COUNT(&allowed);
#endif
  machine.memory_bytes = kibibytes_in("/proc/meminfo", "MemTotal");
  machine.system = std::string(names.sysname) + ' ' + names.release + ' ' + names.machine;
  return machine;
}

Condition condition() {
  Condition now;
  const std::vector<std::string> texts = texts_of(kCpus, "cpu", "cpufreq/scaling_governor");
  for (const std::string& name : std::set<std::string>(texts.begin(), texts.end())) {
    now.governor = now.governor ? *now.governor + ", " + name : name;
  }
  now.clock_mhz = clock_mhz();
  now.limit_mhz = highest(numbers_of(kCpus, "cpu", "cpufreq/scaling_max_freq"), 1e-3);
  now.temperature_c = highest(numbers_of("/sys/class/thermal", "thermal_zone", "temp"), 1e-3);
  if (now.temperature_c && *now.temperature_c <= 0) now.temperature_c.reset();
  const auto word = text_of("/sys/devices/platform/soc/soc:firmware/get_throttled");
  if (const auto bits = word ? number_in(*word, 16) : std::nullopt) {
    now.throttled = *bits != 0;
    now.throttling = (static_cast<int64_t>(*bits) & kThrottlingNow) != 0;
  } else if (const auto count = highest(numbers_of(kCpus, "cpu", "thermal_throttle/core_throttle_count"), 1)) {
    now.throttled = *count > 0;
  }
  if (const auto text = text_of("/proc/loadavg")) now.load = number_in(*text);
  return now;
}

std::optional<int64_t> resident_bytes() { return kibibytes_in("/proc/self/status", "VmRSS"); }
std::optional<int64_t> peak_bytes() { return kibibytes_in("/proc/self/status", "VmHWM"); }

double timer_step_us() {
  std::optional<int64_t> least;
  Clock::time_point before = Clock::now();
  for (int reading = 0; reading < kReadings; ++reading) {
    const Clock::time_point now = Clock::now();
    const int64_t step = std::chrono::nanoseconds(now - before).count();
    if (step > 0 && (!least || step < *least)) least = step;
    before = now;
  }
  return static_cast<double>(least.value_or(1)) / 1e3;
}

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S+00:00", &parts)};
}

}  // namespace eetoolkit::programs
