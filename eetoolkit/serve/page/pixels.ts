// Pictures as a network's input: which inputs are pictures, their size and layout, and what their numbers stand for.

import type { Plan } from "eetoolkit-runtime";
import type { Row, Sample, Tensor, TensorSpec } from "./protocol.js";

type Preprocess = Plan["preprocess"] extends ReadonlyMap<string, infer P> ? P : never;

/** An input that is a picture of one or three channels. */
export interface PictureInput {
  readonly spec: TensorSpec;
  readonly preprocess: Preprocess | null;
  readonly layout: "NCHW" | "NHWC";
  readonly channels: 1 | 3;
  readonly height: number;
  readonly width: number;
}

/** What black and white are to the network, before its preprocess; and why that is assumed. */
export interface Ranges {
  readonly black: number;
  readonly white: number;
  readonly why: string;
  /** Whether its pictures are bright on dark, as MNIST's are; how much of their side the bright part takes. */
  readonly brightOnDark: boolean;
  readonly extent: number;
}

export const RANGES = [[0, 1], [0, 16], [0, 255], [-1, 1]] as const;
const USUAL_SIDE = 224, USUAL_EXTENT = 20 / 28; // ImageNet's crop, and MNIST's digits in their frame

export const isPicture = (file: File): boolean => file.type.startsWith("image/");

/** The network's only input, where it is a picture. */
export function pictureInput({ inputs, preprocess, limits }: Plan): PictureInput | null {
  const [spec] = inputs;
  if (spec === undefined || inputs.length > 1 || spec.shape.length !== 4) return null;
  const found = preprocess.get(spec.name) ?? null, { shape } = spec;
  const isChannels = (dim: unknown): dim is 1 | 3 => dim === 1 || dim === 3;
  const layout = found?.layout ?? (isChannels(shape[1]) ? "NCHW" : "NHWC");
  const [channels, high, wide] = layout === "NCHW" ? [shape[1], shape[2], shape[3]] : [shape[3], shape[1], shape[2]];
  const side = (dim: number | string | null | undefined): number => {
    if (typeof dim === "number") return dim;
    const { min = 0, max = null } = limits.get(dim ?? "") ?? {};
    return Math.min(Math.max(USUAL_SIDE, min), max ?? Infinity);
  };
  const [height, width] = found?.resize ?? [side(high), side(wide)];
  if (!isChannels(channels) || !(height > 1 && width > 1) || spec.dtype === "bool") return null;
  return { spec, preprocess: found, layout, channels, height, width };
}

/** The pixel range that golden samples suggest, among those that are usual. */
export function rangesOf(input: PictureInput, samples: readonly Sample[]): Ranges {
  const pictures = samples.flatMap(({ row }) => row.get(input.spec.name) ?? []).map((each) => pixelsOf(input, each));
  const shown = pictures.map((each) => look(each, input));
  const values = pictures.flatMap((each) => [Math.min(...each), Math.max(...each)]);
  const low = Math.min(0, ...values), high = Math.max(0, ...values);
  const bright = shown.length > 0 ? mean(shown.map(({ border }) => border)) < 0.35 : input.channels === 1;
  const extents = shown.flatMap(({ extent }) => extent ?? []);
  const extent = extents.length > 0 ? Math.min(1, mean(extents)) : USUAL_EXTENT;
  const base = { brightOnDark: bright, extent };
  if (values.length === 0) return { ...base, black: 0, white: input.preprocess === null ? 1 : 255, why: "assumed" };
  const [black, white] = low < -0.01 ? RANGES[3] : high <= 1.01 ? RANGES[0] : high <= 16.5 ? RANGES[1] : RANGES[2];
  const far = low < -1.05 || (low < -0.01 && high > 1.05);
  const why = far
    ? `a guess: its golden samples hold ${low.toPrecision(2)} to ${high.toPrecision(2)}; give \`preprocess\` at export`
    : "as its golden samples are";
  return { ...base, black, white, why };
}

const mean = (values: readonly number[]): number => values.reduce((sum, each) => sum + each, 0) / values.length;

/** A tensor's numbers before its preprocess, as the picture's pixels had them. */
function pixelsOf({ preprocess }: PictureInput, { data }: Tensor): number[] {
  const { scale = 1, mean: means = [0], std = [1] } = preprocess ?? {}, by = std[0] ?? 1, from = means[0] ?? 0;
  return Array.from(data as ArrayLike<number | bigint>, (value) => (Number(value) * by + from) / scale);
}

/** How bright a picture's border is, of its brightest, and how much of its side the bright part takes. */
function look(
  values: readonly number[], { layout, channels, height, width }: PictureInput,
): { border: number; extent: number | null } {
  const low = Math.min(...values), span = Math.max(...values) - low || 1;
  const step = layout === "NHWC" ? channels : 1;
  const at = (y: number, x: number): number => ((values[(y * width + x) * step] ?? low) - low) / span;
  const border: number[] = [], ys: number[] = [], xs: number[] = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (y === 0 || x === 0 || y === height - 1 || x === width - 1) border.push(at(y, x));
      if (at(y, x) > 0.2) {
        ys.push(y);
        xs.push(x);
      }
    }
  }
  const across = (all: readonly number[]): number => Math.max(...all) - Math.min(...all) + 1;
  return { border: mean(border), extent: ys.length > 0 ? Math.max(across(ys) / height, across(xs) / width) : null };
}

