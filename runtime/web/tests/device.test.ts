// What a browser's device is called.

import { expect, test } from "vitest";
import { deviceOf } from "../src/device.js";

const AGENTS = new Map([
  ["X11; Linux x86_64", "Linux, x86-64"],
  ["X11; Linux aarch64; rv:140.0", "Linux, arm64"],
  ["Windows NT 10.0; Win64; x64", "Windows, x86-64"],
  ["Macintosh; Intel Mac OS X 10_15_7", "Mac"],
  ["iPhone; CPU iPhone OS 18_5 like Mac OS X", "iPhone"],
  ["Linux; Android 10; K", "Android"],
  ["Linux; Android 13; SM-G991B Build/TP1A", "SM-G991B"],
  ["Android 14; Mobile; rv:140.0", "Android"],
  ["PlayStation 9", "PlayStation 9"],
]);

test.each([...AGENTS])("%s is called %s", async (words, name) => {
  expect(await deviceOf({ userAgent: `Mozilla/5.0 (${words}) AppleWebKit/537.36 (KHTML, like Gecko)` })).toBe(name);
});

test("a browser that tells more is believed", async () => {
  const userAgent = "Mozilla/5.0 (X11; Linux x86_64)";
  const telling = (values: Record<string, string>) =>
    deviceOf({ userAgent, userAgentData: { getHighEntropyValues: () => Promise.resolve(values) } });
  expect(await telling({ model: "Pixel 8", platform: "Android", architecture: "", bitness: "64" })).toBe("Pixel 8");
  expect(await telling({ model: "", platform: "Linux", architecture: "arm", bitness: "64" })).toBe("Linux, arm64");
  expect(await telling({ model: "", platform: "macOS", architecture: "x86", bitness: "64" })).toBe("macOS, x86-64");
  expect(await telling({ model: "", platform: "" })).toBe("Linux, x86-64");
  const refuses = { getHighEntropyValues: () => Promise.reject(new Error("not allowed")) };
  expect(await deviceOf({ userAgent, userAgentData: refuses })).toBe("Linux, x86-64");
  expect(await deviceOf({})).toBe("");
});
