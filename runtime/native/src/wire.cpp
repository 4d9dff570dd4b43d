#include "wire.h"

#include <cstdint>

#include "text.h"

namespace eetoolkit {
namespace {

constexpr int kDeepestMessage = 200;  // messages in each other
constexpr std::string_view kLocation = "location";

// The messages on the way to a tensor's external data, whose field numbers never change (`onnx.proto` of ONNX 1.x).
enum class Message { model, function, graph, node, attribute, sparse, tensor, entry, other };

Message inside(Message message, uint64_t field) {
  switch (message) {
    case Message::model: return field == 7 ? Message::graph : field == 25 ? Message::function : Message::other;
    case Message::function: return field == 7 ? Message::node : Message::other;
    case Message::graph:
      return field == 1    ? Message::node
             : field == 5  ? Message::tensor
             : field == 15 ? Message::sparse
                           : Message::other;
    case Message::node: return field == 5 ? Message::attribute : Message::other;
    case Message::attribute:
      return field == 5 || field == 10    ? Message::tensor
             : field == 6 || field == 11  ? Message::graph
             : field == 22 || field == 23 ? Message::sparse
                                          : Message::other;
    case Message::sparse: return field == 1 || field == 2 ? Message::tensor : Message::other;
    case Message::tensor: return field == 13 ? Message::entry : Message::other;
    default: return Message::other;
  }
}

// Fields of one message, one after the other.
class Fields {
 public:
  Fields(std::string_view data, size_t start, size_t stop) : data_(data), at_(start), stop_(stop) {}

  // Goes to the next field that has a length; false at the end.
  bool next() {
    while (at_ < stop_) {
      start_ = at_;
      const uint64_t tag = varint();
      number = tag >> 3;
      const uint64_t kind = tag & 7;
      if (kind == 0) varint();
      else if (kind == 1) skip(8);
      else if (kind == 5) skip(4);
      else if (kind != 2) throw WireError{join("not an ONNX model: wire type ", kind, " at byte ", start_)};
      if (kind != 2) {
        skip(0);
        continue;
      }
      const uint64_t length = varint();
      first = at_;
      skip(length);
      last = at_;
      return true;
    }
    return false;
  }

  uint64_t number = 0;
  size_t first = 0;  // of the field's content
  size_t last = 0;   // behind it

 private:
  void skip(uint64_t count) {
    if (at_ > stop_ || count > stop_ - at_) {
      throw WireError{join("not an ONNX model: the field at byte ", start_, " ends behind its message")};
    }
    at_ += count;
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift <= 63; shift += 7) {
      if (at_ >= data_.size()) throw WireError{"not an ONNX model: it ends within a number"};
      const auto byte = static_cast<unsigned char>(data_[at_++]);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    throw WireError{"not an ONNX model: a number of over 10 bytes"};
  }

  std::string_view data_;
  size_t at_;
  size_t stop_;
  size_t start_ = 0;
};

// What an entry of a tensor's external data says: of a field that stands twice the last counts.
void read_entry(std::string_view data, size_t start, size_t stop, std::set<std::string>& found) {
  std::string_view key;
  std::string_view value;
  bool has_value = false;
  for (Fields field(data, start, stop); field.next();) {
    const std::string_view content = data.substr(field.first, field.last - field.first);
    if (field.number == 1) key = content;
    if (field.number == 2) value = content;
    has_value |= field.number == 2;
  }
  if (key == kLocation && has_value) found.emplace(value);
}

void find_external(std::string_view data, size_t start, size_t stop, Message message, int depth,
                   std::set<std::string>& found) {
  if (depth > kDeepestMessage) throw WireError{"not an ONNX model: nested too deeply"};
  for (Fields field(data, start, stop); field.next();) {
    const Message content = inside(message, field.number);
    if (content == Message::other) continue;
    if (data.substr(field.first, field.last - field.first).find(kLocation) == std::string_view::npos) continue;
    if (content == Message::entry) {
      read_entry(data, field.first, field.last, found);
    } else {
      find_external(data, field.first, field.last, content, depth + 1, found);
    }
  }
}

}  // namespace

std::set<std::string> external_files(std::string_view model) {
  std::set<std::string> found;
  find_external(model, 0, model.size(), Message::model, 0, found);
  return found;
}

}  // namespace eetoolkit
