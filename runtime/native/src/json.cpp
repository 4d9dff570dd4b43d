#include "json.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "text.h"

namespace eetoolkit {
namespace {

constexpr size_t kDeepest = 1000;

bool is_digits(const char* text) {
  text += *text == '-' ? 1 : 0;
  return std::strspn(text, "0123456789") == std::strlen(text);
}

// Whether arrays and objects lie deeper in each other than any reader of ours goes.
bool is_too_deep(std::string_view text) {
  size_t depth = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char byte = text[at];
    if (inside) {
      at += byte == '\\' ? 1 : 0;
      inside = byte != '"';
    } else if (byte == '"') {
      inside = true;
    } else if (byte == '[' || byte == '{') {
      if (++depth > kDeepest) return true;
    } else if ((byte == ']' || byte == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

void refuse_twice_in(yyjson_val* value) {
  size_t index = 0;
  size_t count = 0;
  yyjson_val* key = nullptr;
  yyjson_val* element = nullptr;
  if (yyjson_is_arr(value)) {
    yyjson_arr_foreach(value, index, count, element) { refuse_twice_in(element); }
  }
  if (!yyjson_is_obj(value)) return;
  std::vector<std::string_view> keys;
  yyjson_obj_foreach(value, index, count, key, element) {
    refuse_twice_in(element);
    keys.emplace_back(yyjson_get_str(key), yyjson_get_len(key));
  }
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice != keys.end()) throw JsonError{join("the key ", repr(*twice), " stands twice in one object")};
}

}  // namespace

bool Json::is_integer() const {
  return yyjson_is_int(value_) || (yyjson_is_raw(value_) && is_digits(yyjson_get_raw(value_)));
}

std::string_view Json::type_name() const {
  switch (yyjson_get_type(value_)) {
    case YYJSON_TYPE_NULL: return "null";
    case YYJSON_TYPE_BOOL: return "bool";
    case YYJSON_TYPE_STR: return "str";
    case YYJSON_TYPE_ARR: return "array";
    case YYJSON_TYPE_OBJ: return "object";
    default: return yyjson_is_int(value_) ? "int" : "float";
  }
}

std::string Json::text(std::string_view expected) const {
  if (!is_text()) refuse(expected);
  return {yyjson_get_str(value_), yyjson_get_len(value_)};
}

bool Json::boolean(std::string_view expected) const {
  if (!is_bool()) refuse(expected);
  return yyjson_get_bool(value_);
}

double Json::number(std::string_view expected) const {
  if (!is_number()) refuse(expected);
  if (!yyjson_is_raw(value_)) return yyjson_get_num(value_);
  const double number = std::strtod(yyjson_get_raw(value_), nullptr);
  if (!std::isfinite(number)) fail("Number out of range");
  return number;
}

int64_t Json::integer(int64_t least, int64_t most, std::string_view expected) const {
  if (!is_integer()) refuse(expected);
  const bool negative = yyjson_is_sint(value_) ? yyjson_get_sint(value_) < 0
                                               : yyjson_is_raw(value_) && *yyjson_get_raw(value_) == '-';
  const bool small = yyjson_is_sint(value_) || (yyjson_is_uint(value_) && yyjson_get_uint(value_) <= INT64_MAX);
  const int64_t found = small ? yyjson_get_sint(value_) : negative ? INT64_MIN : INT64_MAX;
  if (found < least) fail(join("Expected `int` >= ", least));
  if (found > most) fail(join("Expected `int` <= ", most));
  return found;
}

void Json::refuse(std::string_view expected) const { fail(join("Expected `", expected, "`, got `", type_name(), "`")); }

void Json::fail(std::string_view fault) const {
  std::string place;
  for (const Json* at = this; at->parent_ != nullptr; at = at->parent_) {
    const std::string step = !at->key_.empty()          ? join('.', at->key_)
                             : at->index_ == kAnyKey ? "[...]"
                                                     : join('[', at->index_, ']');
    place.insert(0, step);
  }
  throw JsonError{place.empty() ? std::string(fault) : join(fault, " - at `$", place, "`")};
}

Document::Document(std::string_view text) : document_(nullptr, yyjson_doc_free) {
  if (is_too_deep(text)) throw JsonError{"maximum recursion depth exceeded while deserializing an object"};
  yyjson_read_err error{};
  std::string copy(text);  // yyjson does not write to it without YYJSON_READ_INSITU
  document_.reset(yyjson_read_opts(copy.data(), copy.size(), YYJSON_READ_BIGNUM_AS_RAW, nullptr, &error));
  if (error.code == YYJSON_READ_ERROR_UNEXPECTED_END || text.empty()) throw JsonError{"Input data was truncated"};
  if (document_ == nullptr) throw JsonError{join("JSON is malformed: ", error.msg, " (byte ", error.pos, ")")};
}

void Document::refuse_twice() const { refuse_twice_in(yyjson_doc_get_root(document_.get())); }

std::string json_quoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char byte : text) {
    if (byte == '"' || byte == '\\') {
      quoted += '\\';
      quoted += byte;
    } else if (static_cast<unsigned char>(byte) < 0x20) {
      static constexpr std::string_view kDigits = "0123456789abcdef";
      quoted += join("\\u00", kDigits[byte >> 4 & 15], kDigits[byte & 15]);
    } else {
      quoted += byte;
    }
  }
  return quoted + '"';
}

}  // namespace eetoolkit
