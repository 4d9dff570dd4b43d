#include "rounds.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace eetoolkit::programs {
namespace {

constexpr double kAskedShare = 0.25, kWarmShare = 0.4;  // of all the time, until asking and warming up have ended
constexpr size_t kLeastWarmups = 3, kMostWarmups = 30;
constexpr double kSteady = 0.05;    // a round is steady that takes at most so much longer or shorter than the one before
constexpr double kRoundS = 0.25;    // a round, about: what the machine's speed changes by meanwhile is a difference
constexpr size_t kLeastRounds = 5;  // where there is time for them

// What a watched path tells.
struct Watched {
  std::vector<std::pair<const char*, double>> segments;
  std::vector<std::pair<std::string, size_t>> exits;  // and how many segments had run
};

ee_call call_of(const Row& row) {
  ee_call call{};
  call.size = sizeof call;
  call.inputs = row.inputs.data();
  call.input_count = row.inputs.size();
  return call;
}

}  // namespace

Rounds::Rounds(std::shared_ptr<Program> program, Clock::time_point started, double seconds)
    : program_(program), runner_(program), started_(started), seconds_(seconds), opened_s_(passed_s()) {
  for (const auto& [name, exit] : program_->exits()) {
    if (exit->ends() && end_.empty()) end_ = name;
  }
}

void Rounds::ask(const std::vector<Sample>& samples) {
  for (const Sample& sample : samples) {
    Row row;
    for (const auto& [name, tensor] : sample.inputs) {
      row.inputs.push_back(tensor.view(name.c_str()));
      row.size += tensor.data.size() / bytes_of(tensor.dtype);
    }
    run_all(row);
    const Clock::time_point again = Clock::now();
    run_all(row);
    row_s_ = std::max(row_s_, ms_between(again, Clock::now()) / 1e3);
    const ee_answer& answer = run(row, nullptr);
    row.exit = answer.exit;
    row.path = Path(answer.path, answer.path + answer.path_count);
    row.ended = row.exit;
    if (answer.stopped_by == EE_STOPPED_BY_END && !program_->exits().at(row.exit)->ends()) {
      const std::optional<Exit>* last = row.path.empty() ? nullptr : &program_->plan().segments.at(row.path.back()).exit;
      row.ended = last != nullptr && *last && (*last)->ends() ? (*last)->name : end_;
    }
    rows_.push_back(std::move(row));
    has_all_ = rows_.size() == samples.size();
    if (is_over(kAskedShare)) return;
  }
}

Found Rounds::measure() {
  Found found;
  const double times = 5 + static_cast<double>(program_->exits().size()) / 2;
  const double left_s = seconds_ > 0 ? seconds_ - passed_s() : INFINITY;
  const double round_s = std::min(left_s / static_cast<double>(kLeastRounds), kRoundS);
  const double fitting = std::max(1.0, round_s / (times * std::max(row_s_, 1e-9)));
  const auto together = static_cast<size_t>(std::min(fitting, static_cast<double>(rows_.size())));
  warm_up(together, found);
  std::set<size_t> timed;
  size_t next = 0;
  double longest_s = 0;
  do {
    const double before_s = passed_s();
    std::vector<size_t> group;
    for (size_t place = 0; place < together; ++place) group.push_back(next++ % rows_.size());
    const bool is_new = found.rounds > 0 && timed.count(group.back()) == 0;
    for (const size_t place : group) {
      if (is_new || place == group.front()) run_all(rows_[place]);  // untimed: caches are others, or shapes
    }
    round(group, found);
    timed.insert(group.begin(), group.end());
    longest_s = std::max(longest_s, passed_s() - before_s);
  } while (seconds_ > 0 ? passed_s() + longest_s < seconds_ : found.rounds < kLeastRounds);
  found.timed = timed.size();
  if (!has_all_) found.no_time_for.insert(found.no_time_for.begin(), "inputs");
  if (found.rounds < kLeastRounds) found.no_time_for.push_back("rounds");
  return found;
}

