// The plan: the values of manifest.json. docs/bundle-format.md specifies each key.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace eetoolkit {

inline constexpr const char* kManifest = "manifest.json";
inline constexpr const char* kJournal = ".writing.json";
inline constexpr uint64_t kManifestLimitBytes = uint64_t{8} << 20;
inline constexpr std::string_view kBatch = "batch";

// In the order of `ee_dtype`.
enum class DType { float32, float64, float16, int64, int32, int16, int8, uint64, uint32, uint16, uint8, boolean };

std::string_view name_of(DType dtype);
std::optional<DType> dtype_of(std::string_view name);
size_t bytes_of(DType dtype);
bool is_float(DType dtype);
bool is_signed(DType dtype);

// A map that keeps the order in which its keys came.
template <class T>
class Ordered {
 public:
  using Item = std::pair<std::string, T>;

  // Sets what a key holds; a new key comes last.
  void set(std::string key, T value) {
    const auto [found, is_new] = places_.try_emplace(key, items_.size());
    if (is_new) {
      items_.emplace_back(std::move(key), std::move(value));
    } else {
      items_[found->second].second = std::move(value);
    }
  }
  [[nodiscard]] const T* find(const std::string& key) const {
    const auto found = places_.find(key);
    return found == places_.end() ? nullptr : &items_[found->second].second;
  }
  [[nodiscard]] bool has(const std::string& key) const { return places_.count(key) > 0; }
  [[nodiscard]] size_t place(const std::string& key) const { return places_.at(key); }
  [[nodiscard]] const T& at(const std::string& key) const { return items_[places_.at(key)].second; }
  [[nodiscard]] const Item& item(size_t place) const { return items_[place]; }
  [[nodiscard]] size_t size() const { return items_.size(); }
  [[nodiscard]] bool empty() const { return items_.empty(); }
  [[nodiscard]] auto begin() const { return items_.begin(); }
  [[nodiscard]] auto end() const { return items_.end(); }

 private:
  std::vector<Item> items_;
  std::unordered_map<std::string, size_t> places_;
};

struct AnySize {};
// A number; a symbol or an expression of symbols; or: it depends on the data.
using Dim = std::variant<AnySize, int64_t, std::string>;
using Shape = std::vector<Dim>;

inline bool is_any(const Dim& dim) { return std::holds_alternative<AnySize>(dim); }
inline const int64_t* size_in(const Dim& dim) { return std::get_if<int64_t>(&dim); }
inline const std::string* symbol_in(const Dim& dim) { return std::get_if<std::string>(&dim); }

struct Slot {
  DType dtype = DType::float32;
  Shape shape;
};

struct TensorSpec {
  std::string name;
  DType dtype = DType::float32;
  Shape shape;
};

// The largest integer that every reader of JSON tells from its neighbours.
inline constexpr int64_t kMostExact = (int64_t{1} << 53) - 1;

// A value of a constant, as JSON has it: integers beyond `kMostExact` are texts.
using Scalar = std::variant<bool, int64_t, uint64_t, double, std::string>;

struct Constant {
  DType dtype = DType::float32;
  std::vector<int64_t> shape;
  std::vector<Scalar> data;
};

struct Limit {
  int64_t min = 0;
  std::optional<int64_t> max;
};

struct Preprocess {
  bool channels_first = true;
  std::vector<int64_t> resize;
  double scale = 1.0 / 255;
  std::vector<double> mean{0.0};
  std::vector<double> std{1.0};
};

// Exactly one of the three.
struct Source {
  std::optional<std::string> output, slot, constant;
};

struct Criterion {
  std::string kind;
  std::vector<std::pair<std::string, std::string>> constants;  // what for, name
  std::vector<Criterion> members;

  // Whether its confidence is a count or a share, which no rounding changes.
  [[nodiscard]] bool counted() const;
  // (what for, name) of the constants that hold its numbers, its members' included.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> named_constants() const;
};

enum class Scale { logits, log_probs, probs };

struct ClassScores {
  std::string output;
  Scale scale = Scale::logits;
};

struct Never {};
struct Always {};
using Threshold = std::variant<double, Never, Always>;

std::string spell(const Threshold& threshold);

struct Exit {
  std::string name;
  Ordered<std::string> outputs;
  std::optional<ClassScores> scores;
  Criterion criterion;
  std::string confidence;
  Threshold threshold;

  [[nodiscard]] bool ends() const { return std::holds_alternative<Always>(threshold); }
};

struct Goto {
  std::string segment;
};
struct Gate {
  std::string on, then, otherwise;
};
struct Switch {
  std::string on;
  std::vector<std::string> cases;
};
struct Stop {};
using Next = std::variant<Stop, Goto, Gate, Switch>;

struct Segment {
  std::optional<std::string> model;
  std::vector<std::string> weights;
  bool prepack = true;
  Ordered<std::string> reads;
  Ordered<Source> writes;
  std::optional<Exit> exit;
  Next next;
  std::optional<int64_t> max_visits;

  [[nodiscard]] bool stops() const { return std::holds_alternative<Stop>(next); }
};

struct File {
  std::string sha256;
  uint64_t size = 0;
};

struct Golden {
  std::string file;
  double tolerance = 0;
};

struct SavedProfile {
  std::optional<std::string> file;
  Ordered<double> expected_ms;
};

// How segments were made smaller after the export.
struct Quantization {
  Ordered<std::string> methods;
  std::optional<std::string> activations;
};

// An exit of the server's half of a bundle; which segments lead to it, and its scores, are for those who ask a server.
struct ServerExit {
  std::string name;
  Ordered<Slot> outputs;
  std::optional<ClassScores> scores;
  Threshold threshold = Always{};
};

// Where a bundle, the device's half of one, hands over to a server.
struct Split {
  std::string exit, local;
  std::vector<std::string> answers;
  Ordered<std::string> sends;
  std::string model;
  std::vector<ServerExit> exits;
};

struct Manifest {
  std::string name;
  std::optional<std::string> onnxruntime;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  Ordered<Limit> limits;
  Ordered<Preprocess> preprocess;
  std::vector<std::string> labels;
  Ordered<std::string> titles;  // what the network called an input, an exit or an output
  Ordered<Slot> slots;
  Ordered<Constant> constants;
  std::string start;
  bool most_confident = false;
  Ordered<Segment> segments;
  Ordered<File> files;
  std::optional<Golden> golden;
  std::optional<SavedProfile> profile;
  std::optional<Quantization> quantization;
  std::optional<Split> split;

  // The exits by name, in the order of their first segment.
  [[nodiscard]] Ordered<const Exit*> exits() const;
  // What the network called something.
  [[nodiscard]] const std::string& title(const std::string& name) const {
    const std::string* found = titles.find(name);
    return found == nullptr ? name : *found;
  }
};

// Dtype and shape for people, as `float32[batch, 4]`.
std::string spell(DType dtype, const Shape& shape);
// A shape as a list, as `['batch', 4]`.
std::string repr(const Shape& shape);

}  // namespace eetoolkit
