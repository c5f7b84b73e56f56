/**
 * What a device with data gets of the model: embedding, final norm and LM head, checked by their digests, and kept in the
 * browser for the next time.
 *
 * @module
 */

import type { ByteStore } from "@edgetuner/core/device";
import {
  type EmbeddingAndHead,
  fingerprintOfDigests,
  loadEmbeddingAndHead,
  type ModelConfig,
  type NamedArray,
  type Tokenizer,
  tokenizerFromJson,
} from "@edgetuner/core/device_more";
import type { Engine } from "@edgetuner/kernels";
import type { ModelAbout } from "@edgetuner/transport";
import { opfsStore } from "../shared/stores.ts";
import type { RunPlace } from "./messages.ts";
import { CannotTakePart } from "./usable.ts";

/** A model's parts on this device. */
export interface OwnModel extends Disposable {
  readonly ends: EmbeddingAndHead;
  readonly tokenizer: Tokenizer;
  readonly fingerprint: string;
}

/** Says how many bytes have come. */
type Tell = (progress: { readonly done: number; readonly total: number }) => void;

/**
 * Gets them: from what the browser keeps, else from the server.
 *
 * @throws {CannotTakePart} If the server does not have them, or gives other values than it says.
 */
export async function openOwnModel(
  engine: Engine,
  { place, run, tell }: { readonly place: RunPlace; readonly run: string; readonly tell: Tell },
): Promise<OwnModel> {
  const address = `${place.server}/join/model/${encodeURIComponent(run)}`;
  const get = async (address: string) => {
    const response = await fetch(address, { headers: { authorization: `Bearer ${place.token}` } });
    if (response.ok) return response;
    throw new CannotTakePart(
      "The server of this run gives no parts of its model.",
      "Take part with heads alone, or ask the host: models in one GGUF file cannot be given away in parts.",
    );
  };
  const about = await (await get(address)).json() as ModelAbout;
  if (await fingerprintOfDigests(about.config, about.tensors) !== about.fingerprint) throw damaged();
  const store = await opfsStore("edgetuner-models");
  const weights = new Map<string, NamedArray>();
  const wanted = about.tensors.filter(({ name }) => about.ends.includes(name));
  const sizes = wanted.map(({ shape }) => 4 * shape.reduce((a, b) => a * b, 1));
  const total = sizes.reduce((a, b) => a + b, 0);
  let before = 0;
  for (const [i, { name, shape, digest }] of wanted.entries()) {
    const bytes = await kept(store, digest) ?? await (async () => {
      const response = await get(`${address}/tensors/${encodeURIComponent(name)}`);
      const fresh = await readAll(response, sizes[i]!, (done) => tell({ done: before + done, total }));
      if (await digestOf(fresh) !== digest) throw damaged();
      await store.write(digest, fresh);
      return fresh;
    })();
    weights.set(name, { shape, data: new Float32Array(bytes.buffer) });
    before += sizes[i]!;
    tell({ done: before, total });
  }
  const ends = loadEmbeddingAndHead(engine, { config: about.config as ModelConfig, weights });
  const { json, options } = about.tokenizer;
  return {
    ends,
    tokenizer: tokenizerFromJson(json, options),
    fingerprint: about.fingerprint,
    [Symbol.dispose]: () => ends[Symbol.dispose](),
  };
}

function damaged(): CannotTakePart {
  return new CannotTakePart(
    "What the server gave of its model is not what it says.",
    "Try again; if it stays so, tell the host.",
  );
}

/** What is kept under a digest, if it is what was written. */
async function kept(store: ByteStore, digest: string): Promise<Uint8Array<ArrayBuffer> | null> {
  const bytes = await store.read(digest);
  return bytes !== null && await digestOf(bytes) === digest ? bytes : null;
}

async function digestOf(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

/** All of an answer, which must have so many bytes. */
async function readAll(
  response: Response,
  size: number,
  tell: (done: number) => void,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(size);
  let done = 0;
  const reader = response.body!.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (done + part.value.length > size) throw damaged();
    bytes.set(part.value, done);
    done += part.value.length;
    tell(done);
  }
  if (done !== size) throw damaged();
  return bytes;
}
