// JSON read strictly into values: no coercion, no unknown key, no key twice. Errors read as those of msgspec do.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "yyjson.h"

namespace eetoolkit {

// A text that is no JSON, or holds other types than expected.
struct JsonError {
  std::string text;
};

// A value and where it stands.
class Json {
 public:
  explicit Json(yyjson_val* value) : value_(value) {}

  [[nodiscard]] bool is_null() const { return yyjson_is_null(value_); }
  [[nodiscard]] bool is_text() const { return yyjson_is_str(value_); }
  [[nodiscard]] bool is_number() const { return yyjson_is_num(value_) || yyjson_is_raw(value_); }
  [[nodiscard]] bool is_array() const { return yyjson_is_arr(value_); }
  [[nodiscard]] bool is_object() const { return yyjson_is_obj(value_); }
  [[nodiscard]] bool is_integer() const;
  [[nodiscard]] bool is_bool() const { return yyjson_is_bool(value_); }
  [[nodiscard]] std::string_view type_name() const;
  [[nodiscard]] yyjson_val* value() const { return value_; }

  // `expected` is how an error spells what may stand here.
  [[nodiscard]] std::string text(std::string_view expected = "str") const;
  [[nodiscard]] bool boolean(std::string_view expected = "bool") const;
  [[nodiscard]] double number(std::string_view expected = "float") const;
  [[nodiscard]] int64_t integer(int64_t least, int64_t most, std::string_view expected = "int") const;

  // Calls `each` with every element, or with every key and value, in order.
  template <class Each>
  void elements(Each each, std::string_view expected = "array") const;
  template <class Each>
  void members(Each each, std::string_view expected = "object") const;
  [[nodiscard]] size_t size() const { return yyjson_get_len(value_); }
  // The same value, as that of a key which errors may name.
  [[nodiscard]] Json named(std::string_view key) const { return Json(value_, parent_, key, 0); }

  [[noreturn]] void refuse(std::string_view expected) const;
  // Says a fault and where it is.
  [[noreturn]] void fail(std::string_view fault) const;

 private:
  Json(yyjson_val* value, const Json* parent, std::string_view key, size_t index)
      : value_(value), parent_(parent), key_(key), index_(index) {}

  yyjson_val* value_;
  const Json* parent_ = nullptr;
  std::string_view key_;  // of a struct; else empty
  size_t index_ = 0;

};

constexpr size_t kAnyKey = SIZE_MAX;

template <class Each>
void Json::elements(Each each, std::string_view expected) const {
  if (!is_array()) refuse(expected);
  size_t index = 0;
  size_t count = 0;
  yyjson_val* element = nullptr;
  yyjson_arr_foreach(value_, index, count, element) { each(Json(element, this, {}, index)); }
}

template <class Each>
void Json::members(Each each, std::string_view expected) const {
  if (!is_object()) refuse(expected);
  size_t index = 0;
  size_t count = 0;
  yyjson_val* key = nullptr;
  yyjson_val* element = nullptr;
  yyjson_obj_foreach(value_, index, count, key, element) {
    each(std::string_view(yyjson_get_str(key), yyjson_get_len(key)), Json(element, this, {}, kAnyKey));
  }
}

// A JSON text that was read.
class Document {
 public:
  // Throws JsonError where the text is no JSON (RFC 8259), or nested too deeply.
  explicit Document(std::string_view text);

  [[nodiscard]] Json root() const { return Json(yyjson_doc_get_root(document_.get())); }
  // Throws JsonError where a key stands twice in one object.
  void refuse_twice() const;

 private:
  std::unique_ptr<yyjson_doc, void (*)(yyjson_doc*)> document_;
};

// Text in quotes, as JSON has it.
std::string json_quoted(std::string_view text);

}  // namespace eetoolkit
