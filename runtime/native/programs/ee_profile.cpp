// Says what each segment and each exit of a bundle costs on this machine, as `eetoolkit tune --profile` takes it.
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "arguments.h"
#include "profile_json.h"

namespace {

using eetoolkit::Clock;
using eetoolkit::join;
using namespace eetoolkit::programs;

constexpr const char* kUsage =
    "usage: ee-profile BUNDLE [-o FILE] [--overwrite] [--seconds S] [--onnxruntime LIBRARY] [--threads N] [--spin S]\n"
    "                  [--pool P] [--full]\n"
    "Runs the bundle's golden samples for at most --seconds in all (5; 0: without a bound), and writes a profile as JSON;\n"
    "without -o to the standard output.";
constexpr double kLongestS = 24 * 3600;
constexpr int kMostThreads = 1024;

struct Asked {
  double seconds;
  eetoolkit::SessionSettings settings;
  bool full;
};

Asked asked_of(const Arguments& arguments) {
  const ee_options options = options_of(arguments);
  Asked asked{arguments.number("--seconds", 5), {}, options.check == EE_CHECK_FULL};
  if (!(asked.seconds >= 0 && asked.seconds <= kLongestS)) {
    throw Failure{join("--seconds is ", eetoolkit::repr(asked.seconds), ", expected 0 to ", static_cast<int>(kLongestS))};
  }
  if (options.threads < 0 || options.threads > kMostThreads) {
    throw Failure{join("--threads is ", options.threads, ", expected 1 to ", kMostThreads)};
  }
  asked.settings.threads = options.threads;
  asked.settings.spin = static_cast<eetoolkit::Spin>(options.spin);
  asked.settings.shared_pool = options.pool == EE_POOL_SHARED;
  return asked;
}

// Writes a whole file or none.
void write_file(const std::string& path, const std::string& text) {
  const std::string part = path + ".part";
  std::FILE* file = std::fopen(part.c_str(), "wb");
  bool written = file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (file != nullptr) written = std::fclose(file) == 0 && written;
  if (written && std::rename(part.c_str(), path.c_str()) == 0) return;
  const int number = errno;
  if (file != nullptr) std::remove(part.c_str());
  throw Failure{join("cannot write ", path, ": ", std::strerror(number))};
}

void print_summary(const Found& found, const std::vector<Row>& rows, const eetoolkit::Program& program) {
  std::printf("%s: %zu input%s, %zu rounds\n", eetoolkit::flat(program.plan().name).c_str(), rows.size(),
              rows.size() == 1 ? "" : "s", found.rounds);
  std::printf("a call %.4g ms in the mean; a full path %.4g ms\n", found.all_calls.summary().mean_ms,
              found.full.summary().mean_ms);
  for (const auto& [name, runs] : found.exits) std::printf("to %s: %.4g ms\n", name.c_str(), runs.summary().mean_ms);
}

int profile(int count, char** given) {
  const Clock::time_point started = Clock::now();
  const Arguments arguments(count, given, {"--seconds", "-o"}, {"--overwrite"});
  if (arguments.plain().size() != 1) throw Usage{};
  const Asked asked = asked_of(arguments);
  const char* target = arguments.option("-o");
  if (target != nullptr && !arguments.flag("--overwrite") && std::filesystem::exists(target)) {
    throw Failure{join(target, " exists; pass --overwrite to replace it")};
  }
  Measured measured;
  measured.began = now_utc();
  measured.before = condition();
  measured.resident = resident_bytes();
  measured.threads = asked.settings.threads;
  const char* const spins[] = {"brief", "always", "never"};
  measured.spin = spins[static_cast<size_t>(asked.settings.spin)];
  measured.pool = asked.settings.shared_pool ? "shared" : "own";
  eetoolkit::Bundle bundle = eetoolkit::open_bundle(arguments.plain()[0], asked.full);
  const std::vector<eetoolkit::Sample> samples = eetoolkit::read_golden(bundle);
  if (samples.empty()) throw Failure{"InputError: the bundle has no golden samples; export it with some"};
  auto& ort = eetoolkit::Onnxruntime::at(arguments.option("--onnxruntime"), nullptr);
  const bool most_confident = bundle.plan.most_confident;
  const auto program = std::make_shared<eetoolkit::Program>(std::move(bundle), ort, asked.settings, most_confident);
  for (const eetoolkit::Node& node : program->nodes()) {
    if (!node.has_model) continue;
    const Clock::time_point before = Clock::now();
    (void)program->sessions().at(node.place);
    measured.load_ms[node.name] = eetoolkit::ms_between(before, Clock::now());
  }
  measured.opened = resident_bytes();
  Rounds rounds(program, started, asked.seconds);
  rounds.ask(samples);
  const Found found = rounds.measure();
  measured.peak = peak_bytes();
  measured.after = condition();
  const std::string text = profile_json(*program, measured, rounds.rows(), found);
  if (target == nullptr) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return 0;
  }
  write_file(target, text);
  print_summary(found, rounds.rows(), *program);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  return run_main(kUsage, [&] {
    try {
      return profile(count, arguments);
    } catch (const eetoolkit::Error& error) {
      throw Failure{join(ee_code_name(error.code()), ": ", error.what())};
    } catch (const eetoolkit::OrtFailure& failure) {
      throw Failure{join("RunError: ", failure.text)};
    }
  });
}