void Rounds::warm_up(size_t together, Found& found) {
  double last_s = INFINITY;
  while (!found.steady && found.warmup_rounds < kMostWarmups) {
    if (is_over(kWarmShare)) {
      found.no_time_for.push_back("warm-up");
      return;
    }
    const double before_s = passed_s();
    for (size_t place = 0; place < together; ++place) {
      run_all(rows_[place]);
      run(rows_[place], nullptr);
    }
    const double took_s = passed_s() - before_s;
    ++found.warmup_rounds;
    found.steady = found.warmup_rounds >= kLeastWarmups && std::fabs(took_s - last_s) <= kSteady * last_s;
    last_s = took_s;
  }
}

void Rounds::round(const std::vector<size_t>& group, Found& found) {
  std::vector<std::vector<std::string>> met;
  std::vector<std::pair<double, size_t>> segments;
  for (const size_t place : group) {
    auto& [taken_ms, count] = segments.emplace_back();
    met.push_back(watch(rows_[place], found, taken_ms, count));
  }
  const auto timed_ms = [&](const Row& row, const std::string* exit_at) {
    const Clock::time_point start = Clock::now();
    run(row, exit_at);
    return ms_between(start, Clock::now());
  };
  for (size_t place = 0; place < group.size(); ++place) {
    const Row& row = rows_[group[place]];
    const Clock::time_point start = Clock::now();
    const ee_answer& answer = run(row, &end_);
    const double took_ms = ms_between(start, Clock::now());
    found.full.add(took_ms, row.size);
    const auto& [taken_ms, count] = segments[place];
    found.overheads_ms.push_back((took_ms - taken_ms) / static_cast<double>(std::max<size_t>(1, count)));
    found.exits[answer.exit].add(took_ms, row.size);
  }
  for (const auto& [name, exit] : program_->exits()) {
    if (exit->ends()) continue;
    for (size_t place = 0; place < group.size(); ++place) {
      if (std::find(met[place].begin(), met[place].end(), name) == met[place].end()) continue;
      const Row& row = rows_[group[place]];
      found.exits[name].add(timed_ms(row, &name), row.size);
    }
  }
  for (const size_t place : group) {
    const Row& row = rows_[place];
    const double took_ms = timed_ms(row, nullptr);
    found.all_calls.add(took_ms, row.size);
    found.calls[row.ended].add(took_ms, row.size);
    ++found.called[row.ended][row.path];
  }
  ++found.rounds;
}

std::vector<std::string> Rounds::watch(const Row& row, Found& found, double& segments_ms, size_t& segments) {
  Watched watched;
  runner_.trace([](void* user, const char* segment, double took_ms) {
    static_cast<Watched*>(user)->segments.emplace_back(segment, took_ms);
  }, &watched);
  const ee_on_answer told = [](void* user, const ee_answer* answer) -> int32_t {
    static_cast<Watched*>(user)->exits.emplace_back(answer->exit, answer->path_count);
    return 0;
  };
  runner_.run_all_exits(call_of(row), {told, &watched});
  runner_.trace(nullptr, nullptr);
  Path path;
  for (const auto& [name, took_ms] : watched.segments) {
    found.segments[name].add(took_ms, row.size);
    segments_ms += took_ms;
    path.emplace_back(name);
  }
  segments = watched.segments.size();
  std::vector<std::string> met;
  for (const auto& [name, count] : watched.exits) {
    if (std::find(met.begin(), met.end(), name) != met.end()) continue;
    met.push_back(name);
    ++found.reached[name][Path(path.begin(), path.begin() + static_cast<std::ptrdiff_t>(count))];
  }
  return met;
}

void Rounds::run_all(const Row& row) { runner_.run_all_exits(call_of(row), {nullptr, nullptr}); }

const ee_answer& Rounds::run(const Row& row, const std::string* exit_at) {
  ee_call call = call_of(row);
  call.exit_at = exit_at == nullptr ? nullptr : exit_at->c_str();
  return runner_.run(call);
}

}  // namespace eetoolkit::programs
