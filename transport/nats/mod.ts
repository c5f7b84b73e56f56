/**
 * A transport through a NATS broker: edge server and devices both dial out to it, over its WebSocket, so nobody
 * opens a port. TLS, accounts and clusters are the broker's. Apart from the main entry point, so that those who have
 * no broker do not load its client.
 *
 * The protocol, for peers written in other languages. The subjects of a run begin with `edgetuner.RUN`:
 *
 * - `.join` takes the requests of devices: JSON with `version` (1), `session` (32 random bytes as base64url, which the
 *   device chose), `token`, and `idleTimeoutMs`, the silence after which the device gives up. The answer has
 *   `idleTimeoutMs` too, or `refusal` and `forGood`. An empty session only asks whether somebody is there.
 * - `.SESSION.edge` and `.SESSION.device` take messages for either side. Each has 24 bytes in front, low byte first: the
 *   kind (8 bits, 24 of padding), the number of the message (32), that of the message that is wanted next (32, then 32 of
 *   padding), and the grant (64-bit float): the other side may send until the sum of `bytes + 64` over its frames reaches
 *   it. Kinds: 0 part of a frame, 1 its last part, 2 only acknowledgement and grant, 3 the same and something is
 *   missing, 4 farewell, 5 farewell after a failure (the reason follows both). Kinds 0, 1, 4 and 5 are numbered from 0.
 *   A side keeps those until they are acknowledged, and sends them again after a second, then after twice as long.
 *
 * @module
 */

export { type NatsAddress, natsAddress, type NatsCredentials, type NatsOptions } from "./_options.ts";
export { natsListener, type NatsListenerOptions, natsTransport, type NatsTransportOptions } from "./nats.ts";
