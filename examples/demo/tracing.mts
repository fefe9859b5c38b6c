// OpenTelemetry with Fedify's exporter. Every activity that is sent or received
// becomes a record in the exporter's key–value store.
import { AsyncLocalStorage } from "node:async_hooks";
import {
  context,
  type Context,
  type ContextManager,
  propagation,
  ROOT_CONTEXT,
} from "@opentelemetry/api";
import { W3CTraceContextPropagator } from "@opentelemetry/core";
import {
  BasicTracerProvider,
  SimpleSpanProcessor,
  type SpanExporter,
} from "@opentelemetry/sdk-trace-base";

/** Keeps the current span across `await`, so that an answer joins its trace. */
class AsyncContext implements ContextManager {
  readonly #storage = new AsyncLocalStorage<Context>();

  active(): Context {
    return this.#storage.getStore() ?? ROOT_CONTEXT;
  }

  with<A extends unknown[], F extends (...args: A) => ReturnType<F>>(
    active: Context,
    fn: F,
    thisArg?: ThisParameterType<F>,
    ...args: A
  ): ReturnType<F> {
    return this.#storage.run(active, () => fn.call(thisArg, ...args));
  }

  bind<T>(active: Context, target: T): T {
    if (typeof target !== "function") return target;
    const bind = () => AsyncLocalStorage.bind(target as never);
    return this.#storage.run(active, bind) as T;
  }

  enable(): this {
    return this;
  }

  disable(): this {
    this.#storage.disable();
    return this;
  }
}

/** A tracer provider that exports each span as it ends. */
export function traceInto(exporter: SpanExporter): BasicTracerProvider {
  // Both are global to the process. Only the first registration has an effect.
  context.setGlobalContextManager(new AsyncContext());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator());
  return new BasicTracerProvider({
    spanProcessors: [new SimpleSpanProcessor(exporter)],
  });
}