/** A source's part that is as wide and high as the network's input, shrunk in halves, so that no line is lost. */
export function resized(
  source: CanvasImageSource, [x, y, wide, high]: readonly [number, number, number, number],
  width: number, height: number,
): HTMLCanvasElement {
  const steps = Math.max(0, Math.floor(Math.log2(Math.min(wide / width, high / height))));
  let from = source, part: [number, number, number, number] = [x, y, wide, high];
  for (let step = steps; step >= 0; step -= 1) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width * 2 ** step, height * 2 ** step];
    const brush = canvas.getContext("2d", { willReadFrequently: step === 0 });
    if (brush === null) throw new Error("this browser gives no canvas");
    brush.imageSmoothingQuality = "high";
    brush.drawImage(from, ...part, 0, 0, canvas.width, canvas.height);
    [from, part] = [canvas, [0, 0, canvas.width, canvas.height]];
  }
  return from as HTMLCanvasElement;
}

/** The middle of a picture, in the input's proportions. */
export function middle(wide: number, high: number, { width, height }: PictureInput): [number, number, number, number] {
  const scale = Math.min(wide / width, high / height);
  const [w, h] = [width * scale, height * scale];
  return [(wide - w) / 2, (high - h) / 2, w, h];
}

/** Grey levels or colours of a canvas of the input's size, 0 to 1, one triple a pixel. */
function colours(canvas: HTMLCanvasElement): number[][] {
  const brush = canvas.getContext("2d") as CanvasRenderingContext2D;
  const { data } = brush.getImageData(0, 0, canvas.width, canvas.height);
  return Array.from({ length: data.length / 4 }, (_, index) =>
    [0, 1, 2].map((channel) => (data[4 * index + channel] ?? 0) / 255));
}

/** How bright a canvas' border is, 0 to 1. */
export function brightBorder(canvas: HTMLCanvasElement): number {
  const { width, height } = canvas;
  const edge = (index: number): boolean => {
    const x = index % width, y = Math.floor(index / width);
    return x === 0 || y === 0 || x === width - 1 || y === height - 1;
  };
  return mean(colours(canvas).filter((_, index) => edge(index)).map(grey));
}

const grey = ([red = 0, green = 0, blue = 0]: readonly number[]): number => 0.299 * red + 0.587 * green + 0.114 * blue;

/** A canvas of the input's size as one row. */
export function rowOf(
  canvas: HTMLCanvasElement, input: PictureInput, { black, white }: Pick<Ranges, "black" | "white">, invert: boolean,
): Row {
  const { spec, preprocess, layout, channels } = input, pixels = colours(canvas), plane = pixels.length;
  const level = (index: number, channel: number): number => {
    const pixel = pixels[index] ?? [], bright = channels === 1 ? grey(pixel) : (pixel[channel] ?? 0);
    return black + (white - black) * (invert ? 1 - bright : bright);
  };
  const first = layout === "NCHW", { height, width } = canvas;
  const values = Array.from({ length: plane * channels }, (_, place) =>
    first ? level(place % plane, Math.floor(place / plane)) : level(Math.floor(place / channels), place % channels));
  const shape = first ? [1, channels, height, width] : [1, height, width, channels];
  const isFloat = spec.dtype.startsWith("float");
  if (preprocess !== null && isFloat && white > 1) { // the runner does the rest
    return new Map([[spec.name, { dtype: "uint8", shape, data: Uint8Array.from(values, Math.round) }]]);
  }
  if (isFloat) {
    const { scale = 1, mean: means = [0], std = [1] } = preprocess ?? {};
    const of = (list: readonly number[], place: number): number =>
      list[first ? Math.floor(place / plane) : place % channels] ?? list[0] ?? 0;
    const data = Float32Array.from(values, (value, place) => (value * scale - of(means, place)) / of(std, place));
    return new Map([[spec.name, { dtype: "float32", shape, data }]]);
  }
  if (spec.dtype === "uint8") {
    return new Map([[spec.name, { dtype: "uint8", shape, data: Uint8Array.from(values, Math.round) }]]);
  }
  return new Map([[spec.name, { dtype: "int32", shape, data: Int32Array.from(values, Math.round) }]]);
}

/** A picture's file as a canvas of the input's size. */
export async function canvasOfFile(file: File, input: PictureInput): Promise<HTMLCanvasElement> {
  const picture = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name}: this browser cannot read it as a picture`);
  });
  try {
    return resized(picture, middle(picture.width, picture.height, input), input.width, input.height);
  } finally {
    picture.close();
  }
}

/** Whether a picture's bright and dark are the other way round than the network's pictures have them. */
export const turned = (canvas: HTMLCanvasElement, { channels }: PictureInput, { brightOnDark }: Ranges): boolean =>
  channels === 1 && brightOnDark === brightBorder(canvas) > 0.5;

/** A picture's file as one row. */
export async function rowOfFile(file: File, input: PictureInput, ranges: Ranges): Promise<Row> {
  const canvas = await canvasOfFile(file, input);
  return rowOf(canvas, input, ranges, turned(canvas, input, ranges));
}

/** A row's picture on a canvas of the input's size, its darkest number black and its brightest white. */
export function canvasOfRow(row: Row, { spec, layout, channels }: PictureInput): HTMLCanvasElement | null {
  const { data, shape } = row.get(spec.name) ?? { data: [], shape: [] };
  const [height = 1, width = 1] = layout === "NCHW" ? shape.slice(2) : shape.slice(1);
  const values = Array.from(data as ArrayLike<number | bigint>, Number), plane = height * width;
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const brush = canvas.getContext("2d");
  if (brush === null || values.length !== plane * channels) return null;
  const image = brush.createImageData(width, height);
  for (let index = 0; index < plane; index++) {
    for (const channel of [0, 1, 2]) {
      const from = channels === 1 ? 0 : channel;
      const place = layout === "NCHW" ? from * plane + index : index * channels + from;
      image.data[4 * index + channel] = (255 * ((values[place] ?? low) - low)) / (high - low || 1);
    }
    image.data[4 * index + 3] = 255;
  }
  brush.putImageData(image, 0, 0);
  return canvas;
}
