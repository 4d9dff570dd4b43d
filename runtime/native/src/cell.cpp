#include "cell.h"

#include <cstdlib>

#include "half.h"

namespace eetoolkit {
namespace {

template <class T>
struct AsNumber {
  template <class Value>
  T operator()(Value value) const {
    return static_cast<T>(value);
  }
  T operator()(const std::string& digits) const {
    return digits[0] == '-' ? static_cast<T>(std::strtoll(digits.c_str(), nullptr, 10))
                            : static_cast<T>(std::strtoull(digits.c_str(), nullptr, 10));
  }
};

template <class T>
void fill(const Constant& constant, void* data) {
  auto* values = static_cast<T*>(data);
  for (const Scalar& scalar : constant.data) *values++ = std::visit(AsNumber<T>(), scalar);
}

void fill_half(const Constant& constant, void* data) {
  auto* values = static_cast<uint16_t*>(data);
  for (const Scalar& scalar : constant.data) *values++ = half_of(std::visit(AsNumber<double>(), scalar));
}

}  // namespace

void Cell::hold(const Onnxruntime& ort, Owned<OrtValue> tensor) {
  const OrtApi& api = ort.api();
  value = std::move(tensor);
  ort.check(api.GetTensorMutableData(value.get(), &data));
  const auto info = ort.make<OrtTensorTypeAndShapeInfo>(
      api.ReleaseTensorTypeAndShapeInfo,
      [&](OrtTensorTypeAndShapeInfo** made) { return api.GetTensorTypeAndShape(value.get(), made); });
  ONNXTensorElementDataType type{};
  ort.check(api.GetTensorElementType(info.get(), &type));
  if (type != element_type(dtype)) throw OrtFailure{join("an output is not ", name_of(dtype))};
  size_t rank = 0;
  ort.check(api.GetDimensionsCount(info.get(), &rank));
  shape.resize(rank);
  ort.check(api.GetDimensions(info.get(), shape.data(), rank));
  ort.check(api.GetTensorShapeElementCount(info.get(), &count));
}

Cell allocate(const Onnxruntime& ort, const std::string& what, DType dtype, const std::vector<int64_t>& shape) {
  Cell cell = loose(dtype);
  cell.fixed = true;
  OrtValue* value = nullptr;
  try {
    ort.check(ort.api().CreateTensorAsOrtValue(ort.allocator(), shape.data(), shape.size(), element_type(dtype), &value));
  } catch (const OrtFailure&) {
    double gibibytes = static_cast<double>(bytes_of(dtype)) / (1 << 30);
    std::vector<std::string> dims;
    for (const int64_t size : shape) {
      gibibytes *= static_cast<double>(size);
      dims.push_back(std::to_string(size));
    }
    throw run_error(what, ": no memory for ", name_of(dtype), '[', listed(dims), "], ", shortened(gibibytes, "%.1f"),
                    " GiB");
  }
  cell.hold(ort, Owned<OrtValue>(value, ort.api().ReleaseValue));
  return cell;
}

Cell loose(DType dtype) {
  Cell cell;
  cell.fixed = false;
  cell.dtype = dtype;
  return cell;
}

Cell filled(const Onnxruntime& ort, const std::string& what, const Constant& constant) {
  Cell cell = allocate(ort, what, constant.dtype, constant.shape);
  switch (constant.dtype) {
    case DType::float32: fill<float>(constant, cell.data); break;
    case DType::float64: fill<double>(constant, cell.data); break;
    case DType::float16: fill_half(constant, cell.data); break;
    case DType::int64: fill<int64_t>(constant, cell.data); break;
    case DType::int32: fill<int32_t>(constant, cell.data); break;
    case DType::int16: fill<int16_t>(constant, cell.data); break;
    case DType::int8: fill<int8_t>(constant, cell.data); break;
    case DType::uint64: fill<uint64_t>(constant, cell.data); break;
    case DType::uint32: fill<uint32_t>(constant, cell.data); break;
    case DType::uint16: fill<uint16_t>(constant, cell.data); break;
    case DType::uint8: fill<uint8_t>(constant, cell.data); break;
    case DType::boolean: fill<bool>(constant, cell.data); break;
  }
  return cell;
}

}  // namespace eetoolkit
