// What onnxruntime-react-native uses of React Native, which is not installed here.
declare module "react-native" {
  export const NativeModules: {
    readonly Onnxruntime: { readonly ORT_EXTENSIONS_PATH: string; readonly install: () => void };
  };
}
