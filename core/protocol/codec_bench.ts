/**
 * Time of the wire codecs for a tensor of 100,000 numbers, 400 kB as f32: 400 divided by the microseconds of an
 * iteration are GB of f32 a second.
 */

import { builtInCodecs } from "./codec.ts";
import type { CodecStream } from "../contracts/codec.ts";

const SHAPE = [200, 500];
const VALUES = Float32Array.from({ length: 100_000 }, (_, i) => Math.sin(i * i));

function stream(direction: CodecStream["direction"]): CodecStream {
  return { direction, kind: "input", layer: 0, microBatch: 0, tensor: 0, state: undefined };
}

for (const codec of builtInCodecs()) {
  const [sent, received] = [stream("sent"), stream("received")];
  const bytes = Uint8Array.from(codec.encode(VALUES, SHAPE, stream("sent")));
  const baseline = codec.name === "f32";
  Deno.bench({ name: `${codec.name} encode`, group: "encode", baseline }, () => {
    codec.encode(VALUES, SHAPE, sent);
  });
  Deno.bench({ name: `${codec.name} decode`, group: "decode", baseline }, () => {
    codec.decode(bytes, SHAPE, received);
  });
}
