/**
 * What this machine has for a run, and what to do about what is missing.
 *
 * @module
 */

import { defaultCache } from "@edgetuner/core";
import { Engine, NoAdapterError } from "@edgetuner/kernels";
import { COMMON_FLAGS } from "../flags/common_flags.ts";
import { readFlags } from "../flags/flags.ts";
import { loadGpu } from "../flags/webgpu.ts";
import { bytes } from "../output/progress.ts";
import { versions } from "../output/report.ts";
import { terminalColumns, wrapped } from "../output/terminal.ts";
import { inCallForm } from "../process/places.ts";
import type { Call } from "../process/invocation.ts";

/** One thing that was looked at. */
interface Finding {
  /** What it is called. */
  readonly name: string;
  /** What was found. */
  readonly found: string;
  /** What to do about it; empty if nothing. */
  readonly advice: string;
  /** True if no run can begin like this. */
  readonly isMissing?: boolean;
}

const FLAGS = {
  webgpu: COMMON_FLAGS.webgpu,
  json: { ...COMMON_FLAGS.json, help: "print JSON in place of the list" },
};

/** Bytes of the largest matrix of a model with this vocabulary and hidden size, in float32. */
const LARGEST = { "GPT-2 medium": 4 * 50_257 * 1024, "Llama 2 7B": 4 * 32_000 * 4096 };

async function main(call: Call): Promise<number> {
  const flags = readFlags(
    {
      name: "doctor",
      about:
        "Says what adapter, driver, limits, versions and links this machine has, and what to do about each.",
      examples: ["edgetuner doctor", "edgetuner doctor --json"],
    },
    FLAGS,
    call,
  );
  const findings = [...software(), ...await adapter(flags.webgpu), memory(), ...links(), await cache()];
  const isReady = findings.every(({ isMissing = false }) => !isMissing);
  if (flags.json) console.log(JSON.stringify({ isReady, findings }, null, 1));
  else {
    const width = terminalColumns();
    const left = 16;
    for (const { name, found, advice } of findings) {
      const lines = wrapped(found, width - left);
      console.log(lines.map((line, i) => (i === 0 ? name : "").padEnd(left) + line).join("\n"));
      if (advice === "") continue;
      for (const line of wrapped(`-> ${inCallForm(advice, call.form)}`, width - left)) {
        console.log(" ".repeat(left) + line);
      }
    }
    const next = inCallForm("edgetuner demo", call.form);
    console.log(
      isReady ? `\nReady. Begin with: ${next}` : "\nNot ready: do what the arrows say, and ask again.",
    );
  }
  return isReady ? 0 : 1;
}

function software(): Finding[] {
  const { edgetuner, deno, os } = versions();
  const [major = 0, minor = 0] = deno!.split(".").map(Number);
  const isOld = major < 2 || (major === 2 && minor < 9);
  return [
    { name: "EdgeTuner", found: edgetuner!, advice: "" },
    {
      name: "Deno",
      found: `${deno} on ${os}`,
      advice: isOld ? "2.9 or newer has WebGPU without flags: deno upgrade" : "",
      isMissing: isOld,
    },
  ];
}

/** The adapter with its driver and limits. */
async function adapter(webgpu: string): Promise<Finding[]> {
  let engine: Engine;
  try {
    engine = await Engine.create({ gpu: await loadGpu(webgpu) });
  } catch (error) {
    if (!(error instanceof NoAdapterError)) throw error;
    const [found, ...advice] = error.message.split("; ");
    return [{ name: "Adapter", found: found!, advice: advice.join("; "), isMissing: true }];
  }
  using _engine = engine;
  const { limits } = engine.device;
  const isSoftware = engine.adapterClass === "software";
  const backend = Deno.build.os === "linux" ? "Vulkan" : Deno.build.os === "darwin" ? "Metal" : "Direct3D 12";
  const tooLarge = Object.entries(LARGEST).filter(([, size]) => size > limits.maxBufferSize);
  return [
    {
      name: "Adapter",
      found: `${engine.adapterName} (${isSoftware ? "computes on the CPU" : "a GPU"})`,
      advice: isSoftware
        ? "enough for small models; if this machine has a GPU, install its driver, and --webgpu dawn tries another implementation"
        : "",
    },
    {
      name: "Driver",
      found: webgpu === "dawn" ? "Dawn" : `${backend}, by Deno's own WebGPU`,
      advice: "",
    },
    {
      name: "Limits",
      found: `a tensor of at most ${bytes(limits.maxBufferSize)}, ${
        bytes(engine.maxBindingBytes)
      } of it for one kernel; groups of ${limits.maxComputeInvocationsPerWorkgroup} threads with ${
        bytes(limits.maxComputeWorkgroupStorageSize)
      }`,
      advice: tooLarge.length === 0
        ? ""
        : `${tooLarge.map(([name]) => name).join(" and ")} needs --base-weights f16, int8 or int4`,
    },
  ];
}

/** What a call of the system tells; `null` where Deno may not ask. */
function allowed<T>(call: () => T): T | null {
  try {
    return call();
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) return null;
    throw error;
  }
}

/** What is said where Deno may not ask the system. */
const NOT_ALLOWED = { found: "not known", advice: "let Deno ask the system: --allow-sys" };

function memory(): Finding {
  const info = allowed(() => Deno.systemMemoryInfo());
  if (info === null) return { name: "Memory", ...NOT_ALLOWED };
  const { total, available } = info;
  const isLittle = available < 2e9;
  return {
    name: "Memory",
    found: `${bytes(available)} of ${bytes(total)} free`,
    advice: isLittle
      ? "for larger models lower --batch and --length, or take --base-weights int8; edgetuner plan says what a step needs"
      : "",
  };
}

/** Addresses at which other machines reach this one. */
function links(): Finding[] {
  const all = allowed(() => Deno.networkInterfaces());
  if (all === null) return [{ name: "Links", ...NOT_ALLOWED }];
  const found = all.filter(({ family, address }) => family === "IPv4" && !address.startsWith("127."));
  if (found.length === 0) {
    return [{
      name: "Links",
      found: "none to other machines",
      advice: "all parties of a run can still be on this machine: edgetuner demo",
    }];
  }
  return found.map(({ name, address }, i) => ({
    name: i === 0 ? "Links" : "",
    found: `${name}: ${address}`,
    advice: i === found.length - 1
      ? `devices join at ws://${found[0]!.address}:8787/join/ws once this runs: edgetuner serve --host ${
        found[0]!.address
      }; others see what travels unless TLS stands before it`
      : "",
  }));
}

async function cache(): Promise<Finding> {
  const folder = defaultCache();
  const isThere = await Deno.stat(folder).then(() => true, () => false);
  return {
    name: "Downloads",
    found: `${folder}${isThere ? "" : " (nothing yet)"}`,
    advice: isThere ? "" : "edgetuner pull --model openai-community/gpt2 brings a model",
  };
}

/**
 * Runs the command.
 *
 * @param call Its flags, as they were typed.
 * @returns Its exit code.
 */
export async function run(call: Call): Promise<number | void> {
  return await main(call);
}
