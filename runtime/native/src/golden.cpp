#include "golden.h"

#include <cstring>
#include <map>
#include <set>

#include "error.h"
#include "files.h"
#include "json_fields.h"

namespace eetoolkit {
namespace {

struct VisitNames {
  std::string exit;
  Ordered<std::string> outputs;
  std::string confidence;
};

struct SampleNames {
  Ordered<std::string> inputs;
  std::vector<VisitNames> visits;
};

// What is wrong with the samples.
struct GoldenError {
  std::string text;
};

// The tensors of a file that no sample has taken yet.
class Tensors {
 public:
  explicit Tensors(const TensorFile& file) : file_(file) {
    for (const auto& [name, tensor] : file.tensors) left_.insert(name);
  }

  const Tensor& take(const std::string& name) {
    if (left_.erase(name) == 0) {
      throw GoldenError{join("there is no tensor ", repr(std::string_view(name)), ", or it belongs to two")};
    }
    return file_.tensors.at(name);
  }

  Ordered<Tensor> take_all(const Ordered<std::string>& names) {
    Ordered<Tensor> found;
    for (const auto& [name, tensor] : names) found.set(name, take(tensor));
    return found;
  }

  void require_none_left() const {
    if (!left_.empty()) {
      throw GoldenError{join("the tensor ", repr(std::string_view(*left_.begin())), " belongs to no sample")};
    }
  }

 private:
  const TensorFile& file_;
  std::set<std::string> left_;
};

void check_names(const std::string& what, const Ordered<std::string>& found, const std::vector<std::string>& expected) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : found) names.push_back(name);
  if (std::set<std::string>(names.begin(), names.end()) != std::set<std::string>(expected.begin(), expected.end())) {
    throw GoldenError{join("the ", what, " are ", listed(names), ", expected ", listed(expected))};
  }
}

Visit visit_of(const Ordered<const Exit*>& exits, const VisitNames& names, Tensors& tensors) {
  const std::string quoted = repr(std::string_view(names.exit));
  const Exit* const* exit = exits.find(names.exit);
  if (exit == nullptr) throw GoldenError{join("it has no exit ", quoted)};
  std::vector<std::string> outputs;
  for (const auto& [name, slot] : (*exit)->outputs) outputs.push_back(name);
  check_names(join("outputs of ", quoted), names.outputs, outputs);
  Visit visit{names.exit, tensors.take_all(names.outputs), 0};
  const Tensor& confidence = tensors.take(names.confidence);
  if (confidence.dtype != DType::float32 || confidence.shape != std::vector<int64_t>{1}) {
    const Shape shape(confidence.shape.begin(), confidence.shape.end());
    throw GoldenError{join("a confidence is ", spell(confidence.dtype, shape), ", expected float32[1]")};
  }
  std::memcpy(&visit.confidence, confidence.data.data(), sizeof visit.confidence);
  return visit;
}

std::vector<Sample> samples_of(const Manifest& plan, const TensorFile& file, const std::vector<SampleNames>& index) {
  std::vector<std::string> inputs;
  for (const TensorSpec& spec : plan.inputs) inputs.push_back(spec.name);
  const Ordered<const Exit*> exits = plan.exits();
  Tensors tensors(file);
  std::vector<Sample> samples;
  for (const SampleNames& names : index) {
    check_names("inputs", names.inputs, inputs);
    Sample sample{tensors.take_all(names.inputs), {}};
    for (const VisitNames& visit : names.visits) sample.visits.push_back(visit_of(exits, visit, tensors));
    samples.push_back(std::move(sample));
  }
  tensors.require_none_left();
  return samples;
}

}  // namespace

template <>
const Fields<VisitNames>& fields_of<VisitNames>() {
  static const Fields<VisitNames> fields{{
      required<&VisitNames::exit>("exit"),
      required<&VisitNames::outputs>("outputs"),
      required<&VisitNames::confidence>("confidence"),
  }};
  return fields;
}

template <>
const Fields<SampleNames>& fields_of<SampleNames>() {
  static const Fields<SampleNames> fields{{
      required<&SampleNames::inputs>("inputs"),
      required<&SampleNames::visits>("visits"),
  }};
  return fields;
}

std::vector<Sample> read_golden(const Bundle& bundle) {
  const Manifest& plan = bundle.plan;
  if (!plan.golden) return {};
  const std::string path = joined_path(bundle.folder, plan.golden->file);
  const auto damaged = [&](std::string_view why) {
    return integrity_error(path, ": not readable golden samples (", why, "); export the bundle again");
  };
  try {
    const TensorFile file = TensorFile::read(read_regular(path, plan.files.at(plan.golden->file).size));
    const std::string* text = file.metadata.find("samples");
    const Document document(text == nullptr ? "" : *text);
    std::vector<SampleNames> index;
    read(document.root(), index);
    return samples_of(plan, file, index);
  } catch (const FileError& error) {
    throw damaged(std::strerror(error.number));
  } catch (const TensorFileError& error) {
    throw damaged(error.text);
  } catch (const JsonError& error) {
    throw damaged(error.text);
  } catch (const GoldenError& error) {
    throw damaged(error.text);
  } catch (const Error& error) {
    throw damaged(error.what());
  }
}

}  // namespace eetoolkit
