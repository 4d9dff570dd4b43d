#include "documentation_values.h"

#include "json_fields.h"

namespace eetoolkit {

// Values that only people and tools read.
struct Work {};
struct Guarantee {};
struct Tuning {};
struct Count {};

static void read(const Json& json, Count& /*into*/) { static_cast<void>(json.integer(0, kLargestCount)); }

template <>
const Fields<Work>& fields_of<Work>() {
  static const Fields<Work> fields{{
      {"nodes", true, check<Work, Count>},
      {"parameters", true, check<Work, Count>},
      {"multiply_adds", false, [](const Json& json, Work&) {
         std::optional<int64_t> count;
         read_integer(json, count, 0, kLargestCount);
       }},
  }};
  return fields;
}

template <>
const Fields<Guarantee>& fields_of<Guarantee>() {
  static const Fields<Guarantee> fields{{
      {"method", true, check<Guarantee, std::string>},
      {"loss", true, check<Guarantee, std::string>},
      {"risk", true, check<Guarantee, double>},
      {"delta", false, [](const Json& json, Guarantee&) {
         if (!json.is_null()) static_cast<void>(json.number("float | null"));
       }},
      {"rows", true, check<Guarantee, Count>},
      {"found", true, check<Guarantee, double>},
      {"bound", true, check<Guarantee, double>},
      {"passed", true, check<Guarantee, bool>},
      {"assumptions", true, check<Guarantee, std::vector<std::string>>},
  }};
  return fields;
}

// Three numbers.
struct Interval {};

static void read(const Json& json, Interval& /*into*/) {
  if (json.is_array() && json.size() != 3) json.fail("Expected `array` of length 3");
  std::vector<double> numbers;
  read(json, numbers);
}

template <>
const Fields<Tuning>& fields_of<Tuning>() {
  static const Fields<Tuning> fields{{
      {"goal", true, check<Tuning, std::string>},
      {"metric", true, check<Tuning, std::string>},
      {"costs", true, check<Tuning, std::string>},
      {"seed", true, check<Tuning, Count>},
      {"rows", true, check<Tuning, Ordered<Count>>},
      {"figures", false, check<Tuning, Ordered<Interval>>},
      {"guarantee", false, check<Tuning, std::optional<Guarantee>>},
      {"thresholds", true, check<Tuning, Ordered<Threshold>>},
      {"exits_before", true, check<Tuning, Ordered<Threshold>>},
      {"constants_before", false, check<Tuning, Ordered<std::vector<double>>>},
  }};
  return fields;
}

// A number of a criterion: documentation, but for the constant that it may name.
static void read_number(const Json& json, Criterion& into, const char* key) {
  if (json.is_text()) {
    into.constants.emplace_back(key, json.text());
  } else if (!json.is_null()) {
    static_cast<void>(json.number("float | str | null"));
  }
}

static void read_numbers(const Json& json, Criterion& into, const char* key) {
  if (json.is_text()) {
    into.constants.emplace_back(key, json.text());
  } else if (json.is_array()) {
    json.elements([](const Json& number) { static_cast<void>(number.number()); });
  } else if (!json.is_null()) {
    json.refuse("str | array | null");
  }
}

template <>
const Fields<Criterion>& fields_of<Criterion>() {
  static const Fields<Criterion> fields{{
      {"kind", true, [](const Json& json, Criterion& into) {
         into.kind = json.text();
         read_choice(json, {"max_prob", "entropy", "margin", "patience", "vote", "mean_ensemble",
                            "geometric_ensemble", "learned", "all_of", "any_of", "at_least", "custom"});
       }},
      {"output", false, check<Criterion, std::optional<std::string>>},
      {"scale", false, check<Criterion, Scale>},
      {"axis", false, [](const Json& json, Criterion&) { check_axis(json); }},
      {"quantile", false, [](const Json& json, Criterion&) {
         if (json.is_null()) return;
         const double quantile = json.number("float | null");
         if (quantile < 0) json.fail("Expected `float` >= 0.0");
         if (quantile > 1) json.fail("Expected `float` <= 1.0");
       }},
      {"temperature", false, [](const Json& json, Criterion& into) { read_number(json, into, "temperature"); }},
      {"tau", false, [](const Json& json, Criterion& into) { read_number(json, into, "tau"); }},
      {"weights", false, [](const Json& json, Criterion& into) { read_numbers(json, into, "weights"); }},
      {"bias", false, [](const Json& json, Criterion& into) { read_numbers(json, into, "bias"); }},
      {"invert", false, check<Criterion, bool>},
      {"n", false, [](const Json& json, Criterion&) {
         std::optional<int64_t> count;
         read_integer(json, count, 1, kLargestSize);
       }},
      optional<&Criterion::members>("members"),
      {"threshold", false, [](const Json& json, Criterion& into) { read_number(json, into, "threshold"); }},
      {"function", false, check<Criterion, std::optional<std::string>>},
  }};
  return fields;
}

void read(const Json& json, Criterion& into) { read<Criterion>(json, into); }

void check_work(const Json& json) {
  std::optional<Work> work;
  read(json, work);
}

void check_tuning(const Json& json) {
  std::optional<Tuning> tuning;
  read(json, tuning);
}

}  // namespace eetoolkit
