#include "manifest_values.h"

#include "documentation_values.h"
#include "json_fields.h"

namespace eetoolkit {

template <>
const Fields<TensorSpec>& fields_of<TensorSpec>() {
  static const Fields<TensorSpec> fields{{
      required<&TensorSpec::name>("name"),
      required<&TensorSpec::dtype>("dtype"),
      required<&TensorSpec::shape>("shape"),
  }};
  return fields;
}

template <>
const Fields<Slot>& fields_of<Slot>() {
  static const Fields<Slot> fields{{required<&Slot::dtype>("dtype"), required<&Slot::shape>("shape")}};
  return fields;
}

template <>
const Fields<Constant>& fields_of<Constant>() {
  static const Fields<Constant> fields{{
      required<&Constant::dtype>("dtype"),
      {"shape", true, [](const Json& json, Constant& into) {
         into.shape.clear();
         json.elements([&](const Json& dim) { into.shape.push_back(dim.integer(0, kLargestSize)); });
         check_rank(json, into.shape.size());
       }},
      required<&Constant::data>("data"),
  }};
  return fields;
}

template <>
const Fields<Limit>& fields_of<Limit>() {
  static const Fields<Limit> fields{{
      {"min", false, [](const Json& json, Limit& into) { into.min = json.integer(0, kLargestSize); }},
      {"max", false, [](const Json& json, Limit& into) { read_integer(json, into.max, 1, kLargestSize); }},
  }};
  return fields;
}

template <>
const Fields<Preprocess>& fields_of<Preprocess>() {
  static const Fields<Preprocess> fields{{
      {"layout", true, [](const Json& json, Preprocess& into) {
         into.channels_first = read_choice(json, {"NCHW", "NHWC"}) == 0;
       }},
      {"resize", true, [](const Json& json, Preprocess& into) {
         if (json.is_array() && json.size() != 2) json.fail("Expected `array` of length 2");
         into.resize.clear();
         json.elements([&](const Json& size) { into.resize.push_back(size.integer(1, kLargestSize)); });
       }},
      optional<&Preprocess::scale>("scale"),
      optional<&Preprocess::mean>("mean"),
      optional<&Preprocess::std>("std"),
  }};
  return fields;
}

static void read(const Json& json, Source& into) {
  static const Fields<Source> fields{{
      optional<&Source::output>("output"),
      optional<&Source::slot>("slot"),
      optional<&Source::constant>("constant"),
  }};
  fields.read(json, into);
  if (into.output.has_value() + into.slot.has_value() + into.constant.has_value() != 1) {
    json.fail("a source names exactly one of `output`, `slot`, `constant`");
  }
}

template <>
const Fields<ClassScores>& fields_of<ClassScores>() {
  static const Fields<ClassScores> fields{{
      required<&ClassScores::output>("output"),
      optional<&ClassScores::scale>("scale"),
      {"axis", false, [](const Json& json, ClassScores&) { check_axis(json); }},
  }};
  return fields;
}

template <>
const Fields<Exit>& fields_of<Exit>() {
  static const Fields<Exit> fields{{
      required<&Exit::name>("name"),
      required<&Exit::outputs>("outputs"),
      optional<&Exit::scores>("scores"),
      required<&Exit::criterion>("criterion"),
      required<&Exit::confidence>("confidence"),
      required<&Exit::threshold>("threshold"),
  }};
  return fields;
}

template <>
const Fields<Goto>& fields_of<Goto>() {
  static const Fields<Goto> fields{{required<&Goto::segment>("segment")}};
  return fields;
}

template <>
const Fields<Gate>& fields_of<Gate>() {
  static const Fields<Gate> fields{{
      required<&Gate::on>("on"),
      required<&Gate::then>("then"),
      required<&Gate::otherwise>("else"),
  }};
  return fields;
}

template <>
const Fields<Switch>& fields_of<Switch>() {
  static const Fields<Switch> fields{{required<&Switch::on>("on"), required<&Switch::cases>("cases")}};
  return fields;
}

template <>
const Fields<Stop>& fields_of<Stop>() {
  static const Fields<Stop> fields{};
  return fields;
}

static void read(const Json& json, Next& into) {
  std::optional<std::string> kind;
  json.members([&](std::string_view key, const Json& value) {
    if (key != "kind" || kind) return;
    if (!value.is_text()) value.named(key).fail("Expected `str`");
    kind = value.text();
    if (kind == "stop") into = Stop{};
    else if (kind == "goto") into = Goto{};
    else if (kind == "gate") into = Gate{};
    else if (kind == "switch") into = Switch{};
    else value.named(key).fail(join("Invalid value ", repr(std::string_view(*kind))));
  });
  if (!kind) json.fail("Object missing required field `kind`");
  std::visit([&](auto& next) { fields_of<std::decay_t<decltype(next)>>().read(json, next, [](std::string_view key) { return key == "kind"; }); }, into);
}

template <>
const Fields<Segment>& fields_of<Segment>() {
  static const Fields<Segment> fields{{
      optional<&Segment::model>("model"),
      optional<&Segment::weights>("weights"),
      optional<&Segment::prepack>("prepack"),
      optional<&Segment::reads>("reads"),
      optional<&Segment::writes>("writes"),
      optional<&Segment::exit>("exit"),
      required<&Segment::next>("next"),
      {"max_visits", false,
       [](const Json& json, Segment& into) { read_integer(json, into.max_visits, 1, kMostVisits); }},
      {"work", false, [](const Json& json, Segment&) { check_work(json); }},
  }};
  return fields;
}

template <>
const Fields<File>& fields_of<File>() {
  static const Fields<File> fields{{
      {"sha256", true, [](const Json& json, File& into) {
         into.sha256 = json.text();
         if (into.sha256.size() != 64 || into.sha256.find_first_not_of("0123456789abcdef") != std::string::npos) {
           json.fail("Expected `str` matching regex '^[0-9a-f]{64}$'");
         }
       }},
      {"size", true, [](const Json& json, File& into) {
         into.size = static_cast<uint64_t>(json.integer(0, kLargestCount));
       }},
  }};
  return fields;
}

// A number over 0.
static void read_positive(const Json& json, double& into) {
  into = json.number();
  if (!(into > 0)) json.fail("Expected `float` > 0.0");
}

template <>
const Fields<Golden>& fields_of<Golden>() {
  static const Fields<Golden> fields{{
      required<&Golden::file>("file"),
      {"tolerance", true, [](const Json& json, Golden& into) { read_positive(json, into.tolerance); }},
  }};
  return fields;
}

template <>
const Fields<SavedProfile>& fields_of<SavedProfile>() {
  static const Fields<SavedProfile> fields{{
      optional<&SavedProfile::file>("file"),
      {"expected_ms", true, [](const Json& json, SavedProfile& into) {
         into.expected_ms = {};
         json.members([&](std::string_view name, const Json& value) {
           double latency_ms = 0;
           read_positive(value, latency_ms);
           into.expected_ms.set(std::string(name), latency_ms);
         });
       }},
  }};
  return fields;
}

static void check_created_with(const Json& json) {
  json.members([](std::string_view, const Json& value) {
    if (!value.is_text()) static_cast<void>(value.integer(0, kLargestCount, "int | str"));
  });
}

template <>
const Fields<Quantization>& fields_of<Quantization>() {
  static const Fields<Quantization> fields{{
      {"segments", true, [](const Json& json, Quantization& into) {
         into.methods = {};
         json.members([&](std::string_view name, const Json& method) {
           read_choice(method, {"static", "dynamic", "blockwise", "float16"});
           into.methods.set(std::string(name), method.text());
         });
       }},
      {"activations", false, [](const Json& json, Quantization& into) {
         into.activations.reset();
         if (json.is_null()) return;
         read_choice(json, {"uint8", "int8"}, "str | null");
         into.activations = json.text();
       }},
      {"rows", true, [](const Json& json, Quantization&) { static_cast<void>(json.integer(0, kLargestCount)); }},
      {"created_with", true, [](const Json& json, Quantization&) { check_created_with(json); }},
      {"stale", false, check<Quantization, bool>},
  }};
  return fields;
}

template <>
const Fields<ServerExit>& fields_of<ServerExit>() {
  static const Fields<ServerExit> fields{{
      required<&ServerExit::name>("name"),
      optional<&ServerExit::outputs>("outputs"),
      optional<&ServerExit::scores>("scores"),
      optional<&ServerExit::threshold>("threshold"),
      {"path", false, [](const Json& json, ServerExit&) {
         if (json.is_null()) return;
         if (!json.is_array()) json.refuse("array | null");
         std::vector<std::string> path;
         read(json, path);
       }},
  }};
  return fields;
}

template <>
const Fields<Split>& fields_of<Split>() {
  static const Fields<Split> fields{{
      required<&Split::exit>("exit"),
      required<&Split::local>("local"),
      required<&Split::answers>("answers"),
      required<&Split::sends>("sends"),
      required<&Split::model>("model"),
      {"version", true, [](const Json& json, Split&) { static_cast<void>(json.integer(0, kLargestCount)); }},
      required<&Split::exits>("exits"),
      {"segments", true, [](const Json& json, Split&) { static_cast<void>(json.integer(0, kLargestCount)); }},
  }};
  return fields;
}

static bool is_release(const std::string& text) {
  const size_t dot = text.find('.');
  const auto is_number = [](std::string_view part) {
    return !part.empty() && part.size() <= 4 && part.find_first_not_of("0123456789") == std::string_view::npos;
  };
  return dot != std::string::npos && is_number(std::string_view(text).substr(0, dot)) &&
         is_number(std::string_view(text).substr(dot + 1));
}

template <>
const Fields<Manifest>& fields_of<Manifest>() {
  static const Fields<Manifest> fields{{
      {"format", true, check<Manifest, std::string>},
      {"version", true, [](const Json& json, Manifest&) { static_cast<void>(json.integer(INT64_MIN, INT64_MAX)); }},
      required<&Manifest::name>("name"),
      {"created_with", true, [](const Json& json, Manifest&) { check_created_with(json); }},
      {"onnxruntime", false, [](const Json& json, Manifest& into) {
         read(json, into.onnxruntime);
         if (into.onnxruntime && !is_release(*into.onnxruntime)) {
           json.fail("Expected `str` matching regex '^[0-9]{1,4}[.][0-9]{1,4}$'");
         }
       }},
      required<&Manifest::inputs>("inputs"),
      required<&Manifest::outputs>("outputs"),
      optional<&Manifest::limits>("limits"),
      optional<&Manifest::preprocess>("preprocess"),
      {"labels", false, [](const Json& json, Manifest& into) {
         into.labels.clear();
         if (!json.is_null() && !json.is_array()) json.refuse("array | null");
         if (!json.is_null()) read(json, into.labels);
       }},
      optional<&Manifest::titles>("titles"),
      required<&Manifest::slots>("slots"),
      optional<&Manifest::constants>("constants"),
      {"batch", false, [](const Json& json, Manifest&) {
         if (!json.is_null() && json.integer(INT64_MIN, INT64_MAX, "int | null") != 1) {
           json.fail(join("Invalid enum value ", json.integer(INT64_MIN, INT64_MAX)));
         }
       }},
      required<&Manifest::start>("start"),
      {"fallback", false, [](const Json& json, Manifest& into) {
         into.most_confident = read_choice(json, {"last", "most_confident"}) == 1;
       }},
      required<&Manifest::segments>("segments"),
      optional<&Manifest::files>("files"),
      optional<&Manifest::golden>("golden"),
      {"notes", false, check<Manifest, std::vector<std::string>>},
      optional<&Manifest::profile>("profile"),
      {"tuning", false, [](const Json& json, Manifest&) { check_tuning(json); }},
      optional<&Manifest::quantization>("quantization"),
      optional<&Manifest::split>("split"),
  }};
  return fields;
}

bool is_manifest_key(std::string_view name) { return fields_of<Manifest>().has(name); }

Manifest read_manifest(const Json& json, const std::vector<std::string>& ignored) {
  Manifest plan;
  fields_of<Manifest>().read(json, plan, [&](std::string_view key) {
    return key == "digest" || key == "optional" || std::find(ignored.begin(), ignored.end(), key) != ignored.end();
  });
  return plan;
}

}  // namespace eetoolkit
