/**
 * A session over messages that are lost, come twice, late, or in another order: whatever carries them.
 */

import type { Channel, CloseInfo } from "@edgetuner/core/contracts";
import { assert, assertEquals } from "@std/assert";
import { isPending, pattern, within } from "../tests/conformance/transport_suite.ts";
import { randomNumbers } from "../tests/support/hostile_frames.ts";
import { until } from "../tests/support/until.ts";
import { type LinkTraits, type PacketLink, streamChannel, type StreamWire } from "./_stream_wire.ts";
import type { Frame } from "./_wire_channel.ts";

const LIMITS = {
  maxFrameBytes: 2 ** 20,
  queueBytes: 2 ** 20,
  unackedBytes: 2 ** 18,
  closeTimeoutMs: 2000,
  pingIntervalMs: 50,
  idleTimeoutMs: 5000,
};
const PART_BYTES = 1000;

/** What becomes of a message: when it arrives, in turns from now, once for each; none if it is lost. */
type Fate = () => readonly number[];

/** Carries messages to another end in this process, by fate. */
class FatefulLink implements PacketLink {
  readonly isUp = true;
  readonly hasRoom = true;
  readonly traits: LinkTraits;
  readonly #fate: Fate;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  other: StreamWire | undefined;
  /** Messages that came twice, never, or after one that was sent later. */
  harmed = 0;

  constructor(isOrdered: boolean, fate: Fate) {
    this.#fate = fate;
    this.traits = {
      ...{ isOrdered, isPrivate: true, givesBytes: false, answersAll: false },
      ...{ ackDelayMs: 1, retryTimeoutMs: 1000 },
    };
  }

  partBytes(): number {
    return PART_BYTES;
  }

  publish(bytes: Frame): void {
    const times = this.#fate();
    if (times.length !== 1 || times[0]! > 0) this.harmed++;
    for (const turns of times) {
      const timer = setTimeout(() => {
        this.#timers.delete(timer);
        this.other?.receive(bytes.slice());
      }, turns);
      this.#timers.add(timer);
    }
  }

  release(_info: CloseInfo): Promise<void> {
    return Promise.resolve();
  }

  /** True once nothing is under way. */
  get isEmpty(): boolean {
    return this.#timers.size === 0;
  }
}

/** Two ends of a session. */
function pair(
  isOrdered: boolean,
  fate: Fate,
): { readonly ends: readonly Channel[]; readonly links: FatefulLink[] } {
  const links = [new FatefulLink(isOrdered, fate), new FatefulLink(isOrdered, fate)];
  const [[near, nearWire], [far, farWire]] = links.map((link, i) =>
    streamChannel(link, { peer: `end ${i}`, limits: LIMITS, peerIdleMs: LIMITS.idleTimeoutMs })
  ) as [ReturnType<typeof streamChannel>, ReturnType<typeof streamChannel>];
  links[0]!.other = farWire;
  links[1]!.other = nearWire;
  nearWire.start();
  farWire.start();
  return { ends: [near, far], links };
}

const random = randomNumbers(3);

for (
  const [what, isOrdered, fate] of [
    ["that come twice, in order", true, () => random(2) === 0 ? [0, 0] : [0]],
    ["of which some are late and come twice", false, () => [[3], [0, 3], [3, 0]][random(20)] ?? [0]],
    ["of which some are lost, late and come twice", false, () => [[], [3], [0, 4]][random(20)] ?? [0]],
  ] as const satisfies readonly (readonly [string, boolean, Fate])[]
) {
  Deno.test(`a session over messages ${what} loses and doubles no frame, both ways at once`, async () => {
    const { ends: [near, far], links } = pair(isOrdered, fate);
    const sizes = Array.from({ length: 16 }, (_, i) => i % 7 === 0 ? 5000 + i : 11 * i);
    const carry = async (from: Channel, to: Channel) => {
      const sending = (async () => {
        for (const [i, bytes] of sizes.entries()) await from.send(pattern(bytes, i));
      })();
      for (const [i, bytes] of sizes.entries()) {
        assertEquals(await to.receive(), pattern(bytes, i), `frame ${i}`);
      }
      await sending;
    };
    await within(Promise.all([carry(near!, far!), carry(far!, near!)]), "all frames", 30_000);
    assertEquals(
      await isPending(Promise.race([near!.receive(), far!.receive()]), 50),
      true,
      "one came twice",
    );
    assert(links.every(({ harmed }) => harmed > 0));
    await within(Promise.all([near!.close("done"), far!.close("done")]), "close");
    await until(() => links.every(({ isEmpty }) => isEmpty), "all messages");
    assertEquals((await Promise.all([near!.closed, far!.closed])).map(({ clean }) => clean), [true, true]);
  });
}
