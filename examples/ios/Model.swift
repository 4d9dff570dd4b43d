// A bundle with one input, for one thread at a time.
import Eetoolkit
import Foundation

struct ModelError: Error, CustomStringConvertible {
  let code: ee_code
  let description: String
}

struct Answer {
  let exit: String
  let label: String?
  let prediction: Int64  // -1: none
  let confidence: Float
}

final class Model {
  private let error = ee_error_new()
  private var bundle: OpaquePointer?
  private var runner: OpaquePointer?
  private var input = ee_tensor()
  let shape: [Int64]  // of one row

  /// Opens a folder, such as one in the app's bundle. `onnxruntime` is `OrtGetApiBase()` where that is linked in.
  init(folder: URL, onnxruntime: UnsafeRawPointer) throws {
    var options = ee_options()
    options.size = MemoryLayout<ee_options>.size
    options.ort_api_base = onnxruntime
    var code = ee_bundle_open(folder.path, &options, &bundle, error)
    if code == 0 { code = ee_runner_new(bundle, &runner, error) }
    guard code == 0 else {
      let text = String(cString: ee_error_text(error))
      ee_bundle_free(bundle)
      ee_error_free(error)
      throw ModelError(code: code, description: text)
    }
    input = ee_bundle_input(bundle, 0)
    shape = [1] + UnsafeBufferPointer(start: input.shape, count: input.rank).dropFirst()
  }

  deinit {
    ee_runner_free(runner)
    ee_bundle_free(bundle)
    ee_error_free(error)
  }

  /// Answers pixels, 0 to 255, in the input's layout, as the bundle's preprocess takes them.
  func run(pixels: [UInt8]) throws -> Answer { try run(pixels, dtype: ee_dtype(EE_UINT8)) }

  /// Answers numbers as the network takes them.
  func run(numbers: [Float]) throws -> Answer { try run(numbers, dtype: ee_dtype(EE_FLOAT32)) }

  private func run<Number>(_ values: [Number], dtype: ee_dtype) throws -> Answer {
    try values.withUnsafeBytes { bytes in
      try shape.withUnsafeBufferPointer { dimensions in
        var tensor = input
        tensor.dtype = dtype
        tensor.data = bytes.baseAddress
        tensor.size_bytes = bytes.count
        tensor.shape = dimensions.baseAddress
        return try withUnsafePointer(to: &tensor) { inputs in
          var call = ee_call()
          call.size = MemoryLayout<ee_call>.size
          call.inputs = inputs
          call.input_count = 1
          var answer: UnsafePointer<ee_answer>?
          let code = ee_run(runner, &call, &answer, error)
          guard code == 0, let found = answer?.pointee else {
            throw ModelError(code: code, description: String(cString: ee_error_text(error)))
          }
          let label = ee_bundle_label(bundle, found.prediction).map { String(cString: $0) }
          return Answer(
            exit: String(cString: found.exit), label: label, prediction: found.prediction, confidence: found.confidence)
        }
      }
    }
  }
}
