/**
 * A transport over plain HTTP requests, for networks whose proxies break WebSocket. The connecting
 * side runs in Deno and in browsers, the accepting side in any fetch handler.
 *
 * The protocol, for peers written in other languages. All requests go to one address:
 *
 * - `POST` with `edgetuner-open: 1` opens the session whose name the client chose: 32 random bytes as
 *   base64url in `edgetuner-session`, which each request carries. Whoever knows the name owns the session.
 * - `POST` sends frames: `edgetuner-seq` is the number of the first one (0, 1, 2, ...), the body holds
 *   each frame after its length (32 bits, low byte first). Repeating a request does no harm: the
 *   server skips frames that it has.
 * - `GET` receives frames: `edgetuner-ack` is the number of the next frame that the client wants; the
 *   server keeps frames until they are acknowledged so. Without frames it answers 204 after a while, and after
 *   `edgetuner-hold` milliseconds at the latest if the request says so.
 * - The answer to opening says the largest frame (`edgetuner-max-frame`, bytes) and the silence after
 *   which the server ends the session (`edgetuner-idle`, milliseconds).
 * - `edgetuner-grant: N` goes both ways: the other side may send until the sum of `bytes + 64` over its
 *   frames reaches N; the frame that crosses the line is still allowed.
 * - `edgetuner-close: clean REASON` (percent-encoded; `broken` instead of `clean` after a failure) goes
 *   both ways and comes with or after the last frames.
 *
 * A body is at most 1 MiB or one frame. Set `maxFrameBytes` below the limit of the proxy.
 *
 * @module
 */

export type { HttpOptions } from "./_http_common.ts";
export { httpTransport, type HttpTransportOptions } from "./_http_client.ts";
export { type HttpListener, httpListener, type HttpListenerOptions } from "./_http_listener.ts";
