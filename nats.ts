/**
 * The transport through a NATS broker. Apart from the main entry point, so that those who have no broker do not load
 * its client.
 *
 * @module
 */

export {
  type NatsAddress,
  natsAddress,
  type NatsCredentials,
  natsListener,
  type NatsListenerOptions,
  type NatsOptions,
  natsTransport,
  type NatsTransportOptions,
} from "@edgetuner/transport/nats";
