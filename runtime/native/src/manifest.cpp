#include "manifest.h"

#include <algorithm>
#include <string>

#include "error.h"
#include "json.h"
#include "manifest_values.h"
#include "sha256.h"

namespace eetoolkit {
namespace {

constexpr int64_t kVersion = 2;
constexpr std::string_view kFormat = "eetoolkit-bundle";
constexpr std::string_view kBeforeDigest = ",\"digest\":\"";
constexpr size_t kDigestDigits = 64;

struct Head {
  std::optional<std::string> format;
  std::optional<int64_t> version;
  std::vector<std::string> optional;
};

// The keys that say whether the rest can be read at all.
Head read_head(const Json& root, std::string_view what) {
  Head head;
  root.members([&](std::string_view key, const Json& value) {
    const Json named = value.named(key);
    if (key == "format" && !value.is_null()) {
      head.format = named.text("str | null");
    } else if (key == "version" && !value.is_null()) {
      head.version = named.integer(INT64_MIN, INT64_MAX, "int | null");
    } else if (key == "optional") {
      head.optional.clear();
      named.elements([&](const Json& name) { head.optional.push_back(name.text()); });
    }
  });
  if (head.format != kFormat) {
    const std::string found = head.format ? repr(std::string_view(*head.format)) : "None";
    throw manifest_error(what, ": \"format\" is ", found, ", expected '", kFormat, '\'');
  }
  if (head.version != kVersion) {
    const std::string found = head.version ? std::to_string(*head.version) : "None";
    const bool older = head.version && *head.version < kVersion;
    throw manifest_error(what, ": \"version\" is ", found, ", this eetoolkit reads ", kVersion, "; ",
                         older ? "export the network again" : "update eetoolkit");
  }
  return head;
}

std::string without_white_space(std::string_view text) {
  std::string compact;
  compact.reserve(text.size());
  bool inside = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char byte = text[at];
    if (!inside && (byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r')) continue;
    compact += byte;
    if (inside && byte == '\\') {
      compact += text[++at];
    } else if (byte == '"') {
      inside = !inside;
    }
  }
  return compact;
}

// Compares the digest inside a text that is one JSON object.
void check_seal(std::string_view text, std::string_view what, std::string_view fix) {
  const std::string compact = without_white_space(text);
  const size_t length = kBeforeDigest.size() + kDigestDigits + 2;
  const size_t start = compact.size() < length ? 0 : compact.size() - length;
  const std::string_view last = std::string_view(compact).substr(start);
  const std::string_view digest = last.size() < length ? "" : last.substr(kBeforeDigest.size(), kDigestDigits);
  const bool is_hex = digest.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  if (digest.empty() || !is_hex || last.substr(0, kBeforeDigest.size()) != kBeforeDigest ||
      last.substr(length - 2) != "\"}") {
    throw integrity_error(what, " does not end with its digest: ", fix);
  }
  const std::string found = sha256(compact.substr(0, start) + "}");
  if (found != digest) {
    throw integrity_error(what, " was changed: its digest is ", digest.substr(0, 12), "…, its content's ",
                          found.substr(0, 12), "…: ", fix);
  }
}

// Returns the text read, its digest checked; that its strings are UTF-8 is believed last.
Document read_sealed(std::string_view text, std::string_view what, std::string_view fix) {
  std::string ascii(text);
  for (char& byte : ascii) byte = (byte & 0x80) != 0 ? '?' : byte;
  try {
    const Document masked(ascii);
    read_head(masked.root(), what);
  } catch (const JsonError& error) {
    throw manifest_error(what, ": damaged (", error.text, "); ", fix);
  }
  check_seal(text, what, fix);
  return Document(text);
}

}  // namespace

Manifest decode(const Document& document) {
  const Head head = read_head(document.root(), kManifest);
  for (const std::string& name : head.optional) {
    if (is_manifest_key(name)) {
      throw manifest_error("manifest.json: \"optional\" lists ", repr(std::string_view(name)), ", which is not optional");
    }
  }
  Manifest plan = read_manifest(document.root(), head.optional);
  document.refuse_twice();
  return plan;
}

Manifest decode_sealed(std::string_view text, std::string_view what, std::string_view fix) {
  try {
    return decode(read_sealed(text, what, fix));
  } catch (const JsonError& error) {
    throw manifest_error("manifest.json: ", error.text);
  }
}

}  // namespace eetoolkit
