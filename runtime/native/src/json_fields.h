// How values are read from JSON: an overload of `read` for each type, and for a struct the keys that it has.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json.h"
#include "plan.h"
#include "text.h"

namespace eetoolkit {

inline constexpr int64_t kLargestCount = kMostExact;
inline constexpr int64_t kLargestSize = (int64_t{1} << 31) - 1;
inline constexpr int64_t kMostVisits = int64_t{1} << 20;
inline constexpr int64_t kMostDimensions = 32;

// The keys of an object: how each is read into a `T`, and which must be there.
template <class T>
struct Fields {
  struct Field {
    std::string_view name;
    bool required;
    void (*read)(const Json&, T&);
  };
  std::vector<Field> fields;

  [[nodiscard]] bool has(std::string_view name) const {
    return std::any_of(fields.begin(), fields.end(), [&](const Field& field) { return field.name == name; });
  }

  void read(const Json& json, T& into) const {
    read(json, into, [](std::string_view) { return false; });
  }

  // Reads all keys but those that `ignored` says.
  template <class Ignored>
  void read(const Json& json, T& into, Ignored ignored) const {
    std::vector<bool> met(fields.size());
    json.members([&](std::string_view key, const Json& value) {
      if (ignored(key)) return;
      for (size_t place = 0; place < fields.size(); ++place) {
        if (fields[place].name == key) {
          met[place] = true;
          fields[place].read(value.named(fields[place].name), into);
          return;
        }
      }
      json.fail(join("Object contains unknown field `", key, '`'));
    });
    for (size_t place = 0; place < fields.size(); ++place) {
      if (fields[place].required && !met[place]) {
        json.fail(join("Object missing required field `", fields[place].name, '`'));
      }
    }
  }
};

template <class T>
const Fields<T>& fields_of();
template <class T>
void read(const Json& json, T& into);
template <class T>
void read(const Json& json, std::optional<T>& into);
template <class T>
void read(const Json& json, std::vector<T>& into);
template <class T>
void read(const Json& json, Ordered<T>& into);

inline void read(const Json& json, std::string& into) { into = json.text(); }
inline void read(const Json& json, bool& into) { into = json.boolean(); }
inline void read(const Json& json, double& into) { into = json.number(); }

inline void read(const Json& json, std::optional<std::string>& into) {
  into.reset();
  if (!json.is_null()) into = json.text("str | null");
}

// A text that is one of some.
inline size_t read_choice(const Json& json, std::initializer_list<std::string_view> choices, std::string_view expected = "str") {
  const std::string found = json.text(expected);
  const auto* const choice = std::find(choices.begin(), choices.end(), found);
  if (choice == choices.end()) json.fail(join("Invalid enum value ", repr(std::string_view(found))));
  return static_cast<size_t>(choice - choices.begin());
}

inline void read(const Json& json, DType& into) {
  const std::string name = json.text();
  const std::optional<DType> found = dtype_of(name);
  if (!found) json.fail(join("Invalid enum value ", repr(std::string_view(name))));
  into = *found;
}

inline void read(const Json& json, Scale& into) {
  into = static_cast<Scale>(read_choice(json, {"logits", "log_probs", "probs"}));
}

inline void read(const Json& json, Dim& into) {
  constexpr std::string_view kExpected = "int | str | null";
  if (json.is_null()) {
    into = AnySize{};
  } else if (json.is_text()) {
    into = json.text();
  } else {
    into = json.integer(0, kLargestSize, kExpected);
  }
}

inline void check_rank(const Json& json, size_t rank) {
  if (rank > static_cast<size_t>(kMostDimensions)) json.fail(join("Expected `array` of length <= ", kMostDimensions));
}

inline void read(const Json& json, Shape& into) {
  read<Dim>(json, into);
  check_rank(json, into.size());
}

inline void read(const Json& json, Scalar& into) {
  if (json.is_bool()) {
    into = json.boolean();
  } else if (yyjson_is_sint(json.value())) {
    into = yyjson_get_sint(json.value());
  } else if (yyjson_is_uint(json.value())) {
    into = yyjson_get_uint(json.value());
  } else if (json.is_integer()) {
    into = UINT64_MAX;  // or beyond, or below what fits: no constant may hold it as a number
  } else if (json.is_text()) {
    into = json.text();
  } else {
    into = json.number("bool | int | float | str");
  }
}

inline void read(const Json& json, Threshold& into) {
  if (json.is_text()) {
    if (read_choice(json, {"never", "always"}) == 0) into = Never{};
    else into = Always{};
  } else {
    into = json.number("float | str");
  }
}

template <class T>
void read(const Json& json, T& into) {
  fields_of<T>().read(json, into);
}

template <class T>
void read(const Json& json, std::optional<T>& into) {
  into.reset();
  if (json.is_null()) return;
  if (!json.is_object()) json.refuse("object | null");
  read(json, into.emplace());
}

template <class T>
void read(const Json& json, std::vector<T>& into) {
  into.clear();
  json.elements([&](const Json& element) { read(element, into.emplace_back()); });
}

template <class T>
void read(const Json& json, Ordered<T>& into) {
  into = {};
  json.members([&](std::string_view key, const Json& element) {
    T value{};
    read(element, value);
    into.set(std::string(key), std::move(value));
  });
}

template <auto Member>
struct MemberOf;
template <class T, class M, M T::* Member>
struct MemberOf<Member> {
  using Owner = T;
  static void read_into(const Json& json, T& into) { read(json, into.*Member); }
};

template <auto Member>
auto required(std::string_view name) {
  return typename Fields<typename MemberOf<Member>::Owner>::Field{name, true, MemberOf<Member>::read_into};
}

template <auto Member>
auto optional(std::string_view name) {
  return typename Fields<typename MemberOf<Member>::Owner>::Field{name, false, MemberOf<Member>::read_into};
}

// A key whose value is checked, and then only read by people.
template <class T, class Kind>
void check(const Json& json, T& /*into*/) {
  Kind value{};
  read(json, value);
}

inline void check_axis(const Json& json) { static_cast<void>(json.integer(-kMostDimensions, kMostDimensions - 1)); }

inline void read_integer(const Json& json, std::optional<int64_t>& into, int64_t least, int64_t most) {
  into.reset();
  if (!json.is_null()) into = json.integer(least, most, "int | null");
}

}  // namespace eetoolkit
