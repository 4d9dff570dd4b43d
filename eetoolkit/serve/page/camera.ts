// The camera: a stream where the page is secure, else a picture that the phone's own camera takes.

import { button, failure, h } from "./dom.js";
import { middle, resized, type PictureInput } from "./pixels.js";

export interface Camera {
  readonly node: HTMLElement;
  readonly picture: () => HTMLCanvasElement | null;
  readonly stop: () => void;
}

export const hasStream = (): boolean =>
  globalThis.isSecureContext && navigator.mediaDevices?.getUserMedia !== undefined;

/** A camera's stream; `began` is called when its first picture is there. */
export function newCamera(input: PictureInput, began: () => void): Camera {
  const video = h("video", { playsinline: true, class: "pad", "aria-label": "What the camera sees", hidden: true });
  video.muted = true;
  const problem = h("div", {});
  let stream: MediaStream | null = null, wanted = false;

  async function start(): Promise<void> {
    problem.replaceChildren();
    wanted = true;
    try {
      const got = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      if (!wanted) {
        for (const track of got.getTracks()) track.stop();
        return;
      }
      stream = video.srcObject = got;
      await video.play();
      show(true);
      began();
    } catch (error) {
      stop();
      problem.replaceChildren(failure(error instanceof DOMException && error.name === "NotAllowedError"
        ? new Error("the camera is not allowed for this page; allow it in the browser, or choose a file") : error));
    }
  }

  function stop(): void {
    wanted = false;
    for (const track of stream?.getTracks() ?? []) track.stop();
    video.srcObject = stream = null;
    show(false);
  }

  function show(on: boolean): void {
    video.hidden = end.hidden = !on;
    begin.hidden = on;
  }

  const begin = button("Start the camera", "camera-start", () => void start(), "main");
  const end = button("Stop the camera", "camera-stop", stop);
  end.hidden = true;
  return {
    node: h("div", {}, video, begin, end, problem),
    stop,
    picture() {
      const { videoWidth: wide, videoHeight: high } = video;
      if (stream === null || wide === 0) return null;
      return resized(video, middle(wide, high, input), input.width, input.height);
    },
  };
}
