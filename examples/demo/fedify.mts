// The parts of Fedify that the demo's server uses, as one value. It is a
// parameter of the server, so that the same server can run on several versions
// of Fedify.
import * as fedify from "@fedify/fedify";
import { FedifySpanExporter } from "@fedify/fedify/otel";
import * as vocab from "@fedify/fedify/vocab";

export interface Fedify {
  readonly createFederation: typeof fedify.createFederation;
  readonly exportJwk: typeof fedify.exportJwk;
  readonly FedifySpanExporter: typeof FedifySpanExporter;
  readonly importJwk: typeof fedify.importJwk;
  readonly InProcessMessageQueue: typeof fedify.InProcessMessageQueue;
  readonly signRequest: typeof fedify.signRequest;
  readonly vocab: typeof vocab;
}

export const installedFedify: Fedify = { ...fedify, FedifySpanExporter, vocab };
