// Rounds over a bundle's golden inputs, timed until the time is up.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "golden.h"
#include "latency.h"
#include "runner.h"

namespace eetoolkit::programs {

using Path = std::vector<std::string>;

// A row of inputs, and what it answers with the bundle's thresholds.
struct Row {
  std::vector<ee_tensor> inputs;
  size_t size = 0;  // how many numbers its inputs are
  std::string exit;
  Path path;
  // The exit that ended the call: another where the most confident one answers and was passed.
  std::string ended;
};

// Runs, as they come.
struct Found {
  std::map<std::string, Runs> segments;              // on full paths that are watched segment by segment
  std::map<std::string, std::map<Path, size_t>> reached;  // what ran up to each exit's first visit, and how often
  std::map<std::string, Runs> exits;                 // of calls that always leave there
  Runs full;                                         // full paths that nobody watches
  std::map<std::string, Runs> calls;                 // calls as in use, by the exit that ended them
  Runs all_calls;
  std::map<std::string, std::map<Path, size_t>> called;
  std::vector<double> overheads_ms;  // what a full path takes beside its segments' runs, by segment
  size_t timed = 0;                  // different rows
  size_t rounds = 0;
  size_t warmup_rounds = 0;
  bool steady = false;
  std::vector<const char*> no_time_for;  // as the profile's key has it
};

class Rounds {
 public:
  // `seconds` bound all that is done, from `started` on, 0 does not; every row that was taken is run at least once.
  Rounds(std::shared_ptr<Program> program, Clock::time_point started, double seconds);

  // Answers rows while a quarter of the time lasts; at least one.
  void ask(const std::vector<Sample>& samples);
  Found measure();
  [[nodiscard]] const std::vector<Row>& rows() const { return rows_; }

 private:
  // Whether this share of the time that opening left has passed.
  [[nodiscard]] bool is_over(double share) const {
    return seconds_ > 0 && passed_s() > opened_s_ + share * (seconds_ - opened_s_);
  }
  [[nodiscard]] double passed_s() const { return ms_between(started_, Clock::now()) / 1e3; }
  void warm_up(size_t together, Found& found);
  void round(const std::vector<size_t>& group, Found& found);
  // Runs a row to the end, watched; the exits that it meets.
  std::vector<std::string> watch(const Row& row, Found& found, double& segments_ms, size_t& segments);
  void run_all(const Row& row);
  const ee_answer& run(const Row& row, const std::string* exit_at);

  std::shared_ptr<Program> program_;
  Runner runner_;
  Clock::time_point started_;
  double seconds_;
  double opened_s_;
  double row_s_ = 0;  // what a row's full path takes
  std::string end_;   // an exit that ends the plan
  std::vector<Row> rows_;
  bool has_all_ = true;  // or there was no time for some
};

}  // namespace eetoolkit::programs
